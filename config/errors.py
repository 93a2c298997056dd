"""The root of every error that Tachograph raises on purpose, and the errors of settings."""

from __future__ import annotations

from collections.abc import Sequence


class TachographError(Exception):
    """Anything that went wrong outside of this program's own logic; its text is for the user."""


class ConfigError(TachographError):
    """
    One or more mistakes in a configuration file.

    Attributes:
        problems: One line each: ``file:line:column: path.to.key: what is wrong; what would be
            right``, from top to bottom.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


class SelectorError(TachographError):
    """A series selector that cannot be read; ``position`` counts characters from 0."""

    def __init__(self, message: str, position: int) -> None:
        super().__init__(f"1:{position + 1}: parse error: {message}")
        self.message, self.position = message, position
