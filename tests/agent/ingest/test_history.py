"""History in its three formats: what is written is read back, and what is wrong is passed over."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from support.store import bits
from tachograph.agent.ingest.history import BadLine, Reader, Run, Writer
from tachograph.agent.ingest.history_csv import CsvReader, CsvWriter
from tachograph.agent.ingest.history_jsonl import JsonLinesReader, JsonLinesWriter
from tachograph.agent.ingest.history_openmetrics import (
    OpenMetricsReader,
    OpenMetricsWriter,
    family_key,
)
from tachograph.agent.ingest.history_prometheus import PrometheusTextReader
from tachograph.agent.wire.errors import WireError
from tachograph.storage.frame import STALE_NAN
from tachograph.storage.model import Labels, MetricType

FORMATS: dict[str, tuple[Callable[[], Reader], Callable[[], Writer]]] = {
    "vm-jsonl": (JsonLinesReader, JsonLinesWriter),
    "csv": (CsvReader, CsvWriter),
    "openmetrics": (OpenMetricsReader, OpenMetricsWriter),
}
#: By series: the bits of each value by time, and the type.
Content = dict[Labels, tuple[dict[int, int], MetricType]]

NAMES = st.sampled_from(
    ["up", "jobs_total", "a:b", "http.requests", "温度", 'qu"oted', "x{y}", "1st"]
)
LABEL_NAMES = st.sampled_from(
    ["job", "le", "le ", "http.method", "ключ", 'a"b', "a,b", "type", "value"]
)
LABEL_VALUES = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\x1f"), min_size=1
)
VALUES = st.one_of(
    st.floats(allow_nan=False, width=64),
    st.sampled_from([math.nan, math.inf, -math.inf, -0.0, 5e-324, 1.7976931348623157e308]),
)
TIMES = st.integers(-62_000_000_000_000, 250_000_000_000_000)


@st.composite
def runs(draw: st.DrawFn, *, stale: bool) -> list[Run]:
    """Some series, one after the other, their times rising."""
    found: dict[Labels, Run] = {}
    for _ in range(draw(st.integers(0, 4))):
        pairs = draw(st.dictionaries(LABEL_NAMES, LABEL_VALUES, max_size=3))
        labels = Labels.of(pairs, draw(NAMES))
        times = sorted(draw(st.sets(TIMES, min_size=1, max_size=6)))
        values = [draw(VALUES) for _ in times]
        array = np.array(values)
        if stale and draw(st.booleans()):
            array[draw(st.integers(0, len(values) - 1))] = STALE_NAN
        type_ = draw(st.sampled_from([MetricType.UNKNOWN, MetricType.GAUGE, MetricType.COUNTER]))
        found[labels] = Run(labels, np.array(times, np.int64), array, type_)
    return list(found.values())


def content(found: Sequence[Run]) -> Content:
    result: Content = {}
    for run in found:
        samples, _ = result.setdefault(run.labels, ({}, run.type))
        samples.update(zip(run.ts_ms.tolist(), bits(run.values), strict=True))
    return result


def read(reader: Reader, text: bytes, cuts: Sequence[int] = ()) -> list[Run]:
    """Feed lines in blocks that end at the places given."""
    lines = text.removesuffix(b"\n").split(b"\n") if text else []
    bounds = sorted({0, len(lines), *(min(cut, len(lines)) for cut in cuts)})
    found: list[Run] = []
    for low, high in itertools.pairwise(bounds):
        reader.feed(lines[low:high])
        if high % 2:
            found += reader.take()
    return found + reader.take()


@pytest.mark.parametrize("format_", ["vm-jsonl", "csv"])
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_everything_written_is_read_back_to_the_bit(format_: str, data: st.DataObject) -> None:
    make_reader, make_writer = FORMATS[format_]
    reader, writer = make_reader(), make_writer()
    given_runs = data.draw(runs(stale=True))
    text = writer.begin() + writer.write(given_runs) + writer.end()
    cuts = data.draw(st.lists(st.integers(0, 20), max_size=3))
    assert content(read(reader, text, cuts)) == content(given_runs)
    assert (reader.bad.count, writer.left_out) == (0, 0)


@settings(max_examples=60, deadline=None)
@given(given_runs=runs(stale=True), cuts=st.lists(st.integers(0, 20), max_size=3))
def test_openmetrics_has_everything_but_stale_markers(
    given_runs: list[Run], cuts: list[int]
) -> None:
    reader, writer = OpenMetricsReader(), OpenMetricsWriter()
    given_runs.sort(key=lambda run: family_key(run.labels, run.type))
    text = writer.begin() + writer.write(given_runs) + writer.end()
    stale = bits([STALE_NAN])[0]
    expected = {
        labels: {ts: value for ts, value in samples.items() if value != stale}
        for labels, (samples, _) in content(given_runs).items()
    }
    found = {labels: samples for labels, (samples, _) in content(read(reader, text, cuts)).items()}
    assert found == {labels: samples for labels, samples in expected.items() if samples}
    assert reader.bad.count == 0
    assert writer.left_out == sum(
        value == stale for samples, _ in content(given_runs).values() for value in samples.values()
    )


HISTORY = [
    Run(Labels.of(labels, name), np.array([1_500, 2_000]), np.array(values), type_, help_, unit)
    for name, labels, values, type_, help_, unit in [
        ("lag_seconds_bucket", {"le": "1.0"}, [1.0, 2.0], MetricType.HISTOGRAM, "Lag.", "seconds"),
        ("lag_seconds_bucket", {"le": "+Inf"}, [1.0, 3.0], MetricType.HISTOGRAM, "Lag.", "seconds"),
        ("lag_seconds_count", {}, [1.0, 3.0], MetricType.HISTOGRAM, "Lag.", "seconds"),
        ("lag_seconds_sum", {}, [0.5, 4.5], MetricType.HISTOGRAM, "Lag.", "seconds"),
        ("jobs_total", {"job": "a"}, [5.0, 6.0], MetricType.COUNTER, 'Done\n"all".', ""),
        ("level_seconds", {}, [1.5, -2.0], MetricType.GAUGE, "", "seconds"),
        ("plain", {}, [1.0, 2.0], MetricType.UNKNOWN, "", ""),
    ]
]


def test_openmetrics_is_what_other_parsers_read() -> None:
    writer = OpenMetricsWriter()
    ordered = sorted(HISTORY, key=lambda run: family_key(run.labels, run.type))
    # Of histograms each series comes by itself: promtool takes that, the specification doesn't.
    simple = [run for run in ordered if run.type is not MetricType.HISTOGRAM]
    text = writer.begin() + writer.write(simple) + writer.end()
    parsed = text_string_to_metric_families(text.decode())  # type: ignore[no-untyped-call]
    families = {each.name: each for each in parsed}
    assert {name: each.type for name, each in families.items()} == {
        "jobs": "counter",
        "level_seconds": "gauge",
        "plain": "unknown",
    }
    assert families["level_seconds"].unit == "seconds"
    assert families["jobs"].documentation == 'Done\n"all".'
    samples = [(s.name, float(s.timestamp), s.value) for s in families["level_seconds"].samples]
    assert samples == [("level_seconds", 1.5, 1.5), ("level_seconds", 2.0, -2.0)]


@pytest.mark.parametrize("format_", list(FORMATS))
def test_types_and_texts_come_along_as_far_as_a_format_has_them(format_: str) -> None:
    make_reader, make_writer = FORMATS[format_]
    reader, writer = make_reader(), make_writer()
    ordered = sorted(HISTORY, key=lambda run: family_key(run.labels, run.type))
    found = read(reader, writer.begin() + writer.write(ordered) + writer.end())
    assert content(found) == content(HISTORY)
    helps = {run.labels.name: run.help for run in found if run.help}
    assert helps.get("jobs_total", "") == ("" if format_ == "csv" else 'Done\n"all".')


# -- one format at a time ----------------------------------------------------------------------


def test_json_lines_of_victoria_metrics_new_and_old_are_read() -> None:
    reader = JsonLinesReader()
    text = b"""{"metric":{"__name__":"a","x":""},"values":[1,2.5],"timestamps":[1,2]}
{"metric":{"__name__":"b"},"values":[null,"NaN","Infinity","-Infinity"],"timestamps":[1,2,3,4]}

