"""
Prometheus' protobuf messages of remote write 1.0 and remote read, read and written one by one.

Source: prometheus/prometheus, ``prompb/remote.proto`` and ``prompb/types.proto`` (field numbers).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from .errors import TooMany, WireError
from .protobuf import (
    I64,
    LEN,
    VARINT,
    double_field,
    fields,
    length_delimited,
    read_double,
    read_text,
    signed,
    varint_field,
)

#: Metric types of the messages, by number; 1.0 and 2.0 agree.
TYPES: Final = (
    "unknown",
    "counter",
    "gauge",
    "histogram",
    "gaugehistogram",
    "summary",
    "info",
    "stateset",
)

#: Labels of one series or exemplar; no setting allows more.
LABELS_MAX: Final = 1_000

Pairs = list[tuple[str, str]]
Point = tuple[float, int]


@dataclass(frozen=True, slots=True)
class WireExemplar:
    """An exemplar as it was sent; ``ts_ms`` is 0 if there was none."""

    labels: Pairs
    value: float
    ts_ms: int


@dataclass(frozen=True, slots=True)
class WireMetadata:
    """What a sender says of a family; ``type`` is a number of :data:`TYPES`, or beyond."""

    family: str
    type: int
    help: str
    unit: str


def read_sample(data: bytes, start: int, end: int) -> Point:
    """Return value and time of a ``Sample``."""
    value, ts_ms = 0.0, 0
    for number, kind, at, _ in fields(data, start, end):
        if number == 1 and kind == I64:
            value = read_double(data, at)
        elif number == 2 and kind == VARINT:
            ts_ms = signed(at)
    return value, ts_ms


def read_label(data: bytes, start: int, end: int) -> tuple[str, str]:
    """
    Return name and value of a ``Label``.

    Raises:
        UnicodeDecodeError: One of them is not UTF-8.
    """
    name = value = ""
    for number, kind, at, until in fields(data, start, end):
        if kind == LEN and number == 1:
            name = read_text(data, at, until)
        elif kind == LEN and number == 2:
            value = read_text(data, at, until)
    return name, value


def read_labels(data: bytes, start: int, end: int) -> Pairs:
    """
    Return the labels of a message that has them in field 1. Raises as :func:`read_label`, and
    TooMany if there are more than :data:`LABELS_MAX`.
    """
    pairs: Pairs = []
    for number, kind, at, until in fields(data, start, end):
        if number == 1 and kind == LEN:
            if len(pairs) == LABELS_MAX:
                raise TooMany(f"more than {LABELS_MAX} labels")
            pairs.append(read_label(data, at, until))
    return pairs


def read_exemplar(data: bytes, start: int, end: int) -> WireExemplar:
    """Return an ``Exemplar``. Raises as :func:`read_label`."""
    value, ts_ms = 0.0, 0
    for number, kind, at, _ in fields(data, start, end):
        if number == 2 and kind == I64:
            value = read_double(data, at)
        elif number == 3 and kind == VARINT:
            ts_ms = signed(at)
    return WireExemplar(read_labels(data, start, end), value, ts_ms)


def read_metadata(data: bytes, start: int, end: int) -> WireMetadata:
    """Return a ``MetricMetadata``. Raises as :func:`read_label`."""
    type_ = 0
    texts = {2: "", 4: "", 5: ""}
    for number, kind, at, until in fields(data, start, end):
        if number == 1 and kind == VARINT:
            type_ = at
        elif kind == LEN and number in texts:
            texts[number] = read_text(data, at, until)
    return WireMetadata(texts[2], type_, texts[4], texts[5])


# --- Writing ---------------------------------------------------------------------------------


def label_fields(pairs: Iterable[tuple[str, str]]) -> bytes:
    """Write labels as field 1 of the message around them."""
    return b"".join(
        length_delimited(
            1, length_delimited(1, name.encode()) + length_delimited(2, value.encode())
        )
        for name, value in pairs
    )


def sample_field(value: float, ts_ms: int) -> bytes:
    """Write a sample as field 2 of a ``TimeSeries``."""
    return length_delimited(2, double_field(1, value) + varint_field(2, ts_ms))


def time_series(pairs: Iterable[tuple[str, str]], samples: Iterable[Point]) -> bytes:
    """Write the inside of a ``TimeSeries``."""
    return label_fields(pairs) + b"".join(sample_field(value, ts_ms) for value, ts_ms in samples)


def write_request(
    series: Iterable[tuple[Iterable[tuple[str, str]], Iterable[Point]]],
    metadata: Iterable[WireMetadata] = (),
) -> bytes:
    """Write a ``WriteRequest``: labels and samples of each series."""
    parts = [length_delimited(1, time_series(pairs, samples)) for pairs, samples in series]
    parts += [
        length_delimited(
            3,
            varint_field(1, one.type)
            + length_delimited(2, one.family.encode())
            + length_delimited(4, one.help.encode())
            + length_delimited(5, one.unit.encode()),
        )
        for one in metadata
    ]
    return b"".join(parts)


# --- Remote read -----------------------------------------------------------------------------

#: ``LabelMatcher.Type`` by number.
MATCHER_OPS: Final = ("=", "!=", "=~", "!~")
_SAMPLES: Final = 0


@dataclass(frozen=True, slots=True)
class ReadQuery:
    """One question of a ``ReadRequest``: samples with ``min_ms <= t <= max_ms``."""

    min_ms: int
    max_ms: int
    matchers: tuple[tuple[str, str, str], ...]  # name, operator, value


@dataclass(frozen=True, slots=True)
class ReadRequest:
    """``takes_samples``: whether the reader accepts the plain ``SAMPLES`` answer."""

    queries: list[ReadQuery]
    takes_samples: bool


def read_request(data: bytes) -> ReadRequest:
    """
    Read a ``ReadRequest``.

    Raises:
        WireError: It is none.
    """
    queries: list[ReadQuery] = []
    accepted: list[int] = []
    try:
        for number, kind, at, until in fields(data, 0, len(data)):
            if number == 1 and kind == LEN:
                queries.append(_read_query(data, at, until))
            elif number == 2 and kind == VARINT:
                accepted.append(at)
            elif number == 2 and kind == LEN:
                accepted += data[at:until]  # packed; the numbers in use are one byte long
    except UnicodeDecodeError as error:
        raise WireError("a matcher is not valid UTF-8") from error
    return ReadRequest(queries, not accepted or _SAMPLES in accepted)


def _read_query(data: bytes, start: int, end: int) -> ReadQuery:
    min_ms = max_ms = 0
    matchers = []
    for number, kind, at, until in fields(data, start, end):
        if number == 1 and kind == VARINT:
            min_ms = signed(at)
        elif number == 2 and kind == VARINT:
            max_ms = signed(at)
        elif number == 3 and kind == LEN:
            matchers.append(_read_matcher(data, at, until))
    return ReadQuery(min_ms, max_ms, tuple(matchers))


def _read_matcher(data: bytes, start: int, end: int) -> tuple[str, str, str]:
    op = 0
    texts = {2: "", 3: ""}
    for number, kind, at, until in fields(data, start, end):
        if number == 1 and kind == VARINT:
            op = at
        elif kind == LEN and number in texts:
            texts[number] = read_text(data, at, until)
    if op >= len(MATCHER_OPS):
        raise WireError(f"there is no matcher type {op}")
    return texts[2], MATCHER_OPS[op], texts[3]


def read_response(results: Iterable[Sequence[bytes]]) -> bytes:
    """Write a ``ReadResponse``: for each query its ``TimeSeries``, as their insides."""
    return b"".join(
        length_delimited(1, b"".join(length_delimited(1, series) for series in result))
        for result in results
    )


def samples_block(ts_ms: Sequence[int], values: Sequence[float]) -> bytes:
    """Write the samples of a ``TimeSeries``, one field 2 each."""
    return b"".join(map(sample_field, values, ts_ms))
