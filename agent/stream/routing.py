"""Which feeds want which of the samples that come in together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

import numpy as np

from ...config.selector import MatchOp
from ...storage.frame import BoolArray, IntArray, RefArray, distinct
from ...storage.model import METRIC_NAME, Series
from .directory import Directory
from .feed import Feed, FeedKey

#: Series numbers beyond this are judged afresh in each new batch; one byte each is kept below it.
_KNOWN_MAX: Final = 1 << 24
#: Positions and refs kept in routes, 16 bytes each at most.
_ROUTED_MAX: Final = 1_000_000


class Route(NamedTuple):
    """Where in a batch the samples of one feed are, and the slots they go to."""

    feed: Feed
    positions: IntArray
    slots: IntArray


class Router:
    """
    Judges each series once, when its first sample passes, and remembers the way of whole batches:
    a group sends the same refs at every tick, so its way is found by one look-up of their bytes.

    A ref is *known* when every feed that wants its series has it in its table, or is full.

    Args:
        series_max: Most series of one feed.
        on_crowded: Empties the feed's pending samples and numbers its series anew; returns the
            refs that left its table.
        on_full: Told that a feed had no room for so many series. They count as known until
            someone puts them into its table or in doubt.
    """

    def __init__(
        self,
        directory: Directory,
        series_max: int,
        on_crowded: Callable[[Feed], RefArray],
        on_full: Callable[[Feed, int], None],
    ) -> None:
        self._directory = directory
        self._series_max = series_max
        self._on_crowded, self._on_full = on_crowded, on_full
        # Feeds by the metric name they ask for, so that a new series is held against few of them.
        self._named: dict[str, dict[Feed, None]] = {}
        self._nameless: dict[Feed, None] = {}
        # The last entry is never known and stands for all refs beyond.
        self._known: BoolArray = np.zeros(1, np.bool_)
        self._routes: dict[bytes, list[Route]] = {}
        self._routed = 0

    def add(self, feed: Feed, outside: RefArray) -> None:
        """Take a feed; ``outside`` are refs that it wants but that are not in its table."""
        names = _names(feed.key)
        for name in names or ():
            self._named.setdefault(name, {})[feed] = None
        if names is None:
            self._nameless[feed] = None
        self.doubt(outside)

    def remove(self, feed: Feed) -> None:
        self._nameless.pop(feed, None)
        for name in _names(feed.key) or ():
            self._named[name].pop(feed)
            if not self._named[name]:
                del self._named[name]
        self._forget_routes()

    def doubt(self, refs: RefArray) -> None:
        """Judge these series again when their samples come; a feed's table may have changed."""
        self._known[refs[refs < len(self._known)]] = False
        self._forget_routes()

    def routes(self, refs: RefArray) -> list[Route]:
        """Return the way of samples of ``refs``, feeds that want none left out."""
        key = refs.tobytes()
        routes = self._routes.get(key)
        if routes is not None:
            return routes
        while len(fresh := self._unknown(refs)) and self._judge(distinct(fresh)):
            pass  # numbering anew has put series in doubt that may be in this very batch
        feeds = (*self._nameless, *{f: None for by_name in self._named.values() for f in by_name})
        routes = [route for feed in feeds if len((route := _route(feed, refs)).slots)]
        if not len(self._unknown(refs)):
            self._remember(key, routes)
        return routes

    def _judge(self, refs: RefArray) -> bool:
        """Offer series to the feeds that want them; return whether a feed was numbered anew."""
        wanted: dict[Feed, list[Series]] = {}
        found = []
        for ref in refs.tolist():
            series = self._directory.series(ref)
            if series is None:
                continue
            found.append(ref)
            for feed in (*self._named.get(series.labels.name, ()), *self._nameless):
                if feed.key.wants(series.labels):
                    wanted.setdefault(feed, []).append(series)
        self._mark(np.array(found, np.uint32))
        renumbered = False
        for feed, offered in wanted.items():
            offered = feed.table.missing(offered)
            room = self._series_max - feed.table.members
            if len(feed.table) + min(room, len(offered)) > 2 * self._series_max:
                self.doubt(self._on_crowded(feed))
                renumbered = True
                room = self._series_max - feed.table.members
            feed.table.add(offered[:room])
            if left_out := offered[room:]:
                self._on_full(feed, len(left_out))
        return renumbered

    def _unknown(self, refs: RefArray) -> RefArray:
        return refs[~self._known[np.minimum(refs, len(self._known) - 1)]]

    def _mark(self, refs: RefArray) -> None:
        refs = refs[refs < _KNOWN_MAX]
        if not len(refs):
            return
        top = int(refs.max()) + 2
        if top > len(self._known):
            grown = np.zeros(max(top, min(2 * len(self._known), _KNOWN_MAX + 1)), np.bool_)
            grown[: len(self._known)] = self._known
            self._known = grown
        self._known[refs] = True

    def _remember(self, key: bytes, routes: list[Route]) -> None:
        size = len(key) // 4 + sum(len(route.slots) for route in routes)
        if self._routed + size > _ROUTED_MAX:
            self._forget_routes()
        if size <= _ROUTED_MAX:
            self._routes[key] = routes
            self._routed += size

    def _forget_routes(self) -> None:
        self._routes.clear()
        self._routed = 0


def _route(feed: Feed, refs: RefArray) -> Route:
    return Route(feed, *feed.table.find(refs))


def _names(key: FeedKey) -> set[str] | None:
    """Return the metric names that a series must have one of to be wanted; ``None``: any."""
    names: set[str] = set()
    for selector in key.selectors:
        of_selector = [
            matcher.value
            for matcher in selector
            if matcher.name == METRIC_NAME and matcher.op is MatchOp.EQUAL and matcher.value
        ]
        if not of_selector:
            return None
        names.add(of_selector[0])
    return names
