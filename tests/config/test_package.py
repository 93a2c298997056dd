"""The public face of the package."""

from __future__ import annotations

import subprocess
import sys

import pytest

import tachograph.config as package


@pytest.mark.parametrize("name", package.__all__)
def test_every_public_name_loads(name: str) -> None:
    assert getattr(package, name).__name__ == name
    assert name in dir(package)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'nope'"):
        package.nope  # noqa: B018


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import tachograph.config", ["dataclasses", "yaml", "re2", "tachograph.config.settings"]),
        ("from tachograph.config import Config", ["yaml", "re2", "difflib"]),
        ("from tachograph.config import parse_selector, Matcher", ["yaml", "re2"]),
        ("from tachograph.config import load_config; load_config(None, env={})", ["yaml", "re2"]),
    ],
)
def test_nothing_is_imported_before_it_is_needed(statement: str, absent: list[str]) -> None:
    code = f"{statement}\nimport sys\nprint([name for name in {absent} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "[]\n"
