"""Aggregations that look at all values of a group at once: ``topk``, ``quantile`` and others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np

from ...storage.frame import BoolArray, FloatArray, IntArray
from ...storage.model import Labels
from .literals import format_decimal
from .over_time import sorted_quantiles

_MASK64: Final = 2**64 - 1
_PRIMES: Final = (
    0x9E3779B185EBCA87,
    0xC2B2AE3D27D4EB4F,
    0x165667B19E3779F9,
    0x85EBCA77C2B2AE63,
    0x27D4EB2F165667C5,
)


def members_of(groups: IntArray, total: int) -> Iterator[tuple[int, IntArray]]:
    """Yield each group and its rows in order."""
    order = np.argsort(groups, kind="stable")
    bounds = np.searchsorted(groups[order], np.arange(total + 1))
    for group in range(total):
        yield group, order[bounds[group] : bounds[group + 1]]


def best(values: FloatArray, mask: BoolArray, limits: IntArray, *, down: bool) -> BoolArray:
    """
    Choose the largest (``down``) or smallest values of each column; NaN comes after all numbers.

    Of equal values the upper row is chosen.

    Args:
        limits: ``[steps]``, how many to choose.
    """
    key = values if down else -values
    if (limits == limits[0]).all() and np.isfinite(np.where(mask, key, 0.0)).all():
        return _best_finite(key, mask, int(limits[0]))
    chosen = np.zeros(mask.shape, bool)
    order = np.lexsort((-key, np.isnan(key), ~mask), axis=0)
    rank = np.arange(len(values))[:, None] < limits
    np.put_along_axis(chosen, order, rank, axis=0)
    return chosen & mask


def _best_finite(key: FloatArray, mask: BoolArray, limit: int) -> BoolArray:
    """Choose the largest of finite keys without sorting them all."""
    rows = len(key)
    if limit >= rows:
        return mask
    if limit < 1:
        return np.zeros(mask.shape, bool)
    key = np.where(mask, key, -np.inf)
    # Partitioning is several times faster along rows of memory.
    columns = key.T.copy()
    columns.partition(rows - limit, axis=1)
    least = columns[:, rows - limit]
    above = key > least
    ties = (key == least) & mask
    wanted = limit - np.count_nonzero(above, axis=0)
    if (np.count_nonzero(ties, axis=0) > wanted).any():
        ties &= np.cumsum(ties, axis=0) <= wanted
    chosen: BoolArray = above | ties
    return chosen


def first_rows(mask: BoolArray, limits: IntArray) -> BoolArray:
    """Choose the uppermost rows with a value in each column."""
    return mask & (np.cumsum(mask, axis=0) <= limits)


def quantiles(values: FloatArray, mask: BoolArray, phi: FloatArray) -> FloatArray:
    """Return the quantile of each column, ``[steps]``."""
    ordered = np.sort(np.where(mask, values, np.nan), axis=0).T
    numbers = np.count_nonzero(~np.isnan(ordered), axis=-1)
    return sorted_quantiles(ordered, numbers, np.count_nonzero(mask, axis=0), phi)


def value_counts(values: FloatArray, mask: BoolArray) -> Iterator[tuple[str, IntArray]]:
    """
    Yield each distinct value as text, rising, and how often it occurs in each column. 0 and -0 are
    two texts; NaN may come more than once.
    """
    steps = values.shape[1]
    row, step = np.nonzero(mask)
    bits, which = np.unique(values[row, step].view(np.int64), return_inverse=True)
    distinct = bits.view(np.float64)
    for number in np.argsort(distinct, kind="stable"):
        counts = np.bincount(step[which == number], minlength=steps)
        yield format_decimal(float(distinct[number])), counts


def sampling_offset(labels: Labels) -> float:
    """
    Return where a series lies in [0, 1]: ``limit_ratio`` takes those below its ratio.

    The hash is the one Prometheus computes of its labels, so both choose the same series.
    """
    data = b"".join(
        _sized(part.encode("utf-8", "surrogateescape")) for pair in labels for part in pair
    )
    return xxhash64(data) / float(_MASK64)


def _sized(data: bytes) -> bytes:
    size = len(data)
    prefix = bytes((size,)) if size < 255 else b"\xff" + size.to_bytes(3, "little")
    return prefix + data


def xxhash64(data: bytes) -> int:
    """Hash bytes. Source: xxHash specification, XXH64 with seed 0."""
    p1, p2, p3, p4, p5 = _PRIMES
    end, at = len(data), 0
    if end >= 32:
        lanes = [(p1 + p2) & _MASK64, p2, 0, (-p1) & _MASK64]
        while at + 32 <= end:
            for lane in range(4):
                word = int.from_bytes(data[at : at + 8], "little")
                lanes[lane] = _round(lanes[lane], word)
                at += 8
        rotated = zip(lanes, (1, 7, 12, 18), strict=True)
        digest = sum(_rotate(lane, bits) for lane, bits in rotated) & _MASK64
        for lane in lanes:
            digest = ((digest ^ _round(0, lane)) * p1 + p4) & _MASK64
    else:
        digest = p5
    digest = (digest + end) & _MASK64
    while at + 8 <= end:
        digest ^= _round(0, int.from_bytes(data[at : at + 8], "little"))
        digest = (_rotate(digest, 27) * p1 + p4) & _MASK64
        at += 8
    if at + 4 <= end:
        digest ^= (int.from_bytes(data[at : at + 4], "little") * p1) & _MASK64
        digest = (_rotate(digest, 23) * p2 + p3) & _MASK64
        at += 4
    for byte in data[at:]:
        digest ^= (byte * p5) & _MASK64
        digest = (_rotate(digest, 11) * p1) & _MASK64
    digest = ((digest ^ (digest >> 33)) * p2) & _MASK64
    digest = ((digest ^ (digest >> 29)) * p3) & _MASK64
    return digest ^ (digest >> 32)


def _rotate(value: int, bits: int) -> int:
    return ((value << bits) | (value >> (64 - bits))) & _MASK64


def _round(lane: int, word: int) -> int:
    return (_rotate((lane + word * _PRIMES[1]) & _MASK64, 31) * _PRIMES[0]) & _MASK64
