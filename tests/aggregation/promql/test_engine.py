"""The engine as its callers see it: shapes of answers, limits, deadlines, what is read and held."""

from __future__ import annotations

import math
import threading
import weakref
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pytest

from support.clock import ManualClock
from support.promql import MemoryQuerier
from tachograph.aggregation.promql import (
    BadQuery,
    Deadline,
    Engine,
    EngineOptions,
    ExecutionError,
    ParseLimits,
    PromqlError,
    QueryCanceled,
    QueryTimeout,
    Result,
    TooManySamples,
    ValueType,
)
from tachograph.config.selector import Matcher
from tachograph.storage.frame import STALE_NAN, Frame
from tachograph.storage.model import Kind, Labels, Series

MINUTE = 60_000


@pytest.fixture
def querier() -> MemoryQuerier:
    """Three series of an hour, one sample a minute, value = minute (times 1, 2, 3)."""
    memory = MemoryQuerier(grouped=True)
    for number in (1, 2, 3):
        points = [(MINUTE * i, float(i * number)) for i in range(61)]
        memory.add({"__name__": "x", "n": str(number)}, points)
    return memory


def only(result: Result) -> list[float]:
    (values,) = (values.tolist() for _, _, values in result.series())
    return list(values)


# -- shapes ------------------------------------------------------------------------------------


def test_answers_have_the_type_of_the_expression(querier: MemoryQuerier) -> None:
    engine = Engine()
    scalar = engine.instant(querier, "1 + 2", 0)
    assert (scalar.type, scalar.scalar) == (ValueType.SCALAR, 3.0)
    string = engine.instant(querier, '("a")', 0)
    assert (string.type, string.text) == (ValueType.STRING, "a")
    vector = engine.instant(querier, "x", 5 * MINUTE)
    assert vector.type is ValueType.VECTOR
    assert [(labels.get("n"), t.tolist(), v.tolist()) for labels, t, v in vector.series()] == [
        ("1", [5 * MINUTE], [5.0]),
        ("2", [5 * MINUTE], [10.0]),
        ("3", [5 * MINUTE], [15.0]),
    ]
    matrix = engine.instant(querier, 'x{n="2"}[2m]', 5 * MINUTE + 1)
    assert matrix.type is ValueType.MATRIX
    assert [(t.tolist(), v.tolist()) for _, t, v in matrix.series()] == [
        ([4 * MINUTE, 5 * MINUTE], [8.0, 10.0])
    ]
    empty = engine.instant(querier, "nothing", 0)
    assert (empty.labels, empty.values.shape, list(empty.series())) == ([], (0, 1), [])


def test_range_queries_give_sorted_matrices_also_of_scalars(querier: MemoryQuerier) -> None:
    engine = Engine()
    result = engine.range(querier, "-x", 0, 2 * MINUTE, MINUTE)
    assert result.type is ValueType.MATRIX
    assert result.times_ms.tolist() == [0, MINUTE, 2 * MINUTE]
    assert [labels.get("n") for labels in result.labels] == ["1", "2", "3"]
    assert result.values.tolist() == [[0, -1, -2], [0, -2, -4], [0, -3, -6]]
    assert result.mask.all()
    scalar = engine.range(querier, "time()", 0, 90_000, MINUTE)
    assert (scalar.type, scalar.labels, only(scalar)) == (ValueType.MATRIX, [Labels()], [0.0, 60.0])


@pytest.mark.parametrize("text", ["x[5m]", '"a"'])
def test_range_queries_refuse_what_has_no_steps(querier: MemoryQuerier, text: str) -> None:
    with pytest.raises(BadQuery, match="for range query, must be Scalar or instant Vector") as bad:
        Engine().range(querier, text, 0, MINUTE, MINUTE)
    assert bad.value.error_type == "bad_data"


def test_a_parsed_query_may_be_asked_many_times(querier: MemoryQuerier) -> None:
    engine = Engine()
    expr = engine.parse("sum(x)")
    answers = [only(engine.instant(querier, expr, i * MINUTE)) for i in range(3)]
    assert answers == [[0.0], [6.0], [12.0]]


