"""The series that began here, and not at a Prometheus that writes to us."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import compress
from typing import Final

import numpy as np

from ...storage.model import Series
from ...storage.store import Store

#: What the names of the groups of remote-written series begin with; the rest is
#: ``<job>/<instance>``.
REMOTE_PREFIX: Final = "remote/"


class OwnSeries:
    """
    What ``/metrics`` shows: all series but those that are remote-written.

    Whoever writes to us has them anyway. A Prometheus that also scrapes us would get its own
    samples back under new labels, and write those again, until no more series are allowed.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    @property
    def version(self) -> int:
        return self._store.index.version

    def series(self) -> Iterable[Series]:
        """Return the series, oldest first."""
        found = list(self._store.index.series())
        # In arrays, by group: this is the event loop, and there may be 100,000 series.
        homes = self._store.homes(np.fromiter((one.ref for one in found), np.uint32, len(found)))
        is_own = np.zeros(int(homes.max(initial=0)) + 1, np.bool_)
        for number in np.flatnonzero(np.bincount(homes)).tolist():
            is_own[number] = not self._store.group_name(number).startswith(REMOTE_PREFIX)
        return compress(found, is_own[homes].tolist())
