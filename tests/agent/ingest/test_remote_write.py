"""Remote write to columns: as the protobuf library reads it, whatever was remembered before."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from support import prometheus_pb as pb
from support.remote import Plain, Senders
from tachograph.agent.ingest.remote_series import SeriesTable
from tachograph.agent.ingest.remote_write import WriteBatch, decode_1, decode_2
from tachograph.agent.wire import prompb, prompb2
from tachograph.agent.wire.errors import TooMany, WireError
from tachograph.agent.wire.protobuf import length_delimited, varint
from tachograph.storage.frame import STALE_NAN
from tachograph.storage.model import STALE_NAN_BITS, Labels, Metadata, MetricType

NOW_MS = 1_767_571_200_000
UP = {"__name__": "up", "job": "node"}


def value_bits(value: float) -> int:
    return int(struct.unpack("<Q", struct.pack("<d", value))[0])


def label_set(pairs: list[tuple[bytes, bytes]]) -> Labels | None:
    """The labels as a series has them; None where they can't name one."""
    try:
        texts = [(name.decode(), value.decode()) for name, value in pairs]
    except UnicodeDecodeError:
        return None
    names = [name for name, _ in texts]
    labels = Labels.of(texts)
    if len(set(names)) < len(names) or "" in names or not labels.name:
        return None
    return labels


def expected_1(data: bytes) -> list[tuple[Labels | None, int, int]]:
    return [
        (
            label_set([(label.name, label.value) for label in series.labels]),
            sample.timestamp,
            value_bits(sample.value),
        )
        for series in pb.parse("WriteRequest", data).timeseries
        for sample in series.samples
    ]


def without_faults(plain: Plain) -> list[tuple[Labels | None, int, int]]:
    return [(None if isinstance(who, str) else who, ts, value) for who, ts, value in plain]


stamps = st.one_of(
    st.integers(NOW_MS - 10**6, NOW_MS),
    st.sampled_from([0, 1, -1, 2**35 - 1, 2**35, 2**42 - 1, 2**42, -(2**63), 2**63 - 1]),
)
values = st.one_of(
    st.floats(),
    st.sampled_from(
        [0.0, -0.0, 1.0, STALE_NAN, struct.unpack("<d", b"\x12\x07\x10\x12\x10\x09\x12\x07")[0]]
    ),
)
label_lists = st.one_of(
    st.sampled_from(
        [
            [("__name__", "up"), ("job", "node")],
            [("__name__", "up"), ("job", "api")],
            [("job", "api"), ("__name__", "up")],
            [("__name__", "x" * 130)],
            [("__name__", "up"), ("path", "\x12\x10\x09" + "y" * 20)],
            [("__name__", "up"), ("gone", "")],
            [("job", "nameless")],
            [("__name__", "")],
            [("__name__", "up"), ("a", "1"), ("a", "2")],
            [("__name__", "up"), ("a", b"\xff")],
            [],
        ]
    ),
    st.lists(st.tuples(st.sampled_from(["__name__", "a", "b"]), st.text(max_size=3)), max_size=3),
)


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    series = []
    for _ in range(draw(st.integers(0, 6))):
        count = draw(st.sampled_from([1, 1, 1, 1, 0, 2, 5]))
        samples = [(draw(stamps), draw(values)) for _ in range(count)]
        extra: dict[str, Any] = {}
        if draw(st.integers(0, 9)) == 0:
            extra["exemplars"] = [{"value": 1.0, "timestamp": NOW_MS}]
        if draw(st.integers(0, 9)) == 0:
            extra["histograms"] = [{"count": 1.0}]
        series.append(pb.series(draw(label_lists), samples, **extra))
    return pb.write_request(*series)


@settings(max_examples=200, deadline=None)
@given(st.lists(requests(), min_size=1, max_size=3))
def test_samples_are_what_the_library_reads_first_and_again(bodies: list[bytes]) -> None:
    senders = Senders()
    for body in bodies * 3:
        assert without_faults(senders.take(decode_1(body, senders.table))) == expected_1(body)


