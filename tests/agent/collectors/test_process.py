"""Watched processes: finding, reading, adding up, and what happens when they end."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.sink import MemorySink
from tachograph.agent.collectors.connections import STATES
from tachograph.agent.collectors.process import (
    ProcessSource,
    ProcessTotals,
    own_process,
)
from tachograph.agent.collectors.process_table import (
    PidFileError,
    Process,
    ProcessGone,
    find_pids,
)
from tachograph.agent.collectors.source import Source
from tachograph.config.settings import ProcessWatch
from tachograph.storage.frame import is_stale

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    """A process that lives until its standard input is closed."""
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
        yield process
        process.kill()


@dataclass
class FakeProcess:
    pid: int
    fields: dict[str, float] = field(default_factory=dict)
    is_gone: bool = False

    def read(self) -> dict[str, float]:
        if self.is_gone:
            raise ProcessGone(f"process {self.pid} has ended")
        return self.fields


class FakeSystem:
    """Processes by pid, as a watch would find them."""

    def __init__(self) -> None:
        self.processes: dict[int, FakeProcess] = {}
        self.searches = 0
        self.counted = 0

    def start(self, pid: int, **fields: float) -> FakeProcess:
        process = self.processes[pid] = FakeProcess(pid, fields)
        return process

    def end(self, pid: int) -> None:
        self.processes.pop(pid).is_gone = True

    def find(self, watch: ProcessWatch) -> list[int]:
        self.searches += 1
        return list(self.processes)

    def attach(self, pid: int) -> FakeProcess:
        return self.processes[pid]

    def count_connections(self, pids: object) -> dict[str, int]:
        self.counted += 1
        return dict.fromkeys(STATES.values(), self.counted)


def source_of(system: FakeSystem, sink: MemorySink, interval_ms: int = 10_000) -> ProcessSource:
    return ProcessSource(
        sink,
        ProcessWatch(name="web", process_name="web", interval_ms=interval_ms),
        namespace="oht50",
        find=system.find,
        attach=system.attach,
        count_connections=system.count_connections,
    )


def last(sink: MemorySink, name: str = "web") -> dict[str, float]:
    """The newest tick without prefix and common label; ended series are left out."""
    found: dict[str, float] = {}
    for labels, value in sink.groups[f"process/{name}"].last.items():
        others = [value for key, value in labels if key not in ("__name__", "process")]
        if not is_stale(np.array([value]))[0]:
            found[" ".join((labels.name.removeprefix("oht50_process_"), *others))] = value
    return found


# --- the source ----------------------------------------------------------------------------------


@linux_only
async def test_our_own_process_is_reported_under_the_usual_names() -> None:
    sink = MemorySink()
    source: Source = ProcessSource(sink, own_process(), namespace="oht50")
    await source.collect(1_000)
    await source.close()
    tick = sink.groups["process/tachograph"].last
    assert {labels.get("process") for labels in tick} == {"tachograph"}
    found = last(sink, "tachograph")
    assert found["up"] == found["members"] == 1
    assert found["cpu_seconds_total user"] > 0
    assert found["virtual_memory_bytes"] > found["resident_memory_bytes"] > 1e6
    assert 0 < found["open_fds"] < found["max_fds"]
    assert 0 < found["fd_usage_ratio"] < 1
    assert found["threads"] >= 1
    assert 1e9 < found["start_time_seconds"] < 4e9
    assert found["page_faults_total minor"] > 0
    for word in (
        "cpu_seconds_total system",
        "context_switches_total voluntary",
        "context_switches_total involuntary",
        "page_faults_total major",
        "read_bytes_total",
        "written_bytes_total",
        "connections established",
        "connections close_wait",
    ):
        assert found[word] >= 0, word
    assert all(metadata.help.endswith(".") for metadata in sink.metadata.values())


async def test_processes_of_one_name_are_added_up() -> None:
    system, sink = FakeSystem(), MemorySink()
    system.start(7, cpu_user=1.25, resident=100, open_fds=10, max_fds=100, start_time=50.0)
    system.start(8, cpu_user=2.5, resident=200, open_fds=30, max_fds=100, start_time=40.0)
    source = source_of(system, sink)
    await source.collect(1_000)
    await source.close()
    found = last(sink)
    assert {word: found[word] for word in found if "connections" not in word} == {
        "up": 1,
        "members": 2,
        "cpu_seconds_total user": 3.75,
        "resident_memory_bytes": 300,
        "open_fds": 40,
        "max_fds": 200,
        "start_time_seconds": 40,
        "fd_usage_ratio": 0.3,
    }


async def test_reading_many_processes_gives_the_event_loop_its_turn() -> None:
    system, sink = FakeSystem(), MemorySink()
    for pid in range(1, 51):
        system.start(pid, threads=1)
    source = source_of(system, sink)
    await source.collect(0)
    turns = 0

    async def other_work() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other_work())
    await source.collect(1)
    task.cancel()
    await source.close()
    assert last(sink)["threads"] == 50
    assert turns >= 2


async def test_a_process_that_ended_between_search_and_first_look_is_passed_over() -> None:
    system, sink = FakeSystem(), MemorySink()
    system.start(7, threads=1)

    def attach(pid: int) -> FakeProcess:
        if pid == 8:
            raise ProcessGone("no process 8")
        return system.processes[pid]

    watch = ProcessWatch(name="web", process_name="web")
    source = ProcessSource(
        sink, watch, namespace="oht50", find=lambda watch: [7, 8], attach=attach,
        count_connections=system.count_connections,
    )  # fmt: skip
    await source.collect(0)
    await source.close()
    assert last(sink)["members"] == 1


async def test_a_process_that_is_missing_is_down_and_no_failure(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    system, sink = FakeSystem(), MemorySink()
    source = source_of(system, sink)
    for ts_ms in range(3):
        await source.collect(ts_ms)
    assert last(sink) == {"up": 0, "members": 0}
    assert system.searches == 3

    system.start(7, resident=100)
    await source.collect(3)
    assert last(sink)["up"] == 1
    system.end(7)
    await source.collect(4)
    await source.close()
    assert last(sink) == {"up": 0, "members": 0}
    ended = sum(is_stale(np.array(list(sink.groups["process/web"].last.values()))))
    assert ended == 1 + 9  # memory and connections
    assert [record.message for record in caplog.records] == [
        "process/web is not there",
        "process/web is there again",
        "process/web is not there",
    ]


async def test_a_process_restarted_between_two_passes_is_missing_in_neither() -> None:
    system, sink = FakeSystem(), MemorySink()
    system.start(7, cpu_user=100)
    source = source_of(system, sink)
    await source.collect(1)
    system.end(7)
    system.start(8, cpu_user=1)
    await source.collect(2)
    await source.close()
    assert last(sink)["up"] == 1
    assert last(sink)["cpu_seconds_total user"] == 1
    assert source.stats.ended == 1


async def test_new_processes_of_the_name_are_found_within_a_minute() -> None:
    system, sink = FakeSystem(), MemorySink()
    system.start(7)
    source = source_of(system, sink)
    await source.collect(0)
    system.start(8)
    counts = []
    for ts_ms in range(1, 8):
        await source.collect(ts_ms)
        counts.append(last(sink)["members"])
    await source.close()
    assert counts == [1, 1, 1, 1, 1, 2, 2]
    assert system.searches == 2


async def test_connections_are_counted_once_a_minute_and_when_processes_change() -> None:
    system, sink = FakeSystem(), MemorySink()
    system.start(7)
    source = source_of(system, sink)
    counted = []
    for ts_ms in range(13):
        await source.collect(ts_ms)
        counted.append(last(sink)["connections established"])
    assert counted == [1] * 6 + [2] * 6 + [3]
    system.end(7)
    system.start(8)
    await source.collect(13)
    await source.close()
    assert last(sink)["connections established"] == 4


async def test_connections_that_may_not_be_counted_are_left_out(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def deny(pids: object) -> dict[str, int]:
        raise PermissionError(13, "Permission denied")

    system, sink = FakeSystem(), MemorySink()
    system.start(7, resident=1)
    source = ProcessSource(
        sink,
        ProcessWatch(name="web", process_name="web", interval_ms=60_000),
        namespace="oht50",
        find=system.find,
        attach=system.attach,
        count_connections=deny,
    )
    for ts_ms in range(3):
        await source.collect(ts_ms)
    await source.close()
    assert last(sink) == {"up": 1, "members": 1, "resident_memory_bytes": 1}
    assert len(caplog.records) == 1


async def test_a_pid_file_that_makes_no_sense_is_a_failed_pass(tmp_path: Path) -> None:
    pid_file = tmp_path / "web.pid"
    pid_file.write_text("soon\n")
    source = ProcessSource(
        MemorySink(), ProcessWatch(name="web", pid_file=pid_file), namespace="oht50"
    )
    with pytest.raises(PidFileError, match="holds no process number"):
        await source.collect(1)
    await source.close()


async def test_a_real_process_is_followed_over_a_restart_by_its_pid_file(
    tmp_path: Path, child: subprocess.Popen[bytes]
) -> None:
    pid_file, sink = tmp_path / "cat.pid", MemorySink()
    watch = ProcessWatch(name="cat", pid_file=pid_file)
    source = ProcessSource(sink, watch, namespace="oht50")
    ups = []
    await source.collect(1)
    ups.append(last(sink, "cat")["up"])
    pid_file.write_text(f"{child.pid}\n")
    await source.collect(2)
    ups.append(last(sink, "cat")["up"])
    child.kill()
    # A zombie, as its parent hasn't waited for it, is not a running process.
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # noqa: ASYNC222  # killed: no wait
    await source.collect(3)
    ups.append(last(sink, "cat")["up"])
    child.wait()
    pid_file.write_text(f"{os.getpid()} trailing words")
    await source.collect(4)
    ups.append(last(sink, "cat")["up"])
    await source.close()
    assert ups == [0, 1, 0, 1]


def test_sources_of_equal_watches_are_equal() -> None:
    def build(**watch: object) -> ProcessSource:
        settings = ProcessWatch(name="web", **watch)  # type: ignore[arg-type]  # as each test says
        return ProcessSource(MemorySink(), settings, namespace="x")

    assert build(pid=1) == build(pid=1)
    assert hash(build(pid=1)) == hash(build(pid=1))
    assert build(pid=1) != build(pid=2)
    assert build(pid=1).name == "process/web"
    assert build(pid=1, interval_ms=500).interval_s == 0.5


# --- totals --------------------------------------------------------------------------------------


def test_a_worker_that_ends_takes_nothing_out_of_the_counters() -> None:
    totals = ProcessTotals()
    assert totals.update({1: {"cpu_user": 10.0}, 2: {"cpu_user": 5.0}})["cpu_user"] == 15
    assert totals.update({2: {"cpu_user": 6.0}})["cpu_user"] == 16
    assert totals.update({2: {"cpu_user": 7.0}, 3: {"cpu_user": 1.0}})["cpu_user"] == 18


def test_gauges_fall_when_a_worker_ends() -> None:
    totals = ProcessTotals()
    totals.update({1: {"resident": 10.0}, 2: {"resident": 5.0}})
    assert totals.update({2: {"resident": 5.0}})["resident"] == 5


def test_when_all_have_ended_the_counters_are_the_kernels_own_again() -> None:
    totals = ProcessTotals()
    totals.update({1: {"cpu_user": 10.0}, 2: {"cpu_user": 5.0}})
    totals.update({2: {"cpu_user": 5.0}})
    assert totals.update({9: {"cpu_user": 0.5}})["cpu_user"] == 0.5
    assert totals.update({}) == {}
    assert totals.update({10: {"cpu_user": 0.25}})["cpu_user"] == 0.25


@given(
    st.lists(
        st.dictionaries(st.integers(1, 4), st.integers(0, 100), min_size=1), min_size=2, max_size=8
    )
)
def test_counters_never_fall_while_one_process_lives_on(growths: list[dict[int, int]]) -> None:
    totals, counters, value = ProcessTotals(), dict[int, float](), 0.0
    alive_before: set[int] = set()
    for growth in growths:
        counters = {pid: counters.get(pid, 0.0) + more for pid, more in growth.items()}
        before, value = (
            value,
            totals.update({p: {"cpu_user": c} for p, c in counters.items()})["cpu_user"],
        )
        if alive_before & growth.keys():
            assert value >= before
        else:
            assert value == sum(counters.values())
        alive_before = set(growth)


# --- the table -----------------------------------------------------------------------------------


def test_a_watch_by_name_finds_every_process_of_that_name(
    child: subprocess.Popen[bytes],
) -> None:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as second:
        found = find_pids(ProcessWatch(name="x", process_name="cat"))
        second.kill()
    assert {child.pid, second.pid} <= set(found)
    assert find_pids(ProcessWatch(name="x", process_name="no-such-process")) == []


def test_a_watch_by_pid_or_missing_pid_file_needs_no_search(tmp_path: Path) -> None:
    assert find_pids(ProcessWatch(name="x", pid=42)) == [42]
    assert find_pids(ProcessWatch(name="x", pid_file=tmp_path / "absent")) == []


@pytest.mark.parametrize("text", ["", "\n", "-5", "0", "12a", "²"])
def test_a_pid_file_without_a_pid_is_an_error(tmp_path: Path, text: str) -> None:
    pid_file = tmp_path / "pid"
    pid_file.write_text(text)
    with pytest.raises(PidFileError):
        find_pids(ProcessWatch(name="x", pid_file=pid_file))


def test_a_process_that_ended_is_gone(child: subprocess.Popen[bytes]) -> None:
    process = Process(child.pid)
    assert process.read()["threads"] == 1
    child.kill()
    child.wait()
    with pytest.raises(ProcessGone, match=f"process {child.pid} has ended"):
        process.read()
    with pytest.raises(ProcessGone):
        Process(child.pid)
