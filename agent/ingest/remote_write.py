"""
Remote write 1.0 and 2.0: bodies to columns.

What a request repeats from an earlier one is looked up by the very bytes of its labels, and
samples are read by numpy; only what is new or odd is taken apart field by field. So a known series
costs a quarter of a microsecond, a new one some fifteen.

Source: Prometheus documentation, "Remote write specification" 1.0 and 2.0.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from ...storage.exemplars import Exemplar
from ...storage.frame import BoolArray, FloatArray, IntArray
from ...storage.model import METRIC_NAME, Labels, Metadata, MetricType
from ..wire import prompb, prompb2
from ..wire.errors import TooMany, WireError
from ..wire.protobuf import LEN, fields, length_delimited, read_field, read_varint
from .naming import family_of
from .remote_columns import (
    SAMPLE_TAG,
    Body,
    Template,
    messages,
    read_packed,
    read_samples,
    single_samples,
)
from .remote_series import Fresh, SeriesTable, SymbolTable

#: What may be taken apart for one request: a second's work. Senders pack 10,000 samples at most.
STEPS_MAX: Final = 700_000
_MESSAGES_MAX: Final = 300_000
SAMPLES_MAX: Final = 300_000
#: Labels of 2.0 requests, written out as 1.0 has them.
_LABEL_BYTES_MAX: Final = 32 << 20

_SERIES_1: Final = 0x0A
_METADATA_1: Final = 0x1A
_SYMBOL_2: Final = 0x22
_SERIES_2: Final = 0x2A
# Within a series: one label in 1.0, all references to labels in 2.0.
_LABEL: Final = 0x0A
_REFERENCES: Final = 0x0A
_METADATA_2: Final = 0x2A
#: What the label field of the metric name has in it, after its tag and length.
_NAME: Final = length_delimited(1, METRIC_NAME.encode())
#: Smaller bodies are quickly read as they are.
_TEMPLATE_SAMPLES_MIN: Final = 200
#: Of a bad series in an error's text.
_SHOWN_CHARS: Final = 200

_TYPES: Final = {
    "gaugehistogram": MetricType.GAUGE,
    **{each.value: each for each in MetricType},
}


@dataclass(slots=True)
class WriteBatch:
    """
    The samples of one request, as columns.

    A series is told by its slot in ``table``; ``~i`` stands for ``fresh[i]``.

    Attributes:
        series: ``[n]``.
        ts_ms, values: ``[n]``, in the order of the request.
        fresh: Series that the table does not have. One may come twice, spelled in two ways.
        exemplars: With their series.
        metadata: By family.
        histograms: Samples of native histograms, which are not stored.
        bad_exemplars, bad_metadata: How many were not UTF-8.
        template: That of the body, if it repeats an earlier one: the same series, in that order.
    """

    table: SeriesTable
    series: IntArray
    ts_ms: IntArray
    values: FloatArray
    fresh: list[Fresh]
    exemplars: list[tuple[int, Exemplar]] = field(default_factory=list)
    metadata: dict[str, Metadata] = field(default_factory=dict)
    histograms: int = 0
    bad_exemplars: int = 0
    bad_metadata: int = 0
    template: Template | None = None


def decode_1(raw: bytes, table: SeriesTable, steps: int = STEPS_MAX) -> WriteBatch:
    """
    Read the ``WriteRequest`` of remote write 1.0.

    Args:
        steps: How much may be taken apart field by field; a step is about 1 us.

    Raises:
        WireError: It is none; ``TooMany``: it takes more steps.
    """
    return _Request1(raw, table, steps).decode()


def decode_2(raw: bytes, table: SeriesTable, steps: int = STEPS_MAX) -> WriteBatch:
    """Read the ``Request`` of remote write 2.0. Args and Raises as :func:`decode_1`."""
    return _Request2(raw, table, steps).decode()


class _Request(ABC):
    """A request that is being read."""

    def __init__(self, raw: bytes, table: SeriesTable, steps: int) -> None:
        self.raw, self.table = raw, table
        self.body = Body(raw)
        empty = np.empty(0, np.int64)
        self.batch = WriteBatch(table, empty, empty, np.empty(0), [])
        self._fresh: dict[bytes, int] = {}
        self._steps, self._steps_max = steps, steps
        self._samples = min(SAMPLES_MAX, 8 * steps)

    def decode(self) -> WriteBatch:
        batch, body = self.batch, self.body
        template = self.table.template(self.raw)
        columns = None if template is None else template.read(body)
        if template is not None and columns is not None:
            batch.series, (batch.ts_ms, batch.values) = template.series, columns
            batch.template = template
            return batch
        followed = self._follow()
        if followed is not None:
            series, at = followed
            is_plain = True
        else:
            starts, ends = self._messages()
            series, at, found = self._look_up(starts, ends)
            is_plain = bool(found.all())
        if not is_plain:
            series, at = self._with_walked(series, at, found, starts, ends)
        batch.series = series
        batch.ts_ms, batch.values, all_usual = read_samples(body, at, self._steps // 2)
        if is_plain and all_usual and len(at) >= _TEMPLATE_SAMPLES_MIN and not batch.fresh:
            self.table.learn_template(body, at, series)
        return batch

    def _spend(self, steps: int) -> None:
        self._steps -= steps
        if self._steps < 0:
            raise TooMany(
                f"more than {self._steps_max} fields have to be read one by one; "
                "send fewer new series at a time"
            )

    def _follow(self) -> tuple[IntArray, IntArray] | None:
        """Read a body of known series the fast way, if there is one."""
        return None

    @abstractmethod
    def _messages(self) -> tuple[list[int], list[int]]:
        """Find the series, and read what stands beside them."""

    @abstractmethod
    def _look_up(self, starts: list[int], ends: list[int]) -> tuple[IntArray, IntArray, BoolArray]:
        """
        Find series that have one sample and nothing odd: the series, where the sample begins, and
        which of them were found.
        """

    @abstractmethod
    def _walk(self, start: int, end: int) -> tuple[int, list[int]]:
        """Read one series field by field: return it, and where its samples begin."""

    def _with_walked(
        self,
        series: IntArray,
        at: IntArray,
        found: BoolArray,
        starts: list[int],
        ends: list[int],
    ) -> tuple[IntArray, IntArray]:
        """Walk the others; theirs may be any number of samples each."""
        counts = np.ones(len(series), np.int64)
        places: list[int] = []
        for i in np.flatnonzero(~found).tolist():
            try:
                series[i], samples = self._walk(starts[i], ends[i])
            except IndexError:
                raise WireError("a series is cut short") from None
            counts[i] = len(samples)
            places += samples
            self._samples -= len(samples)
            self._spend(2 + (len(samples) >> 3))
        is_walked = np.repeat(~found, counts)
        out = np.empty(len(is_walked), np.int64)
        out[is_walked] = places
        out[~is_walked] = at[found]
        return np.repeat(series, counts), out

    def _series_of(self, key: bytes, type_: MetricType = MetricType.UNKNOWN) -> int:
        """Return the series with these label bytes, making a fresh one if need be."""
        slot = self.table.slots.get(key)
        if slot is not None:
            return slot
        place = self._fresh.get(key)
        if place is None:
            fresh, count = read_series(key, type_)
            self._spend(8 + 2 * count)
            place = self._fresh[key] = len(self.batch.fresh)
            self.batch.fresh.append(fresh)
        return ~place

    def _add_exemplar(self, series: int, sent: prompb.WireExemplar) -> None:
        self._spend(4 + 2 * len(sent.labels))
        exemplar = Exemplar(Labels.of(sent.labels), sent.value, sent.ts_ms)
        self.batch.exemplars.append((series, exemplar))


class _Request1(_Request):
    def _follow(self) -> tuple[IntArray, IntArray] | None:
        return self.table.guide.follow(self.raw)

    def _messages(self) -> tuple[list[int], list[int]]:
        starts, ends, side = messages(
            self.raw, _SERIES_1, _METADATA_1, min(self._steps, _MESSAGES_MAX)
        )
        self._spend(2 * len(side))
        for start, end in zip(side[::2], side[1::2], strict=True):
            try:
                sent = prompb.read_metadata(self.raw, start, end)
            except UnicodeDecodeError:
                self.batch.bad_metadata += 1
                continue
            self.batch.metadata[sent.family] = Metadata(_type(sent.type), sent.help, sent.unit)
        return starts, ends

    def _look_up(self, starts: list[int], ends: list[int]) -> tuple[IntArray, IntArray, BoolArray]:
        raw, get = self.raw, self.table.slots.get
        at = single_samples(self.body, np.array(starts, np.int64), np.array(ends, np.int64))
        slots = [get(raw[i:j], -1) for i, j in zip(starts, at.tolist(), strict=True)]
        series = np.array(slots, np.int64)
        return series, at, series >= 0

    def _walk(self, start: int, end: int) -> tuple[int, list[int]]:
        raw = self.raw
        at = start
        while at < end and raw[at] == _LABEL:
            length = raw[at + 1]
            if length < 0x80:
                at += 2 + length
            else:
                length, at = read_varint(raw, at + 1)
                at += length
        labels = [raw[start:at]]
        # Many labels take few bytes only if somebody means to keep us busy.
        self._spend((at - start) >> 4)
        places: list[int] = []
        for _ in range(self._samples):
            if at >= end or raw[at] != SAMPLE_TAG or (length := raw[at + 1]) >= 0x80:
                break
            places.append(at)
            at += 2 + length
        else:
            raise TooMany(f"more than {SAMPLES_MAX} samples; send them in several requests")
        if at > end:
            raise WireError("a series is cut short")
        exemplars = []
        while at < end:
            self._spend(1)
            number, kind, value, until = read_field(raw, at, end)
            if kind == LEN and number == 1:
                labels.append(raw[at:until])
            elif kind == LEN and number == 2:
                places.append(at)
            elif kind == LEN and number == 3:
                exemplars.append((value, until))
            elif kind == LEN and number == 4:
                self.batch.histograms += 1
            at = until
        if not (places or exemplars):
            return 0, places
        series = self._series_of(b"".join(labels))
        for first, last in exemplars:
            try:
                self._add_exemplar(series, prompb.read_exemplar(raw, first, last))
            except UnicodeDecodeError:
                self.batch.bad_exemplars += 1
        return series, places


class _Request2(_Request):
    def __init__(self, raw: bytes, table: SeriesTable, steps: int) -> None:
        super().__init__(raw, table, steps)
        self._symbols = SymbolTable(())
        self._described: dict[tuple[bytes, bytes], MetricType] = {}
        self._label_bytes = _LABEL_BYTES_MAX

    def _messages(self) -> tuple[list[int], list[int]]:
        raw = self.raw
        starts, ends, side = messages(raw, _SERIES_2, _SYMBOL_2, min(self._steps, _MESSAGES_MAX))
        symbols = tuple(raw[i:j] for i, j in zip(side[::2], side[1::2], strict=True))
        if symbols and symbols[0]:
            raise WireError("the first symbol is not the empty string")
        self._symbols = self.table.symbol_table(symbols)
        return starts, ends

    def _look_up(self, starts: list[int], ends: list[int]) -> tuple[IntArray, IntArray, BoolArray]:
        raw, body = self.raw, self.body
        start, end = np.array(starts, np.int64), np.array(ends, np.int64)
        # References, one sample and perhaps metadata, in this order and each with a short length.
        references = body.byte(start + 1).astype(np.int64)
        at = start + 2 + references
        sample_bytes = body.byte(at + 1).astype(np.int64) + 2
        rest = at + sample_bytes
        metadata_bytes = body.byte(rest + 1).astype(np.int64) + 2
        simple = (body.byte(start) == _REFERENCES) & (references < 0x80) & (at < end)
        simple &= (body.byte(at) == SAMPLE_TAG) & (sample_bytes < 0x80)
        has_metadata = (rest < end) & (body.byte(rest) == _METADATA_2) & (metadata_bytes < 0x80)
        simple &= (rest == end) | (has_metadata & (rest + metadata_bytes == end))
        series = np.zeros(len(start), np.int64)
        rows = np.flatnonzero(simple)
        get = self._symbols.slots.get
        keys = [raw[i:j] for i, j in zip(start[rows].tolist(), at[rows].tolist(), strict=True)]
        slots = np.array([get(key, -1) for key in keys], np.int64)
        new = np.flatnonzero(slots < 0)
        if len(new):
            spans = zip(rest[rows[new]].tolist(), end[rows[new]].tolist(), strict=True)
            slots[new] = self._learn(
                [keys[i] for i in new.tolist()], [raw[i + 2 : j] for i, j in spans]
            )
        series[rows] = slots
        return series, at, simple

    def _learn(self, keys: list[bytes], metadata: list[bytes]) -> list[int]:
        """
        Find series by their references and metadata (empty if there was none); many at a time, as
        a sender's symbols are different for each request unless it repeats itself.
        """
        symbols = self._symbols.symbols
        self._spend(len(keys))
        numbers, counts = read_packed([key[2:] for key in keys])
        if (counts % 2).any():
            raise WireError("a series has a label without a value")
        if len(numbers):
            prompb2.symbol(symbols, int(numbers.max()))
        pairs, place = np.unique(numbers[::2] * len(symbols) + numbers[1::2], return_inverse=True)
        labels = [
            prompb2.label_field(symbols, *divmod(pair, len(symbols))) for pair in pairs.tolist()
        ]
        fields_of = [labels[i] for i in place.tolist()]
        ends = (np.cumsum(counts) // 2).tolist()
        found = []
        start = 0
        for key, end, sent in zip(keys, ends, metadata, strict=True):
            label_bytes = self._joined(fields_of[start:end])
            series = self._series_of(label_bytes, self._describe(fields_of[start:end], sent))
            if series >= 0:
                self._symbols.slots[key] = series
            found.append(series)
            start = end
        return found

    def _joined(self, labels: list[bytes]) -> bytes:
        """Join label fields: a few bytes of references can stand for very many of these."""
        self._label_bytes -= sum(map(len, labels))
        if self._label_bytes < 0:
            raise TooMany(f"more than {_LABEL_BYTES_MAX} bytes of labels, once written out")
        return b"".join(labels)

    def _describe(self, labels: list[bytes], sent: bytes) -> MetricType:
        """Take a series' metadata; return its type."""
        if not sent:
            return MetricType.UNKNOWN
        name = next((field for field in labels if _NAME in field[:14]), b"")
        known = self._described.get((name, sent))
        if known is not None:
            return known
        self._spend(4 + (len(sent) >> 3))
        symbols = self._symbols.symbols
        type_ = MetricType.UNKNOWN
        try:
            metadata = prompb2.read_metadata(sent, 0, len(sent))
            type_ = _type(metadata.type)
            family = family_of(type_, prompb.read_labels(name, 0, len(name))[0][1])
            help_ = prompb2.symbol(symbols, metadata.help).decode()
            unit = prompb2.symbol(symbols, metadata.unit).decode()
        except (WireError, UnicodeDecodeError, IndexError):
            # Nobody looks at those of known series, so they can't be a reason to refuse the others.
            self.batch.bad_metadata += 1
        else:
            self.batch.metadata[family] = Metadata(type_, help_, unit)
        self._described[name, sent] = type_
        return type_

    def _walk(self, start: int, end: int) -> tuple[int, list[int]]:
        raw, symbols = self.raw, self._symbols.symbols
        places: list[int] = []
        references: list[int] = []
        exemplars = []
        metadata = b""
        at = start
        for number, kind, value, until in fields(raw, start, end):
            self._spend(1)
            if number == 1:
                references += prompb2.read_numbers(raw, kind, value, until)
                self._spend((until - at) >> 1)
            elif kind == LEN and number == 2:
                places.append(at)
            elif kind == LEN and number == 3:
                self.batch.histograms += 1
            elif kind == LEN and number == 4:
                exemplars.append((value, until))
            elif kind == LEN and number == 5:
                metadata = raw[value:until]
            at = until
        if not (places or exemplars or metadata):
            return 0, places
        labels = [
            prompb2.label_field(symbols, *pair) for pair in prompb2.label_pairs(symbols, references)
        ]
        type_ = self._describe(labels, metadata)
        if not (places or exemplars):
            return 0, places
        series = self._series_of(self._joined(labels), type_)
        for first, last in exemplars:
            try:
                self._add_exemplar(series, prompb2.read_exemplar(symbols, raw, first, last))
            except UnicodeDecodeError:
                self.batch.bad_exemplars += 1
        return series, places


def read_series(key: bytes, type_: MetricType) -> tuple[Fresh, int]:
    """
    Read label fields, and say what is wrong with them if they can't name a series; also how many
    they are.
    """
    try:
        pairs = prompb.read_labels(key, 0, len(key))
    except UnicodeDecodeError:
        return Fresh(key, Labels(), "a label is not valid UTF-8"), len(key) >> 4
    except TooMany as error:
        return Fresh(key, Labels(), str(error)), prompb.LABELS_MAX
    labels = Labels.of(pairs)
    fault = ""
    if len(dict(pairs)) < len(pairs):
        fault = "a label is given twice"
    elif not labels.name:
        fault = "there is no metric name"
    elif any(not name for name, _ in pairs):
        fault = "a label has no name"
    if fault:
        return Fresh(key, Labels(), f"{str(labels)[:_SHOWN_CHARS]}: {fault}"), len(pairs)
    return Fresh(key, labels, "", type_), len(pairs)


def _type(number: int) -> MetricType:
    name = prompb.TYPES[number] if number < len(prompb.TYPES) else "unknown"
    return _TYPES[name]
