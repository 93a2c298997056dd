"""Numbers, durations and strings as PromQL writes them, and the tree as JSON."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tachograph.aggregation.promql import expr_to_json, format_expr, parse
from tachograph.aggregation.promql.literals import (
    DURATION_MS_MAX,
    format_decimal,
    format_duration,
    format_number,
    parse_duration,
    quote,
    unquote,
)


@pytest.mark.parametrize(
    ("value", "short", "plain"),
    [
        (0.0, "0", "0"),
        (-0.0, "-0", "-0"),
        (1.0, "1", "1"),
        (100000.0, "100000", "100000"),
        (1e6, "1e+06", "1000000"),
        (123456789.0, "1.23456789e+08", "123456789"),
        (0.0001, "0.0001", "0.0001"),
        (0.00001, "1e-05", "0.00001"),
        (1e21, "1e+21", "1000000000000000000000"),
        (-2.5e-7, "-2.5e-07", "-0.00000025"),
        (1 / 3, "0.3333333333333333", "0.3333333333333333"),
        (math.inf, "+Inf", "+Inf"),
        (-math.inf, "-Inf", "-Inf"),
        (math.nan, "NaN", "NaN"),
    ],
)
def test_numbers_are_written_as_go_writes_them(value: float, short: str, plain: str) -> None:
    assert (format_number(value), format_decimal(value)) == (short, plain)


@given(st.floats(allow_nan=False))
def test_written_numbers_read_back(value: float) -> None:
    for text in (format_number(value), format_decimal(value)):
        assert float(text.replace("Inf", "inf")) == value


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (0, "0s"),
        (1, "1ms"),
        (90 * 60_000, "1h30m"),
        (8 * 86_400_000, "8d"),
        (14 * 86_400_000, "2w"),
        (365 * 86_400_000, "1y"),
        (-61_000, "-1m1s"),
    ],
)
def test_durations_are_written_in_few_units(ms: int, text: str) -> None:
    assert format_duration(ms) == text


@given(st.integers(0, DURATION_MS_MAX))
def test_written_durations_read_back(ms: int) -> None:
    assert parse_duration(format_duration(ms)) == ms


@given(st.text())
def test_written_strings_read_back(text: str) -> None:
    written = quote(text)
    assert unquote(written[1:-1], '"') == text
    assert "\n" not in written


def test_long_expressions_are_broken_as_upstream_does() -> None:
    text = (
        'sum by(pod)(rate(a_metric_with_a_rather_long_name_total{namespace="production"}[5m])) '
        "/ on(pod) group_left(node) another_metric_with_a_long_name > 0.5"
    )
    # The output of Prometheus 2.42's /api/v1/format_query.
    assert format_expr(parse(text)) == (
        '    sum by (pod) (rate(a_metric_with_a_rather_long_name_total{namespace="production"}'
        "[5m]))\n"
        "  / on (pod) group_left (node)\n"
        "    another_metric_with_a_long_name\n"
        ">\n"
        "  0.5"
    )


def test_trees_look_like_prometheus_own() -> None:
    text = 'sum without (b) (rate(x{a=~"1"}[5m] offset 1m)) > bool on (c) group_left y @ end()'
    tree = expr_to_json(parse(text))
    assert json.loads(json.dumps(tree)) == {
        "type": "binaryExpr",
        "op": ">",
        "bool": True,
        "matching": {"card": "many-to-one", "labels": ["c"], "on": True, "include": []},
        "lhs": {
            "type": "aggregation",
            "op": "sum",
            "param": None,
            "grouping": ["b"],
            "without": True,
            "expr": {
                "type": "call",
                "func": {
                    "name": "rate",
                    "argTypes": ["matrix"],
                    "variadic": 0,
                    "returnType": "vector",
                },
                "args": [
                    {
                        "type": "matrixSelector",
                        "name": "x",
                        "range": 300_000,
                        "offset": 60_000,
                        "matchers": [
                            {"name": "a", "value": "1", "type": "=~"},
                            {"name": "__name__", "value": "x", "type": "="},
                        ],
                        "timestamp": None,
                        "startOrEnd": None,
                    }
                ],
            },
        },
        "rhs": {
            "type": "vectorSelector",
            "name": "y",
            "offset": 0,
            "matchers": [{"name": "__name__", "value": "y", "type": "="}],
            "timestamp": None,
            "startOrEnd": "end",
        },
    }


def test_every_kind_of_node_has_a_tree() -> None:
    text = '-(max_over_time(x[1h:5m] @ 1.5) + 1e3) or label_replace(x, "a", "$1", "b", "c")'
    tree = expr_to_json(parse(text))
    unary = tree["lhs"]
    assert isinstance(unary, dict)
    assert (unary["type"], unary["op"]) == ("unaryExpr", "-")
    paren = unary["expr"]
    assert isinstance(paren, dict)
    inner = paren["expr"]
    assert isinstance(inner, dict)
    assert inner["rhs"] == {"type": "numberLiteral", "val": "1000"}
    call = inner["lhs"]
    assert isinstance(call, dict)
    args = call["args"]
    assert isinstance(args, list)
    subquery = args[0]
    assert isinstance(subquery, dict)
    assert {key: subquery[key] for key in ("type", "range", "step", "offset", "timestamp")} == {
        "type": "subquery",
        "range": 3_600_000,
        "step": 300_000,
        "offset": 0,
        "timestamp": 1_500,
    }
    assert expr_to_json(parse("x[step() + 1m]"))["rangeExpr"] == "step() + 1m"
