"""Series as text, ``name{label="value"}``, with names that are no identifiers in quotes."""

from __future__ import annotations

import re
from typing import Final

from ...storage.model import METRIC_NAME, Labels

_NAME: Final = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL: Final = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_ESCAPES: Final = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


def metric_text(labels: Labels, name: str | None = None) -> str:
    """
    Write a series as OpenMetrics does.

    Args:
        name: Instead of the series' own.
    """
    name = labels.name if name is None else name
    pairs = [
        f"{label if _LABEL.fullmatch(label) else quoted(label)}={quoted(value)}"
        for label, value in labels
        if label != METRIC_NAME
    ]
    if not is_plain_name(name):
        pairs.insert(0, quoted(name))
        name = ""
    return f"{name}{{{','.join(pairs)}}}" if pairs else name


def is_plain_name(name: str) -> bool:
    """Tell whether a metric's name can be written without quotes."""
    return _NAME.fullmatch(name) is not None


def quoted(text: str) -> str:
    return f'"{text.translate(_ESCAPES)}"'
