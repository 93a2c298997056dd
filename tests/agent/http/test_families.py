"""How series become the families of an exposition, told by what readers of it find."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse_text

from support.exposed import ExposedStore
from tachograph.agent.http.exposition import ExpositionRenderer
from tachograph.agent.http.families import canonical
from tachograph.agent.http.negotiation import Style
from tachograph.storage.model import Kind, Labels, MetricType

TEXT, OPENMETRICS = Style(openmetrics=False, utf8=False), Style(openmetrics=True, utf8=False)
OPENMETRICS_UTF8 = Style(openmetrics=True, utf8=True)
COUNTER, GAUGE, HISTOGRAM = MetricType.COUNTER, MetricType.GAUGE, MetricType.HISTOGRAM
SUMMARY, INFO, STATESET = MetricType.SUMMARY, MetricType.INFO, MetricType.STATESET


def rendered(store: ExposedStore, style: Style = TEXT) -> str:
    return ExpositionRenderer(store, store.current, store.families).render(style, now_ms=1).decode()


def read(text: str, style: Style) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Return all samples as prometheus_client's parsers find them; none may come twice."""
    samples = {}
    if not style.openmetrics:
        assert len(list(parse_text(text))) == text.count("# TYPE ")
        # Told of a counter, that parser renames its samples; without types it leaves them alone.
        text = re.sub("^#.*\n", "", text, flags=re.MULTILINE)
    for family in (parse_openmetrics if style.openmetrics else parse_text)(text):
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in samples
            samples[key] = float(sample.value)
    return samples


@pytest.fixture
def store() -> ExposedStore:
    return ExposedStore()


def test_gauge_with_help_and_unit(store: ExposedStore) -> None:
    store.describe("room_celsius", GAUGE, 'Back\\slash, "quote",\nline.', "celsius")
    store.put("room_celsius", 21.5, {"room": 'a\\b"c\nd', "floor": "0"})
    assert rendered(store) == (
        '# HELP room_celsius Back\\\\slash, "quote",\\nline.\n'
        "# TYPE room_celsius gauge\n"
        'room_celsius{floor="0",room="a\\\\b\\"c\\nd"} 21.5\n'
    )
    assert rendered(store, OPENMETRICS) == (
        '# HELP room_celsius Back\\\\slash, \\"quote\\",\\nline.\n'
        "# TYPE room_celsius gauge\n"
        "# UNIT room_celsius celsius\n"
        'room_celsius{floor="0",room="a\\\\b\\"c\\nd"} 21.5\n'
        "# EOF\n"
    )


@pytest.mark.parametrize("described_as", ["jobs", "jobs_total"])
def test_counter_is_a_family_without_total_in_openmetrics(
    store: ExposedStore, described_as: str
) -> None:
    store.describe(described_as, COUNTER, "Jobs.")
    store.put("jobs_total", 3)
    assert rendered(store) == ("# HELP jobs_total Jobs.\n# TYPE jobs_total counter\njobs_total 3\n")
    assert rendered(store, OPENMETRICS) == (
        "# HELP jobs Jobs.\n# TYPE jobs counter\njobs_total 3\n# EOF\n"
    )


def test_counter_without_the_suffix_keeps_its_name_in_both_formats(store: ExposedStore) -> None:
    store.describe("jobs", COUNTER)
    store.put("jobs", 3)
    assert rendered(store) == "# TYPE jobs counter\njobs 3\n"
    assert rendered(store, OPENMETRICS) == "# TYPE jobs unknown\njobs 3\n# EOF\n"


@pytest.mark.parametrize("described_as", ["jobs", "jobs_total"])
def test_creation_time_belongs_to_its_family_in_openmetrics_only(
    store: ExposedStore, described_as: str
) -> None:
    store.describe(described_as, COUNTER)
    store.put("jobs_created", 1700000000.5)
    store.put("jobs_total", 3)
    assert rendered(store, OPENMETRICS) == (
        "# TYPE jobs counter\njobs_total 3\njobs_created 1700000000.5\n# EOF\n"
    )
    assert rendered(store).splitlines()[1::2] == ["jobs_created 1700000000.5", "jobs_total 3"]
    assert "# TYPE jobs_total counter" in rendered(store)


