"""
The store against a plain dict: whatever is appended, in whatever order, through seals, restarts,
crashes and failing disks, is read back bit for bit, and nothing else.

``STORE_MODEL_EXAMPLES=2000 pytest tests/storage/test_store_model.py`` looks longer.
"""

from __future__ import annotations

import asyncio
import copy
import itertools
import os
import tempfile
from collections.abc import Collection, Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from support.clock import ManualClock
from support.store import (
    ALL_MS,
    FailingConnection,
    Samples,
    crash_copy,
    from_bits,
    read,
    refs_of,
    store_settings,
    times,
)
from tachograph.aggregation.compactor import Compactor
from tachograph.config.selector import Matcher, MatchOp
from tachograph.config.settings import SealSettings
from tachograph.storage.errors import StorageError
from tachograph.storage.keys import POINTS_GROUP
from tachograph.storage.model import ABSENT_BITS, STALE_NAN_BITS, Labels
from tachograph.storage.store import Store

T = TypeVar("T")

SECOND, MINUTE, HOUR, DAY = 1_000, 60_000, 3_600_000, 86_400_000
#: Just before a UTC midnight, so that runs cross it.
START_MS = 1_767_571_200_000 - 2 * MINUTE

SERIES = [Labels.of({"host": host}, name) for name in "abc" for host in "xyz"]
GROUPS = ["g1", "g2", "g3"]

