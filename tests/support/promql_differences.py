"""
Compares answers of our engine with a real Prometheus', and names the differences that are known.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from support.promql_peer import Peer, running_peer
from support.promql_queries import Question, Questions
from support.promql_worlds import START_MS, World, make_world, opened_store
from tachograph.aggregation.promql.engine import Engine, EngineOptions
from tachograph.aggregation.promql.errors import PromqlError
from tachograph.aggregation.promql.nodes import (
    COMPARISONS,
    Aggregate,
    Binary,
    Subquery,
    ValueType,
    unwrap,
    walk,
)
from tachograph.aggregation.promql.printer import to_text
from tachograph.aggregation.promql.selection import Querier
from tachograph.aggregation.tiered_querier import tiered
from tachograph.config.selector import Matcher
from tachograph.storage.frame import Frame, RefArray, is_absent
from tachograph.storage.model import Labels
from tachograph.storage.select import Querier as StoreQuerier

#: Engines add up in different orders; what they share is far more than this many digits.
_RELATIVE: Final = 1e-9
#: Digits of nothing: of samples near 1 that a regression takes from each other.
_CANCELLED: Final = 1e-12

#: As of windows that samples never meet the edge of, both engines' answers are the same.
ENGINES: Final = {
    False: Engine(EngineOptions(compat="prometheus2", experimental=True)),
    True: Engine(EngineOptions(compat="prometheus3", experimental=True)),
}

#: The classes of known differences.
ORDER: Final = "the answer depends on the order of equal values"
NEAR_ZERO: Final = "counter near zero at the start of a window"
FILTERED: Final = "ambiguous matches that a comparison filters away"
BETWEEN: Final = "an error between the windows of a subquery"
TURNS: Final = "series that become one by losing their names take turns"
NO_STEP: Final = "a window without a step of its subquery"
CANCELLED: Final = "what is left where a regression's terms cancel"

_SAME_LABELS: Final = "vector cannot contain metrics with the same labelset"
_CHOOSING: Final = ("topk", "bottomk")
#: One order may happen to give the same as another.
_SHUFFLES: Final = 6

#: A series' points: milliseconds and values, in order.
Points = list[tuple[int, float]]


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a question: the type, or ``error`` and its type; and the series in order."""

    type: str
    series: list[tuple[Labels, Points]]
    text: str = ""


@dataclass(frozen=True, slots=True)
class Difference:
    """
    Two answers that are not the same.

    Attributes:
        known: The name of the class of differences that it belongs to, empty if to none.
    """

    seed: int
    question: Question
    what: str
    known: str


@dataclass(slots=True)
class Tally:
    """
    How many questions were asked.

    Attributes:
        filled: Those whose answer was not empty and no error.
        errors: Those that both refused.
    """

    asked: int = 0
    filled: int = 0
    errors: int = 0


def ours(engine: Engine, querier: Querier, question: Question) -> Answer:
    """Answer by an engine of ours."""
    try:
        if question.step_ms:
            result = engine.range(
                querier, question.text, question.start_ms, question.end_ms, question.step_ms
            )
        else:
            result = engine.instant(querier, question.text, question.start_ms)
    except PromqlError as error:
        return Answer(f"error {error.error_type}", [], str(error))
    except Exception as error:  # a mistake of ours is a difference like any other
        return Answer("crash", [], repr(error))
    if result.type is ValueType.SCALAR:
        point = (int(result.times_ms[0]), result.scalar)
        return Answer("scalar", [(Labels(), [point])])
    series = [
        (labels, list(zip(times.tolist(), values.tolist(), strict=True)))
        for labels, times, values in result.series()
    ]
    return Answer(result.type.value, series)


def theirs(document: dict[str, Any]) -> Answer:
    """Read the JSON of an answer."""
    if document["status"] != "success":
        return Answer(f"error {document['errorType']}", [], document["error"])
    kind, result = document["data"]["resultType"], document["data"]["result"]
    if kind == "scalar":
        return Answer(kind, [(Labels(), [_point(result)])])
    series = [(Labels.of(row["metric"]), [_point(p) for p in _points(row)]) for row in result]
    return Answer(kind, series)


