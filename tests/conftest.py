"""Rules of the whole suite."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

#: Skips that are right anywhere; every other one is a missing program or file, which CI must have.
_ALLOWED_REASONS = ("no symbolic links here", "not on this platform")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """In CI, a test that was skipped for want of something has failed."""
    report = yield
    if (
        os.environ.get("TACHOGRAPH_NO_SKIPS")
        and report.skipped
        and not hasattr(report, "wasxfail")
        and isinstance(report.longrepr, tuple)
        and not any(reason in report.longrepr[2] for reason in _ALLOWED_REASONS)
    ):
        report.outcome = "failed"
        report.longrepr = f"skipped in CI, where nothing may be missing: {report.longrepr[2]}"
    return report  # type: ignore[return-value]


def pytest_make_parametrize_id(val: object) -> str | None:
    """Name bodies by their length: a gzip holds the time it was made at, and workers must agree."""
    return f"{len(val)}bytes" if isinstance(val, bytes) and not val.isascii() else None
