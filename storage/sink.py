"""Where collected samples go: what a source needs to know of the store, and nothing more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

from .frame import FloatArray, IntArray, RefArray
from .model import Kind, Labels, Metadata

#: Why a sample is not taken, by the name that it is counted under.
REFUSALS: Final = {
    "too_old": "older than the raw retention",
    "future": "too far in the future",
    "clock": "our clock is behind the stored samples",
}


@dataclass(frozen=True, slots=True)
class Refusal:
    """Which samples of one call were not taken: ``reasons[i]`` is empty for a taken one."""

    reasons: tuple[str, ...]


class GroupSink(Protocol):
    """Series that are collected together and share one timestamp per tick."""

    def ref(self, labels: Labels, kind: Kind = Kind.UNKNOWN) -> int:
        """
        Return the number of a series, creating it if it is new. Numbers may be kept for as long
        as the source lives.

        Raises:
            SeriesRefused: The series would exceed a limit. It is counted already.
        """
        ...

    def append(self, ts_ms: int, refs: RefArray, values: FloatArray) -> None:
        """
        Take one tick: ``values[i]`` belongs to ``refs[i]``, all at ``ts_ms``. Never waits: the
        samples are in the head at once and committed by the next flush.

        A series that ends is told by a stale marker (``frame.STALE_NAN``) in its last tick.

        Raises:
            StoreUnavailable: Nothing was taken (the queue to a failing disk is full).
        """
        ...


class Sink(Protocol):
    """The store, as sources see it."""

    def group(self, name: str) -> GroupSink:
        """Return the group of that name, e.g. ``system`` or ``scrape/node/127.0.0.1:9100``."""
        ...

    def describe(self, family: str, metadata: Metadata) -> None:
        """Remember type, help and unit of a metric family (``http_requests``, ``up``)."""
        ...

    def append_points(self, refs: RefArray, ts_ms: IntArray, values: FloatArray) -> Refusal | None:
        """
        Take samples with timestamps of their own, in any order; refs as from any group.

        Returns:
            ``None`` if all were taken, else which were not, and why; they are counted already.

        Raises:
            StoreUnavailable: Nothing was taken.
        """
        ...

    async def committed(self) -> None:
        """
        Wait until everything appended before this call is committed, and so acknowledged.

        Raises:
            StoreUnavailable: It could not be committed now; it is kept and tried again.
        """
        ...
