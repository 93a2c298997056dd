"""Plain tables and times for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime


def print_table(rows: Sequence[Sequence[str]], header: Sequence[str] = ()) -> None:
    """Print columns that line up; the last one is not padded."""
    lines = [list(header), *map(list, rows)] if header else [list(row) for row in rows]
    if not lines:
        return
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]) - 1)]
    for line in lines:
        cells = [cell.ljust(width) for cell, width in zip(line, widths, strict=False)]
        print("  ".join([*cells, line[-1]]))


def show_time(seconds: float) -> str:
    """Write a time as ISO 8601, UTC."""
    moment = datetime.fromtimestamp(seconds, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def show_bytes(size: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    raise AssertionError


def show_metric(metric: dict[str, str]) -> str:
    from ...storage.model import Labels

    return str(Labels.of(metric))
