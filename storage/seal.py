"""Turning the head into chunks: pure encoding, and the rows that a transaction then writes."""

from __future__ import annotations

import sqlite3
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from .catalogue import Block, PartNumbers
from .codec import (
    HAS_PCODEC,
    crc,
    decode_floats,
    decode_ints,
    encode_chunk,
    encode_floats,
    encode_ints,
)
from .errors import StorageError
from .frame import FloatArray, IntArray, RefArray, distinct, is_absent
from .head import HeadView, Points
from .keys import DAY_MS, POINTS_GROUP, WINDOWS_PER_DAY, day_of, row_key, window_of

INSERT_CHUNK: Final = "INSERT OR REPLACE INTO chunk (id, block, crc, data) VALUES (?, ?, ?, ?)"
INSERT_BLOCK: Final = (
    "INSERT OR REPLACE INTO block (id, min_ms, max_ms, n, crc, data) VALUES (?, ?, ?, ?, ?, ?)"
)

_POINTS_HEAD: Final = struct.Struct("<II")
#: Series that are turned around and encoded at a time: 64 x 720 samples are 0.4 MB.
_PIECE: Final = 64

ChunkRow = tuple[int, int, int, bytes]


@dataclass(frozen=True, slots=True)
class SealedBlock:
    """A block's row and those of its chunks. Chunks without their block's row are never read."""

    block: Block
    row: tuple[int, int, int, int, int, bytes]
    chunks: list[ChunkRow]

    @property
    def day(self) -> int:
        return day_of(self.block.min_ms)

    @property
    def refs(self) -> list[int]:
        return [key & 0xFFFFFFFF for key, *_ in self.chunks]


def seal_ticks(
    group: int, view: HeadView, parts: PartNumbers, *, pco: bool = True
) -> list[SealedBlock]:
    """Encode a group's ticks, one block a UTC day, so that no chunk crosses midnight."""
    ts = view.ts_ms[: view.ticks]
    cells = view.cells[: view.ticks, : len(view.refs)]
    return [
        seal_matrix(group, view.refs, ts[low:high], cells[low:high].T, parts, pco=pco)
        for low, high in _day_runs(ts)
    ]


def seal_matrix(
    group: int,
    refs: RefArray,
    ts_ms: IntArray,
    matrix: FloatArray,
    parts: PartNumbers,
    window: int | None = None,
    *,
    pco: bool = True,
) -> SealedBlock:
    """Encode series that share their times (``matrix`` is ``[series, ticks]``) as one block."""
    block = open_block(group, ts_ms, parts, window, pco=pco)
    block.chunks.extend(chunk_rows(block.block.key, refs, matrix, pco=pco))
    return block


def open_block(
    group: int, ts_ms: IntArray, parts: PartNumbers, window: int | None = None, *, pco: bool = True
) -> SealedBlock:
    """Return a block of these ticks without chunks yet; its key has the first tick's window."""
    key = _block_key(group, window_of(int(ts_ms[0])) if window is None else window, parts)
    block = Block(key, int(ts_ms[0]), int(ts_ms[-1]), len(ts_ms))
    return SealedBlock(block, block_row(block, encode_ints(ts_ms, pco=pco and HAS_PCODEC)), [])


def chunk_rows(
    block_key: int, refs: RefArray, matrix: FloatArray, *, pco: bool = True
) -> Iterator[ChunkRow]:
    """Encode series (``[series, ticks]``) for a block; those without a sample have no chunk."""
    for low in range(0, len(refs), _PIECE):
        piece = np.ascontiguousarray(matrix[low : low + _PIECE])
        absent = is_absent(piece)
        some: list[bool] = np.any(absent, axis=1).tolist()
        every: list[bool] = np.all(absent, axis=1).tolist()
        for row, ref in enumerate(refs[low : low + _PIECE].tolist()):
            if not every[row]:
                data = encode_chunk(piece[row], some[row], pco=pco and HAS_PCODEC)
                yield chunk_row(block_key, ref, data)


def seal_points(points: Points, parts: PartNumbers, *, pco: bool = True) -> list[SealedBlock]:
    """Encode points (sorted by series and time), one block a UTC day."""
    days = (points.ts_ms - 1) // DAY_MS
    sealed = []
    for day in distinct(days).tolist():
        at = np.flatnonzero(days == day)
        refs, ts, values = points.refs[at], points.ts_ms[at], points.values[at]
        first_ms, last_ms = int(ts.min()), int(ts.max())
        members, starts = np.unique(refs, return_index=True)
        ends = [*starts.tolist()[1:], len(refs)]
        key = points_key(parts.window_of_points(window_of(first_ms), first_ms, last_ms), parts)
        chunks = [
            points_chunk(key, ref, ts[low:high], values[low:high], pco=pco)
            for ref, low, high in zip(members.tolist(), starts.tolist(), ends, strict=True)
        ]
        sealed.append(points_block(key, first_ms, last_ms, members, chunks))
    return sealed


