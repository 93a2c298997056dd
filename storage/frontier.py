"""What has come since: how far back samples reach that were appended after a given moment."""

from __future__ import annotations

import threading
from bisect import bisect_right
from typing import Final

#: Nothing came since; later than any sample.
NEVER_MS: Final = 1 << 62
#: Nobody knows any more; earlier than any sample.
ALWAYS_MS: Final = -(1 << 62)
#: Times that lie that close count as the earlier one, so that an hour takes some 3,600 entries.
_GRAIN_MS: Final = 1_000
_ENTRIES_MAX: Final = 8_192


class Frontier:
    """
    Remembers the earliest sample of what has been appended since each append.

    An answer that was computed at a mark still holds for every time before the earliest sample that
    came since. Appends are noted once readers can see them; readers take their mark before they
    look. Any thread may use it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        #: Number of the last append.
        self.mark = 0
        # Both rise: after the append `_marks[i]` there was none earlier than `_times[i + 1]`.
        self._marks: list[int] = []
        self._times: list[int] = []
        self._forgotten = 0

    def note(self, ts_ms: int) -> None:
        """Samples came, the earliest of them at this time."""
        with self._lock:
            marks, times = self._marks, self._times
            mark = self.mark + 1
            while times and times[-1] >= ts_ms:
                times.pop()
                marks.pop()
            if times and ts_ms - times[-1] < _GRAIN_MS:
                marks[-1] = mark
            else:
                marks.append(mark)
                times.append(ts_ms)
            if len(times) > _ENTRIES_MAX:
                half = len(times) // 2
                self._forgotten = marks[half - 1]
                del marks[:half], times[:half]
            self.mark = mark

    def earliest_since(self, mark: int) -> int:
        """Return the time of the earliest sample, or one earlier, that came after a mark."""
        with self._lock:
            if mark < self._forgotten:
                return ALWAYS_MS
            at = bisect_right(self._marks, mark)
            return self._times[at] if at < len(self._times) else NEVER_MS
