"""How gaps are taken out of frames: together where series share them, else one by one."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tachograph.aggregation.promql.samples import from_frame, some_columns
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
