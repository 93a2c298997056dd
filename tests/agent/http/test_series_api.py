"""Which series, labels, values and exemplars there are, and when."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from support.api import Api, serving
from tachograph.config.settings import PromqlSettings
from tachograph.storage.model import Metadata, MetricType

NOW_S = 1_767_571_200
HOUR_S = 3600


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with serving(tmp_path / "data") as api:
        await api.load(
            {
                'old{job="a",gone="1"}': [(1.0, (NOW_S - 30 * HOUR_S) * 1000)],
                'up{job="a",instance="x"}': [(1.0, NOW_S * 1000)],
                'up{job="b",instance="y"}': [(1.0, NOW_S * 1000)],
                'dotted{job="b","a.b"="1"}': [(1.0, NOW_S * 1000)],
            }
        )
        yield api


@pytest.mark.parametrize("sealed", [False, True])
async def test_series_are_found_by_selectors_and_time(api: Api, sealed: bool) -> None:
    if sealed:
        await api.store.seal()
    answer = await api.get("/api/v1/series", match=['up{job="a"}', "old"])
    assert answer.data == [
        {"__name__": "old", "gone": "1", "job": "a"},
        {"__name__": "up", "instance": "x", "job": "a"},
    ]
    recent = await api.get(
        "/api/v1/series", match='{__name__!=""}', start=NOW_S - HOUR_S, end=NOW_S
    )
    assert {series["__name__"] for series in recent.data} == {"up", "dotted"}
    before = await api.get(
        "/api/v1/series", match='{job!=""}', start=NOW_S - 31 * HOUR_S, end=NOW_S - 29 * HOUR_S
    )
    assert [series["__name__"] for series in before.data] == ["old"]


async def test_labels_and_values_follow_the_time_range(api: Api) -> None:
    assert (await api.post("/api/v1/labels")).data == [
        "__name__",
        "a.b",
        "gone",
        "instance",
        "job",
    ]
    recent = {"start": str(NOW_S - HOUR_S), "end": str(NOW_S)}
    assert (await api.post("/api/v1/labels", **recent)).data == [
        "__name__",
        "a.b",
        "instance",
        "job",
    ]
    values = "/api/v1/label/__name__/values"
    assert (await api.get(values)).data == ["dotted", "old", "up"]
    assert (await api.get(values, **recent)).data == ["dotted", "up"]
    assert (await api.get(values, match='{job="a"}', **recent)).data == ["up"]
    assert (await api.get("/api/v1/labels", match="up")).data == ["__name__", "instance", "job"]
    assert (await api.get("/api/v1/label/nope/values")).data == []


async def test_all_of_time_is_what_clients_say_it_is(api: Api) -> None:
    answer = await api.get(
        "/api/v1/labels",
        start="-292273086-05-16T16:47:06Z",
        end="292277025-08-18T07:12:54.999999999Z",
    )
    assert len(answer.data) == 5


async def test_limits_cut_and_say_so(api: Api) -> None:
    for path, params in (
        ("series", {"match[]": '{job!=""}'}),
        ("labels", {}),
        ("label/job/values", {}),
    ):
        answer = await api.ask("GET", f"/api/v1/{path}", params={**params, "limit": "1"})
        assert len(answer.data) == 1
        assert answer.json["warnings"] == ["results truncated due to limit"]
        whole = await api.ask("GET", f"/api/v1/{path}", params={**params, "limit": "40000"})
        assert "warnings" not in whole.json


async def test_names_beyond_the_classic_ones_are_found(api: Api) -> None:
    assert (await api.get("/api/v1/label/a.b/values")).data == ["1"]
    assert (await api.get("/api/v1/label/U__a_2e_b/values")).data == ["1"]


async def test_old_prometheus_knows_classic_names_only(tmp_path: Path) -> None:
    settings = PromqlSettings(compat="prometheus2")
    async with serving(tmp_path / "data", promql=settings) as api:
        answer = await api.get("/api/v1/label/a.b/values")
        assert answer.error == (400, "bad_data", 'invalid label name: "a.b"')


async def test_series_need_a_selector(api: Api) -> None:
    for params in ({}, {"match[]": "{}"}, {"match[]": "up{"}):
        answer = await api.ask("POST", "/api/v1/series", data=params or None)
        assert answer.error[:2] == (400, "bad_data")


async def test_metadata_is_limited_and_picked(api: Api) -> None:
    for i in range(3):
        api.store.describe(f"m{i}", Metadata(MetricType.GAUGE, f"Help {i}.", "bytes"))
    assert (await api.get("/api/v1/metadata", limit=2)).data.keys() == {"m0", "m1"}
    assert (await api.get("/api/v1/metadata", metric="m2")).data == {
        "m2": [{"type": "gauge", "help": "Help 2.", "unit": "bytes"}]
    }
    assert (await api.get("/api/v1/metadata", metric="nope")).data == {}


async def test_series_of_a_restart_are_still_there(api: Api) -> None:
    # The newest samples are known of what came since; the others are in chunks.
    await api.store.seal()
    refs = api.store.index.select(())
    api.store.current.forget(refs)
    answer = await api.get("/api/v1/labels", start=NOW_S - HOUR_S, end=NOW_S)
    assert "instance" in answer.data
