"""Series of one metric, as an exposition wants them: families, headers, order, line prefixes."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from ...storage.model import METRIC_NAME, Kind, Metadata, MetricType, Series
from .negotiation import Style

_SUFFIXES: Final = ("_bucket", "_sum", "_count", "_total", "_created", "_info")
_METRIC_NAME: Final = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL_NAME: Final = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")

# The suffixes a family's samples may have, by type: OpenMetrics 1.0, "Metric types", and what the
# text format took over from it. A family owns these names; no other family may use them.
_OPENMETRICS_SUFFIXES: Final[Mapping[MetricType, tuple[str, ...]]] = {
    MetricType.COUNTER: ("_total", "_created"),
    MetricType.HISTOGRAM: ("_bucket", "_sum", "_count", "_created"),
    MetricType.SUMMARY: ("", "_sum", "_count", "_created"),
    MetricType.INFO: ("_info",),
}
_TEXT_SUFFIXES: Final[Mapping[MetricType, tuple[str, ...]]] = {
    MetricType.HISTOGRAM: ("_bucket", "_sum", "_count"),
    MetricType.SUMMARY: ("", "_sum", "_count"),
}
_TEXT_TYPES: Final[Mapping[MetricType, str]] = {
    MetricType.UNKNOWN: "untyped",
    MetricType.INFO: "gauge",
    MetricType.STATESET: "gauge",
}
# Lines of one label set stay together, in this order.
_RANKS: Final = {"_bucket": 0, "": 0, "_total": 0, "_info": 0, "_sum": 1, "_count": 2}
_RANK_CREATED: Final = 3

FindMetadata = Callable[[str], Metadata | None]
#: Labels without name and bound, rank, bound; what the lines of a family are sorted by.
_Place = tuple[tuple[tuple[str, str], ...], int, float]


@dataclass(slots=True)
class Block:
    """
    The lines of one metric, ready but for their values.

    Attributes:
        refs: Of each line, in order.
        prefixes: Of each line: all that stands between the value before and its own value,
            from the line break on, headers included.
        hidden: Series left out because another one has the same name and labels once the
            names are escaped.
    """

    refs: list[int]
    prefixes: list[bytes]
    hidden: int = 0


@dataclass(slots=True)
class _Name:
    """All series of one metric name: as stored, as shown, and the family it is claimed for."""

    stored: str
    shown: str
    series: list[Series]
    family: str = ""
    type: MetricType = MetricType.UNKNOWN
    metadata: Metadata | None = None

    def stand_alone(self, type_: MetricType = MetricType.UNKNOWN) -> None:
        self.family, self.type = self.shown, type_


def stem_of(name: str, style: Style) -> str:
    """
    Return the name without any of the suffixes that families give their samples.

    Names of different stems can't belong to one family nor clash, so each stem is laid out alone.
    """
    if not style.utf8:
        name = _escaped(name, _METRIC_NAME)
    stripped = True
    while stripped:
        stripped = False
        for suffix in _SUFFIXES:
            if name.endswith(suffix) and len(name) > len(suffix):
                name, stripped = name[: -len(suffix)], True
    return name


def build_block(series: Sequence[Series], find: FindMetadata, style: Style) -> Block:
    """
    Lay out the series of one stem.

    A family whose series don't make a whole (a histogram without its +Inf bucket, two types
    under one name) is shown as metrics of unknown type, under the names it has: what is stored
    is never renamed nor left out to please the format.
    """
    names = _names(series, style)
    bases = {
        name.stored[: -len("_bucket")]
        for name in names
        if name.stored.endswith("_bucket") and name.series[0].kind is Kind.BUCKET
    }
    for name in names:
        _claim(name, find, bases, style)
    _join_creation_times(names, find, style)
    families = _settle(names, style)
    block = Block([], [])
    seen: set[bytes] = set()
    for family in sorted(families):
        _write(block, seen, family, families[family], style)
    return block


def _names(series: Sequence[Series], style: Style) -> list[_Name]:
    stored: dict[str, _Name] = {}
    for one in series:
        name = one.labels.name
        entry = stored.get(name)
        if entry is None:
            shown = name if style.utf8 else _escaped(name, _METRIC_NAME)
            entry = stored[name] = _Name(name, shown, [])
        entry.series.append(one)
    shown_names: dict[str, _Name] = {}
    for name_entry in stored.values():
        same = shown_names.setdefault(name_entry.shown, name_entry)
        if same is not name_entry:
            same.series.extend(name_entry.series)
    return list(shown_names.values())


def _claim(name: _Name, find: FindMetadata, bases: set[str], style: Style) -> None:
    """Find the family of a name by what is known of it, else by the kind of its first series."""
    own = find(name.stored)
    if own is not None:
        name.metadata = own
        name.stand_alone(own.type)
        if style.openmetrics:
            _claim_suffix(name)
        return
    for suffix in _SUFFIXES:
        if not name.stored.endswith(suffix) or name.stored == suffix:
            continue
        base = name.stored[: -len(suffix)]
        metadata = find(base)
        if metadata is None and base in bases and suffix in ("_bucket", "_sum", "_count"):
            name.family, name.type = name.shown[: -len(suffix)], MetricType.HISTOGRAM
            return
        if metadata is None or suffix not in _OPENMETRICS_SUFFIXES.get(metadata.type, ()):
            continue
        name.metadata = metadata
        if style.openmetrics or suffix in _TEXT_SUFFIXES.get(metadata.type, ()):
            name.family, name.type = name.shown[: -len(suffix)], metadata.type
        elif suffix == "_total":
            name.stand_alone(MetricType.COUNTER)
        else:
            name.stand_alone(MetricType.GAUGE)
        return
    kind = name.series[0].kind
    if kind is Kind.COUNTER:
        name.stand_alone(MetricType.COUNTER)
        if style.openmetrics:
            _claim_suffix(name)
    else:
        name.stand_alone(MetricType.GAUGE if kind is Kind.GAUGE else MetricType.UNKNOWN)


def _claim_suffix(name: _Name) -> None:
    """
    Take off the suffix that OpenMetrics demands of counters and infos.

    Without it the name stays, and the type goes: a scraper must find one name in both formats.
    """
    suffix = {MetricType.COUNTER: "_total", MetricType.INFO: "_info"}.get(name.type, "")
    if suffix and name.shown.endswith(suffix) and name.shown != suffix:
        name.family = name.shown[: -len(suffix)]
    elif suffix:
        name.stand_alone()


def _join_creation_times(names: Sequence[_Name], find: FindMetadata, style: Style) -> None:
    """
    Give each ``x_created`` to the family ``x`` of OpenMetrics, also if only ``x_total`` is known.

    Left alone it would clash with that family, which owns the name.
    """
    families = {name.family: name for name in names if name.family != name.shown}
    for name in names:
        if not name.shown.endswith("_created") or find(name.stored) is not None:
            continue
        parent = families.get(name.shown[: -len("_created")])
        if (
            style.openmetrics
            and parent is not None
            and "_created" in _OPENMETRICS_SUFFIXES.get(parent.type, ())
        ):
            name.family, name.type, name.metadata = parent.family, parent.type, parent.metadata


def _settle(names: Sequence[_Name], style: Style) -> dict[str, list[_Name]]:
    """Group names into families, taking apart what doesn't fit until everything does."""
    suffixes = _OPENMETRICS_SUFFIXES if style.openmetrics else _TEXT_SUFFIXES
    while True:
        families: dict[str, list[_Name]] = {}
        for name in names:
            families.setdefault(name.family, []).append(name)
        misfits = [
            name
            for family, members in families.items()
            if not _fits(family, members)
            for name in members
            if name.type in suffixes or name.type is MetricType.STATESET
        ]
        owner: dict[str, list[_Name]] = {}
        for family, members in families.items():
            for owned in {family} | {family + s for s in suffixes.get(members[0].type, ())}:
                other = owner.setdefault(owned, members)
                if other is not members:
                    misfits += [n for n in (*other, *members) if n.type in suffixes]
        if not misfits:
            return families
        for name in misfits:
            name.stand_alone()


