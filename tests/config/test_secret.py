"""Secrets in files."""

from __future__ import annotations

from pathlib import Path

import pytest

from tachograph.config.errors import ConfigError
from tachograph.config.secret import SECRET_FILE_BYTES_MAX, Secret, read_secret, resolve_secret


def test_a_secret_file_is_read_without_white_space_around(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("  t0ken with space\n\n", encoding="utf-8")
    assert read_secret(path) == Secret("t0ken with space")


def test_an_exchanged_secret_is_seen_at_the_next_use(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("old", encoding="utf-8")
    assert resolve_secret(None, path) == Secret("old")
    path.write_text("new", encoding="utf-8")
    assert resolve_secret(None, path) == Secret("new")


def test_the_secret_in_place_comes_first(tmp_path: Path) -> None:
    assert resolve_secret(Secret("here"), tmp_path / "missing") == Secret("here")
    assert resolve_secret(None, None) is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read secret file: No such file"),
        (b"x" * (SECRET_FILE_BYTES_MAX + 1), "larger than 65536 bytes"),
        (b"\xff\xfe", "not UTF-8"),
    ],
)
def test_an_unusable_secret_file_is_an_error(
    tmp_path: Path, content: bytes | None, message: str
) -> None:
    path = tmp_path / "token"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        read_secret(path)
