"""Every function by name: what it takes and gives, and whether it is experimental."""

from __future__ import annotations

from typing import Final

from .nodes import Function, ValueType

_SCALAR, _STRING = ValueType.SCALAR, ValueType.STRING
_VECTOR, _MATRIX = ValueType.VECTOR, ValueType.MATRIX


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split())


#: Functions that work on each float of an instant vector.
MATH_FUNCTIONS: Final = _names(
    "abs ceil exp floor ln log2 log10 sgn sqrt acos acosh asin asinh atan atanh cos cosh sin sinh "
    "tan tanh deg rad"
)
#: Parts of a date, of the vector's values or of the evaluation time.
DATE_FUNCTIONS: Final = _names(
    "day_of_month day_of_week day_of_year days_in_month hour minute month year"
)
#: Functions of one range vector.
RANGE_FUNCTIONS: Final = _names(
    "absent_over_time avg_over_time changes count_over_time delta deriv idelta increase irate "
    "last_over_time max_over_time min_over_time present_over_time rate resets stddev_over_time "
    "stdvar_over_time sum_over_time"
)
EXPERIMENTAL_RANGE_FUNCTIONS: Final = _names(
    "first_over_time mad_over_time ts_of_first_over_time ts_of_last_over_time "
    "ts_of_max_over_time ts_of_min_over_time"
)
#: Functions that look into native histograms; of floats they make nothing.
NATIVE_FUNCTIONS: Final = _names(
    "histogram_avg histogram_count histogram_stddev histogram_stdvar histogram_sum"
)


def _functions() -> dict[str, Function]:
    known: dict[str, Function] = {}

    def add(
        name: str,
        *arg_types: ValueType,
        gives: ValueType = _VECTOR,
        variadic: int = 0,
        experimental: bool = False,
    ) -> None:
        known[name] = Function(name, arg_types, gives, variadic, experimental)

    for name in (*MATH_FUNCTIONS, *NATIVE_FUNCTIONS):
        add(name, _VECTOR)
    for name in DATE_FUNCTIONS:
        add(name, _VECTOR, variadic=1)
    for name in RANGE_FUNCTIONS:
        add(name, _MATRIX)
    for name in EXPERIMENTAL_RANGE_FUNCTIONS:
        add(name, _MATRIX, experimental=True)
    add("absent", _VECTOR)
    add("clamp", _VECTOR, _SCALAR, _SCALAR)
    add("clamp_max", _VECTOR, _SCALAR)
    add("clamp_min", _VECTOR, _SCALAR)
    add("histogram_fraction", _SCALAR, _SCALAR, _VECTOR)
    add("histogram_quantile", _SCALAR, _VECTOR)
    add("label_join", _VECTOR, _STRING, _STRING, _STRING, variadic=-1)
    add("label_replace", _VECTOR, _STRING, _STRING, _STRING, _STRING)
    add("pi", gives=_SCALAR)
    add("predict_linear", _MATRIX, _SCALAR)
    add("quantile_over_time", _SCALAR, _MATRIX)
    add("round", _VECTOR, _SCALAR, variadic=1)
    add("scalar", _VECTOR, gives=_SCALAR)
    add("sort", _VECTOR)
    add("sort_desc", _VECTOR)
    add("time", gives=_SCALAR)
    add("timestamp", _VECTOR)
    add("vector", _SCALAR)
    for name in ("double_exponential_smoothing", "holt_winters"):
        add(name, _MATRIX, _SCALAR, _SCALAR, experimental=True)
    add("histogram_quantiles", _VECTOR, _STRING, _SCALAR, _SCALAR, variadic=9, experimental=True)
    add("info", _VECTOR, _VECTOR, variadic=1, experimental=True)
    for name in ("sort_by_label", "sort_by_label_desc"):
        add(name, _VECTOR, _STRING, variadic=-1, experimental=True)
    for name in ("start", "end", "range", "step"):
        add(name, gives=_SCALAR, experimental=True)
    for name in ("min_of", "max_of"):
        add(name, _SCALAR, _SCALAR, gives=_SCALAR, experimental=True)
    # MetricsQL's word, with which vmalert asks how long its alerts were pending before it started.
    known["default_rollup"] = known["last_over_time"]
    return known


FUNCTIONS: Final = _functions()
