"""``tachograph db forget-future``, and what doctor says before and after."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from support.clock import ManualClock
from support.store import put, store_settings
from tachograph.agent.cli import main
from tachograph.storage.model import Labels
from tachograph.storage.store import Store

YEAR_MS = 365 * 86_400_000


def fill(directory: Path, *times_ms: int) -> None:
    async def job() -> None:
        clock = ManualClock(times_ms[0])
        store = Store(store_settings(directory), clock)
        await store.open()
        for ts_ms in times_ms:
            clock.step(ts_ms - clock.now_ms())
            put(store.group("g"), ts_ms, {Labels.of({}, "up"): 1.0})
        await store.seal()
        await store.close()

    asyncio.run(job())


def test_future_is_shown_then_deleted_by_order(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, now_ms = str(tmp_path / "data"), time.time_ns() // 1_000_000
    fill(tmp_path / "data", now_ms - 60_000, now_ms + YEAR_MS)
    main(["doctor", "--data", data])
    assert "tachograph db forget-future" in capsys.readouterr().out
    assert main(["db", "forget-future", "--data", data]) == 0
    assert "1 samples of 1 series" in capsys.readouterr().out
    assert main(["db", "forget-future", "--yes", "--data", data]) == 0
    assert "are deleted" in capsys.readouterr().out
    assert main(["db", "forget-future", "--data", data]) == 0
    assert "nothing lies ahead" in capsys.readouterr().out
    assert main(["db", "verify", "--data", data]) == 0
    capsys.readouterr()
    main(["doctor", "--data", data])
    assert "forget-future" not in capsys.readouterr().out
