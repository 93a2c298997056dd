"""Metrics in the backend's process: definition, counting, limits, and what never raises."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.metered import label_sets, value
from tachograph.agent.client.names import MetricNameWarning
from tachograph.agent.client.outbox import Answer, Outbox
from tachograph.agent.client.registry import Limits, Registry
from tachograph.agent.ingest.client import MESSAGE_BYTES_MAX, Message

ROOT = Path(__file__).resolve().parents[3]
OVERFLOW = "tachograph_client_overflow_total"


@pytest.fixture
def registry() -> Registry:
    return Registry()


def test_series_are_told_apart_by_their_labels(registry: Registry) -> None:
    jobs = registry.counter("jobs_total", "Jobs.", ("kind", "code"))
    jobs.labels("a", "1").inc()
    jobs.labels("a", 1).inc()  # as text
    jobs.labels(kind="a", code="1").inc(2)
    jobs.labels("a", code="2").inc()
    assert value(registry, "jobs_total", kind="a", code="1") == 4
    assert value(registry, "jobs_total", kind="a", code="2") == 1


def test_defined_twice_it_is_one(registry: Registry) -> None:
    first = registry.histogram("size_bytes", "Size.", bounds=(1, 2))
    assert registry.histogram("size_bytes", "Size.", bounds=(1, 2)) is first


@pytest.mark.parametrize(
    ("kind", "name", "labels"),
    [
        ("counter", "9lives_total", ()),
        ("counter", "a b", ()),
        ("counter", "", ()),
        ("gauge", "a", ("x-y",)),
        ("gauge", "a", ("__name__",)),
        ("gauge", "a", ("x", "x")),
        ("gauge", "a", "text"),
        ("histogram", "a", ("le",)),
    ],
)
def test_a_definition_that_cannot_be_is_refused(
    registry: Registry, kind: str, name: str, labels: tuple[str, ...]
) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        getattr(registry, kind)(name, "Help.", labels)


def test_another_metric_of_that_name_is_refused(registry: Registry) -> None:
    registry.counter("jobs_total", "Jobs.", ("kind",))
    for define in (
        lambda: registry.gauge("jobs_total", "Jobs.", ("kind",)),
        lambda: registry.counter("jobs_total", "Jobs.", ("type",)),
    ):
        with pytest.raises(ValueError, match="jobs_total is a counter with labels"):
            define()


@pytest.mark.parametrize(
    ("define", "said"),
    [
        (lambda r: r.gauge("level", mode="sum"), "level is a gauge with .* and mode max already"),
        (lambda r: r.histogram("took_seconds", bounds=(1, 3)), r"and bounds \[1.0, 3.0\], too"),
        (lambda r: r.gauge("took_seconds_sum"), "took_seconds is a histogram"),
        (lambda r: r.counter("took_seconds_count"), "took_seconds is a histogram"),
        (lambda r: r.histogram("sent"), "has series sent_count; that is a metric already"),
        (lambda r: r.histogram("size_bytes", bounds=("a",)), "a list of numbers"),
        (lambda r: r.histogram("size_bytes", bounds=(1, math.nan)), "a list of numbers"),
        (lambda r: r.histogram("size_bytes", bounds=5), "a list of numbers"),
        (lambda r: r.ratio("hit_rate", window_s=0), "a number of seconds, not 0"),
        (lambda r: r.ratio("hit_rate", window_s="5m"), "a number of seconds, not '5m'"),
        (lambda r: r.ratio("hit_rate", window_s=math.inf), "a number of seconds, not inf"),
        (lambda r: r.gauge("size_bytes", labels=None), "a list of names, not None"),
    ],
)
@pytest.mark.filterwarnings("ignore::tachograph.agent.client.names.MetricNameWarning")
def test_what_is_wrong_with_a_definition_is_said(
    registry: Registry, define: Callable[[Registry], object], said: str
) -> None:
    registry.gauge("level", mode="max")
    registry.histogram("took_seconds", bounds=(1, 2))
    registry.gauge("sent_count")
    with pytest.raises(ValueError, match=said):
        define(registry)


@pytest.mark.parametrize(
    ("kind", "name", "unit", "advice"),
    [
        ("counter", "jobs", "", "ends with _total"),
        ("gauge", "jobs_total", "", "only a counter's"),
        ("histogram", "took_ms", "", "use the base unit, seconds"),
        ("counter", "sent_kilobytes_total", "", "use the base unit, bytes"),
        ("gauge", "jobs_count", "", "belongs to the series of histograms"),
        ("gauge", "speed", "meters", "ends with _meters"),
    ],
)
def test_a_name_that_will_surprise_is_warned_of(
    registry: Registry, kind: str, name: str, unit: str, advice: str
) -> None:
    with pytest.warns(MetricNameWarning, match=advice) as caught:
        getattr(registry, kind)(name, "Help.", unit=unit)
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        getattr(registry, kind)(name, "Help.", unit=unit)  # said once


@pytest.mark.parametrize("bad", [-1, math.nan, math.inf, None, "x", object()])
def test_what_is_no_increment_is_dropped_and_counted(registry: Registry, bad: object) -> None:
    jobs = registry.counter("jobs_total")
    jobs.inc(bad)  # type: ignore[arg-type]
    assert jobs.value == 0
    assert registry.dropped == {"value": 1}


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, None, "x", object(), []])
def test_what_is_no_observation_is_dropped_and_counted(registry: Registry, bad: object) -> None:
    size = registry.histogram("size_bytes")
    size.observe(bad)  # type: ignore[arg-type]
    assert value(registry, "size_bytes") == 0
    assert registry.dropped == {"value": 1}


def test_foreign_numbers_do_not_make_a_total_coarse(registry: Registry) -> None:
    import numpy as np

    jobs = registry.counter("jobs_total")
    jobs.inc(2.0**24)
    jobs.inc(np.float32(1))  # type: ignore[arg-type]
    assert jobs.value == 2**24 + 1


def test_wrong_labels_count_for_nothing_and_do_not_raise(registry: Registry) -> None:
    class Unspeakable:
        def __str__(self) -> str:
            raise RuntimeError

    jobs = registry.counter("jobs_total", "Jobs.", ("kind",))
    jobs.labels().inc()
    jobs.labels("a", "b").inc()
    jobs.labels(sort="a").inc()
    jobs.labels(Unspeakable()).inc()
    jobs.labels([]).inc()  # no hash, but a text
    assert label_sets(registry, "jobs_total") == {("[]",)}
    assert registry.dropped == {"labels": 4}


def test_without_its_labels_a_metric_counts_for_nothing(registry: Registry) -> None:
    registry.counter("jobs_total", "Jobs.", ("kind",)).inc()
    level = registry.gauge("level", "Level.", ("kind",))
    level.set(1)
    level.dec()
    level.set_function(lambda: 1)
    registry.histogram("size_bytes", "Size.", ("kind",)).observe(1)
    with registry.histogram("took_seconds", "Time.", ("kind",)).time():
        pass
    hits = registry.ratio("hit_rate", "Hits.", ("kind",))
    hits.hit()
    hits.take(False)
    assert registry.dropped == {"labels": 8}
    assert math.isnan(level.value)


def test_what_is_dropped_is_said_once_with_its_place(registry: Registry) -> None:
    jobs = registry.counter("jobs_total", "Jobs.", ("kind",))
    assert registry.complaints() == []
    for _ in range(3):
        jobs.labels("a").inc(-1)
        registry.gauge("level").set_function(lambda: 1 / 0)
        registry.refresh()
    value, function = registry.complaints()
    assert "client/test_registry.py:" in value
    assert "(value)" in value
    assert "ZeroDivisionError at client/test_registry.py:" in function
    assert registry.complaints() == []


def test_what_was_counted_can_be_asked_for(registry: Registry) -> None:
    took = registry.histogram("took_seconds")
    took.observe(2)
    took.observe(3)
    assert (took.count, took.sum) == (2, 5)
    parts = registry.histogram("part_seconds", "Parts.", ("part",))
    parts.labels("a").observe(2)
    assert (parts.labels("a").count, parts.labels("a").sum) == (1, 2)
    assert parts.count == 0


def test_a_function_that_is_none_is_dropped_where_it_is_set(registry: Registry) -> None:
    registry.gauge("level").set_function(5)  # type: ignore[arg-type]
    registry.refresh()
    assert registry.dropped == {"function": 1}
    assert "client/test_registry.py:" in registry.complaints()[0]


def test_a_label_that_explodes_is_said_once_with_its_place() -> None:
    registry = Registry(Limits(series_per_metric=2))
    jobs = registry.counter("jobs_total", "Jobs.", ("user",))
    for user in range(9):
        jobs.labels(user).inc()
    (said,) = registry.complaints()
    assert said.startswith("jobs_total has too many")
    assert "client/test_registry.py:" in said
    assert "the label user is other" in said


HALF = "caf\udce9 \ud800"  # a file name in Latin-1, and what `json.loads(r'"\ud800"')` gives


def test_what_utf8_cannot_say_is_replaced_and_keeps_nothing_back(registry: Registry) -> None:
    jobs = registry.counter("jobs_total", HALF, ("file",))
    jobs.labels(HALF).inc()
    jobs.labels(HALF).inc()
    registry.record("speed", 1, {"file": HALF})
    registry.record(HALF, 1, {HALF: "a"}, HALF)
    outbox = Outbox(registry, labels={"host": HALF})
    (message,) = outbox.messages()
    assert msgspec.json.decode(json.dumps(message).encode(), type=Message)
    assert value(registry, "jobs_total", file="caf? ?") == 2
    assert message["points"][0][3] == {"file": "caf? ?"}


@pytest.mark.parametrize(
    "labels",
    [
        {"a": object()},
        {"a": math.nan},
        {(1, 2): "a"},
        {"a": {1}},
        {"a": 7},
        {"a": "x" * 2_000},
        dict.fromkeys(map(str, range(200)), "x"),
    ],
)
def test_labels_that_no_message_could_carry_are_dropped(registry: Registry, labels: object) -> None:
    registry.record("speed", 1, labels)  # type: ignore[arg-type]
    registry.record("speed", 2, {"car": "1"})
    (message,) = Outbox(registry).messages()
    assert [point[2] for point in message["points"]] == [2]
    assert registry.dropped == {"labels": 1}
    assert "record('speed', ...)" in registry.complaints()[0]


def test_a_message_has_a_bound_whatever_the_labels(registry: Registry) -> None:
    names = [f"l{number}" for number in range(100)]
    jobs = registry.counter("jobs_total", "x" * 9_000_000, names)
    for first in range(199):
        jobs.labels(str(first), *["\0" * 1_000] * 99).inc()
    for number in range(900):
        registry.record("speed", number, dict.fromkeys(names[:90], "\0" * 1_000))
    sizes = []
    told = 0
    for message in Outbox(registry).messages():
        sizes.append(len(json.dumps(message)))
        told += len(message.get("points", ())) + len(message.get("series", ()))
    assert told == 199 + 900
    assert max(sizes) < MESSAGE_BYTES_MAX


def test_labels_of_a_process_leave_a_metrics_own_alone(registry: Registry) -> None:
    registry.counter("jobs_total", "Jobs.", ("service",)).labels("own").inc()
    registry.counter("runs_total", "Runs.").inc()
    (message,) = Outbox(registry, labels={"service": "orders"}).messages()
    named = {number: names for number, _, _, _, names, *_ in message["metrics"]}
    found = [
        dict(zip(named[metric], values, strict=True)) for _, metric, values in message["series"]
    ]
    assert found == [{"service": "own"}, {"service": "orders"}]


def test_a_gauge_that_was_never_set_is_not_told(registry: Registry) -> None:
    registry.gauge("level")
    counted = registry.counter("jobs_total")
    told = [each.metric for each in registry.drain(set())]
    assert told == [counted]


def test_gauges_go_both_ways_and_ask_functions(registry: Registry) -> None:
    level = registry.gauge("level")
    level.inc(5)
    level.dec(2)
    assert level.value == 3
    level.set_function(lambda: 42)
    registry.refresh()
    assert level.value == 42
    level.set_function(lambda: 1 // 0)
    registry.refresh()
    assert level.value == 42
    assert registry.dropped == {"function": 1}


def test_facts_are_labels_of_a_one(registry: Registry) -> None:
    registry.info("build_info", "Build.", version="1.2", commit="abc")
    assert value(registry, "build_info", version="1.2", commit="abc") == 1


# --- The guard -------------------------------------------------------------------------------


def test_beyond_the_limit_the_label_with_most_values_becomes_other() -> None:
    registry = Registry(Limits(series_per_metric=10))
    requests = registry.counter("requests_total", "Requests.", ("method", "user"))
    for user in range(100):
        for method in ("GET", "POST"):
            requests.labels(method, f"u{user}").inc()
    assert label_sets(registry, "requests_total") == {
        *((method, f"u{user}") for user in range(5) for method in ("GET", "POST")),
        ("GET", "other"),
        ("POST", "other"),
    }
    assert sum(child.value for child in requests.children.values()) == 200
    ((metric, label, source),) = label_sets(registry, OVERFLOW)
    assert (metric, label) == ("requests_total", "user")
    assert source.startswith("client/test_registry.py:")
    assert value(registry, OVERFLOW, metric=metric, label=label, source=source) == 190


def test_other_labels_that_explode_as_well_have_an_end() -> None:
    registry = Registry(Limits(series_per_metric=10))
    requests = registry.counter("requests_total", "Requests.", ("a", "b"))
    for number in range(1000):
        requests.labels(f"a{number}", f"b{number}").inc()
    assert len(requests.children) <= 10 + 65
    assert requests.children["other", "other"].value > 900
    assert sum(child.value for child in requests.children.values()) == 1000


def test_a_process_has_a_limit_too() -> None:
    registry = Registry(Limits(series=20))
    for name in ("a_total", "b_total", "c_total"):
        metric = registry.counter(name, "A.", ("x",))
        for number in range(10):
            metric.labels(str(number)).inc()
    assert registry.series_count <= 20 + 3 + 3  # one of each metric, and of our own counters
    c = registry.get("c_total")
    assert c is not None
    assert c.children[("other",)].value == 10 - (len(c.children) - 1)


def test_a_value_that_is_too_long_is_other() -> None:
    registry = Registry(Limits(label_value_bytes=20))
    jobs = registry.counter("jobs_total", "Jobs.", ("kind",))
    jobs.labels("x" * 21).inc()
    jobs.labels("x" * 20).inc()
    assert label_sets(registry, "jobs_total") == {("other",), ("x" * 20,)}


def test_a_removed_series_makes_room_and_its_rest_is_told() -> None:
    registry = Registry(Limits(series_per_metric=1))
    jobs = registry.counter("jobs_total", "Jobs.", ("kind",))
    jobs.labels("a").inc(3)
    jobs.remove("a")
    jobs.remove("never was")
    jobs.labels("b").inc()
    told = {each.key: (each.payload, each.is_gone) for each in registry.drain(set())}
    assert told == {("a",): ([3.0], True), ("b",): ([1.0], False)}


# --- record() --------------------------------------------------------------------------------


def test_recorded_values_are_held_up_to_a_bound_and_dropped_beyond() -> None:
    registry = Registry(Limits(records=3), now_s=lambda: 12.5)
    labels = {"car": "1"}
    for number in range(5):
        registry.record("speed", number, labels)
    labels["car"] = "2"
    assert list(registry.records) == [
        (12_500, "speed", number, {"car": "1"}, "gauge") for number in range(3)
    ]
    assert registry.dropped == {"full": 2}


@given(st.one_of(st.none(), st.integers(), st.text(), st.lists(st.integers())))
def test_record_takes_anything_without_a_word(anything: object) -> None:
    registry = Registry()
    registry.record(anything, anything, anything, anything)  # type: ignore[arg-type]
    for message in Outbox(registry).messages():
        assert message["number"] == 1


# --- Threads and processes -------------------------------------------------------------------


def test_threads_lose_no_increment(registry: Registry) -> None:
    jobs = registry.counter("jobs_total")
    size = registry.histogram("size_bytes")
    switch_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:

        def work() -> None:
            for _ in range(5_000):
                jobs.inc()
                size.observe(1)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        told = 0.0
        while any(thread.is_alive() for thread in threads):
            told += sum(each.payload[0] for each in registry.drain({1}) if each.metric is jobs)
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(switch_s)
    told += sum(each.payload[0] for each in registry.drain({1}) if each.metric is jobs)
    assert jobs.value == told == 20_000
    assert value(registry, "size_bytes") == 20_000


def test_a_forked_child_begins_at_nothing(registry: Registry) -> None:
    jobs = registry.counter("jobs_total")
    active = registry.gauge("active")
    jobs.inc(5)
    active.inc(3)
    read_end, write_end = os.pipe()
    pid = os.fork()
    if not pid:
        jobs.inc()
        os.write(write_end, f"{jobs.value} {active.value}".encode())
        os._exit(0)
    os.waitpid(pid, 0)
    assert os.read(read_end, 100) == b"1.0 nan"
    os.close(read_end)
    os.close(write_end)
    assert jobs.value == 5


def test_forks_of_several_threads_at_once_leave_no_lock_behind(registry: Registry) -> None:
    jobs = registry.counter("jobs_total")

    def fork() -> None:
        for _ in range(10):
            jobs.inc()
            pid = os.fork()
            if not pid:
                jobs.inc()
                os._exit(int(jobs.value))
            _, status = os.waitpid(pid, 0)
            assert os.waitstatus_to_exitcode(status) == 1

    threads = [threading.Thread(target=fork) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    jobs.inc()
    assert jobs.value == 41


def test_the_disk_of_the_agent_failing_costs_no_memory(registry: Registry) -> None:
    jobs = registry.counter("jobs_total")
    outbox = Outbox(registry)
    outbox.answered(Answer("s", 0, 0, True))
    for number in range(1, 2_200):
        jobs.inc()
        for message in outbox.messages():
            outbox.answered(Answer("s", message["number"] or number, 0, False))
    assert outbox.uncommitted == 2_000


def test_recorded_values_that_cannot_be_committed_have_a_bound_too() -> None:
    registry = Registry()
    outbox = Outbox(registry)
    outbox.answered(Answer("s", 0, 0, True))
    for _ in range(40):
        for number in range(1_000):
            registry.record("level", number, {"car": "1"})
        for message in outbox.messages():
            outbox.answered(Answer("s", message["number"] or 25, 0, False))
    assert outbox.uncommitted <= 27
    assert len(registry.records) == 1_000
    assert registry.dropped["full"] > 10_000
    # The disk is there again: what waits is told, and so much may wait once more.
    outbox.answered(Answer("s", 100, 100, False))
    assert outbox.uncommitted == 0
    list(outbox.messages())
    assert not registry.records


# --- Guest manners ---------------------------------------------------------------------------


def test_importing_and_defining_loads_nothing_heavy_and_starts_nothing() -> None:
    code = (
        "import sys, threading, tachograph\n"
        "c = tachograph.counter('a_total'); c.inc()\n"
        "tachograph.histogram('b_seconds').observe(1); tachograph.record('x', 1.0)\n"
        "heavy = {'aiohttp', 'numpy', 'sqlite3', 'yaml', 'asyncio', 'dataclasses', 'inspect',\n"
        "         'msgspec', 'logging', 'json'} & set(sys.modules)\n"
        "assert threading.active_count() == 1\n"
        "sys.exit(', '.join(sorted(heavy)) or 0)"
    )
    # Without site-packages' own start-up code (-S), which loads some of these by itself.
    path = os.pathsep.join(each for each in sys.path if each)
    result = subprocess.run(
        [sys.executable, "-S", "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": f"{ROOT}{os.pathsep}{path}"},
    )
    assert result.returncode == 0, result.stderr


def test_switched_off_nothing_starts_and_nothing_is_kept() -> None:
    code = (
        "import threading, tachograph\n"
        "from tachograph.agent.client.default import REGISTRY\n"
        "tachograph.connect('/nowhere'); tachograph.counter('a_total').inc()\n"
        "tachograph.record('x', 1.0)\n"
        "assert threading.active_count() == 1 and not REGISTRY.records\n"
    )
    subprocess.run(
        [sys.executable, "-c", code], check=True, env={**os.environ, "TACHOGRAPH_DISABLED": "1"}
    )
