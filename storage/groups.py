"""The groups by number and by name, and which one a new name gets when there are too many."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from .clock import Clock
from .group import Group
from .homes import Homes
from .intake import Intake
from .keys import DAY_MS
from .stats import StoreStats

if TYPE_CHECKING:
    from .store import Store

#: A group takes some 2 kB without its samples, and every query and every seal looks at all of them:
#: 10,000 are 20 MB and some milliseconds. Sources of one box that are alive at a time are hundreds;
#: what comes and goes (containers, workers) adds up over the years.
GROUPS_MAX: Final = 10_000
#: The group that all further names share while nobody has been silent for long.
SHARED: Final = "shared"
#: How long nobody looks again who has found none: a look takes milliseconds, and a sender may come
#: with a thousand new names at once.
_LOOK_AGAIN_S: Final = 60.0


class Groups:
    """
    Makes the groups of a store, ``groups_max`` at the most and the shared one.

    Attributes:
        by_number: All of them; for reading only.
    """

    def __init__(
        self,
        store: Store,
        homes: Homes,
        intake: Intake,
        clock: Clock,
        stats: StoreStats,
        groups_max: int = GROUPS_MAX,
    ) -> None:
        self._store, self._homes, self._intake = store, homes, intake
        self._clock, self._stats = clock, stats
        self._groups_max = groups_max
        self.by_number: dict[int, Group] = {}
        self._by_name: dict[str, Group] = {}
        self._next_number = 1
        self._look_again_s = float("-inf")

    def __len__(self) -> int:
        return len(self.by_number)

    def __contains__(self, name: str) -> bool:
        return name in self._by_name

    def named(self, name: str) -> Group:
        """Return the group of that name, creating it if it is new."""
        group = self._by_name.get(name)
        if group is not None:
            return group
        if len(self.by_number) >= self._groups_max:
            return self._share(name)
        return self._create(name)

    def add(self, number: int, name: str) -> Group:
        """Make a group that has its number, as one that is stored."""
        group = Group(self._store, number, name)
        self._by_name[name] = self.by_number[number] = group
        self._next_number = max(self._next_number, number + 1)
        return group

    def _create(self, name: str) -> Group:
        group = self.add(self._next_number, name)
        self._intake.add_group(group.number, name)
        return group

    def _share(self, name: str) -> Group:
        """There are too many groups: one that is no longer used gets another name."""
        self._stats.groups_shared += 1
        now_s = self._clock.monotonic_s()
        if now_s >= self._look_again_s:
            group = self._find_spare()
            if group is not None:
                self._by_name.pop(group.name, None)
                self._by_name[name] = group
                group.name = name
                self._intake.add_group(group.number, name)
                return group
            self._look_again_s = now_s + _LOOK_AGAIN_S
        return self._by_name.get(SHARED) or self._create(SHARED)

    def _find_spare(self) -> Group | None:
        """
        Return the group that has been silent for longest, for a day at the least; ``None`` if all
        are in use. It may go on under another name: its series stay in it, and should its source
        come back, too, the two have their ticks beside one another, which costs memory and loses
        nothing.
        """
        inhabited = np.bincount(self._homes.by_ref)
        spare, spare_ms = None, self._clock.now_ms() - DAY_MS
        for number, group in self.by_number.items():
            newest_ms = group.head.newest_ms
            if group.name == SHARED or group.head.ticks or newest_ms >= spare_ms:
                continue
            # Without ticks it is a name that points share, and in use for as long as it has series.
            if group.has_ticks or number >= len(inhabited) or not inhabited[number]:
                spare, spare_ms = group, newest_ms
        return spare
