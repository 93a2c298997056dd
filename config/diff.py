"""What a reload would change, and what of it needs a restart."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from .fields import settings_of
from .kinds import Kind, ListOf, Section, Tagged
from .settings import Config
from .show import plain_value
from .tree import join_path

#: Bound when the process starts: sockets are open, files are locked, engines hold data, clients are
#: served by these limits. A name stands for all that is under it.
RESTART_PATHS: Final = (
    "listen",
    "insecure",
    "http",
    "stream",
    "promql",
    "metrics.custom",
    "log",
    "storage.path",
    "storage.engine",
    "storage.durability",
    "storage.fsync_interval",
    "storage.ballast_bytes",
    "storage.state_url",
    "storage.state_url_file",
)
_TEXT_CHARS_MAX: Final = 200


@dataclass(frozen=True, slots=True)
class Change:
    """
    One setting that differs.

    Attributes:
        path: Such as ``storage.retention.raw``, or ``scrape_configs.api`` for a whole named item.
        before: As YAML would show it, secrets masked, at most 200 characters; ``None``: not there.
        after: Likewise.
        reloadable: Whether a reload can apply it.
    """

    path: str
    before: str | None
    after: str | None
    reloadable: bool

    def __str__(self) -> str:
        if self.before is None:
            return f"{self.path}: added {self.after}"
        if self.after is None:
            return f"{self.path}: removed {self.before}"
        if self.before == self.after:
            return f"{self.path}: changed"  # a secret, or beyond the part that is shown
        return f"{self.path}: {self.before} -> {self.after}"


@dataclass(frozen=True, slots=True)
class ConfigDiff:
    """All changes between two configurations, in the order of the settings."""

    changes: tuple[Change, ...]

    @property
    def sections(self) -> frozenset[str]:
        """The top-level keys under which something changed."""
        return frozenset(change.path.partition(".")[0] for change in self.changes)

    @property
    def needs_restart(self) -> tuple[Change, ...]:
        """Changes that a reload cannot apply; the running values stay until a restart."""
        return tuple(change for change in self.changes if not change.reloadable)


def diff_configs(old: Config, new: Config) -> ConfigDiff:
    """Compare two configurations setting by setting; lists of named items item by item."""
    return ConfigDiff(tuple(_sections(old, new, "")))


def _sections(old: Any, new: Any, path: str) -> Iterator[Change]:
    for known in settings_of(type(new)):
        here, kind = join_path(path, known.key), known.setting.kind
        before, after = getattr(old, known.name), getattr(new, known.name)
        if before == after:
            continue
        if isinstance(kind, Section) and before is not None and after is not None:
            yield from _sections(before, after, here)
        elif isinstance(kind, ListOf) and kind.unique and _named(kind, before, after):
            yield from _items(kind, before, after, here)
        else:
            yield _change(kind, before, after, here)


def _named(kind: ListOf, *lists: tuple[Any, ...]) -> bool:
    return all(getattr(item, kind.unique) for items in lists for item in items)


def _items(kind: ListOf, old: Any, new: Any, path: str) -> Iterator[Change]:
    assert isinstance(kind.item, (Section, Tagged))
    before = {getattr(item, kind.unique): item for item in old}
    after = {getattr(item, kind.unique): item for item in new}
    for name in {**before, **after}:
        if before.get(name) != after.get(name):
            here = join_path(path, str(name))
            yield _change(kind.item, before.get(name), after.get(name), here)
    if list(before) != list(after) and before.keys() == after.keys():
        yield Change(path, "another order", "this order", True)


def _change(kind: Kind, before: Any, after: Any, path: str) -> Change:
    fixed = any(path == each or path.startswith(f"{each}.") for each in RESTART_PATHS)
    return Change(path, _text(kind, before), _text(kind, after), not fixed)


def _text(kind: Kind, value: Any) -> str | None:
    if value is None:
        return None
    plain = plain_value(kind, value)
    if not isinstance(plain, str):
        import json

        plain = json.dumps(plain, ensure_ascii=False)
    return plain if len(plain) <= _TEXT_CHARS_MAX else f"{plain[: _TEXT_CHARS_MAX - 3]}..."
