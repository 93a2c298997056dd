"""What the checksums of rows cover: a damaged row is told, whatever its columns have become."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Final

from .codec import crc
from .journal import row_crc


def holds(stored: object, blob: object, *context: object) -> bool:
    """
    Tell whether a checksum is that of a blob and of the numbers that belong to it.

    Damage may have made anything of a column: text, a float, nothing.
    """
    try:
        return crc(blob, *context) == stored  # type: ignore[arg-type]  # what it cannot take is bad
    except (TypeError, struct.error):
        return False


def is_whole(table: str, row: Sequence[object]) -> bool:
    """Tell whether a row, all columns in order of the schema, is as it was written."""
    return _CHECKS[table](row)


def _journal(row: Sequence[object]) -> bool:
    seq, stored, data = row
    return isinstance(seq, int) and isinstance(data, bytes) and row_crc(seq, data) == stored


def _series(row: Sequence[object]) -> bool:
    ref, group, labels, kind, created_ms, _, stored = row
    blob = labels.encode("utf-8", "replace") if isinstance(labels, str) else labels
    return holds(stored, blob, ref, group, kind, created_ms)


def _layout(row: Sequence[object]) -> bool:
    layout, group, stored, refs = row
    return holds(stored, refs, layout, group)


def _block(row: Sequence[object]) -> bool:
    *numbers, stored, data = row
    return holds(stored, data, *numbers)


def _chunk(row: Sequence[object]) -> bool:
    key, _, stored, data = row
    return holds(stored, data, key)


def _rollup(row: Sequence[object]) -> bool:
    key, stored, data = row
    return holds(stored, data, key)


_CHECKS: Final[dict[str, Callable[[Sequence[object]], bool]]] = {
    "journal": _journal,
    "series": _series,
    "layout": _layout,
    "block": _block,
    "chunk": _chunk,
    "rollup": _rollup,
}
#: Tables whose rows have a checksum.
SUMMED: Final = tuple(_CHECKS)
