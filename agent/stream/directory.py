"""What the live stream needs to know of the store, and nothing more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ...config.selector import Matcher
from ...storage.frame import FloatArray, IntArray, RefArray
from ...storage.model import Series


class Directory(Protocol):
    """The series of the store and their newest samples; every call is quick and never waits."""

    @property
    def version(self) -> int:
        """Grows whenever series are added or removed."""
        ...

    def series(self, ref: int) -> Series | None:
        """Return the series of that number, or ``None`` if it is (no longer) known."""
        ...

    def select(self, matchers: Sequence[Matcher]) -> RefArray:
        """Return the numbers, rising, of the series that satisfy every matcher."""
        ...

    def current(self, refs: RefArray) -> tuple[IntArray, FloatArray]:
        """
        Return time and value of each series' newest sample, ``[n]`` each.

        What was published must be in here by the time of ``Hub.publish``. A series without a sample
        has ``frame.ABSENT``, one that ended ``frame.STALE_NAN``.
        """
        ...
