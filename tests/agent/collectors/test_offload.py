"""Calls that may hang: the others go on, nothing piles up, and threads end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from tachograph.agent.collectors.offload import HUNG_MAX, CallHung, Offload

SHORT_S = 0.05


def threads_named(name: str) -> int:
    return sum(thread.name == name for thread in threading.enumerate())


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """What hanging calls wait for; opened at the end, so that no thread outlives its test."""
    gate = threading.Event()
    yield gate
    gate.set()
    for thread in threading.enumerate():
        if thread.name == "offload-test":
            thread.join(10)


@pytest.fixture
def offload(gate: threading.Event) -> Iterator[Offload]:
    offload = Offload("offload-test")
    yield offload
    offload.close()


async def test_results_and_errors_come_by_key(offload: Offload) -> None:
    error = OSError("gone")

    def fail() -> int:
        raise error

    results = await offload.run({"a": lambda: 1, "b": fail, "c": lambda: 3}, 10)
    assert results == {"a": 1, "b": error, "c": 3}


async def test_calls_run_in_one_thread_that_is_used_again(offload: Offload) -> None:
    seen: list[int | Exception] = []
    for _ in range(3):
        results = await offload.run({"a": threading.get_ident, "b": threading.get_ident}, 10)
        seen += results.values()
    assert len(set(seen)) == 1
    assert seen[0] != threading.get_ident()


async def test_no_calls_need_no_thread(offload: Offload) -> None:
    assert await offload.run({}, 10) == {}
    assert threads_named("offload-test") == 0


async def test_a_hanging_call_stops_none_of_the_others(
    offload: Offload, gate: threading.Event
) -> None:
    results = await offload.run({"a": lambda: True, "dead": gate.wait, "b": lambda: True}, SHORT_S)
    assert results["a"] is True
    assert results["b"] is True
    assert isinstance(results["dead"], CallHung)
    assert str(results["dead"]) == "dead: no answer within 0.05 s"
    assert offload.hung == ["dead"]


async def test_a_hanging_call_is_not_started_again_before_it_returned(
    offload: Offload, gate: threading.Event
) -> None:
    started = 0

    def hang() -> bool:
        nonlocal started
        started += 1
        return gate.wait()

    for _ in range(3):
        results = await offload.run({"dead": hang, "a": lambda: True}, SHORT_S)
        assert isinstance(results["dead"], CallHung)
        assert results["a"] is True
    assert started == 1
    assert threads_named("offload-test") == 2

    gate.set()
    while offload.hung:  # threads end without an event
        await asyncio.sleep(0.001)
    assert await offload.run({"dead": hang}, 10) == {"dead": True}
    assert started == 2


async def test_the_number_of_stuck_threads_is_bounded(
    offload: Offload, gate: threading.Event
) -> None:
    calls = {f"dead{n}": gate.wait for n in range(HUNG_MAX + 3)}
    results = await offload.run(calls, 0.005)
    assert all(isinstance(result, CallHung) for result in results.values())
    assert len(results) == HUNG_MAX + 3
    assert threads_named("offload-test") <= HUNG_MAX + 1


async def test_after_a_cancelled_wait_the_next_calls_go_to_another_thread(
    offload: Offload, gate: threading.Event
) -> None:
    entered = asyncio.Event()
    loop = asyncio.get_running_loop()

    def hang() -> bool:
        loop.call_soon_threadsafe(entered.set)
        return gate.wait()

    task = asyncio.create_task(offload.run({"dead": hang, "never": lambda: True}, 60))
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    results = await offload.run({"dead": hang, "a": lambda: True}, 10)
    assert isinstance(results["dead"], CallHung)
    assert results["a"] is True


async def test_close_ends_the_thread_and_may_be_called_twice() -> None:
    for _ in range(50):
        offload = Offload("offload-test")
        await offload.run({"a": lambda: 1}, 10)
        offload.close()
        offload.close()
    assert threads_named("offload-test") == 0
