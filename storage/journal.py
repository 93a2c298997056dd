"""
The journal: what was appended since the last flush, as one checksummed row.

A row is ``zlib(record*)``, little-endian, records in order of arrival:

====  ==========================================================================================
0x01  tick of a known layout: layout u32, ts i64, n u32, f64[n]
0x02  tick with its members written out: group u32, ts i64, n u32, u32[n] refs, f64[n]
0x03  points with times of their own: n u32, u32[n] refs, i64[n] ts, f64[n]
====  ==========================================================================================

A committed row is what "acknowledged" means. Rows go when every group has sealed past them.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from .errors import StorageError
from .frame import FloatArray, IntArray, RefArray

_TICK: Final = struct.Struct("<BIqI")
_POINTS: Final = struct.Struct("<BI")
#: Level 1: higher levels gain under 5% on values of unlike series and cost several times the CPU.
_ZLIB_LEVEL: Final = 1
#: A row never unpacks to more; a damaged length cannot ask for gigabytes.
_ROW_BYTES_MAX: Final = 1 << 30


class JournalError(StorageError):
    """A journal row is damaged."""


@dataclass(frozen=True, slots=True)
class TickRecord:
    """One tick. ``layout`` is 0 where the members are written out."""

    group: int
    layout: int
    ts_ms: int
    refs: RefArray
    values: FloatArray


@dataclass(frozen=True, slots=True)
class PointsRecord:
    refs: RefArray
    ts_ms: IntArray
    values: FloatArray


Record = TickRecord | PointsRecord


def encode_row(records: Sequence[Record]) -> bytes:
    """Pack records into a row's data."""
    parts: list[bytes] = []
    for record in records:
        if isinstance(record, PointsRecord):
            parts.append(_POINTS.pack(3, len(record.refs)))
            parts.append(record.refs.astype("<u4", copy=False).tobytes())
            parts.append(record.ts_ms.astype("<i8", copy=False).tobytes())
        elif record.layout:
            parts.append(_TICK.pack(1, record.layout, record.ts_ms, len(record.values)))
        else:
            parts.append(_TICK.pack(2, record.group, record.ts_ms, len(record.values)))
            parts.append(record.refs.astype("<u4", copy=False).tobytes())
        parts.append(record.values.astype("<f8", copy=False).tobytes())
    return zlib.compress(b"".join(parts), _ZLIB_LEVEL)


def row_crc(seq: int, data: bytes) -> int:
    """Checksum of a row, seeded with its place so that a misplaced row is told too."""
    return zlib.crc32(data, seq & 0xFFFFFFFF)


def decode_row(data: bytes, layouts: dict[int, tuple[int, RefArray]]) -> Iterator[Record]:
    """
    Unpack a row; ``layouts`` maps a layout's id to its group and members.

    Raises:
        JournalError: The data are damaged, or name a layout that does not exist.
    """
    unpacker = zlib.decompressobj()
    try:
        body = unpacker.decompress(data, _ROW_BYTES_MAX)
    except zlib.error as error:
        raise JournalError(f"journal row cannot be unpacked: {error}") from error
    if not unpacker.eof:
        raise JournalError("journal row is cut short")
    at = 0
    try:
        while at < len(body):
            if body[at] == 3:
                _, n = _POINTS.unpack_from(body, at)
                at += _POINTS.size
                refs = np.frombuffer(body, "<u4", n, at)
                ts = np.frombuffer(body, "<i8", n, at + 4 * n)
                values = np.frombuffer(body, "<f8", n, at + 12 * n)
                at += 20 * n
                yield PointsRecord(refs, ts, values)
                continue
            kind, head, ts_ms, n = _TICK.unpack_from(body, at)
            at += _TICK.size
            if kind == 1:
                group, refs = layouts[head]
                if len(refs) != n:
                    raise JournalError(f"layout {head} has {len(refs)} members, the tick {n}")
            elif kind == 2:
                group, refs = head, np.frombuffer(body, "<u4", n, at)
                at += 4 * n
            else:
                raise JournalError(f"journal record of unknown kind {kind}")
            values = np.frombuffer(body, "<f8", n, at)
            at += 8 * n
            yield TickRecord(group, head if kind == 1 else 0, ts_ms, refs, values)
    except (ValueError, struct.error, KeyError) as error:
        raise JournalError(f"journal row is damaged at byte {at}: {error!r}") from error
