"""
Following a sender from series to series: what came after a series last time comes after it again.

A sender goes through its series in a fixed order, but cuts it into requests anywhere, so that
bodies as a whole rarely repeat. Comparing the next bytes with those expected takes a third of the
time of finding out where a message ends and looking its labels up.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Final

import numpy as np

from ...storage.frame import IntArray
from .remote_columns import FULL, FULL_BYTES, SAMPLE_TAG, ZERO, ZERO_BYTES

#: Series of a table that are followed; each takes some 200 bytes.
_FOLLOWED_MAX: Final = 50_000
#: Wrong guesses in a request before it is read the usual way: a first few, and one in so many.
_MISSES: Final = 16
_MISSES_SHARE: Final = 5
#: A sender without an order isn't followed for so many requests after so many vain attempts.
_VAIN_MAX: Final = 8
_REST: Final = 100

_SERIES_TAG: Final = 0x0A
#: What nothing starts with, as ``bytes.startswith`` has it: one of none.
_NOWHERE: Final = ()


class Guide:
    """
    What is expected of each slot of a table of series.

    A series' piece is its message up to the first byte that may change: tag and length, labels, and
    the head of its only sample, which tells how long the rest is.
    """

    def __init__(self, slots: Mapping[bytes, int]) -> None:
        self._slots = slots
        self._lock = threading.Lock()
        self._pieces: list[bytes | tuple[()]] = [_NOWHERE]
        self._sizes: list[int] = [0]  # of the whole message
        self._next: list[int] = [0]
        self._unseen = 1  # pieces that are nowhere yet
        self._vain = 0
        self._rests = 0

    def follow(self, raw: bytes) -> tuple[IntArray, IntArray] | None:
        """
        Read a body all of whose messages are known series with one sample.

        Returns:
            Their slots, and where their samples begin; ``None`` for any other body.
        """
        # Somebody else is at it in another thread: not worth waiting for.
        if not self._lock.acquire(blocking=False):
            return None
        try:
            return self._follow(raw)
        finally:
            self._lock.release()

    def _follow(self, raw: bytes) -> tuple[IntArray, IntArray] | None:
        if self._rests:
            self._rests -= 1
            return None
        found = self._walk(raw)
        if found is not None:
            self._vain = 0
            return found
        self._vain += 1
        if self._vain == _VAIN_MAX:
            self._vain, self._rests = 0, _REST
        return None

    def _walk(self, raw: bytes) -> tuple[IntArray, IntArray] | None:
        pieces, sizes, following = self._pieces, self._sizes, self._next
        slots: list[int] = []
        places: list[int] = []
        starts_with = raw.startswith
        at, end = 0, len(raw)
        guess = misses = 0
        while at < end:
            piece = pieces[guess]
            if starts_with(piece, at):
                slots.append(guess)
                places.append(at + len(piece))
                at += sizes[guess]
                guess = following[guess]
                continue
            known = len(self._pieces) - self._unseen
            slot = self._look(raw, at)
            misses += len(self._pieces) - self._unseen == known
            if slot < 0 or misses > _MISSES + len(slots) // _MISSES_SHARE:
                return None
            if slots:
                following[slots[-1]] = slot
            guess = slot
        # A piece ends three bytes into the sample's field.
        return (np.array(slots, np.int64), np.array(places, np.int64) - 3) if at == end else None

    def _look(self, raw: bytes, at: int) -> int:
        """Return the slot of the message that begins here, -1 if it is none of those wanted."""
        head = raw[at : at + 3]
        if len(head) < 3 or head[0] != _SERIES_TAG:
            return -1
        if head[1] < 0x80:
            start, stop = at + 2, at + 2 + head[1]
        elif head[2] < 0x80:
            start, stop = at + 3, at + 3 + (head[1] & 0x7F | head[2] << 7)
        else:
            return -1
        for size, field in ((FULL, FULL_BYTES), (ZERO, ZERO_BYTES)):
            sample = stop - field
            if sample <= start or raw[sample : sample + 2] != bytes((SAMPLE_TAG, size)):
                continue
            slot = self._slots.get(raw[start:sample], -1)
            if slot >= 0:
                return self._expect(slot, raw[at : sample + 3], stop - at)
        return -1

    def _expect(self, slot: int, piece: bytes, size: int) -> int:
        if slot >= _FOLLOWED_MAX:
            return -1
        missing = slot + 1 - len(self._pieces)
        if missing > 0:
            self._pieces.extend([_NOWHERE] * missing)
            self._sizes += [0] * missing
            self._next += range(slot + 2 - missing, slot + 2)
            self._next[-1] = 0
            self._unseen += missing
        self._unseen -= self._pieces[slot] is _NOWHERE
        self._pieces[slot], self._sizes[slot] = piece, size
        return slot
