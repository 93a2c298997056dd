"""One line of blocks for a series: how it went at a glance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

_BLOCKS: Final = "▁▂▃▄▅▆▇█"
_NOTHING: Final = " "
#: A point that is there but has no height: NaN.
_NO_NUMBER: Final = "·"


def sparkline(points: Sequence[tuple[float, float]], times: Sequence[float]) -> str:
    """
    Draw values as blocks between their least and greatest.

    Args:
        points: Times and values, times rising.
        times: One place each, rising; a place without a point stays empty.
    """
    values = dict(points)
    finite = [value for value in values.values() if math.isfinite(value)]
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    return "".join(_block(values.get(time), low, high) for time in times)


def _block(value: float | None, low: float, high: float) -> str:
    if value is None:
        return _NOTHING
    if math.isnan(value):
        return _NO_NUMBER
    if math.isinf(value):
        return _BLOCKS[-1] if value > 0 else _BLOCKS[0]
    # Halves first: the difference of two numbers may be beyond a float.
    span = high / 2 - low / 2
    share = (value / 2 - low / 2) / span if span > 0 else 0.5
    return _BLOCKS[min(int(share * len(_BLOCKS)), len(_BLOCKS) - 1)]


def short(value: float) -> str:
    """Write a number with five digits, which is what an eye takes in."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return f"{value:.5g}"