# -- which samples count -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("compat", "in_window", "at_lookback"), [("prometheus3", 2.0, 0), ("prometheus2", 3.0, 1)]
)
def test_windows_and_lookback_are_left_open_unless_prometheus_2_is_asked_for(
    compat: str, in_window: float, at_lookback: int
) -> None:
    querier = MemoryQuerier()
    querier.add({"__name__": "x"}, [(0, 1.0), (MINUTE, 1.0), (2 * MINUTE, 1.0)])
    old = compat == "prometheus2"
    engine = Engine(EngineOptions(compat="prometheus2" if old else "prometheus3"))
    count = engine.instant(querier, "count_over_time(x[2m])", 2 * MINUTE)
    assert only(count) == [in_window]
    assert len(engine.instant(querier, "x", 7 * MINUTE).labels) == at_lookback
    (_, first_ms, last_ms), _ = querier.selections
    assert (first_ms, last_ms) == (0 if old else 1, 2 * MINUTE)


def test_lookback_can_be_set_for_one_query(querier: MemoryQuerier) -> None:
    engine = Engine()
    at_ms = 90 * MINUTE
    assert engine.instant(querier, "x", at_ms).labels == []
    assert len(engine.instant(querier, "x", at_ms, lookback_ms=31 * MINUTE).labels) == 3


@pytest.mark.parametrize("grouped", [False, True])
def test_stale_markers_end_a_series_and_other_nans_are_values(grouped: bool) -> None:
    querier = MemoryQuerier(grouped=grouped)
    querier.add({"__name__": "x", "n": "a"}, [(0, 1.0), (MINUTE, STALE_NAN), (3 * MINUTE, 2.0)])
    querier.add({"__name__": "x", "n": "b"}, [(0, 1.0), (MINUTE, math.nan), (3 * MINUTE, 2.0)])
    result = Engine().range(querier, "x", 0, 3 * MINUTE, MINUTE)
    assert result.mask.tolist() == [[True, False, False, True], [True] * 4]
    assert np.isnan(result.values[1]).tolist() == [False, True, True, False]
    counts = Engine().instant(querier, "sort(count_over_time(x[5m]))", 3 * MINUTE)
    assert [(labels.get("n"), v.tolist()) for labels, _, v in counts.series()] == [
        ("a", [2.0]),
        ("b", [3.0]),
    ]


def test_what_is_the_same_at_every_step_is_read_once(querier: MemoryQuerier) -> None:
    result = Engine().range(
        querier, "sum(rate(x[5m] @ end())) + 0 * time()", 0, MINUTE * 60, MINUTE
    )
    assert only(result) == [pytest.approx(0.1)] * 61
    # Five minutes hold five samples of three series; read at each step it would be 61 times that.
    assert result.stats.samples_total == 15


def test_subqueries_evaluate_only_the_steps_their_windows_hold(querier: MemoryQuerier) -> None:
    text = "count_over_time(sum(x)[2m:30s])"
    result = Engine().range(querier, text, 10 * MINUTE, 50 * MINUTE, 20 * MINUTE)
    assert only(result) == [4.0, 4.0, 4.0]
    # Twelve inner steps of three series, not the 84 between the first and the last of them.
    assert result.stats.samples_total == 12 * 3 + 12


def test_the_default_step_of_subqueries_is_an_option(querier: MemoryQuerier) -> None:
    engine = Engine(EngineOptions(subquery_step_ms=30_000))
    result = engine.instant(querier, "count_over_time(vector(1)[5m:])", 30 * MINUTE)
    assert only(result) == [10.0]


# -- names and duplicates ----------------------------------------------------------------------


