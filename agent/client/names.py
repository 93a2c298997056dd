"""Which names a backend's metrics and labels may have, and which ones people stumble over."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

#: Endings that say a unit which isn't a base unit, and what to use in its place.
_ODD_UNITS: Final = {
    "ms": "seconds",
    "msec": "seconds",
    "millis": "seconds",
    "milliseconds": "seconds",
    "us": "seconds",
    "microseconds": "seconds",
    "ns": "seconds",
    "nanoseconds": "seconds",
    "minutes": "seconds",
    "hours": "seconds",
    "days": "seconds",
    "kb": "bytes",
    "kib": "bytes",
    "kilobytes": "bytes",
    "mb": "bytes",
    "mib": "bytes",
    "megabytes": "bytes",
    "gb": "bytes",
    "gib": "bytes",
    "gigabytes": "bytes",
    "bits": "bytes",
    "fahrenheit": "celsius",
    "kilometers": "meters",
    "millimeters": "meters",
    "milliamperes": "amperes",
    "millivolts": "volts",
}
#: Endings that the series of a histogram or summary have.
_PARTS: Final = ("_bucket", "_count", "_sum")


#: A longer help text is cut: no page shows it, and a message to the agent has a bound.
_HELP_CHARS_MAX: Final = 1_000


class MetricNameWarning(UserWarning):
    """A metric's name is allowed, but will surprise those who read it."""


def name_fault(name: str, labels: Sequence[str], type_: str) -> str:
    """Say why a metric can't be defined so; empty if it can."""
    if not _is_word(name, ":"):
        return f"{name!r} is no metric name: letters, digits and _, not beginning with a digit"
    for label in labels:
        fault = label_fault(label)
        if fault:
            return f"{name}: {fault}"
        if label == "le" and type_ == "histogram":
            return f"{name}: label 'le' is the histogram's own"
    if len(set(labels)) < len(labels):
        return f"{name}: a label is given twice in {', '.join(labels)}"
    return ""


def label_fault(label: str) -> str:
    """Say why a label can't have that name; empty if it can."""
    if not _is_word(label):
        return f"{label!r} is no label name: letters, digits and _, not beginning with a digit"
    if label.startswith("__"):
        return f"label {label!r} is reserved; don't begin it with two underscores"
    return ""


def name_clash(name: str, type_: str, types: Callable[[str], str]) -> str:
    """
    Say which metric has the same series as a new one; empty if none has.

    Args:
        types: The type of a metric that is there; empty for one that isn't.
    """
    if type_ == "histogram":
        for part in _PARTS:
            if types(name + part):
                return f"{name}: a histogram has series {name}{part}; that is a metric already"
    for part in _PARTS:
        base = name.removesuffix(part)
        if base != name and types(base) == "histogram":
            return f"{name}: {base} is a histogram and has series of this name"
    return ""


def name_lint(name: str, type_: str, unit: str = "") -> str:
    """Say what is unwise about a name that is allowed; empty if nothing is."""
    is_counter = type_ == "counter"
    if is_counter and not name.endswith("_total"):
        return f"{name}: a counter's name ends with _total"
    if not is_counter and name.endswith("_total"):
        return f"{name}: only a counter's name ends with _total"
    for part in (*_PARTS, "_created"):
        if name.endswith(part):
            return f"{name}: the ending {part} belongs to the series of histograms"
    base = name.removesuffix("_total")
    word = base.rpartition("_")[2]
    if word in _ODD_UNITS:
        return f"{name}: use the base unit, {_ODD_UNITS[word]}, not {word}"
    if unit and not base.endswith(f"_{unit}"):
        return f"{name}: its unit is {unit}, so the name ends with _{unit}"
    return ""


def as_unicode(text: str) -> str:
    """
    Replace what UTF-8 has no bytes for: halves of surrogate pairs, as file names that are no UTF-8
    and ``\\ud800`` in somebody's JSON have them. No message could carry them.
    """
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def help_text(help: object) -> str:
    """What somebody says of a metric, as the agent can be told it."""
    return "" if help is None else as_unicode(str(help)[:_HELP_CHARS_MAX])


def _is_word(text: str, more: str = "") -> bool:
    # A regular expression would cost the import of `re` in a bare process.
    if not isinstance(text, str) or not text or not text.isascii() or text[0].isdigit():
        return False
    return all(char.isalnum() or char == "_" or char in more for char in text)
