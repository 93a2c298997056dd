"""The words of storage: labels, series, kinds, metadata. Cheap to import: no numpy here."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

METRIC_NAME: Final = "__name__"
#: Bits of the NaN that ends a series (Prometheus ``model/value``); never equal to an ordinary NaN.
STALE_NAN_BITS: Final = 0x7FF0000000000002
#: Bits that mark "no sample here" in a matrix of samples; never stored as a value.
ABSENT_BITS: Final = 0x7FF0000000000AB5

_ESCAPES: Final = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


class Labels(tuple[tuple[str, str], ...]):
    """
    Name-value pairs sorted by name, without empty values; the metric name is ``__name__``.

    Hashable and comparable, so it is its own key. Build it with :meth:`of` unless the pairs are
    known to be sorted, unique and non-empty.
    """

    __slots__ = ()

    @classmethod
    def of(
        cls, pairs: Mapping[str, str] | Iterable[tuple[str, str]], name: str | None = None
    ) -> Labels:
        """Sort ``pairs`` and drop empty values; of equal names the last one stays."""
        merged = dict(pairs)
        if name is not None:
            merged[METRIC_NAME] = name
        return cls(sorted((k, v) for k, v in merged.items() if v))

    @property
    def name(self) -> str:
        """The metric name, or an empty string."""
        return self.get(METRIC_NAME)

    def get(self, name: str, default: str = "") -> str:
        for key, value in self:
            if key == name:
                return value
        return default

    def without(self, *names: str) -> Labels:
        return Labels(pair for pair in self if pair[0] not in names)

    def __str__(self) -> str:
        """Render as PromQL does: ``up{instance="a",job="b"}``."""
        inner = ",".join(f'{k}="{v.translate(_ESCAPES)}"' for k, v in self if k != METRIC_NAME)
        return f"{self.name}{{{inner}}}" if inner or not self.name else self.name


class Kind(enum.IntEnum):
    """How a series behaves; stored as this number."""

    UNKNOWN = 0
    GAUGE = 1
    COUNTER = 2
    BUCKET = 3  # cumulative count of a classic histogram's `le` bound


class MetricType(enum.StrEnum):
    """Type of a metric family, by the names of the exposition formats."""

    UNKNOWN = "unknown"
    GAUGE = "gauge"
    COUNTER = "counter"
    HISTOGRAM = "histogram"
    SUMMARY = "summary"
    INFO = "info"
    STATESET = "stateset"


@dataclass(frozen=True, slots=True)
class Metadata:
    """What is known of a metric family, by its name without ``_bucket``, ``_sum``, ``_count``."""

    type: MetricType
    help: str = ""
    unit: str = ""

    def over(self, before: Metadata | None) -> Metadata:
        """Return this with what it does not say as it was before."""
        if before is None:
            return self
        return Metadata(
            before.type if self.type is MetricType.UNKNOWN else self.type,
            self.help or before.help,
            self.unit or before.unit,
        )


@dataclass(frozen=True, slots=True)
class Series:
    """One label set that the store knows; ``ref`` (1 and up, below 2**32) is never reused."""

    ref: int
    labels: Labels
    kind: Kind
    created_ms: int
