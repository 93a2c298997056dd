"""The parser and the type checker: what they accept, what they say; nothing breaks them."""

from __future__ import annotations

import contextlib
import random
import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tachograph.aggregation.promql.errors import ParseError
from tachograph.aggregation.promql.lexer import ParseLimits
from tachograph.aggregation.promql.nodes import (
    Aggregate,
    Binary,
    Call,
    DurationLiteral,
    Expr,
    MatrixSelector,
    NumberLiteral,
    StringLiteral,
    Subquery,
    Unary,
    VectorSelector,
    unwrap,
    walk,
)
from tachograph.aggregation.promql.parser import parse
from tachograph.aggregation.promql.printer import format_expr, to_text

SHARED = Path(__file__).resolve().parents[4] / "shared" / "conformance"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="no ../shared/conformance here")

#: Expressions of other engines in the corpus: VictoriaMetrics' own rules use MetricsQL.
METRICSQL = ("lag(", "sum(vmanomaly_cpu_cores_available")


def refusal(text: str, *, experimental: bool = False) -> str:
    with pytest.raises(ParseError) as caught:
        parse(text, experimental=experimental)
    assert caught.value.error_type == "bad_data"
    return str(caught.value)


def selector(text: str) -> VectorSelector:
    expr = parse(text, experimental=True)
    assert isinstance(expr, VectorSelector)
    return expr


def canonical(expr: Expr) -> object:
    """A tree as a value in which the order of matchers doesn't count."""
    return [
        (type(node).__name__, sorted(map(str, node.matchers)), node.offset, node.at, node.name)
        if isinstance(node, VectorSelector)
        else (type(node).__name__, to_text(node))
        for node in walk(expr)
    ]


