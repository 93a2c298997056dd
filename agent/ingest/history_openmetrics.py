"""
History as OpenMetrics text, every sample with a timestamp (in seconds).

Source: OpenMetrics 1.0, "Text format". Names and labels that are no identifiers stand in quotes, as
Prometheus 3 writes them. The format has no word for a stale marker: they are left out. Of a
histogram we write each series by itself, which promtool's backfilling takes; by the book its parts
would alternate in time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import ClassVar, Final

import numpy as np

from ...storage.frame import IntArray, is_stale
from ...storage.model import METRIC_NAME, Labels, MetricType
from ..wire.metric_text import is_plain_name, metric_text, quoted
from .exposition_lines import (
    LineError,
    Syntax,
    parse_comment,
    parse_labels,
    parse_value,
    split_sample,
    type_named,
)
from .history import BadLines, Run, Table
from .history_csv import times_text, values_text
from .naming import kind_of

# What may stand in a number; float() takes more. Inf and NaN are looked at one by one.
_NUMBER_BYTES: Final = b"0123456789+-.eE"
_SUFFIXES: Final = ("_total", "_bucket", "_sum", "_count", "_info", "_created")
_COUNTER, _INFO = "_total", "_info"
#: Parts of these families end in one of some suffixes, or in none.
_PARTS: Final = {
    MetricType.HISTOGRAM: ("_bucket", "_sum", "_count"),
    MetricType.SUMMARY: ("_sum", "_count", ""),
    MetricType.COUNTER: (_COUNTER,),
    MetricType.INFO: (_INFO,),
}


class OpenMetricsReader:
    """Reads OpenMetrics; see :class:`.history.Reader`. Exemplars are passed over."""

    syntax: ClassVar = Syntax.OPENMETRICS

    def __init__(self) -> None:
        self.bad = BadLines()
        self._table = Table()
        self._slots: dict[bytes, int] = {}
        self._types: dict[str, MetricType] = {}
        self._helps: dict[str, str] = {}
        self._units: dict[str, str] = {}
        self._lines = 0

    @property
    def samples(self) -> int:
        return self._table.samples

    def take(self) -> list[Run]:
        return self._table.take()

    def feed(self, lines: Sequence[bytes]) -> None:
        first, self._lines = self._lines + 1, self._lines + len(lines)
        # Runs of lines that are known keys, a number and a time are read all at once.
        slots: list[int] = []
        tokens: list[bytes] = []
        stamps: list[bytes] = []
        begin = 0
        get = self._slots.get
        for place, line in enumerate(lines):
            head, _, stamp = line.rpartition(b" ")
            key, _, token = head.rpartition(b" ")
            slot = get(key)
            if slot is not None:
                slots.append(slot)
                tokens.append(token)
                stamps.append(stamp)
                continue
            self._add(slots, tokens, stamps, lines[begin:place], first + begin)
            slots, tokens, stamps, begin = [], [], [], place + 1
            self._add_line(line, first + place)
        self._add(slots, tokens, stamps, lines[begin:], first + begin)

    def _add(
        self,
        slots: list[int],
        tokens: list[bytes],
        stamps: list[bytes],
        lines: Sequence[bytes],
        first: int,
    ) -> None:
        if not slots:
            return
        try:
            if b"".join(tokens).translate(None, _NUMBER_BYTES):
                raise ValueError
            values = np.array(list(map(float, tokens)), np.float64)
            if not np.isfinite(values).all():
                raise ValueError
            ts_ms = self._times_ms(stamps)
        except ValueError:
            for number, line in enumerate(lines, start=first):
                self._add_line(line, number)
            return
        self._table.add(slots, ts_ms, values)

    def _times_ms(self, stamps: Sequence[bytes]) -> IntArray:
        """Read plain times; a ValueError for any other."""
        if b"".join(stamps).translate(None, _NUMBER_BYTES):
            raise ValueError
        seconds = np.array(list(map(float, stamps)), np.float64)
        if not (np.abs(seconds) < 1e14).all():
            raise ValueError
        return np.rint(seconds * 1000).astype(np.int64)

    def _labels(self, key: bytes) -> dict[str, str]:
        """Read ``name{labels}``. Raises LineError."""
        return parse_labels(key, self.syntax)

    def _add_line(self, line: bytes, number: int) -> None:
        try:
            if line.startswith(b"#"):
                self._comment(line)
            elif line:
                self._sample(line)
        except LineError as error:
            self.bad.add(number, str(error))

    def _sample(self, line: bytes) -> None:
        sample = split_sample(line, self.syntax)
        if sample.ts_ms is None:
            raise LineError("the sample has no timestamp")
        slot = self._slots.get(sample.key)
        if slot is None:
            labels = Labels.of(self._labels(sample.key))
            slot = self._slots[sample.key] = self._open(labels)
        value = np.array([parse_value(sample.token)], np.float64)
        self._table.add([slot], np.array([sample.ts_ms], np.int64), value)

    def _comment(self, line: bytes) -> None:
        meta = parse_comment(line, self.syntax)
        if meta is None:
            return
        if meta.keyword == "TYPE":
            self._types[meta.family] = type_named(meta.text, self.syntax)
        elif meta.keyword == "HELP":
            self._helps[meta.family] = meta.text
        elif meta.keyword == "UNIT":
            self._units[meta.family] = meta.text

    def _open(self, labels: Labels) -> int:
        name = labels.name
        families = (name, *(name.removesuffix(s) for s in _SUFFIXES if name.endswith(s)))
        family = next((each for each in families if each in self._types), name)
        type_ = self._types.get(family, MetricType.UNKNOWN)
        if name.endswith("_created") and family != name:
            type_ = MetricType.GAUGE  # a time, whatever it is the time of
        return self._table.open(
            labels, type_, self._helps.get(family, ""), self._units.get(family, "")
        )


class OpenMetricsWriter:
    """
    Writes OpenMetrics; see :class:`.history.Writer`. All runs of a metric family come one after the
    other, and within it all of a series, by rising time: :func:`family_key` sorts them so.
    """

    def __init__(self) -> None:
        self.left_out = 0
        self._family: tuple[str, MetricType] | None = None

    def begin(self) -> bytes:
        return b""

    def write(self, runs: Iterable[Run]) -> bytes:
        return "".join(part for run in runs for part in self._parts(run)).encode()

    def end(self) -> bytes:
        return b"# EOF\n"

    def _parts(self, run: Run) -> Iterator[str]:
        family, type_, name = openmetrics_family(run.labels, run.type)
        if (family, type_) != self._family:
            self._family = family, type_
            yield from _heading(family, type_, run)
        keep = ~is_stale(np.ascontiguousarray(run.values))
        ts_ms, values = run.ts_ms[keep], run.values[keep]
        self.left_out += len(run.ts_ms) - len(ts_ms)
        head = metric_text(run.labels, name)
        for time, value in zip(times_text(ts_ms), values_text(values), strict=True):
            yield f"{head} {value} {time}\n"


def openmetrics_family(labels: Labels, type_: MetricType) -> tuple[str, MetricType, str]:
    """
    Return family, type and name of a series as OpenMetrics has them.

    A counter's samples end in ``_total`` and its family does not; what does not fit its type (a
    counter of another name, a bucket without ``le``) is of unknown type.
    """
    name = labels.name
    names = [label for label, _ in labels]
    for suffix in _PARTS.get(type_, ("",)):
        family = name.removesuffix(suffix)
        if name.endswith(suffix) and family and kind_of(type_, name, names) is not None:
            return family, type_, name
    return name, MetricType.UNKNOWN, name


def family_key(labels: Labels, type_: MetricType) -> tuple[str, str, str, Labels]:
    """Order series as OpenMetrics wants them."""
    family, known, name = openmetrics_family(labels, type_)
    return family, known.value, name, labels.without(METRIC_NAME)


def _heading(family: str, type_: MetricType, run: Run) -> Iterator[str]:
    name = family if is_plain_name(family) else quoted(family)
    if type_ is not MetricType.UNKNOWN:
        yield f"# TYPE {name} {type_.value}\n"
    if run.unit and family.endswith(f"_{run.unit}"):
        yield f"# UNIT {name} {run.unit}\n"
    if run.help:
        text = run.help.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
        yield f"# HELP {name} {text}\n"
