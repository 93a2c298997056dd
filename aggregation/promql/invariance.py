"""What can be known of an expression before it is evaluated."""

from __future__ import annotations

from typing import Final

from ...config.selector import MatchOp
from .nodes import (
    Aggregate,
    Binary,
    Call,
    Expr,
    MatrixSelector,
    NumberLiteral,
    Paren,
    StringLiteral,
    Subquery,
    Unary,
    VectorSelector,
    children,
    walk,
)
from .signatures import DATE_FUNCTIONS

#: Functions whose value depends on the time of evaluation, whatever their arguments are.
_TIMED: Final = frozenset((*DATE_FUNCTIONS, "predict_linear", "time", "timestamp"))
#: Functions of ranges that leave the metric name in place.
NAME_KEEPING: Final = frozenset(("first_over_time", "last_over_time"))


def is_invariant(expr: Expr) -> bool:
    """Tell whether an expression has the same value at every step of a query."""
    stack = [expr]
    while stack:
        node = stack.pop()
        match node:
            case VectorSelector() if node.at is None:
                return False
            case Subquery():
                # What stands in it is evaluated at times of its own.
                if node.at is None:
                    return False
            case Call() if node.func.name in _TIMED:
                return False
            case Call() if node.func.name == "info":
                stack.append(node.args[0])
            case _:
                stack.extend(children(node))
    return True


def mixes_names(expr: Expr) -> bool:
    """Tell whether a vector may have series that differ in nothing but the metric name."""
    match expr:
        case VectorSelector():
            return not any(
                matcher.name == "__name__" and matcher.op is MatchOp.EQUAL
                for matcher in expr.matchers
            )
        case MatrixSelector():
            return mixes_names(expr.vector)
        case Paren() | Unary() | Subquery():
            return mixes_names(expr.expr)
        case NumberLiteral() | StringLiteral():
            return False
        case Aggregate():
            return True if _keeps_series(expr) else "__name__" in expr.grouping
        case Call() if expr.func.name in NAME_KEEPING or not _drops_name(expr):
            return True
        case Call():
            return False
        case Binary():
            return True


def _keeps_series(node: Aggregate) -> bool:
    return node.op in ("topk", "bottomk", "limitk", "limit_ratio")


def _drops_name(node: Call) -> bool:
    return node.func.name not in (
        "info",
        "label_join",
        "label_replace",
        "sort",
        "sort_by_label",
        "sort_by_label_desc",
        "sort_desc",
    )


def selected_times(expr: Expr) -> VectorSelector | Subquery | None:
    """Return the outermost selector or subquery, which says at what times an expression looks."""
    for node in walk(expr):
        if isinstance(node, VectorSelector | Subquery):
            return node
    return None