def _fits(family: str, members: Sequence[_Name]) -> bool:
    type_ = members[0].type
    if any(name.type is not type_ for name in members):
        return False
    if type_ is MetricType.STATESET:
        return all(one.labels.get(family) for name in members for one in name.series)
    if type_ not in (MetricType.HISTOGRAM, MetricType.SUMMARY):
        return True
    bound_suffix = "_bucket" if type_ is MetricType.HISTOGRAM else ""
    bounds: dict[tuple[tuple[str, str], ...], list[float]] = {}
    sums: dict[str, set[tuple[tuple[str, str], ...]]] = {"_sum": set(), "_count": set()}
    for name in members:
        suffix = name.shown[len(family) :]
        for one in name.series:
            group, _, bound = _place(one, suffix, type_)
            if suffix == bound_suffix:
                bounds.setdefault(group, []).append(bound)
            elif suffix in sums:
                sums[suffix].add(group)
            elif suffix != "_created":
                return False
    if sums["_sum"] != sums["_count"]:
        return False
    for values in bounds.values():
        if any(map(math.isnan, values)) or len(set(values)) < len(values):
            return False
        if type_ is MetricType.HISTOGRAM and math.inf not in values:
            return False
        if type_ is MetricType.SUMMARY and not all(0.0 <= v <= 1.0 for v in values):
            return False
    return type_ is MetricType.SUMMARY or sums["_sum"] <= bounds.keys()


