"""kill -9 at any moment: what was acknowledged is there, once, and the rest is whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.kills import Killer

#: Kills a seed; benchmarks/storage_kill9.py does thousands.
KILLS = 17


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_kill_at_any_moment_loses_nothing_that_was_acknowledged(
    tmp_path: Path, seed: int
) -> None:
    kills = acked = 0
    with Killer(tmp_path, seed) as killer:
        while kills < KILLS or (acked < 50 and kills < 100):
            killer.kill()
            outcome = await killer.check()
            assert not outcome.problems
            kills, acked = kills + 1, outcome.acked
    assert acked >= 50, "the store did some work"


async def test_kill_while_the_database_is_made_leaves_one_that_opens(tmp_path: Path) -> None:
    with Killer(tmp_path, seed=4) as killer:
        for _ in range(30):
            killer.start_anew()
            killer.kill(longest_s=0.02)
            outcome = await killer.check()
            assert not outcome.problems
