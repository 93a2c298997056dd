"""What a query may use, and what it has used: time, and samples held in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from ...storage.clock import Clock
from .errors import QueryCanceled, QueryTimeout, TooManySamples


class Check(Protocol):
    """Asked between pieces of work whether the query may go on."""

    def check(self) -> None:
        """
        Return, or say why not.

        Raises:
            QueryTimeout: Too much time has passed.
            QueryCanceled: Nobody waits for the answer any more.
        """
        ...


class Deadline:
    """A :class:`Check` with a time limit and a switch; any thread may throw the switch."""

    def __init__(self, clock: Clock, timeout_s: float) -> None:
        self._clock = clock
        self._end_s = clock.monotonic_s() + timeout_s
        self._canceled = False

    def cancel(self) -> None:
        self._canceled = True

    def check(self) -> None:
        if self._canceled:
            raise QueryCanceled
        if self._clock.monotonic_s() >= self._end_s:
            raise QueryTimeout


@dataclass(slots=True)
class QueryStats:
    """
    What a query touched.

    Attributes:
        samples_total: Samples looked at, once for every step that looked at them.
        samples_peak: The most samples held in memory at once, results of subexpressions included.
        series: Series read from storage, once for every selector.
    """

    samples_total: int = 0
    samples_peak: int = 0
    series: int = 0


class Budget:
    """Counts the samples of one query and stops it when it holds too many."""

    def __init__(self, max_samples: int, check: Check | None) -> None:
        self._max_samples, self._check = max_samples, check
        self._held = 0
        self.stats = QueryStats()

    def check(self) -> None:
        if self._check is not None:
            self._check.check()

    def hold(self, samples: int) -> int:
        """
        Take samples into memory; return their number for :meth:`release`.

        Raises:
            TooManySamples: With these it would be more than the limit.
        """
        self._held += samples
        self.stats.samples_peak = max(self.stats.samples_peak, self._held)
        if self._held > self._max_samples:
            raise TooManySamples(self._max_samples)
        return samples

    def release(self, samples: int) -> None:
        self._held -= samples

    def touch(self, samples: int) -> None:
        self.stats.samples_total += samples
