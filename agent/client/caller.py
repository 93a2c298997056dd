"""Which line of the backend's code something came from, in a few characters."""

from __future__ import annotations

import sys
from types import CodeType, TracebackType
from typing import Final

_PACKAGE: Final = __name__.rpartition(".")[0]


def caller() -> str:
    """Say which line of the backend called us: ``shop/cart.py:41``."""
    frame = sys._getframe(1)
    while frame.f_back and frame.f_globals.get("__name__", "").startswith(_PACKAGE):
        frame = frame.f_back
    return _place(frame.f_code, frame.f_lineno)


def origin(error: BaseException) -> str:
    """Say which exception came from which line: ``KeyError at shop/cart.py:41``."""
    step: TracebackType | None = error.__traceback__
    name = type(error).__name__
    if step is None:
        return name
    while step.tb_next is not None:
        step = step.tb_next
    return f"{name} at {_place(step.tb_frame.f_code, step.tb_lineno)}"


def _place(code: CodeType, line: int | None) -> str:
    path = code.co_filename.replace("\\", "/").split("/")
    return f"{'/'.join(path[-2:])}:{line}"
