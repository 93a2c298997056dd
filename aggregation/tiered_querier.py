"""PromQL's querier over samples and tiers: which of them serves each part of a query."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Literal, Protocol

import numpy as np

from ..config.selector import Matcher
from ..storage.frame import BoolArray, FloatArray, Frame, IntArray, RefArray, distinct
from ..storage.keys import DAY_MS, day_of
from ..storage.model import Kind
from ..storage.select import Querier
from .promql.cells import Cells, Fact
from .promql.samples import PIECE_CELLS, Samples
from .rollup import Tier
from .tier_plan import NOTHING, RAW, DayRounding, Sources, Stock, choose, exact_widths
from .tier_reader import DamagedRows, Strip, TierReader
from .tier_shapes import LASTING, PSEUDO, bucket_cells, lasting_samples, pseudo_samples

#: What answers, whatever else there is: a tier, or samples alone.
Force = Tier | Literal["raw"]
#: What a day of samples is taken for where nobody has counted them: one in 10 s.
_SAMPLES_A_DAY: Final = 8_640


class Kept(Protocol):
    """How long things are kept: :class:`tachograph.storage.retention.Retention`."""

    def cutoffs_ms(self, refs: RefArray) -> dict[str, IntArray] | None:
        """See there."""
        ...


def tiered(querier: Querier, *, retention: Kept, force: Force | None = None) -> TieredQuerier:
    """
    Return a querier for PromQL's engine over one snapshot of a store.

    Args:
        force: Answer from this tier, or from samples alone. Buckets of days that the tier has no
            rows of are made from samples.
    """
    querier.use_cache()
    return TieredQuerier(querier, retention, force)


def force_of(name: str) -> Force:
    """
    Return what is meant by ``raw``, ``1m``, ``5m``, ``1h`` or ``1d``.

    Raises:
        ValueError: It is none of these; the message names them.
    """
    if name == "raw":
        return "raw"
    for tier in Tier:
        if tier.label == name:
            return tier
    names = ", ".join(("raw", *(tier.label for tier in Tier)))
    raise ValueError(f"there is no tier {name!r}, only {names}")


@dataclass(frozen=True, slots=True)
class _Asked:
    """
    What a selector needs.

    Attributes:
        days: Those that there may be something of.
        span_ms: First and last time of interest, both included.
        exact_ms: ``[days]``, as from :func:`.tier_plan.exact_widths`.
        unfit: Series whose buckets lack something.
    """

    days: IntArray
    span_ms: tuple[int, int]
    exact_ms: IntArray
    unfit: RefArray

    def is_exact(self, tier: Tier) -> BoolArray:
        """Tell the days on which no window begins or ends within a bucket."""
        fits: BoolArray = self.exact_ms >= tier.width_ms
        return fits


@dataclass(frozen=True, slots=True)
class _Plan:
    """
    What serves some series, ``[series, days]``.

    Attributes:
        sources: See :mod:`.tier_plan`.
        raw: Where there are samples.
        rolled: Where buckets are made from samples; ``None``: nowhere.
    """

    refs: RefArray
    sources: Sources
    raw: BoolArray
    rolled: BoolArray | None

    def of(self, rows: IntArray) -> _Plan:
        """Return the plan of some of the series."""
        rolled = None if self.rolled is None else self.rolled[rows]
        return _Plan(self.refs[rows], self.sources[rows], self.raw[rows], rolled)


class TieredQuerier:
    """Implements the engine's ``Querier`` and ``TieredQuerier``; lives as long as the snapshot."""

    def __init__(self, querier: Querier, retention: Kept, force: Force | None) -> None:
        self._querier, self._retention, self._force = querier, retention, force
        self._reader = TierReader(querier)
        self._damaged: set[tuple[Tier, int, int]] = set()
        #: By tier, the newest day that it served because the samples are gone.
        self._gone: dict[Tier, int] = {}
        self._rounded: set[Tier] = set()

    @property
    def version(self) -> Hashable:
        """See :class:`.promql.range_cache.Versioned`; likewise ``mark``."""
        # The index stands for the store: an engine's cache may serve several.
        return self._querier.index, self._querier.revision, self._force

    @property
    def mark(self) -> int:
        return self._querier.mark

    def earliest_since(self, mark: int) -> int:
        return self._querier.earliest_since(mark)

    # --- What the engine asks for -------------------------------------------------------------

    def select(self, matchers: Sequence[Matcher], min_ms: int, max_ms: int) -> Iterator[Frame]:
        """Yield samples, and where they are gone the last one of each of the finest buckets."""
        refs, days = self._refs(matchers), self._days(min_ms, max_ms)
        asked = _Asked(days, (min_ms, max_ms), np.zeros(len(days), np.int64), refs[:0])
        plan = self._tier_plan(refs, asked)
        if plan is None:
            yield from self._querier.frames(refs, min_ms, max_ms, overlay=True)
            return
        for strip in self._strips(plan, asked, PSEUDO, keep_stale=True):
            yield from pseudo_samples(strip, min_ms, max_ms)

    def cells(
        self,
        matchers: Sequence[Matcher],
        start_ms: IntArray,
        end_ms: IntArray,
        facts: frozenset[Fact],
        *,
        aligned: bool,
    ) -> Iterator[Cells] | None:
        """See :class:`.promql.cells.TieredQuerier`."""
        span_ms = int(start_ms.min()) + 1, int(end_ms.max())
        days = self._days(*span_ms)
        if self._has_samples_only(days):
            return None
        refs = self._refs(matchers)
        exact_ms = exact_widths(days, np.concatenate((start_ms, end_ms)))
        unfit = self._gauges(refs) if Fact.RESETS in facts else refs[:0]
        asked = _Asked(days, span_ms, exact_ms if aligned else 0 * exact_ms, unfit)
        plan = self._tier_plan(refs, asked)
        if plan is None:
            return None
        return (
            bucket_cells(strip, facts, _rounding(asked, strip.sources))
            for strip in self._strips(plan, asked, tuple(facts))
        )

    def latest(
        self, matchers: Sequence[Matcher], at_ms: IntArray, lookback_ms: int, *, aligned: bool
    ) -> Iterator[Samples] | None:
        """See :class:`.promql.cells.TieredQuerier`."""
        span_ms = int(at_ms.min()) - lookback_ms + 1, int(at_ms.max())
        days = self._days(*span_ms)
        if self._has_samples_only(days):
            return None
        refs = self._refs(matchers)
        # At its end a bucket tells the latest sample, if it is as long as anybody looks back. Steps
        # right after midnight look into the day before, which has to be as fine there.
        back_ms = at_ms - lookback_ms
        crosses = (back_ms - 1) // DAY_MS != (at_ms - 1) // DAY_MS
        edges_ms = np.concatenate((at_ms, back_ms[crosses]))
        exact_ms = exact_widths(days, edges_ms, lookback_ms)
        asked = _Asked(days, span_ms, exact_ms if aligned else 0 * exact_ms, refs[:0])
        plan = self._tier_plan(refs, asked)
        if plan is None:
            return None
        return (
            lasting_samples(strip, lookback_ms)
            for strip in self._strips(plan, asked, LASTING, keep_stale=True)
        )

    def notes(self) -> list[str]:
        """See :class:`.promql.cells.TieredQuerier`."""
        if isinstance(self._force, Tier):
            return [f"the {self._force.label} tier answered, as was asked for"]
        found = []
        for tier, day in sorted(self._gone.items()):
            until = datetime.fromtimestamp((day + 1) * DAY_MS / 1000, UTC)
            note = f"raw samples up to {until:%Y-%m-%dT%H:%M:%SZ} are gone, "
            note += f"the {tier.label} tier answered"
            found.append(note + (", with times rounded to it" if tier in self._rounded else ""))
        return found

    # --- Planning -----------------------------------------------------------------------------

    def _refs(self, matchers: Sequence[Matcher]) -> RefArray:
        refs = self._querier.index.select(matchers)
        return refs[self._querier.homes(refs) > 0]

    def _days(self, min_ms: int, max_ms: int) -> IntArray:
        first, last = day_of(min_ms), day_of(max_ms)
        return np.array([day for day in self._querier.days if first <= day <= last], np.int64)

    def _has_samples_only(self, days: IntArray) -> bool:
        """Tell that there is nothing but samples, or that nothing else is wanted."""
        if isinstance(self._force, Tier):
            return False
        compacted = self._querier.compacted
        return self._force == "raw" or not any(day in compacted for day in days.tolist())

    def _gauges(self, refs: RefArray) -> RefArray:
        """Return the series whose resets are not kept."""
        found = self._querier.resolve(refs)
        gauges = [series.ref for series in found if series.kind is Kind.GAUGE]
        return np.array(gauges, np.uint32)

    def _tier_plan(self, refs: RefArray, asked: _Asked) -> _Plan | None:
        """Return what serves each series each day, ``None`` if that is samples everywhere."""
        if not len(refs) or not len(asked.days) or self._has_samples_only(asked.days):
            return None
        plan = self._plan(refs, asked)
        return plan if (plan.sources > RAW).any() else None

    def _plan(self, refs: RefArray, asked: _Asked) -> _Plan:
        stock = self._stock(refs, asked)
        if isinstance(self._force, Tier):
            stored = stock.tiers[self._force]
            sources = np.where(stored | stock.raw, self._force, NOTHING).astype(np.int8)
            return _Plan(refs, sources, stock.raw, ~stored)
        sources = choose(stock, asked.exact_ms, np.isin(refs, asked.unfit))
        return _Plan(refs, sources, stock.raw, None)

    def _stock(self, refs: RefArray, asked: _Asked) -> Stock:
        querier, days = self._querier, asked.days
        shape = len(refs), len(days)
        compacted = np.array([day in querier.compacted for day in days.tolist()], np.bool_)
        has_raw = np.array([day in querier.raw_days for day in days.tolist()], np.bool_)
        settled = np.broadcast_to(compacted, shape).copy()
        for at in np.flatnonzero(compacted).tolist():
            dirty = querier.dirty(int(days[at]))
            if dirty:
                settled[:, at] &= ~np.isin(refs, np.fromiter(dirty, np.uint32, len(dirty)))
        cutoffs = self._retention.cutoffs_ms(refs)
        end_ms = (days + 1) * DAY_MS
        raw = np.broadcast_to(has_raw, shape)
        if cutoffs is not None:
            raw = raw & (~settled | (end_ms >= cutoffs["raw"][:, None]))
        tiers = {}
        for tier in Tier:
            first = querier.first_rollup_day(tier)
            is_kept = days >= first if first is not None else np.zeros(len(days), np.bool_)
            tiers[tier] = settled & is_kept
            if cutoffs is not None:
                tiers[tier] &= end_ms >= cutoffs[tier.label][:, None]
        for tier, day, ref in self._damaged:
            tiers[tier][np.ix_(refs == ref, days == day)] = False
        return Stock(raw, tiers, self._samples(refs, asked))

    def _samples(self, refs: RefArray, asked: _Asked) -> FloatArray:
        """Count the samples of each series each day, where it matters."""
        counts = np.zeros((len(refs), len(asked.days)))
        exact_ms = asked.exact_ms
        if not ((exact_ms > 0) & (exact_ms < Tier.H1.width_ms)).any():
            return counts
        homes = self._querier.homes(refs)
        for home in distinct(homes).tolist():
            ticks = self._querier.ticks_by_day(home)
            counts[homes == home] = [ticks.get(day, 0) for day in asked.days.tolist()]
        return counts

    # --- Reading ------------------------------------------------------------------------------

    def _strips(
        self, plan: _Plan, asked: _Asked, wanted: Sequence[str], *, keep_stale: bool = False
    ) -> Iterator[Strip]:
        for rows in self._pieces(plan):
            piece = plan.of(rows)
            while True:
                try:
                    yield from self._reader.strips(
                        piece.refs,
                        asked.days,
                        piece.sources,
                        asked.span_ms,
                        wanted,
                        keep_stale=keep_stale,
                        rolled=piece.rolled,
                    )
                    break
                except DamagedRows as error:
                    self._damaged |= error.rows
                    piece = self._plan(piece.refs, asked)
            self._note(piece, asked)

    def _pieces(self, plan: _Plan) -> Iterator[IntArray]:
        """Cut a plan into pieces of about the same work, the series of a group together."""
        per_day = np.array([_SAMPLES_A_DAY, *(DAY_MS // tier.width_ms for tier in Tier), 0])
        cells = int(per_day[plan.sources].sum(axis=1).max())
        rows = max(1, PIECE_CELLS // max(1, cells))
        if len(plan.refs) <= rows:
            yield np.arange(len(plan.refs))
            return
        order = np.argsort(self._querier.homes(plan.refs), kind="stable")
        for low in range(0, len(order), rows):
            yield np.sort(order[low : low + rows])

    def _note(self, plan: _Plan, asked: _Asked) -> None:
        for tier in Tier:
            alone = (plan.sources == tier) & ~plan.raw
            served = np.flatnonzero(alone.any(axis=0))
            if len(served):
                newest = int(asked.days[served[-1]])
                self._gone[tier] = max(newest, self._gone.get(tier, newest))
                if not asked.is_exact(tier)[served].all():
                    self._rounded.add(tier)


def _rounding(asked: _Asked, sources: Sources) -> DayRounding | None:
    widths = np.ones(len(sources), np.int64)
    is_exact = True
    for tier in Tier:
        here = sources == tier
        widths[here] = tier.width_ms
        is_exact &= bool(asked.is_exact(tier)[here].all())
    return None if is_exact else DayRounding(asked.days, widths)
