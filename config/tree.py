"""
YAML text into a tree of scalars, lists and mappings that remember where they were written.

Built from the parser's events with a stack of its own, so nothing recurses: PyYAML's composer dies
of deep nesting. Scalars stay text; what they mean is decided by the setting they are for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeAlias

#: A configuration of some thousand targets has about 1 MiB; a larger file is the wrong file.
FILE_BYTES_MAX: Final = 4 * 1024 * 1024
DEPTH_MAX: Final = 64
ALIASES_MAX: Final = 1_000
#: Nodes with every alias written out: ten aliases of ten aliases of ... are cheap to write down.
NODES_MAX: Final = 100_000

# Types that say nothing new; what a value is depends on its setting.
_TAGS: Final = frozenset(
    {"!", *(f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "seq", "map"))}
)
_NULLS: Final = frozenset({"", "~", "null", "Null", "NULL"})
# What YAML does not allow in a stream; checked first because the C and the Python parser tell its
# position differently.
_FORBIDDEN: Final = re.compile(
    "[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]"
)
_VARIABLE: Final = re.compile(
    r"\$(?:(?P<dollar>\$)"
    r"|\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\}"
    # `${1}` is a group of a relabelling's regular expression, not a variable.
    r"|\{(?P<group>[0-9]+)\}"
    r"|\{(?P<wrong>))"
)


@dataclass(frozen=True, slots=True)
class Source:
    """
    Where text came from.

    Attributes:
        name: What messages call it: the path as given, or ``--set``.
        directory: What relative paths in it are relative to.
        rank: Messages are sorted by this, then by line and column.
        has_lines: Whether a line and a column in it help anyone.
    """

    name: str
    directory: Path
    rank: int = 0
    has_lines: bool = True


@dataclass(frozen=True, slots=True)
class Origin:
    """A position in a source; line and column count from 1, line 0 is the source as a whole."""

    source: Source
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        if not self.line or not self.source.has_lines:
            return self.source.name
        return f"{self.source.name}:{self.line}:{self.column}"

    def sort_key(self) -> tuple[int, int, int]:
        return self.source.rank, self.line, self.column


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake, as a line for the user."""

    origin: Origin
    path: str
    message: str

    def __str__(self) -> str:
        parts = (str(self.origin), _one_line(self.path, 200), _one_line(self.message, 1000))
        return ": ".join(filter(None, parts))


@dataclass(slots=True)
class ScalarNode:
    """Text as it means after quotes, escapes and variables; ``plain`` is without quotes."""

    text: str
    origin: Origin
    plain: bool = True
    size: int = 1

    @property
    def is_null(self) -> bool:
        return self.plain and self.text in _NULLS


@dataclass(slots=True)
class ListNode:
    origin: Origin
    items: list[Node] = field(default_factory=list)
    size: int = 1


@dataclass(slots=True)
class MappingNode:
    """Entries in the order written: key to (where the key stands, value)."""

    origin: Origin
    entries: dict[str, tuple[Origin, Node]] = field(default_factory=dict)
    size: int = 1


Node: TypeAlias = ScalarNode | ListNode | MappingNode


