"""Durations and sizes as people write them: ``1h30m``, ``100y``, ``2GiB``, and back."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

MILLISECOND: Final = 1
SECOND: Final = 1_000
MINUTE: Final = 60 * SECOND
HOUR: Final = 60 * MINUTE
DAY: Final = 24 * HOUR
WEEK: Final = 7 * DAY
YEAR: Final = 365 * DAY  # as in Prometheus: always 365 days

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB

#: Prometheus keeps durations in int64 nanoseconds; what it refuses as out of range, we refuse too.
DURATION_MAX_MS: Final = (2**63 - 1) // 1_000_000
#: SQLite and JSON tools take integers up to int64; no disk comes near this.
SIZE_MAX_BYTES: Final = 2**63 - 1

_UNITS_MS: Final = (
    ("y", YEAR),
    ("w", WEEK),
    ("d", DAY),
    ("h", HOUR),
    ("m", MINUTE),
    ("s", SECOND),
    ("ms", MILLISECOND),
)
_DURATION: Final = re.compile(
    "".join(rf"(?:([0-9]{{1,19}}){unit})?" for unit, _ in _UNITS_MS), re.ASCII
)

# KB is 1024 bytes in Prometheus' own sizes (`body_size_limit: 10MB`), so it is here.
_SIZES: Final[dict[str, int]] = {"": 1, "B": 1} | {
    f"{letter}{suffix}": 1024**power
    for power, letter in enumerate("KMGTPE", start=1)
    for suffix in ("iB", "B", "")
}
_SIZE: Final = re.compile(r"([0-9]{1,19})(?:\.([0-9]{1,9}))?\s?([A-Za-z]{0,3})", re.ASCII)

# What people write for a unit and what we call it, for suggestions only.
_SPELLINGS: Final = {
    "ns": "", "us": "", "µs": "",
    "msec": "ms", "msecs": "ms", "millis": "ms", "millisecond": "ms", "milliseconds": "ms",
    "sec": "s", "secs": "s", "second": "s", "seconds": "s",
    "min": "m", "mins": "m", "minute": "m", "minutes": "m",
    "hr": "h", "hrs": "h", "hour": "h", "hours": "h",
    "day": "d", "days": "d", "week": "w", "weeks": "w",
    "mo": "", "month": "", "months": "",
    "yr": "y", "year": "y", "years": "y",
}  # fmt: skip


def parse_duration(text: str) -> int:
    """
    Return the milliseconds of a duration in Prometheus' form: ``1h30m``, ``5m``, ``100y``, ``0``.

    Units are ms, s, m, h, d, w (7 days) and y (365 days), from large to small, each at most once.

    Raises:
        ValueError: Not a duration, or more than 292 years; the message suggests what to write.
    """
    if text == "0":
        return 0
    match = _DURATION.fullmatch(text)
    if match is None or not text:
        raise ValueError(f'"{text}" is not a duration; {_suggest_duration(text)}')
    total = sum(
        int(count) * unit_ms
        for count, (_, unit_ms) in zip(match.groups(), _UNITS_MS, strict=True)
        if count
    )
    if total > DURATION_MAX_MS:
        raise ValueError(f'"{text}" is too long a duration; the most is {format_duration(_TOP_MS)}')
    return total


def format_duration(ms: int) -> str:
    """Return the shortest form of ``ms`` >= 0 that reads back as the same number: ``1h30m``."""
    if ms < 0:
        raise ValueError(f"a duration is never negative: {ms} ms")
    if ms == 0:
        return "0s"
    # Years and weeks only where they are the whole of it (Prometheus prints the same way): 400d is
    # easier to read than 1y5w.
    for unit, unit_ms in _UNITS_MS[:2]:
        if ms % unit_ms == 0:
            return f"{ms // unit_ms}{unit}"
    parts = []
    for unit, unit_ms in _UNITS_MS[2:]:
        count, ms = divmod(ms, unit_ms)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts)


_TOP_MS: Final = DURATION_MAX_MS // YEAR * YEAR


def parse_size(text: str) -> int:
    """
    Return the bytes of a size: ``2GiB``, ``512MB``, ``1.5GiB`` or plain bytes.

    ``KB`` and ``K`` mean 1024 bytes like ``KiB``, as in Prometheus' configuration.

    Raises:
        ValueError: Not a size; the message suggests what to write.
    """
    match = _SIZE.fullmatch(text)
    if match is None or match[3] not in _SIZES:
        raise ValueError(f'"{text}" is not a size; {_suggest_size(text)}')
    whole, fraction, unit = match[1], match[2] or "", match[3]
    scale = _SIZES[unit]
    if fraction and scale == 1:
        raise ValueError(f'"{text}" is not a whole number of bytes')
    size: int = int(whole + fraction) * scale // 10 ** len(fraction)
    if size > SIZE_MAX_BYTES:
        raise ValueError(f'"{text}" is too large; the most is 8EiB less one byte')
    return size


def format_size(size: int) -> str:
    """Return ``size`` >= 0 bytes in the largest unit that divides it: ``2GiB``, ``1500``."""
    if size < 0:
        raise ValueError(f"a size is never negative: {size} bytes")
    for power, letter in reversed(list(enumerate("KMGTPE", start=1))):
        if size and size % 1024**power == 0:
            return f"{size // 1024**power}{letter}iB"
    return str(size)


def _suggest_duration(text: str) -> str:
    if len(text) > 40:
        return "write 5m, 90s or 1h30m"
    number = re.fullmatch(r"\s*([0-9]+)\s*", text)
    if number:
        count = number[1]
        return f"write {count}s or {count}m" if len(count) < 8 else "write a unit, as in 90s or 5m"
    parts = re.findall(r"([0-9]+)\s*([A-Za-zµ]+)", text)
    fixed = _with_units(parts) if re.fullmatch(r"(\s*[0-9]+\s*[A-Za-zµ]+)+\s*", text) else ""
    if fixed and _DURATION.fullmatch(fixed):
        others = [form for form in ("90s", "1h30m", "5m") if form != fixed][:2]
        return f"write {fixed}, {others[0]} or {others[1]}"
    return "write 5m, 90s or 1h30m"


def _with_units(parts: Sequence[tuple[str, str]]) -> str:
    """Rewrite ``[("5", "min")]`` as ``5m``; an empty string if a unit has no counterpart here."""
    short = {unit: unit for unit, _ in _UNITS_MS}
    units = [short.get(u) or short.get(u.lower()) or _SPELLINGS.get(u.lower()) for _, u in parts]
    if not all(units):
        return ""
    return "".join(f"{count}{unit}" for (count, _), unit in zip(parts, units, strict=True))


def _suggest_size(text: str) -> str:
    match = re.fullmatch(r"\s*([0-9]+)\s*([A-Za-z]+)\s*", text)
    if match and len(match[1]) < 12:
        letter = match[2][0].upper()
        if letter in "KMGTPE":
            return f"write {match[1]}{letter}iB"
        if letter == "B":
            return f"write {match[1]}"
    return "write 2GiB, 512MiB or plain bytes"
