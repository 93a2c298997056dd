"""Our parser against prometheus_client's, on pages of real exporters and on generated ones."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import SupportsFloat

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Enum, Gauge, Histogram, Info, Summary
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse_text

from support.programs import free_port, get, started
from tachograph.agent.ingest.exposition import NO_TIMESTAMP, Parser, Syntax

Labels = tuple[tuple[str, str], ...]
#: Labels, value, timestamp in ms; the exemplar's labels, value and timestamp.
Sample = tuple[Labels, str, int | None, tuple[Labels, str, int | None] | None]


def ours(text: str, syntax: Syntax) -> list[Sample]:
    page = Parser().parse(text.encode(), syntax)
    labels = {new.slot: tuple(sorted(new.labels.items())) for new in page.new}
    stamps = [NO_TIMESTAMP] * len(page) if page.ts_ms is None else page.ts_ms.tolist()
    exemplars = {
        one.slot: (tuple(sorted(one.labels.items())), repr(one.value), one.ts_ms)
        for one in page.exemplars
    }
    return sorted(
        (
            (labels[slot], repr(value), None if ts == NO_TIMESTAMP else ts, exemplars.get(slot))
            for slot, value, ts in zip(
                page.slots.tolist(), page.values.tolist(), stamps, strict=True
            )
        ),
        key=str,
    )


def theirs(text: str, syntax: Syntax) -> list[Sample]:
    parse = parse_text if syntax is Syntax.TEXT else parse_openmetrics
    samples: list[Sample] = []
    exposed = {line.partition("{")[0].partition(" ")[0] for line in text.split("\n")}
    for family in parse(text):
        for one in family.samples:
            name = one.name
            if syntax is Syntax.TEXT and family.type == "counter" and name not in exposed:
                # It gives every counter the suffix that OpenMetrics demands.
                name = name.removesuffix("_total")
            labels = tuple(sorted({**one.labels, "__name__": name}.items()))
            exemplar = None
            if one.exemplar is not None:
                exemplar = (
                    tuple(sorted(one.exemplar.labels.items())),
                    repr(float(one.exemplar.value)),
                    _ms(one.exemplar.timestamp),
                )
            samples.append((labels, repr(float(one.value)), _ms(one.timestamp), exemplar))
    return sorted(samples, key=str)


def _ms(seconds: SupportsFloat | None) -> int | None:
    return None if seconds is None else round(float(seconds) * 1000)


# --- real exporters ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def node_exporter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if shutil.which("prometheus-node-exporter") is None:
        pytest.skip("prometheus-node-exporter is not installed")
    address = f"127.0.0.1:{free_port()}"
    url = f"http://{address}/metrics"
    command = ["prometheus-node-exporter", f"--web.listen-address={address}"]
    with started(command, url, tmp_path_factory.mktemp("node") / "log"):
        yield url


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if shutil.which("prometheus") is None:
        pytest.skip("prometheus is not installed")
    folder = tmp_path_factory.mktemp("prometheus")
    (folder / "prometheus.yml").write_text("{}")
    address = f"127.0.0.1:{free_port()}"
    url = f"http://{address}/metrics"
    command = [
        "prometheus",
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={address}",
    ]
    with started(command, url, folder / "log"):
        yield url


ACCEPT = {
    Syntax.TEXT: "text/plain;version=0.0.4",
    Syntax.OPENMETRICS: "application/openmetrics-text;version=1.0.0",
}


@pytest.mark.parametrize("syntax", [Syntax.TEXT, Syntax.OPENMETRICS])
@pytest.mark.parametrize("exporter", ["node_exporter", "prometheus"])
def test_real_exporter_is_read_value_by_value(
    exporter: str, syntax: Syntax, request: pytest.FixtureRequest
) -> None:
    url: str = request.getfixturevalue(exporter)
    content_type, text = get(url, {"Accept": ACCEPT[syntax]})
    # Debian's node_exporter speaks OpenMetrics only if told to.
    offered = Syntax.OPENMETRICS if "openmetrics" in content_type else Syntax.TEXT
    found = ours(text, offered)
    assert len(found) > 100
    assert found == theirs(text, offered)


# --- prometheus_client writes, both read ------------------------------------------------------

NAMES = st.from_regex(r"[a-z][a-z0-9_]{0,8}x", fullmatch=True)
VALUES = st.floats(allow_nan=True, allow_infinity=True)
POSITIVE = st.floats(0, 1e12)
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r"), max_size=8)


@st.composite
def registries(draw: st.DrawFn) -> CollectorRegistry:
    registry = CollectorRegistry()
    for name in draw(st.lists(NAMES, max_size=4, unique=True)):
        make = draw(st.sampled_from([Counter, Gauge, Histogram, Summary, Info, Enum]))
        kind = make.__name__.lower()
        text = draw(TEXTS)
        if make is Enum:
            metric = Enum(f"{name}_{kind}", text, ["a"], states=["on", 'o"ff'], registry=registry)
        else:
            metric = make(f"{name}_{kind}", text, ["a", "b"], registry=registry)
        for _ in range(draw(st.integers(0, 3))):
            if isinstance(metric, Enum):
                metric.labels(draw(TEXTS)).state(draw(st.sampled_from(["on", 'o"ff'])))
                continue
            child = metric.labels(draw(TEXTS), draw(TEXTS))
            if isinstance(metric, Counter):
                # Its own reader does not take the quotes and braces that its writer escapes here.
                exemplar = draw(st.none() | st.just({"trace_id": "ab c"}))
                child.inc(draw(POSITIVE), exemplar)
            elif isinstance(metric, Gauge):
                child.set(draw(VALUES))
            elif isinstance(metric, Info):
                child.info({"version": draw(TEXTS)})
            else:
                child.observe(draw(POSITIVE))
    return registry


@settings(max_examples=60, deadline=None)
@given(registry=registries())
def test_generated_text_page_is_read_as_prometheus_client_reads_it(
    registry: CollectorRegistry,
) -> None:
    text = generate_latest(registry).decode()
    assert ours(text, Syntax.TEXT) == theirs(text, Syntax.TEXT)


@settings(max_examples=60, deadline=None)
@given(registry=registries())
def test_generated_openmetrics_page_is_read_as_prometheus_client_reads_it(
    registry: CollectorRegistry,
) -> None:
    text = generate_openmetrics(registry).decode()  # type: ignore[no-untyped-call]
    assert ours(text, Syntax.OPENMETRICS) == theirs(text, Syntax.OPENMETRICS)


# --- written here, both read ------------------------------------------------------------------


def escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


@st.composite
def lines(draw: st.DrawFn) -> str:
    labels: dict[str, str] = draw(st.dictionaries(NAMES, TEXTS, max_size=3))
    inner = ",".join(f'{name}="{escaped(value)}"' for name, value in labels.items())
    is_bare = draw(st.booleans()) and not labels
    braces = "" if is_bare else f"{{{inner}}}"
    stamp = draw(st.none() | st.integers(0, 2**41))
    end = "" if stamp is None else f" {stamp}"
    return f"{draw(NAMES)}{braces} {draw(VALUES)!r}{end}"


@settings(max_examples=100, deadline=None)
@given(page=st.lists(lines(), max_size=6))
def test_lines_with_timestamps_are_read_as_prometheus_client_reads_them(page: list[str]) -> None:
    text = "".join(f"{line}\n" for line in page)
    assert ours(text, Syntax.TEXT) == theirs(text, Syntax.TEXT)
