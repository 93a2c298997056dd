"""A reader that has seen enough (`| head`): what is still to be written goes nowhere, silently."""

from __future__ import annotations

import contextlib
import io
import os
from typing import TextIO


def discard(stream: TextIO) -> None:
    """
    Turn a broken stream to the null device. Python flushes stdout once more while exiting, and
    would complain about the reader and exit with 120.
    """
    with contextlib.suppress(OSError, io.UnsupportedOperation):  # a stream without a descriptor
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
