"""The host as a source: the promised names, one tick a pass, and one broken reader alone."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.sink import MemorySink
from tachograph.agent.collectors.disk_io import DiskIoReader
from tachograph.agent.collectors.host import HostReadFailed, HostSource, Reader
from tachograph.agent.collectors.kernel import KernelReader
from tachograph.agent.collectors.load import LoadReader
from tachograph.agent.collectors.memory import MemoryReader
from tachograph.agent.collectors.network import NetworkReader
from tachograph.agent.collectors.offload import CallHung, Offload
from tachograph.agent.collectors.pressure import PressureReader
from tachograph.agent.collectors.schedule import Schedule
from tachograph.agent.collectors.source import Source
from tachograph.agent.collectors.temperature import TemperatureReader
from tachograph.agent.collectors.tick import Block, gauge
from tachograph.config.settings import SystemSettings
from tachograph.storage.clock import SystemClock
from tachograph.storage.model import Kind, Labels

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")

IoCounters = namedtuple(  # the order of psutil's on Linux
    "IoCounters",
    "read_count write_count read_bytes write_bytes read_time write_time read_merged_count"
    " write_merged_count busy_time",
)
NetCounters = namedtuple(
    "NetCounters",
    "bytes_sent bytes_recv packets_sent packets_recv errin errout dropin dropout",
)
Sensor = namedtuple("Sensor", "label current high critical")


@dataclass
class FakeReader:
    """One series, or what ``act`` raises."""

    name: str
    act: Callable[[], None] = lambda: None

    async def read(self) -> list[Block]:
        self.act()
        return [Block(self.name, [1], lambda: [(gauge(self.name, "A fake."), {})])]


def as_dict(blocks: list[Block]) -> dict[str, float]:
    return {
        " ".join((family.name, *labels.values())): value
        for block in blocks
        for (family, labels), value in zip(block.series(), block.values, strict=True)
    }


def names(tick: dict[Labels, float]) -> set[str]:
    return {labels.name for labels in tick}


def refuse() -> None:
    raise OSError("no such sensor")


# --- the whole -----------------------------------------------------------------------------------


async def test_the_promised_metrics_exist_by_name_and_label() -> None:
    sink = MemorySink()
    host = HostSource(sink, SystemSettings(ignored_interfaces=()), namespace="oht50")
    await host.collect(1_000)
    await asyncio.sleep(0.05)  # the kernel counts CPU time in steps of 10 ms
    await host.collect(2_000)
    await host.close()

    label_names: dict[str, set[str]] = {}
    for labels in sink.groups["system"].last:
        label_names.setdefault(labels.name, set()).update(
            name for name, _ in labels if name != "__name__"
        )
    promised = {
        "oht50_cpu_usage_percent": {"core", "type"},
        "oht50_cpu_seconds_total": {"core", "type"},
        "oht50_memory_usage_bytes": {"type"},
        "oht50_memory_total_bytes": set(),
        "oht50_swap_usage_bytes": {"type"},
        "oht50_swap_total_bytes": set(),
        "oht50_disk_usage_bytes": {"mount_point", "type"},
        "oht50_network_bytes_total": {"interface", "direction"},
        "oht50_system_load": {"period"},
        "oht50_boot_time_seconds": set(),
        "oht50_context_switches_total": set(),
        "oht50_processes": set(),
    }
    assert {name: label_names.get(name) for name in promised} == promised
    assert host.stats.failing == frozenset()


async def test_everything_of_a_pass_is_one_tick_with_one_timestamp() -> None:
    sink = MemorySink()
    host = HostSource(sink, SystemSettings(), namespace="oht50")
    for ts_ms in (1_000, 2_000, 3_000):
        await host.collect(ts_ms)
    await host.close()
    assert list(sink.groups) == ["system"]
    assert [ts_ms for ts_ms, _ in sink.groups["system"].ticks] == [1_000, 2_000, 3_000]
    assert host.stats.samples == len(sink.groups["system"].last) > 50


async def test_every_metric_has_type_kind_and_help() -> None:
    sink = MemorySink()
    host = HostSource(sink, SystemSettings(), namespace="oht50")
    await host.collect(1_000)
    await host.close()
    for labels, kind in sink.kinds.items():
        family = labels.name.removesuffix("_total") if kind is Kind.COUNTER else labels.name
        metadata = sink.metadata[family]
        assert metadata.help.endswith("."), labels
        assert (metadata.type == "counter") == (kind is Kind.COUNTER), labels
        assert labels.name.endswith("_total") == (kind is Kind.COUNTER), labels


@pytest.mark.parametrize(
    ("section", "prefix"),
    [
        ("cpu", "cpu_"),
        ("memory", "memory_"),
        ("disk", "disk_"),
        ("network", "network_"),
        ("load", "system_load"),
    ],
)
async def test_what_is_switched_off_is_not_collected(section: str, prefix: str) -> None:
    sink = MemorySink()
    settings = SystemSettings(**{section: False})  # type: ignore[arg-type]  # all are flags
    host = HostSource(sink, settings, namespace="")
    await host.collect(1_000)
    await host.close()
    assert not [name for name in names(sink.groups["system"].last) if name.startswith(prefix)]
    assert "processes" in names(sink.groups["system"].last)


async def test_a_broken_reader_takes_only_its_own_series_along(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    sink = MemorySink()
    broken = FakeReader("broken")
    readers: list[Reader] = [FakeReader("before"), broken, FakeReader("after")]
    host = HostSource(sink, SystemSettings(), namespace="x", readers=readers)
    ticks: list[set[str]] = []
    for act in (lambda: None, refuse, refuse, lambda: None):
        broken.act = act
        await host.collect(len(ticks))
        ticks.append(
            {labels.name for labels, value in sink.groups["system"].last.items() if value == 1}
        )
    both, whole = {"x_before", "x_after"}, {"x_before", "x_after", "x_broken"}
    assert ticks == [whole, both, both, whole]
    assert host.stats.reader_errors == {"broken": 2}
    assert [record.message for record in caplog.records] == [
        "broken of the host cannot be read: no such sensor",
        "broken of the host can be read again",
    ]


async def test_a_reader_that_hangs_is_left_behind() -> None:
    class Hanging(FakeReader):
        async def read(self) -> list[Block]:
            await asyncio.Event().wait()
            return []

    sink = MemorySink()
    readers: list[Reader] = [FakeReader("good"), Hanging("hanging")]
    host = HostSource(sink, SystemSettings(), namespace="x", readers=readers, timeout_s=0.03)
    await host.collect(1)
    assert names(sink.groups["system"].last) == {"x_good"}
    assert host.stats.failing == {"hanging"}


async def test_a_pass_fails_when_no_reader_works() -> None:
    readers: list[Reader] = [FakeReader("a", refuse), FakeReader("b", refuse)]
    host = HostSource(MemorySink(), SystemSettings(), namespace="x", readers=readers)
    with pytest.raises(HostReadFailed, match="a: no such sensor; b: no such sensor"):
        await host.collect(1)


def test_sources_of_equal_settings_are_equal() -> None:
    def build(namespace: str = "a", **settings: bool) -> HostSource:
        return HostSource(
            MemorySink(),
            SystemSettings(**settings),  # type: ignore[arg-type]  # all are flags
            namespace=namespace,
        )

    source: Source = build()
    assert source == build()
    assert hash(source) == hash(build())
    assert source != build(cpu=False)
    assert source != build("b")


async def test_it_runs_on_a_schedule_and_leaves_no_thread_behind() -> None:
    before = threading.active_count()
    sink = MemorySink()
    schedule = Schedule(SystemClock(), sink, startup_spread_s=0)
    schedule.add(HostSource(sink, SystemSettings(), namespace="oht50", interval_s=0.05))
    task = asyncio.create_task(schedule.run())
    while schedule.stats.passes < 3:  # a counter has no event
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert schedule.stats.errors == 0
    assert sink.groups["source/system"].last[
        Labels.of({"source": "system"}, name="tachograph_source_up")
    ]
    assert threading.active_count() == before


# --- its readers ---------------------------------------------------------------------------------


async def test_disk_io_reports_whole_disks_with_the_kernels_totals() -> None:
    counters = {
        "sda1": IoCounters(*[1] * 9),
        "sda": IoCounters(10, 20, 30, 40, 5_500, 6_600, 70, 80, 9_900),
    }
    reader = DiskIoReader(read_counters=lambda: counters, is_disk=lambda name: name == "sda")
    for _ in range(2):
        assert as_dict(await reader.read()) == {
            "disk_reads_completed_total sda": 10,
            "disk_writes_completed_total sda": 20,
            "disk_read_bytes_total sda": 30,
            "disk_written_bytes_total sda": 40,
            "disk_read_time_seconds_total sda": 5.5,
            "disk_write_time_seconds_total sda": 6.6,
            "disk_reads_merged_total sda": 70,
            "disk_writes_merged_total sda": 80,
            "disk_io_time_seconds_total sda": 9.9,
        }


async def test_disk_io_without_disks_reports_nothing() -> None:
    assert await DiskIoReader(read_counters=dict).read() == []
    reader = DiskIoReader(read_counters=lambda: {"loop0": IoCounters(*[0] * 9)})
    assert await reader.read() == []


async def test_network_reports_both_directions_but_not_ignored_interfaces(tmp_path: Path) -> None:
    for name, state in (("eth0", "up"), ("wlan0", "down"), ("tun0", "unknown")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "operstate").write_text(f"{state}\n")
    counters = {name: NetCounters(*range(8)) for name in ("eth0", "wlan0", "tun0", "lo", "veth12")}
    reader = NetworkReader(
        SystemSettings().ignored_interfaces, read_counters=lambda: counters, sys_net=tmp_path
    )
    found = as_dict(await reader.read())
    eth0 = {name: value for name, value in found.items() if "eth0" in name.split()}
    assert eth0 == {
        "network_bytes_total eth0 sent": 0,
        "network_bytes_total eth0 received": 1,
        "network_packets_total eth0 sent": 2,
        "network_packets_total eth0 received": 3,
        "network_errors_total eth0 received": 4,
        "network_errors_total eth0 sent": 5,
        "network_drops_total eth0 received": 6,
        "network_drops_total eth0 sent": 7,
        "network_up eth0": 1,
    }
    assert (found["network_up wlan0"], found["network_up tun0"]) == (0, 1)
    assert not any("lo" in name.split() or "veth12" in name.split() for name in found)


async def test_a_pulled_interface_changes_the_shape() -> None:
    counters = {name: NetCounters(*range(8)) for name in ("eth0", "usb0")}
    reader = NetworkReader(read_counters=lambda: counters, sys_net=Path("/nowhere"))
    before = [block.key for block in await reader.read()]
    del counters["usb0"]
    assert [block.key for block in await reader.read()] != before


async def test_memory_reports_every_amount_and_no_percentage() -> None:
    found = as_dict(await MemoryReader().read())
    assert found["memory_total_bytes"] > found["memory_usage_bytes available"] > 0
    assert "memory_usage_bytes used" in found
    assert "memory_usage_bytes free" in found
    assert not any("percent" in name for name in found)


async def test_load_has_the_kernels_two_decimals() -> None:
    reader = LoadReader(lambda: (0.080078125, 1.5, 12.0))
    assert as_dict(await reader.read()) == {
        "system_load 1m": 0.08,
        "system_load 5m": 1.5,
        "system_load 15m": 12.0,
    }


async def test_pressure_is_read_where_the_kernel_keeps_it(tmp_path: Path) -> None:
    (tmp_path / "cpu").write_text(
        "some avg10=0.00 avg60=0.00 avg300=0.23 total=10863422\nfull avg10=0.00 total=0\n"
    )
    (tmp_path / "io").write_text("some avg10=0.00 total=5\nfull avg10=0.00 total=1500000\n")
    assert as_dict(await PressureReader(tmp_path).read()) == {
        "pressure_seconds_total cpu some": 10.863422,
        "pressure_seconds_total io some": 5e-6,
        "pressure_seconds_total io full": 1.5,
    }
    assert as_dict(await PressureReader(tmp_path / "absent").read()) == {}


@linux_only
async def test_the_kernels_numbers_are_those_of_this_machine() -> None:
    found = as_dict(await KernelReader().read())
    assert found["processes"] >= 1
    assert found["processes_running"] >= 1
    assert found["file_descriptors_allocated"] < found["file_descriptors_max"]
    assert 1e9 < found["boot_time_seconds"] < 4e9


async def test_temperatures_are_named_by_chip_and_sensor() -> None:
    chips = {
        "coretemp": [
            Sensor("Package id 0", 45.0, 80.0, 100.0),
            Sensor("", 44.0, None, None),
        ],
        "nvme": [Sensor("Composite", 38.85, 80.0, 84.85), Sensor("Composite", 39.85, None, None)],
    }
    offload = Offload("temperature-test")
    reader = TemperatureReader(offload, read_sensors=lambda: chips)
    assert as_dict(await reader.read()) == {
        "temperature_celsius coretemp Package id 0": 45.0,
        "temperature_celsius coretemp temp2": 44.0,
        "temperature_celsius nvme Composite": 38.85,
        "temperature_celsius nvme Composite 2": 39.85,
        "temperature_critical_celsius coretemp Package id 0": 100.0,
        "temperature_critical_celsius nvme Composite": 84.85,
    }
    offload.close()


async def test_a_machine_without_sensors_is_seldom_asked_for_them() -> None:
    asked = 0

    def read_sensors() -> dict[str, list[Sensor]]:
        nonlocal asked
        asked += 1
        return {}

    offload = Offload("temperature-test")
    reader = TemperatureReader(offload, read_sensors=read_sensors)
    for _ in range(40):
        assert as_dict(await reader.read()) == {}
    offload.close()
    assert asked == 2


async def test_hanging_sensors_are_an_error() -> None:
    gate = threading.Event()

    def read_sensors() -> dict[str, list[Sensor]]:
        gate.wait()
        return {}

    offload = Offload("temperature-test")
    reader = TemperatureReader(offload, timeout_s=0.01, read_sensors=read_sensors)
    with pytest.raises(CallHung):
        await reader.read()
    gate.set()
