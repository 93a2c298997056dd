"""Which names, labels and types a pushed point may have, and what kind of series it makes."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from ...storage.model import METRIC_NAME, Kind, MetricType

if TYPE_CHECKING:  # 20 ms that the backend's process needn't spend on importing our client
    from ...config.settings import StorageLimits

# A cumulative part of a family, by the end of its name.
_CUMULATIVE: Final = ("_sum", "_count")
_TYPES: Final = {type_.value: type_ for type_ in MetricType} | {"untyped": MetricType.UNKNOWN}


def type_named(text: str) -> MetricType | None:
    """Return the type of that name; ``None`` if there is none."""
    return _TYPES.get(text)


def labels_fault(
    name: str, labels: Iterable[tuple[str, object]], limits: StorageLimits | None = None
) -> str | None:
    """
    Say what is wrong with a point's name or labels; ``None`` if nothing is.

    Names may be any UTF-8. Empty values are allowed: such a label is as good as absent.

    Args:
        limits: Without them, sizes are left for the store to judge.
    """
    name_bytes = value_bytes = sys.maxsize
    if limits is not None:
        name_bytes, value_bytes = limits.label_name_bytes, limits.label_value_bytes
    fault = text_fault("the metric name", name, value_bytes)
    if fault is not None:
        return fault
    seen: set[str] = set()
    for label, value in labels:
        fault = text_fault("a label name", label, name_bytes)
        if fault is not None:
            return fault
        if label in seen:
            return f"label {label!r} is given twice"
        seen.add(label)
        if label == METRIC_NAME:
            return "label '__name__' is the metric name; give it as `name`"
        if label.startswith("__"):
            return f"label {label!r} is reserved; names must not begin with two underscores"
        if not isinstance(value, str):
            return f"the value of label {label!r} is not a string"
        if value:
            fault = text_fault(f"the value of label {label!r}", value, value_bytes)
            if fault is not None:
                return fault
    # The metric name is a label, too.
    if limits is not None and len(seen) >= limits.labels_per_series:
        return f"{len(seen)} labels; {limits.labels_per_series - 1} are allowed beside the name"
    return None


def text_fault(what: str, text: str, limit_bytes: int) -> str | None:
    """Say why a text can't be a name or value; ``None`` if it can."""
    if not text:
        return f"{what} is empty"
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        return f"{what} is not valid Unicode"
    return f"{what} is longer than {limit_bytes} bytes" if size > limit_bytes else None


def kind_of(type_: MetricType, name: str, labels: Iterable[str]) -> Kind | None:
    """
    Return the kind of one series of a family of that type; ``None`` if such a family has no
    series of this name: a histogram is sent as its ``_bucket``, ``_sum`` and ``_count``.
    """
    if type_ is MetricType.COUNTER:
        return Kind.COUNTER
    if type_ is MetricType.UNKNOWN:
        return Kind.UNKNOWN
    if type_ is MetricType.HISTOGRAM:
        if name.endswith("_bucket") and "le" in labels:
            return Kind.BUCKET
        return Kind.COUNTER if name.endswith(_CUMULATIVE) else None
    if type_ is MetricType.SUMMARY:
        if name.endswith(_CUMULATIVE):
            return Kind.COUNTER
        return Kind.GAUGE if "quantile" in labels else None
    return Kind.GAUGE


def family_of(type_: MetricType, name: str) -> str:
    """Return the family's name: that of the series, without what a histogram's parts add to it."""
    if type_ in (MetricType.HISTOGRAM, MetricType.SUMMARY):
        for suffix in ("_bucket", *_CUMULATIVE):
            if name.endswith(suffix):
                return name.removesuffix(suffix)
    return name
