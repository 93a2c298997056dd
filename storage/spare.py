"""Which group a new name gets when there are too many groups."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import numpy as np

from .frame import IntArray
from .group import Group
from .keys import DAY_MS

#: A group takes some 2 kB without its samples, and every query and every seal looks at all of them:
#: 10,000 are 20 MB and some milliseconds. Sources of one box that are alive at a time are hundreds;
#: what comes and goes (containers, workers) adds up over the years.
GROUPS_MAX: Final = 10_000
#: The group that all further names share while nobody has been silent for long.
SHARED: Final = "shared"
#: How long nobody looks again who has found none: a look takes milliseconds, and a sender may come
#: with a thousand new names at once.
LOOK_AGAIN_S: Final = 60.0


def find_spare(groups: Iterable[Group], homes: IntArray, now_ms: int) -> Group | None:
    """
    Return the group that has been silent for longest, for a day at the least; ``None`` if all are
    in use. It may go on under another name: its series stay in it, and should its source come
    back, too, the two have their ticks beside one another, which costs memory and loses nothing.

    Args:
        homes: Group by number of the series.
    """
    inhabited = np.bincount(homes)
    spare, spare_ms = None, now_ms - DAY_MS
    for group in groups:
        number, newest_ms = group.number, group.head.newest_ms
        if group.name == SHARED or group.head.ticks or newest_ms >= spare_ms:
            continue
        # Without ticks it is a name that points share, and in use for as long as it has series.
        if group.has_ticks or number >= len(inhabited) or not inhabited[number]:
            spare, spare_ms = group, newest_ms
    return spare
