"""Whether the wall clock can be believed, given the samples that are stored already."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

from .clock import Clock
from .stats import StoreStats

log = logging.getLogger(__name__)

#: A clock this far behind the newest sample is in question: either it lost its time since, or the
#: one that stamped the sample was ahead.
_BEHIND_MS: Final = 3_600_000
#: 2024: an earlier clock is wrong for certain, whoever vouches for it.
FLOOR_MS: Final = 1_704_067_200_000
#: Where :attr:`ClockTrust.believed_ms` outlives the process.
READ_BELIEF: Final = "SELECT v FROM meta WHERE k = 'clock_believed_ms'"
NOTE_BELIEF: Final = "INSERT OR REPLACE INTO meta VALUES ('clock_believed_ms', ?)"
#: How often somebody who knows is asked while the clock is in question.
_ASK_S: Final = 10.0
#: Where nobody can be asked, a clock is believed that went on for that long: a machine that boots
#: without a battery has got its time from the network by then.
_WAIT_S: Final = 3_600.0


class ClockTrust:
    """
    Refuses a clock that is more than an hour behind the stored samples, until it has caught up or
    turns out to be right.

    It is right if the kernel says that it is kept synchronised; where the kernel cannot be asked,
    after an hour. What was believed once is noted with the data (:attr:`believed_ms`), so that the
    next start need not ask again. Used by the event loop's thread only.

    Attributes:
        believed_ms: The time at which a clock behind the samples was last believed; 0 if none was,
            or the clock is past them by now.
        ahead_ms: How far the newest stored sample was ahead of the clock at the start, if it was.
    """

    def __init__(
        self, clock: Clock, stats: StoreStats, on_belief: Callable[[int], None] = lambda _: None
    ) -> None:
        self._clock, self._stats, self._on_belief = clock, stats, on_belief
        self._newest_ms = self._not_before_ms = 0
        self._started_s = 0.0
        self._ask_s = 0.0
        self.believed_ms = 0

    def start(self, newest_ms: int, believed_ms: int) -> None:
        """
        The store opens.

        Args:
            newest_ms: Time of the newest sample; 0 if there is none.
            believed_ms: What :attr:`believed_ms` was when it was closed.
        """
        now_ms = self._clock.now_ms()
        self._newest_ms, self._not_before_ms = newest_ms, max(FLOOR_MS, newest_ms - _BEHIND_MS)
        self._started_s = self._ask_s = self._clock.monotonic_s()
        self.believed_ms = 0
        if now_ms >= self._not_before_ms:
            return
        if believed_ms and now_ms >= max(FLOOR_MS, believed_ms - _BEHIND_MS):
            self._believe(now_ms, "it has been before", believed_ms)
        elif fault := self.fault(now_ms):
            log.warning("%s", fault)

    @property
    def ahead_ms(self) -> int:
        return max(0, self._newest_ms - self._clock.now_ms())

    def fault(self, now_ms: int) -> str:
        """Return why nothing may be stored at this time, empty if it may."""
        if now_ms >= self._not_before_ms:
            return ""
        if now_ms < FLOOR_MS:
            return "the clock is before 2024; nothing is stored until it is set"
        now_s = self._clock.monotonic_s()
        if now_s >= self._ask_s:
            self._ask_s = now_s + _ASK_S
            synchronised = self._clock.is_synchronised()
            if synchronised:
                self._believe(now_ms, "the kernel says that it is synchronised", now_ms)
                return ""
            if synchronised is None and now_s - self._started_s >= _WAIT_S:
                self._believe(now_ms, "it went on for an hour, and nobody can be asked", now_ms)
                return ""
        return (
            f"the clock is {(self._newest_ms - now_ms) // 1000} s behind the newest sample, of "
            f"{show_time(self._newest_ms)}; nothing is stored until it is set or synchronised. If "
            "it is right, stop the agent and run `tachograph db forget-future`"
        )

    def _believe(self, now_ms: int, reason: str, believed_ms: int) -> None:
        self.believed_ms = believed_ms
        self._not_before_ms = max(FLOOR_MS, believed_ms - _BEHIND_MS)
        self._stats.clock_corrections += 1
        log.warning(
            "the clock is behind the newest sample, of %s, and is believed, as %s; what is stored "
            "of the future stays until `tachograph db forget-future`",
            show_time(self._newest_ms),
            reason,
        )
        self._on_belief(now_ms)


def show_time(ms: int) -> str:
    """Return a time as RFC 3339, in whole seconds."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(ms // 1000))
