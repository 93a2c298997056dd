"""Homes of series, and the numbers of deleted ones."""

from __future__ import annotations

import pytest

from support.store import refs_of
from tachograph.config.settings import StorageLimits
from tachograph.storage.homes import Homes
from tachograph.storage.intake import Intake
from tachograph.storage.labels import Index
from tachograph.storage.model import Kind, Labels

A, B = Labels.of({}, "a"), Labels.of({}, "b")


@pytest.fixture
def index() -> Index:
    return Index(StorageLimits())


@pytest.fixture
def homes(index: Index) -> Homes:
    homes = Homes(index, Intake())
    for group, labels in ((3, A), (4, B)):
        homes.set(index.add(labels, Kind.GAUGE, 0).ref, group)
    return homes


def test_series_keep_their_homes_as_numbers_grow(homes: Homes) -> None:
    homes.set(100_000, 7)
    assert homes.of(refs_of([1, 2, 100_000])).tolist() == [3, 4, 7]


def test_buried_series_is_out_of_the_index_and_its_number_kept(homes: Homes, index: Index) -> None:
    homes.bury(refs_of([1]))
    assert index.find(A) is None
    assert homes.find_buried(A) == 1
    assert homes.find_buried(B) is None
    assert homes.by_ref[1] == 0


def test_series_whose_number_is_used_again_comes_back(homes: Homes, index: Index) -> None:
    homes.bury(refs_of([1, 2]))
    assert homes.of(refs_of([2])).tolist() == [4]
    found = index.find(B)
    assert found is not None
    assert found.ref == 2
    assert index.find(A) is None
    assert homes.find_buried(B) is None


def test_those_buried_first_are_forgotten_beyond_the_limit(index: Index) -> None:
    homes = Homes(index, Intake(), graves_max=2)
    for number in range(1, 7):
        homes.set(index.add(Labels.of({}, f"m{number}"), Kind.GAUGE, 0).ref, 3)
    homes.bury(refs_of([1, 2, 3]))
    assert homes.buried == 3, "those that are just buried may be needed still"
    homes.bury(refs_of([4]))
    assert homes.buried == 2
    assert homes.of(refs_of([1, 2, 3, 4, 5])).tolist() == [0, 0, 3, 3, 3]
    assert homes.find_buried(Labels.of({}, "m1")) is None
    assert index.next_ref == 7, "numbers are nobody else's"


def test_burying_twice_is_no_mistake(homes: Homes) -> None:
    homes.bury(refs_of([1]))
    homes.bury(refs_of([1]))
    assert homes.of(refs_of([1])).tolist() == [3]
