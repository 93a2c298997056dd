"""The index: which series there are, and which of them a selector means."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from support.clock import ManualClock
from support.store import bits, put, read, store_settings
from tachograph.config.selector import Matcher, MatchOp
from tachograph.config.settings import StorageLimits
from tachograph.storage.errors import SeriesRefused
from tachograph.storage.labels import Index, pack_labels, unpack_labels
from tachograph.storage.model import Kind, Labels, Series
from tachograph.storage.store import Store

NAMES = ["__name__", "a", "b", "c"]
VALUES = ["x", "y", "xy", "z1", "z2"]
PATTERNS = ["", "x", "x|y", "z.*", ".*", ".+", "x?", "z[12]", "(x|y)+", "nothing", "|x"]

label_sets = st.dictionaries(
    st.sampled_from(NAMES[1:]), st.sampled_from(VALUES), max_size=3
).flatmap(lambda labels: st.sampled_from(["up", "down"]).map(lambda name: Labels.of(labels, name)))
matchers = st.one_of(
    st.builds(
        Matcher,
        st.sampled_from([*NAMES, "missing"]),
        st.sampled_from([MatchOp.EQUAL, MatchOp.NOT_EQUAL]),
        st.sampled_from(["", "up", *VALUES]),
    ),
    st.builds(
        Matcher,
        st.sampled_from([*NAMES, "missing"]),
        st.sampled_from([MatchOp.REGEX, MatchOp.NOT_REGEX]),
        st.sampled_from([*PATTERNS, "up|down"]),
    ),
)


def by_hand(labels: Labels, matcher: Matcher) -> bool:
    """What Prometheus' documentation says of the four operators, without our matcher."""
    value = labels.get(matcher.name)
    match matcher.op:
        case MatchOp.EQUAL:
            return value == matcher.value
        case MatchOp.NOT_EQUAL:
            return value != matcher.value
        case MatchOp.REGEX:
            return re.fullmatch(matcher.value, value) is not None
        case _:
            return re.fullmatch(matcher.value, value) is None


