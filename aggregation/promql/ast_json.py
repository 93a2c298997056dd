"""The syntax tree as JSON, shaped as Prometheus 3's ``/api/v1/parse_query`` gives it."""

from __future__ import annotations

from ...config.selector import Matcher
from .durations import is_constant, to_ms
from .literals import format_decimal
from .nodes import (
    Aggregate,
    At,
    Binary,
    Call,
    Duration,
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
from .printer import duration_text

#: What :func:`json.dumps` takes.
Json = dict[str, "Json"] | list["Json"] | str | int | float | bool | None


def expr_to_json(expr: Expr) -> dict[str, Json]:
    """
    Return a tree of plain dicts and lists; durations are milliseconds, numbers strings.

    A duration that depends on the query (``step()``) is 0, and its text stands in ``rangeExpr``,
    ``stepExpr`` or ``offsetExpr``.
    """
    match expr:
        case Binary():
            first, chain = spine(expr)
            tree = expr_to_json(first)
            for node in chain:
                tree = _binary(node, tree)
            return tree
        case Aggregate():
            return {
                "type": "aggregation",
                "op": expr.op,
                "expr": expr_to_json(expr.expr),
                "param": None if expr.param is None else expr_to_json(expr.param),
                "grouping": list(expr.grouping),
                "without": expr.without,
            }
        case Call():
            return {
                "type": "call",
                "func": {
                    "name": expr.func.name,
                    "argTypes": [kind.value for kind in expr.func.arg_types],
                    "variadic": expr.func.variadic,
                    "returnType": expr.func.return_type.value,
                },
                "args": [expr_to_json(arg) for arg in expr.args],
            }
        case MatrixSelector():
            return {
                "type": "matrixSelector",
                **_vector(expr.vector),
                **_duration("range", expr.range),
            }
        case VectorSelector():
            return {"type": "vectorSelector", **_vector(expr)}
        case Subquery():
            return {
                "type": "subquery",
                "expr": expr_to_json(expr.expr),
                **_duration("range", expr.range),
                **_duration("offset", expr.offset),
                **_duration("step", expr.step),
                **_at(expr.at),
            }
        case NumberLiteral():
            return {"type": "numberLiteral", "val": format_decimal(expr.value)}
        case StringLiteral():
            return {"type": "stringLiteral", "val": expr.value}
        case Paren():
            return {"type": "parenExpr", "expr": expr_to_json(expr.expr)}
        case Unary():
            return {"type": "unaryExpr", "op": expr.op, "expr": expr_to_json(expr.expr)}


def _binary(node: Binary, lhs: dict[str, Json]) -> dict[str, Json]:
    return {
        "type": "binaryExpr",
        "op": node.op,
        "lhs": lhs,
        "rhs": expr_to_json(node.rhs),
        "matching": None if node.matching is None else _matching(node.matching),
        "bool": node.return_bool,
    }


def _matching(matching: VectorMatching) -> dict[str, Json]:
    tree: dict[str, Json] = {
        "card": matching.cardinality.value,
        "labels": list(matching.labels),
        "on": matching.on,
        "include": list(matching.include),
    }
    if matching.fill_left is not None or matching.fill_right is not None:
        tree["fillValues"] = {"lhs": matching.fill_left, "rhs": matching.fill_right}
    return tree


def _vector(node: VectorSelector) -> dict[str, Json]:
    tree: dict[str, Json] = {
        "name": node.name,
        **_duration("offset", node.offset),
        "matchers": [_matcher(matcher) for matcher in node.matchers],
        **_at(node.at),
    }
    if node.extension:
        tree[node.extension] = True
    return tree


def _matcher(matcher: Matcher) -> dict[str, Json]:
    return {"name": matcher.name, "value": matcher.value, "type": matcher.op.value}


def _at(at: At | None) -> dict[str, Json]:
    if at is None:
        return {"timestamp": None, "startOrEnd": None}
    return {"timestamp": at.timestamp_ms, "startOrEnd": at.edge}


def _duration(name: str, duration: Duration | None) -> dict[str, Json]:
    if duration is None:
        return {name: 0}
    if is_constant(duration):
        return {name: to_ms(duration, "", positive=False)}
    return {name: 0, f"{name}Expr": duration_text(duration)}