NAN_BITS = 0x7FF8000000000000
ODD_BITS = [
    STALE_NAN_BITS,
    NAN_BITS,
    ABSENT_BITS,
    0xFFF8000000000001,  # a NaN with sign and payload
    0x7FF0000000000001,  # a signalling one
    0x7FF0000000000000,  # infinity
    0xFFF0000000000000,
    0x8000000000000000,  # -0.0
    0,
    1,  # the smallest denormal
    0x7FEFFFFFFFFFFFFF,  # the largest number
    *np.array([0.1, 2.5, 1e-9, 123456.789, -3.0]).view(np.uint64).tolist(),
]
a_value = st.one_of(
    st.sampled_from(ODD_BITS),
    st.integers(-50, 50).map(lambda n: int(np.float64(n).view(np.uint64))),
    st.integers(0, 2**64 - 1),
)
a_series = st.sampled_from(SERIES)
a_group = st.sampled_from(GROUPS)
#: What a tick's time is off from the clock's, or from that of the group's tick before.
a_tick_offset = st.sampled_from([0, 0, 0, -1, -SECOND, -10 * SECOND, -MINUTE, -HOUR, MINUTE])
a_point_offset = st.one_of(
    st.sampled_from([0, -1, SECOND, MINUTE, -MINUTE, -HOUR, -DAY, -3 * DAY]),
    st.integers(-25 * 60, 5).map(lambda minutes: minutes * MINUTE),
    st.integers(-300, 30).map(lambda seconds: seconds * SECOND),
)
a_step = st.sampled_from([SECOND, 10 * SECOND, 7 * MINUTE, -3 * SECOND, -HOUR // 2, -2 * HOUR, DAY])
a_matcher = st.builds(
    Matcher,
    st.sampled_from(["__name__", "host", "nothing"]),
    st.sampled_from([MatchOp.EQUAL, MatchOp.NOT_EQUAL]),
    st.sampled_from(["a", "b", "x", "y", ""]),
)


class StoreModel(RuleBasedStateMachine):
    """``expected`` is the model, ``durable`` the part of it that a crash must not take."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.root = tempfile.TemporaryDirectory()
        self.directories = (Path(self.root.name) / str(i) for i in itertools.count())
        self.clock = ManualClock(START_MS)
        self.expected: Samples = {}
        self.durable: Samples = {}
        self.refs: dict[Labels, int] = {}
        self.last_tick_ms = dict.fromkeys(GROUPS, START_MS)

    @initialize(codec=st.sampled_from(["auto", "zlib"]))
    def begin(self, codec: str) -> None:
        self.seal_settings = SealSettings(codec=codec)
        self.start(next(self.directories))

    def start(self, path: Path) -> None:
        self.store = Store(store_settings(path, seal=self.seal_settings), self.clock)
        self.run(self.store.open())
        self.disk = FailingConnection.install(self.store)
        for labels, ref in self.refs.items():
            series = self.store.index.find(labels)
            assert series is not None, f"{labels} is lost"
            assert series.ref == ref, "numbers of series stay"

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    def teardown(self) -> None:
        try:
            self.check((), ALL_MS)
            self.reopen()
            self.check((), ALL_MS)
            self.run(self.store.close())
        finally:
            self.runner.close()
            self.root.cleanup()

    # --- Appending ----------------------------------------------------------------------------

    @rule(
        name=a_group,
        tick=st.lists(st.tuples(a_series, a_value), max_size=6),
        offset=a_tick_offset,
        from_last=st.booleans(),
    )
    def append_tick(
        self, name: str, tick: list[tuple[Labels, int]], offset: int, from_last: bool
    ) -> None:
        base = self.last_tick_ms[name] if from_last else self.clock.now_ms()
        self.tick(name, base + offset, tick)

    @rule(
        name=a_group,
        members=st.lists(a_series, min_size=1, max_size=5, unique=True),
        interval=st.sampled_from([1, SECOND, 10 * SECOND, 5 * MINUTE]),
        count=st.integers(2, 40),
        seed=st.integers(0, 2**16),
        share=st.sampled_from([1.0, 1.0, 0.7]),
    )
    def append_many_ticks(
        self,
        name: str,
        members: list[Labels],
        interval: int,
        count: int,
        seed: int,
        share: float,
    ) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(count):
            self.clock.step(interval)
            here = [labels for labels in members if rng.random() < share]
            numbers = np.round(rng.normal(0, 9, len(here)), int(rng.integers(0, 3)))
            bits = numbers.view(np.uint64).tolist()
            self.tick(name, self.clock.now_ms(), list(zip(here, bits, strict=True)))

    @rule(
        name=a_group,
        members=st.lists(a_series, min_size=1, max_size=5, unique=True),
        offsets=st.lists(st.integers(-30, 5), min_size=1, max_size=6, unique=True).map(sorted),
        interval=st.sampled_from([1, SECOND, MINUTE]),
        data=st.data(),
    )
    def append_block(
        self,
        name: str,
        members: list[Labels],
        offsets: list[int],
        interval: int,
        data: st.DataObject,
    ) -> None:
        """Several ticks of the same members at once, some of them perhaps known already."""
        base = data.draw(st.sampled_from([self.clock.now_ms(), self.last_tick_ms[name]]))
        ts_ms = [base + offset * interval for offset in offsets]
        size = len(ts_ms) * len(members)
        bits = data.draw(st.lists(a_value, min_size=size, max_size=size))
        group = self.store.group(name)
        refs = refs_of(group.ref(labels) for labels in members)
        values = from_bits(bits).reshape(len(ts_ms), len(members))
        dropped = group.append_ticks(times(ts_ms), refs, values)
        if dropped.keys() - {"future"}:
            assert sum(dropped.values()) in (0, size)  # a clock that is not believed
            return
        horizon_ms = self.clock.now_ms() + self.store.settings.limits.future_ms
        for row, ts in enumerate(ts_ms):
            if ts <= horizon_ms:
                self.last_tick_ms[name] = ts
                for column, labels in enumerate(members):
                    self.expect(labels, ts, bits[row * len(members) + column])

    def tick(self, name: str, ts_ms: int, tick: Sequence[tuple[Labels, int]]) -> None:
        group = self.store.group(name)
        refs = refs_of(group.ref(labels) for labels, _ in tick)
        dropped = self.store.stats.dropped.total()
        group.append(ts_ms, refs, from_bits([bits for _, bits in tick]))
        dropped = self.store.stats.dropped.total() - dropped
        assert dropped in (0, len(tick)), "a tick is taken whole or not at all"
        if not dropped:
            self.last_tick_ms[name] = ts_ms
            for labels, bits in tick:
                self.expect(labels, ts_ms, bits)

    @rule(points=st.lists(st.tuples(a_series, a_point_offset, a_value), max_size=12))
    def append_points(self, points: list[tuple[Labels, int, int]]) -> None:
        now_ms = self.clock.now_ms()
        group = self.store.group("points")
        refusal = self.store.append_points(
            refs_of(group.ref(labels) for labels, _, _ in points),
            times(now_ms + offset for _, offset, _ in points),
            from_bits([bits for _, _, bits in points]),
        )
        reasons = refusal.reasons if refusal is not None else ("",) * len(points)
        for (labels, offset, bits), reason in zip(points, reasons, strict=True):
            if not reason:
                self.expect(labels, now_ms + offset, bits)

    @precondition(lambda self: self.expected)
    @rule(data=st.data(), bits=a_value, by_tick=st.booleans(), name=a_group)
    def append_again(self, data: st.DataObject, bits: int, by_tick: bool, name: str) -> None:
        """A sample that is there already comes once more, with another value."""
        labels = data.draw(st.sampled_from(sorted(self.expected)))
        ts_ms = data.draw(st.sampled_from(sorted(self.expected[labels])))
        if by_tick:
            self.tick(name, ts_ms, [(labels, bits)])
        else:
            self.append_points([(labels, ts_ms - self.clock.now_ms(), bits)])

    def expect(self, labels: Labels, ts_ms: int, bits: int) -> None:
        bits = NAN_BITS if bits == ABSENT_BITS else bits
        self.expected.setdefault(labels, {})[ts_ms] = bits

    # --- Committing, sealing, failing ---------------------------------------------------------

    @rule(ms=a_step)
    def step_clock(self, ms: int) -> None:
        self.clock.step(ms)

    @rule()
    def flush(self) -> None:
        self.run(self.store.flush())
        self.note_durable()

    @rule(only=st.none() | st.sets(st.sampled_from([POINTS_GROUP, 1, 2, 3, 4])))
    def seal(self, only: Collection[int] | None) -> None:
        self.run(self.store.sealer.seal(only))
        self.note_durable()

    @rule(statements=st.integers(0, 40), only=st.none() | st.sets(st.sampled_from([0, 1, 2, 3])))
    def seal_on_failing_disk(self, statements: int, only: Collection[int] | None) -> None:
        self.disk.fail_after(statements)
        try:
            self.run(self.store.sealer.seal(only))
        except StorageError:
            assert self.disk.failures
        self.disk.heal()
        self.note_durable()

    @rule(statements=st.integers(0, 6))
    def flush_on_failing_disk(self, statements: int) -> None:
        self.disk.fail_after(statements)
        try:
            self.run(self.store.flush())
        except StorageError:
            assert self.disk.failures
        self.disk.heal()
        self.note_durable()

    @rule(seal_first=st.booleans())
    def compact(self, seal_first: bool) -> None:
        """Closed days become one chunk a series, and their rollups."""
        if seal_first:
            self.seal(None)
        self.run(Compactor(self.store, rest=0).run_once())
        self.note_durable()

    @rule(statements=st.integers(0, 60))
    def compact_on_failing_disk(self, statements: int) -> None:
        self.disk.fail_after(statements)
        try:
            self.run(Compactor(self.store, rest=0).run_once())
        except StorageError:
            assert self.disk.failures
        self.disk.heal()
        self.note_durable()

    def note_durable(self) -> None:
        if self.store._intake.is_empty:
            self.durable = copy.deepcopy(self.expected)
            self.refs = {s.labels: s.ref for s in self.store.index.series()}

    # --- Restarts -----------------------------------------------------------------------------

    @rule()
    def reopen(self) -> None:
        self.run(self.store.close())
        self.durable = copy.deepcopy(self.expected)
        self.refs = {s.labels: s.ref for s in self.store.index.series()}
        self.start(self.store.directory)

    @rule(statements=st.none() | st.integers(0, 40))
    def crash(self, statements: int | None) -> None:
        """Die between two commits, perhaps in the midst of a seal; go on from what the disk has."""
        if statements is not None:
            self.seal_on_failing_disk(statements, None)
        target = next(self.directories)
        crash_copy(self.store, target)
        self.run(self.store.close())
        self.expected = copy.deepcopy(self.durable)
        self.start(target)

    # --- Reading ------------------------------------------------------------------------------

    @rule(matchers=st.lists(a_matcher, max_size=2), data=st.data())
    def read(self, matchers: list[Matcher], data: st.DataObject) -> None:
        known = sorted({ts for samples in self.expected.values() for ts in samples})
        some = st.sampled_from(known) if known else st.just(START_MS)
        near = st.sampled_from([-1, 0, 0, 1, -HOUR, HOUR])
        min_ms = data.draw(some) + data.draw(near)
        self.check(matchers, (min_ms, data.draw(some) + data.draw(near)))

    def check(self, matchers: Sequence[Matcher], window: tuple[int, int]) -> None:
        min_ms, max_ms = window
        wanted: Samples = {}
        for labels, samples in self.expected.items():
            if all(matcher.matches(labels.get(matcher.name)) for matcher in matchers):
                inside = {ts: bits for ts, bits in samples.items() if min_ms <= ts <= max_ms}
                if inside:
                    wanted[labels] = inside
        assert self.run(read(self.store, matchers, min_ms, max_ms)) == wanted
        for _ in range(2):  # decoded, then remembered
            assert self.run(read(self.store, matchers, min_ms, max_ms, cached=True)) == wanted
        assert not self.store.stats.corrupt.total()


def test_store_gives_back_what_it_took() -> None:
    examples = os.environ.get("STORE_MODEL_EXAMPLES")
    run_state_machine_as_test(
        StoreModel,
        settings=settings(
            max_examples=int(examples or 30),
            derandomize=examples is None,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
