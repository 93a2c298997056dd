"""
Turns the rollup row of one series, tier and UTC day into bytes and back.

Nothing that the other columns foretell is stored: nine columns of residuals are written, and those
that are zero or the same all day cost nothing or one number. Decimals become integers, as in
``storage/codec.py``; other floats go by their bits, in the order of the numbers.

The blob: a header of 32 bits, then varints (zigzag, 7 bits a byte, low ones first), then, unless
the row is small, a blob of ``codec.encode_ints`` for each varying column.

====== =========================================================================================
bits   header
====== =========================================================================================
0-17   two bits per column, in the order of ``_COLUMNS``: 0 zeros, 1 one number, 2 numbers
18-21  exponent: values are ``int * 2**shift / 10**exponent``; 15: ints are bits of floats
22-27  shift
28     small
29     resets are kept
30-31  0
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
======== =======================================================================================

In ``gap`` and ``step`` the first bucket, which has none before it, repeats the second's.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

import numpy as np

from ..storage.codec import HAS_PCODEC, POWERS, CodecError, decimal_scale, decode_ints, encode_ints
from ..storage.frame import FloatArray, IntArray
from ..storage.keys import DAY_MS
from .rollup import Buckets, Tier, empty, merge

_COLUMNS: Final = 9
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
    gap, step = _since_last(buckets.first_ms, buckets.last_ms), _since_last(first, last)
    span = buckets.last_ms - buckets.first_ms
    several = buckets.count > 1
    intervals = span[several] // (buckets.count[several] - 1) if several.any() else gap
    interval = int(np.sort(intervals)[len(intervals) // 2])
    if k == 1:
        gap[0] = interval
    columns = [
        buckets.count,
        gap - interval,
        span - (buckets.count - 1) * interval,
        step,
        last - first,
        np.minimum(first, last) - low,
        high - np.maximum(first, last),
        total,
        resets,
    ]
    header = exponent << 18 | shift << 22 | (_HAS_RESETS if keep_resets else 0)
    start_ms = int(buckets.first_ms[0]) - day * DAY_MS
    numbers = [np.array((k, interval, start_ms, first[0]), np.int64)]
    many: list[IntArray] = []
    for place, column in enumerate(columns):
        if (column == column[0]).all():
            if column[0]:
                header |= _ONE << 2 * place
                numbers.append(column[:1])
        else:
            header |= _MANY << 2 * place
            many.append(column)
    if k <= _SMALL_MAX:
        return _HEADER.pack(header | _SMALL) + _to_varints(np.concatenate(numbers + many))
    blobs = [encode_ints(column, delta=False, pco=pco) for column in many]
    numbers.append(np.array([len(blob) for blob in blobs], np.int64))
    return b"".join((_HEADER.pack(header), _to_varints(np.concatenate(numbers)), *blobs))


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
    alike: dict[bytes, tuple[list[int], list[bytes]]] = {}
    parts = []
    for day, blob in rows:
        if len(blob) <= _HEADER.size:
            raise CodecError("damaged rollup: it ends within the header")
        if blob[3] & _SMALL >> 24:
            # Same header and same k (k <= 32 is one byte): the same numbers in the same places.
            days, blobs = alike.setdefault(blob[: _HEADER.size + 1], ([], []))
            days.append(day)
            blobs.append(blob)
        else:
            parts.append(_decode_large(blob, tier, day))
    parts += [_decode_small(blobs, tier, days) for days, blobs in alike.values()]
    if len(parts) == 1:
        return parts[0]
    return merge(parts) if parts else empty()


# --- Encoding ---------------------------------------------------------------------------------


def _integers(buckets: Buckets, keep_resets: bool) -> tuple[int, int, list[IntArray]]:
    """
    Return exponent, shift and, as integers of that unit, first, last, min, max, what the sum is off
    its estimate, and resets.
    """
    resets = buckets.resets if keep_resets else np.zeros(len(buckets))
    values = np.concatenate((buckets.first, buckets.last, buckets.min, buckets.max))
    found = decimal_scale(values)
    if found is not None:
        # Samples inside the buckets may have more decimals than those at their ends.
        for exponent in range(found[1], min(found[1] + 4, len(POWERS))):
            ints = found[0] * 10 ** (exponent - found[1])
            total = _snap(buckets.sum, POWERS[exponent], buckets)
            drops = _snap(resets, POWERS[exponent], buckets)
            if total is None or drops is None or (ints / POWERS[exponent] != values).any():
                continue
            columns = [*ints.reshape(4, -1), total, drops]
            common = int(np.bitwise_or.reduce(np.concatenate(columns)))
            shift = (common & -common).bit_length() - 1 if common else 0
            columns = [column >> shift for column in columns]
            columns[4] -= _estimate(buckets.count, *columns[:4])
            return exponent, shift, columns
    columns = [_ordered(column) for column in (*values.reshape(4, -1), buckets.sum, resets)]
    columns[4] -= _ordered(_float_estimate(buckets.count, *values.reshape(4, -1)))
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


def _decode_large(blob: bytes, tier: Tier, day: int) -> Buckets:
    (header,) = _HEADER.unpack_from(blob)
    kinds = _kinds(header)
    many = kinds.count(_MANY)
    needed = 4 + kinds.count(_ONE) + many
    numbers, ends = _from_varints(blob[_HEADER.size : _HEADER.size + 10 * needed], needed)
    if len(numbers) < needed:
        raise CodecError("damaged rollup: it ends within the numbers")
    k = int(numbers[0])
    if not 0 < k <= DAY_MS // tier.width_ms:
        raise CodecError(f"damaged rollup: {k} buckets in a day")
    lengths = numbers[needed - many : needed].tolist()
    at = _HEADER.size + int(ends[needed - 1])
    if min(lengths, default=0) < 0 or at + sum(lengths) != len(blob):
        raise CodecError("damaged rollup: it has not the length it should have")
    ones = iter(numbers[4:].tolist())
    columns = []
    for kind in kinds:
        if kind == _MANY:
            length = lengths.pop(0)
            column = decode_ints(blob[at : at + length], k)
            at += length
        else:
            column = np.full(k, next(ones) if kind == _ONE else 0, np.int64)
        columns.append(column.reshape(1, k))
    return _rebuild(header, numbers[np.newaxis, :4], columns, tier, [day])


def _decode_small(blobs: Sequence[bytes], tier: Tier, days: Sequence[int]) -> Buckets:
    """Decode rows with the same header and number of buckets."""
    (header,) = _HEADER.unpack_from(blobs[0])
    kinds = _kinds(header)
    k = blobs[0][_HEADER.size] >> 1
    if not 0 < k <= DAY_MS // tier.width_ms:
        raise CodecError(f"damaged rollup: {k} buckets in a day")
    bodies = [blob[_HEADER.size :] for blob in blobs]
    needed = 4 + kinds.count(_ONE) + k * kinds.count(_MANY)
    numbers, ends = _from_varints(b"".join(bodies), needed * len(blobs))
    bounds = np.cumsum([len(body) for body in bodies])
    if len(numbers) != needed * len(blobs) or (ends[needed - 1 :: needed] != bounds).any():
        raise CodecError("damaged rollup: it has not the length it should have")
    table = numbers.reshape(len(blobs), needed)
    one, many = 4, 4 + kinds.count(_ONE)
    columns = []
    for kind in kinds:
        if kind == _MANY:
            columns.append(table[:, many : many + k])
            many += k
        else:
            number = table[:, one : one + 1] if kind == _ONE else np.zeros((1, 1), np.int64)
            one += kind
            columns.append(np.broadcast_to(number, (len(blobs), k)))
    return _rebuild(header, table[:, :4], columns, tier, days)


def _kinds(header: int) -> list[int]:
    kinds = [header >> 2 * place & 3 for place in range(_COLUMNS)]
    exponent = header >> 18 & 15
    if header >> 30 or max(kinds) > _MANY or len(POWERS) <= exponent < _BITS:
        raise CodecError(f"damaged rollup: header {header:#x}")
    return kinds


def _rebuild(
    header: int, numbers: IntArray, columns: list[IntArray], tier: Tier, days: Sequence[int]
) -> Buckets:
    """
    Turn residuals back into buckets.

    Args:
        numbers: ``[rows, 4]``, the first varints of each row.
        columns: ``[rows, k]`` each.
        days: That of each row.
    """
    count, gap, span, step, change, below, above, total, resets = columns
    day = np.array(days, np.int64)[:, np.newaxis]
    interval = numbers[:, 1:2]
    span = span + (count - 1) * interval
    first_ms = _run(day * DAY_MS + numbers[:, 2:3], gap + interval, span)
    last_ms = first_ms + span
    index = (first_ms - 1) // tier.width_ms
    if (
        (count < 1).any()
        or (span < 0).any()
        or ((last_ms - 1) // tier.width_ms != index).any()
        or (index[:, 1:] <= index[:, :-1]).any()
        or (index[:, [0, -1]] // (DAY_MS // tier.width_ms) != day).any()
    ):
        raise CodecError("damaged rollup: its buckets are not those of the day")
    first = _run(numbers[:, 3:4], step, change)
    last = first + change
    low, high = np.minimum(first, last) - below, np.maximum(first, last) + above
    floats = [_floats(header, ints) for ints in (first, last, low, high)]
    if header >> 18 & 15 == _BITS:
        total = total + _ordered(_float_estimate(count, *floats))
    else:
        total = total + _estimate(count, first, last, low, high)
    has_resets = header & _HAS_RESETS
    return Buckets(
        index=index.ravel(),
        count=count.ravel(),
        sum=_floats(header, total).ravel(),
        min=floats[2].ravel(),
        max=floats[3].ravel(),
        first=floats[0].ravel(),
        last=floats[1].ravel(),
        first_ms=first_ms.ravel(),
        last_ms=last_ms.ravel(),
        resets=_floats(header, resets).ravel() if has_resets else np.full(count.size, np.nan),
    )


def _run(start: IntArray, step: IntArray, change: IntArray) -> IntArray:
    """Return where each bucket begins: ``step`` after the end of the one before, row by row."""
    begins = step.copy()
    begins[:, 1:] += change[:, :-1]
    begins[:, :1] = start
    return np.cumsum(begins, axis=1, out=begins)


def _floats(header: int, ints: IntArray) -> FloatArray:
    exponent, shift = header >> 18 & 15, header >> 22 & 63
    if exponent == _BITS:
        return (ints ^ ((ints >> 63) & 0x7FFF_FFFF_FFFF_FFFF)).view(np.float64)
    values: FloatArray = (ints << shift) / POWERS[exponent]
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
