"""YAML as a tree with positions, and what it refuses."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tachograph.config.tree import (
    ALIASES_MAX,
    DEPTH_MAX,
    FILE_BYTES_MAX,
    ListNode,
    MappingNode,
    Node,
    Problem,
    ScalarNode,
    Source,
    YamlError,
    expand,
    merge,
    parse_tree,
)

SOURCE = Source("x.yml", Path("/etc"))


def parse(text: str | bytes, env: Mapping[str, str] | None = None) -> tuple[Any, list[str]]:
    """Return the tree as plain lists and dicts, and the problems as lines."""
    problems: list[Problem] = []
    data = text if isinstance(text, bytes) else text.encode()
    node = parse_tree(data, SOURCE, env or {}, problems)
    return plain(node), [str(problem) for problem in problems]


def plain(node: Node | None) -> Any:
    if node is None:
        return None
    if isinstance(node, ScalarNode):
        return None if node.is_null else node.text
    if isinstance(node, ListNode):
        return [plain(item) for item in node.items]
    return {key: plain(child) for key, (_, child) in node.entries.items()}


def refusal(text: str | bytes) -> str:
    with pytest.raises(YamlError) as caught:
        parse(text)
    return str(caught.value.problem)


def test_scalars_stay_the_text_that_was_written() -> None:
    tree, problems = parse(
        "{a: 010, b: yes, c: 12:30:00, d: '~', e: ~, f: 1_000, g: 2020-01-01, h: }"
    )
    assert problems == []
    assert tree == {
        "a": "010",
        "b": "yes",
        "c": "12:30:00",
        "d": "~",
        "e": None,
        "f": "1_000",
        "g": "2020-01-01",
        "h": None,
    }


def test_every_node_knows_its_line_and_column() -> None:
    node = parse_tree(b"a:\n  - b\n  - {c: d}\n", SOURCE, {}, [])
    assert isinstance(node, MappingNode)
    items = node.entries["a"][1]
    assert isinstance(items, ListNode)
    inner = items.items[1]
    assert isinstance(inner, MappingNode)
    key_origin, value = inner.entries["c"]
    places = [str(origin) for origin in (items.items[0].origin, key_origin, value.origin)]
    assert places == ["x.yml:2:5", "x.yml:3:6", "x.yml:3:9"]


@pytest.mark.parametrize("text", ["", "# only a comment\n", "---\n", "null", "\ufeff"])
def test_nothing_is_no_tree(text: str) -> None:
    assert parse(text) == (None, [])


def test_aliases_and_merge_keys_work() -> None:
    tree, problems = parse(
        "base: &base {a: '1', b: '2'}\n"
        "more: &more {b: '3', c: '4'}\n"
        "one: {<<: *base, b: own}\n"
        "two: {<<: [*base, *more], d: *base}\n"
    )
    assert problems == []
    assert tree["one"] == {"a": "1", "b": "own"}
    assert tree["two"] == {"a": "1", "b": "2", "c": "4", "d": {"a": "1", "b": "2"}}


def test_a_quoted_merge_key_is_an_ordinary_key() -> None:
    assert parse("{'<<': x}") == ({"<<": "x"}, [])
    assert parse("{<<: x}") == ({}, ["x.yml:1:2: <<: must be an alias of a mapping"])


def test_the_second_of_two_equal_keys_is_a_mistake() -> None:
    tree, problems = parse("a: 1\nb:\n  c: 2\n  c: 3\na: 4\n")
    assert tree == {"a": "1", "b": {"c": "2"}}
    assert problems == [
        "x.yml:4:3: b.c: already given in line 3; remove one of them",
        "x.yml:5:1: a: already given in line 1; remove one of them",
    ]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: b: c", "x.yml:1:5: not YAML: mapping values are not allowed in this context"),
        ("a: 1\n---\nb: 2", "x.yml:2:1: a second document begins; a file holds only one"),
        ("a: *b", "x.yml:1:4: a: alias *b stands before its anchor"),
        ("a: &a [*a]", "x.yml:1:8: a[0]: alias *a stands before its anchor"),
        ("? [a]\n: b", "x.yml:1:3: a key must be text, not a list or a mapping"),
        ("a: &a b\n*a : c", "x.yml:2:1: a key must be text, not an alias"),
        ("a: \x01", "x.yml:1:4: character U+0001 is not allowed"),
        (b"a: 1\nb: \xff", "x.yml:2:4: not UTF-8 text"),
    ],
)
def test_text_that_cannot_be_read_on_is_refused_with_its_place(
    text: str | bytes, line: str
) -> None:
    assert refusal(text) == line


@pytest.mark.parametrize("text", ["a: [", "a:\n\t- b", 'a: "x', "%", "{a", "- b\nc: d", "!<x"])
def test_syntax_errors_have_a_place(text: str) -> None:
    assert refusal(text).startswith("x.yml:")
    assert ": not YAML: " in refusal(text)


def test_foreign_tags_have_no_meaning() -> None:
    tree, problems = parse("a: !!python/object/apply:os.system [x]\nb: !x y\nc: !!str 1\n")
    assert problems == [
        "x.yml:1:4: a: tag tag:yaml.org,2002:python/object/apply:os.system has no meaning here",
        "x.yml:2:4: b: tag !x has no meaning here",
    ]
    assert tree["c"] == "1"


def test_messages_are_one_readable_line() -> None:
    _, problems = parse('"a\\nb\\e": 1\n"a\\nb\\e": 2\n')
    assert problems == [r"x.yml:2:1: a\nb\x1b: already given in line 1; remove one of them"]
    assert len(str(Problem(parse_origin(), "k" * 9999, "m" * 9999))) < 1300


def parse_origin() -> Any:
    node = parse_tree(b"a", SOURCE, {}, [])
    assert node is not None
    return node.origin


# --- bombs: each of these takes milliseconds to refuse, and would take minutes or all memory ------


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[" * 200_000, f"nested more than {DEPTH_MAX} levels"),
        ("{a: " * 200_000, f"nested more than {DEPTH_MAX} levels"),
        ("- " * 200_000, f"nested more than {DEPTH_MAX} levels"),
        ("? " * 200_000, "a key must be text"),
        (
            "a: &a [x,x,x,x,x,x,x,x,x,x]\n"
            + "".join(
                f"{name}: &{name} [{','.join([f'*{below}'] * 10)}]\n"
                for below, name in zip("abcdefgh", "bcdefghi", strict=True)
            ),
            "aliases written out",
        ),
        ("- &a x\n" + "- *a\n" * (ALIASES_MAX + 1), f"more than {ALIASES_MAX} aliases"),
        ("[" + "a," * 1_000_000 + "]", "more than 100000 values"),
        ("x" * (FILE_BYTES_MAX + 1), "larger than"),
        ("[" + '"a":b,' * 600_000, "more than 100000 values"),
    ],
    ids=["flow", "mapping", "block", "keys", "alias", "aliases", "wide", "size", "pairs"],
)
def test_bombs_are_refused_at_their_limit(text: str, reason: str) -> None:
    assert reason in refusal(text)


def test_a_bomb_of_merge_keys_does_not_go_off() -> None:
    names = "abcdefghijklmnopqrstuvwx"
    text = "a: &a {k0: 1, k1: 2}\n" + "".join(
        f"{name}: &{name} {{<<: [{','.join([f'*{below}'] * 30)}], {name}: x}}\n"
        for below, name in pairwise(names)
    )
    node = parse_tree(text.encode(), SOURCE, {}, [])
    assert node is not None
    assert node.size < 1000


@given(st.text(alphabet="ab:-[]{},&*!|>'\"%@`#? \n\t<0~", max_size=40))
def test_any_text_is_a_tree_or_a_refusal(text: str) -> None:
    try:
        parse(text)
    except YamlError:
        return


# --- variables -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("${A}", "1"),
        ("x${A}y${A}", "x1y1"),
        ("${NO:-default}", "default"),
        ("${NO:-}", ""),
        ("${EMPTY:-default}", "default"),
        ("${EMPTY}", ""),
        ("$$", "$"),
        ("$${A}", "${A}"),
        ("$$${A}", "$1"),
        ("$1-${1}-$", "$1-${1}-$"),
        ("${LOOP}", "${A}"),
        ("${NO:-a:b}", "a:b"),
    ],
)
def test_variables_are_replaced_once(text: str, expected: str) -> None:
    assert expand(text, {"A": "1", "EMPTY": "", "LOOP": "${A}"}) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("${NO}", "environment variable NO is not set; set it or write ${NO:-default}"),
        ("${A-x}", "cannot read the variable"),
        ("${", "cannot read the variable"),
        ("${A", "cannot read the variable"),
        ("${a b}", "cannot read the variable"),
        ("${BAD}", "environment variable BAD is not UTF-8 text"),
    ],
)
def test_variables_that_mean_nothing_are_mistakes(text: str, message: str) -> None:
    with pytest.raises(ValueError, match="variable") as caught:
        expand(text, {"A": "1", "BAD": "\udcff"})
    assert message in str(caught.value)


def test_a_variable_cannot_add_yaml() -> None:
    env = {"EVIL": "x\nlisten: 0.0.0.0:1\n# }"}
    assert parse("a: ${EVIL}\nb: '${EVIL}'", env)[0] == {"a": env["EVIL"], "b": env["EVIL"]}


def test_comments_and_keys_are_left_alone() -> None:
    assert parse("# ${NO}\n${NO}: a # ${NO}\n") == ({"${NO}": "a"}, [])


def test_without_an_environment_a_dollar_is_a_dollar() -> None:
    problems: list[Problem] = []
    assert plain(parse_tree(b"a: ${NO} $$", SOURCE, None, problems)) == {"a": "${NO} $$"}
    assert problems == []


# --- merging ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("base", "over", "expected"),
    [
        ("a: 1", "a: 2", {"a": "2"}),
        ("a: {b: 1, c: 2}", "a: {c: 3, d: 4}", {"a": {"b": "1", "c": "3", "d": "4"}}),
        ("a: [1]", "a: [2]", {"a": ["1", "2"]}),
        ("a: [1]", "a:", {"a": ["1"]}),
        ("a: [1]", "a: {b: 1}", {"a": {"b": "1"}}),
        ("a:", "a: [1]", {"a": ["1"]}),
    ],
)
def test_later_files_add_and_override(base: str, over: str, expected: Any) -> None:
    first = parse_tree(base.encode(), SOURCE, {}, [])
    second = parse_tree(over.encode(), SOURCE, {}, [])
    assert first is not None
    assert second is not None
    assert plain(merge(first, second)) == expected
