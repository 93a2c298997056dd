"""Functions of one value at a time: arithmetic, rounding, trigonometry, parts of a date."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

from ...storage.frame import FloatArray, IntArray

#: Seconds that fit numpy's calendar with room to spare; what lies beyond is no date anyone means.
_SECONDS_MAX: Final = float(2**61)


def _sign(values: FloatArray) -> FloatArray:
    return np.sign(values)


#: Functions of one float, by name.
MATH: Final[dict[str, Callable[[FloatArray], FloatArray]]] = {
    "abs": np.abs,
    "ceil": np.ceil,
    "exp": np.exp,
    "floor": np.floor,
    "ln": np.log,
    "log2": np.log2,
    "log10": np.log10,
    "sgn": _sign,
    "sqrt": np.sqrt,
    "acos": np.arccos,
    "acosh": np.arccosh,
    "asin": np.arcsin,
    "asinh": np.arcsinh,
    "atan": np.arctan,
    "atanh": np.arctanh,
    "cos": np.cos,
    "cosh": np.cosh,
    "sin": np.sin,
    "sinh": np.sinh,
    "tan": np.tan,
    "tanh": np.tanh,
    "deg": lambda values: values * 180 / np.pi,
    "rad": lambda values: values * np.pi / 180,
}


def smaller(a: FloatArray, b: FloatArray) -> FloatArray:
    """The smaller of two: NaN if either is, but for -Inf, which nothing is smaller than."""
    return np.where((a == -np.inf) | (b == -np.inf), -np.inf, np.minimum(a, b))


def larger(a: FloatArray, b: FloatArray) -> FloatArray:
    """The larger of two: NaN if either is, but for +Inf."""
    return np.where((a == np.inf) | (b == np.inf), np.inf, np.maximum(a, b))


def round_to(values: FloatArray, nearest: FloatArray) -> FloatArray:
    """Round to the nearest multiple, halves upwards."""
    # Dividing by the inverse gives 0.3 where multiplying by 0.1 gives 0.30000000000000004.
    inverse = 1.0 / nearest
    return np.floor(values * inverse + 0.5) / inverse


def _days(values: FloatArray) -> IntArray:
    return np.floor_divide(_seconds(values), 86_400)


def _seconds(values: FloatArray) -> IntArray:
    """Whole seconds, cut towards zero as upstream's conversion does."""
    safe = np.nan_to_num(values, nan=0.0, posinf=_SECONDS_MAX, neginf=-_SECONDS_MAX)
    whole: IntArray = np.trunc(np.clip(safe, -_SECONDS_MAX, _SECONDS_MAX)).astype(np.int64)
    return whole


def _calendar(values: FloatArray) -> tuple[IntArray, IntArray, IntArray]:
    """Year, month from 1 and day of the month from 1, in the Gregorian calendar and UTC."""
    dates = _days(values).astype("datetime64[D]")
    months = dates.astype("datetime64[M]")
    month_number = months.astype(np.int64)
    day = (dates - months.astype("datetime64[D]")).astype(np.int64) + 1
    return np.floor_divide(month_number, 12) + 1970, np.mod(month_number, 12) + 1, day


def _days_in_month(values: FloatArray) -> IntArray:
    months = _days(values).astype("datetime64[D]").astype("datetime64[M]")
    begin, end = months.astype("datetime64[D]"), (months + 1).astype("datetime64[D]")
    days: IntArray = (end - begin).astype(np.int64)
    return days


def _day_of_year(values: FloatArray) -> IntArray:
    dates = _days(values).astype("datetime64[D]")
    new_year = dates.astype("datetime64[Y]").astype("datetime64[D]")
    days: IntArray = (dates - new_year).astype(np.int64) + 1
    return days


#: Parts of a date given in Unix seconds, by function name.
DATES: Final[dict[str, Callable[[FloatArray], IntArray]]] = {
    "year": lambda values: _calendar(values)[0],
    "month": lambda values: _calendar(values)[1],
    "day_of_month": lambda values: _calendar(values)[2],
    "day_of_week": lambda values: np.mod(_days(values) + 4, 7),
    "day_of_year": _day_of_year,
    "days_in_month": _days_in_month,
    "hour": lambda values: np.mod(np.floor_divide(_seconds(values), 3600), 24),
    "minute": lambda values: np.mod(np.floor_divide(_seconds(values), 60), 60),
}
