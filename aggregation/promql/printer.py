"""Writes expressions as text: on one line, or laid out as Prometheus' ``format_query`` does."""

from __future__ import annotations

from typing import Final

from ...config.selector import Matcher, MatchOp
from .literals import (
    format_duration,
    format_number,
    is_legacy_label_name,
    is_legacy_metric_name,
    quote,
)
from .nodes import (
    Aggregate,
    At,
    Binary,
    Call,
    Cardinality,
    Duration,
    DurationBinary,
    DurationCall,
    DurationLiteral,
    DurationUnary,
    Expr,
    MatrixSelector,
    NumberLiteral,
    Paren,
    StringLiteral,
    Subquery,
    Unary,
    VectorMatching,
    VectorSelector,
    spine,
)

#: Longer expressions are broken into lines, as upstream.
LINE_CHARS_MAX: Final = 100
_INDENT: Final = "  "


def format_expr(expr: Expr) -> str:
    """Lay an expression out over lines of at most some 100 characters; comments are lost."""
    return _pretty(expr, 0)


def to_text(expr: Expr) -> str:
    """
    Write an expression on one line.

    Parsing it again gives an equal tree, but that matchers stand in the order of their text.
    """
    match expr:
        case Binary():
            first, chain = spine(expr)
            parts = [to_text(first)]
            for node in chain:
                parts.append(f" {_operator(node)} {to_text(node.rhs)}")
            return "".join(parts)
        case Aggregate():
            inner = to_text(expr.expr)
            if expr.param is not None:
                inner = f"{to_text(expr.param)}, {inner}"
            return f"{_aggregation(expr)}({inner})"
        case Call():
            return f"{expr.func.name}({', '.join(to_text(arg) for arg in expr.args)})"
        case Paren():
            return f"({to_text(expr.expr)})"
        case Unary():
            return f"{expr.op}{to_text(expr.expr)}"
        case NumberLiteral():
            if expr.is_duration:
                return format_duration(round(expr.value * 1000))
            return format_number(expr.value)
        case StringLiteral():
            return quote(expr.value)
        case VectorSelector():
            return _selector(expr) + _modifiers(expr.at, expr.offset, expr.extension)
        case MatrixSelector():
            vector = expr.vector
            window = f"[{duration_text(expr.range)}]"
            return (
                _selector(vector) + window + _modifiers(vector.at, vector.offset, vector.extension)
            )
        case Subquery():
            return to_text(expr.expr) + _subquery_suffix(expr)


def duration_text(duration: Duration) -> str:
    """Write a duration as it stands in brackets."""
    match duration:
        case DurationLiteral():
            if duration.has_unit:
                return format_duration(round(duration.seconds * 1000))
            return format_number(duration.seconds)
        case DurationCall():
            return f"{duration.name}({', '.join(duration_text(arg) for arg in duration.args)})"
        case DurationUnary():
            text = f"{duration.op}{duration_text(duration.operand)}"
        case DurationBinary():
            lhs, rhs = duration_text(duration.lhs), duration_text(duration.rhs)
            text = f"{lhs} {duration.op} {rhs}"
    return f"({text})" if duration.wrapped else text


def _label(name: str) -> str:
    return name if is_legacy_label_name(name) else quote(name)


def _labels(names: tuple[str, ...]) -> str:
    return "(" + ", ".join(_label(name) for name in names) + ")"


def _matcher(matcher: Matcher) -> str:
    if (
        matcher.name == "__name__"
        and matcher.op is MatchOp.EQUAL
        and matcher.value
        and not is_legacy_metric_name(matcher.value)
    ):
        return quote(matcher.value)
    return f"{_label(matcher.name)}{matcher.op}{quote(matcher.value)}"


def _selector(node: VectorSelector) -> str:
    # The last matcher repeats the name that was written before the braces.
    matchers = node.matchers[:-1] if node.name else node.matchers
    braces = "{" + ",".join(sorted(_matcher(matcher) for matcher in matchers)) + "}"
    return node.name + (braces if matchers or not node.name else "")