class YamlError(Exception):
    """The text is no YAML that could be read on; ``problem`` says where and why."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


def parse_tree(
    data: bytes, source: Source, env: Mapping[str, str] | None, problems: list[Problem]
) -> Node | None:
    """
    Parse one YAML document, ``None`` if it is empty; aliases share their node.

    Without ``env`` a ``$`` is a ``$``: variables are for the settings.

    Duplicate keys, unset variables and the like are added to ``problems`` and reading goes on.

    Raises:
        YamlError: Syntax errors, and text that is built to exhaust us.
    """
    text = _decode(data, source)
    return _Builder(source, env, problems).build(text)


def expand(text: str, env: Mapping[str, str]) -> str:
    """
    Replace ``${NAME}``, ``${NAME:-default}`` and ``$$`` in one scalar.

    The default also stands in for an empty variable, as in a shell. ``$1`` and ``${1}`` stay.

    Raises:
        ValueError: A variable is not set, or ``${`` begins nothing of these.
    """

    def replace(match: re.Match[str]) -> str:
        if match["dollar"]:
            return "$"
        if match["group"]:
            return match[0]
        name, default = match["name"], match["default"]
        if name is None:
            raise ValueError(
                'cannot read the variable after "${"; write ${NAME}, ${NAME:-default}, '
                "or $${ for a plain ${"
            )
        value = env.get(name)
        if value and not value.isascii() and any("\ud800" <= char < "\ue000" for char in value):
            raise ValueError(f"environment variable {name} is not UTF-8 text")
        if value or (value is not None and default is None):
            return value
        if default is None:
            raise ValueError(
                f"environment variable {name} is not set; set it or write ${{{name}:-default}}"
            )
        return default

    return _VARIABLE.sub(replace, text) if "$" in text else text


def merge(base: Node, over: Node) -> Node:
    """Merge two trees: mappings key by key, lists one after the other, else ``over`` wins."""
    if isinstance(base, MappingNode) and isinstance(over, MappingNode):
        merged = MappingNode(base.origin, dict(base.entries), base.size + over.size)
        for key, (origin, node) in over.entries.items():
            if key in merged.entries:
                node = merge(merged.entries[key][1], node)
            merged.entries[key] = origin, node
        return merged
    if isinstance(base, ListNode) and isinstance(over, ListNode):
        return ListNode(base.origin, [*base.items, *over.items], base.size + over.size)
    if isinstance(over, ScalarNode) and over.is_null:
        return base  # an empty section in a later file takes nothing away
    return over


def join_path(path: str, key: str | int) -> str:
    """Return ``path`` with one more step: ``storage.path``, ``scrape_configs[0]``."""
    if isinstance(key, int):
        return f"{path}[{key}]"
    return f"{path}.{key}" if path else key


def _one_line(text: str, length: int) -> str:
    # Keys and values come from the file and may hold anything; a message is one readable line.
    text = text if len(text) <= length else f"{text[: length - 3]}..."
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def _decode(data: bytes, source: Source) -> str:
    if len(data) > FILE_BYTES_MAX:
        raise YamlError(
            Problem(Origin(source), "", f"larger than {FILE_BYTES_MAX} bytes; not read")
        )
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        good = data[: error.start].decode("utf-8")
        raise YamlError(Problem(_origin_at(good, source), "", "not UTF-8 text")) from None
    text = text.removeprefix("\ufeff")
    bad = _FORBIDDEN.search(text)
    if bad:
        message = f"character U+{ord(bad[0]):04X} is not allowed"
        raise YamlError(Problem(_origin_at(text[: bad.start()], source), "", message))
    return text


def _origin_at(before: str, source: Source) -> Origin:
    return Origin(source, before.count("\n") + 1, len(before) - before.rfind("\n"))


@dataclass(slots=True)
class _Frame:
    """A list or mapping that is being read; ``key`` waits for its value."""

    node: ListNode | MappingNode
    anchor: str | None
    key: str | None = None
    key_origin: Origin | None = None
    key_merges: bool = False
    merges: list[tuple[Origin, Node]] = field(default_factory=list)

    @property
    def wants_key(self) -> bool:
        return isinstance(self.node, MappingNode) and self.key is None


class _Builder:
    """Turns the events of one document into nodes."""

    def __init__(
        self, source: Source, env: Mapping[str, str] | None, problems: list[Problem]
    ) -> None:
        self._source, self._env, self._problems = source, env, problems
        self._frames: list[_Frame] = []
        self._anchors: dict[str, Node] = {}
        self._aliases = 0
        self._nodes = 0
        self._root: Node | None = None

    def build(self, text: str) -> Node | None:
        import yaml

        documents = 0
        for event in self._events(text):
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    raise self._error(event, "a second document begins; a file holds only one")
            elif isinstance(event, yaml.AliasEvent):
                self._alias(event)
            elif isinstance(event, yaml.ScalarEvent):
                self._scalar(event)
            elif isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent)):
                self._open(event, is_mapping=isinstance(event, yaml.MappingStartEvent))
            elif isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
                self._close()
        root = self._root
        return None if isinstance(root, ScalarNode) and root.is_null else root

    def _events(self, text: str) -> Iterator[Any]:  # PyYAML's events are typed by class only
        import yaml

        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        try:
            yield from yaml.parse(text, Loader=loader)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            origin = Origin(self._source)
            if mark is not None:
                origin = Origin(self._source, mark.line + 1, mark.column + 1)
            text = ", ".join(filter(None, (error.problem, error.context)))
            begun = error.context_mark
            if begun is not None and begun.line + 1 != origin.line:
                text += f" that begins in line {begun.line + 1}"
            raise YamlError(Problem(origin, "", f"not YAML: {text}")) from None

    def _open(self, event: Any, *, is_mapping: bool) -> None:
        origin = self._origin(event)
        if self._frames and self._frames[-1].wants_key:
            raise self._error(event, "a key must be text, not a list or a mapping")
        if len(self._frames) >= DEPTH_MAX:
            raise self._error(event, f"nested more than {DEPTH_MAX} levels deep")
        self._check_tag(event)
        node = MappingNode(origin) if is_mapping else ListNode(origin)
        self._frames.append(_Frame(node, event.anchor))

    def _close(self) -> None:
        frame = self._frames.pop()
        node = frame.node
        if isinstance(node, MappingNode):
            for origin, merged in frame.merges:
                self._merge_key(node, origin, merged)
            children = [child for _, child in node.entries.values()]
        else:
            children = node.items
        node.size = 1 + sum(child.size for child in children)
        self._add(node, frame.anchor)

    def _scalar(self, event: Any) -> None:
        origin = self._origin(event)
        self._count(1, event)
        plain = event.style in (None, "") and not (event.tag or "").endswith(":str")
        if self._frames and self._frames[-1].wants_key:
            self._key(event, origin, plain)
            return
        self._check_tag(event)
        text = event.value
        try:
            text = text if self._env is None else expand(text, self._env)
        except ValueError as error:
            self._problem(origin, self._path(), str(error))
        self._add(ScalarNode(text, origin, plain), event.anchor)

    def _key(self, event: Any, origin: Origin, plain: bool) -> None:
        frame = self._frames[-1]
        assert isinstance(frame.node, MappingNode)
        frame.key, frame.key_origin = event.value, origin
        frame.key_merges = event.value == "<<" and plain
        if event.value in frame.node.entries:
            first = frame.node.entries[event.value][0]
            message = f"already given in line {first.line}; remove one of them"
            self._problem(origin, self._path(), message)

    def _alias(self, event: Any) -> None:
        self._aliases += 1
        if self._aliases > ALIASES_MAX:
            raise self._error(event, f"more than {ALIASES_MAX} aliases")
        if self._frames and self._frames[-1].wants_key:
            raise self._error(event, "a key must be text, not an alias")
        # A list or mapping gets its name when it is complete, so none can contain itself.
        node = self._anchors.get(event.anchor)
        if node is None:
            raise self._error(event, f"alias *{event.anchor} stands before its anchor")
        self._count(node.size, event)
        self._add(node, None)

    def _add(self, node: Node, anchor: str | None) -> None:
        """Put a complete node where it belongs."""
        if anchor is not None:
            self._anchors[anchor] = node
        if not self._frames:
            self._root = node
            return
        frame = self._frames[-1]
        if isinstance(frame.node, ListNode):
            frame.node.items.append(node)
            return
        key, origin = frame.key, frame.key_origin
        assert key is not None
        assert origin is not None
        if frame.key_merges:
            frame.merges.append((origin, node))
        else:
            frame.node.entries.setdefault(key, (origin, node))
        frame.key = None

    def _merge_key(self, node: MappingNode, origin: Origin, merged: Node) -> None:
        """Apply ``<<: *anchor`` or ``<<: [*a, *b]``: own keys win, then earlier mappings."""
        for item in merged.items if isinstance(merged, ListNode) else [merged]:
            if not isinstance(item, MappingNode):
                self._problem(
                    origin, join_path(self._path(), "<<"), "must be an alias of a mapping"
                )
                continue
            for key, entry in item.entries.items():
                node.entries.setdefault(key, entry)

    def _count(self, nodes: int, event: Any) -> None:
        self._nodes += nodes
        if self._nodes > NODES_MAX:
            raise self._error(event, f"more than {NODES_MAX} values, aliases written out")

    def _check_tag(self, event: Any) -> None:
        if event.tag and event.tag not in _TAGS:
            self._problem(self._origin(event), self._path(), f"tag {event.tag} has no meaning here")

    def _path(self) -> str:
        path = ""
        for frame in self._frames:
            if isinstance(frame.node, ListNode):
                path = join_path(path, len(frame.node.items))
            elif frame.key is not None:
                path = join_path(path, frame.key)
        return path

    def _origin(self, event: Any) -> Origin:
        mark = event.start_mark
        return Origin(self._source, mark.line + 1, mark.column + 1)

    def _problem(self, origin: Origin, path: str, message: str) -> None:
        self._problems.append(Problem(origin, path, message))

    def _error(self, event: Any, message: str) -> YamlError:
        return YamlError(Problem(self._origin(event), self._path(), message))