# The messages and positions are those of Prometheus 2.42, or of 3.x where that one differs.
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "1:1: parse error: no expression found in input"),
        ("# only a comment", "1:1: parse error: no expression found in input"),
        ("foo bar", '1:5: parse error: unexpected identifier "bar"'),
        ("sum(foo bar)", '1:9: parse error: unexpected identifier "bar" in aggregation'),
        ("sum(a + rate(b c))", '1:16: parse error: unexpected identifier "c" in aggregation'),
        ("1 +", "1:4: parse error: unexpected end of input"),
        ("1 + * 2", "1:5: parse error: unexpected <op:*>"),
        ("a + bool", "1:9: parse error: unexpected end of input"),
        ("foo(up)", '1:1: parse error: unknown function with name "foo"'),
        (
            "rate(up)",
            '1:6: parse error: expected type range vector in call to function "rate", '
            "got instant vector",
        ),
        ("up[5m", "1:6: parse error: unclosed left bracket"),
        ("sum(up", "1:7: parse error: unclosed left parenthesis"),
        ("up)", "1:4: parse error: unexpected right parenthesis ')'"),
        ("up]", "1:3: parse error: unexpected right bracket ']'"),
        ("up{", "1:4: parse error: unexpected end of input inside braces"),
        ("up{{", "1:4: parse error: unexpected left brace '{'"),
        ("up!", "1:3: parse error: unexpected character after '!': '�'"),
        ("up!a", "1:3: parse error: unexpected character after '!': 'a'"),
        ("up =~ 1", "1:4: parse error: unexpected character after '=': '~'"),
        ("up = 1", '1:4: parse error: unexpected "="'),
        ("é", "1:1: parse error: unexpected character: 'é'"),
        ("up{a;}", "1:5: parse error: unexpected character inside braces: ';'"),
        ("up{a!b}", "1:5: parse error: unexpected character after '!' inside braces: 'b'"),
        (
            'up{a "b"}',
            '1:6: parse error: unexpected string "\\"b\\"" in label matching, '
            "expected label matching operator",
        ),
        (
            "up{a=b}",
            '1:6: parse error: unexpected identifier "b" in label matching, expected string',
        ),
        (
            'up{a="b" c="d"}',
            '1:10: parse error: unexpected identifier "c" in label matching, expected "," or "}"',
        ),
        (
            "up{,}",
            '1:4: parse error: unexpected "," in label matching, expected identifier or "}"',
        ),
        ("{}", "1:1: parse error: vector selector must contain at least one non-empty matcher"),
        (
            '{a=~".*"}',
            "1:1: parse error: vector selector must contain at least one non-empty matcher",
        ),
        (
            'up{__name__="down"}',
            '1:1: parse error: metric name must not be set twice: "up" or "down"',
        ),
        ('"unfinished', "1:1: parse error: unterminated quoted string"),
        ("`unfinished", "1:1: parse error: unterminated raw string"),
        ('"a\\qb"', "1:1: parse error: unknown escape sequence U+0071 'q'"),
        ("5mm", '1:1: parse error: bad number or duration syntax: "5mm"'),
        ("1mfoo", '1:1: parse error: bad number or duration syntax: "1mf"'),
        ("up[5m5h]", '1:4: parse error: not a valid duration string: "5m5h"'),
        ("up[0s]", "1:4: parse error: duration must be greater than 0"),
        ("up[5m-5m]", "1:4: parse error: duration must be greater than 0"),
        ("up[5m/0]", "1:4: parse error: division by zero"),
        ("up[5m%0]", "1:4: parse error: modulo by zero"),
        ("up[400y]", "1:4: parse error: duration out of range"),
        (
            "up[foo]",
            '1:4: parse error: unexpected identifier "foo" in subquery selector, '
            "expected number, duration, step(), or range()",
        ),
        (
            "up offset foo",
            '1:11: parse error: unexpected identifier "foo" in offset, '
            "expected number, duration, step(), or range()",
        ),
        (
            "up offset 1m offset 2m",
            "1:1: parse error: offset may not be set multiple times",
        ),
        ("up @ 1 @ 2", "1:1: parse error: @ <timestamp> may not be set multiple times"),
        ("up @ foo", '1:6: parse error: unexpected identifier "foo" in @, expected timestamp'),
        ("up @ Inf", "1:1: parse error: timestamp out of bounds for @ modifier: inf"),
        (
            "1 offset 1m",
            "1:1: parse error: offset modifier must be preceded by an instant vector selector "
            "or range vector selector or a subquery",
        ),
        ("(up)[5m]", "1:5: parse error: ranges only allowed for vector selectors"),
        ("up offset 1m[5m]", "1:13: parse error: no offset modifiers allowed before range"),
        ("up @ 1[5m]", "1:7: parse error: no @ modifiers allowed before range"),
        (
            "1[5m:1m]",
            "1:1: parse error: subquery is only allowed on instant vector, got scalar instead",
        ),
        (
            "sum by foo (bar)",
            '1:8: parse error: unexpected identifier "foo" in grouping opts, expected "("',
        ),
        (
            "sum by (a b) (bar)",
            '1:11: parse error: unexpected identifier "b" in grouping opts, expected "," or ")"',
        ),
        (
            "sum by (1) (bar)",
            '1:9: parse error: unexpected number "1" in grouping opts, expected label',
        ),
        ("sum()", "1:1: parse error: no arguments for aggregate expression provided"),
        (
            "topk(a)",
            "1:1: parse error: wrong number of arguments for aggregate expression provided, "
            "expected 2, got 1",
        ),
        (
            "topk(a, b)",
            "1:6: parse error: expected type scalar in aggregation parameter, got instant vector",
        ),
        (
            "sum(1)",
            "1:5: parse error: expected type instant vector in aggregation expression, got scalar",
        ),
        ("abs(a,)", "1:6: parse error: trailing commas not allowed in function call args"),
        ("abs()", '1:1: parse error: expected 1 argument(s) in call to "abs", got 0'),
        ("round()", '1:1: parse error: expected at least 1 argument(s) in call to "round", got 0'),
        (
            "round(a, 1, 2)",
            '1:1: parse error: expected at most 2 argument(s) in call to "round", got 3',
        ),
        ("1 == 2", "1:3: parse error: comparisons between scalars must use BOOL modifier"),
        ("a + bool b", "1:3: parse error: bool modifier can only be used on comparison operators"),
        ("a and 1", '1:1: parse error: set operator "and" not allowed in binary scalar expression'),
        ("1 + on(a) 2", "1:1: parse error: vector matching only allowed between instant vectors"),
        ("a and on(x) group_left b", '1:1: parse error: no grouping allowed for "and" operation'),
        (
            "a + on(x) group_left(x) b",
            '1:3: parse error: label "x" must not occur in ON and GROUP clause at once',
        ),
        (
            '"a" + b',
            "1:1: parse error: binary expression must contain only scalar and instant vector types",
        ),
        (
            "-a[5m]",
            "1:1: parse error: unary expression only allowed on expressions of type scalar or "
            'instant vector, got "range vector"',
        ),
        ("a\n+\n  b[", "3:5: parse error: unclosed left bracket"),
        ('"é" foo', '1:6: parse error: unexpected identifier "foo"'),
        ("mad_over_time(a[5m])", '1:1: parse error: function "mad_over_time" is not enabled'),
        (
            "limitk(1, a)",
            "1:1: parse error: limitk() is experimental and is not enabled",
        ),
    ],
)
def test_mistakes_are_reported_as_prometheus_does(text: str, message: str) -> None:
    assert refusal(text) == message