@st.composite
def mutations(draw: st.DrawFn) -> tuple[bytes, bytes]:
    body = bytearray(draw(requests()))
    original = bytes(body)
    for _ in range(draw(st.integers(1, 4))):
        if body:
            at = draw(st.integers(0, len(body) - 1))
            what = draw(st.integers(0, 2))
            if what == 0:
                body[at] = draw(st.integers(0, 255))
            elif what == 1:
                del body[at : at + draw(st.integers(1, 12))]
            else:
                body[at:at] = body[at : at + draw(st.integers(1, 40))]
    return original, bytes(body)


@settings(max_examples=400, deadline=None)
@given(mutations())
def test_damaged_bodies_are_refused_or_read_as_the_library_does(pair: tuple[bytes, bytes]) -> None:
    original, body = pair
    warm = Senders()
    for _ in range(3):
        warm.take(decode_1(original, warm.table))
    try:
        cold = Senders().plain(decode_1(body, SeriesTable()))
    except WireError:
        with pytest.raises(WireError):
            decode_1(body, warm.table)
        return
    assert warm.plain(decode_1(body, warm.table)) == cold
    try:
        expected = expected_1(body)
    except DecodeError:
        return  # reserved field numbers, which we pass over
    assert without_faults(cold) == expected


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=80))
@pytest.mark.parametrize("decode", [decode_1, decode_2])
def test_any_bytes_give_samples_or_our_error(
    decode: Callable[[bytes, SeriesTable], WriteBatch], data: bytes
) -> None:
    with contextlib.suppress(WireError):
        decode(data, SeriesTable())


# --- What repeats ----------------------------------------------------------------------------


def many(count: int, ts_ms: int, value: Callable[[int], float]) -> bytes:
    return pb.write_request(
        *(
            pb.series({"__name__": f"metric_{i % 7}", "i": str(i)}, [(ts_ms, value(i))])
            for i in range(count)
        )
    )


def test_a_body_of_the_same_series_is_read_by_comparing_it() -> None:
    senders = Senders()
    for round_ in range(6):
        body = many(300, NOW_MS + round_, lambda i, r=round_: (i % 3) * (r + 0.5))
        batch = decode_1(body, senders.table)
        assert without_faults(senders.take(batch)) == expected_1(body)
    template = senders.table.template(body)
    assert template is not None
    assert batch.series is template.series


@pytest.mark.parametrize(
    "change",
    [(b"metric_3", b"metric_4"), (b"\x12\x10\x09", b"\x12\x10\x19"), (b"\x12\x07", b"\x1a\x07")],
)
def test_a_body_that_differs_elsewhere_is_not_taken_for_the_known_one(
    change: tuple[bytes, bytes],
) -> None:
    senders = Senders()
    for round_ in range(3):
        body = many(300, NOW_MS + round_, lambda i: float(i % 3))
        senders.take(decode_1(body, senders.table))
    other = body.replace(*change, 1)
    assert len(other) == len(body) != 0
    assert other != body
    assert senders.plain(decode_1(other, senders.table)) == Senders().plain(
        decode_1(other, SeriesTable())
    )


def test_templates_take_no_more_than_their_share() -> None:
    senders = Senders()
    for length in range(1, 71):
        for round_ in range(3):
            name = "m" * (10 * length)
            body = prompb.write_request(
                ([("__name__", name), ("i", f"{i:03}")], [(1.0, NOW_MS + round_)])
                for i in range(250)
            )
            senders.take(decode_1(body, senders.table))
    assert 1 << 20 < senders.table._template_bytes <= 4 << 20
    assert len(senders.table._templates) <= 64


def test_many_new_series_are_left_to_whoever_has_time() -> None:
    senders = Senders()
    body = many(50, NOW_MS, float)
    with pytest.raises(TooMany):
        decode_1(body, senders.table, 400)
    senders.take(decode_1(body, senders.table, 1000))
    decode_1(body, senders.table, 50)


def pack(number: int) -> bytes:
    return number.to_bytes(3, "big").translate(bytes(i % 128 for i in range(256)))


