"""Samples of a request as ticks: every sample is in one run, in order, and the last one wins."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tachograph.agent.ingest.remote_plan import Columns, make_plan

samples = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 4), st.integers(0, 5)), max_size=60)


def columns_of(rows: list[tuple[int, int, int]]) -> Columns:
    """Series 10 g + i belongs to group g; values count the samples."""
    groups = np.array([group for group, _, _ in rows], np.int64)
    refs = np.array([10 * group + ref for group, _, ref in rows], np.uint32)
    ts_ms = np.array([ts for _, ts, _ in rows], np.int64)
    return Columns(groups, ts_ms, refs, np.arange(len(rows), dtype=np.float64))


@given(samples)
def test_runs_hold_the_last_sample_of_each_series_and_time(
    rows: list[tuple[int, int, int]],
) -> None:
    columns = columns_of(rows)
    plan = make_plan(columns)
    ts_ms, values = columns.ts_ms[plan.order], columns.values[plan.order]
    found = {}
    before = None
    for run in plan.runs:
        ticks = (run.end - run.start) // run.members
        times = ts_ms[run.start : run.end].reshape(ticks, run.members)
        refs = plan.refs[run.start : run.end].reshape(ticks, run.members)
        assert (times == times[:, :1]).all()
        assert (refs == refs[0]).all()
        assert (np.diff(times[:, 0]) > 0).all()
        assert (np.diff(refs[0].astype(int)) > 0).all()
        key = (run.group, tuple(refs[0]))
        assert key != before, "neighbours that could be one run are one"
        before = key
        block = values[run.start : run.end].reshape(ticks, run.members)
        for time, row in zip(times[:, 0].tolist(), block.tolist(), strict=True):
            for ref, value in zip(refs[0].tolist(), row, strict=True):
                found[run.group, time, ref] = value
    expected = {(g, ts, 10 * g + ref): float(i) for i, (g, ts, ref) in enumerate(rows)}
    assert found == expected


@given(samples, st.lists(st.integers(0, 4), min_size=60, max_size=60))
def test_a_plan_fits_times_of_the_same_pattern_only(
    rows: list[tuple[int, int, int]], other: list[int]
) -> None:
    columns = columns_of(rows)
    plan = make_plan(columns)
    assert plan.fits(columns.ts_ms + 1000) or len({(g, t, r) for g, t, r in rows}) < len(rows)
    moved = columns._replace(ts_ms=np.array(other[: len(rows)], np.int64))
    again = make_plan(moved)
    if plan.fits(moved.ts_ms):
        assert again.runs == plan.runs
        assert (again.order == plan.order).all()


def test_many_tiny_ticks_are_small() -> None:
    spread = columns_of([(g % 3, g, 0) for g in range(100)])
    assert all(run.is_small for run in make_plan(spread).runs if run.end - run.start < 4)
    few = columns_of([(g, 0, 0) for g in range(3)])
    assert not any(run.is_small for run in make_plan(few).runs)
