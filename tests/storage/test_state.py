"""``state.db``: events in order, values that last, and a damaged file that stops nobody."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from support.clock import ManualClock
from tachograph.storage.errors import SchemaTooNew, StoreUnavailable
from tachograph.storage.state import State


async def test_events_come_back_newest_first_also_after_a_restart(tmp_path: Path) -> None:
    clock = ManualClock()
    start_ms = clock.now_ms()
    state = State(tmp_path, clock)
    await state.open()
    for number in range(3):
        clock.step(1)
        state.note("tick", f"number {number}", number=number)
    await state.close()
    state = State(tmp_path, clock)
    await state.open()
    events = await state.events(start_ms, clock.now_ms(), 10)
    assert [event.facts["number"] for event in events] == [2, 1, 0]
    assert [e.message for e in await state.events(start_ms + 1, start_ms + 2, 10)] == ["number 1"]
    assert len(await state.events(start_ms, clock.now_ms(), 2)) == 2
    await state.close()


async def test_a_kept_value_outlives_the_process(tmp_path: Path) -> None:
    state = State(tmp_path, ManualClock())
    await state.open()
    assert await state.value("k") is None
    await state.keep("k", "v")
    await state.close()
    await state.close()
    state = State(tmp_path, ManualClock())
    await state.open()
    assert await state.value("k") == "v"
    await state.close()
    with pytest.raises(StoreUnavailable):
        await state.value("k")


async def test_only_the_newest_events_are_kept(tmp_path: Path) -> None:
    clock = ManualClock()
    state = State(tmp_path, clock, events_max=5)
    await state.open()
    for number in range(12):
        state.note("tick", str(number))
    assert [e.message for e in await state.events(0, clock.now_ms(), 99)] == [
        "11", "10", "9", "8", "7",
    ]  # fmt: skip
    await state.close()


async def test_a_damaged_file_is_put_aside(tmp_path: Path) -> None:
    (tmp_path / "state.db").write_bytes(b"this was a database once" * 100)
    state = State(tmp_path, ManualClock())
    await state.open()
    state.note("start", "here")
    await state.close()
    assert len(list(tmp_path.glob("state.db.damaged-*"))) == 1


async def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "state.db")
    connection.execute("PRAGMA user_version=99")
    connection.close()
    with pytest.raises(SchemaTooNew, match="schema 99"):
        await State(tmp_path, ManualClock()).open()