def test_series_that_differ_only_in_their_names_must_not_overlap() -> None:
    querier = MemoryQuerier()
    querier.add({"__name__": "a", "n": "1"}, [(0, 1.0)])
    querier.add({"__name__": "b", "n": "1"}, [(20 * MINUTE, 2.0)])
    text = '-{__name__=~"a|b"}'
    result = Engine().range(querier, text, 0, 20 * MINUTE, 10 * MINUTE)
    assert result.labels == [Labels.of({"n": "1"})]
    assert (result.values[0, [0, 2]].tolist(), result.mask.tolist()) == (
        [-1.0, -2.0],
        [[True, False, True]],
    )
    querier.add({"__name__": "b", "n": "1"}, [(0, 5.0)])
    with pytest.raises(ExecutionError, match="cannot contain metrics with the same labelset"):
        Engine().range(querier, text, 0, 20 * MINUTE, 10 * MINUTE)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a + on() b", "multiple matches for labels: many-to-one matching must be explicit"),
        ("b + on() a", "found duplicate series for the match group {} on the right hand-side"),
        ("b * on() group_right a", None),
        (
            "a * on() group_right b",
            "found duplicate series for the match group {} on the left hand-side",
        ),
        (
            "a * on() group_left(n) b",
            "multiple matches for labels: grouping labels must ensure unique matches",
        ),
        ("topk(NaN, a)", "Parameter value is NaN"),
        ('count_values("", a)', 'invalid label name ""'),
        ('label_replace(a, "", "", "", "")', "invalid destination label name in label_replace(): "),
        ('label_replace(a, "x", "", "n", "(")', "invalid regular expression in label_replace(): ("),
        (
            'label_replace(a, "n", "", "", "")',
            "vector cannot contain metrics with the same labelset",
        ),
        (
            "double_exponential_smoothing(a[5m], 2, 0.5)",
            "invalid smoothing factor. Expected: 0 <= sf <= 1, got: 2.000000",
        ),
    ],
)
def test_data_that_does_not_fit_the_query_is_an_execution_error(
    text: str, message: str | None
) -> None:
    querier = MemoryQuerier()
    querier.add({"__name__": "a", "n": "1"}, [(0, 1.0)])
    querier.add({"__name__": "a", "n": "2"}, [(0, 1.0)])
    querier.add({"__name__": "b"}, [(0, 1.0)])
    engine = Engine(EngineOptions(experimental=True))
    if message is None:
        assert len(engine.instant(querier, text, 0).labels) == 2
        return
    with pytest.raises(ExecutionError) as caught:
        engine.instant(querier, text, 0)
    assert caught.value.error_type == "execution"
    assert message in str(caught.value)


# -- messages beside the answer ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "warning", "info"),
    [
        (
            "rate(x[5m])",
            None,
            "PromQL info: metric might not be a counter, name does not end in "
            '_total/_sum/_count/_bucket: "x" (1:6)',
        ),
        (
            "quantile(1.5, x)",
            "PromQL warning: quantile value should be between 0 and 1, got 1.5 (1:10)",
            None,
        ),
        (
            "histogram_quantile(0.5, x)",
            'PromQL warning: bucket label "le" is missing or has a malformed value of "" '
            'for metric name "x" (1:25)',
            None,
        ),
        (
            "histogram_count(x)",
            None,
            "PromQL info: native histograms are not supported, and histogram_count() ignores "
            "floats (1:1)",
        ),
        (
            "x </ 1",
            None,
            'PromQL info: native histograms are not supported, and operator "</" ignores '
            "floats (1:1)",
        ),
    ],
)
def test_annotations_say_what_upstream_says_and_where(
    querier: MemoryQuerier, text: str, warning: str | None, info: str | None
) -> None:
    result = Engine().instant(querier, text, 30 * MINUTE)
    assert result.warnings == (() if warning is None else (warning,))
    assert result.infos == (() if info is None else (info,))


def test_annotations_have_an_end() -> None:
    querier = MemoryQuerier()
    for number in range(25):
        querier.add({"__name__": f"m{number}", "n": str(number)}, [(0, 1.0), (MINUTE, 2.0)])
    result = Engine().instant(querier, 'sum(rate({__name__=~"m.*"}[5m]))', MINUTE)
    assert len(result.infos) == 11
    assert result.infos[-1] == "15 more info annotations omitted"


def test_fixed_buckets_of_a_metric_are_one_message() -> None:
    querier = MemoryQuerier()
    for n in "12":
        for le, count in (("1", 5.0), ("2", 3.0), ("+Inf", 9.0)):
            labels = {"__name__": "h_bucket", "le": le, "n": n}
            querier.add(labels, [(0, count), (MINUTE, count)])
    result = Engine().range(querier, "histogram_quantile(0.9, h_bucket)", 0, MINUTE, MINUTE)
    (info,) = result.infos
    assert info.endswith(
        'for metric name "h_bucket", from buckets 2 to 2, with a max diff of 2, over 4 samples '
        "from 1970-01-01T00:00:00Z to 1970-01-01T00:01:00Z (1:25)"
    )


# -- limits ------------------------------------------------------------------------------------


