"""The chronicle notes changes, once each."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from support.clock import ManualClock
from tachograph.agent.chronicle import Chronicle, Conditions
from tachograph.storage.state import State

CALM = Conditions(trouble="", corrupt_rows=0, clock_steps=0, restarts=0, failed_maintenance=0)


async def test_what_changes_is_noted_and_what_stays_is_not(tmp_path: Path) -> None:
    clock = ManualClock()
    state = State(tmp_path, clock)
    await state.open()
    chronicle = Chronicle(state, lambda: CALM, clock)
    full = replace(CALM, trouble="disk is full", clock_steps=2)
    for before, now in ((CALM, CALM), (CALM, full), (full, full), (full, CALM)):
        chronicle.compare(before, now)
    events = await state.events(0, clock.now_ms(), 10)
    assert [(event.kind, event.message) for event in reversed(events)] == [
        ("storage_trouble", "disk is full"),
        ("clock_step", "2 steps of the wall clock"),
        ("storage_recovered", "samples are committed again"),
    ]
    await state.close()
