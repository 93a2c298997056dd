"""Exemplars: the newest few of each series, and not too many in all."""

from __future__ import annotations

import numpy as np

from support.store import refs_of
from tachograph.storage.exemplars import Exemplar, Exemplars
from tachograph.storage.model import Labels


def exemplar(number: int, ts_ms: int, value: float = 1.0) -> Exemplar:
    return Exemplar(Labels.of({"trace_id": str(number)}), value, ts_ms)


def times(exemplars: Exemplars, ref: int, min_ms: int = 0, max_ms: int = 10**15) -> list[int]:
    found = exemplars.select(refs_of([ref]), min_ms, max_ms)
    return [one.ts_ms for _, each in found for one in each]


def test_exemplars_of_a_time_range_are_found_by_series() -> None:
    kept = Exemplars()
    for i in range(5):
        assert kept.add(1, exemplar(i, i * 10))
    kept.add(2, exemplar(0, 5))
    assert times(kept, 1, 10, 30) == [10, 20, 30]
    assert times(kept, 1, 11, 19) == []
    assert times(kept, 3) == []
    assert len(kept.select(np.array([1, 2, 3], np.uint32), 0, 10)) == 2


def test_the_same_one_again_is_not_kept_and_an_older_one_neither() -> None:
    kept = Exemplars()
    kept.add(1, exemplar(1, 100))
    assert not kept.add(1, exemplar(1, 100))
    assert not kept.add(1, exemplar(1, 200)), "a scrape shows it until there is another"
    assert not kept.add(1, exemplar(2, 50))
    assert kept.stats.dropped == {"old": 1}
    assert times(kept, 1) == [100]


def test_labels_that_are_too_long_are_dropped() -> None:
    kept = Exemplars()
    assert kept.add(1, Exemplar(Labels.of({"a": "x" * 127}), 1.0, 1))
    assert not kept.add(1, Exemplar(Labels.of({"a": "x" * 128}), 1.0, 2))


def test_the_oldest_go_first_of_a_series_and_of_all() -> None:
    kept = Exemplars(exemplars_max=6, per_series_max=4)
    for i in range(6):
        kept.add(1, exemplar(i, i))
    assert times(kept, 1) == [2, 3, 4, 5]
    for i in range(4):
        kept.add(2 + i, exemplar(i, i))
    assert len(kept) == 6
    assert times(kept, 1) == [4, 5], "the series that got none for the longest time"
    kept.forget(refs_of([1, 2]))
    assert len(kept) == 3
    assert kept.stats.dropped == {"evicted": 4}
