"""Rules of the whole suite."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

import pytest

#: Reasons of skips that mean a missing program or file; others are decisions of the test.
_MISSING = re.compile(r"installed|needs |not here|no \.\./shared|no wheel|could not import")


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
