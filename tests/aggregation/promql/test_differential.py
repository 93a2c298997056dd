"""A slice of ``benchmarks/promql_differential.py``: our answers are those of a real Prometheus."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.promql_differences import Tally, compare_world
from support.promql_peer import PROMETHEUS

pytestmark = pytest.mark.skipif(PROMETHEUS is None, reason="prometheus is not installed")

QUESTIONS = 150


@pytest.mark.parametrize("seed", [7_000, 7_001], ids=["prometheus2", "prometheus3"])
async def test_random_questions_are_answered_as_by_prometheus(tmp_path: Path, seed: int) -> None:
    tally = Tally()
    found = await compare_world(seed, QUESTIONS, tmp_path, tally)
    unknown = [f"{one.question}: {one.what}" for one in found if not one.known]
    assert not unknown
    assert tally.asked == QUESTIONS
    assert tally.filled > QUESTIONS // 3, "most questions have an answer"
