"""How much of the disk the files take that the agent keeps in its data directory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

SAMPLES: Final = "samples.db"
#: The write-ahead log of the samples, and its index.
LOG: Final = frozenset({"samples.db-wal", "samples.db-shm"})
#: What is ours. Copies that somebody ordered (snapshots, the damaged files beside a repaired
#: database) are not: history must not go to make room for them.
OWN: Final = LOG | {SAMPLES, "state.db", "state.db-wal", "state.db-shm", "ballast", "lock"}


def own_sizes(directory: Path) -> Mapping[str, int]:
    """Return the bytes of each file of ours that is there. Not for the event loop: it may wait."""
    sizes = {}
    for name in sorted(OWN):
        try:
            sizes[name] = (directory / name).stat().st_size
        except OSError:  # not there, or it went while we looked
            continue
    return sizes
