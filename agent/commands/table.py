"""Plain tables and times for a terminal."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

_GAP: Final = 2
#: Cells are cut to no less than that, however many columns there are.
_CELL_CHARS_MIN: Final = 8


def print_table(
    rows: Sequence[Sequence[str]], header: Sequence[str] = (), *, width: int = 0
) -> None:
    """
    Print columns that line up; the last one is not padded.

    Args:
        width: Characters in a line, the longest cells being cut to it; 0 for as many as it takes.
    """
    lines = [list(header), *map(list, rows)] if header else [list(row) for row in rows]
    if not lines:
        return
    if width:
        longest = _longest_cell(
            [max(map(len, column)) for column in zip(*lines, strict=True)], width
        )
        lines = [[_cut(cell, longest) for cell in line] for line in lines]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]) - 1)]
    for line in lines:
        cells = [cell.ljust(width) for cell, width in zip(line, widths, strict=False)]
        print((" " * _GAP).join([*cells, line[-1]]))


def terminal_columns() -> int:
    """Return how wide the terminal is; 0 if the output goes elsewhere, where nothing need fit."""
    return shutil.get_terminal_size((0, 0)).columns


def _longest_cell(widths: Sequence[int], width: int) -> int:
    """Return the length to which cells are cut, so that columns of ``widths`` fit."""
    room = width - _GAP * (len(widths) - 1)
    longest = max(widths)
    while longest > _CELL_CHARS_MIN and sum(min(each, longest) for each in widths) > room:
        longest -= 1
    return longest


def _cut(cell: str, longest: int) -> str:
    return cell if len(cell) <= longest else f"{cell[: longest - 1]}…"


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