def _modifiers(at: At | None, offset: Duration | None, extension: str = "") -> str:
    text = ""
    if at is not None:
        edge = f"{at.edge}()" if at.timestamp_ms is None else _seconds(at.timestamp_ms)
        text += f" @ {edge}"
    if offset is not None:
        text += f" offset {duration_text(offset)}"
    return text + (f" {extension}" if extension else "")


def _seconds(ms: int) -> str:
    return f"{'-' if ms < 0 else ''}{abs(ms) // 1000}.{abs(ms) % 1000:03d}"


def _subquery_suffix(node: Subquery) -> str:
    step = "" if node.step is None else duration_text(node.step)
    return f"[{duration_text(node.range)}:{step}]" + _modifiers(node.at, node.offset)


def _aggregation(node: Aggregate) -> str:
    if node.without:
        return f"{node.op} without {_labels(node.grouping)} "
    return f"{node.op} by {_labels(node.grouping)} " if node.grouping else node.op


def _operator(node: Binary) -> str:
    text = node.op + (" bool" if node.return_bool else "")
    return text if node.matching is None else text + _matching(node.matching)


def _matching(matching: VectorMatching) -> str:
    text = ""
    grouped = matching.cardinality in (Cardinality.MANY_TO_ONE, Cardinality.ONE_TO_MANY)
    if matching.labels or matching.on or grouped:
        text += f" {'on' if matching.on else 'ignoring'} {_labels(matching.labels)}"
    if grouped:
        side = "left" if matching.cardinality is Cardinality.MANY_TO_ONE else "right"
        text += f" group_{side} {_labels(matching.include)}"
    left, right = matching.fill_left, matching.fill_right
    if left is not None and right is not None and format_number(left) == format_number(right):
        return f"{text} fill ({format_number(left)})"
    if left is not None:
        text += f" fill_left ({format_number(left)})"
    if right is not None:
        text += f" fill_right ({format_number(right)})"
    return text


# -- layout ------------------------------------------------------------------------------------


def _pretty(expr: Expr, level: int) -> str:
    indent = _INDENT * level
    if isinstance(expr, Binary):
        return _pretty_binary(expr, level)
    if isinstance(expr, Unary):
        return f"{indent}{expr.op}{_pretty(expr.expr, level).strip()}"
    text = to_text(expr)
    if len(text.encode()) > LINE_CHARS_MAX:
        match expr:
            case Aggregate():
                args = [expr.expr] if expr.param is None else [expr.param, expr.expr]
                return _block(f"{indent}{_aggregation(expr)}(", tuple(args), level)
            case Call() if expr.args:
                return _block(f"{indent}{expr.func.name}(", expr.args, level)
            case Paren():
                return _block(f"{indent}(", (expr.expr,), level)
            case Subquery():
                return _pretty(expr.expr, level) + _subquery_suffix(expr)
    return indent + text


def _block(opening: str, args: tuple[Expr, ...], level: int) -> str:
    lines = ",\n".join(_pretty(arg, level + 1) for arg in args)
    return f"{opening}\n{lines}\n{_INDENT * level})"


def _pretty_binary(expr: Binary, level: int) -> str:
    """Break a chain of operators from the outside in, until what remains fits on a line."""
    first, chain = spine(expr)
    lines = [to_text(first)]
    for node in chain:
        lines.append(f"{lines[-1]} {_operator(node)} {to_text(node.rhs)}")
    fitting = len(chain)
    while fitting > 0 and len(lines[fitting].encode()) > LINE_CHARS_MAX:
        fitting -= 1
    depth = level + len(chain) - fitting
    text = _INDENT * depth + lines[fitting] if fitting else _pretty(first, depth)
    for node in chain[fitting:]:
        depth -= 1
        text += f"\n{_INDENT * depth}{_operator(node)}\n{_pretty(node.rhs, depth + 1)}"
    return text
