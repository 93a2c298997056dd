"""One tick of a group: values collected together become one append, and what vanished is ended."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from ...storage.errors import SeriesRefused
from ...storage.frame import STALE_NAN, IntArray, RefArray
from ...storage.model import Kind, Labels, Metadata, MetricType
from ...storage.sink import GroupSink, Sink

# Refused series are asked for again this often, in passes: a limit may have been raised or series
# deleted since. At a pass each 10 s that is every 17 minutes, so the sink's counter stays readable.
REFUSED_RETRY_PASSES: Final = 100
#: Words that are a unit when they end a family's name, as OpenMetrics wants units placed.
UNITS: Final = frozenset({"seconds", "bytes", "percent", "celsius", "ratio"})


@dataclass(frozen=True, slots=True)
class Family:
    """
    A metric family as a collector knows it.

    Attributes:
        name: The metric name without namespace; a counter's ends in ``_total``.
        type: Gauge, counter or histogram.
        help: One sentence for people, with the label values that are not obvious.
        suffix: ``_bucket``, ``_sum`` or ``_count`` for the series of a histogram.
    """

    name: str
    type: MetricType
    help: str
    suffix: str = ""

    @property
    def kind(self) -> Kind:
        if self.suffix == "_bucket":
            return Kind.BUCKET
        return Kind.GAUGE if self.type is MetricType.GAUGE else Kind.COUNTER

    @property
    def base(self) -> str:
        """The family's name, which for a counter goes without ``_total``."""
        return self.name.removesuffix("_total") if self.type is MetricType.COUNTER else self.name

    @property
    def unit(self) -> str:
        word = self.base.rpartition("_")[2]
        return word if word in UNITS else ""


def gauge(name: str, help: str) -> Family:
    return Family(name, MetricType.GAUGE, help)


def counter(name: str, help: str) -> Family:
    return Family(name, MetricType.COUNTER, help)


@dataclass(frozen=True, slots=True)
class Block:
    """
    Some values of one pass, and a way to learn whose they are.

    Attributes:
        key: Equal keys promise equal ``series()`` in equal order; unique within a pass.
        values: ``[n]``.
        series: Gives ``n`` pairs of family and labels. Called only when ``key`` is news.
    """

    key: Hashable
    values: Sequence[float]
    series: Callable[[], Iterable[tuple[Family, Mapping[str, str]]]]


class TickWriter:
    """
    Writes passes of blocks into one group of a sink.

    A pass whose blocks have the keys of the pass before costs one array fill. A series that was in
    the last written tick and is not in this one gets a stale marker in it. A series that the sink
    refuses is left out, and asked for again every ``REFUSED_RETRY_PASSES`` passes.

    Args:
        sink: Where the group lives; it is first touched by the first write.
        group: The group's name.
        namespace: Put before every family's name with an underscore, unless empty.
        labels: Given to every series.
    """

    def __init__(
        self,
        sink: Sink,
        group: str,
        namespace: str = "",
        labels: Mapping[str, str] | None = None,
    ) -> None:
        self._sink, self._group_name = sink, group
        self._prefix = f"{namespace}_" if namespace else ""
        self._labels = dict(labels or {})
        self._group: GroupSink | None = None
        self._described: set[str] = set()
        self._keys: tuple[Hashable, ...] | None = None
        # Numbers per block, 0 for a refused series; only blocks of the current shape are kept.
        self._blocks: dict[Hashable, list[int]] = {}
        self._refs: RefArray = np.empty(0, np.uint32)
        self._kept: IntArray | None = None
        self._current: frozenset[int] = frozenset()
        self._written: frozenset[int] = frozenset()
        self._passes_until_retry = 0

    @property
    def refused(self) -> int:
        """How many series of the current shape the sink has refused."""
        return sum(refs.count(0) for refs in self._blocks.values())

    def write(self, ts_ms: int, blocks: Sequence[Block]) -> int:
        """
        Append one tick and return how many samples it had, stale markers not counted.

        Raises:
            StoreUnavailable: Nothing was written; the next write ends what vanished meanwhile.
            ValueError: A block's values and series differ in number.
        """
        keys = tuple(block.key for block in blocks)
        if keys != self._keys or self._is_retry_due():
            self._resolve(keys, blocks)
        flat: list[float] = []
        for block in blocks:
            if len(block.values) != len(self._blocks[block.key]):
                raise ValueError(
                    f"{self._group_name}: block {block.key!r} has {len(block.values)} values"
                    f" for {len(self._blocks[block.key])} series"
                )
            flat.extend(block.values)
        values = np.array(flat, np.float64)
        if self._kept is not None:
            values = values[self._kept]
        refs = self._refs
        if self._written is not self._current and (gone := self._written - self._current):
            refs = np.concatenate([refs, np.array(sorted(gone), np.uint32)])
            values = np.concatenate([values, np.full(len(gone), STALE_NAN)])
        if len(refs):
            self._sink_group().append(ts_ms, refs, values)
        self._written = self._current
        return len(self._refs)

    def end(self, ts_ms: int) -> None:
        """End every series of the last tick: what was collected exists no longer."""
        self.write(ts_ms, ())

    def _is_retry_due(self) -> bool:
        if self._kept is None:
            return False
        self._passes_until_retry -= 1
        if self._passes_until_retry > 0:
            return False
        self._blocks = {key: refs for key, refs in self._blocks.items() if 0 not in refs}
        return True

    def _resolve(self, keys: tuple[Hashable, ...], blocks: Sequence[Block]) -> None:
        known = self._blocks
        self._blocks = {
            block.key: known.get(block.key) or [self._ref(*series) for series in block.series()]
            for block in blocks
        }
        kept: list[int] = []
        seen: set[int] = set()
        position = 0
        flat = [ref for key in keys for ref in self._blocks[key]]
        for position, ref in enumerate(flat):
            # Two values for one series in a tick: the first is as good as the second.
            if ref and ref not in seen:
                seen.add(ref)
                kept.append(position)
        self._refs = np.array([flat[position] for position in kept], np.uint32)
        self._refs.flags.writeable = False  # shared with the sink from pass to pass
        self._kept = None if len(kept) == len(flat) else np.array(kept, np.int64)
        self._current = frozenset(seen)
        self._passes_until_retry = REFUSED_RETRY_PASSES
        self._keys = keys

    def _ref(self, family: Family, labels: Mapping[str, str]) -> int:
        """Return the series' number, or 0 if it is refused."""
        base = self._prefix + family.base
        if base not in self._described:
            self._described.add(base)
            self._sink.describe(base, Metadata(family.type, family.help, family.unit))
        pairs = {name: _as_text(value) for name, value in {**self._labels, **labels}.items()}
        try:
            return self._sink_group().ref(
                Labels.of(pairs, name=self._prefix + family.name + family.suffix), family.kind
            )
        except SeriesRefused:  # the sink has counted it
            return 0

    def _sink_group(self) -> GroupSink:
        if self._group is None:
            self._group = self._sink.group(self._group_name)
        return self._group


def _as_text(value: str) -> str:
    """Replace what is no UTF-8 (a mount point may hold any bytes; Python reads surrogates)."""
    return value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