def points_key(window: int, parts: PartNumbers) -> int:
    """Return the key of a new block of points."""
    return _block_key(POINTS_GROUP, window, parts)


def points_chunk(
    block_key: int, ref: int, ts_ms: IntArray, values: FloatArray, *, pco: bool = True
) -> ChunkRow:
    """Encode one series with its own times for a block of points."""
    return chunk_row(block_key, ref, encode_points(ts_ms, values, pco=pco))


def points_block(
    key: int, min_ms: int, max_ms: int, members: RefArray, chunks: list[ChunkRow]
) -> SealedBlock:
    """Return the block of some points' chunks; ``members`` rise."""
    block = Block(key, min_ms, max_ms, len(members))
    return SealedBlock(block, block_row(block, encode_refs(members)), chunks)


def encode_points(ts_ms: IntArray, values: FloatArray, *, pco: bool = True) -> bytes:
    """Encode one series with its own timestamps: count, length of the times, times, values."""
    pco = pco and HAS_PCODEC
    times = encode_ints(ts_ms, pco=pco)
    return _POINTS_HEAD.pack(len(ts_ms), len(times)) + times + encode_floats(values, pco=pco)


def decode_points(data: bytes) -> tuple[IntArray, FloatArray]:
    """
    Return times and values of a chunk of points.

    Raises:
        StorageError: The chunk is damaged.
    """
    if len(data) < _POINTS_HEAD.size:
        raise StorageError("chunk of points is cut short")
    n, length = _POINTS_HEAD.unpack_from(data)
    at = _POINTS_HEAD.size
    return decode_ints(data[at : at + length], n), decode_floats(data[at + length :], n)


def encode_refs(refs: RefArray) -> bytes:
    """Encode rising series numbers."""
    return zlib.compress(refs.astype("<u4").tobytes(), 6)


def decode_refs(data: bytes, n: int) -> RefArray:
    """
    Return ``n`` series numbers.

    Raises:
        StorageError: They are damaged.
    """
    try:
        raw = zlib.decompress(data)
    except zlib.error as error:
        raise StorageError(f"members of a block are damaged: {error}") from error
    if len(raw) != 4 * n:
        raise StorageError(f"a block of {n} series has {len(raw) // 4} members")
    return np.frombuffer(raw, "<u4").astype(np.uint32)


def write_chunks(connection: sqlite3.Connection, chunks: Sequence[ChunkRow]) -> None:
    """Write chunk rows; a row of the same key from a seal that a crash cut off is replaced."""
    connection.executemany(INSERT_CHUNK, chunks)


def bump_generation(connection: sqlite3.Connection) -> int:
    """Count a change of blocks, chunks or rollups; must be part of the same transaction."""
    row = connection.execute(
        "UPDATE meta SET v = v + 1 WHERE k = 'generation' RETURNING v"
    ).fetchone()
    return int(row[0])


def _day_runs(ts_ms: IntArray) -> Iterator[tuple[int, int]]:
    if not len(ts_ms):
        return
    days = (ts_ms - 1) // DAY_MS
    cuts = (np.flatnonzero(days[1:] != days[:-1]) + 1).tolist()
    yield from zip([0, *cuts], [*cuts, len(ts_ms)], strict=True)


def _block_key(group: int, window: int, parts: PartNumbers) -> int:
    # The window only spreads keys; the block's row says which times it holds. So a window without a
    # free part hands over to the next.
    for candidate in range(window, window + WINDOWS_PER_DAY):
        part = parts.next(group, candidate)
        if part is not None:
            return row_key(candidate, part, group)
    raise StorageError(f"the day from window {window} has no room for another part; compact it")


def chunk_row(block_key: int, ref: int, data: bytes) -> ChunkRow:
    """Return the row of one series' chunk in a block."""
    key = block_key & ~0xFFFFFFFF | ref
    return key, block_key, crc(data, key), data


def block_row(block: Block, data: bytes) -> tuple[int, int, int, int, int, bytes]:
    numbers = block.key, block.min_ms, block.max_ms, block.n
    return *numbers, crc(data, *numbers), data