def test_histogram_stays_together_with_its_bounds_in_numeric_order(store: ExposedStore) -> None:
    store.describe("wait_seconds", HISTOGRAM, "Wait.", "seconds")
    store.histogram("wait_seconds", {"+Inf": 4, "10": 3, "2.5": 2, "1": 1}, {"q": "b"})
    store.histogram("wait_seconds", {"1": 1, "+Inf": 1}, {"q": "a"})
    assert rendered(store).splitlines() == [
        "# HELP wait_seconds Wait.",
        "# TYPE wait_seconds histogram",
        'wait_seconds_bucket{le="1",q="a"} 1',
        'wait_seconds_bucket{le="+Inf",q="a"} 1',
        'wait_seconds_sum{q="a"} 1',
        'wait_seconds_count{q="a"} 1',
        'wait_seconds_bucket{le="1",q="b"} 1',
        'wait_seconds_bucket{le="2.5",q="b"} 2',
        'wait_seconds_bucket{le="10",q="b"} 3',
        'wait_seconds_bucket{le="+Inf",q="b"} 4',
        'wait_seconds_sum{q="b"} 1',
        'wait_seconds_count{q="b"} 4',
    ]
    text = rendered(store, OPENMETRICS)
    assert 'wait_seconds_bucket{le="10.0",q="b"} 3' in text
    assert len(read(text, OPENMETRICS)) == 10


def test_histogram_is_known_by_its_buckets_even_without_metadata(store: ExposedStore) -> None:
    store.histogram("wait_seconds", {"1": 1, "+Inf": 2})
    assert "# TYPE wait_seconds histogram" in rendered(store)


def test_histogram_without_its_last_bucket_is_shown_as_unknown_metrics(
    store: ExposedStore,
) -> None:
    store.describe("wait_seconds", HISTOGRAM)
    store.histogram("wait_seconds", {"1": 1, "5": 2})
    for style, unknown in ((TEXT, "untyped"), (OPENMETRICS, "unknown")):
        text = rendered(store, style)
        assert f"# TYPE wait_seconds_bucket {unknown}" in text
        assert 'wait_seconds_bucket{le="1"} 1' in text
        assert len(read(text, style)) == 4


@pytest.mark.parametrize(
    "break_it",
    [
        lambda store: store.put("w_bucket", 1, {"le": "many"}, kind=Kind.BUCKET),
        lambda store: store.put("w_bucket", 1, {"le": "5.0"}, kind=Kind.BUCKET),
        lambda store: store.put("w", 1),
        lambda store: store.put("w_sum", 1, {"x": "y"}),
        lambda store: (store.put("w_sum", 1, {"x": "y"}), store.put("w_count", 1, {"x": "y"})),
    ],
    ids=["bound no number", "bound twice", "bare name", "sum alone", "no buckets"],
)
@pytest.mark.parametrize("style", [TEXT, OPENMETRICS])
def test_histogram_that_is_no_whole_is_shown_as_unknown_metrics(
    store: ExposedStore, break_it: Callable[[ExposedStore], object], style: Style
) -> None:
    store.describe("w", HISTOGRAM)
    store.histogram("w", {"5": 1, "+Inf": 2})
    assert "# TYPE w histogram" in rendered(store, style)
    break_it(store)
    text = rendered(store, style)
    assert "histogram" not in text
    assert len(read(text, style)) == len(store.known)


@pytest.mark.parametrize("quantile", ["2", "much"])
def test_summary_with_an_impossible_quantile_is_shown_as_unknown(
    store: ExposedStore, quantile: str
) -> None:
    store.describe("w", SUMMARY)
    store.put("w", 1, {"quantile": quantile})
    assert rendered(store) == f'# TYPE w untyped\nw{{quantile="{quantile}"}} 1\n'


def test_stateset_without_its_label_is_shown_as_unknown_in_openmetrics(
    store: ExposedStore,
) -> None:
    store.describe("door", STATESET)
    store.put("door", 1)
    assert "# TYPE door unknown" in rendered(store, OPENMETRICS)