{"metric":{"__name__":"c"},"values":[+Inf,-Inf,NaN,7],"timestamps":[1,2,3,4],"more":{"is":"here"}}
{"metric":{"__name__":"d"},"values":[],"timestamps":[]}
"""
    nan, inf = bits([math.nan])[0], math.inf
    assert content(read(reader, text)) == {
        Labels.of({}, "a"): (dict(zip((1, 2), bits([1, 2.5]), strict=True)), MetricType.UNKNOWN),
        Labels.of({}, "b"): (
            dict(zip((1, 2, 3, 4), [*bits([STALE_NAN]), nan, *bits([inf, -inf])], strict=True)),
            MetricType.UNKNOWN,
        ),
        Labels.of({}, "c"): (
            dict(zip((1, 2, 3, 4), [*bits([inf, -inf]), nan, *bits([7])], strict=True)),
            MetricType.UNKNOWN,
        ),
    }
    assert reader.bad.count == 0


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "truncated"),
        (b"[]", "Expected `object`"),
        (b'{"values":[],"timestamps":[]}', "missing required field `metric`"),
        (b'{"metric":{"a":1},"values":[],"timestamps":[]}', "Expected `str`"),
        (b'{"metric":{},"values":[1],"timestamps":[]}', "1 values and 0 timestamps"),
        (b'{"metric":{},"values":["much"],"timestamps":[1]}', "'much' is not a number"),
        (b'{"metric":{},"values":[true],"timestamps":[1]}', "Expected `float"),
        (b'{"metric":{},"values":[1],"timestamps":[1.5]}', "Expected `int`"),
        (b'{"metric":{},"values":[1],"timestamps":[99999999999999999999]}', "64 bits"),
        (b'{"metric":{},"values":[1],"timestamps":[9223372036854775808]}', "beyond 64 bits"),
        (b"[" * 100_000, ""),
        (b'{"metric":{"\xff":"a"},"values":[1],"timestamps":[1]}', "utf-8"),
    ],
)
def test_bad_json_lines_are_passed_over(line: bytes, reason: str) -> None:
    good = b'{"metric":{"__name__":"a"},"values":[1],"timestamps":[1]}'
    reader = JsonLinesReader()
    assert len(read(reader, b"\n".join([good, line, good]))) == 2
    assert reader.bad.count == 1
    ((number, told),) = reader.bad.first
    assert number == 2
    assert reason in told


def test_csv_may_have_a_column_for_each_label() -> None:
    reader = CsvReader()
    text = """time,name,type,value,room
