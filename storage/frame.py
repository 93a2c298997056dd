"""Samples on their way out: a frame is some series that share their timestamps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from .model import ABSENT_BITS, STALE_NAN_BITS, Series

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
RefArray = npt.NDArray[np.uint32]
BoolArray = npt.NDArray[np.bool_]

_Integer = TypeVar("_Integer", bound=np.integer[Any])

STALE_NAN: float = float(np.uint64(STALE_NAN_BITS).view(np.float64))
ABSENT: float = float(np.uint64(ABSENT_BITS).view(np.float64))


def is_stale(values: FloatArray) -> BoolArray:
    """Tell the stale markers among ``values`` by their bits (a stale marker is a NaN)."""
    stale: BoolArray = values.view(np.uint64) == STALE_NAN_BITS
    return stale


def is_absent(values: FloatArray) -> BoolArray:
    """Tell the cells that hold no sample at all."""
    absent: BoolArray = values.view(np.uint64) == ABSENT_BITS
    return absent


def distinct(numbers: npt.NDArray[_Integer]) -> npt.NDArray[_Integer]:
    """
    Return the distinct numbers, rising: the array itself where it is so already, as most are.

    ``np.unique`` does the same, but its first call loads ``numpy.ma`` (1.6 MiB, 7 to 10 ms, often
    on the event loop), and with 100,000 numbers it takes ten times as long.
    Asked for ``return_index`` and its like, it does not load it.
    """
    if (numbers[1:] > numbers[:-1]).all():
        return numbers
    ordered = np.sort(numbers)
    is_first = np.ones(len(ordered), np.bool_)
    np.not_equal(ordered[1:], ordered[:-1], out=is_first[1:])
    return ordered[is_first]


@dataclass(frozen=True, slots=True)
class Frame:
    """
    Series with one time vector: what a group yields. A series with times of its own is a frame
    of one row.

    Attributes:
        series: One per row.
        ts_ms: ``[n]``, strictly rising.
        values: ``[len(series), n]`` float64, rows contiguous, not to be changed. May hold stale
            markers and, where ``has_absent``, cells without a sample (told by their bits).
        has_absent: False promises that no cell is absent.
        group: The group whose ticks these are; 0 for a series with times of its own.
    """

    series: Sequence[Series]
    ts_ms: IntArray
    values: FloatArray
    has_absent: bool
    group: int = 0
