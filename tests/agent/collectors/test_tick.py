"""One append per pass, stale markers for what vanished, and no fuss about refused series."""

from __future__ import annotations

import numpy as np
import pytest

from support.sink import MemoryGroup, MemorySink
from tachograph.agent.collectors.tick import (
    REFUSED_RETRY_PASSES,
    Block,
    Family,
    TickWriter,
    counter,
    gauge,
)
from tachograph.storage.errors import SeriesRefused, StoreUnavailable
from tachograph.storage.frame import FloatArray, IntArray, RefArray, is_stale
from tachograph.storage.model import Kind, Labels, Metadata, MetricType

SPEED = gauge("wheel_speed_ratio", "How fast a wheel turns.")
TURNS = counter("wheel_turns_total", "How often it turned.")


def wheels(names: tuple[str, ...], values: list[float], family: Family = SPEED) -> Block:
    return Block(
        (family.name, names), values, lambda: [(family, {"wheel": name}) for name in names]
    )


def speed(wheel: str) -> Labels:
    return Labels.of({"wheel": wheel}, name="oht50_wheel_speed_ratio")


class RecordingGroup:
    """Counts the calls that a steady pass should not make, and refuses what it is told to."""

    def __init__(self, sink: MemorySink) -> None:
        self._sink = sink
        self.refs_asked = 0
        self.refused: set[str] = set()
        self.is_full = False
        self.appends: list[tuple[int, RefArray, FloatArray]] = []

    def ref(self, labels: Labels, kind: Kind = Kind.UNKNOWN) -> int:
        self.refs_asked += 1
        if labels.get("wheel") in self.refused:
            raise SeriesRefused("series", "too many")
        return self._sink.register(labels, kind)

    def append(self, ts_ms: int, refs: RefArray, values: FloatArray) -> None:
        if self.is_full:
            raise StoreUnavailable("full")
        self.appends.append((ts_ms, refs, values))


class RecordingSink:
    def __init__(self) -> None:
        self.memory = MemorySink()
        self.only_group = RecordingGroup(self.memory)

    def group(self, name: str) -> RecordingGroup:
        return self.only_group

    def describe(self, family: str, metadata: Metadata) -> None:
        self.memory.describe(family, metadata)

    def append_points(self, refs: RefArray, ts_ms: IntArray, values: FloatArray) -> None:
        raise AssertionError("a tick is never made of points")

    async def committed(self) -> None:
        return None

    def tick(self, number: int = -1) -> dict[str, float]:
        _, refs, values = self.only_group.appends[number]
        labels = self.memory.labels
        return {labels[int(r)].get("wheel"): float(v) for r, v in zip(refs, values, strict=True)}


@pytest.fixture
def sink() -> RecordingSink:
    return RecordingSink()


def test_all_blocks_of_a_pass_are_one_tick_with_one_timestamp() -> None:
    sink = MemorySink()
    writer = TickWriter(sink, "cart", "oht50", {"cart": "7"})

    written = writer.write(1_000, [wheels(("l", "r"), [0.5, 1]), wheels(("l",), [42], TURNS)])

    assert written == 3
    group: MemoryGroup = sink.groups["cart"]
    assert group.ticks == [
        (
            1_000,
            {
                Labels.of({"wheel": "l", "cart": "7"}, name="oht50_wheel_speed_ratio"): 0.5,
                Labels.of({"wheel": "r", "cart": "7"}, name="oht50_wheel_speed_ratio"): 1.0,
                Labels.of({"wheel": "l", "cart": "7"}, name="oht50_wheel_turns_total"): 42.0,
            },
        )
    ]
    kinds = {labels.name: kind for labels, kind in sink.kinds.items()}
    assert kinds == {
        "oht50_wheel_speed_ratio": Kind.GAUGE,
        "oht50_wheel_turns_total": Kind.COUNTER,
    }