def _points(row: dict[str, Any]) -> list[tuple[float, str]]:
    return [row["value"]] if "value" in row else row.get("values", [])


def _point(pair: tuple[float, str]) -> tuple[int, float]:
    return round(pair[0] * 1000), float(pair[1])


def difference(a: Answer, b: Answer, question: Question, absolute: float = 0.0) -> str:
    """Say in what two answers differ; empty if in nothing but last digits, or by ``absolute``."""
    if a.type != b.type:
        return f"{a.type} ({a.text}) and {b.type} ({b.text})"
    by_labels = dict(b.series)
    if len(by_labels) != len(b.series) or len(dict(a.series)) != len(a.series):
        return "a series comes twice"
    for labels, points in a.series:
        if labels not in by_labels:
            return f"{labels} is not in the other: {points[:3]}"
        others = by_labels.pop(labels)
        if [t for t, _ in points] != [t for t, _ in others]:
            return f"{labels} has other times: {len(points)} and {len(others)}"
        for (t, x), (_, y) in zip(points, others, strict=True):
            if not (_close(x, y) or abs(x - y) <= absolute):
                return f"{labels} at {t}: {x!r} and {y!r}"
    if by_labels:
        labels, points = next(iter(by_labels.items()))
        return f"only the other has {labels}: {points[:3]}"
    if question.text.startswith("sort") and a.type == "vector":
        values = ([points[0][1] for _, points in each.series] for each in (a, b))
        if not all(_close(x, y) for x, y in zip(*values, strict=True)):
            return "sorted in another order"
    return ""


def _close(x: float, y: float) -> bool:
    if x == y or (x != x and y != y):
        return True
    return math.isfinite(x) and math.isfinite(y) and abs(x - y) <= _RELATIVE * max(abs(x), abs(y))


# -- what is known -----------------------------------------------------------------------------


class _Shuffled:
    """Another querier with its series one by one and in a random order."""

    def __init__(self, querier: Querier, seed: int) -> None:
        self._querier, self._seed = querier, seed

    def select(self, matchers: Sequence[Matcher], min_ms: int, max_ms: int) -> list[Frame]:
        alone = []
        for frame in self._querier.select(matchers, min_ms, max_ms):
            for series, values in zip(frame.series, frame.values, strict=True):
                here = ~is_absent(values)
                cells = values[here].reshape(1, -1)
                alone.append(Frame((series,), frame.ts_ms[here], cells, has_absent=False))
        random.Random(self._seed).shuffle(alone)
        return alone


class _KeptForEver:
    """Retention that has deleted nothing."""

    def cutoffs_ms(self, refs: RefArray) -> None:
        return None


async def compare_world(seed: int, count: int, directory: Path, tally: Tally) -> list[Difference]:
    """
    Ask Prometheus and us the same questions about one world.

    Worlds of even seeds are on the grid and asked with Prometheus 2's semantics, the others off it
    and with Prometheus 3's.
    """
    off_grid = bool(seed % 2)
    world = make_world(seed, off_grid=off_grid)
    maker = Questions(seed, world.label_values(), off_grid=off_grid)
    questions = [maker.question() for _ in range(count)]

    def job(stored: StoreQuerier) -> list[Difference]:
        found = []
        querier = tiered(stored, retention=_KeptForEver())
        judge = _Judge(peer, stored, world)
        for question in questions:
            answer = theirs(peer.ask(question))
            got = ours(ENGINES[off_grid], querier, question)
            tally.asked += 1
            tally.errors += answer.type.startswith("error")
            tally.filled += bool(answer.series)
            what = difference(got, answer, question)
            if what:
                known = judge.known(question, got, answer)
                found.append(Difference(seed, question, what, known))
        return found

    with running_peer(directory, world) as peer:
        async with opened_store(directory / "store", world) as store:
            return await store.read(job)