BUSY = {
    "empty series": b"\x0a\x00" * 1_100_000,
    "empty metadata": b"\x1a\x00" * 600_000,
    "unknown fields": b"\x78\x00" * 1_100_000,
    "empty samples": length_delimited(1, b"\x12\x00" * 700_000),
    "odd samples": length_delimited(1, b"\x12\x02\x10\x00" * 299_999 + b"\x78\x00" * 700_000),
    "unknown fields of a series": length_delimited(1, b"\x12\x00" + b"\x78\x00" * 1_100_000),
    "empty exemplars": length_delimited(1, b"\x12\x00" + b"\x1a\x00" * 600_000),
    "empty labels": length_delimited(1, b"\x0a\x00" * 700_000 + b"\x12\x00") * 20,
    "labels behind the samples": length_delimited(1, b"\x12\x00" + b"\x0a\x00" * 1_100_000),
    "new series": b"".join(
        length_delimited(1, length_delimited(1, b"\x0a\x03" + pack(i)) * 20 + b"\x12\x00")
        for i in range(30_000)
    ),
    "series that are not UTF-8": b"".join(
        length_delimited(1, length_delimited(1, b"\x0a\x04\xff" + pack(i)) * 400 + b"\x12\x00")
        for i in range(10_000)
    ),
}


@pytest.mark.parametrize("body", BUSY.values(), ids=BUSY)
def test_a_body_made_to_keep_us_busy_is_given_up(body: bytes) -> None:
    with pytest.raises(TooMany):
        decode_1(body, SeriesTable())


def test_2_0_labels_do_not_grow_without_end() -> None:
    symbols = [b"", b"__name__", b"x" * 100_000]
    series = length_delimited(5, length_delimited(1, b"\x01\x02") + b"\x12\x00")
    body = b"".join(length_delimited(4, symbol) for symbol in symbols) + series * 10_000
    with pytest.raises(TooMany):
        decode_2(body, SeriesTable())


# --- What stands beside samples --------------------------------------------------------------


def test_exemplars_come_with_their_series() -> None:
    body = pb.write_request(
        pb.series(
            UP,
            [(NOW_MS, 1.0)],
            exemplars=[
                {
                    "labels": [{"name": b"trace_id", "value": "é1".encode()}],
                    "value": 0.5,
                    "timestamp": NOW_MS - 1,
                },
                {"labels": [{"name": b"bad", "value": b"\xff"}]},
            ],
        )
    )
    batch = decode_1(body, SeriesTable())
    [(series, exemplar)] = batch.exemplars
    assert batch.fresh[~series].labels == Labels.of(UP)
    assert exemplar.labels == Labels.of({"trace_id": "é1"})
    assert (exemplar.value, exemplar.ts_ms) == (0.5, NOW_MS - 1)
    assert batch.bad_exemplars == 1


def test_metadata_is_kept_by_family_and_histograms_are_counted() -> None:
    body = pb.write_request(
        pb.series(UP, [(NOW_MS, 1.0)], histograms=[{"count": 3.0}, {"count": 4.0}]),
        metadata=[
            {"type": 1, "metric_family_name": b"c_total", "help": b"Help.", "unit": b"s"},
            {"type": 4, "metric_family_name": b"g"},
            {"type": 99, "metric_family_name": b"u"},
            {"type": 2, "metric_family_name": b"\xff"},
        ],
    )
    batch = decode_1(body, SeriesTable())
    assert batch.metadata == {
        "c_total": Metadata(MetricType.COUNTER, "Help.", "s"),
        "g": Metadata(MetricType.GAUGE),
        "u": Metadata(MetricType.UNKNOWN),
    }
    assert batch.histograms == 2
    assert batch.bad_metadata == 1


def test_a_stale_marker_keeps_its_bits() -> None:
    body = pb.write_request(pb.series(UP, [(NOW_MS, STALE_NAN)]))
    assert Senders().plain(decode_1(body, SeriesTable()))[0][2] == STALE_NAN_BITS


# --- 2.0 -------------------------------------------------------------------------------------


def expected_2(data: bytes) -> list[tuple[Labels | None, int, int]]:
    request = pb.parse("Request2", data)
    symbols = list(request.symbols)
    return [
        (
            label_set(
                [
                    (symbols[n], symbols[v])
                    for n, v in zip(series.labels_refs[::2], series.labels_refs[1::2], strict=True)
                ]
            ),
            sample.timestamp,
            value_bits(sample.value),
        )
        for series in request.timeseries
        for sample in series.samples
    ]


