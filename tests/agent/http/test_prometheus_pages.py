"""The rest of Prometheus' API: targets, status, federation, remote read, administration."""

from __future__ import annotations

import gzip
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from support import prometheus_pb as pb
from support.api import Api, serving
from tachograph.agent.http.targets import TargetFacts, Targets
from tachograph.agent.wire import snappy
from tachograph.config.settings import HttpSettings
from tachograph.storage.exemplars import Exemplar
from tachograph.storage.frame import STALE_NAN
from tachograph.storage.model import Labels, Metadata, MetricType

NOW_S = 1_767_571_200
NOW_MS = NOW_S * 1000


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with serving(tmp_path / "data", http=HttpSettings(admin_api=True)) as api:
        yield api


# --- Targets and status ----------------------------------------------------------------------


async def test_targets_and_their_metadata_are_told(api: Api) -> None:
    await api.load({'requests_total{job="node",instance="a:1"}': [(1.0, NOW_MS)]})
    api.store.describe("requests_total", Metadata(MetricType.COUNTER, "All of them."))
    labels = Labels.of({"job": "node", "instance": "a:1"})
    api.targets = Targets(
        [
            TargetFacts(
                job="node",
                discovered=Labels.of({"__address__": "a:1"}),
                labels=labels,
                url="http://a:1/metrics",
                interval_ms=15_000,
                timeout_ms=10_000,
                health="up",
                last_error="",
                last_scrape_ms=NOW_MS + 5,
                last_duration_s=0.25,
            )
        ],
        [("node", Labels.of({"__address__": "b:1"}))],
        {"node": 1},
    )
    data = (await api.get("/api/v1/targets")).data
    assert data["activeTargets"] == [
        {
            "discoveredLabels": {"__address__": "a:1"},
            "labels": dict(labels),
            "scrapePool": "node",
            "scrapeUrl": "http://a:1/metrics",
            "globalUrl": "http://a:1/metrics",
            "lastError": "",
            "lastScrape": "2026-01-05T00:00:00.005Z",
            "lastScrapeDuration": 0.25,
            "health": "up",
            "scrapeInterval": "15s",
            "scrapeTimeout": "10s",
        }
    ]
    assert data["droppedTargets"] == [{"discoveredLabels": {"__address__": "b:1"}}]
    for state, active, dropped in (("dropped", 0, 1), ("Active", 1, 0), ("any", 1, 1), ("x", 0, 0)):
        chosen = (await api.get("/api/v1/targets", state=state)).data
        assert len(chosen["activeTargets"]) == active
        assert len(chosen["droppedTargets"]) == dropped
    pools = await api.get("/api/v1/scrape_pools")
    assert pools.data == {"scrapePools": ["node"]}
    described = await api.get("/api/v1/targets/metadata", match_target='{job="node"}')
    assert described.data == [
        {
            "target": dict(labels),
            "metric": "requests_total",
            "type": "counter",
            "help": "All of them.",
            "unit": "",
        }
    ]
    assert (await api.get("/api/v1/targets/metadata", match_target='{job="x"}')).data == []


async def test_status_pages_answer(api: Api) -> None:
    await api.load({f'm{{i="{i}"}}': [(1.0, NOW_MS)] for i in range(3)})
    build = (await api.get("/api/v1/status/buildinfo")).data
    assert tuple(map(int, build["version"].split("."))) >= (2, 24, 0)
    assert "features" not in build, "or Grafana takes us for Mimir"
    assert "1.2.3" in build["revision"]
    assert "storage" in yaml.safe_load((await api.get("/api/v1/status/config")).data["yaml"])
    assert (await api.get("/api/v1/status/flags")).data["storage.retention.raw"]
    runtime = (await api.get("/api/v1/status/runtimeinfo")).data
    assert runtime["startTime"] == "2026-01-05T00:00:00.000Z"
    tsdb = (await api.get("/api/v1/status/tsdb", limit=1)).data
    assert tsdb["headStats"]["numSeries"] == 3
    assert tsdb["seriesCountByMetricName"] == [{"name": "m", "value": 3}]
    assert tsdb["labelValueCountByLabelName"] == [{"name": "i", "value": 3}]
    assert tsdb["seriesCountByLabelValuePair"] == [{"name": "__name__=m", "value": 3}]