def test_summary_sorts_its_quantiles(store: ExposedStore) -> None:
    store.describe("wait_seconds", SUMMARY)
    store.put("wait_seconds_count", 9)
    store.put("wait_seconds_sum", 4.5)
    for quantile in ("1", "0.5", "0.99"):
        store.put("wait_seconds", 0.25, {"quantile": quantile})
    assert rendered(store, OPENMETRICS).splitlines() == [
        "# TYPE wait_seconds summary",
        'wait_seconds{quantile="0.5"} 0.25',
        'wait_seconds{quantile="0.99"} 0.25',
        'wait_seconds{quantile="1.0"} 0.25',
        "wait_seconds_sum 4.5",
        "wait_seconds_count 9",
        "# EOF",
    ]
    assert 'wait_seconds{quantile="1"} 0.25' in rendered(store)


def test_info_and_stateset_are_gauges_in_text(store: ExposedStore) -> None:
    store.describe("build", INFO)
    store.put("build_info", 1, {"version": "2"})
    store.describe("door", STATESET)
    store.put("door", 1, {"door": "open"})
    store.put("door", 0, {"door": "shut"})
    assert "# TYPE build_info gauge" in rendered(store)
    assert "# TYPE door gauge" in rendered(store)
    assert "# TYPE build info" in rendered(store, OPENMETRICS)
    assert "# TYPE door stateset" in rendered(store, OPENMETRICS)
    assert len(read(rendered(store, OPENMETRICS), OPENMETRICS)) == 3


def test_names_that_clash_in_openmetrics_are_all_shown(store: ExposedStore) -> None:
    store.describe("jobs", GAUGE)
    store.describe("jobs_total", COUNTER)
    store.put("jobs", 1)
    store.put("jobs_total", 2)
    text = rendered(store, OPENMETRICS)
    assert text == ("# TYPE jobs gauge\njobs 1\n# TYPE jobs_total unknown\njobs_total 2\n# EOF\n")
    assert read(text, OPENMETRICS) == {("jobs", ()): 1, ("jobs_total", ()): 2}


def test_families_that_would_own_one_name_are_taken_apart(store: ExposedStore) -> None:
    store.describe("w", HISTOGRAM)
    store.histogram("w", {"1": 1, "+Inf": 1})
    store.put("w_count_total", 5, kind=Kind.COUNTER)  # a family called w_count
    text = rendered(store, OPENMETRICS)
    assert "# TYPE w_count_total unknown\nw_count_total 5\n" in text
    assert len(read(text, OPENMETRICS)) == 5
    assert "# TYPE w histogram" in rendered(store)
    assert "# TYPE w_count_total counter" in rendered(store)


def test_names_beyond_the_classic_ones_are_escaped_or_quoted(store: ExposedStore) -> None:
    store.describe("http.server.dauer", GAUGE)
    store.put("http.server.dauer", 1, {"http.route": "/ä", "x": "y"})
    store.put("größe", 2)
    assert 'http_server_dauer{http_route="/ä",x="y"} 1' in rendered(store)
    assert "gr__e 2" in rendered(store)
    quoted = rendered(store, OPENMETRICS_UTF8)
    assert '{"http.server.dauer","http.route"="/ä",x="y"} 1' in quoted
    assert '# TYPE "http.server.dauer" gauge' in quoted
    assert read(quoted, OPENMETRICS_UTF8) == {
        ("http.server.dauer", (("http.route", "/ä"), ("x", "y"))): 1,
        ("größe", ()): 2,
    }


def test_series_that_only_escaping_makes_equal_come_once_and_are_counted(
    store: ExposedStore,
) -> None:
    store.put("a.b", 1)
    store.put("a_b", 2)
    renderer = ExpositionRenderer(store, store.current, store.families)
    assert renderer.render(TEXT, 1) == b"# TYPE a_b untyped\na_b 1\n"
    assert renderer.stats.hidden == 1
    assert len(renderer.render(OPENMETRICS_UTF8, 1).splitlines()) == 5


def test_labels_that_only_escaping_makes_equal_come_once(store: ExposedStore) -> None:
    store.put("a", 1, {"x.y": "1", "x_y": "2", "1st": "3"})
    assert rendered(store) == '# TYPE a untyped\na{_st="3",x_y="1"} 1\n'


