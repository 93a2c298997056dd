"""
Messages of remote write 2.0, whose strings stand once in a table of symbols.

Source: prometheus/prometheus, ``prompb/io/prometheus/write/v2/types.proto`` (field numbers).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .errors import WireError
from .prompb import Pairs, Point, WireExemplar
from .protobuf import (
    I64,
    LEN,
    VARINT,
    double_field,
    fields,
    length_delimited,
    read_double,
    read_varint,
    signed,
    varint,
    varint_field,
)


@dataclass(frozen=True, slots=True)
class SymbolMetadata:
    """A series' metadata; ``type`` is a number of :data:`.prompb.TYPES`, texts are symbols."""

    type: int
    help: int
    unit: int


@dataclass(frozen=True, slots=True)
class WrittenSeries:
    """A series to write: see :func:`request`."""

    labels: Pairs
    samples: Sequence[Point] = ()
    exemplars: Sequence[WireExemplar] = ()
    type: int = 0
    help: str = ""
    unit: str = ""


def read_numbers(data: bytes, kind: int, value: int, until: int) -> list[int]:
    """Return the numbers of a repeated field, packed or one by one."""
    if kind == VARINT:
        return [value]
    numbers = []
    if kind == LEN:
        while value < until:
            number, value = read_varint(data, value)
            numbers.append(number)
        if value != until:
            raise WireError("a list of numbers is cut short")
    return numbers


def symbol(symbols: Sequence[bytes], number: int) -> bytes:
    """
    Return a symbol.

    Raises:
        WireError: There is none of that number.
    """
    if number >= len(symbols):
        raise WireError(f"symbol {number} is referred to, and there are {len(symbols)}")
    return symbols[number]


def label_field(symbols: Sequence[bytes], name: int, value: int) -> bytes:
    """Write two symbols as remote write 1.0 writes a label."""
    name_bytes, value_bytes = symbol(symbols, name), symbol(symbols, value)
    return length_delimited(1, length_delimited(1, name_bytes) + length_delimited(2, value_bytes))


def label_pairs(symbols: Sequence[bytes], references: Sequence[int]) -> list[tuple[int, int]]:
    """
    Pair references to names with those to values.

    Raises:
        WireError: There is an odd number of them.
    """
    if len(references) % 2:
        raise WireError("a series has a label without a value")
    return list(zip(references[::2], references[1::2], strict=True))


def read_metadata(data: bytes, start: int, end: int) -> SymbolMetadata:
    """Read a ``Metadata``."""
    numbers = {1: 0, 3: 0, 4: 0}
    for number, kind, value, _ in fields(data, start, end):
        if kind == VARINT and number in numbers:
            numbers[number] = value
    return SymbolMetadata(numbers[1], numbers[3], numbers[4])


def read_exemplar(symbols: Sequence[bytes], data: bytes, start: int, end: int) -> WireExemplar:
    """
    Read an ``Exemplar``.

    Raises:
        WireError: It refers to a symbol that is not there.
        UnicodeDecodeError: A label is not UTF-8.
    """
    value, ts_ms = 0.0, 0
    references: list[int] = []
    for number, kind, at, until in fields(data, start, end):
        if number == 1:
            references += read_numbers(data, kind, at, until)
        elif number == 2 and kind == I64:
            value = read_double(data, at)
        elif number == 3 and kind == VARINT:
            ts_ms = signed(at)
    labels = [
        (symbol(symbols, name).decode(), symbol(symbols, text).decode())
        for name, text in label_pairs(symbols, references)
    ]
    return WireExemplar(labels, value, ts_ms)


# --- Writing ---------------------------------------------------------------------------------


class _Symbols:
    def __init__(self) -> None:
        self.numbers = {"": 0}

    def number(self, text: str) -> int:
        return self.numbers.setdefault(text, len(self.numbers))

    def references(self, pairs: Pairs) -> bytes:
        numbers = [self.number(text) for pair in pairs for text in pair]
        return length_delimited(1, b"".join(map(varint, numbers)))


def request(series: Iterable[WrittenSeries]) -> bytes:
    """Write a ``Request``."""
    symbols = _Symbols()
    bodies = [length_delimited(5, _series(symbols, one)) for one in series]
    return b"".join(length_delimited(4, text.encode()) for text in symbols.numbers) + b"".join(
        bodies
    )


def _series(symbols: _Symbols, one: WrittenSeries) -> bytes:
    parts = [symbols.references(one.labels)]
    for value, ts_ms in one.samples:
        # As senders' libraries do: what is 0 is left out.
        number = double_field(1, value) if value or str(value) == "-0.0" else b""
        parts.append(length_delimited(2, number + varint_field(2, ts_ms)))
    for exemplar in one.exemplars:
        inside = symbols.references(exemplar.labels) + double_field(2, exemplar.value)
        parts.append(length_delimited(4, inside + varint_field(3, exemplar.ts_ms)))
    if one.type or one.help or one.unit:
        inside = varint_field(1, one.type) + varint_field(3, symbols.number(one.help))
        parts.append(length_delimited(5, inside + varint_field(4, symbols.number(one.unit))))
    return b"".join(parts)
