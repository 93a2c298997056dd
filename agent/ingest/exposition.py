"""
Metrics pages into columns: which series, which value, and what else a page tells.

A target's page hardly changes from scrape to scrape but for its numbers. So a :class:`Parser`
remembers the bytes before the last blank of each line that a full parse once proved to be exactly
``name{labels}``, and a known line costs one dictionary look-up. Everything else, a line with a
timestamp or an exemplar among it, goes the long way through :mod:`.exposition_lines`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from ...config.errors import TachographError
from ...storage.frame import FloatArray, IntArray
from ...storage.model import METRIC_NAME, Kind, Metadata, MetricType
from .exposition_lines import (
    LineError,
    MetaLine,
    SampleLine,
    Syntax,
    parse_comment,
    parse_exemplar,
    parse_labels,
    parse_timestamp,
    shown,
    split_sample,
    type_named,
)

__all__ = ["NO_TIMESTAMP", "Exemplar", "ExpositionError", "NewSeries", "Page", "Parser", "Syntax"]

#: In ``Page.ts_ms``: this sample has none of its own.
NO_TIMESTAMP: Final = -(2**63)
# A page is cut into blocks of whole lines: the line objects of a block weigh up to ten times its
# text, and 1 MiB keeps them in the CPU's cache while costing nothing per line.
BLOCK_BYTES: Final = 1 << 20
# A page of one box has some thousands; a store takes 100,000 series unless told otherwise. What is
# new costs some 500 bytes a sample until it is stored, so this keeps a hostile page near 120 MB.
SAMPLES_MAX: Final = 250_000
# 64 labels of 4 KiB, the most a store takes unless told otherwise. Undoing the escapes of a line
# that is all escapes takes 60 times its length.
LINE_BYTES_MAX: Final = 256 * 1024
# A page has so many lines for each of the most samples: two comments a family, and blank ones.
_LINES_PER_SAMPLE: Final = 4
# As the OpenMetrics specification has it; Prometheus drops longer ones, too.
EXEMPLAR_LABELS_MAX_CHARS: Final = 128

# What may stand in a number. float() takes more than the formats do: underscores, blanks around.
_NUMBER_BYTES: Final = b"0123456789+-.eEinftyaINFTYA"
# What may be infinite or no number: not ``1e999`` and not ``-nan``, which float() takes as well.
_NOT_FINITE: Final = frozenset(
    {b"nan", b"inf", b"+inf", b"-inf", b"infinity", b"+infinity", b"-infinity"}
)


class ExpositionError(TachographError):
    """
    A page that cannot be read to its end.

    Attributes:
        line: Number of the bad line, from 1; one past the last if something is missing there.
        page: What stands before it. A scrape throws it away, but reports its size.
    """

    def __init__(self, line: int, reason: str, page: Page) -> None:
        super().__init__(f"line {line}: {reason}")
        self.line, self.reason, self.page = line, reason, page


@dataclass(frozen=True, slots=True)
class NewSeries:
    """
    A series the parser had not met before.

    Attributes:
        slot: Its number in ``Page.slots`` from now on.
        labels: As exposed, with ``__name__`` if there is a name. Empty values are kept.
        kind: By the ``TYPE`` of its family, wherever on the page that stands.
    """

    slot: int
    labels: dict[str, str]
    kind: Kind


@dataclass(frozen=True, slots=True)
class Exemplar:
    """An example behind a sample: the slot of the sample's series, and its own time if any."""

    slot: int
    labels: dict[str, str]
    value: float
    ts_ms: int | None


@dataclass(frozen=True, slots=True)
class Page:
    """
    The samples of one page in its order, duplicates included.

    Attributes:
        slots: ``[n]`` the series of each sample. The same object as in the page before if nothing
            but values has changed. Two slots may be one series, spelled in two ways.
        values: ``[n]``.
        ts_ms: ``[n]``, :data:`NO_TIMESTAMP` where a sample has no time of its own; ``None`` if
            none has.
        new: Series met for the first time, by rising slot.
        metadata: Families whose type, help or unit is new or changed, under the names of the text
            format: OpenMetrics' counter ``foo`` is ``foo_total`` here, as its samples are.
        exemplars: In page order.
    """

    slots: IntArray
    values: FloatArray
    ts_ms: IntArray | None
    new: list[NewSeries]
    metadata: dict[str, Metadata]
    exemplars: list[Exemplar]

    def __len__(self) -> int:
        return len(self.slots)