def test_a_query_that_holds_too_many_samples_is_stopped(querier: MemoryQuerier) -> None:
    text = "x + on(n) x"
    asked = (0, 60 * MINUTE, MINUTE)
    result = Engine().range(querier, text, *asked)
    # Both operands and the result, 61 steps of three series each.
    assert result.stats.samples_peak == 3 * 3 * 61
    assert result.stats.samples_total == 2 * 3 * 61
    assert result.stats.series == 6
    with pytest.raises(TooManySamples) as caught:
        Engine(EngineOptions(max_samples=500)).range(querier, text, *asked)
    assert caught.value.error_type == "execution"
    assert str(caught.value) == (
        "query processing would load too many samples into memory in query execution"
    )


@pytest.mark.parametrize(
    ("text", "step_ms"),
    [
        ("1", 1),
        ("x", 1),
        ("max_over_time(vector(1)[100y:1s])", MINUTE),
        ("max_over_time(max_over_time(x[1y:1m])[1y:1m])", MINUTE),
        ("max_over_time(x[1y:1m] @ 0)[1y:1m]", MINUTE),
    ],
)
def test_huge_grids_are_refused_before_they_are_made(
    querier: MemoryQuerier, text: str, step_ms: int
) -> None:
    text = f"last_over_time({text})" if text.endswith("]") else text
    with pytest.raises(TooManySamples):
        Engine(EngineOptions(max_samples=500_000)).range(
            querier, text, 0, 2**32 if step_ms == 1 else 60 * MINUTE, step_ms
        )


@pytest.mark.parametrize(
    "text",
    [
        "sum by (n) (x)",
        'count_values("v", x)',
        # A hundred series that took turns against a hundred that did so, too.
        'x + on() group_left {__name__="x"}',
    ],
)
def test_whatever_grows_with_groups_or_pairs_is_charged(text: str) -> None:
    querier = MemoryQuerier()
    for number in range(100):
        querier.add({"__name__": "x", "n": str(number)}, [(MINUTE * number, float(number))])
    options = EngineOptions(max_samples=5_000, lookback_ms=MINUTE)
    with pytest.raises(TooManySamples):
        Engine(options).range(querier, text, 0, 99 * MINUTE, MINUTE)
    options = EngineOptions(max_samples=2_000_000, lookback_ms=MINUTE)
    result = Engine(options).range(querier, text, 0, 99 * MINUTE, MINUTE)
    assert result.mask.sum() == 100
    assert result.stats.samples_peak >= 10_000


class Lazy(Iterable[Frame]):
    """Frames that are made when they are asked for, and watched until they are gone."""

    def __init__(self, frames: int, rows: int, ticks: int) -> None:
        self.frames, self.rows, self.ticks = frames, rows, ticks
        self.made = 0
        self.alive: list[weakref.ref[np.ndarray]] = []

    def __iter__(self) -> Iterator[Frame]:
        for number in range(self.frames):
            self.made += 1
            values = np.arange(self.rows * self.ticks, dtype=np.float64).reshape(self.rows, -1)
            times = np.arange(self.ticks, dtype=np.int64) * 1_000
            series = [
                Series(row + 1, Labels.of({"g": str(number), "r": str(row)}, "x"), Kind.UNKNOWN, 0)
                for row in range(self.rows)
            ]
            self.alive.append(weakref.ref(values))
            yield Frame(series, times, values, has_absent=False)
            del values
            assert sum(ref() is not None for ref in self.alive) <= 2, "frames are piling up"


class LazyQuerier:
    def __init__(self, frames: Lazy) -> None:
        self.frames = frames

    def select(self, matchers: Sequence[Matcher], min_ms: int, max_ms: int) -> Iterable[Frame]:
        return self.frames


@pytest.mark.parametrize("aggregation", ["sum", "max by (r)", "avg", "stddev", "count", "topk(2,"])
def test_aggregations_hold_one_piece_at_a_time(aggregation: str) -> None:
    frames = Lazy(frames=50, rows=20, ticks=1_000)
    inner = "rate(x[5m])" if "," in aggregation else "(rate(x[5m]))"
    text = f"{aggregation} {inner}" + (")" if "," in aggregation else "")
    result = Engine().range(LazyQuerier(frames), text, 0, 900_000, 30_000)
    assert frames.made == 50
    # 50 frames of 20,000 samples each: one of them and some results.
    assert result.stats.samples_peak < 30_000