# --- Federation and remote read --------------------------------------------------------------


async def test_federation_tells_the_newest_samples(tmp_path: Path) -> None:
    async with serving(tmp_path / "data", external={"site": "x", "job": "ours"}) as api:
        await api.load(
            {
                'up{job="b"}': [(1.0, NOW_MS - 30_000), (0.5, NOW_MS - 15_000)],
                'up{job="a",q="say \\"hi\\""}': [(1.0, NOW_MS)],
                'ended{job="a"}': [(1.0, NOW_MS - 1000), (STALE_NAN, NOW_MS)],
                'late{job="a"}': [(1.0, NOW_MS - 400_000)],
                '{"odd.name", job="a"}': [(2.0, NOW_MS)],
            }
        )
        answer = await api.get("/federate", match=['{job!=""}'])
        assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        assert answer.text == (
            "# TYPE odd_name untyped\n"
            f'odd_name{{job="a",site="x"}} 2 {NOW_MS}\n'
            "# TYPE up untyped\n"
            f'up{{job="a",q="say \\"hi\\"",site="x"}} 1 {NOW_MS}\n'
            f'up{{job="b",site="x"}} 0.5 {NOW_MS - 15_000}\n'
        )
        utf8 = await api.ask(
            "GET",
            "/federate",
            params={"match[]": '{job="a"}'},
            headers={"Accept": "text/plain;version=1.0.0;escaping=allow-utf-8"},
        )
        assert f'{{"odd.name",job="a",site="x"}} 2 {NOW_MS}\n' in utf8.text
        nothing = await api.get("/federate")
        assert (nothing.status, nothing.text) == (200, ""), "no match[], as in Prometheus"
        assert (await api.get("/federate", match=["{"])).status == 400


async def test_federation_is_packed_for_those_who_take_it(tmp_path: Path) -> None:
    async with serving(tmp_path / "data") as api:
        await api.load({f'm{{i="{i}"}}': [(1.0, NOW_MS)] for i in range(100)})
        plain = await api.get("/federate", match=["m"])
        packed = await api.ask(
            "GET", "/federate", params={"match[]": "m"}, headers={"Accept-Encoding": "gzip"}
        )
        assert packed.headers["Content-Encoding"] == "gzip"
        assert packed.headers["Content-Type"] == plain.headers["Content-Type"]
        assert gzip.decompress(packed.body) == plain.body


def question(low: int, high: int, *matchers: tuple[int, str, str]) -> dict[str, Any]:
    return {
        "start_timestamp_ms": low,
        "end_timestamp_ms": high,
        "matchers": [{"type": t, "name": n, "value": v} for t, n, v in matchers],
    }


async def ask_read(api: Api, *queries: dict[str, Any]) -> Any:
    body = pb.new("ReadRequest", queries=list(queries)).SerializeToString()
    answer = await api.ask(
        "POST",
        "/api/v1/read",
        data=snappy.compress(body),
        headers={"Content-Type": "application/x-protobuf", "Content-Encoding": "snappy"},
    )
    assert answer.status == 200, answer.text
    assert answer.headers["Content-Encoding"] == "snappy"
    return pb.parse("ReadResponse", snappy.decompress(answer.body, 1 << 24)).results


