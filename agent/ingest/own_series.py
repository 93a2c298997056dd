"""The series that began here, and not at a Prometheus that writes to us."""

from __future__ import annotations

from collections.abc import Iterable
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
        homes = self._store.homes(np.array([one.ref for one in found], np.uint32))
        numbers, places = np.unique(homes, return_inverse=True)
        names = [self._store.group_name(number) for number in numbers.tolist()]
        is_own = np.array([not name.startswith(REMOTE_PREFIX) for name in names], np.bool_)[places]
        return [one for one, own in zip(found, is_own.tolist(), strict=True) if own]