class Impatient:
    """Lets a query go on so many times."""

    def __init__(self, patience: int) -> None:
        self.patience = patience

    def check(self) -> None:
        self.patience -= 1
        if self.patience < 0:
            raise QueryTimeout


def test_the_check_is_asked_between_pieces() -> None:
    frames = Lazy(frames=50, rows=2, ticks=2_000)
    with pytest.raises(QueryTimeout, match="query timed out in expression evaluation") as caught:
        Engine().instant(LazyQuerier(frames), "sum(x)", 9_000, check=Impatient(12))
    assert caught.value.error_type == "timeout"
    assert frames.made < 15


@pytest.mark.parametrize(
    "call",
    [
        "sum_over_time({})",
        "quantile_over_time(0.5, {})",
        "stddev_over_time({})",
        "deriv({})",
        "double_exponential_smoothing({}, 0.5, 0.5)",
    ],
)
def test_the_check_is_asked_within_one_series(call: str) -> None:
    # Values around 0, whose sums have to be exact; 1,000 windows of an hour of seconds.
    wave = "(sin(vector(time())))[1h:1s]"
    engine = Engine(EngineOptions(experimental=True))
    query, first_ms = call.format(wave), 1_767_571_200_000
    patient = Impatient(10**6)
    engine.range(
        LazyQuerier(Lazy(0, 0, 0)), query, first_ms, first_ms + 999_000, 1_000, check=patient
    )
    assert 10**6 - patient.patience > 5, "pieces of work"
    with pytest.raises(QueryTimeout):
        engine.range(
            LazyQuerier(Lazy(0, 0, 0)),
            query,
            first_ms,
            first_ms + 999_000,
            1_000,
            check=Impatient(5),
        )


async def test_a_deadline_passes_with_the_clock() -> None:
    clock = ManualClock()
    deadline = Deadline(clock, timeout_s=10.0)
    await clock.advance(9_999)
    deadline.check()
    await clock.advance(1)
    with pytest.raises(QueryTimeout):
        deadline.check()


def test_a_canceled_query_stops() -> None:
    frames = Lazy(frames=50, rows=2, ticks=10)
    deadline = Deadline(ManualClock(), timeout_s=10.0)
    deadline.cancel()
    with pytest.raises(QueryCanceled, match="query was canceled in") as caught:
        Engine().instant(LazyQuerier(frames), "sum(x)", 9_000, check=deadline)
    assert caught.value.error_type == "canceled"
    assert frames.made == 0


@pytest.mark.parametrize(
    "text",
    [
        "abs(" * 60 + "x" + ")" * 60,
        "(" * 60 + "x" + ")" * 60,
        "sum by (n) (" * 60 + "x" + ")" * 60,
        "x + (" * 60 + "x" + ")" * 60,
        "-" * 60 + "x",
        "max_over_time(" * 20 + "x" + "[1m:30s])" * 20,
    ],
)
def test_what_the_parser_lets_through_can_be_evaluated(querier: MemoryQuerier, text: str) -> None:
    outcome: list[object] = []

    def ask() -> None:
        try:
            outcome.append(Engine().instant(querier, text, 30 * MINUTE))
        except PromqlError as error:
            outcome.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    (result,) = outcome
    assert isinstance(result, Result)
    assert len(result.labels) == 3


def test_long_chains_of_operators_are_no_deep_queries(querier: MemoryQuerier) -> None:
    engine = Engine(EngineOptions(limits=ParseLimits(nodes=20_000)))
    terms = 3_000
    assert engine.instant(querier, "+".join(["1"] * terms), 0).scalar == terms
    result = engine.instant(querier, 'x{n="1"}' + " + 1" * terms, MINUTE)
    assert only(result) == [terms + 1.0]
    joined = " or ".join(f'x{{n="{number % 3 + 1}"}}' for number in range(100))
    assert len(engine.instant(querier, joined, MINUTE).labels) == 3


def test_engines_may_be_shared_by_threads(querier: MemoryQuerier) -> None:
    engine = Engine()
    answers: list[list[float]] = []

    def ask(number: int) -> None:
        answers.extend(
            only(engine.instant(querier, f"sum(x) * {number}", MINUTE)) for _ in range(20)
        )

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [[6.0 * number] for number in range(1, 5) for _ in range(20)]
