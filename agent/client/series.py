"""
One series in the backend's process: what it holds, and what of it the agent hasn't heard yet.

Each keeps totals since the process began (since the fork, in a child) and how much of them was
handed on. ``drain`` gives the difference and a mark; ``restore`` takes a mark back, for what never
arrived. Both are called with the registry's lock held; everything else takes it itself.

Plain classes and no dataclasses, as those would cost the backend 8 ms at its start.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from threading import RLock
from typing import Final, Protocol

from .caller import origin
from .timing import Timer

#: What goes to the agent after the number of the series; see docs/instrumentation.md.
Payload = list[float]
#: What a series gave to be restored by; its own business.
Mark = tuple[float, ...]

_INF: Final = float("inf")


class Owner(Protocol):
    """The registry, as far as a series needs it."""

    # Re-entrant: the garbage collector's callback or a signal handler may count while its own
    # thread does.
    lock: RLock
    monotonic_s: Callable[[], float]

    def drop(self, reason: str, *, where: str = "") -> None: ...


class CounterSeries:
    """A number that only grows."""

    __slots__ = ("_foreign", "_lock", "_owner", "_sent", "_value", "number")

    def __init__(self, owner: Owner, number: int) -> None:
        self._owner, self.number = owner, number
        self._lock = owner.lock
        self._value = self._sent = self._foreign = 0.0

    @property
    def value(self) -> float:
        """What this process has counted."""
        return self._value

    def inc(self, amount: float = 1.0) -> None:
        """Add ``amount``; one that is negative or no number is left out and counted as dropped."""
        try:
            # Else one numpy.float32 would make the total one, and it would stop at 2**24.
            if amount.__class__ is not float:
                amount = float(amount)
            if 0.0 <= amount < _INF:
                with self._lock:
                    self._value += amount
                return
        except (TypeError, ValueError, OverflowError):
            pass
        self._owner.drop("value")

    def follow(self, total: float) -> None:
        """Take over what somebody else counts: its total so far. A smaller one is a new start."""
        total = float(total)
        with self._lock:
            grown = total - self._foreign
            if grown < 0:
                grown = total
            self._foreign = total
            if 0.0 <= grown < _INF:
                self._value += grown

    def drain(self) -> tuple[Payload, Mark] | None:
        before = self._sent
        if self._value == before:
            return None
        self._sent = self._value
        return [self._sent - before], (before,)

    def restore(self, mark: Mark) -> None:
        (self._sent,) = mark

    def blank(self) -> Payload:
        return [0.0]

    def forget(self) -> None:
        """Begin anew, in a forked child: what was counted so far is the parent's to tell."""
        self._value = self._sent = 0.0


class GaugeSeries:
    """A number that goes up and down; not told to anyone before it is set."""

    __slots__ = ("_function", "_lock", "_owner", "_sent", "_value", "number")

    def __init__(self, owner: Owner, number: int) -> None:
        self._owner, self.number = owner, number
        self._lock = owner.lock
        self._value: float | None = None
        self._sent: float | None = None
        self._function: Callable[[], float] | None = None

    @property
    def value(self) -> float:
        """The value; NaN before it is set."""
        return float("nan") if self._value is None else self._value

    def set(self, value: float) -> None:
        try:
            self._value = float(value)
        except (TypeError, ValueError, OverflowError):
            self._owner.drop("value")

    def inc(self, amount: float = 1.0) -> None:
        try:
            if amount.__class__ is not float:
                amount = float(amount)
            with self._lock:
                self._value = (self._value or 0.0) + amount
        except (TypeError, ValueError, OverflowError):
            self._owner.drop("value")

    def dec(self, amount: float = 1.0) -> None:
        try:
            self.inc(-amount)
        except TypeError:
            self._owner.drop("value")

    def set_function(self, function: Callable[[], float]) -> None:
        """Ask ``function`` for the value whenever it is handed on; it must not wait."""
        if callable(function):
            self._function = function
        else:
            self._owner.drop("function")

    def refresh(self) -> None:
        """Ask the function, if there is one."""
        if self._function is not None:
            try:
                self.set(self._function())
            except Exception as error:  # foreign; it must not keep the others from being told
                self._owner.drop("function", where=origin(error))

    def drain(self) -> tuple[Payload, Mark] | None:
        value = self._value
        if value is None or value == self._sent:
            return None
        self._sent = value
        return [value], ()

    def restore(self, mark: Mark) -> None:
        self._sent = None

    def blank(self) -> Payload:
        return [] if self._value is None else [self._value]

    def forget(self) -> None:
        self._value = self._sent = None