class Parser:
    """
    Reads the pages of one target, one after the other; not for two threads at a time.

    It remembers a number (slot) for each series and keeps counting up from 0 until
    :meth:`forget`. The caller decides when: a target whose labels vary would else fill it.

    Args:
        samples_max: A page of more is refused.
    """

    def __init__(self, samples_max: int = SAMPLES_MAX) -> None:
        self._samples_max = samples_max
        self._syntax = Syntax.TEXT
        self._memory = _Memory()

    def forget(self) -> None:
        """Start anew; slots count from 0 again."""
        self._memory = _Memory()

    @property
    def syntax(self) -> Syntax:
        """The format of the page before."""
        return self._syntax

    @property
    def size(self) -> int:
        """How many spellings of series and how many comments are remembered."""
        return len(self._memory.slots) + len(self._memory.comments)

    def parse(self, body: bytes | bytearray, syntax: Syntax) -> Page:
        """
        Read a page. One in another format than the one before makes the parser forget first: a key
        may be right in one format and wrong in the other.

        Raises:
            ExpositionError: A line is bad, or there are too many samples, or OpenMetrics' ``# EOF``
                is not the last line. Nothing that was new on this page is remembered.
        """
        if syntax is not self._syntax:
            self.forget()
            self._syntax = syntax
        length = len(body) if syntax is Syntax.TEXT else _before_eof(body)
        end = len(body) if length is None else length
        run = _Run(self._memory, syntax, self._samples_max)
        if not all(run.read(block) for block in _blocks(body, end)):
            # Something is wrong somewhere. Look at each line by itself, to find it and say where;
            # or to find that all was well and only unusual.
            run.undo()
            run = _Run(self._memory, syntax, self._samples_max)
            run.read_carefully(_blocks(body, end))
        page = run.page()
        if length is None:
            run.undo()
            raise ExpositionError(body.count(b"\n") + 1, "data does not end with # EOF", page)
        self._memory.last_slots = page.slots
        return page


@dataclass(slots=True)
class _Family:
    """
    What the comments say of a family.

    Attributes:
        lines: By keyword, the line that was read. When another takes its place, the old one must
            not pass for known any more.
    """

    type: MetricType | None = None
    help: str = ""
    unit: str = ""
    lines: dict[str, bytes] = field(default_factory=dict)


@dataclass(slots=True)
class _Memory:
    """What a parser keeps between pages; blank lines count as comments."""

    slots: dict[bytes, int] = field(default_factory=dict)
    next_slot: int = 0
    comments: set[bytes] = field(default_factory=set)
    families: dict[str, _Family] = field(default_factory=dict)
    last_slots: IntArray = field(default_factory=lambda: np.empty(0, np.int64))