def test_a_bad_regex_is_reported_at_its_label() -> None:
    assert re.match(
        r"1:4: parse error: error parsing regexp: missing closing \)", refusal('up{job=~"("}')
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "deriv(foo[3m] smoothed)",
            "smoothed modifier can only be used with: delta, increase, rate - not with deriv",
        ),
        (
            "deriv(foo[3m] anchored)",
            "anchored modifier can only be used with: changes, delta, increase, rate, resets"
            " - not with deriv",
        ),
        ("foo anchored", "anchored modifier can only be used with range vectors"),
        ("1 + fill(0) 2", "filling in missing series only allowed between instant vectors"),
        ("a or fill(0) b", "filling in missing series not allowed for set operators"),
        (
            "info(a, b)",
            "expected label selectors only, got vector selector instead",
        ),
    ],
)
def test_experimental_syntax_is_checked_too(text: str, message: str) -> None:
    assert refusal(text, experimental=True).endswith(f"parse error: {message}")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1_000", 1000.0),
        ("0x1F", 31.0),
        ("0X_ff", 255.0),
        ("010", 8.0),
        ("09", 9.0),
        (".5", 0.5),
        ("5.", 5.0),
        ("1e3", 1000.0),
        ("1_0e1_0", 1e11),
        ("inf", float("inf")),
        ("-Inf", float("-inf")),
        ("1h30m", 5400.0),
        ("-5ms", -0.005),
        ("+3", 3.0),
    ],
)
def test_every_form_of_number_is_read(text: str, value: float) -> None:
    expr = parse(text)
    assert isinstance(expr, NumberLiteral)
    assert expr.value == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (r'"a\n\t\\\""', 'a\n\t\\"'),
        (r"'it\'s'", "it's"),
        (r"`raw \n`", r"raw \n"),
        (r'"\x41\101\u00e9\U0001F600"', "AAé😀"),
        (r'"\xff"', "\udcff"),
    ],
)
def test_every_form_of_string_is_read(text: str, value: str) -> None:
    expr = parse(text)
    assert isinstance(expr, StringLiteral)
    assert expr.value == value


@pytest.mark.parametrize(
    "word",
    [
        *("sum", "by", "without", "count", "offset", "and", "or", "unless", "start", "end", "step"),
        *("range", "fill", "fill_left", "bottomk", "group", "quantile", "limitk", "a:b:c"),
    ],
)
def test_keywords_name_metrics_and_labels(word: str) -> None:
    assert selector(word).name == word
    assert selector(f'{word}{{x="y"}} offset 5m').name == word
    if ":" not in word:
        assert selector(f'up{{{word}="x"}}').matchers[0].name == word
        grouped = parse(f"sum by ({word}, on, bool, inf) (x)")
        assert isinstance(grouped, Aggregate)
        assert grouped.grouping == (word, "on", "bool", "inf")


