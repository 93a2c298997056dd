"""``/api/v1/query`` and ``query_range`` beyond the recorded answers: forms, limits, turns."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support import prometheus_pb as pb
from support.api import Api, serving
from tachograph.agent.http.errors import ApiError
from tachograph.agent.http.forms import FORM_BYTES_MAX
from tachograph.agent.http.render import TRUNCATED, render_result, warnings_of
from tachograph.aggregation.promql.budget import Check, Deadline
from tachograph.aggregation.promql.engine import Engine
from tachograph.aggregation.promql.nodes import ValueType
from tachograph.aggregation.promql.result import Result
from tachograph.config.settings import HttpSettings, PromqlSettings
from tachograph.storage.model import Labels

NOW_S = 1_767_571_200


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with serving(tmp_path / "data") as api:
        await api.load(
            {
                f'm{{i="{i}"}}': [(float(i + t), (NOW_S - t) * 1000) for t in range(60, -1, -15)]
                for i in range(5)
            }
        )
        yield api


async def test_get_and_post_answer_alike_and_the_form_wins(api: Api) -> None:
    params = {"query": "sum(m)", "time": str(NOW_S)}
    got = await api.get("/api/v1/query", **params)
    posted = await api.post("/api/v1/query", **params)
    both = await api.ask("POST", "/api/v1/query?query=up&time=5", data=params)
    assert got.body == posted.body == both.body
    assert got.data["result"] == [{"metric": {}, "value": [NOW_S, "10"]}]


async def test_parameters_stand_in_the_url_whatever_is_posted(api: Api) -> None:
    # As vmalert asks: a JSON type without a body, and a parameter that nobody knows.
    answer = await api.ask(
        "POST",
        f"/api/v1/query?query=sum(m)&time={NOW_S}&step=300s",
        headers={"Content-Type": "application/json"},
    )
    assert answer.data["result"] == [{"metric": {}, "value": [NOW_S, "10"]}]


async def test_long_urls_are_answered(api: Api) -> None:
    names = "|".join(f"name_{i}" for i in range(3000))
    answer = await api.get("/api/v1/query", query=f'm{{i!~"{names}"}}', time=NOW_S)
    assert len(answer.data["result"]) == 5


async def test_range_vectors_have_times_of_their_own(api: Api) -> None:
    [series] = await api.query('m{i="1"}[31s]', NOW_S)
    assert series["values"] == [[NOW_S - 30, "31"], [NOW_S - 15, "16"], [NOW_S, "1"]]


async def test_answers_are_kept_unless_the_cache_is_not_wanted(api: Api) -> None:
    asked = {"query": "m", "start": NOW_S - 60, "end": NOW_S, "step": "15s"}
    cache = api.parts.runner.cache
    first = await api.get("/api/v1/query_range", **asked, nocache="1")
    assert (cache.hits, cache.misses) == (0, 0)
    kept = await api.get("/api/v1/query_range", **asked)
    again = await api.get("/api/v1/query_range", **asked)
    assert (cache.hits, cache.misses) == (1, 1)
    assert first.body == kept.body == again.body


async def test_gaps_are_left_out_of_a_matrix(api: Api) -> None:
    answer = await api.get(
        "/api/v1/query_range", query='m{i="0"} > 20', start=NOW_S - 60, end=NOW_S, step="15s"
    )
    assert answer.data["result"][0]["values"] == [
        [NOW_S - 60, "60"],
        [NOW_S - 45, "45"],
        [NOW_S - 30, "30"],
    ]


async def test_strings_and_odd_steps_are_answered(api: Api) -> None:
    answer = await api.get("/api/v1/query", query='"a<b>\\u00fc"', time=NOW_S)
    assert answer.data == {"resultType": "string", "result": [NOW_S, "a<b>ü"]}
    answer = await api.get(
        "/api/v1/query_range", query="time()", start=NOW_S, end=NOW_S + 1, step=0.4
    )
    [series] = answer.data["result"]
    assert series["values"][1] == [NOW_S + 0.4, "1767571200.4"]
    assert f"[{NOW_S}.400," in answer.text


async def test_limit_cuts_series_and_says_so(api: Api) -> None:
    for path, extra in (
        ("query", {"time": NOW_S}),
        ("query_range", {"start": NOW_S - 15, "end": NOW_S, "step": 15}),
    ):
        answer = await api.get(f"/api/v1/{path}", query="m", limit=2, **extra)
        assert len(answer.data["result"]) == 2
        assert answer.json["warnings"] == ["results truncated due to limit"]
        answer = await api.get(f"/api/v1/{path}", query="m", limit=5, **extra)
        assert "warnings" not in answer.json


async def test_notes_of_the_engine_are_passed_on(api: Api) -> None:
    answer = await api.get("/api/v1/query", query="quantile(7, m)", time=NOW_S)
    assert "quantile value should be between 0 and 1" in answer.json["warnings"][0]
    answer = await api.get("/api/v1/query", query="rate(m[1m])", time=NOW_S)
    assert "might not be a counter" in answer.json["infos"][0]


async def test_stats_come_on_request(api: Api) -> None:
    answer = await api.get("/api/v1/query", query="m", time=NOW_S, stats="all")
    stats = answer.data["stats"]
    assert stats["samples"]["totalQueryableSamples"] == 5
    assert stats["timings"]["evalTotalTime"] > 0
    assert set(stats["timings"]) == {
        "evalTotalTime",
        "resultSortTime",
        "queryPreparationTime",
        "innerEvalTime",
        "execQueueTime",
        "execTotalTime",
    }


async def test_lookback_may_be_a_querys_own(api: Api) -> None:
    assert await api.query("m", NOW_S + 100)
    assert not await api.query("m", NOW_S + 100, lookback_delta="1m")


async def test_windows_are_left_open_unless_asked_otherwise(tmp_path: Path) -> None:
    for compat, expected in (("prometheus3", 2), ("prometheus2", 3)):
        settings = PromqlSettings(compat=compat)
        async with serving(tmp_path / compat, promql=settings) as api:
            await api.load({"up": [(1.0, (NOW_S - t) * 1000) for t in (30, 15, 0)]})
            [series] = await api.query("up[30s]", NOW_S)
            assert len(series["values"]) == expected


async def test_gzip_only_for_those_who_take_it(api: Api) -> None:
    params = {
        "query": "m",
        "start": str(NOW_S - 600),
        "end": str(NOW_S + 600),
        "step": "1",
    }
    plain = await api.get("/api/v1/query_range", **params)
    assert "Content-Encoding" not in plain.headers
    packed = await api.ask(
        "GET", "/api/v1/query_range", params=params, headers={"Accept-Encoding": "gzip"}
    )
    assert packed.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(packed.body) == plain.body
    assert len(packed.body) < len(plain.body) / 4


async def test_the_deadline_holds_while_an_answer_is_written(tmp_path: Path) -> None:
    class Instead(Engine):
        """Needs all the time for its result, and then there is none left to write it."""

        def range(self, *args: Any, check: Check | None = None, **more: Any) -> Result:
            result = super().range(*args, **more)
            assert isinstance(check, Deadline)
            check.cancel()
            return result

    async with serving(tmp_path / "data") as api:
        await api.load({"m": [(1.0, NOW_S * 1000)]})
        api.parts.runner.engine = Instead()
        answer = await api.get("/api/v1/query_range", query="m", start=NOW_S, end=NOW_S, step=1)
        assert answer.error == (503, "canceled", "query was canceled in expression evaluation")


def test_an_answer_has_an_end() -> None:
    times_ms = np.arange(5, dtype=np.int64) * 1000
    labels = [Labels.of({"i": str(i)}, "m") for i in range(3)]
    values = np.ones((3, 5))
    mask = np.ones((3, 5), np.bool_)
    mask[0, 0] = False
    result = Result(ValueType.MATRIX, times_ms, labels, values, mask)
    with pytest.raises(ApiError, match="14 points, and 13 are allowed") as caught:
        "".join(render_result(result, points_max=13))
    assert caught.value.status == 422
    text = "".join(render_result(result, 2, points_max=13))
    assert len(json.loads(f"{{{text}}}")["result"]) == 2
    assert warnings_of(result, 2) == [TRUNCATED]


async def test_too_many_samples_are_refused(tmp_path: Path) -> None:
    async with serving(tmp_path / "data", promql=PromqlSettings(max_samples=10)) as api:
        await api.load({"m": [(1.0, (NOW_S - t) * 1000) for t in range(20, -1, -1)]})
        answer = await api.get("/api/v1/query", query="sum_over_time(m[1m])", time=NOW_S)
        assert answer.error == (
            422,
            "execution",
            "query processing would load too many samples into memory in query execution",
        )


@pytest.mark.parametrize(
    ("path", "params", "message"),
    [
        ("query", {"query": "m", "limit": "-1"}, '"limit"'),
        ("query", {"query": "m", "timeout": "1x"}, '"timeout"'),
        ("query", {"query": "m", "timeout": "-1s"}, '"timeout"'),
        ("query", {"query": "m", "timeout": "-1"}, '"timeout"'),
        ("query", {"query": "m", "lookback_delta": "-1m"}, '"lookback_delta"'),
        ("query_range", {"query": "m"}, '"start"'),
        ("query_range", {"query": "m", "start": "1"}, '"end"'),
        ("query_range", {"query": "m", "start": "1", "end": "2"}, '"step"'),
        ("query_range", {"query": "m", "start": "1", "end": "2", "step": "NaN"}, '"step"'),
        ("query_range", {"query": "m", "start": "1", "end": "2", "step": "-5m"}, '"step"'),
        ("query_range", {"query": "m", "start": "1", "end": "2", "step": "-5"}, "zero or negative"),
        ("query_range", {"query": "m", "start": "1", "end": "2", "step": "1e300"}, '"step"'),
        ("query", {"query": "((((((((((" * 1000}, "parse error"),
        ("query", {"query": "m{i=~'(a+)+b'} * 1 +"}, "parse error"),
    ],
)
async def test_bad_parameters_are_400_by_name(
    api: Api, path: str, params: dict[str, str], message: str
) -> None:
    answer = await api.post(f"/api/v1/{path}", **params)
    status, kind, text = answer.error
    assert (status, kind) == (400, "bad_data")
    assert message in text


async def test_long_forms_are_read_and_longer_ones_refused(api: Api) -> None:
    # A long selector, as a dashboard's variable with many values makes one.
    names = [f'm{{i="{i}"}}' for i in range(5)] * 2_000
    answer = await api.post("/api/v1/series", **{"match[]": names[:9_000]})
    assert len(answer.data) == 5
    answer = await api.post("/api/v1/series", **{"match[]": [*names[:9_000], "m{"]})
    assert answer.error[:2] == (400, "bad_data")
    assert "1:3: parse error: unexpected end of input inside braces" in answer.error[2]
    body = io.BytesIO(b"query=m" + b"%2B1" * (FORM_BYTES_MAX // 4))
    answer = await api.ask(
        "POST",
        "/api/v1/query",
        data=body,
        headers={"Content-Type": "application/x-www-form-urlencoded"},
    )
    assert answer.error == (413, "bad_data", "the body is longer than 1048576 bytes")


async def test_a_url_beyond_its_limit_is_told_what_else_to_do(api: Api) -> None:
    answer = await api.get("/api/v1/query", query="m" * 70_000)
    assert answer.status == 400
    assert answer.text == (
        "the URL or a header is longer than 65536 bytes; post long queries as forms"
    )


async def test_years_beyond_are_no_trouble(api: Api) -> None:
    for time_s in ("1795000000000", "9e15", "-9e15", "1e300"):
        answer = await api.get("/api/v1/query", query="m", time=time_s)
        assert answer.data["result"] == []


# --- Turns, time and clients that go ---------------------------------------------------------


class Slow(Engine):
    """Evaluates until it is told to stop, looking at its deadline as engines do."""

    def __init__(self) -> None:
        super().__init__()
        self.started = threading.Semaphore(0)
        self.go_on = threading.Event()
        self.ended: list[str] = []

    def instant(
        self, querier: Any, query: Any, time_ms: int, *, check: Check | None = None
    ) -> Result:
        self.started.release()
        assert check is not None
        try:
            while not self.go_on.wait(0.005):
                check.check()
        except Exception as error:
            self.ended.append(type(error).__name__)
            raise
        return super().instant(querier, query, time_ms, check=check)


@pytest.fixture
async def slow(tmp_path: Path) -> AsyncIterator[tuple[Api, Slow]]:
    settings = PromqlSettings(max_concurrency=2, timeout_ms=30_000)
    async with serving(tmp_path / "data", promql=settings) as api:
        engine = Slow()
        api.parts.runner.engine = engine
        yield api, engine
        engine.go_on.set()


async def began(engine: Slow, queries: int) -> None:
    for _ in range(queries):
        await asyncio.to_thread(engine.started.acquire)


async def test_a_query_that_takes_too_long_is_503(slow: tuple[Api, Slow]) -> None:
    api, engine = slow
    asking = asyncio.create_task(api.get("/api/v1/query", query="1"))
    await began(engine, 1)
    await api.clock.advance(30_000)
    assert (await asking).error == (503, "timeout", "query timed out in expression evaluation")
    assert api.parts.runner.stats.failed == {"timeout": 1}


async def test_a_shorter_timeout_may_be_asked_for(slow: tuple[Api, Slow]) -> None:
    api, engine = slow
    asking = asyncio.create_task(api.get("/api/v1/query", query="1", timeout="1s"))
    await began(engine, 1)
    await api.clock.advance(1000)
    assert (await asking).status == 503


async def test_a_query_whose_client_has_gone_is_given_up(slow: tuple[Api, Slow]) -> None:
    api, engine = slow
    asking = asyncio.create_task(api.get("/api/v1/query", query="1"))
    await began(engine, 1)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    while api.parts.runner.stats.running:
        await asyncio.sleep(0.005)
    assert engine.ended == ["QueryCanceled"]


async def test_queries_wait_for_their_turn_and_others_are_not_held_up(
    slow: tuple[Api, Slow],
) -> None:
    api, engine = slow
    asking = [asyncio.create_task(api.get("/api/v1/query", query="1")) for _ in range(5)]
    await began(engine, 2)
    while api.parts.runner.stats.waiting < 3:
        await asyncio.sleep(0.005)
    assert api.parts.runner.stats.running == 2
    assert (await api.get("/api/v1/labels")).status == 200
    engine.go_on.set()
    answers = await asyncio.gather(*asking)
    assert [answer.status for answer in answers] == [200] * 5


async def test_the_queue_has_an_end(api: Api) -> None:
    api.parts.runner.stats.waiting = 200
    answer = await api.get("/api/v1/query", query="1")
    assert answer.error[:2] == (503, "unavailable")
    assert answer.headers["Retry-After"]
    api.parts.runner.stats.waiting = 0


# --- Text alone ------------------------------------------------------------------------------


async def test_queries_are_formatted_and_taken_apart(api: Api) -> None:
    answer = await api.post("/api/v1/format_query", query="sum by(i)(m)")
    assert answer.data == "sum by (i) (m)"
    tree = (await api.get("/api/v1/parse_query", query="sum(m)")).data
    assert tree["type"] == "aggregation"
    bad = await api.get("/api/v1/format_query", query="sum(")
    assert bad.error[:2] == (400, "bad_data")


async def test_only_get_and_post_are_questions(api: Api) -> None:
    for method in ("HEAD", "PUT", "DELETE"):
        answer = await api.ask(method, "/api/v1/query?query=1")
        assert answer.status == 405
        assert "GET" in answer.headers["Allow"]


async def test_answers_are_valid_json_whatever_labels_hold(api: Api) -> None:
    odd = 'quote" back\\slash \n \u2028 <script>'
    body = {"__name__": "odd", "l": odd}
    await api.write(pb.write_request(pb.series(body, [(NOW_S * 1000, 1.0)])))
    answer = await api.get("/api/v1/query", query="odd", time=NOW_S)
    assert json.loads(answer.body)["data"]["result"][0]["metric"] == body
    assert answer.headers["Content-Type"] == "application/json"


async def test_large_forms_are_bounded(tmp_path: Path) -> None:
    http = HttpSettings(max_body_bytes=2048)
    async with serving(tmp_path / "data", http=http) as api:
        answer = await api.post("/api/v1/query", query="1" + "+1" * 2000)
        assert answer.status == 413
