"""Power cuts: ``durability: full`` loses nothing acknowledged, ``normal`` little."""

from __future__ import annotations

from pathlib import Path

import pytest

from support import power
from support.kills import FSYNC_TICKS

pytestmark = pytest.mark.skipif(not power.is_possible(), reason="needs strace")

TICKS = 120
#: benchmarks/storage_power_loss.py makes thousands.
CUTS = 12


@pytest.mark.parametrize(
    ("durability", "checkpoint_pages", "lost"),
    [
        ("full", 40, 0),
        ("full", 1_000, 0),
        # Up to the next synced commit, and the one that is under way.
        ("normal", 40, FSYNC_TICKS + 1),
        ("normal", 1_000, FSYNC_TICKS + 1),
    ],
)
async def test_power_cut_at_any_moment(
    tmp_path: Path, durability: str, checkpoint_pages: int, lost: int
) -> None:
    operations = power.record(tmp_path, durability, TICKS, checkpoint_pages)
    assert sum(each.kind == "ack" for each in operations) == TICKS
    problems, _ = await power.cut(tmp_path, operations, CUTS, seed=1, lost=lost)
    assert not problems
