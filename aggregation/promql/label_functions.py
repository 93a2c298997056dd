"""Functions that change labels or sort by them: ``label_replace``, ``sort_by_label`` …"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from typing import Any, Final

from ...config.regex_subset import translate
from ...storage.model import Labels
from .errors import ExecutionError
from .literals import is_legacy_label_name, is_utf8

_REFERENCE: Final = re.compile(r"\$(?:\$|([A-Za-z0-9_]+)|\{([A-Za-z0-9_]+)\})")
_DIGITS: Final = re.compile(r"(\d+)")

#: Returns the replacement for a value, or ``None`` if the expression doesn't match it.
Replacer = Callable[[str], str | None]


def check_label(name: str, role: str, function: str, *, legacy: bool) -> None:
    """
    Refuse a label name given to a function.

    Args:
        legacy: Only ASCII letters, digits and underscores, as in Prometheus 2.

    Raises:
        ExecutionError: The name is empty, no UTF-8, or against the old rules where these hold.
    """
    if not name or not is_utf8(name) or (legacy and not is_legacy_label_name(name)):
        raise ExecutionError(f"invalid {role} label name in {function}(): {name}")


def replacer(pattern: str, replacement: str) -> Replacer:
    """
    Compile what ``label_replace`` does with a value; the expression must match it as a whole.

    Raises:
        ExecutionError: The pattern is no regular expression.
    """
    match = _compile(pattern)
    parts = _template(replacement)

    def replace(value: str) -> str | None:
        found = match(value)
        if found is None:
            return None
        return "".join(part if plain else _group(found, part) for part, plain in parts)

    return replace


def _compile(pattern: str) -> Callable[[str], Any]:  # re2's match objects have no types
    try:
        import re2
    except ImportError:
        try:
            compiled = re.compile(translate(pattern), re.ASCII | re.DOTALL)
        except ValueError as error:
            raise _bad_regex(str(error)) from None
        return compiled.fullmatch
    options = re2.Options()
    options.dot_nl = True
    options.log_errors = False
    try:
        return re2.compile(pattern, options).fullmatch  # type: ignore[no-any-return]
    except re2.error:
        raise _bad_regex(pattern) from None


def _bad_regex(pattern: str) -> ExecutionError:
    return ExecutionError(f"invalid regular expression in label_replace(): {pattern}")


def _template(replacement: str) -> list[tuple[str, bool]]:
    """Split a replacement at ``$1``, ``${name}`` and ``$$``; the flag tells plain text."""
    parts: list[tuple[str, bool]] = []
    done = 0
    for found in _REFERENCE.finditer(replacement):
        parts.append((replacement[done : found.start()], True))
        name = found[1] or found[2]
        parts.append(("$", True) if name is None else (name, False))
        done = found.end()
    parts.append((replacement[done:], True))
    return [part for part in parts if part[0]]


def _group(found: Any, name: str) -> str:
    try:
        text: str | None = found.group(int(name) if name.isdigit() else name)
    except (IndexError, KeyError):
        return ""
    return text or ""


def with_label(labels: Labels, name: str, value: str) -> Labels:
    """Set a label, or remove it if the value is empty."""
    rest = [pair for pair in labels if pair[0] != name]
    if value:
        rest.append((name, value))
        rest.sort()
    return Labels(rest)


def sorted_by_labels(labels: Sequence[Labels], names: Sequence[str], *, down: bool) -> list[int]:
    """
    Return the order of series sorted by some labels' values, and then by all labels.

    Digits within values count as numbers, so that ``cpu10`` follows ``cpu9``.
    """

    def compare(a: int, b: int) -> int:
        for name in names:
            ours, theirs = natural_key(labels[a].get(name)), natural_key(labels[b].get(name))
            if ours != theirs:
                return -1 if ours < theirs else 1
        return -1 if labels[a] < labels[b] else int(labels[a] > labels[b])

    return sorted(range(len(labels)), key=functools.cmp_to_key(compare), reverse=down)


def natural_key(text: str) -> tuple[tuple[int, int, str], ...]:
    """A sort key in which runs of digits are numbers."""
    parts = _DIGITS.split(text)
    return tuple(
        (0, int(part), part) if index % 2 else (1, 0, part)
        for index, part in enumerate(parts)
        if part
    )
