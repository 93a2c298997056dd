"""Whether the kernel holds its clock for right: what NTP, PTP and the like have told it."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Final

#: ``adjtimex(2)``: the state of a clock that nobody keeps right, and the status bit that says so.
_TIME_ERROR: Final = 5
_STA_UNSYNC: Final = 0x40


class _Timex(ctypes.Structure):
    """The beginning of ``struct timex`` up to what is read here, with room for the rest of it."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_byte * 512),
    )


def adjtimex() -> tuple[int, int] | None:
    """
    Return the kernel's clock state and status bits; ``None`` if it has no such call or forbids it,
    as some containers do. Nothing is changed.
    """
    try:
        call = ctypes.CDLL(None).adjtimex
    except (OSError, AttributeError):
        return None
    buffer = _Timex()  # modes 0: only look
    state = int(call(ctypes.byref(buffer)))
    return None if state < 0 else (state, int(buffer.status))


def is_synchronised(ask: Callable[[], tuple[int, int] | None] = adjtimex) -> bool | None:
    """Tell whether the clock is kept right; ``None`` if the kernel can't be asked."""
    answer = ask()
    if answer is None:
        return None
    state, status = answer
    return state != _TIME_ERROR and not status & _STA_UNSYNC
