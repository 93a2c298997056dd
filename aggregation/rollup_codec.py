"""
Turns the rollup row of one series, tier and UTC day into bytes and back.

Nothing that the other columns foretell is stored: ten columns of residuals are written, and those
that are zero or the same all day cost nothing or one number. Decimals become integers, as in
``storage/codec.py``; other floats go by their bits, in the order of the numbers.

The blob: a header of 32 bits, then varints (zigzag, 7 bits a byte, low ones first), then, unless
the row is small, a blob of ``codec.encode_ints`` for each varying column.

====== =========================================================================================
bits   header
====== =========================================================================================
0-17   two bits per column, the first nine: 0 zeros, 1 one number, 2 numbers
18-21  exponent: values are ``int * 2**shift / 10**exponent``; 15: ints are bits of floats
22-27  shift
28     small
29     resets are kept
30-31  the bits of the tenth column
====== =========================================================================================

The varints: number of buckets ``k``, usual interval between samples in ms, time of the first sample
in ms from the start of the day, first value, then the number of each column that has one; then, if
the row is small, the numbers of each varying column, else the lengths of their blobs.

======== =======================================================================================
column   residual
======== =======================================================================================
count    number of samples
gap      ``first_ms`` less the ``last_ms`` before and the usual interval
span     ``last_ms - first_ms`` less ``count - 1`` usual intervals
step     ``first`` less the ``last`` before
change   ``last - first``
below    ``min(first, last) - min``
above    ``max - max(first, last)``
sum      ``sum`` less ``count`` times the mean of first, last, min and max
resets   ``resets``
stale    ``stale_after_ms``
======== =======================================================================================

In ``gap`` and ``step`` the first bucket, which has none before it, repeats the second's.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Final

import numpy as np

from ..storage.codec import HAS_PCODEC, POWERS, CodecError, decimal_scale, decode_ints, encode_ints
from ..storage.frame import FloatArray, IntArray
from ..storage.keys import DAY_MS
from .rollup import Buckets, Tier, empty, merge

#: Where the kind of each column stands in the header. The last one came later: rows without it
#: have zeros there.
_KINDS: Final = (*range(0, 18, 2), 30)
_ZEROS, _ONE, _MANY = 0, 1, 2
_BITS: Final = 15
_SMALL: Final = 1 << 28
_HAS_RESETS: Final = 1 << 29
#: Rows up to so many buckets (the 1h and 1d tiers) are varints alone: a year of them is then read
#: by a few numpy calls, and each pco page has a header of some 14 bytes.
_SMALL_MAX: Final = 32
#: A sum of decimals is a decimal; what separates the two is rounding, far below this.
_SNAP: Final = 2.0**-46

_HEADER: Final = struct.Struct("<I")
_POWERS: Final = np.array(POWERS)
#: What differs between the headers of rows that are decoded together.
_UNIT: Final = 0x3FF << 18
_SHIFTS: Final = np.arange(0, 70, 7, dtype=np.uint64)


def encode_day(
    buckets: Buckets, day: int, *, keep_resets: bool = True, pco: bool = HAS_PCODEC
) -> bytes:
    """
    Encode the buckets of one tier and UTC day, one at least.

    Everything comes back bit for bit but ``sum`` and ``resets`` of decimal values, which come back
    as the decimal that they are but for rounding.

    Args:
        keep_resets: False (for gauges) saves a column that says nothing; ``resets`` comes back NaN.
    """
    k = len(buckets)
    exponent, shift, values = _integers(buckets, keep_resets)
    first, last, low, high, total, resets = values
    columns = np.empty((len(_KINDS), k), np.int64)
    interval = _times(buckets, columns)
    columns[3] = _since_last(first, last)
    np.subtract(last, first, out=columns[4])
    np.subtract(np.minimum(first, last), low, out=columns[5])
    np.subtract(high, np.maximum(first, last), out=columns[6])
    columns[7], columns[8], columns[9] = total, resets, buckets.stale_after_ms
    header = exponent << 18 | shift << 22 | (_HAS_RESETS if keep_resets else 0)
    numbers = [k, interval, int(buckets.first_ms[0]) - day * DAY_MS, int(first[0])]
    many: list[IntArray] = []
    leads: list[int] = columns[:, 0].tolist()
    is_same: list[bool] = (columns == columns[:, :1]).all(axis=1).tolist()
    for place, lead in enumerate(leads):
        if not is_same[place]:
            header |= _MANY << _KINDS[place]
            many.append(columns[place])
        elif lead:
            header |= _ONE << _KINDS[place]
            numbers.append(lead)
    if k <= _SMALL_MAX:
        body = np.concatenate((np.array(numbers, np.int64), *many))
        return _HEADER.pack(header | _SMALL) + _to_varints(body)
    blobs = [encode_ints(column, delta=False, pco=pco) for column in many]
    numbers += map(len, blobs)
    return b"".join((_HEADER.pack(header), _to_varints(np.array(numbers, np.int64)), *blobs))


def decode_day(blob: bytes, tier: Tier, day: int) -> Buckets:
    """
    Decode one row.

    Raises:
        CodecError: The row is damaged.
    """
    return decode_days([(day, blob)], tier)


def decode_days(rows: Sequence[tuple[int, bytes]], tier: Tier) -> Buckets:
    """
    Decode the rows of one series, ``(day, blob)`` with days that rise, into one run of buckets.

    Raises:
        CodecError: A row is damaged.
    """
    found, damaged = decode_rows([(0, day, blob) for day, blob in rows], tier)
    if damaged:
        raise CodecError(f"damaged rollup of day {damaged[0][1]}")
    return found.get(0, empty())


def decode_rows(
    rows: Iterable[tuple[int, int, bytes]], tier: Tier
) -> tuple[dict[int, Buckets], list[tuple[int, int]]]:
    """
    Decode rows of several series, ``(series, day, blob)``, in any order.

    Returns:
        One run of buckets by series, and series and day of each row that is damaged.
    """
    # Rows of one shape have the same numbers in the same places: a few calls decode all of them.
    shapes: dict[tuple[int, int, bool], list[tuple[int, int, bytes]]] = {}
    damaged = []
    for row in sorted(rows, key=itemgetter(0, 1)):
        try:
            shapes.setdefault(_shape(row[2]), []).append(row)
        except CodecError:
            damaged.append(row[:2])
    parts: dict[int, list[Buckets]] = {}
    for (_, k, _), alike in shapes.items():
        try:
            stack = _decode([blob for _, _, blob in alike], tier, [day for _, day, _ in alike])
        except CodecError:
            # One of them is bad; alone, it takes no other with it.
            for ref, day, blob in alike:
                try:
                    parts.setdefault(ref, []).append(_decode([blob], tier, [day]))
                except CodecError:
                    damaged.append((ref, day))
            continue
        at = 0
        for ref, those in groupby(alike, itemgetter(0)):
            end = at + k * sum(1 for _ in those)
            parts.setdefault(ref, []).append(stack[at:end])
            at = end
    found = {ref: merge(each) for ref, each in parts.items() if each}
    return found, damaged


# --- Encoding ---------------------------------------------------------------------------------


def _times(buckets: Buckets, columns: IntArray) -> int:
    """Fill in the columns of counts and times; return the usual interval."""
    count, span = buckets.count, buckets.last_ms - buckets.first_ms
    gap = _since_last(buckets.first_ms, buckets.last_ms)
    steps = count - 1
    if steps.all():
        intervals = span // steps
    else:
        several = steps > 0
        intervals = span[several] // steps[several] if several.any() else gap
    interval = int(np.sort(intervals)[len(intervals) // 2])
    if len(gap) == 1:
        gap[0] = interval
    columns[0] = count
    np.subtract(gap, interval, out=columns[1])
    np.subtract(span, steps * interval, out=columns[2])
    return interval


def _integers(buckets: Buckets, keep_resets: bool) -> tuple[int, int, list[IntArray]]:
    """
    Return exponent, shift and, as integers of that unit, first, last, min, max, what the sum is off
    its estimate, and resets.
    """
    k = len(buckets)
    values = np.concatenate((buckets.first, buckets.last, buckets.min, buckets.max))
    no_drops = not (keep_resets and buckets.resets.any())
    found = decimal_scale(values)
    if found is not None:
        # Samples inside the buckets may have more decimals than those at their ends.
        for exponent in range(found[1], min(found[1] + 4, len(POWERS))):
            ints = found[0]
            if exponent > found[1]:
                ints = ints * 10 ** (exponent - found[1])
                if (ints / POWERS[exponent] != values).any():
                    continue
            power = POWERS[exponent]
            total = _snap(buckets.sum, power, buckets)
            drops = np.zeros(k, np.int64) if no_drops else _snap(buckets.resets, power, buckets)
            if total is None or drops is None:
                continue
            columns = [*ints.reshape(4, k), total, drops]
            common = 0
            for column in (ints, total, drops):
                common |= int(np.bitwise_or.reduce(column))
            shift = (common & -common).bit_length() - 1 if common else 0
            if shift:
                columns = [column >> shift for column in columns]
            columns[4] = columns[4] - _estimate(buckets.count, *columns[:4])
            return exponent, shift, columns
    resets = np.zeros(k) if no_drops else buckets.resets
    columns = [_ordered(column) for column in (*values.reshape(4, k), buckets.sum, resets)]
    columns[4] -= _ordered(_float_estimate(buckets.count, *values.reshape(4, k)))
    return _BITS, 0, columns


def _snap(sums: FloatArray, power: float, buckets: Buckets) -> IntArray | None:
    """Return sums of decimals as integers of ``1 / power``, or None if they are not."""
    scaled = np.rint(sums * power)
    size = buckets.count * np.maximum(np.abs(buckets.min), np.abs(buckets.max))
    with np.errstate(invalid="ignore"):
        is_near = np.abs(scaled / power - sums) <= _SNAP * size
        fits = np.abs(scaled) < 2.0**63
    return scaled.astype(np.int64) if is_near.all() and fits.all() else None


def _since_last(first: IntArray, last: IntArray) -> IntArray:
    steps = np.zeros(len(first), np.int64)
    steps[1:] = first[1:] - last[:-1]
    steps[:1] = steps[1:2].sum()
    return steps


def _estimate(
    count: IntArray, first: IntArray, last: IntArray, low: IntArray, high: IntArray
) -> IntArray:
    # Wraps around when the numbers are huge, here and when it is added again.
    return count * (first + last + low + high) >> 2


def _float_estimate(
    count: IntArray, first: FloatArray, last: FloatArray, low: FloatArray, high: FloatArray
) -> FloatArray:
    with np.errstate(all="ignore"):
        mean = ((first + last) + (low + high)) * 0.25
        estimate: FloatArray = mean * count
    # The bits of a NaN that comes out of a sum differ between processors.
    estimate[np.isnan(estimate)] = 0.0
    return estimate


def _ordered(values: FloatArray) -> IntArray:
    """Return the bits of floats as integers that have the order of the floats."""
    bits = np.ascontiguousarray(values).view(np.int64)
    return bits ^ ((bits >> 63) & 0x7FFF_FFFF_FFFF_FFFF)


def _to_varints(numbers: IntArray) -> bytes:
    zigzag = ((numbers << 1) ^ (numbers >> 63)).view(np.uint64)
    digits = zigzag[:, np.newaxis] >> _SHIFTS
    is_used = digits != 0
    is_used[:, 0] = True
    digits &= np.uint64(0x7F)
    digits[:, :-1] |= np.where(is_used[:, 1:], np.uint64(0x80), np.uint64(0))
    used: bytes = digits[is_used].astype(np.uint8).tobytes()
    return used


# --- Decoding ---------------------------------------------------------------------------------


def _shape(blob: bytes) -> tuple[int, int, bool]:
    """
    Return what rows that can be decoded together have in common: a part of their headers, ``k``,
    and whether their values are bits of floats.
    """
    if len(blob) <= _HEADER.size:
        raise CodecError("damaged rollup: it ends within the header")
    (header,) = _HEADER.unpack_from(blob)
    exponent = header >> 18 & 15
    if len(POWERS) <= exponent < _BITS:
        raise CodecError(f"damaged rollup: header {header:#x}")
    (k,), _ = _front(blob, 1)
    # Two rows with short decimals may have other units; those with bits of floats are none.
    return header & ~_UNIT, k, exponent == _BITS


def _decode(blobs: Sequence[bytes], tier: Tier, days: Sequence[int]) -> Buckets:
    """Decode rows of one shape, one after the other."""
    shape, k, _ = _shape(blobs[0])
    kinds = [shape >> at & 3 for at in _KINDS]
    if max(kinds) > _MANY or not 0 < k <= DAY_MS // tier.width_ms:
        raise CodecError(f"damaged rollup: {k} buckets in a day, kinds of columns {kinds}")
    headers = np.array([_HEADER.unpack_from(blob)[0] for blob in blobs], np.int64)
    read = _read_small if shape & _SMALL else _read_large
    table, many = read(blobs, k, kinds.count(_ONE), kinds.count(_MANY))
    columns, one = [], 4
    for kind in kinds:
        if kind == _MANY:
            columns.append(many.pop(0))
            continue
        number = table[:, one : one + 1] if kind == _ONE else np.zeros((1, 1), np.int64)
        columns.append(np.broadcast_to(number, (len(blobs), k)))
        one += kind
    return _rebuild(headers, table[:, :4], columns, tier, days)


def _read_large(
    blobs: Sequence[bytes], k: int, ones: int, manys: int
) -> tuple[IntArray, list[IntArray]]:
    """Return the numbers at the front of each row, and ``[rows, k]`` of each varying column."""
    needed = 4 + ones + manys
    table = np.empty((len(blobs), needed), np.int64)
    columns = [np.empty((len(blobs), k), np.int64) for _ in range(manys)]
    for row, blob in enumerate(blobs):
        numbers, at = _front(blob, needed)
        lengths = numbers[needed - manys :]
        if min(lengths, default=0) < 0 or at + sum(lengths) != len(blob):
            raise CodecError("damaged rollup: it has not the length it should have")
        table[row] = numbers
        for column, length in zip(columns, lengths, strict=True):
            column[row] = decode_ints(blob[at : at + length], k)
            at += length
    return table, columns


def _read_small(
    blobs: Sequence[bytes], k: int, ones: int, manys: int
) -> tuple[IntArray, list[IntArray]]:
    """As :func:`_read_large`, for rows that are varints alone."""
    needed = 4 + ones + k * manys
    bodies = [blob[_HEADER.size :] for blob in blobs]
    numbers, ends = _from_varints(b"".join(bodies), needed * len(blobs))
    bounds = np.cumsum([len(body) for body in bodies])
    if len(numbers) != needed * len(blobs) or (ends[needed - 1 :: needed] != bounds).any():
        raise CodecError("damaged rollup: it has not the length it should have")
    table = numbers.reshape(len(blobs), needed)
    first = 4 + ones
    return table, [table[:, first + k * at : first + k * (at + 1)] for at in range(manys)]


def _front(blob: bytes, count: int) -> tuple[list[int], int]:
    """Read some numbers behind the header; also return where the last one ends."""
    numbers = []
    at = _HEADER.size
    for _ in range(count):
        number = shift = 0
        while True:
            if at >= len(blob) or shift > 63:
                raise CodecError("damaged rollup: it ends within the numbers")
            digit = blob[at]
            at += 1
            number |= (digit & 0x7F) << shift
            shift += 7
            if digit < 0x80:
                break
        number &= 0xFFFF_FFFF_FFFF_FFFF
        numbers.append(number >> 1 ^ -(number & 1))
    return numbers, at


def _rebuild(
    headers: IntArray,
    numbers: IntArray,
    columns: Sequence[IntArray],
    tier: Tier,
    days: Sequence[int],
) -> Buckets:
    """
    Turn residuals back into buckets.

    Args:
        headers: ``[rows]``, alike but for the unit.
        numbers: ``[rows, 4]``, the first varints of each row.
        columns: ``[rows, k]`` each.
        days: That of each row.
    """
    count, gap, span, step, change, below, above, total, resets, stale = columns
    day = np.array(days, np.int64)[:, np.newaxis]
    interval = numbers[:, 1:2]
    span = span + (count - 1) * interval
    first_ms = _run(day * DAY_MS + numbers[:, 2:3], gap + interval, span)
    last_ms = first_ms + span
    index = (first_ms - 1) // tier.width_ms
    if (
        (count < 1).any()
        or (span < 0).any()
        or (stale < 0).any()
        or ((last_ms - 1) // tier.width_ms != index).any()
        or (index[:, 1:] <= index[:, :-1]).any()
        or (index[:, [0, -1]] // (DAY_MS // tier.width_ms) != day).any()
    ):
        raise CodecError("damaged rollup: its buckets are not those of the day")
    first = _run(numbers[:, 3:4], step, change)
    last = first + change
    low, high = np.minimum(first, last) - below, np.maximum(first, last) + above
    floats = [_floats(headers, ints) for ints in (first, last, low, high)]
    if headers[0] >> 18 & 15 == _BITS:
        total = total + _ordered(_float_estimate(count, *floats))
    else:
        total = total + _estimate(count, first, last, low, high)
    if not headers[0] & _HAS_RESETS:
        drops = np.full(count.shape, np.nan)
    elif resets.any():
        drops = _floats(headers, resets)
    else:
        drops = np.zeros(count.shape)
    return Buckets(
        index=index.ravel(),
        count=count.ravel(),
        sum=_floats(headers, total).ravel(),
        min=floats[2].ravel(),
        max=floats[3].ravel(),
        first=floats[0].ravel(),
        last=floats[1].ravel(),
        first_ms=first_ms.ravel(),
        last_ms=last_ms.ravel(),
        resets=drops.ravel(),
        stale_after_ms=stale.ravel(),
    )


def _run(start: IntArray, step: IntArray, change: IntArray) -> IntArray:
    """Return where each bucket begins: ``step`` after the end of the one before, row by row."""
    begins = step.copy()
    begins[:, 1:] += change[:, :-1]
    begins[:, :1] = start
    return np.cumsum(begins, axis=1, out=begins)


def _floats(headers: IntArray, ints: IntArray) -> FloatArray:
    exponent, shift = headers[:, np.newaxis] >> 18 & 15, headers[:, np.newaxis] >> 22 & 63
    if exponent[0, 0] == _BITS:
        return (ints ^ ((ints >> 63) & 0x7FFF_FFFF_FFFF_FFFF)).view(np.float64)
    values: FloatArray = (ints << shift if shift.any() else ints) / _POWERS[exponent]
    return values


def _from_varints(data: bytes, most: int) -> tuple[IntArray, IntArray]:
    """Read up to ``most`` numbers; also return where each ends."""
    digits = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero(digits < 128)[:most] + 1
    if not len(ends):
        return np.empty(0, np.int64), ends
    starts = np.concatenate(([0], ends[:-1]))
    lengths = ends - starts
    if lengths.max() > len(_SHIFTS):
        raise CodecError("damaged rollup: a number is too long")
    digits = digits[: ends[-1]]
    place = np.arange(len(digits)) - np.repeat(starts, lengths)
    parts = (digits & np.uint8(127)).astype(np.uint64) << _SHIFTS[place]
    zigzag = np.add.reduceat(parts, starts)
    return (zigzag >> np.uint64(1)).view(np.int64) ^ -(zigzag & np.uint64(1)).view(np.int64), ends
