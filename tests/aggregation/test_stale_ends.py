"""Buckets tell when a stale marker followed their last sample."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tachograph.aggregation.rollup import Tier, coarsen, rollup, rollup_rows
from tachograph.aggregation.rollup_codec import decode_rows, encode_day
from tachograph.storage.frame import ABSENT, STALE_NAN, FloatArray, is_absent, is_stale
from tachograph.storage.keys import DAY_MS

DAY = 20_454
SECOND, MINUTE = 1_000, 60_000
CELL = st.sampled_from([1.0, 2.5, float("nan"), STALE_NAN, STALE_NAN, ABSENT])


def expected(ts: list[int], values: FloatArray, width_ms: int) -> dict[int, int]:
    """What each bucket of one series should say, sample by sample."""
    found: dict[int, int] = {}
    last: tuple[int, int] | None = None
    stale, absent = is_stale(values).tolist(), is_absent(values).tolist()
    for at, is_marker, is_gap in zip(ts, stale, absent, strict=True):
        if is_gap:
            continue
        if not is_marker:
            last = (at - 1) // width_ms, at
            found[last[0]] = 0
        elif last is not None and not found[last[0]]:
            found[last[0]] = at - last[1]
    return found


@settings(max_examples=150, deadline=None)
@given(
    rows=st.lists(st.lists(CELL, min_size=30, max_size=30), min_size=1, max_size=4),
    step_ms=st.sampled_from([10 * SECOND, 25 * SECOND, 7 * MINUTE]),
    tier=st.sampled_from(Tier),
)
def test_every_tier_knows_the_markers(rows: list[list[float]], step_ms: int, tier: Tier) -> None:
    ts = DAY * DAY_MS + step_ms * np.arange(1, 31)
    values = np.array(rows)
    made = rollup_rows(ts, values, Tier.M1.width_ms)
    for row, (fine, direct) in enumerate(
        zip(made, rollup_rows(ts, values, tier.width_ms), strict=True)
    ):
        wanted = expected(ts.tolist(), values[row], tier.width_ms)
        for buckets in (direct, coarsen(fine, Tier.M1.width_ms, tier.width_ms)):
            got = dict(zip(buckets.index.tolist(), buckets.stale_after_ms.tolist(), strict=True))
            assert got == wanted
        if len(direct):
            stored, damaged = decode_rows([(7, DAY, encode_day(direct, DAY))], tier)
            assert not damaged
            assert stored[7].stale_after_ms.tolist() == direct.stale_after_ms.tolist()


@pytest.mark.parametrize("tier", list(Tier))
def test_rows_without_markers_look_as_they_always_did(tier: Tier) -> None:
    ts = DAY * DAY_MS + 10 * SECOND * np.arange(1, 8641)
    blob = encode_day(rollup(ts, np.arange(8640.0), tier.width_ms), DAY)
    assert blob[3] >> 6 == 0
