"""What binary operators do with numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

from ...storage.frame import BoolArray, FloatArray

#: Arithmetic, by operator. Division by zero and the like give what IEEE 754 says.
ARITHMETIC: Final[dict[str, Callable[[FloatArray, FloatArray], FloatArray]]] = {
    "+": np.add,
    "-": np.subtract,
    "*": np.multiply,
    "/": np.divide,
    "%": np.fmod,
    "^": np.power,
    "atan2": np.arctan2,
}
#: Comparisons, by operator; with NaN only ``!=`` holds.
COMPARE: Final[dict[str, Callable[[FloatArray, FloatArray], BoolArray]]] = {
    "==": np.equal,
    "!=": np.not_equal,
    "<": np.less,
    ">": np.greater,
    "<=": np.less_equal,
    ">=": np.greater_equal,
}


def scalars(op: str, lhs: FloatArray, rhs: FloatArray) -> FloatArray:
    """Combine two scalars; comparisons give 1 and 0."""
    if op in COMPARE:
        return COMPARE[op](lhs, rhs).astype(np.float64)
    return ARITHMETIC[op](lhs, rhs)


def elements(
    op: str, lhs: FloatArray, rhs: FloatArray, kept: FloatArray, *, return_bool: bool
) -> tuple[FloatArray, BoolArray | None]:
    """
    Combine elements of vectors.

    Args:
        kept: What a comparison that filters lets through.

    Returns:
        Values, and which of them exist if the operator filters.
    """
    if op in ARITHMETIC:
        return ARITHMETIC[op](lhs, rhs), None
    holds = COMPARE[op](lhs, rhs)
    return (holds.astype(np.float64), None) if return_bool else (kept, holds)
