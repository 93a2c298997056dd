"""Rules of the whole suite."""

from __future__ import annotations

import gc
import os
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from support.clock import ManualClock
from support.store import store_settings
from tachograph.storage.store import Store

#: Reasons of skips that mean a missing program or file; others are decisions of the test.
_MISSING = re.compile(r"installed|needs |not here|no \.\./shared|no wheel|could not import")


def pytest_collection_finish() -> None:
    """Keep what is imported by now out of every later collection: it would cost 0.1 s each."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def collected() -> Iterator[None]:
    """
    Collect each module's garbage before the next one begins: what was not closed or awaited in it
    fails its own last test, not whichever happens to run when the collector does.
    """
    yield
    gc.collect()
    # What survives is the session's, so it is not looked at again before the end.
    gc.freeze()


def pytest_sessionfinish() -> None:
    """Let pytest's own last collection find what became garbage after its module was over."""
    gc.unfreeze()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def store(tmp_path: Path, clock: ManualClock) -> AsyncIterator[Store]:
    store = Store(store_settings(tmp_path / "data"), clock)
    await store.open()
    yield store
    await store.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """In CI, a test that was skipped for want of something has failed."""
    report = yield
    if (
        os.environ.get("TACHOGRAPH_NO_SKIPS")
        and report.skipped
        and not hasattr(report, "wasxfail")
        and isinstance(report.longrepr, tuple)
        and _MISSING.search(report.longrepr[2])
    ):
        report.outcome = "failed"
        report.longrepr = f"skipped in CI, where nothing may be missing: {report.longrepr[2]}"
    return report  # type: ignore[return-value]


def pytest_make_parametrize_id(val: object) -> str | None:
    """Name bodies by their length: a gzip holds the time it was made at, and workers must agree."""
    return f"{len(val)}bytes" if isinstance(val, bytes) and not val.isascii() else None
