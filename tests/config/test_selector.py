"""Matchers and selectors."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tachograph.config.errors import SelectorError
from tachograph.config.selector import Matcher, MatchOp, parse_selector, render_selector

EQ, NE, RE, NRE = MatchOp.EQUAL, MatchOp.NOT_EQUAL, MatchOp.REGEX, MatchOp.NOT_REGEX
UP = Matcher("__name__", EQ, "up")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("up", (UP,)),
        (" up # the metric\n", (UP,)),
        ("up{}", (UP,)),
        ("a:b:c", (Matcher("__name__", EQ, "a:b:c"),)),
        ("sum", (Matcher("__name__", EQ, "sum"),)),
        ('up{job="a"}', (UP, Matcher("job", EQ, "a"))),
        (
            'up{job="a",instance=~"b.*",}',
            (UP, Matcher("job", EQ, "a"), Matcher("instance", RE, "b.*")),
        ),
        ('{__name__="up"}', (UP,)),
        ('{"up"}', (UP,)),
        ('{a!="1","my.metric",b!~"2"}', None),
        ('{"my.metric", "a.b"="c"}', None),
        ("{by='x', on=`y`}", (Matcher("by", EQ, "x"), Matcher("on", EQ, "y"))),
        ('{__name__!=""}', (Matcher("__name__", NE, ""),)),
        ('{ # comment }\n a = "b" # another\n , }', (Matcher("a", EQ, "b"),)),
        ('{__name__="a",__name__=~".+"}', None),
    ],
)
def test_selectors_as_prometheus_reads_them(
    text: str, expected: tuple[Matcher, ...] | None
) -> None:
    matchers = parse_selector(text)
    if expected is not None:
        assert matchers == expected
    assert parse_selector(render_selector(matchers)) == matchers


def test_a_quoted_metric_name_comes_first() -> None:
    assert parse_selector('{a!="1","my.metric"}') == (
        Matcher("__name__", EQ, "my.metric"),
        Matcher("a", NE, "1"),
    )


@pytest.mark.parametrize(
    ("string", "value"),
    [
        (r'"a\"b\\c\n\t"', 'a"b\\c\n\t'),
        (r"'a\'b'", "a'b"),
        ("`a\\q\"'b`", "a\\q\"'b"),
        ("`two\nlines`", "two\nlines"),
        (r'"\x41\102\u00e4\U0001F600"', "AB\u00e4\U0001f600"),
        (r'"\xc3\xa4"', "ä"),
        ('"ünïcode"', "ünïcode"),
        (r'"\a\b\f\r\v"', "\a\b\f\r\v"),
    ],
)
def test_all_forms_of_strings(string: str, value: str) -> None:
    assert parse_selector(f"{{a={string},b='c'}}")[0].value == value


# Messages and columns as promtool 2.42 gives them where it refuses the same.
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "1:1: parse error: no expression found in input"),
        ("# up", "1:1: parse error: no expression found in input"),
        ("up{", "1:4: parse error: unexpected end of input inside braces"),
        ("up{job}", '1:7: unexpected "}" in label matching, expected label matching operator'),
        (
            'up{job="a" instance="b"}',
            '1:12: unexpected identifier "instance" in label matching, expected "," or "}"',
        ),
        ("up{job=a}", '1:8: unexpected identifier "a" in label matching, expected string'),
        ("{}", "1:1: vector selector must contain at least one non-empty matcher"),
        ('{a="",b=~".*"}', "1:1: vector selector must contain at least one non-empty matcher"),
        ('up{__name__="x"}', '1:1: metric name must not be set twice: "up" or "x"'),
        ("up foo", '1:4: unexpected identifier "foo"'),
        ('up{a="b', "1:6: unterminated quoted string"),
        ('up{a="b\nc"}', "1:6: unterminated quoted string"),
        ("up{a=`b", "1:6: unterminated raw string"),
        ('up{a!"b"}', "1:5: unexpected character after '!' inside braces: '\"'"),
        ("up{%}", "1:4: unexpected character inside braces: '%'"),
        ("{,}", '1:2: unexpected "," in label matching, expected identifier or "}"'),
        ('up{a="b",,}', '1:10: unexpected "," in label matching, expected identifier or "}"'),
        ('up{a=~"a**"}', "1:4: error parsing regexp: invalid nested repetition operator: `**`"),
        ("up}", "1:3: unexpected character: '}'"),
        ('up{a="b"}{', '1:10: unexpected "{"'),
        (r'up{a="\q"}', "1:6: unknown escape sequence U+0071 'q'"),
        (r'up{a="\x4"}', "1:6: illegal character U+0022 '\"' in escape sequence"),
        (r'up{a="\400"}', "1:6: escape sequence is an invalid Unicode code point"),
        (r'up{a="\ud800"}', "1:6: escape sequence is an invalid Unicode code point"),
        ('up{a=="b"}', '1:6: unexpected "=" in label matching, expected string'),
        ("bool", "1:1: unexpected <bool>"),
        ("ü", "1:1: unexpected character: 'ü'"),
        ('up{a:b="c"}', "1:5: unexpected character inside braces: ':'"),
        ('up{a="b"}[5m]', '1:10: unexpected "["'),
        ("nan", '1:1: unexpected number "nan"'),
        (r'up{a="\xff"}', "1:6: string is not valid UTF-8"),
        ('{"a","b"}', '1:6: metric name must not be set twice: "a" or "b"'),
        ('up{a="\\', "1:6: escape sequence not terminated"),
        (r'up{a="\x', "1:6: escape sequence not terminated"),
        ('up{a="b"} "x"', '1:11: unexpected string "\\"x\\""'),
    ],
)
def test_refusals_say_where_and_why(text: str, message: str) -> None:
    with pytest.raises(SelectorError) as caught:
        parse_selector(text)
    place, _, words = message.replace("parse error: ", "").partition(": ")
    assert str(caught.value) == f"{place}: parse error: {words}"


def test_an_empty_selector_is_taken_where_it_is_allowed() -> None:
    assert parse_selector("{}", allow_empty=True) == ()
    assert parse_selector('{a=""}', allow_empty=True) == (Matcher("a", EQ, ""),)


def test_overlong_selectors_are_refused_unread() -> None:
    with pytest.raises(SelectorError, match="longer than 65536"):
        parse_selector("a" * 65_537)


@pytest.mark.parametrize(
    ("op", "value", "label", "expected"),
    [
        (EQ, "a", "a", True),
        (EQ, "", "", True),
        (NE, "a", "", True),
        (NE, "a", "a", False),
        (RE, "a|b", "b", True),
        (RE, "a.*", "ba", False),
        (NRE, "a.*", "ab", False),
        (NRE, "a", "", True),
        (RE, "", "", True),
    ],
)
def test_matchers_compare(op: MatchOp, value: str, label: str, expected: bool) -> None:
    assert Matcher("x", op, value).matches(label) is expected


def test_a_matcher_knows_its_values_if_they_are_few() -> None:
    assert Matcher("x", NE, "a").literals() == frozenset({"a"})
    assert Matcher("x", RE, "a|b").literals() == frozenset({"a", "b"})
    assert Matcher("x", RE, "a.*").literals() is None


def test_matchers_are_values() -> None:
    matcher = Matcher("x", RE, "a.*")
    assert {matcher: 1}[Matcher("x", RE, "a.*")] == 1
    assert pickle.loads(pickle.dumps(matcher)) == matcher
    assert repr(matcher) == "Matcher(name='x', op=<MatchOp.REGEX: '=~'>, value='a.*')"


def test_a_matcher_with_a_broken_regex_cannot_be_made() -> None:
    with pytest.raises(ValueError, match="missing closing"):
        Matcher("x", RE, "(")


_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
_NAMES = st.one_of(
    st.sampled_from(["__name__", "job", "on", "a.b", "0", "", "größe"]),
    _TEXT,
)
_VALUES = st.one_of(st.sampled_from(["up", "bool", "NaN", "x y", "a:b", ""]), _TEXT)
_MATCHERS = st.one_of(
    st.builds(Matcher, _NAMES, st.sampled_from([EQ, NE]), _VALUES),
    st.builds(Matcher, _NAMES, st.sampled_from([RE, NRE]), st.sampled_from(["a|b", "a.*", r"\d"])),
)


@settings(max_examples=300)
@given(st.lists(_MATCHERS, max_size=5).map(tuple))
def test_a_rendered_selector_reads_back(matchers: tuple[Matcher, ...]) -> None:
    assert parse_selector(render_selector(matchers), allow_empty=True) == matchers


@settings(max_examples=300)
@given(st.text(alphabet="up{}=!~,\"'`\\ \n#ab0:x.[", max_size=20))
def test_any_text_is_a_selector_or_a_refusal(text: str) -> None:
    try:
        matchers = parse_selector(text)
    except SelectorError:
        return
    assert parse_selector(render_selector(matchers)) == matchers
