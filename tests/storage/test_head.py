"""The head of a group, and that of the points."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.store import bits, refs_of, times
from tachograph.storage.frame import ABSENT, FloatArray, is_absent
from tachograph.storage.head import GroupHead, HeadView, Points, PointsHead


def write(head: GroupHead, ts_ms: int, samples: dict[int, float]) -> None:
    row = head.place(ts_ms)
    assert row is not None
    head.write(row, ts_ms, refs_of(samples), np.array(list(samples.values())))


def content(view: HeadView) -> dict[int, dict[int, float]]:
    """Samples by series and time."""
    found: dict[int, dict[int, float]] = {}
    for row, ts in enumerate(view.ts_ms[: view.ticks].tolist()):
        cells = view.cells[row, : len(view.refs)]
        for ref, value, gone in zip(view.refs.tolist(), cells, is_absent(cells), strict=True):
            if not gone:
                found.setdefault(ref, {})[ts] = float(value)
    return found


class Recycled(GroupHead):
    """A head whose memory was used before, as `np.empty` may hand it out at any time."""

    def _grow_ticks(self) -> None:
        super()._grow_ticks()
        self._cells[self.ticks :] = 4.25


def test_new_series_has_no_samples_before_its_first() -> None:
    head = Recycled(1, "g")
    write(head, 1, {ref: 1.0 for ref in range(8)})
    write(head, 2, {ref: 1.0 for ref in range(9)})  # 10 columns of room, one of them spare
    for ts in range(3, 40):  # the room for ticks grows, with its spare column
        write(head, ts, {ref: 1.0 for ref in range(9)})
    write(head, 40, {9: 2.0})
    assert content(head.view)[9] == {40: 2.0}


@settings(max_examples=150, deadline=None)
@given(
    ticks=st.lists(
        st.tuples(
            st.integers(1, 12),
            st.dictionaries(st.integers(1, 30), st.floats(allow_nan=False), max_size=12),
        ),
        max_size=60,
    ),
    drops=st.sets(st.integers(0, 59)),
)
def test_head_holds_what_was_written(
    ticks: list[tuple[int, dict[int, float]]], drops: set[int]
) -> None:
    head = Recycled(1, "g")
    expected: dict[int, dict[int, float]] = {}
    ts = 0
    for i, (step, samples) in enumerate(ticks):
        ts += step
        write(head, ts, samples)
        for ref, value in samples.items():
            expected.setdefault(ref, {})[ts] = value
        if i in drops:
            head.freeze()
            write(head, ts + 1, {1: 7.0})
            head.drop(head.frozen)
            ts += 1
            expected = {1: {ts: 7.0}}
            assert head.columns == 1, "columns without a sample go"
        assert content(head.view) == expected


def test_view_of_a_reader_stays_as_it_was() -> None:
    head = GroupHead(1, "g")
    for ts in range(1, 20):
        write(head, ts, {1: float(ts)})
    view = head.view
    before = content(view)
    for ts in range(20, 200):
        write(head, ts, {1: -1.0, ts: 5.0})
    head.freeze()
    head.drop(head.frozen)
    write(head, 300, {8: 1.0})
    assert content(view) == before


def test_tick_in_pieces_becomes_one_row() -> None:
    head = GroupHead(1, "g")
    write(head, 10, {1: 1.0})
    write(head, 20, {1: 2.0})
    write(head, 10, {2: 3.0})
    write(head, 20, {1: 4.0, 2: 5.0})
    assert head.ticks == 2
    assert content(head.view) == {1: {10: 1.0, 20: 4.0}, 2: {10: 3.0, 20: 5.0}}


def test_time_between_ticks_has_no_place() -> None:
    head = GroupHead(1, "g")
    write(head, 10, {1: 1.0})
    write(head, 20, {1: 2.0})
    assert [head.place(ts) for ts in (5, 10, 15, 20, 25)] == [None, 0, None, 1, 2]


def test_frozen_rows_take_no_samples() -> None:
    head = GroupHead(1, "g")
    write(head, 10, {1: 1.0})
    head.freeze()
    assert head.place(10) is None
    assert head.place(11) == 1
    head.thaw()
    assert head.place(10) == 0


def test_nothing_up_to_a_sealed_time_is_a_new_tick() -> None:
    head = GroupHead(1, "g")
    write(head, 10, {1: 1.0})
    head.freeze()
    head.drop(head.frozen)
    assert head.ticks == 0
    assert [head.place(ts) for ts in (9, 10, 11)] == [None, None, 0]
    again = GroupHead(1, "g")
    again.restore_newest(10)
    assert [again.place(ts) for ts in (9, 10, 11)] == [None, None, 0]


def test_last_of_repeated_series_in_a_tick_stays() -> None:
    head = GroupHead(1, "g")
    head.write(0, 10, refs_of([1, 2, 1]), np.array([1.0, 2.0, 3.0]))
    assert content(head.view) == {1: {10: 3.0}, 2: {10: 2.0}}


def test_head_is_eight_bytes_a_sample_and_a_half() -> None:
    head = GroupHead(1, "g")
    refs, values = np.arange(1000, dtype=np.uint32), np.zeros(1000)
    for ts in range(1, 361):
        head.write(ts - 1, ts, refs, values)
    assert head.view.cells.nbytes <= 360 * 1000 * 8 * 1.5


# --- Points -------------------------------------------------------------------------------------


def batch(*points: tuple[int, int, float]) -> Points:
    return Points(
        refs_of(ref for ref, _, _ in points),
        times(ts for _, ts, _ in points),
        np.array([value for _, _, value in points], np.float64),
    )


def listed(points: Points) -> list[tuple[int, int, int]]:
    return list(zip(points.refs.tolist(), points.ts_ms.tolist(), bits(points.values), strict=True))


def select(head: PointsHead, refs: list[int], min_ms: int = 0, max_ms: int = 1 << 40) -> Points:
    return head.view().select(refs_of(refs), min_ms, max_ms)


class ShortTail(PointsHead):
    """Sorts its tail in early, so that few points show how bulk and tail go together."""

    _TAIL_MAX = 4
    _BATCHES_MAX = 3


a_batch = st.lists(
    st.tuples(st.integers(1, 5), st.integers(0, 12), st.floats(-5, 5)), min_size=1, max_size=6
)


@settings(max_examples=200, deadline=None)
@given(
    steps=st.lists(st.sampled_from(["freeze", "drop", "thaw"]) | a_batch, max_size=30),
    refs=st.sets(st.integers(1, 6)),
    low=st.integers(0, 12),
    length=st.integers(0, 12),
)
def test_points_head_keeps_the_last_of_each_series_and_time(
    steps: list[str | list[tuple[int, int, float]]], refs: set[int], low: int, length: int
) -> None:
    head = ShortTail()
    kept: dict[tuple[int, int], float] = {}
    freezing: dict[tuple[int, int], float] | None = None
    for step in steps:
        if isinstance(step, list):
            head.append(batch(*step))
            kept |= {(ref, ts): value for ref, ts, value in step}
        elif step == "freeze" and freezing is None:
            frozen = head.freeze()
            freezing, kept = kept, {}
            assert [(r, t) for r, t, _ in listed(frozen)] == sorted(freezing)
        elif step == "drop" and freezing is not None:
            head.drop()
            freezing = None
        elif step == "thaw" and freezing is not None:
            head.thaw()
            kept, freezing = freezing | kept, None
        everything = (freezing or {}) | kept
        wanted = [
            (ref, ts, bits([value])[0])
            for (ref, ts), value in sorted(everything.items())
            if ref in refs and low <= ts <= low + length
        ]
        assert listed(select(head, sorted(refs), low, low + length)) == wanted


def test_view_of_points_outlives_their_seal() -> None:
    head = PointsHead()
    head.append(batch((1, 10, 1.0)))
    view = head.view()
    head.append(batch((1, 11, 2.0)))
    head.freeze()
    head.drop()
    found = view.select(refs_of([1]), 0, 100)
    assert found.ts_ms.tolist() == [10]
    assert not len(select(head, [1]).refs)


def test_many_small_batches_are_joined() -> None:
    head = PointsHead()
    for ts in range(5_000):
        head.append(batch((1 + ts % 3, ts, 1.0)))
    assert len(head.view().parts) < 100
    assert len(select(head, [1, 2, 3]).refs) == 5_000


def test_points_may_be_read_while_they_are_appended() -> None:
    head = ShortTail()
    stop = threading.Event()
    seen: list[int] = []
    wrong: list[str] = []

    def look() -> None:
        while not stop.is_set():
            found = select(head, [1]).ts_ms
            if found.tolist() != list(range(len(found))):
                wrong.append(f"{found.tolist()[:50]}")
            seen.append(len(found))

    readers = [threading.Thread(target=look) for _ in range(2)]
    for reader in readers:
        reader.start()
    for ts in range(2_000):
        head.append(batch((1, ts, 1.0)))
    stop.set()
    for reader in readers:
        reader.join()
    assert not wrong
    assert sorted(seen)[-1] <= 2_000


@pytest.mark.parametrize("values", [np.array([ABSENT]), np.array([np.nan])])
def test_head_keeps_bits(values: FloatArray) -> None:
    head = GroupHead(1, "g")
    head.write(0, 1, refs_of([1]), values)
    assert bits(head.view.cells[0, :1]) == bits(values)
