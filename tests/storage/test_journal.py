"""The journal: rows come back as they were, or say that they are damaged."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.store import bits, from_bits, refs_of, times
from tachograph.storage.frame import RefArray
from tachograph.storage.journal import (
    JournalError,
    PointsRecord,
    Record,
    TickRecord,
    decode_row,
    encode_row,
    row_crc,
)

LAYOUTS: dict[int, tuple[int, RefArray]] = {
    1: (7, refs_of([1, 2, 3])),
    2: (8, refs_of([2**32 - 1])),
    3: (9, refs_of([])),
}

some_bits = st.integers(0, 2**64 - 1)
some_times = st.integers(-(2**63), 2**63 - 1)


@st.composite
def ticks(draw: st.DrawFn) -> TickRecord:
    layout = draw(st.integers(0, 3))
    if layout:
        group, refs = LAYOUTS[layout]
    else:
        group = draw(st.integers(0, 2**32 - 1))
        refs = refs_of(draw(st.lists(st.integers(0, 2**32 - 1), max_size=5)))
    values = draw(st.lists(some_bits, min_size=len(refs), max_size=len(refs)))
    return TickRecord(group, layout, draw(some_times), refs, from_bits(values))


@st.composite
def points(draw: st.DrawFn) -> PointsRecord:
    rows = draw(st.lists(st.tuples(st.integers(0, 2**32 - 1), some_times, some_bits), max_size=5))
    return PointsRecord(
        refs_of(ref for ref, _, _ in rows),
        times(ts for _, ts, _ in rows),
        from_bits([value for _, _, value in rows]),
    )


records = st.lists(ticks() | points(), max_size=6)


def plain(record: Record) -> tuple[object, ...]:
    if isinstance(record, PointsRecord):
        return "points", record.refs.tolist(), record.ts_ms.tolist(), bits(record.values)
    return (
        record.group,
        record.layout,
        record.ts_ms,
        record.refs.tolist(),
        bits(np.ascontiguousarray(record.values)),
    )


@settings(deadline=None)
@given(records)
def test_records_come_back_in_order_and_bit_for_bit(sent: Sequence[Record]) -> None:
    found = list(decode_row(encode_row(sent), LAYOUTS))
    assert [plain(record) for record in found] == [plain(record) for record in sent]


@settings(max_examples=300, deadline=None)
@given(records, st.integers(0, 2**32), st.integers(1, 255), st.booleans())
def test_damage_is_a_journal_error(
    sent: Sequence[Record], place: int, flip: int, inside: bool
) -> None:
    data = bytearray(encode_row(sent))
    if inside:  # past what zlib's own checksum tells
        data = bytearray(zlib.decompress(bytes(data)))
    if data:
        data[place % len(data)] ^= flip
    damaged = zlib.compress(bytes(data)) if inside else bytes(data)
    try:
        list(decode_row(damaged, LAYOUTS))
    except JournalError:
        return
    assert inside or bytes(data) != damaged or not sent or _same_meaning(damaged, sent)


def _same_meaning(data: bytes, sent: Sequence[Record]) -> bool:
    # A flipped bit of zlib's header (its level) changes nothing.
    return [plain(r) for r in decode_row(data, LAYOUTS)] == [plain(r) for r in sent]


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=100))
def test_noise_is_a_journal_error(noise: bytes) -> None:
    for data in (noise, zlib.compress(noise)):
        try:
            for record in decode_row(data, LAYOUTS):
                assert len(record.refs) == len(record.values)
        except JournalError:
            pass


@given(records, st.integers(1, 40))
def test_row_that_is_cut_short_is_a_journal_error(sent: Sequence[Record], cut: int) -> None:
    data = encode_row(sent)
    with pytest.raises(JournalError):
        list(decode_row(data[: max(0, len(data) - cut)], LAYOUTS))


def test_unknown_layout_is_told() -> None:
    row = encode_row([TickRecord(1, 99, 5, refs_of([1]), np.array([1.0]))])
    with pytest.raises(JournalError, match="99"):
        list(decode_row(row, LAYOUTS))


def test_layout_of_another_length_is_told() -> None:
    row = encode_row([TickRecord(1, 1, 5, refs_of([1]), np.array([1.0]))])
    with pytest.raises(JournalError, match="3 members"):
        list(decode_row(row, LAYOUTS))


def test_checksum_tells_a_row_in_the_wrong_place() -> None:
    data = encode_row([PointsRecord(refs_of([1]), times([2]), np.array([3.0]))])
    assert row_crc(1, data) != row_crc(2, data)
    assert row_crc(1, data) != row_crc(1, data[:-1])