2026-01-05T00:00:00Z,temperature_celsius,indoor,21.5,lab
1767571260.25,temperature_celsius,indoor,21.75,lab
2026-01-05 01:02:00+01:00,temperature_celsius,,stale,
1767571380,"a ""b"", c",outdoor, -Inf ,"x
"""
    found = content(read(reader, text.encode()))
    room = Labels.of({"room": "lab", "type": "indoor"}, "temperature_celsius")
    times = (1_767_571_200_000, 1_767_571_260_250)
    assert found == {
        room: (dict(zip(times, bits([21.5, 21.75]), strict=True)), MetricType.UNKNOWN),
        Labels.of({}, "temperature_celsius"): (
            {1_767_571_320_000: bits([STALE_NAN])[0]},
            MetricType.UNKNOWN,
        ),
    }
    assert [line for line, _ in reader.bad.first] == [5]


def test_csv_of_the_query_command_is_read() -> None:
    text = b'series,time,value\r\n"up{job=""a""}",2026-01-05T00:00:00.500Z,1\r\n'
    (run,) = read(CsvReader(), text)
    assert run.labels == Labels.of({"job": "a"}, "up")
    assert run.ts_ms.tolist() == [1_767_571_200_500]


@pytest.mark.parametrize(
    ("header", "row", "ts_ms"),
    [
        ("timestamp_ms,metric,value", "1767571200123,up,1", 1_767_571_200_123),
        ("\ufefftime_ms,name,value", "-5,up,1", -5),
        ("value, time ,metric", "1,1e3,up", 1_000_000),
        ("value,timestamp,metric", "1,0.0015,up", 2),
    ],
)
def test_csv_times_are_seconds_or_milliseconds(header: str, row: str, ts_ms: int) -> None:
    (run,) = read(CsvReader(), f"{header}\n{row}\n".encode())
    assert run.ts_ms.tolist() == [ts_ms]


@pytest.mark.parametrize(
    "header",
    ["", "a,b,c", "time,value", "time,time_ms,name,value", "time,metric,series,value", 'time,"x'],
)
def test_a_header_that_tells_no_series_is_refused(header: str) -> None:
    with pytest.raises(WireError, match="header"):
        CsvReader().feed([header.encode()])


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("up,,1", "3 cells, the header has 4"),
        ("up,,1,1,1", "5 cells, the header has 4"),
        ("up,,noon,1", "'noon' is neither"),
        ("up,,1767571200000000,1", "are these milliseconds?"),
        ("up,,1,one", "'one' is not a number"),
        ("up,,1,--inf", "'--inf' is not a number"),
        ("up,,1,1_0", "'1_0' is not a number"),
        ("up,meter,1,1", "'meter' is no type of metric"),
        ("up{,,1,1", "expected"),
        ('"up{job=""a""', "unexpected end of data"),
    ],
)
def test_bad_rows_are_passed_over(row: str, reason: str) -> None:
    reader = CsvReader()
    found = read(reader, f"metric,type,time,value\nup,,1,1\n{row}\n\nup,,2,1\n".encode())
    assert sum(len(run.ts_ms) for run in found) == 2
    assert reader.bad.count == 1
    assert reader.bad.first[0].line == 3
    assert reason in reader.bad.first[0].reason


def test_openmetrics_lines_that_are_none_are_passed_over() -> None:
    reader = OpenMetricsReader()
    text = b"""# TYPE jobs counter
