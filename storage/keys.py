"""Row keys: windows, days and parts packed into SQLite's 63-bit row ids."""

from __future__ import annotations

from typing import Final

WINDOW_MS: Final = 600_000
DAY_MS: Final = 86_400_000
WINDOWS_PER_DAY: Final = DAY_MS // WINDOW_MS
PART_MAX: Final = 127
REF_MAX: Final = 2**32 - 1
#: Group of the points with timestamps of their own.
POINTS_GROUP: Final = 0


def window_of(ts_ms: int) -> int:
    """Return the 10-minute window of a time; windows are ``(start, end]``, the epoch is in 0."""
    return (ts_ms - 1) // WINDOW_MS + 1


def day_of(ts_ms: int) -> int:
    """Return the UTC day ``(start, end]`` that a time falls in; the epoch itself is in day -1."""
    return (ts_ms - 1) // DAY_MS


def day_bounds(day: int) -> tuple[int, int]:
    """Return the first and the last millisecond of a day, both included."""
    return day * DAY_MS + 1, (day + 1) * DAY_MS


def window_of_day(day: int) -> int:
    """Return the window under which a day's compacted rows are kept: its first."""
    return max(0, day * WINDOWS_PER_DAY + 1)


def row_key(window: int, part: int, low: int) -> int:
    """Return the key of a block (``low`` is its group) or of a chunk (``low`` is its series)."""
    return window << 39 | part << 32 | low


def split_key(key: int) -> tuple[int, int, int]:
    """Return (window, part, group or series) of a key."""
    return key >> 39, key >> 32 & PART_MAX, key & REF_MAX


def rollup_key(tier: int, day: int, ref: int) -> int:
    """Return the key of a rollup row; ``tier`` is 1 (1m) to 4 (1d)."""
    return tier << 60 | (day + 1) << 32 | ref


def split_rollup_key(key: int) -> tuple[int, int, int]:
    """Return (tier, day, series) of a rollup row's key."""
    return key >> 60, (key >> 32 & 0xFFFFFFF) - 1, key & REF_MAX