class HistogramSeries:
    """Counts by upper bound, and the sum."""

    __slots__ = (
        "_bounds",
        "_counts",
        "_lock",
        "_owner",
        "_sent_counts",
        "_sent_sum",
        "_sum",
        "number",
    )

    def __init__(self, owner: Owner, number: int, bounds: Sequence[float]) -> None:
        self._owner, self.number = owner, number
        self._lock = owner.lock
        self._bounds = list(bounds)
        self._counts = [0] * (len(self._bounds) + 1)  # not cumulative; the last one beyond all
        self._sent_counts = list(self._counts)
        self._sum = self._sent_sum = 0.0

    @property
    def count(self) -> int:
        return sum(self._counts)

    @property
    def sum(self) -> float:
        return self._sum

    def observe(self, value: float) -> None:
        """Take a value; what is no number, or infinite, is left out and counted as dropped."""
        try:
            if value.__class__ is not float:
                value = float(value)
            # An infinite one would make the sum infinite for ever, and its growth no number.
            if -_INF < value < _INF:
                with self._lock:
                    self._counts[bisect_left(self._bounds, value)] += 1
                    self._sum += value
                return
        except (TypeError, ValueError, OverflowError):
            pass
        self._owner.drop("value")

    def time(self) -> Timer:
        """Measure a block or a function: ``with h.labels("a").time(): ...``."""
        return Timer(self.observe, self._owner.monotonic_s)

    def follow(self, counts: Sequence[int], total: float) -> None:
        """Add what somebody else observed since the last time: by bound, and the sum."""
        total = float(total)
        with self._lock:
            for place, count in enumerate(counts):
                self._counts[place] += count
            if -_INF < total < _INF:
                self._sum += total

    def drain(self) -> tuple[Payload, Mark] | None:
        counts, before = self._counts, self._sent_counts
        if counts == before:
            return None
        payload: Payload = [self._sum - self._sent_sum]
        for place, count in enumerate(counts):
            if count != before[place]:
                payload += (place, count - before[place])
        mark = (self._sent_sum, *before)
        before[:] = counts
        self._sent_sum = self._sum
        return payload, mark

    def restore(self, mark: Mark) -> None:
        self._sent_sum, *counts = mark
        self._sent_counts[:] = map(int, counts)

    def blank(self) -> Payload:
        return [0.0]

    def forget(self) -> None:
        self._counts = [0] * len(self._counts)
        self._sent_counts = list(self._counts)
        self._sum = self._sent_sum = 0.0


class RatioSeries:
    """How many of all were hits; the agent divides, over all processes and a span of time."""

    __slots__ = (
        "_all",
        "_foreign",
        "_hits",
        "_lock",
        "_owner",
        "_sent",
        "number",
    )

    def __init__(self, owner: Owner, number: int) -> None:
        self._owner, self.number = owner, number
        self._lock = owner.lock
        self._hits = self._all = 0.0
        self._sent = self._foreign = (0.0, 0.0)

    @property
    def value(self) -> float:
        """The share of hits in this process since it began; NaN if there was nothing."""
        return self._hits / self._all if self._all else float("nan")

    def hit(self) -> None:
        with self._lock:
            self._hits += 1.0
            self._all += 1.0

    def miss(self) -> None:
        with self._lock:
            self._all += 1.0

    def take(self, is_hit: bool) -> None:
        if is_hit:
            self.hit()
        else:
            self.miss()

    def follow(self, hits: float, misses: float) -> None:
        """Take over what somebody else counts: its totals so far. Smaller ones are a new start."""
        hits, misses = float(hits), float(misses)
        with self._lock:
            before, self._foreign = self._foreign, (hits, misses)
            if hits < before[0] or misses < before[1]:
                before = (0.0, 0.0)
            self._hits += hits - before[0]
            self._all += hits - before[0] + misses - before[1]

    def drain(self) -> tuple[Payload, Mark] | None:
        before = self._sent
        now = (self._hits, self._all)
        if now == before:
            return None
        self._sent = now
        return [now[0] - before[0], now[1] - before[1]], before

    def restore(self, mark: Mark) -> None:
        hits, all_ = mark
        self._sent = hits, all_

    def blank(self) -> Payload:
        return [0.0, 0.0]

    def forget(self) -> None:
        self._hits = self._all = 0.0
        self._sent = (0.0, 0.0)
