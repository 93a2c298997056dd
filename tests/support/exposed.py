"""A store for tests of what is exposed: series, metadata and current values, all in plain sight."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tachograph.storage.current import Current
from tachograph.storage.metadata import Families
from tachograph.storage.model import Kind, Labels, Metadata, MetricType, Series


class ExposedStore:
    """Source of series, with the metadata and the values that go with them."""

    def __init__(self) -> None:
        self.version = 1
        self.current = Current()
        self.known: dict[Labels, Series] = {}
        self.families = Families()

    def series(self) -> list[Series]:
        return list(self.known.values())

    def describe(self, family: str, type_: MetricType, help_: str = "", unit: str = "") -> None:
        self.families.set(family, Metadata(type_, help_, unit))

    def put(
        self,
        name: str,
        value: float,
        labels: Mapping[str, str] | None = None,
        *,
        ts_ms: int = 0,
        kind: Kind = Kind.UNKNOWN,
    ) -> Series:
        key = Labels.of(labels or {}, name)
        if key not in self.known:
            self.known[key] = Series(len(self.known) + 1, key, kind, 0)
            self.version += 1
        self.current.update(
            np.array([self.known[key].ref], dtype=np.uint32), ts_ms, np.array([value])
        )
        return self.known[key]

    def histogram(
        self, family: str, bounds: Mapping[str, float], labels: Mapping[str, str] | None = None
    ) -> None:
        """Put the buckets in the order given, then sum and count."""
        for le, count in bounds.items():
            self.put(f"{family}_bucket", count, {**(labels or {}), "le": le}, kind=Kind.BUCKET)
        self.put(f"{family}_sum", 1.0, labels, kind=Kind.COUNTER)
        self.put(f"{family}_count", max(bounds.values()), labels, kind=Kind.COUNTER)
