"""Takes over what a backend counts with prometheus_client already."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, Protocol

from .default import REGISTRY
from .metrics import Counter, Gauge, Histogram, Metric
from .registry import Registry

#: Modes of gauges whose sum over processes makes no sense.
_MODES: Final = {"process_start_time_seconds": "min", "process_max_fds": "max"}
_Labels = tuple[tuple[str, str], ...]


class Sample(Protocol):
    name: str
    labels: Mapping[str, str]
    value: float


class Family(Protocol):
    """A metric family as prometheus_client's registries collect it."""

    name: str
    documentation: str
    type: str
    samples: list[Any]


class Source(Protocol):
    def collect(self) -> Iterable[Any]: ...


def adopt_prometheus(
    source: Source | None = None,
    *,
    registry: Registry | None = None,
    modes: Mapping[str, str] | None = None,
) -> None:
    """
    Hand on the metrics of a prometheus_client registry, under their own names, with ours.

    They are read whenever ours are handed on. Totals of several processes add up as ours do, so no
    multiprocess directory is needed. A second call for one source is none.

    Args:
        source: Without it prometheus_client's default registry.
        modes: What becomes of gauges of several processes, by name; ``sum`` if not said.

    Raises:
        TypeError: The source is no registry or collector.
    """
    if source is None:
        from prometheus_client import REGISTRY as default_source

        source = default_source
    if not callable(getattr(source, "collect", None)):
        raise TypeError(f"{type(source).__name__} is no registry: it has no collect()")
    registry = registry or REGISTRY
    adoption = _Adoption(source, registry, {**_MODES, **(modes or {})})
    registry.before_drain(("prometheus", id(source)), adoption.read)


class _Adoption:
    def __init__(self, source: Source, registry: Registry, modes: Mapping[str, str]) -> None:
        self._source, self._registry, self._modes = source, registry, modes
        self._metrics: dict[str, Metric[Any] | None] = {}
        # What histograms had by the last time: counts by bound (not cumulative), and sum.
        self._before: dict[tuple[str, _Labels], tuple[list[int], float]] = {}

    def read(self) -> None:
        for family in self._source.collect():
            self._registry.breathe()
            if family.type in ("histogram", "gaugehistogram"):
                self._histogram(family)
                continue
            for sample in family.samples:
                if sample.name.endswith("_created") and sample.name != family.name:
                    continue
                self._registry.breathe()
                is_total = family.type in ("counter", "summary") and "quantile" not in sample.labels
                self._single(family, sample, is_total=is_total)

    def _single(self, family: Family, sample: Sample, *, is_total: bool) -> None:
        kind = Counter if is_total else Gauge
        metric = self._metric(kind, sample.name, family, tuple(sample.labels))
        if metric is None:
            return
        child = metric.labels(**sample.labels) if sample.labels else metric.labels_of(())
        if is_total:
            child.follow(sample.value)
        else:
            child.set(sample.value)

    def _histogram(self, family: Family) -> None:
        buckets: dict[_Labels, list[tuple[float, float]]] = {}
        sums: dict[_Labels, float] = {}
        for sample in family.samples:
            self._registry.breathe()
            labels = tuple((k, v) for k, v in sample.labels.items() if k != "le")
            if sample.name == f"{family.name}_bucket":
                buckets.setdefault(labels, []).append((float(sample.labels["le"]), sample.value))
            elif sample.name == f"{family.name}_sum":
                sums[labels] = sample.value
        for labels, pairs in buckets.items():
            self._registry.breathe()
            pairs.sort()
            bounds = tuple(bound for bound, _ in pairs[:-1])
            names = tuple(name for name, _ in labels)
            metric = self._metric(Histogram, family.name, family, names, bounds=bounds)
            if metric is None or metric.bounds != bounds:
                continue
            counts = [
                int(count - before)
                for (_, count), before in zip(
                    pairs, [0.0, *(count for _, count in pairs)], strict=False
                )
            ]
            key = (family.name, labels)
            old_counts, old_sum = self._before.get(key, ([0] * len(counts), 0.0))
            if any(new < old for new, old in zip(counts, old_counts, strict=True)):
                old_counts, old_sum = [0] * len(counts), 0.0
            self._before[key] = (counts, sums.get(labels, 0.0))
            child = metric.labels(**dict(labels)) if labels else metric.labels_of(())
            child.follow(
                [new - old for new, old in zip(counts, old_counts, strict=True)],
                sums.get(labels, 0.0) - old_sum,
            )

    def _metric(
        self, kind: Any, name: str, family: Family, labels: tuple[str, ...], **options: Any
    ) -> Any:
        """Define a metric as it is elsewhere, whatever its name; ``None`` if it can't be."""
        if name not in self._metrics:
            if kind is Gauge:
                options["mode"] = self._modes.get(name, "max" if name.endswith("_info") else "sum")
            try:
                self._metrics[name] = self._registry.adopt(
                    kind, name, family.documentation, labels, **options
                )
            except ValueError as error:
                self._metrics[name] = None
                self._registry.drop("adopt", where=str(error))
        metric = self._metrics[name]
        return metric if metric is not None and set(metric.label_names) == set(labels) else None
