"""What a store knows when it opens: the rows of its tables, and the journal played back."""

from __future__ import annotations

import gc
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from .catalogue import Block, Catalogue
from .errors import StoreCorrupt
from .frame import RefArray
from .journal import JournalError, Record, decode_row, row_crc
from .labels import unpack_labels
from .model import Kind, Metadata, MetricType, Series

_GROUPS: Final = "SELECT id, name, sealed_seq FROM grp ORDER BY id"
_SERIES: Final = "SELECT id, grp, labels, kind, created_ms, last_day FROM series ORDER BY id"
_BLOCKS: Final = "SELECT id, min_ms, max_ms, n FROM block"
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


def read_tables(connection: sqlite3.Connection) -> Recovered:
    """
    Read everything but samples.

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
            found.groups[group] = name
            found.sealed_seq[group] = sealed
        for ref, group, labels, kind, created_ms, last_day in connection.execute(_SERIES):
            series = Series(ref, unpack_labels(labels), Kind(kind), created_ms)
            found.series.append((group, series, last_day))
        for layout, group, refs in connection.execute("SELECT id, grp, refs FROM layout"):
            found.layouts[layout] = (group, np.frombuffer(refs, "<u4").astype(np.uint32))
        for family, kind, text, unit in connection.execute("SELECT * FROM metadata"):
            found.metadata[family] = Metadata(MetricType(kind), text, unit)
        found.compacted = {day for (day,) in connection.execute("SELECT day FROM day")}
        generation = connection.execute("SELECT v FROM meta WHERE k = 'generation'").fetchone()[0]
        next_ref = connection.execute("SELECT v FROM meta WHERE k = 'next_ref'").fetchone()
        newest = found.series[-1][1].ref if found.series else 0
        found.next_ref = max(newest + 1, next_ref[0] if next_ref else 1)
        blocks = (Block(*row) for row in connection.execute(_BLOCKS))
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
    for seq, stored, data in connection.execute(_JOURNAL):
        if row_crc(seq, data) != stored:
            yield seq, JournalError(f"journal row {seq} fails its checksum")
            continue
        try:
            for record in decode_row(data, layouts):
                yield seq, record
        except JournalError as error:
            yield seq, error
