"""
The syntax tree of PromQL.

Nodes are values: two trees are equal when they mean the same text, wherever it stood. Positions are
kept for messages and left out of comparisons.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from ...config.selector import Matcher


class Span(NamedTuple):
    """Where a node stands: characters from 0, ``end`` behind the last one."""

    start: int
    end: int


class ValueType(enum.StrEnum):
    """What an expression evaluates to, by the names of the HTTP API."""

    SCALAR = "scalar"
    STRING = "string"
    VECTOR = "vector"
    MATRIX = "matrix"

    @property
    def documented(self) -> str:
        """The name in messages to users."""
        return {"vector": "instant vector", "matrix": "range vector"}.get(self.value, self.value)


COMPARISONS: Final = frozenset(("==", "!=", "<", ">", "<=", ">="))
SET_OPERATORS: Final = frozenset(("and", "or", "unless"))
#: Operators of native histograms, which cut off what lies beyond a value.
TRIM_OPERATORS: Final = frozenset(("</", ">/"))
PARAMETER_AGGREGATORS: Final = frozenset(
    ("topk", "bottomk", "quantile", "count_values", "limitk", "limit_ratio")
)


# -- durations ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DurationLiteral:
    """
    A duration, or a plain number of seconds.

    Attributes:
        seconds: Its value.
        has_unit: Whether it was written with units (``5m``); only then does it print with them.
    """

    seconds: float
    has_unit: bool
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class DurationUnary:
    """``+`` or ``-`` before a duration; ``wrapped`` says that parentheses stand around it."""

    op: str
    operand: Duration
    wrapped: bool
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class DurationBinary:
    """Arithmetic of two durations; ``wrapped`` says that parentheses stand around it."""

    op: str
    lhs: Duration
    rhs: Duration
    wrapped: bool
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class DurationCall:
    """``step()``, ``range()``, ``min_of(a, b)`` or ``max_of(a, b)``."""

    name: str
    args: tuple[Duration, ...]
    span: Span = field(compare=False)


Duration = DurationLiteral | DurationUnary | DurationBinary | DurationCall


@dataclass(frozen=True, slots=True)
class At:
    """The ``@`` modifier: a time in Unix milliseconds, or ``start`` or ``end`` of the query."""

    timestamp_ms: int | None
    edge: str | None


# -- expressions -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class NumberLiteral:
    """A number; ``is_duration`` if it was written as one (``1h`` is 3600)."""

    value: float
    is_duration: bool
    span: Span = field(compare=False)

    # NaN equals no NaN, but two trees of the same text shall be equal.
    def __eq__(self, other: object) -> bool:
        if not isinstance(other, NumberLiteral):
            return NotImplemented
        same = repr(self.value) == repr(other.value)
        return same and self.is_duration == other.is_duration

    def __hash__(self) -> int:
        return hash((repr(self.value), self.is_duration))

    @property
    def type(self) -> ValueType:
        return ValueType.SCALAR


@dataclass(frozen=True, slots=True)
class StringLiteral:
    """A string, escapes resolved."""

    value: str
    span: Span = field(compare=False)

    @property
    def type(self) -> ValueType:
        return ValueType.STRING


@dataclass(frozen=True, slots=True)
class VectorSelector:
    """
    An instant selector.

    Attributes:
        name: The metric name if it was written before or as a word of the braces, else empty.
        matchers: All matchers; with ``name`` the last one is that of the name.
        offset: How far back to look, if given.
        extension: ``anchored``, ``smoothed`` or empty.
    """

    name: str
    matchers: tuple[Matcher, ...]
    offset: Duration | None
    at: At | None
    extension: str
    span: Span = field(compare=False)

    @property
    def type(self) -> ValueType:
        return ValueType.VECTOR


@dataclass(frozen=True, slots=True)
class MatrixSelector:
    """A range selector: a vector selector, which carries offset and ``@``, and a window."""

    vector: VectorSelector
    range: Duration
    span: Span = field(compare=False)

    @property
    def type(self) -> ValueType:
        return ValueType.MATRIX


@dataclass(frozen=True, slots=True)
class Subquery:
    """An expression evaluated at every ``step`` of a window; without step at the default one."""

    expr: Expr
    range: Duration
    step: Duration | None
    offset: Duration | None
    at: At | None
    span: Span = field(compare=False)

    @property
    def type(self) -> ValueType:
        return ValueType.MATRIX


@dataclass(frozen=True, slots=True)
class Function:
    """
    What a function takes and gives.

    Attributes:
        variadic: How many more arguments of the last type may follow: 0 none, and then all
            arguments must be there; n up to n, the last of ``arg_types`` being optional; -1 any
            number.
    """

    name: str
    arg_types: tuple[ValueType, ...]
    return_type: ValueType
    variadic: int = 0
    experimental: bool = False


@dataclass(frozen=True, slots=True)
class Call:
    """A function and its arguments."""

    func: Function
    args: tuple[Expr, ...]
    span: Span = field(compare=False)

    @property
    def type(self) -> ValueType:
        return self.func.return_type


@dataclass(frozen=True, slots=True)
class Aggregate:
    """An aggregation; ``grouping`` are the labels of ``by`` or, if set, ``without``."""

    op: str
    expr: Expr
    param: Expr | None
    grouping: tuple[str, ...]
    without: bool
    span: Span = field(compare=False)

    @property
    def type(self) -> ValueType:
        return ValueType.VECTOR


class Cardinality(enum.StrEnum):
    """How many series of each side a match may have."""

    ONE_TO_ONE = "one-to-one"
    MANY_TO_ONE = "many-to-one"
    ONE_TO_MANY = "one-to-many"
    MANY_TO_MANY = "many-to-many"


@dataclass(frozen=True, slots=True)
class VectorMatching:
    """
    How the series of two vectors find each other.

    Attributes:
        labels: Those of ``on`` or, unless ``on``, of ``ignoring``.
        include: Labels that ``group_left`` or ``group_right`` copies from the "one" side.
        fill_left: Value of a missing left side, if any; likewise ``fill_right``.
    """

    cardinality: Cardinality
    labels: tuple[str, ...]
    on: bool
    include: tuple[str, ...]
    fill_left: float | None = None
    fill_right: float | None = None


@dataclass(frozen=True, slots=True)
class Binary:
    """
    Two operands; ``matching`` is set exactly when both are vectors (until the type check, always).

    ``op_span`` is where the operator with its modifiers stands.
    """

    op: str
    lhs: Expr
    rhs: Expr
    return_bool: bool
    matching: VectorMatching | None
    op_span: Span = field(compare=False)

    @property
    def span(self) -> Span:
        # The left spine of a long sum is as deep as the sum is long: walk it, don't recurse.
        first: Expr = self
        while isinstance(first, Binary):
            first = first.lhs
        last: Expr = self
        while isinstance(last, Binary):
            last = last.rhs
        return Span(first.span.start, last.span.end)

    @property
    def type(self) -> ValueType:
        operand: Expr = self
        while isinstance(operand, Binary):
            if operand.rhs.type is not ValueType.SCALAR:
                return ValueType.VECTOR
            operand = operand.lhs
        return ValueType.SCALAR if operand.type is ValueType.SCALAR else ValueType.VECTOR


@dataclass(frozen=True, slots=True)
class Unary:
    """A sign before an expression that is no number."""

    op: str
    expr: Expr
    span: Span = field(compare=False)

    @property
    def type(self) -> ValueType:
        return self.expr.type


@dataclass(frozen=True, slots=True)
class Paren:
    """An expression in parentheses."""

    expr: Expr
    span: Span = field(compare=False)

    @property
    def type(self) -> ValueType:
        return self.expr.type


Expr = (
    NumberLiteral
    | StringLiteral
    | VectorSelector
    | MatrixSelector
    | Subquery
    | Call
    | Aggregate
    | Binary
    | Unary
    | Paren
)


def unwrap(expr: Expr) -> Expr:
    """Take the parentheses off."""
    while isinstance(expr, Paren):
        expr = expr.expr
    return expr


def children(expr: Expr) -> tuple[Expr, ...]:
    """Return the expressions directly below a node, from left to right."""
    match expr:
        case Call():
            return expr.args
        case Aggregate():
            return (expr.expr,) if expr.param is None else (expr.param, expr.expr)
        case Binary():
            return (expr.lhs, expr.rhs)
        case Unary() | Paren() | Subquery():
            return (expr.expr,)
        case MatrixSelector():
            return (expr.vector,)
        case _:
            return ()


def walk(expr: Expr) -> Iterator[Expr]:
    """Yield a tree's nodes, parents first and from left to right, without recursion."""
    stack = [expr]
    while stack:
        node = stack.pop()
        yield node
        stack.extend(reversed(children(node)))


def spine(expr: Expr) -> tuple[Expr, list[Binary]]:
    """
    Split a chain of binary operators at its left end.

    Returns:
        The leftmost operand and the operators above it, innermost first. Walkers that recurse use
        this, so that a sum of a thousand terms doesn't cost a thousand frames.
    """
    chain: list[Binary] = []
    while isinstance(expr, Binary):
        chain.append(expr)
        expr = expr.lhs
    chain.reverse()
    return expr, chain