jobs_total{job="a"} 1 10
jobs_total{job="a"} 2 20.5 # {trace_id="x"} 1 20
jobs_total{job="a"} 3
jobs_total{job="a"} 1_0 30
jobs_total{job="a"} 4 1e400
jobs_total{job="a"} NaN 40
nonsense
# TYPE what ever
jobs_total{job="a"} 5 50
# EOF
"""
    (run,) = read(reader, text)
    assert run.type is MetricType.COUNTER
    assert run.ts_ms.tolist() == [10_000, 20_500, 40_000, 50_000]
    assert [line for line, _ in reader.bad.first] == [4, 5, 6, 8, 9]
    assert reader.bad.first[0] == BadLine(4, "the sample has no timestamp")


def test_of_bad_lines_the_first_are_told_and_all_are_counted() -> None:
    reader = JsonLinesReader()
    reader.feed([b"{"] * 1000)
    assert (reader.bad.count, len(reader.bad.first)) == (1000, 10)


def test_prometheus_text_is_read_with_milliseconds() -> None:
    reader = PrometheusTextReader()
    text = b"""# HELP jobs_total Done.
# TYPE jobs_total counter
# A remark.
jobs_total{job="a b"} 5 1500
jobs_total{job="a b"} 6 2000

jobs_total { job = "x" , } NaN\t3000
level 1 without_a_time
level 7
level 8 -1
level 8 12345678901234567890
"""
    found = read(reader, text)
    assert content(found) == content(
        [
            Run(
                Labels.of({"job": "a b"}, "jobs_total"),
                np.array([1500, 2000]),
                np.array([5.0, 6.0]),
                MetricType.COUNTER,
            ),
            Run(
                Labels.of({"job": "x"}, "jobs_total"),
                np.array([3000]),
                np.array([np.nan]),
                MetricType.COUNTER,
            ),
        ]
    )
    assert found[0].help == "Done."
    assert [line for line, _ in reader.bad.first] == [8, 9, 10, 11]
    assert reader.bad.first[1].reason == "the sample has no timestamp"


def test_what_promtool_dumps_is_read_with_the_escapes_of_go() -> None:
    reader = PrometheusTextReader()
    text = rb"""{__name__="up", job="a", path="C:\\temp\\new"} 1.795347545e+09 1500
{__name__="up", job="a", path="C:\\temp\\new"} +Inf 2500
{__name__="up", job="a", path="\t\u200b\x00\U0001f600\"\n"} 1 1500
{__name__="my.metric", "odd label"="x"} 1e-07 1500
"""
    found = read(reader, text)
    assert reader.bad.count == 0
    assert {run.labels: run.values.tolist() for run in found} == {
        Labels.of({"job": "a", "path": r"C:\temp\new"}, "up"): [1795347545.0, float("inf")],
        Labels.of({"job": "a", "path": '\t\u200b\0\U0001f600"\n'}, "up"): [1.0],
        Labels.of({"odd label": "x"}, "my.metric"): [1e-07],
    }


def test_escapes_that_are_no_characters_stay_as_they_are() -> None:
    reader = PrometheusTextReader()
    text = rb"""{__name__="up", path="\ud800 \U00110000"} 1 1500
"""
    found = read(reader, text)
    assert [run.labels for run in found] == [Labels.of({"path": r"\ud800 \U00110000"}, "up")]
