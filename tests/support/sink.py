"""A store for tests of sources: keeps every appended sample in plain lists."""

from __future__ import annotations

from tachograph.storage.frame import FloatArray, IntArray, RefArray
from tachograph.storage.model import Kind, Labels, Metadata


class MemoryGroup:
    def __init__(self, sink: MemorySink, name: str) -> None:
        self._sink, self.name = sink, name
        self.ticks: list[tuple[int, dict[Labels, float]]] = []

    def ref(self, labels: Labels, kind: Kind = Kind.UNKNOWN) -> int:
        return self._sink.register(labels, kind)

    def append(self, ts_ms: int, refs: RefArray, values: FloatArray) -> None:
        tick = {self._sink.labels[int(r)]: float(v) for r, v in zip(refs, values, strict=True)}
        self.ticks.append((ts_ms, tick))

    @property
    def last(self) -> dict[Labels, float]:
        """The newest tick."""
        return self.ticks[-1][1]


class MemorySink:
    def __init__(self) -> None:
        self.refs: dict[Labels, int] = {}
        self.labels: dict[int, Labels] = {}
        self.kinds: dict[Labels, Kind] = {}
        self.groups: dict[str, MemoryGroup] = {}
        self.metadata: dict[str, Metadata] = {}
        self.points: list[tuple[Labels, int, float]] = []

    def register(self, labels: Labels, kind: Kind) -> int:
        ref = self.refs.setdefault(labels, len(self.refs) + 1)
        self.labels[ref] = labels
        self.kinds[labels] = kind
        return ref

    def group(self, name: str) -> MemoryGroup:
        return self.groups.setdefault(name, MemoryGroup(self, name))

    def describe(self, family: str, metadata: Metadata) -> None:
        self.metadata[family] = metadata

    def append_points(self, refs: RefArray, ts_ms: IntArray, values: FloatArray) -> None:
        for ref, ts, value in zip(refs, ts_ms, values, strict=True):
            self.points.append((self.labels[int(ref)], int(ts), float(value)))

    async def committed(self) -> None:
        return None
