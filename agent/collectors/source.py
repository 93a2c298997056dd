"""What the schedule asks of a thing that is collected: the :class:`Source` protocol."""

from __future__ import annotations

from typing import Protocol, runtime_checkable


class Source(Protocol):
    """
    Something that is read again and again: the host, a process, a scrape target, a query.

    A source owns its connections and its group of series; the schedule owns the time. Building
    one does no I/O. Two sources that would do the same should compare equal (``__eq__``, or a
    dataclass): a reload then keeps the running one; else equality is identity.
    """

    @property
    def name(self) -> str:
        """Unique in a schedule, and the same over restarts: the phase is made of it."""
        ...

    @property
    def interval_s(self) -> float:
        """Seconds from one scheduled pass to the next, above 0."""
        ...

    @property
    def timeout_s(self) -> float:
        """
        Seconds after which the schedule cancels a pass and counts it as failed. A source that has
        something to write on time-out (a scrape's ``up 0``) keeps a shorter deadline of its own.
        """
        ...

    @property
    def backs_off(self) -> bool:
        """
        Whether repeated failures lengthen the interval until the first success. Scrapes say no:
        they keep their interval, as Prometheus does.
        """
        ...

    @property
    def reports_itself(self) -> bool:
        """
        Whether the source writes its own ``up`` and duration, as a scrape does. If not, the
        schedule writes ``tachograph_source_*`` for it.
        """
        ...

    async def collect(self, ts_ms: int) -> None:
        """
        Do one pass and write its samples into the sink, stamped ``ts_ms``.

        Never called twice at a time, and ``ts_ms`` rises unless the wall clock was set back. An
        exception is a failed pass: it is logged when it is news, and counted. A pass may be
        cancelled at any await; a thread it waits for then lives on, so a source must not pile up
        threads behind one that hangs.
        """
        ...

    async def close(self) -> None:
        """Release what the source holds. May be called twice, and without any pass before."""
        ...


@runtime_checkable
class Noting(Protocol):
    """A source whose pass can work and yet lack something."""

    @property
    def note(self) -> str:
        """What the last pass lacked; empty if nothing."""
        ...


@runtime_checkable
class Ending(Protocol):
    """A source whose series end when it is taken off the schedule, not when the agent stops."""

    def end_series(self, ts_ms: int) -> None:
        """
        Write a stale marker for every series of the last tick; after the last pass.

        Raises:
            StoreUnavailable: Nothing was written.
        """
        ...
