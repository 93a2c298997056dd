"""History on its way in or out: runs of samples of one series each, whatever the format is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol

import numpy as np

from ...storage.frame import FloatArray, IntArray
from ...storage.model import Labels, MetricType

#: Bad lines that are listed; more of them are only counted.
BAD_LISTED: Final = 10
_REASON_CHARS: Final = 200


@dataclass(frozen=True, slots=True)
class Run:
    """
    Some samples of one series.

    Attributes:
        type: What is known of the family, likewise ``help`` and ``unit``.
        ts_ms: ``[n]``, in any order; of two at one time the later one counts.
        values: ``[n]``; may hold NaN, infinities and stale markers.
    """

    labels: Labels
    ts_ms: IntArray
    values: FloatArray
    type: MetricType = MetricType.UNKNOWN
    help: str = ""
    unit: str = ""


class BadLine(NamedTuple):
    """A line that cannot be read; ``line`` counts from 1."""

    line: int
    reason: str


@dataclass(slots=True)
class BadLines:
    """What could not be read: how many lines, and the first of them."""

    count: int = 0
    first: list[BadLine] = field(default_factory=list)

    def add(self, line: int, reason: str) -> None:
        self.count += 1
        if len(self.first) < BAD_LISTED:
            self.first.append(BadLine(line, reason[:_REASON_CHARS]))


class Reader(Protocol):
    """
    Reads one file, in blocks of whole lines.

    Attributes:
        bad: What it has passed over so far.
    """

    bad: BadLines

    def feed(self, lines: Sequence[bytes]) -> None:
        """
        Take the next lines, without their line feeds.

        Raises:
            WireError: The file cannot be of this format at all.
        """
        ...

    def take(self) -> list[Run]:
        """Return what was read since the last call."""
        ...

    @property
    def samples(self) -> int:
        """How many samples :meth:`take` would return."""
        ...


class Table:
    """
    Collects samples line by line, and hands them out as runs.

    A line's series has a number, as the reader's table of known keys tells; so nothing but numbers
    is kept of a line.
    """

    def __init__(self) -> None:
        self._series: list[tuple[Labels, MetricType, str, str]] = []
        self._slots: list[int] = []
        self._tokens: list[bytes] = []
        self._parts: list[tuple[IntArray, IntArray, FloatArray]] = []
        self.samples = 0

    def open(
        self,
        labels: Labels,
        type_: MetricType = MetricType.UNKNOWN,
        help_: str = "",
        unit: str = "",
    ) -> int:
        """Give a series its number."""
        self._series.append((labels, type_, help_, unit))
        return len(self._series) - 1

    def add(self, slots: Sequence[int], ts_ms: IntArray, values: FloatArray) -> None:
        """Take samples, in the order of the file."""
        if len(slots):
            self._parts.append((np.array(slots, np.int64), ts_ms, values))
            self.samples += len(slots)

    def take(self) -> list[Run]:
        """Return everything that was added since the last call, each series once."""
        if not self._parts:
            return []
        slots, ts_ms, values = (np.concatenate(part) for part in zip(*self._parts, strict=True))
        self._parts.clear()
        self.samples = 0
        order = np.argsort(slots, kind="stable")
        slots, ts_ms, values = slots[order], ts_ms[order], values[order]
        cuts = [0, *(np.flatnonzero(np.diff(slots)) + 1).tolist(), len(slots)]
        runs = []
        for slot, low, high in zip(slots[cuts[:-1]].tolist(), cuts, cuts[1:], strict=False):
            labels, type_, help_, unit = self._series[slot]
            runs.append(Run(labels, ts_ms[low:high], values[low:high], type_, help_, unit))
        return runs


class Writer(Protocol):
    """Writes one file."""

    #: How many stale markers it had to leave out, as the format has no word for them.
    left_out: int

    def begin(self) -> bytes: ...

    def write(self, runs: Iterable[Run]) -> bytes:
        """Return the text of some runs; those of one series come one after the other."""
        ...

    def end(self) -> bytes: ...
