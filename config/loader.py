"""Finds, reads and checks the configuration; every mistake is told at once, with its place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from .decode import Decoder
from .errors import ConfigError
from .settings import Config
from .tree import (
    FILE_BYTES_MAX,
    MappingNode,
    Node,
    Origin,
    Problem,
    ScalarNode,
    Source,
    YamlError,
    expand,
    merge,
    parse_tree,
)

#: More lines than a screen holds help nobody; a file of the wrong kind makes thousands.
PROBLEMS_SHOWN_MAX: Final = 100
#: Files in ``conf.d``.
DROP_INS_MAX: Final = 1_000

_NAMES: Final = ("tachograph.yml", "tachograph.yaml")


@dataclass(frozen=True, slots=True)
class Loaded:
    """
    What was read.

    Attributes:
        config: ``None`` if there are problems.
        problems: In the order of files, lines and columns.
        origins: Where each given value stands, by path such as ``storage.retention.raw``.
        files: Files read: the configuration, then those of ``conf.d`` in name order.
    """

    config: Config | None
    problems: tuple[Problem, ...]
    origins: Mapping[str, Origin]
    files: tuple[Path, ...]


def find_config(
    explicit: Path | None, *, env: Mapping[str, str], cwd: Path | None = None
) -> Path | None:
    """
    Return the configuration file to use, or ``None`` for the defaults.

    Tried in this order, each as ``.yml`` and ``.yaml``: ``explicit`` (the command line),
    ``$TACHOGRAPH_CONFIG``, ``./tachograph.yml``, ``$XDG_CONFIG_HOME/tachograph/tachograph.yml``
    (``~/.config`` unless set), ``/etc/tachograph/tachograph.yml``. The first two are returned even
    if there is no such file, so that loading them fails.
    """
    if explicit is not None:
        return explicit
    if env.get("TACHOGRAPH_CONFIG"):
        return Path(env["TACHOGRAPH_CONFIG"])
    folders = [cwd or Path()]
    if env.get("XDG_CONFIG_HOME"):
        folders.append(Path(env["XDG_CONFIG_HOME"]) / "tachograph")
    elif env.get("HOME"):
        folders.append(Path(env["HOME"]) / ".config" / "tachograph")
    folders.append(Path("/etc/tachograph"))
    candidates = (folder / name for folder in folders for name in _NAMES)
    return next((path for path in candidates if path.is_file()), None)


def load_config(
    path: Path | None, *, env: Mapping[str, str], overrides: Sequence[str] = ()
) -> Config:
    """
    Read ``path`` and the ``*.yml`` files of ``conf.d`` beside it, then apply ``overrides``.

    Args:
        path: ``None`` means defaults, which ``overrides`` may still change.
        env: For ``${NAME}`` and ``${NAME:-default}`` in values.
        overrides: ``key.path=value`` each; a value that begins with one of ``[{"'`` is YAML.

    Raises:
        ConfigError: With all mistakes, one line each.
    """
    loaded = read_config(path, env=env, overrides=overrides)
    if loaded.config is None:
        raise ConfigError(problem_lines(loaded.problems))
    return loaded.config


def read_config(
    path: Path | None, *, env: Mapping[str, str], overrides: Sequence[str] = ()
) -> Loaded:
    """Do what :func:`load_config` does, but return mistakes instead of raising them."""
    problems: list[Problem] = []
    files = [path, *_drop_ins(path, problems)] if path is not None else []
    tree: Node = MappingNode(Origin(Source("defaults", Path())))
    for rank, file in enumerate(files):
        node = _read(file, rank, env, problems)
        if node is not None:
            tree = merge(tree, node)
    for rank, override in enumerate(overrides, start=len(files)):
        source = Source("--set", Path.cwd(), rank, has_lines=False)
        tree = _override(tree, override, source, env, problems)
    decoder = Decoder()
    config = decoder.decode(Config, tree)
    # A variable that is not set leaves its `${...}` in place; what that text is not is no news.
    told = {(problem.origin, problem.path) for problem in problems}
    problems += [p for p in decoder.problems if (p.origin, p.path) not in told]
    problems.sort(key=lambda problem: problem.origin.sort_key())
    return Loaded(None if problems else config, tuple(problems), decoder.origins, tuple(files))


def problem_lines(problems: Sequence[Problem]) -> list[str]:
    """Return a line per problem, and one that counts the rest beyond the first hundred."""
    lines = [str(problem) for problem in problems[:PROBLEMS_SHOWN_MAX]]
    if len(problems) > len(lines):
        lines.append(f"... and {len(problems) - len(lines)} more")
    return lines


def _drop_ins(path: Path, problems: list[Problem]) -> list[Path]:
    folder = path.parent / "conf.d"
    try:
        found = sorted(
            child
            for child in folder.iterdir()
            if child.suffix in (".yml", ".yaml") and not child.name.startswith(".")
        )
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        origin = Origin(Source(str(folder), folder))
        problems.append(Problem(origin, "", f"cannot be read: {error.strerror}"))
        return []
    if len(found) > DROP_INS_MAX:
        origin = Origin(Source(str(folder), folder))
        problems.append(Problem(origin, "", f"holds more than {DROP_INS_MAX} files"))
    return found[:DROP_INS_MAX]


def _read(file: Path, rank: int, env: Mapping[str, str], problems: list[Problem]) -> Node | None:
    source = Source(str(file), file.parent.absolute(), rank)
    try:
        with open(file, "rb") as stream:
            data = stream.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        problems.append(Problem(Origin(source), "", f"cannot be read: {error.strerror}"))
        return None
    return _parse(data, source, env, problems)


def _parse(
    data: bytes, source: Source, env: Mapping[str, str], problems: list[Problem]
) -> Node | None:
    try:
        return parse_tree(data, source, env, problems)
    except YamlError as error:
        problems.append(error.problem)
        return None


def _override(
    tree: Node, override: str, source: Source, env: Mapping[str, str], problems: list[Problem]
) -> Node:
    """Return ``tree`` with one ``key.path=value`` put in; nodes are copied, aliases stay whole."""
    path, equals, text = override.partition("=")
    path, origin = path.strip(), Origin(source)
    if not equals or not all(path.split(".")):
        message = f'"{override}" is not a setting; write --set storage.path=data'
        problems.append(Problem(origin, "", message))
        return tree
    value: Node | None
    if text[:1] in ("[", "{", '"', "'"):
        before = len(problems)
        value = _parse(text.encode("utf-8", "surrogateescape"), source, env, problems)
        problems[before:] = [Problem(origin, path, p.message) for p in problems[before:]]
    else:
        # Not YAML, so that `#`, `:` and the like need no quotes beside those of the shell.
        try:
            value = ScalarNode(expand(text, env), origin)
        except ValueError as error:
            problems.append(Problem(origin, path, str(error)))
            return tree
    if value is None:
        return tree
    return _with_value(tree, path.split("."), value, origin)


def _with_value(tree: Node, keys: Sequence[str], value: Node, origin: Origin) -> Node:
    if not keys:
        return value
    # A section that is a list or a single value by mistake is replaced: `--set` wins.
    entries = dict(tree.entries) if isinstance(tree, MappingNode) else {}
    below = entries[keys[0]][1] if keys[0] in entries else MappingNode(origin)
    entries[keys[0]] = origin, _with_value(below, keys[1:], value, origin)
    return MappingNode(tree.origin, entries)
