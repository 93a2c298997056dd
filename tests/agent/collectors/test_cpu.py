"""CPU times and shares, and the rest of /proc/stat."""

from __future__ import annotations

import sys

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tachograph.agent.collectors.cpu import CpuUsage, percentages
from tachograph.agent.collectors.proc_stat import (
    CPU_TYPES,
    Stat,
    default_stat_reader,
    parse_stat,
    read_proc_stat,
    read_psutil_stat,
)
from tachograph.agent.collectors.tick import Block

PROC_STAT = b"""cpu  300 10 200 4000 50 1 2 3 4 5
cpu0 100 5 100 2000 25 0 1 1 2 2
cpu2 200 5 100 2000 25 1 1 2 2 3
intr 987654 1 2 3
ctxt 123456
btime 1767571200
processes 4711
procs_running 2
procs_blocked 1
softirq 5555 1 2 3
"""
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")


def as_dict(block: Block) -> dict[tuple[str, str], float]:
    return {
        (labels["core"], labels["type"]): value
        for (_, labels), value in zip(block.series(), block.values, strict=True)
    }


def stat(**cores: tuple[float, ...]) -> Stat:
    return Stat(
        ("user", "idle", "guest"), {core.removeprefix("c"): t for core, t in cores.items()}, {}
    )


def test_proc_stat_is_read_in_seconds_and_offline_cores_leave_the_numbers_of_others() -> None:
    read = parse_stat(PROC_STAT, ticks_per_s=100)
    assert read.types == CPU_TYPES
    assert list(read.cores) == ["total", "0", "2"]
    assert read.cores["2"] == (2.0, 0.05, 1.0, 20.0, 0.25, 0.01, 0.01, 0.02, 0.02, 0.03)
    assert read.numbers == {
        "intr": 987654, "ctxt": 123456, "btime": 1767571200, "processes": 4711,
        "procs_running": 2, "procs_blocked": 1, "softirq": 5555,
    }  # fmt: skip


def test_columns_that_a_kernel_lacks_or_has_beyond_ours_are_left_out() -> None:
    assert parse_stat(b"cpu 1 2 3 4\ncpu0 1 2 3 4\n", 100).types == CPU_TYPES[:4]
    longer = parse_stat(b"cpu" + b" 1" * 12 + b"\n", 100)
    assert longer.types == CPU_TYPES
    assert len(longer.cores["total"]) == len(CPU_TYPES)


@linux_only
def test_proc_stat_and_psutil_agree_on_this_machine() -> None:
    ours, theirs = read_proc_stat(), read_psutil_stat()
    assert ours.types == theirs.types
    assert set(theirs.numbers) <= set(ours.numbers)
    assert ours.numbers["btime"] == theirs.numbers["btime"]
    assert len(ours.cores) == len(theirs.cores)
    for mine, other in zip(ours.cores["total"], theirs.cores["total"], strict=True):
        assert mine <= other <= mine + 60


def test_the_default_reader_knows_every_type_of_psutil() -> None:
    assert default_stat_reader()().types == psutil.cpu_times()._fields


def test_shares_add_up_to_100_and_guest_is_not_counted_twice() -> None:
    types = ("user", "idle", "guest")
    assert percentages(types, (10, 50, 2), (16, 54, 6)) == [60.0, 40.0, 40.0]


@given(
    st.lists(st.tuples(st.integers(0, 10**9), st.integers(-100, 10**6)), min_size=10, max_size=10)
)
def test_shares_stay_between_0_and_100_even_if_counters_run_backwards(
    columns: list[tuple[int, int]],
) -> None:
    before = [float(start) for start, _ in columns]
    after = [float(start + delta) for start, delta in columns]
    shares = percentages(CPU_TYPES, before, after)
    if shares is None:
        assert all(delta <= 0 for _, delta in columns[:8])
    else:
        assert all(share >= 0 for share in shares)
        assert sum(shares[:8]) == pytest.approx(100, abs=0.1)


def test_the_first_reading_gives_counters_and_no_shares() -> None:
    usage, seconds = CpuUsage().blocks(stat(total=(1, 9, 0), c0=(1, 9, 0)))
    assert list(usage.values) == []
    assert as_dict(seconds) == {("0", "user"): 1, ("0", "idle"): 9, ("0", "guest"): 0}


def test_shares_are_those_since_the_reading_before() -> None:
    cpu = CpuUsage()
    for reading in (
        stat(total=(0, 0, 0), c0=(0, 0, 0), c1=(0, 0, 0)),
        stat(total=(10, 10, 0), c0=(10, 0, 0), c1=(0, 10, 0)),
        stat(total=(15, 25, 0), c0=(10, 10, 0), c1=(5, 15, 0)),
    ):
        usage, seconds = cpu.blocks(reading)
    shares = as_dict(usage)
    assert (shares["total", "user"], shares["total", "idle"]) == (25, 75)
    assert (shares["0", "user"], shares["1", "user"]) == (0, 50)
    assert as_dict(seconds)["1", "idle"] == 15
    assert ("total", "user") not in as_dict(seconds)


def test_without_time_between_readings_the_last_shares_stand() -> None:
    cpu = CpuUsage()
    readings = [stat(total=(0, 0, 0)), stat(total=(1, 3, 0)), stat(total=(1, 3, 0))]
    assert [list(cpu.blocks(reading)[0].values) for reading in readings] == [
        [],
        [25, 75, 0],
        [25, 75, 0],
    ]


def test_a_core_that_comes_and_goes_changes_the_shape_and_starts_without_shares() -> None:
    cpu = CpuUsage()
    both = stat(total=(2, 2, 0), c0=(1, 1, 0), c1=(1, 1, 0))
    one = stat(total=(4, 4, 0), c0=(3, 3, 0))
    again = stat(total=(6, 6, 0), c0=(4, 4, 0), c1=(2, 2, 0))
    keys = []
    for reading in (both, one, again):
        usage, _ = cpu.blocks(reading)
        keys.append(usage.key)
    assert set(as_dict(usage)) == {
        (core, type_) for core in ("total", "0") for type_ in ("user", "idle", "guest")
    }
    assert len({*keys}) == 2