class IndexModel(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.index = Index(StorageLimits())
        self.alive: dict[int, Labels] = {}
        self.used: set[int] = set()

    @rule(labels=label_sets)
    def add(self, labels: Labels) -> None:
        found = self.index.find(labels)
        if found is None:
            series = self.index.add(labels, Kind.GAUGE, 7)
            assert series.ref not in self.used, "numbers are not used twice"
            self.used.add(series.ref)
            self.alive[series.ref] = labels
        else:
            assert self.alive[found.ref] == labels

    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        gone = data.draw(st.sets(st.sampled_from(sorted(self.alive)))) if self.alive else set()
        self.index.remove([*gone, 4_000_000])
        for ref in gone:
            del self.alive[ref]

    @rule(wanted=st.lists(matchers, max_size=3))
    def select(self, wanted: list[Matcher]) -> None:
        for _ in range(2):  # the second answer is remembered
            assert self.index.select(wanted).tolist() == [
                ref
                for ref, labels in sorted(self.alive.items())
                if all(by_hand(labels, matcher) for matcher in wanted)
            ]

    @invariant()
    def counts(self) -> None:
        assert len(self.index) == len(self.alive)
        assert {s.ref: s.labels for s in self.index.series()} == self.alive
        for ref, labels in self.alive.items():
            series = self.index.get(ref)
            assert series is not None
            assert self.index.find(labels) is series
        names = sorted({name for labels in self.alive.values() for name, _ in labels})
        assert self.index.label_names() == names
        for name in names:
            values = sorted({v for v in (x.get(name) for x in self.alive.values()) if v})
            assert self.index.label_values(name) == values
            assert self.index.label_cardinality()[name] == len(values)
        metrics = [labels.name for labels in self.alive.values()]
        assert self.index.metric_cardinality() == {m: metrics.count(m) for m in set(metrics)}


def test_index_selects_as_a_look_at_every_series_would() -> None:
    run_state_machine_as_test(
        IndexModel, settings=settings(max_examples=60, stateful_step_count=25, deadline=None)
    )


@settings(max_examples=200, deadline=None)
@given(st.lists(label_sets, max_size=12, unique=True), st.lists(matchers, max_size=4))
def test_select_on_any_set(label_sets: list[Labels], wanted: list[Matcher]) -> None:
    index = Index(StorageLimits())
    for labels in label_sets:
        index.add(labels, Kind.GAUGE, 0)
    assert index.select(wanted).tolist() == [
        ref
        for ref, labels in enumerate(label_sets, 1)
        if all(by_hand(labels, matcher) for matcher in wanted)
    ]


@given(
    st.dictionaries(
        st.text(st.characters(exclude_characters="\x1f", exclude_categories=["Cs"]), min_size=1),
        st.text(st.characters(exclude_characters="\x1f", exclude_categories=["Cs"]), min_size=1),
        min_size=1,
    )
)
def test_labels_survive_packing(pairs: dict[str, str]) -> None:
    labels = Labels.of(pairs)
    assert unpack_labels(pack_labels(labels)) == labels


def refused(index: Index, labels: Labels) -> str:
    with pytest.raises(SeriesRefused) as caught:
        index.add(labels, Kind.GAUGE, 0)
    return caught.value.reason


def limited(**limits: int) -> Index:
    return Index(StorageLimits(**limits))


@pytest.mark.parametrize(
    ("limits", "labels", "reason"),
    [
        ({"series": 2}, Labels.of({}, "m2"), "series"),
        ({"series_per_metric": 1}, Labels.of({"a": "1"}, "m0"), "series_per_metric"),
        ({"labels_per_series": 2}, Labels.of({"a": "1", "b": "2"}, "m"), "labels_per_series"),
        ({"label_name_bytes": 8}, Labels.of({"a" * 9: "1"}, "m"), "label_bytes"),
        ({"label_name_bytes": 8}, Labels.of({"ä" * 5: "1"}, "m"), "label_bytes"),
        ({"label_value_bytes": 4}, Labels.of({"a": "12345"}, "m"), "label_bytes"),
        ({"label_value_bytes": 4}, Labels.of({"a": "äöü"}, "m"), "label_bytes"),
        ({}, Labels.of({"a": "1"}), "no_name"),
        ({}, Labels.of({"a": "x\x1fy"}, "m"), "label_bytes"),
        ({}, Labels.of({"a\x1f": "x"}, "m"), "label_bytes"),
        ({}, Labels.of({"a": "\ud800"}, "m"), "label_bytes"),
        ({}, Labels.of({"\ud800": "x"}, "m"), "label_bytes"),
        ({}, Labels.of({"a" * 100 + "\ud800": "x"}, "m"), "label_bytes"),
        ({}, Labels.of({"a": "x" * 2000 + "\ud800"}, "m"), "label_bytes"),
    ],
)
def test_what_exceeds_a_limit_is_refused_and_counted(
    limits: dict[str, int], labels: Labels, reason: str
) -> None:
    index = limited(**limits)
    old = [index.add(Labels.of({}, f"m{i}"), Kind.GAUGE, 0) for i in range(2)]
    assert refused(index, labels) == reason
    assert refused(index, labels) == reason
    assert index.refused == {reason: 2}
    assert len(index) == 2
    assert [index.find(series.labels) for series in old] == old, "old series go on"


def test_labels_at_the_limit_are_taken() -> None:
    index = limited(series=1, labels_per_series=2, label_name_bytes=8, label_value_bytes=8)
    index.add(Labels.of({"ääää": "öööö"}, "m"), Kind.GAUGE, 0)
    assert refused(index, Labels.of({}, "n")) == "series"


def test_limits_leave_stored_series_alone() -> None:
    index = limited(series=1)
    for ref in (3, 9):
        index.load(Series(ref, Labels.of({}, f"m{ref}"), Kind.GAUGE, 0))
    assert len(index) == 2
    assert refused(index, Labels.of({}, "new")) == "series"
    index.remove([3, 9])
    assert index.add(Labels.of({}, "new"), Kind.GAUGE, 0).ref == 10


def test_room_that_retention_makes_is_given_out_again() -> None:
    index = limited(series=1)
    first = index.add(Labels.of({}, "a"), Kind.GAUGE, 0)
    index.remove([first.ref])
    assert index.add(Labels.of({}, "b"), Kind.GAUGE, 0).ref == first.ref + 1


def test_version_grows_with_every_change() -> None:
    index = Index(StorageLimits())
    versions = [index.version]
    index.add(Labels.of({}, "a"), Kind.GAUGE, 0)
    versions.append(index.version)
    index.remove([1])
    versions.append(index.version)
    assert versions == sorted(set(versions))


def labelled(many: Iterable[int]) -> list[Labels]:
    return [Labels.of({"job": "all", "i": str(i)}, "m") for i in many]


def test_removing_everything_takes_time_by_the_series_not_by_their_square() -> None:
    counted = 0

    class Counting(int):
        """A number that counts how often it is compared."""

        def __eq__(self, other: object) -> bool:
            nonlocal counted
            counted += 1
            return int(self) == other

        __hash__ = int.__hash__

    index = Index(StorageLimits())
    for i, labels in enumerate(labelled(range(2_000)), 1):
        index.load(Series(Counting(i), labels, Kind.GAUGE, 0))
    index.remove([Counting(i) for i in range(2_000, 0, -1)])
    assert len(index) == 0
    assert index.label_names() == []
    assert counted < 100 * 2_000


async def test_numbers_of_series_are_not_used_again_after_a_restart(tmp_path: Path) -> None:
    clock = ManualClock()
    seen: dict[int, Labels] = {}
    labels = labelled(range(6))
    for i in range(6):
        store = Store(store_settings(tmp_path), clock)
        await store.open()
        group = store.group("g")
        for known in labels[:i]:
            ref = group.ref(known)
            assert seen[ref] == known
        ref = group.ref(labels[i])
        assert ref not in seen
        seen[ref] = labels[i]
        put(group, clock.now_ms() + i, {labels[i]: float(i)})
        await store.close()
    store = Store(store_settings(tmp_path), clock)
    await store.open()
    assert await read(store) == {
        each: {clock.now_ms() + i: bits([float(i)])[0]} for i, each in enumerate(labels)
    }
    await store.close()


async def test_refused_series_costs_the_others_nothing(tmp_path: Path) -> None:
    clock = ManualClock()
    store = Store(store_settings(tmp_path, limits=StorageLimits(series=3)), clock)
    await store.open()
    group = store.group("g")
    known = labelled(range(3))
    put(group, clock.now_ms(), dict.fromkeys(known, 1.0))
    for labels in labelled(range(3, 50)):
        with pytest.raises(SeriesRefused):
            group.ref(labels)
    put(group, clock.now_ms() + 1, dict.fromkeys(known, 2.0))
    assert store.index.refused == {"series": 47}
    assert sorted(await read(store)) == sorted(known)
    await store.close()
