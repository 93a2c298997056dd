"""Writes down what befalls the agent, for whoever comes to the box a week later."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from ..storage.clock import Clock
from ..storage.state import State

_LOOK_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Conditions:
    """How things stand: why nothing can be committed (empty: it can), and counts of mishaps."""

    trouble: str
    corrupt_rows: int
    clock_steps: int
    restarts: int
    failed_maintenance: int


class Chronicle:
    """Looks at the conditions now and then, and notes an event where they have changed."""

    def __init__(self, state: State, look: Callable[[], Conditions], clock: Clock) -> None:
        self._state, self._look, self._clock = state, look, clock

    async def run(self) -> None:
        """Watch until cancelled."""
        before = self._look()
        while True:
            await self._clock.sleep(_LOOK_S)
            now = self._look()
            self.compare(before, now)
            before = now

    def compare(self, before: Conditions, now: Conditions) -> None:
        note = self._state.note
        if now.trouble and not before.trouble:
            note("storage_trouble", now.trouble)
        if before.trouble and not now.trouble:
            note("storage_recovered", "samples are committed again")
        for kind, text, old, new in (
            ("corrupt_rows", "rows failed their checksum", before.corrupt_rows, now.corrupt_rows),
            ("clock_step", "steps of the wall clock", before.clock_steps, now.clock_steps),
            ("restart", "components failed and were restarted", before.restarts, now.restarts),
            (
                "maintenance_failed",
                "compactions or retentions failed",
                before.failed_maintenance,
                now.failed_maintenance,
            ),
        ):
            if new > old:
                note(kind, f"{new - old} {text}", count=new - old)
