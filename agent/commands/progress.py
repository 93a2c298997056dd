"""How far a long command is: one line on stderr that is written again and again."""

from __future__ import annotations

import os
import sys
import time
from typing import Final, TextIO

_EVERY_S: Final = 0.2


class Progress:
    """
    Tells samples, their rate, and how much of the input is through, where a terminal looks on.

    Args:
        total_bytes: Of the whole input; 0 if nobody knows.
    """

    def __init__(self, total_bytes: int = 0, out: TextIO | None = None) -> None:
        self._out = sys.stderr if out is None else out
        self._is_shown = self._out.isatty() and os.environ.get("TERM") != "dumb"
        self._total_bytes = total_bytes
        self._began_s = self._shown_s = time.monotonic()
        self._width = 0

    @property
    def seconds(self) -> float:
        """How long it takes so far."""
        return time.monotonic() - self._began_s

    def show(self, samples: int, done_bytes: int, what: str = "samples") -> None:
        """Tell how far it is; most calls do nothing."""
        now_s = time.monotonic()
        if self._is_shown and now_s - self._shown_s >= _EVERY_S:
            self._shown_s = now_s
            self._write(_line(samples, done_bytes, self._total_bytes, self.seconds, what))

    def say(self, text: str) -> None:
        """Show another text instead, at once."""
        if self._is_shown:
            self._write(text)

    def clear(self) -> None:
        """Take the line away, for what is to stay."""
        if self._width:
            self._write("")
            print("\r", end="", file=self._out, flush=True)

    def _write(self, text: str) -> None:
        print(f"\r{text.ljust(self._width)}", end="", file=self._out, flush=True)
        self._width = len(text)


def _line(samples: int, done_bytes: int, total_bytes: int, seconds: float, what: str) -> str:
    parts = [f"{samples:,} {what}", f"{samples / max(seconds, 1e-3):,.0f}/s"]
    if total_bytes:
        share = min(done_bytes / total_bytes, 1.0)
        parts.append(f"{share:.0%}")
        if share > 0:
            parts.append(f"ETA {show_seconds(seconds / share - seconds)}")
    return "  ".join(parts)


def show_seconds(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
