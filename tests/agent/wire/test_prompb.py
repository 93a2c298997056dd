"""The hand-written codecs of Prometheus' messages, held to the protobuf library."""

from __future__ import annotations

import math
import struct

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from support import prometheus_pb as pb
from tachograph.agent.wire import prompb, prompb2
from tachograph.agent.wire.errors import WireError
from tachograph.agent.wire.protobuf import read_varint, signed, varint

int64 = st.integers(-(2**63), 2**63 - 1)
texts = st.text(max_size=20)
points = st.lists(st.tuples(st.floats(), int64), max_size=4)
pairs = st.lists(st.tuples(texts, texts), max_size=4)


def bits(value: float) -> bytes:
    return struct.pack("<d", value)


@given(int64)
def test_numbers_come_back(number: int) -> None:
    data = varint(number)
    value, end = read_varint(data, 0)
    assert (signed(value), end) == (number, len(data))


@pytest.mark.parametrize("data", [b"", b"\x80", b"\xff" * 11, b"\xff" * 9 + b"\x7f"])
def test_numbers_without_end_or_beyond_64_bits_are_refused(data: bytes) -> None:
    with pytest.raises(WireError):
        read_varint(data, 0)


@given(st.lists(st.tuples(pairs, points), max_size=3))
def test_write_request_is_what_the_library_reads(
    series: list[tuple[prompb.Pairs, list[prompb.Point]]],
) -> None:
    read = pb.parse("WriteRequest", prompb.write_request(series))
    assert [
        (
            [(label.name.decode(), label.value.decode()) for label in one.labels],
            [(bits(sample.value), sample.timestamp) for sample in one.samples],
        )
        for one in read.timeseries
    ] == [(labels, [(bits(value), ts) for value, ts in samples]) for labels, samples in series]


@given(pairs, st.floats(allow_nan=False), int64)
def test_exemplar_is_what_the_library_wrote(labels: prompb.Pairs, value: float, ts_ms: int) -> None:
    written = pb.new(
        "Exemplar",
        labels=[{"name": n.encode(), "value": v.encode()} for n, v in labels],
        value=value,
        timestamp=ts_ms,
    ).SerializeToString()
    assert prompb.read_exemplar(written, 0, len(written)) == prompb.WireExemplar(
        labels, value, ts_ms
    )


@given(st.integers(0, 2**31 - 1), texts, texts, texts)
def test_metadata_is_what_the_library_wrote(type_: int, family: str, help_: str, unit: str) -> None:
    data = pb.new(
        "MetricMetadata",
        type=type_,
        metric_family_name=family.encode(),
        help=help_.encode(),
        unit=unit.encode(),
    ).SerializeToString()
    assert prompb.read_metadata(data, 0, len(data)) == prompb.WireMetadata(
        family, type_, help_, unit
    )


@given(
    st.lists(
        st.tuples(int64, int64, st.lists(st.tuples(st.integers(0, 3), texts, texts), max_size=3)),
        max_size=3,
    ),
    st.lists(st.integers(0, 1), max_size=2),
)
def test_read_request_is_what_the_library_wrote(
    queries: list[tuple[int, int, list[tuple[int, str, str]]]], accepted: list[int]
) -> None:
    data = pb.new(
        "ReadRequest",
        queries=[
            {
                "start_timestamp_ms": low,
                "end_timestamp_ms": high,
                "matchers": [{"type": t, "name": n, "value": v} for t, n, v in matchers],
            }
            for low, high, matchers in queries
        ],
        accepted_response_types=accepted,
    ).SerializeToString()
    request = prompb.read_request(data)
    assert request.takes_samples == (not accepted or 0 in accepted)
    assert request.queries == [
        prompb.ReadQuery(low, high, tuple((n, prompb.MATCHER_OPS[t], v) for t, n, v in matchers))
        for low, high, matchers in queries
    ]


@given(st.lists(st.lists(st.tuples(pairs, points), max_size=2), max_size=2))
def test_read_response_is_what_the_library_reads(
    results: list[list[tuple[prompb.Pairs, list[prompb.Point]]]],
) -> None:
    data = prompb.read_response(
        [prompb.time_series(labels, samples) for labels, samples in result] for result in results
    )
    read = pb.parse("ReadResponse", data)
    assert [
        [
            [(bits(sample.value), sample.timestamp) for sample in series.samples]
            for series in result.timeseries
        ]
        for result in read.results
    ] == [[[(bits(v), ts) for v, ts in samples] for _, samples in result] for result in results]


@given(
    st.lists(
        st.builds(
            prompb2.WrittenSeries,
            labels=pairs,
            samples=st.lists(st.tuples(st.floats(allow_nan=False), int64), max_size=3),
            type=st.integers(0, 7),
            help=texts,
        ),
        max_size=3,
    )
)
def test_request_of_2_0_is_what_the_library_reads(series: list[prompb2.WrittenSeries]) -> None:
    read = pb.parse("Request2", prompb2.request(series))
    symbols = [symbol.decode() for symbol in read.symbols]
    assert symbols[0] == ""
    for one, sent in zip(read.timeseries, series, strict=True):
        numbers = list(one.labels_refs)
        named = [(symbols[n], symbols[v]) for n, v in zip(numbers[::2], numbers[1::2], strict=True)]
        assert named == sent.labels
        assert [(s.value, s.timestamp) for s in one.samples] == list(sent.samples)
        assert (one.metadata.type, symbols[one.metadata.help_ref]) == (sent.type, sent.help)


@settings(max_examples=400)
@given(st.binary(max_size=60))
def test_any_bytes_are_read_as_the_library_reads_them_or_refused(data: bytes) -> None:
    try:
        value, ts_ms = prompb.read_sample(data, 0, len(data))
    except WireError:
        return
    try:
        expected = pb.parse("Sample", data)
    except DecodeError:
        return  # a group or a field number that only we pass over
    same = math.isnan(value) and math.isnan(expected.value)
    assert ts_ms == expected.timestamp
    assert same or value == expected.value