@pytest.mark.parametrize(
    ("bound", "text"),
    [
        (0.0, "0.0"),
        (1.0, "1.0"),
        (0.005, "0.005"),
        (0.0001, "0.0001"),
        (0.00001, "1e-05"),
        (123456.0, "123456.0"),
        (1e6, "1e+06"),
        (1234567.0, "1.234567e+06"),
        (1e22, "1e+22"),
        (-2.5e7, "-2.5e+07"),
        (float("inf"), "+Inf"),
        (float("-inf"), "-Inf"),
    ],
)
def test_bounds_have_one_spelling_in_openmetrics(bound: float, text: str) -> None:
    assert canonical(bound) == text


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool")
def test_promtool_finds_nothing_to_say(store: ExposedStore) -> None:
    store.describe("jobs_total", COUNTER, "Jobs.")
    store.put("jobs_total", 3, {"kind": "a\\b"})
    store.describe("room_celsius", GAUGE, "Room.")
    store.put("room_celsius", float("nan"))
    store.put("room_celsius", float("-inf"), {"room": "cold"})
    store.describe("wait_seconds", HISTOGRAM, "Wait.")
    store.histogram("wait_seconds", {"+Inf": 4, "10": 3, "2.5": 2}, {"q": "b"})
    store.describe("nap_seconds", SUMMARY, "Nap.")
    store.put("nap_seconds", 1e-7, {"quantile": "0.5"})
    store.put("nap_seconds_sum", 1e21)
    store.put("nap_seconds_count", 1e16)
    result = subprocess.run(
        ["promtool", "check", "metrics"],
        input=rendered(store),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


_BASES = st.sampled_from(["a", "b", "a_count", "b_total", "a.x"])
_SUFFIXES = st.sampled_from(["", "", "_total", "_bucket", "_sum", "_count", "_created", "_info"])
_NAMES = st.builds(str.__add__, _BASES, _SUFFIXES)
_BOUNDS = st.sampled_from(["", "1", "1.0", "+Inf", "0.5", "x", "NaN", "-1"])
_TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=3)
_LABELS = st.fixed_dictionaries(
    {"le": _BOUNDS, "quantile": _BOUNDS}, optional={"a": _TEXTS, "z": _TEXTS}
)
_SERIES = st.tuples(_NAMES, _LABELS, st.sampled_from(Kind))


@settings(max_examples=150, deadline=None)
@given(
    st.lists(_SERIES, max_size=10),
    st.dictionaries(_NAMES, st.sampled_from(MetricType), max_size=4),
    st.sampled_from([TEXT, OPENMETRICS_UTF8]),
)
def test_any_mix_of_series_and_types_is_read_back_whole(
    series: list[tuple[str, dict[str, str], Kind]], types: dict[str, MetricType], style: Style
) -> None:
    store = ExposedStore()
    for family, type_ in types.items():
        store.describe(family, type_, "Help.", "s")
    for name, labels, kind in series:
        # A value of one satisfies every rule that OpenMetrics has for values.
        store.put(name, 1.0, labels, kind=kind)
    samples = read(rendered(store, style), style)
    if style.utf8:
        expected = {
            (labels.name, tuple(labels.without("__name__")))
            for labels in map(canonised, store.known)
        }
        found = {(name, tuple(canonised(Labels(pairs)))) for name, pairs in samples}
        assert found == expected
    else:
        assert len(samples) == len(store.known) - hidden(store)


def canonised(labels: Labels) -> Labels:
    """Bounds are compared as numbers: OpenMetrics writes them in its own way."""
    pairs = []
    for name, value in labels:
        if name in ("le", "quantile"):
            with contextlib.suppress(ValueError):
                value = canonical(float(value)) if value != "NaN" else value
        pairs.append((name, value))
    return Labels(pairs)


def hidden(store: ExposedStore) -> int:
    renderer = ExpositionRenderer(store, store.current, store.families)
    renderer.render(TEXT, 1)
    return renderer.stats.hidden


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.one_of(st.floats(), st.integers(-(2**53), 2**53).map(float)), max_size=30),
    st.sampled_from([TEXT, OPENMETRICS]),
)
def test_values_are_read_back_exactly(values: list[float], style: Style) -> None:
    store = ExposedStore()
    for index, value in enumerate(values):
        store.put(f"g{index}", value, kind=Kind.GAUGE)
    # A stale marker, which hypothesis may find among its NaNs, ends a series.
    samples = read(rendered(store, style), style)
    for index, value in enumerate(values):
        got = samples.get((f"g{index}", ()), float("nan"))
        assert np.array_equal([got], [value], equal_nan=True)
        assert np.signbit(got) == np.signbit(value) or value != value
