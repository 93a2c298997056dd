"""How gaps are taken out of frames: together where series share them, else one by one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tachograph.aggregation.promql.samples import Samples, from_frame, side_by_side, some_columns
from tachograph.storage.frame import ABSENT, STALE_NAN, Frame
from tachograph.storage.model import Kind, Labels, Series


@given(st.lists(st.booleans(), min_size=1, max_size=300).filter(any), st.integers(1, 3))
def test_columns_are_those_that_were_asked_for(which: list[bool], rows: int) -> None:
    matrix = np.arange(rows * len(which), dtype=np.int64).reshape(rows, -1)
    mask = np.array(which)
    np.testing.assert_array_equal(some_columns(matrix, mask), matrix[:, mask])


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """The engine looks at markers as numbers, and has said so to numpy."""
    with np.errstate(all="ignore"):
        yield


def frame(rows: list[list[float]]) -> Frame:
    series = [Series(n, Labels.of({"n": str(n)}, "x"), Kind.GAUGE, 0) for n in range(len(rows))]
    times = 10 * np.arange(len(rows[0]), dtype=np.int64)
    return Frame(series, times, np.array(rows), has_absent=True)


@pytest.mark.parametrize("gap", [ABSENT, STALE_NAN])
def test_series_with_the_same_gaps_stay_one_matrix(gap: float) -> None:
    (samples,) = from_frame(frame([[1, gap, 3], [4, gap, 6]]), 0, 2, drop_stale=True)
    assert samples.counts is None
    assert samples.ts_ms.tolist() == [0, 20]
    assert samples.values.tolist() == [[1, 3], [4, 6]]


def test_whole_series_stand_apart_from_those_with_gaps() -> None:
    rows = [[1, 2, 3], [4, ABSENT, 6], [7, ABSENT, 9]]
    whole, gappy = from_frame(frame(rows), 0, 3, drop_stale=True)
    assert whole.values.tolist() == [[1, 2, 3]]
    assert gappy.counts is None
    assert gappy.ts_ms.tolist() == [0, 20]


def test_series_with_gaps_of_their_own_have_times_of_their_own() -> None:
    (samples,) = from_frame(frame([[1, ABSENT, 3], [ABSENT, 5, 6]]), 0, 2, drop_stale=True)
    assert samples.counts is not None
    assert samples.counts.tolist() == [2, 2]
    assert samples.upto(np.array([0, 10, 20])).tolist() == [[1, 1, 2], [0, 1, 2]]


_CELLS = st.sampled_from([1.0, 2.5, -3.0, float("nan"), ABSENT, STALE_NAN])
_TARGET = st.integers(1, 4).flatmap(
    lambda width: st.lists(st.lists(_CELLS, min_size=width, max_size=width), min_size=1, max_size=3)
)


def points(pieces: Iterable[Samples]) -> list[list[tuple[int, int]]]:
    """Times and bits of the values, series by series."""
    found = []
    for samples in pieces:
        bits = np.ascontiguousarray(samples.values).view(np.int64)
        for row in range(samples.rows):
            shared = samples.counts is None
            ts_ms = samples.ts_ms if shared else samples.ts_ms[row]
            count = len(ts_ms) if samples.counts is None else int(samples.counts[row])
            pairs = zip(ts_ms[:count].tolist(), bits[row, :count].tolist(), strict=True)
            if count:
                found.append(list(pairs))
    return sorted(found)


@given(st.lists(_TARGET, min_size=1, max_size=5), st.booleans())
def test_targets_side_by_side_have_the_samples_that_they_have_alone(
    targets: list[list[list[float]]], drop_stale: bool
) -> None:
    frames = [frame(rows) for rows in targets]
    together = side_by_side(frames, drop_stale=drop_stale)
    alone = (
        samples
        for each in frames
        for samples in from_frame(each, 0, len(each.series), drop_stale=drop_stale)
    )
    assert points([together]) == points(alone)


def test_series_that_have_only_ended_give_nothing() -> None:
    assert list(from_frame(frame([[STALE_NAN], [STALE_NAN]]), 0, 2, drop_stale=True)) == []