def _place(series: Series, suffix: str, type_: MetricType) -> _Place:
    """Say where in its family a line stands; a bound that can't be read is NaN."""
    bound_label = _bound_label(suffix, type_)
    group = tuple(p for p in series.labels if p[0] != METRIC_NAME and p[0] != bound_label)
    bound = 0.0
    if bound_label:
        try:
            bound = float(series.labels.get(bound_label, "nan"))
        except ValueError:
            bound = math.nan
    return group, _RANKS.get(suffix, _RANK_CREATED), bound


def _bound_label(suffix: str, type_: MetricType) -> str:
    if type_ is MetricType.HISTOGRAM and suffix == "_bucket":
        return "le"
    return "quantile" if type_ is MetricType.SUMMARY and not suffix else ""


def _write(
    block: Block, seen: set[bytes], family: str, members: Sequence[_Name], style: Style
) -> None:
    type_ = members[0].type
    metadata = next((name.metadata for name in members if name.metadata is not None), None)
    header = _header(family, type_, metadata, style)
    lines: list[tuple[_Place, str, Series, str]] = []
    for name in members:
        suffix = name.shown[len(family) :]
        bound_label = _bound_label(suffix, type_)
        lines += [(_place(one, suffix, type_), name.shown, one, bound_label) for one in name.series]
    lines.sort(key=lambda line: line[0])
    for place, shown, one, bound_label in lines:
        bound = canonical(place[2]) if bound_label and style.openmetrics else ""
        prefix = f"{_selector(shown, one, bound_label, bound, style)} ".encode("utf-8", "replace")
        if prefix in seen:
            block.hidden += 1
            continue
        seen.add(prefix)
        block.refs.append(one.ref)
        block.prefixes.append(header + b"\n" + prefix)
        header = b""


def _header(family: str, type_: MetricType, metadata: Metadata | None, style: Style) -> bytes:
    name = _quoted(family) if style.utf8 and not _METRIC_NAME.fullmatch(family) else family
    lines = []
    if metadata is not None and metadata.help:
        text = metadata.help.replace("\\", r"\\").replace("\n", r"\n")
        if style.openmetrics:
            text = text.replace('"', r"\"")
        lines.append(f"# HELP {name} {text}")
    type_text = type_.value if style.openmetrics else _TEXT_TYPES.get(type_, type_.value)
    lines.append(f"# TYPE {name} {type_text}")
    if (
        style.openmetrics
        and metadata is not None
        and metadata.unit
        # OpenMetrics allows a unit only where the name ends with it.
        and family.endswith(f"_{metadata.unit}")
        and type_ not in (MetricType.INFO, MetricType.STATESET)
    ):
        lines.append(f"# UNIT {name} {metadata.unit}")
    return "".join(f"\n{line}" for line in lines).encode("utf-8", "replace")


def _selector(shown: str, series: Series, bound_label: str, bound: str, style: Style) -> str:
    labels: dict[str, str] = {}
    for label, value in series.labels:
        if label == METRIC_NAME:
            continue
        if not _LABEL_NAME.fullmatch(label):
            label = _quoted(label) if style.utf8 else _escaped(label, _LABEL_NAME)
        # Two labels may become one by escaping; a line may only have one of them.
        labels.setdefault(label, bound if bound and label == bound_label else value)
    inner = ",".join(f"{label}={_quoted(value)}" for label, value in labels.items())
    if style.utf8 and not _METRIC_NAME.fullmatch(shown):
        return f"{{{_quoted(shown)},{inner}}}" if inner else f"{{{_quoted(shown)}}}"
    return f"{shown}{{{inner}}}" if inner else shown


def _quoted(text: str) -> str:
    if "\\" in text or '"' in text or "\n" in text:
        text = text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
    return f'"{text}"'


def _escaped(name: str, legal: re.Pattern[str]) -> str:
    """Replace what a classic name can't hold by ``_``, as Prometheus' ``escaping=underscores``."""
    if legal.fullmatch(name):
        return name
    colon = ":" if legal is _METRIC_NAME else ""
    kept = re.sub(rf"[^a-zA-Z0-9_{colon}]", "_", name)
    return f"_{kept[1:]}" if kept[:1].isdigit() else kept


def canonical(bound: float) -> str:
    """
    Write a ``le`` or ``quantile`` as OpenMetrics wants it: ``1.0``, ``0.005``, ``1e+06``, ``+Inf``.

    One number has one text, whatever the exporter wrote. Source: OpenMetrics 1.0, "Considerations:
    Canonical Numbers".
    """
    if math.isinf(bound):
        return "+Inf" if bound > 0 else "-Inf"
    if bound == 0.0 or 1e-4 <= abs(bound) < 1e6:
        return repr(bound)
    sign, digits, _ = Decimal(repr(bound)).normalize().as_tuple()
    exponent = Decimal(repr(bound)).adjusted()
    first, *rest = (str(digit) for digit in digits)
    mantissa = f"{first}.{''.join(rest)}" if rest else first
    return f"{'-' if sign else ''}{mantissa}e{exponent:+03d}"
