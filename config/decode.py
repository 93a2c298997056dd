"""The positioned tree into settings: every mistake is noted with its place and reading goes on."""

from __future__ import annotations

from typing import Any, Final

from .checks import check_section, repeated
from .fields import settings_of, unsupported_keys
from .kinds import FilePath, Kind, ListOf, MapOf, Scalar, Section, Tagged, near
from .tree import ListNode, MappingNode, Node, Origin, Problem, ScalarNode, join_path

#: Stands for a value that was wrong; the section above it cannot be built.
_INVALID: Final = object()

_ARTICLES: Final = {"text": "text", "secret": "text", "integer": "an integer"}


class Decoder:
    """
    Reads one tree.

    Attributes:
        problems: What was wrong so far.
        origins: Where each value stands, by path; a mapping's or list's is its first character.
    """

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.origins: dict[str, Origin] = {}

    def decode(self, model: type[Any], node: Node) -> Any:
        """Return an object of ``model``, or ``None`` if anything in it was wrong."""
        value = self._section(model, node, "")
        return None if value is _INVALID else value

    def _value(self, kind: Kind, node: Node, path: str) -> Any:
        self.origins[path] = node.origin
        if isinstance(kind, Section):
            return self._section(kind.model, node, path)
        if isinstance(kind, Tagged):
            return self._tagged(kind, node, path)
        if isinstance(kind, ListOf):
            return self._list(kind, node, path)
        if isinstance(kind, MapOf):
            return self._map(kind, node, path)
        assert isinstance(kind, Scalar), f"unknown kind {kind!r}"
        return self._scalar(kind, node, path)

    def _scalar(self, kind: Scalar, node: Node, path: str) -> Any:
        if not isinstance(node, ScalarNode):
            wanted = _ARTICLES.get(kind.word, f"a {kind.word}")
            return self._wrong(node.origin, path, f"must be {wanted}, not {_shape(node)}")
        try:
            value = kind.parse(node.text)
        except ValueError as error:
            return self._wrong(node.origin, path, str(error))
        if isinstance(kind, FilePath):
            return kind.joined(node.origin.source.directory, value)
        return value

    def _list(self, kind: ListOf, node: Node, path: str) -> Any:
        if not isinstance(node, ListNode):
            message = f"must be a list, not {_shape(node)}; write [a, b], or `- a` line by line"
            return self._wrong(node.origin, path, message)
        values: dict[int, Any] = {}
        for index, item in enumerate(node.items):
            here = join_path(path, index)
            if isinstance(item, ScalarNode) and item.is_null:
                self._wrong(item.origin, here, "is empty")
                continue
            value = self._value(kind.item, item, here)
            if value is not _INVALID:
                values[index] = value
        for index, message in repeated(kind, values):
            here = join_path(join_path(path, index), kind.unique)
            self._wrong(self.origins.get(here, node.items[index].origin), here, message)
        return tuple(values.values()) if len(values) == len(node.items) else _INVALID

    def _map(self, kind: MapOf, node: Node, path: str) -> Any:
        if not isinstance(node, MappingNode):
            return self._wrong(node.origin, path, f"must be a mapping, not {_shape(node)}")
        values: dict[str, Any] = {}
        for key, (origin, child) in node.entries.items():
            here = join_path(path, key)
            try:
                kind.keys.parse(key)
            except ValueError as error:
                self._wrong(origin, here, f"the key {error}")
                continue
            if isinstance(child, ScalarNode) and child.is_null:
                child = ScalarNode("", child.origin, plain=False)
            value = self._value(kind.item, child, here)
            if value is not _INVALID:
                values[key] = value
        return values if len(values) == len(node.entries) else _INVALID

    def _tagged(self, kind: Tagged, node: Node, path: str) -> Any:
        if not isinstance(node, MappingNode):
            return self._wrong(node.origin, path, f"must be a mapping, not {_shape(node)}")
        choices = ", ".join(kind.models)
        if kind.tag not in node.entries:
            message = f"'{kind.tag}' is required: one of {choices}"
            return self._wrong(node.origin, path, message)
        tag = node.entries[kind.tag][1]
        name = tag.text if isinstance(tag, ScalarNode) else ""
        if name not in kind.models:
            message = f'"{name}" is not one of {choices}{near(name, tuple(kind.models))}'
            return self._wrong(tag.origin, join_path(path, kind.tag), message)
        rest = {key: entry for key, entry in node.entries.items() if key != kind.tag}
        return self._section(kind.models[name], MappingNode(node.origin, rest), path, kind.tag)

    def _section(self, model: type[Any], node: Node, path: str, tag: str = "") -> Any:
        if isinstance(node, ScalarNode) and node.is_null:
            node = MappingNode(node.origin)
        if not isinstance(node, MappingNode):
            return self._wrong(node.origin, path, f"must be a mapping, not {_shape(node)}")
        before = len(self.problems)
        known = {setting.key: setting for setting in settings_of(model)}
        values: dict[str, Any] = {}
        wrong: set[str] = set()
        for key, (origin, child) in node.entries.items():
            here = join_path(path, key)
            if key not in known:
                self._unknown(model, [*known, *filter(None, [tag])], key, origin, here)
                continue
            self.origins[here] = child.origin
            if isinstance(child, ScalarNode) and child.is_null:
                continue  # `key:` alone is as good as no key, as in Prometheus
            value = self._value(known[key].setting.kind, child, here)
            if value is _INVALID:
                wrong.add(known[key].name)
            else:
                values[known[key].name] = value
        for setting in known.values():
            if setting.required and setting.name not in values and setting.name not in wrong:
                self._missing(setting.key, node, path)
                wrong.add(setting.name)
        if any(setting.required and setting.name in wrong for setting in known.values()):
            return _INVALID
        section = model(**values)
        for key, message in check_section(section, wrong if before < len(self.problems) else None):
            here = join_path(path, key) if key else path
            self._wrong(self.origins.get(here, node.origin), here, message)
        return section if before == len(self.problems) else _INVALID

    def _missing(self, key: str, node: MappingNode, path: str) -> None:
        if key in node.entries:
            self._wrong(node.entries[key][1].origin, join_path(path, key), "must not be empty")
        else:
            self._wrong(node.origin, path, f"'{key}' is required")

    def _unknown(
        self, model: type[Any], known: list[str], key: str, origin: Origin, path: str
    ) -> None:
        hints = unsupported_keys(model)
        if key in hints:
            hint = f"; {hints[key]}" if hints[key] else ""
            self._wrong(origin, path, f"Prometheus' '{key}' is not supported yet{hint}")
        else:
            self._wrong(origin, path, f"unknown setting{near(key, known)}")

    def _wrong(self, origin: Origin, path: str, message: str) -> Any:
        self.problems.append(Problem(origin, path, message))
        return _INVALID


def _shape(node: Node) -> str:
    if isinstance(node, MappingNode):
        return "a mapping"
    return "a list" if isinstance(node, ListNode) else "a single value"
