"""The agent's own metrics: where they are read, and what they say of the disk."""

from __future__ import annotations

import threading
from pathlib import Path

from support.clock import ManualClock
from support.sink import MemorySink
from tachograph.agent.document import render
from tachograph.agent.loop_lag import LoopLag
from tachograph.agent.selfmetrics import store_metrics
from tachograph.agent.selfmon import SelfMetric, SelfMonitor
from tachograph.storage.store import Store


async def test_what_asks_a_disk_is_read_beside_the_event_loop(clock: ManualClock) -> None:
    threads: dict[str, threading.Thread] = {}

    def read(name: str) -> float:
        threads[name] = threading.current_thread()
        return 1.0

    metrics = [
        SelfMetric("disk", "On a disk.", lambda: read("disk"), waits=True),
        SelfMetric("memory", "Of the loop's.", lambda: read("memory")),
    ]
    sink = MemorySink()
    await SelfMonitor(sink, metrics, LoopLag(), 10.0).collect(clock.now_ms())
    here = threading.current_thread()
    assert (threads["memory"] is here, threads["disk"] is here) == (True, False)
    names = {labels.name for labels in sink.refs}
    assert {"tachograph_disk", "tachograph_memory"} <= names


async def test_files_add_up_to_what_info_says(store: Store) -> None:
    [metric] = [each for each in store_metrics(store) if each.family.name.endswith("storage_bytes")]
    assert metric.waits
    assert sum(metric.block().values) == await store.bytes_on_disk() > 0


async def test_the_page_lists_what_there_is() -> None:
    page = Path(__file__).resolve().parents[2] / "docs" / "own-metrics.md"
    assert await render() == page.read_text(), "run: python -m tachograph.agent.document"
