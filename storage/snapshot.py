"""One consistent view of head, chunks and rollups, for a reader in any thread."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Mapping
from typing import Final, TypeVar

from .catalogue import Ledger
from .decoded import DecodedCache
from .errors import StoreUnavailable
from .frontier import Frontier
from .group import Group
from .head import PointsHead
from .homes import Homes
from .labels import Index
from .select import Querier

T = TypeVar("T")

#: How often a reader that met a transaction half-way looks again, and for how long in all.
_RETRY_S: Final = 0.0005
_TRIES: Final = 20_000

_GENERATION: Final = "SELECT v FROM meta WHERE k = 'generation'"


class Snapshots:
    """Makes queriers; what they see is what was appended when they were made, committed or not."""

    def __init__(
        self,
        index: Index,
        homes: Homes,
        groups: Mapping[int, Group],
        points: PointsHead,
        ledger: Ledger,
        decoded: DecodedCache,
        frontier: Frontier,
    ) -> None:
        self._index, self._homes = index, homes
        self._groups, self._points = groups, points
        self._ledger, self._decoded, self._frontier = ledger, decoded, frontier

    def read(
        self, connection: sqlite3.Connection, job: Callable[[Querier], T]
    ) -> tuple[Querier, T]:
        """
        Run ``job`` within a read transaction and return its querier and what it returned.

        Raises:
            StoreUnavailable: The head and the database did not agree for ten seconds.
        """
        ledger = self._ledger
        for _ in range(_TRIES):
            # What is noted of changes comes before all that may have changed.
            mark, revision, era = self._frontier.mark, ledger.revision, ledger.era
            # Heads first: a seal publishes its blocks before it drops the ticks, so between the two
            # they are seen twice (and merged), never not at all.
            heads = {number: group.head.view for number, group in list(self._groups.items())}
            points = self._points.view()
            compacted, catalogue = ledger.compacted, ledger.catalogue
            connection.execute("BEGIN")
            try:
                if connection.execute(_GENERATION).fetchone()[0] == catalogue.generation:
                    querier = Querier(
                        connection,
                        self._index,
                        self._homes.by_ref,
                        heads,
                        points,
                        catalogue,
                        compacted,
                        decoded=self._decoded,
                        era=era,
                        revision=revision,
                        mark=mark,
                        earliest_since=self._frontier.earliest_since,
                    )
                    return querier, job(querier)
            finally:
                connection.execute("ROLLBACK")
            time.sleep(_RETRY_S)
        raise StoreUnavailable("the database does not come to rest; try again")
