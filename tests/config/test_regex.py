"""Regular expressions: RE2, and what replaces it where it is missing."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tachograph.config.regex import (
    Match,
    _compile_simple,
    _compile_subset,
    compile_groups,
    compile_regex,
    literals,
    re2_available,
)
from tachograph.config.regex_subset import translate
from tachograph.config.settings import SystemSettings

needs_re2 = pytest.mark.skipif(not re2_available(), reason="google-re2 is not installed")


@pytest.mark.parametrize(
    ("pattern", "value", "expected"),
    [
        ("b.*", "bar", True),
        ("b.*", "foobar", False),
        ("bar", "bar\n", False),
        ("a.c", "a\nc", True),
        (".*", "", True),
        (".+", "", False),
        ("a|b||c", "", True),
        ("a|bc", "ab", False),
        ("(?i)ERROR", "error", True),
        (r"\d+", "42", True),
        (r"1\.2", "1x2", False),
    ],
)
def test_patterns_match_the_whole_value(pattern: str, value: str, expected: bool) -> None:
    assert compile_regex(pattern)(value) is expected


@needs_re2
@pytest.mark.parametrize(("pattern", "value"), [(r"\pL+", "äß"), (r"\d+", "٣"), (r"\Qa+\E", "a+")])
def test_re2_syntax_means_what_it_means_in_go(pattern: str, value: str) -> None:
    assert compile_regex(pattern)(value) is (pattern != r"\d+")


@needs_re2
@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("[", "missing closing ]: `[)$`"),
        ("(", "missing closing ): `^(?s:()$`"),
        ("a**", "invalid nested repetition operator: `**`"),
        ("(?=a)", "invalid or unsupported Perl syntax: `(?=`"),
        ("*", "missing argument to repetition operator: `*`"),
        ("a{1001}", "invalid repeat count: `{1001}`"),
        ("[z-a]", "invalid character class range: `z-a`"),
        (r"\1", r"invalid escape sequence: `\1`"),
        (r"a\C", r"invalid escape sequence: `\C`"),
    ],
)
def test_refusals_read_like_prometheus(pattern: str, message: str) -> None:
    with pytest.raises(ValueError, match="error parsing regexp") as caught:
        compile_regex(pattern)
    assert str(caught.value) == f"error parsing regexp: {message}"


def test_a_pattern_cannot_break_out_of_its_anchors() -> None:
    with pytest.raises(ValueError, match="unexpected"):
        compile_regex("a)|(b")


@needs_re2
def test_refusals_stay_off_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="missing closing"):
        compile_regex("(unfinished")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("compiled", [compile_groups, _compile_subset])
def test_groups_can_be_read_by_number_and_name(
    compiled: Callable[[str], Callable[[str], Match | None]],
) -> None:
    match = compiled(r"([^:]+)(?::(?P<port>\d+))?")
    found = match("host:80")
    assert found is not None
    assert (found.group(), found.group(1), found.group("port")) == ("host:80", "host", "80")
    bare = match("host")
    assert bare is not None
    assert bare.group("port") is None
    assert match("host:http") is None


def test_overlong_patterns_are_refused_unread() -> None:
    with pytest.raises(ValueError, match="longer than 65536"):
        compile_regex("(" * 70_000)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("abc", {"abc"}),
        ("a|b", {"a", "b"}),
        ("", {""}),
        (r"10\.0\.0\.1:9100|x", {"10.0.0.1:9100", "x"}),
        ("a.c", None),
        (r"a\d", None),
        (r"a\|b", None),
        ("(a|b)", None),
        (r"\ä", None),
    ],
)
def test_plain_alternatives_are_known_values(pattern: str, expected: set[str] | None) -> None:
    assert literals(pattern) == expected


# --- where no engine is needed ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "value", "expected"),
    [
        ("veth.*", "veth", True),
        ("veth.+", "veth", False),
        ("veth.*", "a\nveth", False),
        ("lo|br-[0-9a-f]+", "br-0af", True),
        ("lo|br-[0-9a-f]+", "br-", False),
        ("lo|br-[0-9a-f]+", "lobr-1", False),
        (r"1\.2\.[0-9]+", "1.2.3", True),
        ("a|ab.*|", "", True),
        ("[0-9]+", "٣", False),
    ],
)
def test_simple_patterns_match_as_a_whole(pattern: str, value: str, expected: bool) -> None:
    match = _compile_simple(pattern)
    assert match is not None
    assert (match(value) is not None) is expected


@pytest.mark.parametrize(
    "pattern",
    [
        *("a.*b", ".*a", "a[b]", "[^a]+", "[a-]+", "(a|b).*", "a.*|(b)", "[z-a]+", "^a.*"),
        *(r"\d+", "a\\", r"a\|b.*", "|".join(f"a{i}.*" for i in range(33))),
    ],
)
def test_other_patterns_are_left_to_an_engine(pattern: str) -> None:
    assert _compile_simple(pattern) is None


def test_the_ignore_lists_need_no_engine() -> None:
    lists = SystemSettings()
    for patterns in (lists.ignored_mount_points, lists.ignored_fstypes, lists.ignored_interfaces):
        pattern = "|".join(patterns)
        assert literals(pattern) or _compile_simple(pattern)


_TEXTS = st.text(alphabet="abZ09-_ #&~/ä\n", max_size=3)
_TAILS = st.sampled_from(["", ".", ".*", ".+", "[ab]+", "[0-9a-f]*", "[Z-a]+", "[aab-bZ]+"])


@needs_re2
@settings(max_examples=300)
@given(
    st.lists(st.tuples(_TEXTS, st.sampled_from(["", r"\.", r"\|", r"\-"]), _TAILS), max_size=4),
    st.text(alphabet="abZ09-_ #&~/ä\n.|", max_size=6),
)
def test_simple_patterns_mean_what_re2_means(parts: list[tuple[str, str, str]], value: str) -> None:
    pattern = "|".join("".join(part) for part in parts)
    match = _compile_simple(pattern)
    if match is not None:
        # A value that a part matches is rare by chance alone.
        for each in (value, *("".join(part[:1]) + value for part in parts)):
            assert (match(each) is None) is (compile_groups(pattern)(each) is None)


# --- without google-re2 ----------------------------------------------------------------------


def _subset_matches(pattern: str, value: str) -> bool:
    return re.fullmatch(translate(pattern), value, re.ASCII | re.DOTALL) is not None


@pytest.mark.parametrize(
    "pattern",
    [
        "(a+)+b",
        "(a|aa)*",
        "(a?){20}",
        "a?" * 30 + "a" * 30,
        ".*a.*b.*c",
        "(a|b)" * 15 + ".*",
        "(?=a)",
        "(?P<n>a)(?P<n>b)",
        r"(a)\1",
        "a++",
        r"\pL",
        r"\Qa\E",
        "[[:alpha:]]",
        "x" * 1025,
        "a{101}",
        "(",
        ")",
        "[a",
        "[z-a]",
        "a**",
        "\\",
    ],
)
def test_the_subset_refuses_what_re_reads_otherwise_or_slowly(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        translate(pattern)


@pytest.mark.parametrize(
    ("pattern", "value", "expected"),
    [
        ("foo.*|bar.*", "barley", True),
        ("(?:a|b)-[0-9]+", "b-17", True),
        (r"\s", "\v", False),
        (r"\d", "٣", False),
        ("a$", "a\n", False),
        ("^a", "a", True),
        ("[]a]+", "]a", True),
        (r"[^\]]", "]", False),
        ("[a-]", "-", True),
        ("(?i)abc", "ABC", True),
        ("(ab)?c", "abc", True),
        ("a{2,3}", "aaaa", False),
        ("x{2", "x{2", True),
        ("[&&~~||-]", "&", True),
        (r"\.\_\t", "._\t", True),
    ],
)
def test_the_subset_means_what_re2_means(pattern: str, value: str, expected: bool) -> None:
    assert _subset_matches(pattern, value) is expected
    if re2_available():
        assert compile_regex(pattern)(value) is expected


_ATOMS = st.sampled_from(["a", "b", ".", "[ab]", "[^a]", r"\d", r"\.", "(a|b)", "(?:ab)", "1", "-"])
_SUFFIXES = st.sampled_from(["", "", "", "?", "*", "+", "{2}", "{1,2}", "*?"])


@needs_re2
@settings(max_examples=150)
@given(
    st.lists(st.tuples(_ATOMS, _SUFFIXES), min_size=1, max_size=5).map(
        lambda parts: "".join(atom + suffix for atom, suffix in parts)
    ),
    st.text(alphabet="ab1.-\n", max_size=8),
)
def test_the_subset_agrees_with_re2_on_whatever_it_accepts(pattern: str, value: str) -> None:
    try:
        expected = _subset_matches(pattern, value)
    except ValueError:
        return
    assert compile_regex(pattern)(value) is expected
