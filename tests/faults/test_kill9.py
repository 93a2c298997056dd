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
    acked = 0
    with Killer(tmp_path, seed) as killer:
        for _ in range(KILLS):
            killer.kill()
            outcome = await killer.check()
            assert not outcome.problems
            acked = max(acked, outcome.acked)
    assert acked > 100, "the store did some work"