class _Judge:
    """Names the class that a difference belongs to."""

    def __init__(self, peer: Peer, querier: Querier, world: World) -> None:
        self._peer, self._querier, self._world = peer, querier, world
        self._engine = ENGINES[world.off_grid]

    def known(self, question: Question, got: Answer, expected: Answer) -> str:
        expr = self._engine.parse(question.text)
        nodes = list(walk(expr))
        for seed in range(_SHUFFLES):
            shuffled = ours(self._engine, _Shuffled(self._querier, seed), question)
            if difference(got, shuffled, question):
                return ORDER
        if isinstance(expr, Aggregate) and expr.op in _CHOOSING and _same_values(got, expected):
            return ORDER
        if re.search(r"\b(deriv|predict_linear)\(", question.text) and not difference(
            got, expected, question, _CANCELLED
        ):
            return CANCELLED
        if self._world.off_grid and re.search(r"\b(rate|increase)\(", question.text):
            old = ours(ENGINES[False], self._querier, question)
            if not difference(old, expected, question):
                return NEAR_ZERO
        if got.text.startswith("multiple matches for labels") and not expected.text:
            filters = [node for node in nodes if isinstance(node, Binary) and _filters(node)]
            if filters and self._refuses_with_bool(question, filters):
                return FILTERED
        if expected.type == "error execution" and not got.text:
            inner = [node for node in nodes if isinstance(node, Subquery)]
            if any(self._fails_somewhere(node, expected) for node in inner):
                return BETWEEN
            if _SAME_LABELS in expected.text and self._agrees_step_by_step(question, got):
                return TURNS
        is_matrix = isinstance(unwrap(expr), Subquery) and not question.step_ms
        if is_matrix and not got.series and all(len(points) < 2 for _, points in expected.series):
            return NO_STEP
        return ""

    def _agrees_step_by_step(self, question: Question, got: Answer) -> bool:
        """Tell whether a range is what Prometheus answers at each of its times."""
        merged: dict[Labels, Points] = {}
        text = question.text.replace("start()", f"{question.start_ms / 1000:.3f}")
        text = text.replace("end()", f"{question.end_ms / 1000:.3f}")
        for time_ms in range(question.start_ms, question.end_ms + 1, question.step_ms):
            step = theirs(self._peer.ask(Question(text, time_ms, time_ms, 0)))
            for labels, points in step.series:
                merged.setdefault(labels, []).extend(points)
            if step.text:
                return False
        return not difference(got, Answer("matrix", list(merged.items())), question)

    def _refuses_with_bool(self, question: Question, filters: Sequence[Binary]) -> bool:
        """Ask Prometheus again with every comparison of two vectors keeping all."""
        text = question.text
        ends = [text.index(node.op, node.lhs.span.end) + len(node.op) for node in filters]
        for end in sorted(ends, reverse=True):
            text = f"{text[:end]} bool{text[end:]}"
        again = theirs(self._peer.ask(replace(question, text=text)))
        return again.text.startswith("multiple matches for labels")

    def _fails_somewhere(self, node: Subquery, expected: Answer) -> bool:
        """Tell whether what a subquery repeats cannot be evaluated at some time of the world."""
        span = Question(
            to_text(node.expr), START_MS - 3_600_000, self._world.end_ms + 600_000, 5000
        )
        failed = ours(self._engine, self._querier, span)
        return failed.type == expected.type and failed.text[:20] == expected.text[:20]


def _same_values(a: Answer, b: Answer) -> bool:
    """Tell whether two answers hold the same values at each time, if of other series."""
    held: list[dict[int, list[float]]] = [{}, {}]
    for answer, values in zip((a, b), held, strict=True):
        for _, points in answer.series:
            for ts_ms, value in points:
                values.setdefault(ts_ms, []).append(value)
        for each in values.values():
            each.sort()
    return held[0] == held[1]


def _filters(node: Binary) -> bool:
    """Tell whether a comparison of two vectors takes values away."""
    return node.op in COMPARISONS and node.matching is not None and not node.return_bool
