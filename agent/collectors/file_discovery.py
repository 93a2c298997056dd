"""Targets from files: ``file_sd_configs``, read again when a file has changed."""

from __future__ import annotations

import glob
import itertools
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec

from ...config.prometheus import FileSdConfig
from ...config.tree import (
    FILE_BYTES_MAX,
    ListNode,
    MappingNode,
    Node,
    Problem,
    ScalarNode,
    Source,
    YamlError,
    parse_tree,
)
from .targets import TargetGroup

FILEPATH_LABEL: Final = "__meta_filepath"
#: A pattern that matches more files than this is a wrong pattern.
FILES_MAX: Final = 1_000


class _Group(msgspec.Struct, forbid_unknown_fields=True):
    targets: list[str] | None = None
    labels: dict[str, str] | None = None


@dataclass(slots=True)
class _File:
    stamp: tuple[int, int, int]
    groups: list[TargetGroup] = field(default_factory=list)


class FileDiscovery:
    """
    Reads the files of one ``file_sd_config``.

    A file that cannot be read any more keeps the targets it had; one that is gone has none.

    Attributes:
        problems: What is wrong now, by path.
    """

    def __init__(self, config: FileSdConfig) -> None:
        self.config = config
        self.problems: dict[str, str] = {}
        self._files: dict[str, _File] = {}

    def read(self) -> list[TargetGroup]:
        """Return all groups, in order of the files' names. Blocks."""
        files: dict[str, _File] = {}
        problems: dict[str, str] = {}
        for pattern in self.config.files:
            paths = sorted(itertools.islice(glob.iglob(pattern), FILES_MAX))
            if not paths and not glob.has_magic(pattern):
                problems[pattern] = "no such file"
            for path in paths:
                files[path] = self._refreshed(path, problems)
        self._files, self.problems = files, problems
        return [group for file in files.values() for group in file.groups]

    def _refreshed(self, path: str, problems: dict[str, str]) -> _File:
        known = self._files.get(path, _File((0, 0, 0)))
        stamp = known.stamp
        try:
            state = os.stat(path)
            stamp = (state.st_mtime_ns, state.st_size, state.st_ino)
            if known.stamp != stamp:
                return _File(stamp, _groups(path))
            if path in self.problems:
                problems[path] = self.problems[path]
        except (OSError, ValueError) as error:
            # With its stamp, a bad file is not looked at again before it changes.
            problems[path] = str(error)
        return _File(stamp, known.groups)


def _groups(path: str) -> list[TargetGroup]:
    """Read one file. Raises ``OSError``, or ``ValueError`` with what is wrong in it."""
    with open(path, "rb") as file:
        data = file.read(FILE_BYTES_MAX + 1)
    if len(data) > FILE_BYTES_MAX:
        raise ValueError(f"is larger than {FILE_BYTES_MAX} bytes")
    try:
        if path.endswith(".json"):
            groups = msgspec.json.decode(data, type=list[_Group])
        else:
            groups = msgspec.convert(_plain_yaml(data, path), list[_Group])
    except msgspec.MsgspecError as error:
        raise ValueError(str(error)) from None
    return [
        TargetGroup(
            source=f"{path}:{number}",
            addresses=tuple(group.targets or ()),
            labels={**(group.labels or {}), FILEPATH_LABEL: path},
        )
        for number, group in enumerate(groups)
    ]


def _plain_yaml(data: bytes, path: str) -> Any:
    """Return what YAML says, every scalar as text."""
    problems: list[Problem] = []
    # Variables are for the settings only: here a dollar is a dollar.
    source = Source(path, Path(path).parent)
    try:
        tree = parse_tree(data.replace(b"$", b"$$"), source, {}, problems)
    except YamlError as error:
        raise ValueError(str(error)) from None
    if problems:
        raise ValueError(str(problems[0]))
    return [] if tree is None else _plain(tree)


def _plain(node: Node) -> Any:
    # Recursion is fine here: a tree is never deeper than config.tree.DEPTH_MAX.
    if isinstance(node, ListNode):
        return [_plain(item) for item in node.items]
    if isinstance(node, MappingNode):
        return {key: _plain(value) for key, (_, value) in node.entries.items()}
    assert isinstance(node, ScalarNode)
    return None if node.is_null else node.text