async def test_remote_read_gives_samples_both_ends_included(tmp_path: Path) -> None:
    async with serving(tmp_path / "data", external={"site": "x"}) as api:
        await api.load(
            {
                'up{job="a"}': [(float(i), NOW_MS - 1000 * i) for i in range(10, -1, -1)],
                'down{job="a"}': [(1.0, 0), (STALE_NAN, 5)],
            }
        )
        first, second, third = await ask_read(
            api,
            question(NOW_MS - 3000, NOW_MS - 1000, (0, "__name__", "up"), (2, "site", "x|y")),
            question(0, 5, (2, "__name__", "do.*")),
            question(0, NOW_MS, (0, "__name__", "up"), (1, "site", "x")),
        )
        [series] = first.timeseries
        assert {label.name: label.value for label in series.labels} == {
            b"__name__": b"up",
            b"job": b"a",
            b"site": b"x",
        }
        assert [(s.timestamp, s.value) for s in series.samples] == [
            (NOW_MS - 3000, 3.0),
            (NOW_MS - 2000, 2.0),
            (NOW_MS - 1000, 1.0),
        ]
        [series] = second.timeseries
        assert [s.timestamp for s in series.samples] == [0, 5]
        assert not third.timeseries


@pytest.mark.parametrize(
    ("data", "headers", "status"),
    [
        (b"", {}, 400),
        (b"garbage", {}, 400),
        (b"", {"Content-Encoding": "gzip"}, 415),
        (snappy.compress(b"\xff"), {}, 400),
    ],
)
async def test_bad_remote_reads_are_refused(
    api: Api, data: bytes, headers: dict[str, str], status: int
) -> None:
    assert (await api.ask("POST", "/api/v1/read", data=data, headers=headers)).status == status


async def test_bad_matchers_of_remote_reads_are_400(api: Api) -> None:
    for matcher in ((2, "job", "("), (9, "job", "x")):
        body = pb.new("ReadRequest", queries=[question(0, 1, matcher)]).SerializeToString()
        answer = await api.ask("POST", "/api/v1/read", data=snappy.compress(body))
        assert answer.status == 400


# --- The administrator's part ----------------------------------------------------------------


async def test_admin_is_off_unless_switched_on(tmp_path: Path) -> None:
    async with serving(tmp_path / "data") as api:
        for name in ("delete_series", "clean_tombstones", "snapshot"):
            answer = await api.post(f"/api/v1/admin/tsdb/{name}")
            assert answer.error == (503, "unavailable", "admin APIs disabled")


async def test_deleted_series_are_gone(api: Api) -> None:
    await api.load(
        {
            'up{job="a"}': [(1.0, NOW_MS - 2000), (2.0, NOW_MS)],
            'up{job="b"}': [(1.0, NOW_MS)],
        }
    )
    [ref] = [each.ref for each in api.store.index.series() if each.labels.get("job") == "a"]
    api.parts.keep_exemplars([(ref, Exemplar(Labels.of({"t": "1"}), 1.0, NOW_MS))])
    path = "/api/v1/admin/tsdb/delete_series"
    answer = await api.ask(
        "POST", path, params={"match[]": "up", "start": str(NOW_S - 5), "end": str(NOW_S - 1)}
    )
    assert answer.status == 204
    [a, b] = await api.query("up[1m]", NOW_S)
    assert sorted([a["values"], b["values"]]) == [[[NOW_S, "1"]], [[NOW_S, "2"]]]
    assert (await api.ask("PUT", path, params={"match[]": 'up{job="a"}'})).status == 204
    assert [s["metric"]["job"] for s in await api.query("up", NOW_S)] == ["b"]
    assert (await api.get("/api/v1/label/job/values")).data == ["b"]
    assert not len(api.parts.exemplars)
    assert (await api.post("/api/v1/admin/tsdb/clean_tombstones")).status == 204
    assert (await api.ask("POST", path)).error[:2] == (400, "bad_data")


async def test_a_snapshot_is_a_whole_database(api: Api) -> None:
    await api.load({"up": [(1.0, NOW_MS)]})
    name = (await api.post("/api/v1/admin/tsdb/snapshot")).data["name"]
    target = api.store.directory / "snapshots" / name / "samples.db"
    assert target.stat().st_mode & 0o777 == 0o600
    copy = sqlite3.connect(target)
    assert copy.execute("SELECT count(*) FROM series").fetchone() == (1,)
    assert copy.execute("SELECT count(*) FROM journal").fetchone() == (1,)
    assert copy.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    copy.close()