written_series = st.builds(
    prompb2.WrittenSeries,
    labels=st.lists(
        st.tuples(st.sampled_from(["__name__", "a", "b", "c"]), st.text(max_size=3)), max_size=4
    ),
    samples=st.sampled_from([1, 1, 1, 1, 0, 3]).flatmap(
        lambda n: st.lists(st.tuples(values, stamps), min_size=n, max_size=n)
    ),
    exemplars=st.sampled_from([[], [], [], [prompb2.WireExemplar([("t", "1")], 1.0, NOW_MS)]]),
    type=st.integers(0, 8),
    help=st.sampled_from(["", "Help."]),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(written_series, max_size=6), min_size=1, max_size=3))
def test_2_0_is_what_the_library_reads_first_and_again(
    bodies: list[list[prompb2.WrittenSeries]],
) -> None:
    senders = Senders()
    for series in bodies * 3:
        body = prompb2.request(series)
        assert without_faults(senders.take(decode_2(body, senders.table))) == expected_2(body)


@settings(max_examples=300, deadline=None)
@given(st.lists(written_series, max_size=5), st.data())
def test_damaged_2_0_is_refused_or_read_alike_whatever_is_known(
    series: list[prompb2.WrittenSeries], data: st.DataObject
) -> None:
    original = prompb2.request(series)
    warm = Senders()
    for _ in range(3):
        warm.take(decode_2(original, warm.table))
    body = bytearray(original)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(body) - 1)) if body else 0
        if data.draw(st.booleans()):
            body[at : at + 1] = bytes([data.draw(st.integers(0, 255))])
        else:
            del body[at : at + data.draw(st.integers(1, 9))]
    try:
        cold = Senders().plain(decode_2(bytes(body), SeriesTable()))
    except WireError:
        with pytest.raises(WireError):
            decode_2(bytes(body), warm.table)
        return
    assert warm.plain(decode_2(bytes(body), warm.table)) == cold


def test_2_0_describes_a_family_under_its_own_name() -> None:
    body = prompb2.request(
        [
            prompb2.WrittenSeries(
                [("__name__", f"h{suffix}"), ("le", "1")],
                [(1.0, NOW_MS)],
                type=3,
                help="H.",
                unit="s",
            )
            for suffix in ("_bucket", "_sum", "_count")
        ]
        + [prompb2.WrittenSeries([("__name__", "c_total")], [(1.0, NOW_MS)], type=1, help="C.")]
    )
    batch = decode_2(body, SeriesTable())
    assert batch.metadata == {
        "h": Metadata(MetricType.HISTOGRAM, "H.", "s"),
        "c_total": Metadata(MetricType.COUNTER, "C."),
    }
    assert [one.type for one in batch.fresh] == [MetricType.HISTOGRAM] * 3 + [MetricType.COUNTER]


@pytest.mark.parametrize(
    ("symbols", "references", "fault"),
    [
        ([b"x", b"up"], [0, 1], "the first symbol"),
        ([b"", b"__name__"], [1, 2], "symbol 2"),
        ([b"", b"__name__", b"up"], [1, 2, 1], "without a value"),
        ([b""], [2**40], "too large"),
    ],
)
def test_2_0_with_references_into_nowhere_is_refused(
    symbols: list[bytes], references: list[int], fault: str
) -> None:
    series = length_delimited(1, b"".join(map(varint, references)))
    sample = pb.new("Sample", value=1.0, timestamp=NOW_MS).SerializeToString()
    body = b"".join(length_delimited(4, symbol) for symbol in symbols)
    body += length_delimited(5, series + length_delimited(2, sample))
    with pytest.raises(WireError, match=fault):
        decode_2(body, SeriesTable())


def test_a_1_0_body_read_as_2_0_is_empty() -> None:
    body = pb.write_request(pb.series(UP, [(NOW_MS, 1.0)]))
    assert not len(decode_2(body, SeriesTable()).series)