def test_families_are_described_without_total_and_with_their_unit() -> None:
    sink = MemorySink()
    TickWriter(sink, "cart").write(0, [wheels(("l",), [1], TURNS), wheels(("l",), [1])])
    assert sink.metadata == {
        "wheel_turns": Metadata(MetricType.COUNTER, "How often it turned.", ""),
        "wheel_speed_ratio": Metadata(MetricType.GAUGE, "How fast a wheel turns.", "ratio"),
    }


def test_a_steady_pass_asks_for_no_refs_and_hands_over_the_same_ref_array(
    sink: RecordingSink,
) -> None:
    writer = TickWriter(sink, "cart")
    for ts_ms in range(5):
        writer.write(ts_ms, [wheels(("l", "r"), [ts_ms, -ts_ms])])
    group = sink.only_group
    assert group.refs_asked == 2
    assert all(refs is group.appends[0][1] for _, refs, _ in group.appends)
    assert [values.tolist() for _, _, values in group.appends] == [[t, -t] for t in range(5)]


def test_a_vanished_series_is_ended_in_the_first_tick_without_it(sink: RecordingSink) -> None:
    writer = TickWriter(sink, "cart")
    writer.write(0, [wheels(("l", "r"), [1, 2])])
    writer.write(1, [wheels(("l",), [3])])
    writer.write(2, [wheels(("l",), [4])])

    _, refs, values = sink.only_group.appends[1]
    assert [sink.memory.labels[int(r)].get("wheel") for r in refs] == ["l", "r"]
    assert is_stale(values).tolist() == [False, True]
    assert sink.tick(2) == {"l": 4.0}


def test_a_series_that_comes_back_goes_on_under_its_number(sink: RecordingSink) -> None:
    writer = TickWriter(sink, "cart")
    for names in (("l", "r"), ("l",), ("l", "r")):
        writer.write(0, [wheels(names, [1.0] * len(names))])
    first, _, last = (refs.tolist() for _, refs, _ in sink.only_group.appends)
    assert first == last


def test_markers_that_a_full_store_refused_are_written_with_the_next_tick(
    sink: RecordingSink,
) -> None:
    writer = TickWriter(sink, "cart")
    writer.write(0, [wheels(("l", "r"), [1, 2])])
    sink.only_group.is_full = True
    with pytest.raises(StoreUnavailable):
        writer.write(1, [wheels(("l",), [3])])
    sink.only_group.is_full = False
    writer.write(2, [wheels(("l",), [4])])
    tick = sink.tick()
    assert tick["l"] == 4.0
    assert np.isnan(tick["r"])


def test_refused_series_are_left_out_and_asked_for_again(sink: RecordingSink) -> None:
    group = sink.only_group
    group.refused = {"l"}
    writer = TickWriter(sink, "cart")
    writer.write(0, [wheels(("l", "r"), [1, 2])])
    assert sink.tick() == {"r": 2.0}
    assert writer.refused == 1

    group.refused = set()
    for ts_ms in range(1, REFUSED_RETRY_PASSES):
        writer.write(ts_ms, [wheels(("l", "r"), [1, 2])])
    assert group.refs_asked == 2
    writer.write(REFUSED_RETRY_PASSES, [wheels(("l", "r"), [1, 2])])
    assert sink.tick() == {"l": 1.0, "r": 2.0}
    assert writer.refused == 0


def test_of_two_values_for_one_series_the_first_is_written(sink: RecordingSink) -> None:
    TickWriter(sink, "cart").write(0, [wheels(("l", "l", "r"), [1, 2, 3])])
    assert sink.tick() == {"l": 1.0, "r": 3.0}


def test_end_marks_every_series_once(sink: RecordingSink) -> None:
    writer = TickWriter(sink, "cart")
    writer.write(0, [wheels(("l", "r"), [1, 2])])
    writer.end(1)
    writer.end(2)
    assert len(sink.only_group.appends) == 2
    assert is_stale(sink.only_group.appends[1][2]).all()


def test_values_and_series_of_a_block_must_agree_in_number(sink: RecordingSink) -> None:
    with pytest.raises(ValueError, match="has 1 values for 2 series"):
        TickWriter(sink, "cart").write(0, [wheels(("l", "r"), [1])])
