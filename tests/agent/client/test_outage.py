"""The agent goes and comes back: the backend neither waits for it nor loses what it counted."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import math
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.client_agent import AgentProcess, until, value_of
from tachograph.agent.client.address import Address
from tachograph.agent.client.outbox import Answer, Outbox
from tachograph.agent.client.push import Pusher, encode
from tachograph.agent.client.registry import Limits, Registry

RECORDS_MAX = 50
DROPPED = 'tachograph_client_dropped_total{reason="full"}'


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.mark.parametrize("way", ["kill", "stop"])
async def test_an_outage_costs_no_count_no_exception_and_bounded_memory(
    tmp_path: Path, session: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture, way: str
) -> None:
    caplog.set_level(logging.INFO, "tachograph.client")
    agent = AgentProcess(tmp_path)
    await agent.start(session)
    clock = iter(range(1_700_000_000, 1_800_000_000))
    registry = Registry(Limits(records=RECORDS_MAX), now_s=lambda: float(next(clock)))
    jobs = registry.counter("jobs_total", "Jobs.", ("kind",))
    took = registry.histogram("took_seconds")
    pusher = Pusher(registry, Address.of(agent.socket), interval_s=0.01, retry_max_s=0.01)

    def work(times: int) -> None:
        for number in range(times):
            jobs.labels(f"k{number % 300}").inc()
            took.observe(0.5)

    async def is_told(jobs_done: int) -> None:
        series = 'jobs_total{kind="k0"}'
        await until(lambda: value_of(session, agent.url, series), jobs_done / 300)
        await until(lambda: value_of(session, agent.url, "took_seconds_count"), jobs_done)

    try:
        pusher.start()
        work(3_000)
        await is_told(3_000)
        await getattr(agent, way)()
        async with asyncio.timeout(10):
            while not pusher.failures:
                await asyncio.sleep(0.01)
        kept = pusher.uncommitted
        for number in range(3 * RECORDS_MAX):
            registry.record("level", number)
        work(6_000)
        async with asyncio.timeout(10):
            failures = pusher.failures
            while pusher.failures < failures + 3:
                await asyncio.sleep(0.01)
        assert pusher.uncommitted == kept, "what is counted meanwhile waits in its series"
        assert len(registry.records) == RECORDS_MAX
        assert registry.dropped == {"full": 2 * RECORDS_MAX}
        await agent.start(session)
        work(3_000)
        await is_told(12_000)
        await until(lambda: value_of(session, agent.url, DROPPED), 2 * RECORDS_MAX)
        async with asyncio.timeout(10):
            while pusher.uncommitted > 50:  # all but those of the time between two commits
                await asyncio.sleep(0.01)
        assert not registry.records
    finally:
        await asyncio.to_thread(pusher.close)
        await agent.kill()
    said = [record for record in caplog.records if "dropped" not in record.message]
    assert [record.levelname for record in said] == ["WARNING", "INFO"], caplog.text


# --- Giving way -------------------------------------------------------------------------------


class Breaths:
    """Stands for the client's thread that gives way: counts, and looks at the lock from outside."""

    def __init__(self, registry: Registry, executor: ThreadPoolExecutor) -> None:
        self.count = 0
        self._registry, self._executor = registry, executor
        registry.breathe = self

    def __call__(self) -> None:
        self.count += 1
        assert self._executor.submit(self._is_free).result(10), "the backend would wait meanwhile"

    def _is_free(self) -> bool:
        is_free = self._registry.lock.acquire(blocking=False)
        if is_free:
            self._registry.lock.release()
        return is_free


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as executor:
        yield executor


def test_the_backend_runs_between_any_fifty_series(executor: ThreadPoolExecutor) -> None:
    registry = Registry()
    registry.counter("jobs_total", "Jobs.", ("kind",))
    kinds = registry.histogram("took_seconds", "Time.", ("kind",))
    gauges = registry.gauge("level", "Level.", ("kind",))
    for number in range(1_000):
        kinds.labels(str(number)).observe(1)
        gauges.labels(str(number)).set(1)
    breaths = Breaths(registry, executor)
    registry.refresh()
    assert breaths.count >= 1_000 // 50
    outbox = Outbox(registry)
    outbox.answered(Answer("s", 0, 0, True))
    breaths.count = 0
    messages = 0
    for message in outbox.messages():
        messages += 1
        outbox.answered(Answer("s", message["number"], 0, False))
    assert breaths.count >= 2_000 // 50
    # Nothing has changed: looking at all of it isn't one step either.
    breaths.count = 0
    assert len(list(outbox.messages())) == 1
    assert breaths.count >= 2_000 // 50
    # The agent had kept nothing of it in mind: all goes back into the series.
    breaths.count = 0
    outbox.answered(Answer("t", 0, 0, True))
    assert breaths.count >= 2_000 // 50
    for message in outbox.messages():
        outbox.answered(Answer("t", message["number"], 0, False))
    # It has committed all: letting go of it isn't one step.
    breaths.count = 0
    outbox.answered(Answer("t", 2 * messages + 1, 2 * messages + 1, False))
    assert outbox.uncommitted == 0
    assert breaths.count >= messages


def test_what_waits_for_a_commit_is_no_work_for_the_garbage_collector() -> None:
    registry = Registry()
    jobs = registry.counter("jobs_total", "Jobs.", ("kind",))
    took = registry.histogram("took_seconds", "Time.", ("kind",))
    hits = registry.ratio("hits", "Hits.", ("kind",))

    def work() -> None:
        for number in range(300):
            jobs.labels(str(number)).inc()
            took.labels(str(number)).observe(1)
            hits.labels(str(number)).hit()

    outbox = Outbox(registry)
    outbox.answered(Answer("s", 0, 0, True))
    gc.collect()
    for round_ in range(5):
        work()
        for message in outbox.messages():
            outbox.answered(Answer("s", message["number"], 0, False))
        del message
        gc.collect()
        if round_ == 1:
            objects, sent = len(gc.get_objects()), outbox.uncommitted
    more = outbox.uncommitted - sent
    assert more >= 27
    assert len(gc.get_objects()) - objects < 10 * more  # and not one for each of 2,700 series


def test_who_hands_on_in_the_backends_own_loop_does_not_sleep(tmp_path: Path) -> None:
    registry = Registry()
    before = registry.breathe
    pusher = Pusher(registry, Address.of(str(tmp_path / "nobody.sock")), interval_s=0.001)
    pusher.start()
    assert registry.breathe is not before
    pusher.close()
    assert registry.breathe is before
    assert not [each for each in threading.enumerate() if each.name == "tachograph-client"]


ROWS = st.lists(st.lists(st.one_of(st.integers(), st.text(), st.none()), max_size=3), max_size=80)


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.sampled_from(["values", "series", "new", "v"]), ROWS | st.integers()))
def test_a_message_made_in_pieces_is_the_same_json(message: dict[str, Any]) -> None:
    breaths: list[None] = []
    body = encode(message, json.dumps, lambda: breaths.append(None))
    assert json.loads(body) == message
    rows = [value for value in message.values() if isinstance(value, list)]
    assert len(breaths) == sum(math.ceil(len(each) / 25) for each in rows)
