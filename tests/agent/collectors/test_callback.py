"""Functions of the backend's own as business figures."""

from __future__ import annotations

import math
from typing import Any

import pytest

from support.sink import MemorySink
from tachograph.agent.collectors.business import callback_source
from tachograph.agent.collectors.callback import Callback
from tachograph.agent.collectors.figures import SourceError
from tachograph.agent.collectors.source import Source
from tachograph.storage.model import Kind, Labels


def source(sink: MemorySink, callback: Callback) -> Source:
    return callback_source(
        sink, callback, name="queue", interval_s=10.0, namespace="oht50", labels={"site": "7"}
    )


async def collected(callback: Callback) -> dict[str, float]:
    sink = MemorySink()
    await source(sink, callback).collect(1_000)
    return {str(labels): value for labels, value in sink.group("callback/queue").last.items()}


async def test_a_mapping_is_gauges_and_counters() -> None:
    sink = MemorySink()
    await source(sink, lambda: {"queue_size": 3, "orders_total": 7}).collect(1_000)
    kinds = {labels.name: kind for labels, kind in sink.kinds.items()}
    assert kinds == {"oht50_queue_size": Kind.GAUGE, "oht50_orders_total": Kind.COUNTER}


async def test_labels_stand_in_the_third_place_and_answers_may_be_awaited() -> None:
    async def answer() -> list[Any]:
        return [("queue_size", 3, {"priority": "high", "lane": 2}), ("up", True)]

    assert await collected(answer) == {
        'oht50_queue_size{lane="2",priority="high",site="7"}': 3.0,
        'oht50_up{site="7"}': 1.0,
    }


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([("a b", 1)], "'a b' is not a metric name"),
        ([("a", 1, {"__x": "y"})], "'__x' is not a label name"),
        ([("a", "x")], "a: 'x' is not a number"),
        ([("a", None)], "a: the value is None"),
        ([("a",)], "is not (name, value)"),
        (5, "the function returned int, not {name: value}"),
        (None, "the function returned NoneType, not"),
        ("queue", "the function returned str, not"),
        ([("a", 1), ("a", 2)], "two values for a{}"),
        ([("a", 1, 2)], "labels must be a mapping"),
        ([(f"a{n}", 1) for n in range(1001)], "more than max_series allows (1000)"),
    ],
)
async def test_a_wrong_answer_says_what_is_wrong(values: Any, said: str) -> None:
    with pytest.raises(SourceError) as caught:
        await collected(lambda: values)
    assert said in str(caught.value)


async def test_a_callback_that_raises_fails_its_pass_and_ends_its_series() -> None:
    sink = MemorySink()
    answers = iter([{"a": 1.0}])
    asked = source(sink, lambda: next(answers))
    await asked.collect(1_000)
    with pytest.raises((RuntimeError, StopIteration)):
        await asked.collect(2_000)
    ((labels, value),) = sink.group("callback/queue").last.items()
    assert labels == Labels.of({"site": "7"}, "oht50_a")
    assert math.isnan(value)