def test_quoted_names_may_hold_any_utf8() -> None:
    expr = selector('{"my.metric","label é"="x"}')
    assert [(m.name, m.value) for m in expr.matchers] == [
        ("__name__", "my.metric"),
        ("label é", "x"),
    ]
    assert refusal('{"a","b"}') == (
        '1:6: parse error: metric name must not be set twice: "a" or "b"'
    )


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("-2 ^ 2", "-(2 ^ 2)"),
        ("-2 * 3 + 1", "((-2) * 3) + 1"),
        ("2 ^ 3 ^ 2", "2 ^ (3 ^ 2)"),
        ("a - b - c", "(a - b) - c"),
        ("a or b and c unless d", "a or ((b and c) unless d)"),
        ("a == b > c", "(a == b) > c"),
        ("a + b atan2 c", "a + (b atan2 c)"),
        ("2 / -2 ^ ---1 * 3", "(2 / (-(2 ^ -1))) * 3"),
        ("-m offset 5m", "-(m offset 5m)"),
        ("m offset 2 ^ 2", "(m offset 2s) ^ 2"),
        ("m offset -2 * 2", "(m offset -2s) * 2"),
        ("m offset -step() * 2", "(m offset -step()) * 2"),
    ],
)
def test_operators_bind_as_upstream(text: str, meaning: str) -> None:
    def bare(expr: Expr) -> object:
        expr = unwrap(expr)
        match expr:
            case Binary():
                return (expr.op, bare(expr.lhs), bare(expr.rhs))
            case Unary():
                return (expr.op, bare(expr.expr))
            case _:
                return to_text(expr)

    assert bare(parse(text)) == bare(parse(meaning))


def test_durations_are_arithmetic() -> None:
    expr = parse("x[(9m30s + 30s) * 3]")
    assert isinstance(expr, MatrixSelector)
    assert to_text(expr) == "x[(9m30s + 30s) * 3]"
    subquery = parse("x[1h:5s + 5s] offset (2 * 2) @ end()")
    assert isinstance(subquery, Subquery)
    assert to_text(subquery) == "x[1h:5s + 5s] @ end() offset (2 * 2)"
    plain = parse("x[300]")
    assert isinstance(plain, MatrixSelector)
    assert plain.range == DurationLiteral(300.0, True, plain.range.span)
    assert to_text(parse("x[max(step(), min_of(1m, range()))]")) == (
        "x[max_of(step(), min_of(1m, range()))]"
    )


def test_functions_may_be_named_like_keywords_when_experimental() -> None:
    expr = parse("start() + STEP() * min_of(1, 2)", experimental=True)
    assert [node.func.name for node in walk(expr) if isinstance(node, Call)] == [
        "start",
        "step",
        "min_of",
    ]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("(" * 10_000 + "1" + ")" * 10_000, "nested deeper"),
        ("-" * 10_000 + "1", "nested deeper"),
        ("sum(" * 10_000, "nested deeper"),
        ("a^" * 10_000 + "a", "nested deeper"),
        ("x" + "[5m:1m]" * 5_000, "nested deeper"),
        ("x[" + "-" * 10_000 + "1]", "nested deeper"),
        ("+".join(["1"] * 5_000), "more than 500 parts"),
        ("x[" + "+".join(["1"] * 5_000) + "]", "more than 500 parts"),
        ("a" * 70_000, "longer than 65536 bytes"),
        ("é" * 40_000, "longer than 65536 bytes"),
        ("{" + 'a="b",' * 10_000 + "}", "too long"),
    ],
)
def test_hopeless_input_is_refused_before_it_costs_anything(text: str, reason: str) -> None:
    assert reason in refusal(text)


def test_a_long_sum_is_fine_when_the_limit_allows_it() -> None:
    text = " + ".join(["a"] * 5_000)
    expr = parse(text, limits=ParseLimits(nodes=20_000))
    assert to_text(expr) == text
    assert expr.span == (0, len(text))
    assert format_expr(expr).count("\n") > 5_000


@needs_shared
def test_every_public_rule_parses_and_prints_back() -> None:
    seen = 0
    for path in sorted(SHARED.glob("rules/*.yml")):
        document = yaml.safe_load(path.read_text())
        for rule in (rule for group in document["groups"] for rule in group["rules"]):
            text = str(rule["expr"])
            if text.startswith(METRICSQL) or METRICSQL[1] in text:
                assert refusal(text, experimental=True)
                continue
            expr = parse(text, experimental=True)
            for printed in (to_text(expr), format_expr(expr)):
                assert canonical(parse(printed, experimental=True)) == canonical(expr), text
            seen += 1
    assert seen == 2_081


