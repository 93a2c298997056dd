"""The schedule: when passes happen, how they are stamped, and that sources don't disturb others."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.clock import ManualClock
from support.sink import MemorySink
from tachograph.agent.collectors.schedule import (
    BACKOFF_MAX_S,
    NEAR_MS,
    Schedule,
    aligned_after,
    backoff_ticks,
    phase_of,
)
from tachograph.storage.errors import StoreUnavailable
from tachograph.storage.model import STALE_NAN_BITS, Labels

MINUTE_MS = 60_000


@dataclass(eq=False)
class FakeSource:
    """Notes the stamps of its passes and does in them what the test says."""

    name: str = "fake"
    interval_s: float = 10.0
    timeout_s: float = 5.0
    backs_off: bool = True
    reports_itself: bool = False
    stamps: list[int] = field(default_factory=list)
    closed: int = 0
    act: Callable[[int], object] = lambda pass_number: None

    async def collect(self, ts_ms: int) -> None:
        self.stamps.append(ts_ms)
        result = self.act(len(self.stamps))
        if asyncio.iscoroutine(result):
            await result

    async def close(self) -> None:
        self.closed += 1


@dataclass
class EqualSource(FakeSource):
    """Equal to another one of the same settings."""

    stamps: list[int] = field(default_factory=list, compare=False)
    closed: int = field(default=0, compare=False)


def fail(pass_number: int) -> None:
    raise OSError("no such device")


@pytest.fixture
def sink() -> MemorySink:
    return MemorySink()


@pytest.fixture
def schedule(clock: ManualClock, sink: MemorySink) -> Schedule:
    return Schedule(clock, sink)


@asynccontextmanager
async def running(schedule: Schedule) -> AsyncIterator[None]:
    task = asyncio.create_task(schedule.run())
    await asyncio.sleep(0)
    try:
        yield
    finally:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def advance(clock: ManualClock, ms: int, step_ms: int = 1_000) -> None:
    """Advance in small steps, as passes with work to do need turns of the loop in between."""
    while ms > 0:
        await clock.advance(min(step_ms, ms))
        ms -= step_ms


def own(sink: MemorySink, source: str, metric: str, **labels: str) -> list[float]:
    series = Labels.of({"source": source, **labels}, name=f"tachograph_source_{metric}")
    return [tick[series] for _, tick in sink.groups[f"source/{source}"].ticks]


# --- pure timing -------------------------------------------------------------------------------


@given(after=st.integers(0, 2**42), interval=st.integers(1, 86_400_000), share=st.floats(0, 0.999))
def test_the_next_tick_is_aligned_and_at_most_an_interval_away(
    after: int, interval: int, share: float
) -> None:
    phase = int(share * interval)
    tick = aligned_after(after, interval, phase)
    assert after < tick <= after + interval
    assert tick % interval == phase


def test_phases_depend_on_name_and_seed_only_and_spread_over_the_interval() -> None:
    phases = [phase_of(f"scrape/{n}", 10_000) for n in range(1_000)]
    assert phases == [phase_of(f"scrape/{n}", 10_000) for n in range(1_000)]
    assert phases != [phase_of(f"scrape/{n}", 10_000, "elsewhere") for n in range(1_000)]
    per_second = [sum(second <= p // 1000 < second + 1 for p in phases) for second in range(10)]
    assert min(per_second) > 50


def test_back_off_doubles_up_to_its_cap() -> None:
    assert [backoff_ticks(failures, 10.0) for failures in range(8)] == [0, 0, 1, 3, 7, 15, 29, 29]
    assert backoff_ticks(10_000, 10.0) * 10.0 <= BACKOFF_MAX_S
    assert backoff_ticks(50, 3600.0) == 0


# --- ticks and stamps --------------------------------------------------------------------------


async def test_stamps_are_exactly_one_interval_apart(
    schedule: Schedule, clock: ManualClock
) -> None:
    source = FakeSource()
    schedule.add(source)
    async with running(schedule):
        await advance(clock, 5 * MINUTE_MS, step_ms=777)
    first, *rest = source.stamps
    assert [b - a for a, b in itertools.pairwise(rest)] == [10_000] * (len(rest) - 1)
    assert rest[0] % 10_000 == phase_of("fake", 10_000)
    assert 0 < rest[0] - first <= 10_000


async def test_first_pass_comes_within_the_startup_spread(
    schedule: Schedule, clock: ManualClock
) -> None:
    sources = [FakeSource(f"s{n}", interval_s=3600) for n in range(20)]
    for source in sources:
        schedule.add(source)
    begin_ms = clock.now_ms()
    async with running(schedule):
        await clock.advance(2_000)
    delays = [source.stamps[0] - begin_ms for source in sources]
    assert all(0 <= delay <= 1_000 + NEAR_MS for delay in delays)
    assert len(set(delays)) > 10


class LateClock(ManualClock):
    """Every sleep lasts a little too long, as in a busy event loop."""

    late_ms = 0

    async def sleep(self, seconds: float) -> None:
        await super().sleep(seconds)
        self._now_ms += self.late_ms
        self._monotonic_ms += self.late_ms


@pytest.mark.parametrize(
    ("late_ms", "is_aligned"), [(0, True), (2, True), (20, True), (21, False), (400, False)]
)
async def test_a_pass_that_is_a_little_late_gets_its_scheduled_stamp(
    sink: MemorySink, late_ms: int, is_aligned: bool
) -> None:
    clock = LateClock()
    schedule = Schedule(clock, sink, startup_spread_s=0)
    source = FakeSource()
    async with running(schedule):
        schedule.add(source)
        await advance(clock, 11_000)
        clock.late_ms = late_ms
        await advance(clock, 10_000)
        clock.late_ms = 0
        await advance(clock, 10_000)
    phase = phase_of("fake", 10_000)
    offsets = [(stamp - phase) % 10_000 for stamp in source.stamps[-3:]]
    assert offsets[1] == (0 if is_aligned else late_ms)
    assert offsets[2] == 0


async def test_a_pass_longer_than_the_interval_never_overlaps_and_counts_the_missed_ticks(
    schedule: Schedule, clock: ManualClock, sink: MemorySink
) -> None:
    active = most = 0

    async def work() -> None:
        nonlocal active, most
        active += 1
        most = max(most, active)
        await clock.sleep(25)
        active -= 1

    source = FakeSource(act=lambda n: work(), timeout_s=1_000)
    schedule.add(source)
    async with running(schedule):
        await advance(clock, 5 * MINUTE_MS)
    assert most == 1
    aligned = source.stamps[2:]
    assert {b - a for a, b in itertools.pairwise(aligned)} == {30_000}
    assert own(sink, "fake", "skipped_ticks_total", reason="overrun")[-3:] == pytest.approx(
        [2.0 * n for n in range(len(source.stamps) - 3, len(source.stamps))], abs=2
    )
    assert own(sink, "fake", "duration_seconds")[-1] == 25.0


async def test_ticks_missed_in_a_suspend_are_counted_and_not_made_up_for(
    schedule: Schedule, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    source = FakeSource()
    schedule.add(source)
    async with running(schedule):
        await advance(clock, MINUTE_MS)
        before = len(source.stamps)
        clock.step(3_600_000)  # monotonic time stands still while the machine sleeps
        await advance(clock, 30_000)
    assert len(source.stamps) - before == 3
    assert source.stamps[-1] % 10_000 == phase_of("fake", 10_000)
    assert schedule.stats.skipped["late"] == 360
    assert schedule.stats.clock_steps == 1
    assert schedule.stats.clock_step_s == pytest.approx(3_600)
    assert [r.message for r in caplog.records] == [
        "the clock was set by +3600.000 s, or the machine slept"
    ]


async def test_after_a_step_back_collection_goes_on_at_the_same_pace(
    schedule: Schedule, clock: ManualClock
) -> None:
    source = FakeSource()
    schedule.add(source)
    async with running(schedule):
        await advance(clock, MINUTE_MS)
        before = len(source.stamps)
        clock.step(-7_200_000)
        await advance(clock, MINUTE_MS)
    assert 6 <= len(source.stamps) - before <= 7
    assert schedule.stats.clock_steps == 1
    assert schedule.stats.skipped.total() == 0


async def test_small_corrections_of_the_clock_are_no_steps_and_repeat_no_tick(
    schedule: Schedule, clock: ManualClock
) -> None:
    source = FakeSource()
    schedule.add(source)
    async with running(schedule):
        await advance(clock, MINUTE_MS)
        for _ in range(6):
            clock.step(-3)
            await advance(clock, 10_000)
    assert schedule.stats.clock_steps == 0
    aligned = source.stamps[1:]
    assert {b - a for a, b in itertools.pairwise(aligned)} == {10_000}


@given(steps=st.lists(st.integers(-40_000, 40_000), max_size=8))
def test_whatever_the_clock_does_passes_keep_the_pace_of_monotonic_time(steps: list[int]) -> None:
    async def scenario() -> None:
        clock, sink = ManualClock(), MemorySink()
        schedule = Schedule(clock, sink)
        at_s: list[float] = []
        source = FakeSource(act=lambda n: at_s.append(clock.monotonic_s()))
        schedule.add(source)
        async with running(schedule):
            for step in steps:
                await clock.advance(7_000)
                clock.step(step)
            await clock.advance(30_000)
        gaps = [b - a for a, b in itertools.pairwise(at_s)]
        # A step may bring one tick nearer or push one away, never by more than an interval.
        assert all(gap <= 20.0 for gap in gaps)
        assert len(gaps) >= (7 * len(steps) + 30) // 20 - 1
        assert len(gaps) <= (7 * len(steps) + 30) / 10 + len(steps) + 1

    asyncio.run(scenario())


# --- failures ----------------------------------------------------------------------------------


async def test_a_failing_source_backs_off_and_returns_to_its_pace_at_the_first_success(
    schedule: Schedule, clock: ManualClock, sink: MemorySink, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    source = FakeSource(act=lambda n: fail(n) if n <= 4 else None)
    schedule.add(source)
    async with running(schedule):
        await advance(clock, 4 * MINUTE_MS)
    gaps = [b - a for a, b in zip(source.stamps, source.stamps[1:], strict=False)]
    assert gaps[1:6] == [20_000, 40_000, 80_000, 10_000, 10_000]
    assert own(sink, "fake", "up")[:6] == [0, 0, 0, 0, 1, 1]
    assert own(sink, "fake", "errors_total")[-1] == 4
    assert own(sink, "fake", "skipped_ticks_total", reason="backoff")[-1] == 1 + 3 + 7
    assert own(sink, "fake", "interval_seconds")[1:6] == [20, 40, 80, 10, 10]
    assert [r.message for r in caplog.records] == [
        "source fake failed: no such device",
        "source fake works again after 4 failures",
    ]


async def test_a_source_that_does_not_back_off_keeps_its_interval(
    schedule: Schedule, clock: ManualClock
) -> None:
    source = FakeSource(act=fail, backs_off=False)
    schedule.add(source)
    async with running(schedule):
        await advance(clock, 2 * MINUTE_MS)
    assert len(source.stamps) == 13
    assert schedule.status()[0].failures == 13


async def test_what_a_pass_lacked_stands_in_the_status_until_the_next(
    schedule: Schedule, clock: ManualClock
) -> None:
    class Noted(FakeSource):
        note = ""

    def act(pass_number: int) -> None:
        source.note = "no depth" if pass_number < 3 else ""
        if pass_number == 2:
            raise OSError("gone")

    source = Noted(act=act)
    schedule.add(source)
    notes: dict[int, str] = {}
    async with running(schedule):
        while len(source.stamps) < 4:
            await advance(clock, 1_000)
            notes[len(source.stamps)] = schedule.status()[0].note
    assert (notes[1], notes[2], notes[3]) == ("no depth", "", "")


async def test_a_store_that_takes_nothing_makes_no_source_back_off(
    schedule: Schedule, clock: ManualClock
) -> None:
    def refuse(pass_number: int) -> None:
        raise StoreUnavailable("disk full")

    source = FakeSource(act=refuse)
    schedule.add(source)
    async with running(schedule):
        await advance(clock, 2 * MINUTE_MS)
    assert len(source.stamps) == 13
    assert schedule.status()[0].last_error == "disk full"


async def test_a_source_that_reports_itself_gets_no_series_from_the_schedule(
    schedule: Schedule, clock: ManualClock, sink: MemorySink
) -> None:
    schedule.add(FakeSource(reports_itself=True))
    async with running(schedule):
        await advance(clock, MINUTE_MS)
    assert sink.groups == {}


async def test_a_hanging_pass_is_cancelled_counted_and_tried_again(
    schedule: Schedule, clock: ManualClock
) -> None:
    ended = asyncio.Queue[int]()

    async def hang(pass_number: int) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.put_nowait(pass_number)

    source = FakeSource(act=hang, timeout_s=0.01, backs_off=False)
    schedule.add(source)
    async with running(schedule):
        await clock.advance(11_000)
        assert await ended.get() == 1
        await clock.advance(11_000)
        assert await ended.get() == 2
        await clock.advance(1)
        assert schedule.stats.errors == 2
        assert schedule.status()[0].last_error == "no answer within 0.01 s"


async def test_broken_and_hanging_sources_do_not_disturb_the_others(
    schedule: Schedule, clock: ManualClock
) -> None:
    async def hang() -> None:
        await asyncio.Event().wait()

    async def cancelled_within() -> None:
        raise asyncio.CancelledError

    good = FakeSource("good")
    for source in (
        FakeSource("broken", act=fail),
        FakeSource("hanging", act=lambda n: hang(), timeout_s=600),
        FakeSource("cancelled", act=lambda n: cancelled_within()),
        good,
    ):
        schedule.add(source)
    async with running(schedule):
        await advance(clock, 5 * MINUTE_MS)
        status = {s.name: s for s in schedule.status()}
    assert len(good.stamps) == 30
    assert status["good"].errors == 0
    assert status["cancelled"].last_error == "cancelled from within"
    assert status["cancelled"].passes > 1


async def test_a_store_that_refuses_the_schedules_own_series_stops_nothing(
    clock: ManualClock,
) -> None:
    class FullGroup:
        def ref(self, labels: Labels, kind: object = None) -> int:
            return 1

        def append(self, ts_ms: int, refs: object, values: object) -> None:
            raise StoreUnavailable("full")

    class FullSink(MemorySink):
        def group(self, name: str) -> FullGroup:  # type: ignore[override]
            return FullGroup()

    schedule = Schedule(clock, FullSink())
    source = FakeSource()
    schedule.add(source)
    async with running(schedule):
        await advance(clock, MINUTE_MS)
    assert schedule.stats.unwritten == len(source.stamps) > 5


# --- changing the set --------------------------------------------------------------------------


async def test_a_removed_source_is_closed_and_its_own_series_end(
    schedule: Schedule, clock: ManualClock, sink: MemorySink
) -> None:
    source = FakeSource()
    schedule.add(source)
    async with running(schedule):
        await advance(clock, MINUTE_MS)
        await schedule.remove("fake")
        passes = len(source.stamps)
        await advance(clock, MINUTE_MS)
    assert source.closed == 1
    assert len(source.stamps) == passes
    last = sink.groups["source/fake"].last
    bits = np.array(list(last.values()), np.float64).view(np.uint64)
    assert len(bits) == 7
    assert (bits == STALE_NAN_BITS).all()


async def test_replace_leaves_equal_sources_running_and_swaps_changed_ones(
    schedule: Schedule, clock: ManualClock
) -> None:
    kept, changed, gone = EqualSource("kept"), EqualSource("changed"), EqualSource("gone")
    for source in (kept, changed, gone):
        schedule.add(source)
    async with running(schedule):
        await advance(clock, 65_000)
        kept_again = EqualSource("kept")
        faster = EqualSource("changed", timeout_s=1.0)
        new = EqualSource("new")
        await schedule.replace([kept_again, faster, new])
        await advance(clock, MINUTE_MS)
        assert [s.name for s in schedule.status()] == ["kept", "changed", "new"]
    assert (kept.closed, kept_again.closed) == (1, 1)  # the first by the end of run
    assert kept_again.stamps == []
    steps = {b - a for a, b in zip(kept.stamps[1:], kept.stamps[2:], strict=False)}
    assert steps == {10_000}
    # The changed one goes on in the rhythm of the old.
    assert changed.closed == gone.closed == 1
    assert faster.stamps[0] - changed.stamps[-1] == 10_000
    assert new.stamps


async def test_replace_with_a_name_twice_changes_nothing(schedule: Schedule) -> None:
    source = FakeSource("a")
    schedule.add(source)
    with pytest.raises(ValueError, match="two sources are called 'b'"):
        await schedule.replace([FakeSource("b"), FakeSource("b")])
    assert [s.name for s in schedule.status()] == ["a"]
    assert source.closed == 0


async def test_a_pass_that_ignores_its_cancellation_does_not_hold_up_a_reload(
    clock: ManualClock, sink: MemorySink, caplog: pytest.LogCaptureFixture
) -> None:
    release = asyncio.Event()

    async def stubborn() -> None:
        while not release.is_set():
            with suppress(asyncio.CancelledError):
                await release.wait()

    schedule = Schedule(clock, sink, startup_spread_s=0, stop_timeout_s=0.01)
    schedule.add(FakeSource("stubborn", act=lambda n: stubborn(), timeout_s=600))
    async with running(schedule):
        await advance(clock, 11_000)
        new = FakeSource("new")
        await schedule.replace([new])
        await advance(clock, 11_000)
        release.set()
    assert new.stamps
    assert schedule.stats.abandoned == 1
    assert "source stubborn does not stop" in caplog.text


async def test_a_name_can_be_added_once(schedule: Schedule) -> None:
    schedule.add(FakeSource())
    with pytest.raises(ValueError, match="'fake' already"):
        schedule.add(FakeSource())


async def test_all_sources_are_closed_when_run_ends_even_if_one_cannot(
    schedule: Schedule, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    class Unclosable(FakeSource):
        async def close(self) -> None:
            raise OSError("stuck")

    good = FakeSource("good")
    schedule.add(Unclosable("bad"))
    schedule.add(good)
    async with running(schedule):
        await clock.advance(1)
    assert good.closed == 1
    assert "source bad failed to close" in caplog.text
