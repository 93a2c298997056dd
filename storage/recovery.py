"""What a store knows when it opens: the rows of its tables, and the journal played back."""

from __future__ import annotations

import contextlib
import gc
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from .catalogue import Block, Catalogue
from .checksum import is_whole
from .clock_trust import READ_BELIEF
from .errors import StoreCorrupt
from .frame import RefArray
from .journal import JournalError, Record, decode_row
from .keys import REF_MAX
from .labels import unpack_labels
from .model import Kind, Metadata, MetricType, Series

# Texts are read as blobs: damaged ones would end the scan of their whole table.
_GROUPS: Final = "SELECT id, CAST(name AS BLOB), sealed_seq FROM grp ORDER BY id"
_SERIES: Final = (
    "SELECT id, grp, CAST(labels AS BLOB), kind, created_ms, last_day, crc FROM series ORDER BY id"
)
_LAYOUTS: Final = "SELECT id, grp, crc, refs FROM layout"
_METADATA: Final = (
    "SELECT CAST(family AS BLOB), CAST(type AS BLOB), CAST(help AS BLOB), CAST(unit AS BLOB) "
    "FROM metadata"
)
_BLOCKS: Final = "SELECT id, min_ms, max_ms, n, crc, data FROM block"
_JOURNAL: Final = "SELECT seq, crc, data FROM journal ORDER BY seq"


@dataclass(slots=True)
class Recovered:
    """The tables in memory, but for the journal."""

    groups: dict[int, str] = field(default_factory=dict)
    sealed_seq: dict[int, int] = field(default_factory=dict)
    series: list[tuple[int, Series, int]] = field(default_factory=list)  # group, series, last day
    layouts: dict[int, tuple[int, RefArray]] = field(default_factory=dict)
    metadata: dict[str, Metadata] = field(default_factory=dict)
    compacted: set[int] = field(default_factory=set)
    catalogue: Catalogue = field(default_factory=Catalogue)
    next_ref: int = 1
    believed_ms: int = 0  # see clock_trust.py
    damaged: list[tuple[str, int]] = field(default_factory=list)  # table, key


def read_tables(connection: sqlite3.Connection) -> Recovered:
    """
    Read everything but samples. Rows that fail their checksum are left out and listed.

    Raises:
        StoreCorrupt: A row cannot be understood.
    """
    found = Recovered()
    # Hundreds of thousands of long-lived small objects: the collector would walk them again and
    # again (a third of the time for 100,000 series).
    collecting = gc.isenabled()
    gc.disable()
    try:
        for group, name, sealed in connection.execute(_GROUPS):
            found.groups[group] = _text(name)
            found.sealed_seq[group] = int(sealed)
        for row in connection.execute(_SERIES):
            ref, group, labels, kind, created_ms, last_day, _ = row
            if ref <= REF_MAX:  # damaged or not: nobody else may have its number
                found.next_ref = max(found.next_ref, ref + 1)
            if not is_whole("series", row):
                found.damaged.append(("series", ref))
                continue
            series = Series(ref, unpack_labels(labels.decode()), Kind(kind), created_ms)
            found.series.append((group, series, last_day))
        for row in connection.execute(_LAYOUTS):
            if is_whole("layout", row):
                found.layouts[row[0]] = (row[1], np.frombuffer(row[3], "<u4").astype(np.uint32))
            else:
                found.damaged.append(("layout", row[0]))
        for family, kind, text, unit in connection.execute(_METADATA):
            with contextlib.suppress(ValueError):  # a damaged type; its source says it again
                metadata = Metadata(MetricType(_text(kind)), _text(text), _text(unit))
                found.metadata[_text(family)] = metadata
        found.compacted = {day for (day,) in connection.execute("SELECT day FROM day")}
        generation = connection.execute("SELECT v FROM meta WHERE k = 'generation'").fetchone()[0]
        next_ref = connection.execute("SELECT v FROM meta WHERE k = 'next_ref'").fetchone()
        found.next_ref = max(found.next_ref, next_ref[0] if next_ref else 1)
        believed = connection.execute(READ_BELIEF).fetchone()
        found.believed_ms = int(believed[0]) if believed else 0
        blocks = []
        for row in connection.execute(_BLOCKS):
            if is_whole("block", row):
                blocks.append(Block(*row[:4]))
            else:
                found.damaged.append(("block", row[0]))
        found.catalogue = Catalogue.of(blocks, generation)
    except (ValueError, TypeError) as error:
        raise StoreCorrupt(
            f"a row of the database cannot be understood ({error}); run `tachograph db repair`"
        ) from error
    finally:
        if collecting:
            gc.enable()
    return found


def read_journal(
    connection: sqlite3.Connection, layouts: dict[int, tuple[int, RefArray]]
) -> Iterator[tuple[int, Record | JournalError]]:
    """
    Yield the records of the journal in order, each with its row's number. A damaged row yields its
    error in place of records; the rows after it are good again.
    """
    for row in connection.execute(_JOURNAL):
        seq, _, data = row
        if not is_whole("journal", row):
            yield seq, JournalError(f"journal row {seq} fails its checksum")
            continue
        try:
            for record in decode_row(data, layouts):
                yield seq, record
        except JournalError as error:
            yield seq, error


def _text(blob: bytes | None) -> str:
    return "" if blob is None else blob.decode("utf-8", "replace")