class _Run:
    """One page on its way into a memory."""

    def __init__(self, memory: _Memory, syntax: Syntax, samples_max: int) -> None:
        self._memory, self._syntax, self._samples_max = memory, syntax, samples_max
        self._slots: list[int] = []
        self._tokens: list[bytes] = []  # of the values not yet converted
        self._values: list[FloatArray] = []
        self._ts_ms: dict[int, int] = {}  # by place on the page
        self._exemplars: list[Exemplar] = []
        self._new_keys: list[bytes] = []
        self._new: list[tuple[int, dict[str, str]]] = []
        self._changed: set[str] = set()
        self._lines = 0
        self._lines_max = samples_max * _LINES_PER_SAMPLE

    def read(self, lines: list[bytes]) -> bool:
        """Read a block; False if a line is wrong, or too unusual to be sure of."""
        get, slots, tokens = self._memory.slots.get, self._slots, self._tokens
        comments = self._memory.comments
        self._lines += len(lines)
        try:
            for line in lines:
                head, _, tail = line.rpartition(b" ")
                slot = get(head)
                if slot is not None:
                    slots.append(slot)
                    tokens.append(tail)
                elif line not in comments:
                    self._read_other(line, head, tail)
            values = np.array(list(map(float, tokens)), np.float64)
        except (LineError, ValueError):
            return False
        if b"".join(tokens).translate(None, _NUMBER_BYTES):
            return False
        for i in np.flatnonzero(~np.isfinite(values)):
            if tokens[i].lower() not in _NOT_FINITE:
                return False
        self._values.append(values)
        tokens.clear()
        return len(slots) <= self._samples_max and self._lines <= self._lines_max

    def read_carefully(self, blocks: Iterable[list[bytes]]) -> None:
        """Read the whole page line by line, taking nothing for known but labels."""
        try:
            for block in blocks:
                for line in block:
                    self._lines += 1
                    if self._lines > self._lines_max:
                        raise LineError(f"more than {self._lines_max} lines")
                    self._read_line(line)
        except LineError as error:
            page = self.page()
            self.undo()
            raise ExpositionError(self._lines, str(error), page) from None

    def undo(self) -> None:
        """Take what was new out of the memory again."""
        memory = self._memory
        for key in self._new_keys:
            del memory.slots[key]
        memory.next_slot -= len(self._new)
        for name in self._changed:
            memory.comments.difference_update(memory.families.pop(name).lines.values())

    def page(self) -> Page:
        """Put together what was read."""
        slots = np.array(self._slots, np.int64)
        if np.array_equal(slots, self._memory.last_slots):
            slots = self._memory.last_slots
        ts_ms = None
        if self._ts_ms:
            ts_ms = np.full(len(slots), NO_TIMESTAMP, np.int64)
            ts_ms[list(self._ts_ms)] = list(self._ts_ms.values())
        late = np.array(list(map(float, self._tokens)), np.float64)
        return Page(
            slots=slots,
            values=np.concatenate([*self._values, late]),
            ts_ms=ts_ms,
            new=[NewSeries(slot, labels, self._kind(labels)) for slot, labels in self._new],
            metadata=dict(self._described(name) for name in sorted(self._changed)),
            exemplars=self._exemplars,
        )

    def _read_other(self, line: bytes, head: bytes, tail: bytes) -> None:
        """Read a line that is no known key and value: perhaps a timestamp follows these."""
        key, _, token = head.rpartition(b" ")
        slot = self._memory.slots.get(key)
        if slot is None:
            self._read_line(line)
            return
        self._ts_ms[len(self._slots)] = parse_timestamp(tail, self._syntax)
        self._slots.append(slot)
        self._tokens.append(token)

    def _read_line(self, line: bytes) -> None:
        if len(line) > LINE_BYTES_MAX:
            raise LineError(f"longer than {LINE_BYTES_MAX} bytes: {shown(line)}")
        text = line
        if self._syntax is Syntax.TEXT:
            text = line.strip(b" \t")
            if not text:
                self._memory.comments.add(line)
                return
        if text.startswith(b"#"):
            self._read_comment(line)
            return
        if len(self._slots) >= self._samples_max:
            raise LineError(f"more than {self._samples_max} samples")
        sample = split_sample(line, self._syntax)
        slot = self._slot_of(line, sample)
        if sample.exemplar is not None:
            labels, value, ts_ms = parse_exemplar(sample.exemplar)
            if sum(len(k) + len(v) for k, v in labels.items()) <= EXEMPLAR_LABELS_MAX_CHARS:
                self._exemplars.append(Exemplar(slot, labels, value, ts_ms))
        if sample.ts_ms is not None:
            self._ts_ms[len(self._slots)] = sample.ts_ms
        self._slots.append(slot)
        self._tokens.append(sample.token)

    def _slot_of(self, line: bytes, sample: SampleLine) -> int:
        slots = self._memory.slots
        slot = slots.get(sample.key)
        if slot is None:
            labels = parse_labels(sample.key, self._syntax)
            slot = slots[sample.key] = self._memory.next_slot
            self._memory.next_slot += 1
            self._new.append((slot, labels))
            self._new_keys.append(sample.key)
        # With blanks around it the key is spelled otherwise, and still nothing but the key.
        head = line.rpartition(b" ")[0]
        if head not in slots and head.strip(b" \t") == sample.key:
            slots[head] = slot
            self._new_keys.append(head)
        return slot

    def _read_comment(self, line: bytes) -> None:
        memory = self._memory
        meta = parse_comment(line, self._syntax)
        if meta is not None:
            if meta.keyword == "EOF":
                raise LineError("unexpected data after # EOF")
            if len(memory.families) >= self._samples_max and meta.family not in memory.families:
                raise LineError(f"more than {self._samples_max} metric families")
            family = memory.families.setdefault(meta.family, _Family())
            if self._update(family, meta):
                self._changed.add(meta.family)
            memory.comments.discard(family.lines.get(meta.keyword, line))
            family.lines[meta.keyword] = line
        memory.comments.add(line)

    def _update(self, family: _Family, meta: MetaLine) -> bool:
        before = (family.type, family.help, family.unit)
        if meta.keyword == "TYPE":
            family.type = type_named(meta.text, self._syntax)
        elif meta.keyword == "HELP":
            family.help = meta.text
        else:
            family.unit = meta.text
        return before != (family.type, family.help, family.unit)

    def _described(self, name: str) -> tuple[str, Metadata]:
        family = self._memory.families[name]
        kind = family.type or MetricType.UNKNOWN
        suffix = _OPENMETRICS_SUFFIX.get(kind, "") if self._syntax is Syntax.OPENMETRICS else ""
        known_as = name if name.endswith(suffix) else name + suffix
        return known_as, Metadata(kind, family.help, family.unit)

    def _kind(self, labels: dict[str, str]) -> Kind:
        name = labels.get(METRIC_NAME, "")
        family = self._memory.families.get(name)
        if family is not None and family.type is not None:
            return _KIND_ITSELF.get(family.type, Kind.UNKNOWN)
        base, underscore, suffix = name.rpartition("_")
        family = self._memory.families.get(base)
        if family is None or family.type is None or not underscore:
            return Kind.UNKNOWN
        return _KIND_BY_SUFFIX.get((family.type, suffix), Kind.UNKNOWN)


