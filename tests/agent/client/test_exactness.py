"""Whatever fails between a backend and the agent, each increment counts once."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from support.clock import ManualClock
from tachograph.agent.client.outbox import Answer, Outbox
from tachograph.agent.client.registry import Registry
from tachograph.agent.ingest.client import ClientIntake, Message
from tachograph.storage.model import Labels

NAME = "jobs_total"
BUCKETS = (1.0, 5.0)


class Disk:
    """What a crash of the agent leaves: the newest committed tick, and all recorded points."""

    def __init__(self) -> None:
        self.values: dict[Labels, float] = {}
        self.positions: dict[int, tuple[int, int]] = {}
        self.points: dict[tuple[str, int], float] = {}

    async def restore(self, wanted: Sequence[Labels]) -> Mapping[Labels, float]:
        await asyncio.sleep(0)
        return {labels: self.values[labels] for labels in wanted if labels in self.values}

    async def where(self) -> Mapping[int, tuple[int, int]]:
        return dict(self.positions)

    def store(self, points: Sequence[Any]) -> None:
        for ts_ms, name, value, *_ in points:
            self.points[name, ts_ms] = value


class Agent:
    def __init__(self, disk: Disk, clock: ManualClock) -> None:
        self.disk = disk
        self.intake = ClientIntake(disk.restore, disk.where, disk, clock, 1_000)
        self.ts_ms = 0

    def tick(self) -> None:
        """Write all totals, as one commit that is acknowledged."""
        self.ts_ms += 10_000
        totals = self.intake.totals
        values: dict[Labels, float] = {}
        for family in totals.families.values():
            row = iter(family.rows(self.ts_ms))
            for labels in family.shown:
                for suffix, more in family.parts():
                    values[Labels.of([*labels, *more.items()], labels.name + suffix)] = next(row)
        self.disk.values |= values
        positions = self.intake.positions()
        # Slots that have no worker keep their last tick, as series in a store do.
        self.disk.positions |= positions
        totals.settle()
        self.intake.commit(positions)


class Worker:
    def __init__(self) -> None:
        self.registry = Registry()
        self.jobs = self.registry.counter(NAME, labels=("kind",))
        self.sizes = self.registry.histogram("size", bounds=BUCKETS)
        self.outbox = Outbox(self.registry)
        self.is_connected = False


async def deliver(agent: Agent, outbox: Outbox, message: Mapping[str, Any]) -> bool:
    # Through JSON, as on the wire.
    sent = msgspec.json.decode(msgspec.json.encode(message), type=Message)
    return outbox.answered(Answer.of(await agent.intake.handle(sent)))


async def push(agent: Agent, worker: Worker, *, fault: str = "") -> None:
    """Push once; ``request``: the last message never arrives, ``answer``: its answer doesn't."""
    outbox = worker.outbox
    for _ in range(3):
        if not outbox.is_connected:
            await deliver(agent, outbox, outbox.greeting())
        taken = True
        for message in outbox.messages(is_last=outbox.is_final):
            if fault == "request":
                outbox.lost()
                return
            if fault == "answer":
                await agent.intake.handle(msgspec.convert(message, Message))
                outbox.lost()
                return
            taken = await deliver(agent, outbox, message)
            if not taken:
                break
        if taken:
            return
    raise AssertionError("the agent never takes a message")


STEP = st.tuples(
    st.sampled_from(
        [
            *("inc", "inc", "push", "push", "lose request", "lose answer"),
            *("tick", "crash", "gone", "end"),
        ]
    ),
    st.integers(0, 2),
    st.integers(1, 5),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(STEP, max_size=40))
def test_totals_are_exact_whatever_fails(steps: list[tuple[str, int, int]]) -> None:
    asyncio.run(_run(steps))


async def _run(steps: list[tuple[str, int, int]]) -> None:
    clock, disk = ManualClock(), Disk()
    agent = Agent(disk, clock)
    workers = [Worker() for _ in range(3)]
    counted, sizes = 0, [0, 0, 0]
    for action, number, amount in steps:
        worker = workers[number]
        if action == "inc":
            worker.jobs.labels(f"k{amount % 2}").inc(amount)
            worker.sizes.observe(amount)
            worker.registry.record("seen", amount)
            counted += amount
            sizes[0 if amount <= 1 else 1 if amount <= 5 else 2] += 1
        elif action == "push":
            await push(agent, worker)
        elif action == "lose request":
            await push(agent, worker, fault="request")
        elif action == "lose answer":
            await push(agent, worker, fault="answer")
        elif action == "tick":
            agent.tick()
        elif action == "crash":
            # Whatever wasn't in a committed tick is lost with the process.
            agent = Agent(disk, clock)
        elif action == "gone":
            # So silent that its gauges go, but not so long that its place is given away.
            await clock.advance(60_000)
            agent.intake.expire()
            agent.tick()
        elif action == "end":
            # Its slot is free with that tick, and soon another's.
            worker.outbox.is_final = True
            await push(agent, worker)
            agent.tick()
            name = int(worker.outbox.worker, 16)
            assert name not in {each for each, _ in agent.intake.positions().values()}
            workers[number] = Worker()
    for worker in workers:
        await push(agent, worker)
    agent.tick()
    found = [value for labels, value in disk.values.items() if labels.name == NAME]
    assert sum(found) == counted
    if sum(sizes):
        count = disk.values[Labels.of({}, "size_count")]
        assert count == sum(sizes)
        assert disk.values[Labels.of({"le": "1"}, "size_bucket")] == sizes[0]
        assert disk.values[Labels.of({"le": "+Inf"}, "size_bucket")] == sum(sizes)
        assert disk.values[Labels.of({}, "size_sum")] == counted


async def test_a_message_that_was_overtaken_by_a_new_session_is_void() -> None:
    clock, disk = ManualClock(), Disk()
    agent, worker = Agent(disk, clock), Worker()
    await push(agent, worker)
    worker.jobs.labels("a").inc(3)
    (late,) = worker.outbox.messages()
    worker.outbox.lost()  # no answer came in time; the message still lies in a socket's buffer
    await push(agent, worker)
    answer = await agent.intake.handle(msgspec.convert(late, Message))
    assert answer["greeting"]
    agent.tick()
    assert disk.values[Labels.of({"kind": "a"}, NAME)] == 3


async def test_a_message_that_comes_twice_counts_once() -> None:
    clock, disk = ManualClock(), Disk()
    agent, worker = Agent(disk, clock), Worker()
    await push(agent, worker)
    worker.jobs.labels("a").inc(3)
    (message,) = worker.outbox.messages()
    for _ in range(2):
        await agent.intake.handle(msgspec.convert(message, Message))
    agent.tick()
    assert disk.values[Labels.of({"kind": "a"}, NAME)] == 3
    assert agent.intake.stats.duplicates == 1
