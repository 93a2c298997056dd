"""Which metric family a series of the store belongs to, and which type that has."""

from __future__ import annotations

from typing import Final

from ...storage.metadata import Families
from ...storage.model import Kind, Labels, MetricType, Series
from .naming import family_of, kind_of

_SUFFIXES: Final = ("_bucket", "_sum", "_count", "_total", "_info")

Described = tuple[MetricType, str, str]


def type_of(series: Series, families: Families) -> Described:
    """Return type, help and unit of a series' family, such that the type makes for its kind."""
    found, help_, unit = described(series.labels, families, series.kind)
    if found is not MetricType.UNKNOWN or series.kind is Kind.UNKNOWN:
        return found, help_, unit
    names = [name for name, _ in series.labels]
    if kind_of(MetricType.HISTOGRAM, series.labels.name, names) is series.kind is Kind.BUCKET:
        return MetricType.HISTOGRAM, "", ""
    return (MetricType.GAUGE if series.kind is Kind.GAUGE else MetricType.COUNTER), "", ""


def described(labels: Labels, families: Families, kind: Kind | None) -> Described:
    """
    Return type, help and unit of a series' family as far as they are known.

    Args:
        kind: That of the series; a type that doesn't make for it is not its family's. ``None`` for
            a series that is yet to be made.
    """
    name, names = labels.name, [label for label, _ in labels]
    for family in (name, *(name.removesuffix(s) for s in _SUFFIXES if name.endswith(s))):
        known = families.metadata(family)
        if known is None or family_of(known.type, name) != family:
            continue
        made = kind_of(known.type, name, names)
        if made is not None and kind in (None, made):
            return known.type, known.help, known.unit
    return MetricType.UNKNOWN, "", ""
