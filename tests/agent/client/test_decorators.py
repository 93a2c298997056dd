"""Decorators and timers around every kind of function."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from support.metered import label_sets, value
from tachograph.agent.client.decorators import Counted, InProgress, Timed
from tachograph.agent.client.registry import Registry


class Time:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def registry(time: Time) -> Registry:
    return Registry(monotonic_s=time)


def seconds(registry: Registry, name: str, exception: str = "") -> float:
    metric = registry.get(name)
    assert metric is not None
    return float(metric.labels(exception).sum)


def test_a_function(registry: Registry, time: Time) -> None:
    @Timed(registry)("work_seconds")
    @Counted(registry)("works_total")
    @InProgress(registry)("works_in_progress")
    def work(by: float) -> str:
        """Do it."""
        time.now_s += by
        assert value(registry, "works_in_progress") == 1
        if by > 5:
            raise LookupError
        return "done"

    assert work(2) == "done"
    assert (work.__name__, work.__doc__) == ("work", "Do it.")
    with pytest.raises(LookupError):
        work(7)
    assert seconds(registry, "work_seconds") == 2
    assert seconds(registry, "work_seconds", "LookupError") == 7
    assert value(registry, "works_total", exception="") == 1
    assert value(registry, "works_total", exception="LookupError") == 1
    assert value(registry, "works_in_progress") == 0


async def test_a_coroutine_function(registry: Registry, time: Time) -> None:
    @Timed(registry)("work_seconds")
    async def work(by: float) -> str:
        await asyncio.sleep(0)
        time.now_s += by
        return "done"

    assert asyncio.iscoroutinefunction(work)
    assert await work(3) == "done"
    assert seconds(registry, "work_seconds") == 3


async def test_calls_at_the_same_time_are_measured_each(registry: Registry, time: Time) -> None:
    began = asyncio.Event()

    @Timed(registry)("work_seconds")
    async def work(by: float) -> None:
        await began.wait()
        time.now_s += by

    calls = [asyncio.create_task(work(by)) for by in (1, 2)]
    await asyncio.sleep(0)
    began.set()
    await asyncio.gather(*calls)
    assert seconds(registry, "work_seconds") == 1 + 3  # both began at 0


def test_a_generator_from_its_first_step_to_its_end(registry: Registry, time: Time) -> None:
    @Timed(registry)("work_seconds")
    @InProgress(registry)("works_in_progress")
    def work() -> Iterator[Any]:
        for _ in range(3):
            time.now_s += 1
            yield value(registry, "works_in_progress")

    steps = work()
    time.now_s += 100  # not begun
    assert list(steps) == [1, 1, 1]
    assert seconds(registry, "work_seconds") == 3
    assert value(registry, "works_in_progress") == 0


def test_what_is_sent_and_thrown_into_a_generator_arrives(registry: Registry) -> None:
    @Counted(registry)("works_total")
    def work() -> Any:
        got = yield "first"
        try:
            yield got
        except LookupError:
            yield "caught"
        return "end"

    steps = work()
    assert next(steps) == "first"
    assert steps.send("sent") == "sent"
    assert steps.throw(LookupError()) == "caught"
    with pytest.raises(StopIteration) as stop:
        next(steps)
    assert stop.value.value == "end"
    assert label_sets(registry, "works_total") == {("",)}


async def test_an_async_generator(registry: Registry, time: Time) -> None:
    @Timed(registry)("work_seconds")
    @InProgress(registry)("works_in_progress")
    async def work() -> AsyncIterator[float]:
        for _ in range(3):
            await asyncio.sleep(0)
            time.now_s += 1
            yield value(registry, "works_in_progress")

    assert [item async for item in work()] == [1, 1, 1]
    assert seconds(registry, "work_seconds") == 3
    assert value(registry, "works_in_progress") == 0


async def test_an_async_generator_is_spoken_to_and_given_up(registry: Registry) -> None:
    ended: list[str] = []

    @Counted(registry)("works_total")
    async def work() -> Any:
        try:
            got = yield "first"
            try:
                yield got
            except LookupError:
                yield "caught"
        finally:
            ended.append("yes")

    steps = work()
    assert await anext(steps) == "first"
    assert await steps.asend("sent") == "sent"
    assert await steps.athrow(LookupError()) == "caught"
    await steps.aclose()
    assert ended == ["yes"]
    assert value(registry, "works_total", exception="") == 1  # given up is no failure


def test_methods_partials_and_callables(registry: Registry, time: Time) -> None:
    timed = Timed(registry)("work_seconds")

    class Worker:
        @timed
        def work(self) -> int:
            time.now_s += 1
            return 1

        def __call__(self) -> int:
            time.now_s += 1
            return 2

    def add(a: int, b: int) -> int:
        time.now_s += 1
        return a + b

    calls: list[Callable[[], int]] = [
        Worker().work,
        timed(functools.partial(add, 1, 2)),
        timed(Worker()),
    ]
    assert [call() for call in calls] == [1, 3, 2]
    assert seconds(registry, "work_seconds") == 3


def test_a_block_and_a_histogram_of_its_own(registry: Registry, time: Time) -> None:
    histogram = registry.histogram("step_seconds")
    with histogram.time() as timer:
        time.now_s += 4
    assert timer.seconds == 4

    @histogram.time()
    def step() -> None:
        time.now_s += 2

    step()
    with Timed(registry)("work_seconds"):
        time.now_s += 1
    assert (value(registry, "step_seconds"), seconds(registry, "work_seconds")) == (2, 1)


def test_class_and_static_methods_either_way_round(registry: Registry) -> None:
    timed = Timed(registry)

    class Car:
        @timed("a_seconds")
        @classmethod
        def make(cls) -> str:
            return cls.__name__

        @classmethod
        @timed("b_seconds")
        def made(cls) -> str:
            return cls.__name__

        @timed("c_seconds")
        @staticmethod
        def wheels() -> int:
            return 4

    assert (Car.make(), Car().make(), Car.made()) == ("Car", "Car", "Car")
    assert (Car.wheels(), Car().wheels()) == (4, 4)
    for name, calls in (("a_seconds", 2), ("b_seconds", 1), ("c_seconds", 2)):
        assert value(registry, name, exception="") == calls


@pytest.mark.parametrize("thing", [int, property(lambda self: 1), "work", None])
def test_what_is_no_function_is_refused_where_it_is_decorated(
    registry: Registry, thing: Any
) -> None:
    for decorate in (Timed(registry)("a_seconds"), Counted(registry)("a_total")):
        with pytest.raises(TypeError, match="is no function"):
            decorate(thing)


def test_a_series_of_a_histogram_measures_blocks_and_functions(
    registry: Registry, time: Time
) -> None:
    took = registry.histogram("took_seconds", "Time.", ("kind",))
    with took.labels("a").time():
        time.now_s += 2

    @took.labels("b").time()
    def work() -> None:
        time.now_s += 3

    work()
    work()
    assert (took.labels("a").sum, took.labels("b").sum) == (2, 6)
