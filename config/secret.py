"""Secrets: text that never shows itself, and files that hold one."""

from __future__ import annotations

import os
from typing import Final

from .errors import ConfigError

MASK: Final = "<secret>"
#: A token or a password; more is a wrong file, and reading a device or a log must end.
SECRET_FILE_BYTES_MAX: Final = 64 * 1024


class Secret:
    """A piece of text that prints as ``<secret>``; :meth:`reveal` is the only way to it."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return MASK

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return format(MASK, spec)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __bool__(self) -> bool:
        return bool(self._text)


def read_secret(path: str | os.PathLike[str]) -> Secret:
    """
    Return the text of a secret file without white space around it.

    Files are read when the secret is used, not when the configuration is loaded, so a rotated
    secret is picked up. Blocks on the disk; a few hundred bytes.

    Raises:
        ConfigError: The file cannot be read, is larger than 64 KiB, or is not UTF-8.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(SECRET_FILE_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError([f"{path}: cannot read secret file: {error.strerror}"]) from None
    if len(data) > SECRET_FILE_BYTES_MAX:
        raise ConfigError([f"{path}: secret file is larger than {SECRET_FILE_BYTES_MAX} bytes"])
    try:
        return Secret(data.decode("utf-8").strip())
    except UnicodeDecodeError:
        raise ConfigError([f"{path}: secret file is not UTF-8 text"]) from None


def resolve_secret(text: Secret | None, path: str | os.PathLike[str] | None) -> Secret | None:
    """Return the secret given in place, or read from its ``*_file``, or ``None``."""
    if text is not None or path is None:
        return text
    return read_secret(path)
