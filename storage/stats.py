"""What the store counts, from its start; the agent turns it into ``tachograph_*`` metrics."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class StoreStats:
    """Plain numbers; seconds are wall time as the event loop sees it."""

    samples_appended: int = 0
    samples_committed: int = 0
    points_appended: int = 0
    dropped: Counter[str] = field(default_factory=Counter)  # samples by reason
    flushes: int = 0
    flush_errors: int = 0
    flush_seconds: float = 0.0
    journal_bytes: int = 0
    seals: int = 0
    seal_errors: int = 0
    seal_seconds: float = 0.0
    chunks_written: int = 0
    chunk_bytes: int = 0
    corrupt: Counter[str] = field(default_factory=Counter)  # rows by table
    groups_shared: int = 0  # names that got a group which another one had
    recovered_samples: int = 0
    recovery_seconds: float = 0.0
    clock_corrections: int = 0  # times a clock behind the stored samples was believed
    reads: int = 0
    read_seconds: float = 0.0
    compacted_series: int = 0
    compaction_seconds: float = 0.0
    retention_rows: Counter[str] = field(default_factory=Counter)  # rows deleted by table
    retention_bytes: int = 0