_OPENMETRICS_SUFFIX: Final = {MetricType.COUNTER: "_total", MetricType.INFO: "_info"}
# Of a sample that is called as its family is. A summary's quantiles are gauges.
_KIND_ITSELF: Final = {
    MetricType.COUNTER: Kind.COUNTER,
    MetricType.GAUGE: Kind.GAUGE,
    MetricType.SUMMARY: Kind.GAUGE,
    MetricType.INFO: Kind.GAUGE,
    MetricType.STATESET: Kind.GAUGE,
}
_KIND_BY_SUFFIX: Final = {
    (MetricType.HISTOGRAM, "bucket"): Kind.BUCKET,
    (MetricType.HISTOGRAM, "sum"): Kind.COUNTER,
    (MetricType.HISTOGRAM, "count"): Kind.COUNTER,
    (MetricType.HISTOGRAM, "created"): Kind.GAUGE,
    (MetricType.SUMMARY, "sum"): Kind.COUNTER,
    (MetricType.SUMMARY, "count"): Kind.COUNTER,
    (MetricType.SUMMARY, "created"): Kind.GAUGE,
    (MetricType.COUNTER, "total"): Kind.COUNTER,
    (MetricType.COUNTER, "created"): Kind.GAUGE,
    (MetricType.INFO, "info"): Kind.GAUGE,
    # OpenMetrics' gauge histogram, which we take for a gauge.
    (MetricType.GAUGE, "bucket"): Kind.GAUGE,
    (MetricType.GAUGE, "gsum"): Kind.GAUGE,
    (MetricType.GAUGE, "gcount"): Kind.GAUGE,
}


def _before_eof(body: bytes | bytearray) -> int | None:
    """Return where the ``# EOF`` begins that ends a page."""
    for end in (b"# EOF\n", b"# EOF"):
        if body.endswith(b"\n" + end) or body == end:
            return len(body) - len(end)
    return None


def _blocks(body: bytes | bytearray, end: int) -> Iterator[list[bytes]]:
    """Cut what stands before ``end`` into lists of whole lines; a last line feed begins no line."""
    view = memoryview(body)
    at = 0
    while at < end:
        to = body.find(b"\n", at + BLOCK_BYTES, end)
        if to < 0:
            to = end - (body[end - 1] == ord("\n"))
        yield bytes(view[at:to]).split(b"\n")
        at = to + 1
