"""What becomes of several processes' metrics: modes, staleness, contradictions, nonsense."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import pytest

from support.clock import ManualClock
from support.sink import MemorySink
from tachograph.agent.client.outbox import Answer, Outbox
from tachograph.agent.client.registry import Registry
from tachograph.agent.collectors.client import ClientSource
from tachograph.agent.ingest.client import ClientError, ClientIntake, Message
from tachograph.storage.current import Current
from tachograph.storage.errors import StoreUnavailable
from tachograph.storage.frame import FloatArray, IntArray, RefArray, is_stale
from tachograph.storage.model import Kind, Labels, MetricType, Series


class MemoryStore(MemorySink):
    """A sink that can be looked into, as the source looks into the store."""

    def __init__(self) -> None:
        super().__init__()
        self.current = Current()
        self.is_deaf = False

    @property
    def index(self) -> MemoryStore:
        return self

    def find(self, labels: Labels) -> Series | None:
        ref = self.refs.get(labels)
        return Series(ref, labels, Kind.GAUGE, 0) if ref else None

    def get(self, ref: int) -> Series | None:
        return Series(ref, self.labels[ref], Kind.GAUGE, 0)

    def select(self, matchers: Sequence[object]) -> RefArray:
        raise AssertionError("not asked for here")

    def group(self, name: str) -> Any:
        group = super().group(name)
        append = type(group).append

        def watched(ts_ms: int, refs: RefArray, values: FloatArray) -> None:
            if not self.is_deaf:
                append(group, ts_ms, refs, values)
                self.current.update(refs, ts_ms, values)

        group.append = watched  # type: ignore[method-assign]  # to look over its shoulder
        return group


class Points:
    def __init__(self) -> None:
        self.taken: list[Any] = []
        self.is_failing = False

    def store(self, points: Sequence[Any]) -> None:
        if self.is_failing:
            raise StoreUnavailable("the disk is full")
        self.taken += points


async def nothing(_: Sequence[Labels]) -> Mapping[Labels, float]:
    return {}


async def nowhere() -> Mapping[int, tuple[int, int]]:
    return {}


class Agent:
    def __init__(self, series_max: int = 1_000) -> None:
        self.clock = ManualClock()
        self.points = Points()
        self.intake = ClientIntake(nothing, nowhere, self.points, self.clock, series_max)
        self.store = MemoryStore()
        self.source = ClientSource(self.store, self.intake, self.clock, 10.0)

    async def tick(self) -> dict[str, float]:
        """Write one tick; return it by series as PromQL writes them, without positions."""
        await self.clock.advance(10_000)
        await self.source.collect(self.clock.now_ms())
        last = self.store.groups["client"].last
        return {
            str(labels): value
            for labels, value in last.items()
            if labels.name not in ("tachograph_client_worker", "tachograph_client_message")
        }


class Worker:
    def __init__(self, agent: Agent, **options: Any) -> None:
        self.agent = agent
        self.registry = Registry()
        self.outbox = Outbox(self.registry, **options)

    async def push(self, *, is_last: bool = False) -> None:
        intake = self.agent.intake
        for _ in range(3):
            if not self.outbox.is_connected:
                await self._say(intake, self.outbox.greeting())
            for message in self.outbox.messages(is_last=is_last):
                if not await self._say(intake, message):
                    break
            else:
                return
        raise AssertionError("not taken")

    async def _say(self, intake: ClientIntake, message: Mapping[str, Any]) -> bool:
        answer = msgspec.json.decode(await intake.answer(msgspec.json.encode(message)))
        return self.outbox.answered(Answer.of(answer))


@pytest.fixture
def agent() -> Agent:
    return Agent()


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("sum", {"level": 9}),
        ("max", {"level": 7}),
        ("min", {"level": 2}),
        ("last", {"level": 2}),
        ("worker", {'level{worker="0"}': 7, 'level{worker="1"}': 2}),
    ],
)
async def test_gauges_of_several_workers_become_one_by_their_mode(
    agent: Agent, mode: str, expected: dict[str, float]
) -> None:
    for value in (7, 2):
        worker = Worker(agent)
        worker.registry.gauge("level", mode=mode).set(value)
        await worker.push()
    assert await agent.tick() == expected


async def test_a_worker_that_ends_takes_its_gauges_along_and_leaves_its_counts(
    agent: Agent,
) -> None:
    stays, leaves = Worker(agent), Worker(agent)
    for worker, value in ((stays, 1), (leaves, 10)):
        worker.registry.gauge("level").set(value)
        worker.registry.counter("jobs_total").inc(value)
        await worker.push()
    assert await agent.tick() == {"level": 11, "jobs_total": 11}
    leaves.registry.counter("jobs_total").inc(5)
    await leaves.push(is_last=True)
    await stays.push()
    assert await agent.tick() == {"level": 1, "jobs_total": 16}


async def test_a_worker_that_says_nothing_is_gone_after_a_while(agent: Agent) -> None:
    worker = Worker(agent)
    worker.registry.gauge("level").set(1)
    worker.registry.counter("jobs_total").inc(2)
    await worker.push()
    assert await agent.tick() == {"level": 1, "jobs_total": 2}
    # The tick in which it is missed still has the total, so that the store knows it.
    after = await agent.tick()
    assert after["jobs_total"] == 2
    assert is_stale_value(after["level"])
    assert is_stale_value((await agent.tick())["jobs_total"])
    assert agent.intake.stats.expired == 1
    assert agent.intake.workers == 0
    worker.registry.counter("jobs_total").inc()
    await worker.push()  # it was only asleep
    assert agent.intake.workers == 1


def is_stale_value(value: float) -> bool:
    import numpy as np

    return bool(is_stale(np.array([value]))[0])


async def test_a_slow_speaker_is_waited_for(agent: Agent) -> None:
    worker = Worker(agent, interval_ms=60_000)
    worker.registry.gauge("level").set(1)
    await worker.push()
    for _ in range(17):
        assert await agent.tick() == {"level": 1}
    assert is_stale_value((await agent.tick() | await agent.tick())["level"])


async def test_histograms_add_up_by_bound(agent: Agent) -> None:
    for values in ((1, 3), (9,)):
        worker = Worker(agent)
        histogram = worker.registry.histogram("size_bytes", bounds=(2, 5.5))
        for value in values:
            histogram.observe(value)
        await worker.push()
    assert await agent.tick() == {
        'size_bytes_bucket{le="2"}': 1,
        'size_bytes_bucket{le="5.5"}': 2,
        'size_bytes_bucket{le="+Inf"}': 3,
        "size_bytes_sum": 13,
        "size_bytes_count": 3,
    }
    assert agent.store.metadata["size_bytes"].type is MetricType.HISTOGRAM


async def test_contradicting_definitions_are_refused_and_counted(agent: Agent) -> None:
    first, second = Worker(agent), Worker(agent)
    first.registry.counter("jobs_total").inc()
    second.registry.adopt(type(second.registry.gauge("x")), "jobs_total", "", ()).set(5)
    await first.push()
    await second.push()
    assert (await agent.tick())["jobs_total"] == 1
    assert agent.intake.stats.refused == {"shape": 1}


async def test_a_new_version_may_define_a_name_anew_once_the_old_has_gone(agent: Agent) -> None:
    old, new = Worker(agent), Worker(agent)
    old.registry.histogram("size_bytes", bounds=(1, 2)).observe(1)
    await old.push()
    await agent.tick()
    await old.push(is_last=True)
    new.registry.histogram("size_bytes", bounds=(10, 20)).observe(15)
    await new.push()
    tick = await agent.tick()
    assert tick['size_bytes_bucket{le="20"}'] == 1
    assert is_stale_value(tick['size_bytes_bucket{le="2"}'])


async def test_a_removed_series_ends_and_its_last_count_is_kept(agent: Agent) -> None:
    worker = Worker(agent)
    jobs = worker.registry.counter("jobs_total", "", ("kind",))
    jobs.labels("a").inc(3)
    await worker.push()
    await agent.tick()
    jobs.labels("a").inc(2)
    jobs.remove("a")
    await worker.push()
    assert (await agent.tick())['jobs_total{kind="a"}'] == 5
    await worker.push()
    assert is_stale_value((await agent.tick())['jobs_total{kind="a"}'])


async def test_labels_of_a_service_are_on_every_series(agent: Agent) -> None:
    worker = Worker(agent, labels={"service": "orders"})
    worker.registry.counter("jobs_total", "", ("kind",)).labels("a").inc()
    await worker.push()
    assert await agent.tick() == {'jobs_total{kind="a",service="orders"}': 1}


async def test_a_process_has_no_more_series_than_it_may() -> None:
    agent = Agent(series_max=10)
    worker = Worker(agent)
    jobs = worker.registry.counter("jobs_total", "", ("kind",))
    for kind in range(25):
        jobs.labels(str(kind)).inc()
    await worker.push()
    assert len(await agent.tick()) == 10
    assert agent.intake.stats.refused == {"series": 15}


async def test_recorded_values_arrive_with_their_times(agent: Agent) -> None:
    worker = Worker(agent)
    worker.registry.record("speed", float("inf"), {"car": "1"})
    worker.registry.record("speed", object())  # type: ignore[arg-type]
    await worker.push()
    assert [point[1:] for point in agent.points.taken] == [
        ("speed", "inf", {"car": "1"}, "gauge"),
        ("speed", None, None, "gauge"),
    ]


async def test_when_the_store_takes_nothing_nothing_is_applied(agent: Agent) -> None:
    worker = Worker(agent)
    jobs = worker.registry.counter("jobs_total")
    await worker.push()
    jobs.inc()
    worker.registry.record("speed", 1)
    agent.points.is_failing = True
    with pytest.raises(StoreUnavailable):
        await worker.push()
    worker.outbox.lost()
    agent.points.is_failing = False
    await worker.push()
    assert await agent.tick() == {"jobs_total": 1}
    assert len(agent.points.taken) == 1


async def test_what_the_store_left_out_is_not_acknowledged(agent: Agent) -> None:
    worker = Worker(agent)
    worker.registry.counter("jobs_total").inc()
    await worker.push()
    await agent.tick()
    await worker.push()
    assert worker.outbox.uncommitted == 1  # the message just now
    agent.store.is_deaf = True  # as while its clock can't be right
    await agent.tick()
    await worker.push()
    assert worker.outbox.uncommitted == 2
    agent.store.is_deaf = False
    await agent.tick()
    await worker.push()
    assert worker.outbox.uncommitted == 1


async def test_the_last_tick_is_written_at_the_end(agent: Agent) -> None:
    worker = Worker(agent)
    worker.registry.counter("jobs_total").inc(7)
    await worker.push()
    await agent.source.close()
    await agent.source.close()
    values = {str(labels): value for labels, value in agent.store.groups["client"].last.items()}
    assert values["jobs_total"] == 7
    assert values['tachograph_client_message{slot="0"}'] == 1


async def test_slots_are_used_again_after_a_while(agent: Agent) -> None:
    for _ in range(5):
        worker = Worker(agent)
        await worker.push(is_last=True)
        await agent.clock.advance(700_000)
        agent.intake.expire()
    worker = Worker(agent)
    await worker.push()
    assert list(agent.intake.positions()) == [0]


async def test_a_process_that_ends_gives_its_slot_back_with_the_commit(agent: Agent) -> None:
    stays = Worker(agent)
    await stays.push()
    for _ in range(3):
        ends = Worker(agent)
        ends.registry.counter("jobs_total").inc()
        ends.outbox.is_final = True
        await ends.push(is_last=True)
        assert list(agent.intake.positions()) == [0, 1], "not before it is committed"
        await agent.tick()
        assert list(agent.intake.positions()) == [0]
        await agent.tick()
        await stays.push()
    last = agent.store.groups["client"].last
    assert is_stale_value(last[Labels.of({"slot": "1"}, "tachograph_client_message")]), (
        "its series end"
    )


@pytest.mark.parametrize("places", [{0: 7, 3: 4}, {0: 4, 3: 7}])
async def test_of_two_slots_of_one_process_the_one_that_got_further_counts(
    places: dict[int, int],
) -> None:
    """It was silent for so long that its slot was free, and came back in another."""

    async def where() -> Mapping[int, tuple[int, int]]:
        return {slot: (5, applied) for slot, applied in places.items()}

    intake = ClientIntake(nothing, where, Points(), ManualClock(), 10)
    answer = await intake.handle(Message(v=1, worker=f"{5:013x}", session=""))
    assert answer["applied"] == 7
    assert len(intake.positions()) == 1


async def test_a_process_that_only_disconnects_keeps_its_slot_for_a_while(agent: Agent) -> None:
    worker = Worker(agent)
    jobs = worker.registry.counter("jobs_total")
    jobs.inc(2)
    await worker.push(is_last=True)
    worker.outbox.lost()
    assert await agent.tick() == {"jobs_total": 2}
    jobs.inc()
    await worker.push()  # it connects again, and was never told that its 2 are committed
    assert next(iter(agent.intake.positions().values()))[1] > 1
    assert agent.intake.workers == 1
    assert agent.intake.stats.greetings == 2


async def test_what_a_process_said_before_it_ended_is_void_once_its_slot_is_free(
    agent: Agent,
) -> None:
    worker = Worker(agent)
    await worker.push()
    worker.registry.counter("jobs_total").inc()
    worker.outbox.is_final = True
    (message,) = worker.outbox.messages(is_last=True)
    await agent.intake.answer(msgspec.json.encode(message))
    assert await agent.tick() == {"jobs_total": 1}
    assert agent.intake.positions() == {}
    answer = await agent.intake.answer(msgspec.json.encode(message))  # by a slow network, again
    assert msgspec.json.decode(answer)["greeting"]
    assert agent.intake.stats.messages == 2


GOOD = {"v": 1, "worker": "0123456789abc", "session": ""}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"hello",
        b"[]",
        b'{"v":1}',
        b"\xff\xfe",
        msgspec.json.encode({**GOOD, "v": 2}),
        msgspec.json.encode({**GOOD, "worker": "x"}),
        msgspec.json.encode({**GOOD, "worker": "fffffffffffff0"}),
        msgspec.json.encode({**GOOD, "number": -1}),
        msgspec.json.encode({**GOOD, "values": [["x" * 10, None]]}),
    ],
)
async def test_what_is_no_message_is_refused(agent: Agent, body: bytes) -> None:
    with pytest.raises(ClientError):
        await agent.intake.answer(body)


@pytest.mark.parametrize(
    ("part", "reason"),
    [
        ({"metrics": [[1, "a", "nonsense", "", []]]}, "type"),
        ({"metrics": [[1, "a", "gauge", "", [], "mean"]]}, "type"),
        ({"metrics": [[1, "", "counter", "", []]]}, "name"),
        ({"metrics": [[1, "a", "counter", "", ["__x"]]]}, "name"),
        ({"metrics": [[1, "a", "counter", "", ["x"]]], "series": [[1, 1, []]]}, "labels"),
        (
            {"metrics": [[1, "a", "counter", "", []]], "series": [[1, 1, []]], "values": [[1, -5]]},
            "value",
        ),
        (
            {
                "metrics": [[1, "a", "histogram", "", [], 1, 2]],
                "series": [[1, 1, []]],
                "values": [[1, 0, 7, 1]],
            },
            "value",
        ),
        (
            {
                "metrics": [[1, "a", "ratio", "", [], 300]],
                "series": [[1, 1, []]],
                "values": [[1, 5, 1]],
            },
            "value",
        ),
    ],
)
async def test_nonsense_in_a_message_is_counted_and_the_rest_taken(
    agent: Agent, part: dict[str, Any], reason: str
) -> None:
    greeting = await agent.intake.handle(msgspec.convert(GOOD, Message))
    message = {**GOOD, "session": greeting["session"], "number": 1, "new": True, **part}
    message.setdefault("series", []).append([9, 9, []])  # of a metric that isn't defined
    answer = await agent.intake.answer(msgspec.json.encode(message))
    assert msgspec.json.decode(answer)["applied"] == 1
    assert agent.intake.stats.refused == {reason: 1}


async def test_messages_of_many_workers_at_once_keep_their_order(agent: Agent) -> None:
    workers = [Worker(agent) for _ in range(20)]

    async def work(worker: Worker) -> None:
        jobs = worker.registry.counter("jobs_total")
        for _ in range(10):
            jobs.inc()
            await worker.push()

    await asyncio.gather(*map(work, workers))
    assert await agent.tick() == {"jobs_total": 200}


def test_times_of_the_type_hints() -> None:
    """The memory store is what the source asks for."""
    store = MemoryStore()
    times: tuple[IntArray, FloatArray] = store.current.get(_refs())
    assert len(times) == 2


def _refs() -> RefArray:
    import numpy as np

    return np.array([1], np.uint32)
