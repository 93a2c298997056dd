"""JSON points: what is read from them, and why some are refused."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tachograph.agent.ingest.points import PointBatch, PointDecoder, PointsError
from tachograph.config.settings import StorageLimits
from tachograph.storage.model import Kind, Labels, Metadata, MetricType

NOW_MS = 1_795_000_000_123
LIMITS = StorageLimits(labels_per_series=5, label_name_bytes=16, label_value_bytes=64)


def decode(body: object, max_points: int = 1000) -> PointBatch:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return PointDecoder(LIMITS, max_points).decode(data, NOW_MS)


def points(batch: PointBatch) -> list[tuple[str, int, float]]:
    return [
        (str(batch.series[series].labels), ts_ms, value)
        for series, ts_ms, value in zip(
            batch.series_of.tolist(), batch.ts_ms.tolist(), batch.values.tolist(), strict=True
        )
    ]


def reason(point: object) -> str:
    """Decode one point among good ones and return why it alone was refused."""
    good = {"name": "good", "value": 1}
    batch = decode([good, point, good])
    assert batch.count == 3
    assert batch.index.tolist() == [0, 2]
    assert [refused.index for refused in batch.refused] == [1]
    return batch.refused[0].reason


def test_one_object_is_one_point() -> None:
    batch = decode(
        {"name": "up", "value": 1.5, "labels": {"job": "a", "be": "ü"}, "ts": NOW_MS - 1}
    )
    assert points(batch) == [('up{be="ü",job="a"}', NOW_MS - 1, 1.5)]
    assert (batch.count, batch.refused, batch.metadata) == (1, [], {})


def test_point_without_time_gets_that_of_receipt() -> None:
    assert points(decode([{"name": "up", "value": 1}])) == [("up", NOW_MS, 1.0)]
    assert points(decode([{"name": "up", "value": 1, "ts": None}])) == [("up", NOW_MS, 1.0)]


def test_array_lines_and_spread_objects_give_the_same() -> None:
    items = [{"name": f"m{n % 3}", "value": n, "labels": {"n": str(n % 2)}} for n in range(9)]
    expected = points(decode(items))
    assert len(expected) == 9
    for body in (
        "\n".join(json.dumps(item) for item in items),
        "\r\n".join(json.dumps(item) for item in items) + "\r\n\r\n",
        "".join(json.dumps(item) for item in items),
        "\n".join(json.dumps(item, indent=2) for item in items),
        json.dumps(items, indent=2),
    ):
        assert points(decode(body.encode())) == expected
        # A bad point at the end sends all of them the slow way, to the same end.
        spoilt = f"{body[:-1]},{{}}]" if body[0] == "[" else f"{body}\n{{}}"
        batch = decode(spoilt.encode())
        assert points(batch) == expected
        assert [(bad.index, bad.reason) for bad in batch.refused] == [(9, "`name` is missing")]


def test_series_is_the_same_however_its_labels_are_ordered() -> None:
    batch = decode(
        b'[{"name":"a","value":1,"labels":{"x":"1","y":"2","e":""}},'
        b'{"name":"a","value":2,"labels":{ "y":"2","x":"1" }}]'
    )
    assert {series.labels for series in batch.series} == {Labels.of({"x": "1", "y": "2"}, "a")}


def test_special_values() -> None:
    values = ["NaN", "+Inf", "Inf", "-Inf", -0.0, 1e300, 2**70]
    batch = decode([{"name": "a", "value": value} for value in values])
    got = batch.values.tolist()
    assert math.isnan(got[0])
    assert got[1:4] == [math.inf, math.inf, -math.inf]
    assert math.copysign(1, got[4]) == -1
    assert got[5:] == [1e300, float(2**70)]


@pytest.mark.parametrize(
    ("timestamp", "ts_ms"),
    [
        (1_795_000_000_000, 1_795_000_000_000),
        (1_795_000_000_000.9, 1_795_000_000_000),
        ("2026-11-18T14:26:40Z", 1_795_012_000_000),
        ("2026-11-18t14:26:40z", 1_795_012_000_000),
        ("2026-11-18T14:26:40.5009", 1_795_012_000_500),
        ("2026-11-18 15:26:40.500+01:00", 1_795_012_000_500),
        ("2026-11-18T14:26:40.123456789Z", 1_795_012_000_123),
        ("2026-11-18", 1_794_960_000_000),
    ],
)
def test_times(timestamp: object, ts_ms: int) -> None:
    assert decode({"name": "a", "value": 1, "timestamp": timestamp}).ts_ms.tolist() == [ts_ms]
    assert decode([{"name": "a", "value": 1, "ts": timestamp}, 1]).ts_ms.tolist() == [ts_ms]


@pytest.mark.parametrize(
    ("timestamp", "why"),
    [
        (1_795_000_000, "timestamp 1795000000 is not in milliseconds; seconds, perhaps?"),
        (1_795_000_000.5, "timestamp 1795000000.5 is not in milliseconds; seconds, perhaps?"),
        (-1, "timestamp -1 is not in milliseconds; seconds, perhaps?"),
        (1.795e18, "timestamp 1.795e+18 is not in milliseconds; micro- or nanoseconds, perhaps?"),
        (10**18 + 1, "timestamp 1e+18 is not in milliseconds; micro- or nanoseconds, perhaps?"),
        pytest.param(10**400, "timestamp 1e+30 is not in milliseconds", id="huge"),
        pytest.param(-(10**400), "timestamp -1e+30 is not in milliseconds", id="minus huge"),
        ("yesterday", "timestamp 'yesterday' is not a time such as 2026-01-31T12:00:00.5Z"),
        ("1795000000", "timestamp '1795000000' is not a time such as 2026-01-31T12:00:00.5Z"),
        ("2026-02-30T00:00:00Z", "timestamp '2026-02-30T00:00:00Z' is not a time such as"),
        (True, "the timestamp is neither a number nor a string"),
        ({}, "the timestamp is neither a number nor a string"),
    ],
)
def test_times_that_are_refused(timestamp: object, why: str) -> None:
    assert reason({"name": "a", "value": 1, "ts": timestamp}).startswith(why)


@pytest.mark.parametrize(
    ("point", "why"),
    [
        (7, "the point is not an object"),
        ([], "the point is not an object"),
        ({}, "`name` is missing"),
        ({"name": "a"}, "`value` is missing"),
        ({"value": 1}, "`name` is missing"),
        ({"name": "", "value": 1}, "the metric name is empty"),
        ({"name": 5, "value": 1}, "`name` is not a string"),
        ({"name": "a" * 65, "value": 1}, "the metric name is longer than 64 bytes"),
        ({"name": "a", "value": None}, "the value is neither a number nor"),
        ({"name": "a", "value": "1"}, "the value is neither a number nor"),
        ({"name": "a", "value": True}, "the value is neither a number nor"),
        ({"name": "a", "value": math.nan}, 'NaN is not JSON; write "NaN"'),
        ({"name": "a", "value": 10**400}, "the value is out of the range of a 64-bit float"),
        ({"name": "a", "value": 1, "lables": {}}, "unknown member 'lables'; there are name,"),
        ({"name": "a", "value": 1, "labels": []}, "`labels` is not an object"),
        ({"name": "a", "value": 1, "labels": None}, "`labels` is not an object"),
        ({"name": "a", "value": 1, "labels": {"": "x"}}, "a label name is empty"),
        ({"name": "a", "value": 1, "labels": {"x": 5}}, "the value of label 'x' is not a string"),
        ({"name": "a", "value": 1, "labels": {"x": ["a"]}}, "the value of label 'x' is not a str"),
        ({"name": "a", "value": 1, "labels": {"__name__": "b"}}, "label '__name__' is the metric"),
        ({"name": "a", "value": 1, "labels": {"__x": "b"}}, "label '__x' is reserved"),
        ({"name": "a", "value": 1, "labels": {"x" * 17: "b"}}, "a label name is longer than 16"),
        ({"name": "a", "value": 1, "labels": {"x": "ü" * 33}}, "the value of label 'x' is longer"),
        (
            {"name": "a", "value": 1, "labels": dict.fromkeys("abcde", "x")},
            "5 labels; 4 are allowed beside the name",
        ),
        ({"name": "a\ud800", "value": 1}, "the metric name is not valid Unicode"),
        ({"name": "a", "value": 1, "labels": {"x": "\udfff"}}, "the value of label 'x' is not val"),
        ({"name": "a", "value": 1, "ts": NOW_MS, "timestamp": NOW_MS}, "`timestamp` and `ts` are"),
        ({"name": "a", "value": 1, "ttl": 5}, 'the ttl is not a duration such as "2d"'),
        ({"name": "a", "value": 1, "ttl": "2 days"}, 'ttl: "2 days" is not a duration; write 2d'),
        ({"name": "a", "value": 1, "ttl": "0"}, "ttl 0s is not between 1s and 400d"),
        ({"name": "a", "value": 1, "ttl": "2y"}, "ttl 2y is not between 1s and 400d"),
        ({"name": "a", "value": 1, "type": "meter"}, "type 'meter' is none of unknown, gauge,"),
        ({"name": "a", "value": 1, "type": 3}, "`type` is not a string"),
        ({"name": "a", "value": 1, "type": "histogram"}, "a histogram is sent as its _bucket"),
        ({"name": "a", "value": 1, "type": "summary"}, "a summary is sent as its quantiles"),
        ({"name": "a", "value": 1, "help": "x" * 4097}, "the help is longer than 4096 bytes"),
        ({"name": "a", "value": 1, "unit": "\ud800"}, "the unit is not valid Unicode"),
    ],
)
def test_bad_point_is_refused_alone_with_its_reason(point: object, why: str) -> None:
    assert reason(point).startswith(why)


def test_label_given_twice_is_refused_on_both_ways() -> None:
    body = b'[{"name":"a","value":1,"labels":{"x":"1","x":"2"}}%s]'
    assert [bad.reason for bad in decode(body % b"").refused] == ["label 'x' is given twice"]
    assert decode(body % b",1").refused[0].reason == "label 'x' is given twice"
    assert reason_of(b'{"name":"a","name":"b","value":1}') == "`name` is given twice"


def test_a_ttl_is_a_column_on_both_ways() -> None:
    good = [{"name": "a", "value": 1, "ttl": "1h30m"}, {"name": "a", "value": 1}]
    assert decode(good).ttl_ms.tolist() == [5_400_000, 0]
    assert decode([*good, {}]).ttl_ms.tolist() == [5_400_000, 0]


def reason_of(line: bytes) -> str:
    return decode(line + b"\n{}").refused[0].reason


def test_names_may_be_any_utf8() -> None:
    body = {"name": "größe.in m²", "value": 1, "labels": {"länge": "x\n"}}
    assert decode(body).series[0].labels == Labels.of({"länge": "x\n"}, "größe.in m²")


@pytest.mark.parametrize(
    ("type_", "name", "labels", "kind", "family"),
    [
        (None, "a_total", {}, Kind.UNKNOWN, ""),
        ("untyped", "a", {}, Kind.UNKNOWN, ""),
        ("counter", "a_total", {}, Kind.COUNTER, "a_total"),
        ("gauge", "a_sum", {}, Kind.GAUGE, "a_sum"),
        ("histogram", "a_sum_bucket", {"le": "1"}, Kind.BUCKET, "a_sum"),
        ("histogram", "a_sum", {}, Kind.COUNTER, "a"),
        ("histogram", "a_count", {}, Kind.COUNTER, "a"),
        ("summary", "a", {"quantile": "1"}, Kind.GAUGE, "a"),
        ("summary", "a_sum", {}, Kind.COUNTER, "a"),
        ("info", "a_info", {}, Kind.GAUGE, "a_info"),
        ("stateset", "a", {"a": "on"}, Kind.GAUGE, "a"),
    ],
)
def test_type_makes_the_kind_and_the_family(
    type_: str | None, name: str, labels: dict[str, str], kind: Kind, family: str
) -> None:
    point = {"name": name, "value": 1, "labels": labels} | ({"type": type_} if type_ else {})
    for body in (point, [point, None]):
        batch = decode(body)
        assert [series.kind for series in batch.series] == [kind]
        assert list(batch.metadata) == ([family] if family else [])


def test_help_and_unit_are_collected_from_all_points_of_a_family() -> None:
    batch = decode(
        [
            {"name": "a_total", "value": 1, "type": "counter"},
            {"name": "a_total", "value": 1, "type": "counter", "unit": "seconds"},
            {"name": "a_total", "value": 1, "type": "counter", "help": "Some."},
            {"name": "b", "value": 1, "help": "Other."},
        ]
    )
    assert batch.metadata == {
        "a_total": Metadata(MetricType.COUNTER, "Some.", "seconds"),
        "b": Metadata(MetricType.UNKNOWN, "Other."),
    }


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "the body is empty"),
        (b" \n\t ", "the body is empty"),
        (b'{"name":"\xff","value":1}', "the body is not valid UTF-8 at byte 9"),
        (b"[", "malformed JSON at 1:2: Expecting value"),
        (b'[{"name":"a","value":1}', "malformed JSON at 1:24: Expecting ',' or ']'"),
        (b'[{"name":"a","value":1} x]', "malformed JSON at 1:25: Expecting ',' or ']'"),
        (b'[{"name":"a","value":1}] x', "malformed JSON at 1:25: Extra data"),
        (b'[\n{"name":"a",}]', "malformed JSON at 2:13: Expecting property name"),
        (b"[" * 200_000, "malformed JSON: nested too deeply"),
    ],
)
def test_body_that_is_no_json_is_refused_whole(body: bytes, why: str) -> None:
    with pytest.raises(PointsError, match="^" + why.replace("[", r"\[").replace("]", r"\]")):
        decode(body)


def test_bad_line_does_not_keep_the_other_lines_out() -> None:
    batch = decode(
        b'{"name":"a","value":1}\n{"name":"a","value":\n\nnonsense\n{"name":"a","value":2} more\n'
        b'{"name":"a","labels":' + b"[" * 100_000 + b'\n{"name":"a","value":3}'
    )
    assert batch.values.tolist() == [1, 2, 3]
    assert batch.index.tolist() == [0, 3, 6]
    assert [bad.index for bad in batch.refused] == [1, 2, 4, 5]
    assert batch.refused[3].reason == "malformed JSON: nested too deeply"


def test_deeply_nested_labels_are_refused() -> None:
    labels = b"[" * 200_000 + b"]" * 200_000
    assert decode(b'{"name":"a","value":1,"labels":%s}' % labels).refused[0].index == 0


@pytest.mark.parametrize(
    "body",
    [
        json.dumps([{"name": "a", "value": 1}] * 11).encode(),
        json.dumps([{}] * 11).encode(),
        b"[" + b"1," * 10 + b"1]",
        b"{}" * 1000,
        b"\n".join([b'{"name":"a","value":1}'] * 11),
        b"x\n" * 11,
    ],
)
def test_number_of_points_is_bounded(body: bytes) -> None:
    with pytest.raises(PointsError, match="more than 10 points") as caught:
        decode(body, max_points=10)
    assert caught.value.too_many
    assert decode(b"[" + b"1," * 9 + b"1]", max_points=10).count == 10


def test_repeated_labels_are_looked_at_once_and_forgotten_in_time() -> None:
    decoder = PointDecoder(LIMITS)
    for n in range(25_000):
        body = b'{"name":"a","value":1,"labels":{"n":"%d"}}' % n
        assert decoder.decode(body, 1).series[0].labels.get("n") == str(n)
    assert len(decoder._known) <= 10_000
    wide = {"name": "a", "value": 1, "labels": {}}
    assert decoder.decode(json.dumps(wide).encode() + b" " * 5000, 1).count == 1


_NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=10).filter(
    lambda name: not name.startswith("__")
)
_LABELS = st.dictionaries(_NAMES, st.text(st.characters(exclude_categories=["Cs"])), max_size=4)
_GOOD = st.fixed_dictionaries(
    {
        "name": _NAMES,
        "value": st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**53), 2**53),
    },
    optional={
        "labels": _LABELS,
        "ts": st.integers(10**11, 10**14),
        "type": st.sampled_from(["gauge", "counter", "unknown"]),
    },
)
_WIDE = StorageLimits()


@settings(max_examples=150, deadline=None)
@given(st.lists(_GOOD, max_size=8), st.booleans(), st.booleans())
def test_good_points_are_read_back_whole(
    items: list[dict[str, object]], as_lines: bool, ascii_only: bool
) -> None:
    texts = [json.dumps(item, ensure_ascii=ascii_only) for item in items]
    body = "\n".join(texts) if as_lines and texts else f"[{','.join(texts)}]"
    batch = PointDecoder(_WIDE).decode(body.encode(), NOW_MS)
    assert batch.refused == []
    got = [
        (batch.series[series].labels, ts_ms, value)
        for series, ts_ms, value in zip(
            batch.series_of.tolist(), batch.ts_ms.tolist(), batch.values.tolist(), strict=True
        )
    ]
    assert got == [
        (
            Labels.of(item.get("labels", {}), str(item["name"])),  # type: ignore[arg-type]
            item.get("ts", NOW_MS),
            item["value"],
        )
        for item in items
    ]


@settings(max_examples=300, deadline=None)
@given(
    st.one_of(
        st.binary(max_size=60),
        st.recursive(
            st.none() | st.booleans() | st.floats() | st.text(max_size=3) | st.just("a"),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.sampled_from(["name", "value", "labels", "ts", "type", "help", "x"]),
                    inner,
                    max_size=4,
                )
            ),
            max_leaves=12,
        ).map(lambda item: json.dumps(item).encode()),
    )
)
def test_no_body_breaks_the_decoder(body: bytes) -> None:
    try:
        batch = PointDecoder(_WIDE).decode(body, NOW_MS)
    except PointsError:
        return
    assert batch.count == len(batch.index) + len(batch.refused)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_no_mutation_of_a_good_body_breaks_the_decoder(data: st.DataObject) -> None:
    good = (
        b'[{"name":"a\\u00e4","value":-1.5e3,"labels":{"x":"y"},"ts":1795000000000}, {"name":"b"}]'
    )
    body = bytearray(good)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(body) - 1))
        body[place] = data.draw(st.sampled_from(b'{}[]",:\\\x00\xff0-eEnt \n'))
    try:
        batch = PointDecoder(_WIDE).decode(bytes(body), NOW_MS)
    except PointsError:
        return
    assert batch.count == len(batch.index) + len(batch.refused)


@given(st.datetimes(datetime(1971, 1, 1), datetime(9999, 1, 1)))
def test_iso_times_are_exact(moment: datetime) -> None:
    ts_ms = decode({"name": "a", "value": 1, "ts": moment.isoformat() + "Z"}).ts_ms.tolist()[0]
    exact = moment.replace(tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)
    assert ts_ms == exact.days * 86_400_000 + exact.seconds * 1000 + exact.microseconds // 1000
