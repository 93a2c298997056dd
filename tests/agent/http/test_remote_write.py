"""Remote write over HTTP: what is stored, what is refused, and what senders are told."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import cramjam
import numpy as np
import pytest

from support import prometheus_pb as pb
from support.api import Answer, Api, serving
from support.store import FailingConnection, put_points, store_settings
from tachograph.agent.wire import prompb, prompb2, snappy
from tachograph.agent.wire.protobuf import varint
from tachograph.config.selector import Matcher, MatchOp
from tachograph.config.settings import HttpSettings, RetentionSettings, StorageLimits
from tachograph.storage.frame import STALE_NAN
from tachograph.storage.model import STALE_NAN_BITS, Labels, Metadata, MetricType

MIB = 1 << 20
V2_PROTO = ";proto=io.prometheus.write.v2.Request"
V2 = {
    "Content_Type": f"application/x-protobuf{V2_PROTO}",
    "X_Prometheus_Remote_Write_Version": "2.0.0",
}


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with serving(tmp_path / "data") as api:
        yield api


def labels(name: str = "up", **more: str) -> dict[str, str]:
    return {"__name__": name, "job": "node", "instance": "a:1", **more}


def written(answer: Answer) -> tuple[int, int, int]:
    """Samples, histograms and exemplars that a 2.0 answer says were stored."""
    samples, histograms, exemplars = (
        int(answer.headers[f"X-Prometheus-Remote-Write-{what}-Written"])
        for what in ("Samples", "Histograms", "Exemplars")
    )
    return samples, histograms, exemplars


async def held(api: Api, selector: str, seconds: int = 3600) -> list[list[Any]]:
    """Times and values of one series, newest an hour ahead."""
    time_s = api.clock.now_ms() / 1000 + 600
    [series] = await api.query(f"{selector}[{seconds}s]", time_s)
    values: list[list[Any]] = series["values"]
    return values


# --- What is stored --------------------------------------------------------------------------


async def test_samples_are_there_once_the_answer_is(api: Api) -> None:
    now = api.clock.now_ms()
    body = pb.write_request(pb.series(labels(), [(now - 1000, 1.5), (now, 0.0)]))
    answer = await api.write(body)
    assert (answer.status, answer.body) == (204, b"")
    assert api.store.stats.samples_committed == 2
    assert await held(api, "up") == [[now // 1000 - 1, "1.5"], [now // 1000, "0"]]


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), -float("inf"), STALE_NAN, -0.0, 5e-324, 1.8e308]
)
async def test_every_float_is_kept_by_its_bits(api: Api, value: float) -> None:
    now = api.clock.now_ms()
    assert (await api.write(pb.write_request(pb.series(labels(), [(now, value)])))).status == 204
    frames = await api.store.read(lambda q: q.select((), now, now))
    bits = pb.new("Sample", value=value).SerializeToString()
    got = pb.new("Sample", value=float(frames[0].values[0, 0])).SerializeToString()
    assert got == bits
    if value is STALE_NAN:
        assert frames[0].values.view("u8")[0, 0] == STALE_NAN_BITS


@pytest.mark.parametrize("name", ["a.b", "with space", "line\nbreak", "ünï", "0digit", "a-b"])
async def test_names_may_be_any_utf_8(api: Api, name: str) -> None:
    now = api.clock.now_ms()
    body = pb.write_request(pb.series({"__name__": name, name: name}, [(now, 1.0)]))
    assert (await api.write(body)).status == 204
    assert api.store.index.find(Labels.of({name: name}, name)) is not None


async def test_zstd_is_as_good_as_snappy(api: Api) -> None:
    now = api.clock.now_ms()
    body = pb.write_request(pb.series(labels(), [(now, 3.0)]))
    answer = await api.ask(
        "POST",
        "/api/v1/write",
        data=bytes(cramjam.zstd.compress(body)),
        headers={"Content-Type": "application/x-protobuf", "Content-Encoding": "zstd"},
    )
    assert answer.status == 204
    assert await held(api, "up") == [[now // 1000, "3"]]


async def test_old_senders_may_leave_all_headers_out(api: Api) -> None:
    body = pb.write_request(pb.series(labels(), [(api.clock.now_ms(), 3.0)]))
    async with api.session.post(
        f"{api.base}/api/v1/write",
        data=snappy.compress(body),
        skip_auto_headers=["Content-Type"],
    ) as response:
        assert response.status == 204


async def test_the_last_of_two_samples_at_one_time_stays(api: Api) -> None:
    now = api.clock.now_ms()
    in_order = list(labels().items())
    body = pb.write_request(
        pb.series(in_order, [(now, 1.0)]),
        pb.series(in_order[::-1], [(now, 2.0)]),
        pb.series(labels(), [(now - 1, 5.0), (now, 3.0)]),
    )
    assert (await api.write(body)).status == 204
    assert [value for _, value in await held(api, "up")] == ["5", "3"]
    assert (await api.write(pb.write_request(pb.series(labels(), [(now, 4.0)])))).status == 204
    assert [value for _, value in await held(api, "up")] == ["5", "4"]


async def test_samples_may_come_in_any_order(api: Api) -> None:
    now = api.clock.now_ms()
    for offset in (0, 30_000, 10_000, 20_000):
        samples = [(now - offset, float(offset)), (now - offset - 1, 1.0)]
        assert (await api.write(pb.write_request(pb.series(labels(), samples)))).status == 204
    assert len(await held(api, "up")) == 8


async def test_samples_of_the_epoch_are_taken_where_they_are_kept(api: Api) -> None:
    samples = [(0, 1.0), (1, 2.0), (2**34, 3.0)]
    body = pb.write_request(pb.series(labels(), samples), pb.series(labels("down"), samples))
    assert (await api.write(body)).status == 204
    frames = await api.store.read(lambda q: q.select((), 0, 2**34))
    assert [frame.ts_ms.tolist() for frame in frames] == [[0, 1, 2**34]]


async def test_series_of_one_scrape_share_a_group(api: Api) -> None:
    now = api.clock.now_ms()
    body = pb.write_request(
        *(
            pb.series({"__name__": "m", "i": str(i), **where}, [(now, 1.0)])
            for where in ({"job": "a", "instance": "x"}, {"job": "a", "instance": "y"}, {})
            for i in range(3)
        )
    )
    assert (await api.write(body, User_Agent="Some/1.0")).status == 204
    groups = {group.name: group.head.columns for group in api.store._each_group()}
    assert groups == {"remote/a/x": 3, "remote/a/y": 3, "remote/127.0.0.1 Some": 3}
    assert api.store.head_points == 0


async def test_series_of_a_local_source_stay_in_its_group(api: Api) -> None:
    group = api.store.group("scrape/x")
    ref = group.ref(Labels.of(labels()))
    now = api.clock.now_ms()
    group.append(now - 1, np.array([ref], np.uint32), np.array([0.0]))
    assert (await api.write(pb.write_request(pb.series(labels(), [(now, 1.0)])))).status == 204
    assert api.store.home(ref) is group
    assert api.store.head_points == 1


async def test_series_that_were_imported_or_pushed_get_the_group_of_their_sender(api: Api) -> None:
    now = api.clock.now_ms()
    put_points(api.store, [(Labels.of(labels()), now - 1000, 1.0)])
    api.store.group("scrape/x").ref(Labels.of(labels("other")))
    body = pb.write_request(*(pb.series(labels(name), [(now, 2.0)]) for name in ("up", "other")))
    assert (await api.write(body)).status == 204
    assert api.store.group("remote/node/a:1").head.columns == 2
    assert [value for _, value in await held(api, "up")] == ["1", "2"]


async def test_two_senders_write_the_same_series_one_after_the_other(api: Api) -> None:
    now = api.clock.now_ms()
    for offset, program in ((2000, "A/1"), (1000, "B/1"), (0, "A/1")):
        body = pb.write_request(pb.series({"__name__": "x"}, [(now - offset, float(offset))]))
        assert (await api.write(body, User_Agent=program)).status == 204
    assert [value for _, value in await held(api, "x")] == ["2000", "1000", "0"]


async def test_a_sender_of_series_that_are_forgotten_is_asked_to_send_them_again(api: Api) -> None:
    store, now = api.store, api.clock.now_ms()
    body = pb.write_request(
        *(pb.series(labels(name), [(now, 1.0)]) for name in ("up", "down", "left"))
    )
    assert (await api.write(body)).status == 204
    store._homes._graves_max = 0
    for name in ("up", "down"):  # deleted one after the other: the first is forgotten by then
        store._forget(store.index.select([Matcher("__name__", MatchOp.EQUAL, name)]), now + 1)
    answer = await api.write(body)
    assert (answer.status, "Retry-After" in answer.headers) == (503, True)
    assert (await api.write(body)).status == 204
    for name in ("up", "down", "left"):
        assert [value for _, value in await held(api, name)] == ["1"]
    assert not store.stats.dropped


# --- What is refused -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content_type", "coding"),
    [
        ("application/json", "snappy"),
        ("image/png", "snappy"),
        ("application/x-protobuf;proto=io.prometheus.write.v3.Request", "snappy"),
        ("application/x-protobuf", "gzip"),
        ("application/x-protobuf", "deflate"),
        ("application/x-protobuf", "br"),
    ],
)
async def test_unknown_types_and_codings_are_415(api: Api, content_type: str, coding: str) -> None:
    answer = await api.write(b"", Content_Type=content_type, Content_Encoding=coding)
    assert answer.status == 415


@pytest.mark.parametrize("data", [b"garbage" * 10, b"", snappy.compress(b"\xff" * 50)])
async def test_damaged_bodies_are_400(api: Api, data: bytes) -> None:
    answer = await api.ask(
        "POST",
        "/api/v1/write",
        data=data,
        headers={"Content-Type": "application/x-protobuf", "Content-Encoding": "snappy"},
    )
    assert answer.status == 400
    assert answer.text


BAD_SERIES = {
    "no name": [("job", "x")],
    "an empty name": [("__name__", ""), ("job", "x")],
    "no labels": [],
    "a label twice": [("__name__", "up"), ("a", "1"), ("a", "2")],
    "a label without name": [("__name__", "up"), ("", "1")],
    "not UTF-8": [("__name__", "up"), ("a", b"\xff\xfe")],
    "a value too long": [("__name__", "up"), ("a", "x" * 5000)],
    "too many labels": [("__name__", "up"), *((f"l{i}", "v") for i in range(70))],
}


@pytest.mark.parametrize("bad", BAD_SERIES.values(), ids=BAD_SERIES)
@pytest.mark.parametrize("version", [1, 2])
async def test_a_bad_series_is_400_and_the_others_are_stored(
    api: Api, bad: list[Any], version: int
) -> None:
    now = api.clock.now_ms()
    for _ in range(2):
        if version == 1:
            good = [pb.series(labels(i=str(i)), [(now, 1.0)]) for i in range(3)]
            answer = await api.write(
                pb.write_request(good[0], pb.series(bad, [(now, 1.0)]), *good[1:])
            )
        elif any(isinstance(value, bytes) for _, value in bad):
            pytest.skip("our own encoder writes text")
        else:
            series = [
                prompb2.WrittenSeries([*labels(i=str(i)).items()], [(1.0, now)]) for i in range(3)
            ]
            body = prompb2.request(
                [series[0], prompb2.WrittenSeries(bad, [(1.0, now)]), *series[1:]]
            )
            answer = await api.write(body, **V2)
            assert written(answer) == (3, 0, 0)
        assert answer.status == 400
        assert answer.text.startswith("1 of 4 samples refused, the others stored: 1 ")
    assert len(await api.query("up", now / 1000)) == 3


async def test_samples_out_of_time_are_400_and_the_others_are_stored(tmp_path: Path) -> None:
    day = 86_400_000
    async with serving(tmp_path / "data", retention=RetentionSettings(raw_ms=15 * day)) as api:
        now = api.clock.now_ms()
        body = pb.write_request(
            pb.series(labels("old"), [(now - 16 * day, 1.0)]),
            pb.series(labels("new"), [(now + 3 * day, 1.0)]),
            pb.series(labels("soon"), [(now + 300_000, 1.0)]),
            pb.series(labels("good"), [(now, 1.0)]),
        )
        answer = await api.write(body)
        assert answer.status == 400
        assert "1 too_old: older than the raw retention" in answer.text
        assert "1 future: too far in the future" in answer.text
        assert len(await api.query('{job="node"}[1h]', now / 1000 + 300)) == 2
        # A sample far ahead does not keep the present out.
        again = await api.write(pb.write_request(pb.series(labels("good"), [(now + 1, 1.0)])))
        assert again.status == 204


async def test_series_beyond_a_limit_are_refused_and_known_ones_go_on(tmp_path: Path) -> None:
    limits = StorageLimits(series_per_metric=3)
    async with serving(tmp_path / "data", limits=limits) as api:
        now = api.clock.now_ms()
        for offset in range(3):
            body = pb.write_request(
                *(pb.series(labels(i=str(i)), [(now + offset, 1.0)]) for i in range(5))
            )
            answer = await api.write(body)
            assert answer.status == 400
            assert "2 series_per_metric" in answer.text
        assert api.parts.writer.stats.refused == {"series_per_metric": 6}
        assert [len(await held(api, f'up{{i="{i}"}}')) for i in range(3)] == [3, 3, 3]


async def test_refused_series_are_taken_once_there_is_room(tmp_path: Path) -> None:
    settings = store_settings(tmp_path / "data", limits=StorageLimits(series=2))
    async with serving(tmp_path / "data", limits=settings.limits) as api:
        now = api.clock.now_ms()

        async def send(offset: int) -> int:
            series = [pb.series(labels(i=str(i)), [(now + offset, 1.0)]) for i in range(4)]
            return (await api.write(pb.write_request(*series))).status

        assert await send(0) == 400
        api.store.configure(store_settings(tmp_path / "data"))
        assert await send(1) == 400, "nobody asks for them at each request"
        await api.clock.advance(60_000)
        assert await send(2) == 204
        assert len(await held(api, 'up{i="3"}')) == 1
        assert api.store.has_group("remote/node/a:1")


async def test_refused_series_make_no_groups(tmp_path: Path) -> None:
    async with serving(tmp_path / "data", limits=StorageLimits(series=2)) as api:
        body = pb.write_request(
            *(
                pb.series({**labels(), "instance": str(i)}, [(api.clock.now_ms(), 1.0)])
                for i in range(9)
            )
        )
        assert (await api.write(body)).status == 400
        assert api.store.groups == 2


async def test_native_histograms_are_refused_with_a_reason_and_samples_are_stored(
    api: Api,
) -> None:
    now = api.clock.now_ms()
    body = pb.write_request(
        pb.series(labels("h"), [], histograms=[{"count": 1.0, "timestamp": now}]),
        pb.series(labels(), [(now, 1.0)]),
    )
    answer = await api.write(body)
    assert answer.status == 400
    assert "1 histogram: native histograms are not stored" in answer.text
    assert len(await held(api, "up")) == 1


async def test_bodies_over_the_limit_are_413(tmp_path: Path) -> None:
    async with serving(tmp_path / "data", http=HttpSettings(max_body_bytes=MIB)) as api:
        for body in (b"\x00" * (2 * MIB), snappy.compress(b"\x1a\x00" * MIB)):
            answer = await api.ask(
                "POST",
                "/api/v1/write",
                data=io.BytesIO(body),
                headers={"Content-Type": "application/x-protobuf", "Content-Encoding": "snappy"},
            )
            assert answer.status == 413


BOMBS = {
    "snappy that claims 2 GiB": ("snappy", "", varint(2 << 30) + b"\x00a", 413),
    "snappy that claims 30 MiB": ("snappy", "", varint(30 << 20) + b"\x00a", 400),
    "snappy of zeros": ("snappy", "", snappy.compress(bytes(20 << 20)), 400),
    "zstd of a GiB": ("zstd", "", bytes(cramjam.zstd.compress(bytes(1 << 30))), 413),
    "empty series": ("snappy", "", snappy.compress(b"\x0a\x00" * (10 << 20)), 413),
    "empty symbols": ("snappy", V2_PROTO, snappy.compress(b"\x22\x00" * (10 << 20)), 413),
}


@pytest.mark.parametrize(("coding", "proto", "data", "status"), BOMBS.values(), ids=BOMBS)
async def test_a_bomb_is_refused(
    api: Api, coding: str, proto: str, data: bytes, status: int
) -> None:
    answer = await api.ask(
        "POST",
        "/api/v1/write",
        data=io.BytesIO(data),
        headers={"Content-Type": f"application/x-protobuf{proto}", "Content-Encoding": coding},
    )
    assert answer.status == status
    assert api.store.stats.samples_appended == 0


# --- Trouble of our own ----------------------------------------------------------------------


async def test_a_failing_disk_is_503_with_a_time_to_retry(api: Api) -> None:
    now = api.clock.now_ms()
    assert (await api.write(pb.write_request(pb.series(labels(), [(now, 1.0)])))).status == 204
    failing = FailingConnection.install(api.store)
    failing.fail_after(0)
    sending = asyncio.create_task(
        api.write(pb.write_request(pb.series(labels(), [(now + 1, 2.0)])))
    )
    answer = await sending
    assert answer.status == 503
    assert int(answer.headers["Retry-After"]) > 0
    failing.heal()


async def test_a_clock_behind_is_503_and_not_the_senders_fault(api: Api) -> None:
    now = api.clock.now_ms()
    api.store.clock_trust.start(now + 3_600_001, 0)
    answer = await api.write(pb.write_request(pb.series(labels(), [(now, 1.0)])))
    assert answer.status == 503


# --- Beside samples --------------------------------------------------------------------------


async def test_metadata_and_exemplars_are_kept(api: Api) -> None:
    now = api.clock.now_ms()
    body = pb.write_request(
        pb.series(
            labels("requests_total"),
            [(now, 1.0)],
            exemplars=[
                {
                    "labels": [{"name": b"trace_id", "value": b"abc"}],
                    "value": 0.25,
                    "timestamp": now - 5,
                }
            ],
        ),
        metadata=[{"type": 1, "metric_family_name": b"requests_total", "help": b"All of them."}],
    )
    assert (await api.write(body)).status == 204
    assert api.store.families.metadata("requests_total") == Metadata(
        MetricType.COUNTER, "All of them."
    )
    answer = await api.get(
        "/api/v1/query_exemplars", query="rate(requests_total[5m])", start=0, end=now
    )
    assert answer.data == [
        {
            "seriesLabels": labels("requests_total"),
            "exemplars": [
                {"labels": {"trace_id": "abc"}, "value": "0.25", "timestamp": (now - 5) / 1000}
            ],
        }
    ]
    described = await api.get("/api/v1/metadata", metric="requests_total")
    assert described.data == {
        "requests_total": [{"type": "counter", "help": "All of them.", "unit": ""}]
    }


async def test_2_0_says_what_was_written(api: Api) -> None:
    now = api.clock.now_ms()
    series = [
        prompb2.WrittenSeries(
            sorted(labels("requests_total", i=str(i)).items()),
            [(float(i), now - 1000), (0.0, now)],
            [prompb.WireExemplar([("trace_id", str(i))], 1.0, now)],
            type=1,
            help="All of them.",
        )
        for i in range(3)
    ]
    answer = await api.write(prompb2.request(series), **V2)
    assert answer.status == 204
    assert written(answer) == (6, 0, 3)
    assert len(await api.query("requests_total", now / 1000)) == 3
    assert api.store.families.metadata("requests_total") == Metadata(
        MetricType.COUNTER, "All of them."
    )
    known = api.store.index.find(Labels.of(labels("requests_total", i="0")))
    assert known is not None
    assert known.kind.name == "COUNTER"


async def test_metadata_alone_and_nothing_at_all_are_fine(api: Api) -> None:
    body = pb.write_request(metadata=[{"type": 2, "metric_family_name": b"g"}])
    assert (await api.write(body)).status == 204
    assert (await api.write(b"")).status == 204
    assert (await api.write(b"", **V2)).status == 204


# --- Large requests --------------------------------------------------------------------------


async def test_a_large_request_of_new_series_is_stored(api: Api) -> None:
    now = api.clock.now_ms()
    body = prompb.write_request(
        (sorted(labels(f"m{i % 50}", i=str(i)).items()), [(1.0, now - 1), (2.0, now)])
        for i in range(8000)
    )
    assert (await api.write(body)).status == 204
    assert len(api.store.index) == 8000
    assert len(await api.query("m1", now / 1000)) == 160


async def test_shapes_of_requests_give_the_same_samples(tmp_path: Path) -> None:
    found = []
    now = 1_767_571_200_000
    series = [sorted(labels(f"m{i}").items()) for i in range(40)]
    ticks = [now - 1000 * t for t in range(60, 0, -1)]
    by_tick = [(s, [(float(t % 7), t)]) for t in ticks for s in series]
    dense = [(s, [(float(t % 7), t) for t in ticks]) for s in series]
    for shape in (
        [by_tick],
        [dense],
        [by_tick[i : i + 70] for i in range(0, len(by_tick), 70)],
        [dense[i : i + 7] for i in range(0, len(dense), 7)],
        [[entry] for entry in dense],
    ):
        async with serving(tmp_path / str(len(found))) as api:
            for request in shape:
                assert (await api.write(prompb.write_request(request))).status == 204
            frames = await api.store.read(lambda q: q.select((), 0, now))
            found.append(
                {
                    (each.labels, ts): value
                    for frame in frames
                    for each, row in zip(frame.series, frame.values.tolist(), strict=True)
                    for ts, value in zip(frame.ts_ms.tolist(), row, strict=True)
                }
            )
    assert all(each == found[0] for each in found)
    assert len(found[0]) == 2400
