"""Every expression of public rules runs: over no series, and over those that it asks for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from support.clock import ManualClock
from support.promql_differences import ENGINES, difference, ours, theirs
from support.promql_peer import PROMETHEUS, running_peer
from support.promql_queries import Question
from support.rule_corpus import END_MS, RULES, CorpusWorld, expressions, world_of
from support.store import store_settings
from tachograph.aggregation.promql.engine import Engine, EngineOptions
from tachograph.aggregation.promql.errors import ParseError, PromqlError
from tachograph.aggregation.promql.nodes import ValueType
from tachograph.aggregation.promql.result import Result
from tachograph.storage.select import Querier
from tachograph.storage.store import Store

pytestmark = pytest.mark.skipif(not RULES.is_dir(), reason="no ../shared/conformance here")

STEP_MS = 60_000
START_MS = END_MS - 3 * STEP_MS

#: MetricsQL, which VictoriaMetrics' own rules are written in, and what PromQL says of it.
METRICSQL = {
    "lag(vmanomaly_start_time_seconds": 'unknown function with name "lag"',
    'sum(rate(process_cpu_seconds_total{job=~".*vmanomaly.*"}[5m]))': "got range vector",
}
#: Behind a flag in Prometheus 3, and behind `promql.experimental` here.
EXPERIMENTAL = {
    "sort_by_label(up": "is not enabled",
    "rate(up[1m] anchored)": "experimental and not enabled",
    "rate(up[5m]) + fill(0)": "experimental and not enabled",
}
#: Prometheus 2.42 knows neither those nor arithmetic of durations, which is stable in 3.
REFUSED_BY_2_42 = [*METRICSQL, *EXPERIMENTAL, "rate(up[1m * 2])"]
#: Of what is matched, a label that the rule leaves out (the instance, the owner) has two values
#: here: two series of the side that must have one. Exporters have one each, the rules count on it.
AMBIGUOUS = [
    "kafka_burrow_topic_partition_offset - on(partition, cluster, topic) group_right()",
    'sum by (node) ((kube_pod_status_phase{phase="Running"} == 1) + on(uid, instance) group_left(',
    '(mongodb_rs_members_optimeDate{member_state="PRIMARY"} - on (set) group_right',
    "sum(avg(mongodb_mongod_replset_oplog_head_timestamp -",
    '100 * rate(discourse_http_requests{status=~"5.."}[5m]) / on() group_left()',
    '100 * rate(discourse_http_requests{status=~"4.."}[5m]) / on() group_left()',
    'sum by (namespace, pod) (max by(namespace, pod) (kube_pod_status_phase{job="kube-state-metric',
    'kube_resourcequota{job="kube-state-metrics", type="used"}',
    "(vmalert_alerting_rules_last_evaluation_samples > on(group,file) group_left()",
    "(vmalert_recording_rules_last_evaluation_samples > on(group,file) group_left()",
]


@dataclass
class Found:
    """What came of all expressions: results, and what was said of the others."""

    results: dict[str, Result] = field(default_factory=dict)
    unknown: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


@cache
def corpus() -> list[str]:
    return expressions()


@cache
def world() -> CorpusWorld:
    return world_of(corpus())


def one_line(text: str) -> str:
    return " ".join(text.split()).replace("( ", "(")


def holds_exactly(found: Mapping[str, str], expected: Mapping[str, str]) -> None:
    """Check that each beginning is that of texts that were found, and that there are no others."""
    rest = {one_line(text): said for text, said in found.items()}
    for start, said in expected.items():
        here = [text for text in rest if text.startswith(start)]
        assert here, f"{start} is no longer refused"
        for text in here:
            assert said in rest.pop(text)
    assert not rest


def evaluate(evaluate_one: Callable[[str], Result]) -> Found:
    found = Found()
    for text in corpus():
        try:
            found.results[text] = evaluate_one(text)
        except ParseError as error:
            found.unknown[text] = str(error)
        except PromqlError as error:
            found.failed[text] = str(error)
    return found


def instants(querier: Querier) -> Found:
    engine = Engine(EngineOptions(experimental=True))
    return evaluate(lambda text: engine.instant(querier, text, END_MS))


def ranges(querier: Querier) -> Found:
    engine = Engine(EngineOptions(experimental=True))
    return evaluate(lambda text: engine.range(querier, text, START_MS, END_MS, STEP_MS))


def check(result: Result, text: str, types: set[ValueType], steps: int) -> None:
    """Hold a result to what its type promises."""
    assert result.type in types, text
    if result.type is ValueType.SCALAR:
        assert (result.values.shape, result.labels) == ((1, 1), []), text
        return
    assert result.values.shape == result.mask.shape == (len(result.labels), steps), text
    assert (result.values.dtype, result.mask.dtype) == (np.float64, np.bool_), text
    assert len(set(result.labels)) == len(result.labels), text
    assert result.mask.any(axis=1).all(), f"{text}: series without a value are left out"
    if steps > 1:
        assert result.labels == sorted(result.labels), text


@asynccontextmanager
async def opened(path: Path) -> AsyncIterator[Store]:
    store = Store(store_settings(path), ManualClock(END_MS))
    await store.open()
    try:
        yield store
    finally:
        await store.close()


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Found]]:
    """Runs a job over one store with the series of all expressions."""
    with asyncio.Runner() as runner:
        context = opened(tmp_path_factory.mktemp("corpus") / "data")
        store = runner.run(context.__aenter__())
        runner.run(world().fill(store))
        yield lambda job: runner.run(store.read(job))
        runner.run(context.__aexit__(None, None, None))


async def test_every_expression_runs_over_an_empty_store(tmp_path: Path) -> None:
    async with opened(tmp_path / "data") as store:
        for job in (instants, ranges):
            found = await store.read(job)
            holds_exactly(found.unknown, METRICSQL)
            assert not found.failed
            for text, result in found.results.items():
                # absent(), vector() and numbers need no series.
                assert len(result.labels) <= 1, text
                assert result.mask.all()


def test_instant_queries_have_answers_of_their_type(filled: Callable[..., Found]) -> None:
    found = filled(instants)
    holds_exactly(found.unknown, METRICSQL)
    for text, result in found.results.items():
        check(result, text, {ValueType.VECTOR, ValueType.SCALAR}, 1)
    answered = sum(bool(result.mask.any()) for result in found.results.values())
    assert answered > len(found.results) * 0.6, "most expressions meet samples that they ask for"


def test_range_queries_have_matrices(filled: Callable[..., Found]) -> None:
    found = filled(ranges)
    holds_exactly(found.unknown, METRICSQL)
    ambiguous = "many-to-many matching not allowed: matching labels must be unique on one side"
    holds_exactly(found.failed, dict.fromkeys(AMBIGUOUS, ambiguous))
    for text, result in found.results.items():
        check(result, text, {ValueType.MATRIX}, 4)
    answered = sum(bool(result.mask.any()) for result in found.results.values())
    assert answered > len(found.results) * 0.6


def test_what_is_experimental_is_refused_unless_switched_on() -> None:
    refused: dict[str, str] = {}
    for text in corpus():
        try:
            Engine().parse(text)
        except ParseError as error:
            refused[text] = str(error)
    holds_exactly(refused, METRICSQL | EXPERIMENTAL)


@pytest.mark.skipif(PROMETHEUS is None, reason="prometheus is not installed")
def test_prometheus_says_the_same_of_each(tmp_path: Path, filled: Callable[..., object]) -> None:
    questions = [Question(text, START_MS, END_MS, STEP_MS) for text in corpus()]
    engine = ENGINES[False]
    got = filled(lambda querier: [ours(engine, querier, question) for question in questions])
    assert isinstance(got, list)
    refused: dict[str, str] = {}
    with running_peer(tmp_path) as peer:
        for rows in world().slices():
            peer.send(rows)
        for question, answer in zip(questions, got, strict=True):
            expected = theirs(peer.ask(question))
            if expected.type == "error bad_data":
                refused[question.text] = expected.text
                continue
            assert not difference(answer, expected, question), question
            # Which two of the series are named is anyone's choice.
            assert answer.text.partition(" {")[0] == expected.text.partition(" {")[0], question
    holds_exactly(refused, dict.fromkeys(REFUSED_BY_2_42, "parse error"))