# -- properties --------------------------------------------------------------------------------

names = st.sampled_from(["up", "sum", "a:b", "by", "http_requests_total", "start"])
label_names = st.sampled_from(["job", "le", "on", "instance"])
values = st.sampled_from(['"x"', "'y z'", "`q`", '""', r'"\u00e9\n"'])
matchers = st.tuples(label_names, st.sampled_from(["=", "!=", "=~", "!~"]), values).map("".join)
units = st.sampled_from(["5m", "1h30m", "300", "0.5", "1d", "step()", "range()", "90s"])
windows = st.one_of(
    units,
    st.tuples(units, st.sampled_from(["+", "*"]), units).map(" ".join),
    st.tuples(units, units).map(lambda pair: f"max_of({pair[0]}, ({pair[1]} + 1))"),
).map(lambda text: f"({text} + 1s)")
modifiers = st.sampled_from(
    ["", " offset 5m", " offset -1h", " @ 10.5", " @ start() offset (1 + step())", " @ -3"]
)
selectors = st.builds(
    lambda name, inner, modifier: f"{name}{{{','.join(inner)}}}{modifier}",
    names,
    st.lists(matchers, max_size=3),
    modifiers,
)
numbers = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.sampled_from(["NaN", "Inf", "-Inf", "1h", "0x1f", "1_000"]),
)
ranges = st.builds(
    lambda name, window, modifier: f"{name}[{window}]{modifier}", names, windows, modifiers
)


def _extend(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    plain = st.sampled_from(["+", "-", "*", "/", "%", "^", "atan2", "and", "or", "unless", "<"])
    matched = st.sampled_from(
        [
            "> bool",
            "+ on(job) group_left(le)",
            "* ignoring() group_right",
            "- on()",
            "== bool on(le)",
            "+ fill(-1.5)",
            "/ on(job) group_right fill_left(2)",
        ]
    )
    return st.one_of(
        st.tuples(inner, st.one_of(plain, matched), inner).map(" ".join),
        inner.map(lambda text: f"({text})"),
        inner.map(lambda text: f"-{text}"),
        inner.map(lambda text: f"sum without (job) ({text})"),
        inner.map(lambda text: f"quantile by (le) (0.5, {text})"),
        inner.map(lambda text: f"max_over_time(({text})[1h:{'5m'}] offset 1m)"),
        inner.map(lambda text: f'label_replace({text}, "a", "$1", "b", "(.*)")'),
    )


expressions = st.recursive(
    st.one_of(
        selectors,
        ranges.map(lambda text: f"rate({text})"),
        numbers.map(lambda text: f"vector({text})"),
    ),
    _extend,
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(expressions)
def test_printing_and_parsing_are_inverse(text: str) -> None:
    expr = parse(text, experimental=True)
    for printed in (to_text(expr), format_expr(expr)):
        again = parse(printed, experimental=True)
        assert canonical(again) == canonical(expr)
        assert to_text(again) == to_text(expr)


@settings(max_examples=150, deadline=None)
@given(st.text(alphabet="ab1(){}[],:=~!<>+-*/%^@\"'`\\# .\n5mé", max_size=60))
def test_no_text_makes_the_parser_stumble(text: str) -> None:
    with contextlib.suppress(ParseError):
        parse(text, experimental=True)


def test_mutations_of_real_queries_are_parsed_or_refused() -> None:
    rng = random.Random(7)
    source = (
        'sum by (job) (rate(x_total{a="b",c=~"d.*"}[5m:1m] offset 1h @ 3)) / on(z) group_left y',
        'label_replace(topk(3, a) > bool 1, "x", "$1", "y", "(.*)") or vector(time())',
    )
    for _ in range(3_000):
        parts = re.findall(r"\w+|\s+|.", rng.choice(source))
        for _ in range(rng.randrange(1, 5)):
            at = rng.randrange(len(parts))
            parts[at : at + rng.randrange(2)] = rng.choices(parts, k=rng.randrange(4))
        try:
            expr = parse("".join(parts), experimental=True)
        except ParseError:
            continue
        assert to_text(parse(to_text(expr), experimental=True)) == to_text(expr)
