"""Shares of a window, as they are computed from what workers told."""

from __future__ import annotations

import pytest

from tachograph.agent.ingest.totals import _Histogram, _Ratio

MINUTE = 60_000


def test_a_ratio_counts_what_was_told_before_its_first_tick() -> None:
    ratio = _Ratio(window_ms=5 * MINUTE)
    assert ratio.values(0) is None
    ratio.apply("a", (16, 18))
    assert ratio.values(MINUTE) == (16 / 18,)
    ratio.apply("a", (0, 2))
    assert ratio.values(2 * MINUTE) == (16 / 20,)


def test_a_ratio_forgets_what_left_its_window_and_keeps_the_last_share() -> None:
    ratio = _Ratio(window_ms=5 * MINUTE)
    ratio.apply("a", (0, 10))
    assert ratio.values(0) == (0.0,)
    ratio.apply("a", (1, 1))
    assert ratio.values(6 * MINUTE) == (1.0,)
    assert ratio.values(20 * MINUTE) == (1.0,)


@pytest.mark.parametrize("grown", [float("inf"), float("nan")])
def test_a_histogram_takes_no_sum_that_would_be_the_end_of_all_sums(grown: float) -> None:
    histogram = _Histogram((1.0,))
    histogram.apply("a", (0.5, 0, 1))
    with pytest.raises(ValueError, match="can't grow by"):
        histogram.apply("a", (grown, 1, 1))
    assert histogram.values(0) == (1, 1, 0.5, 1)
