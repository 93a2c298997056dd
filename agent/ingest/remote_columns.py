"""
Samples of a remote write body, many at a time: from places in the bytes to columns.

Nearly every sample is ``12 10 09 <8 bytes> 10 <6 bytes>``: a message of 16 bytes with a double and
a time since 1971. A value of 0 is left out by the senders' libraries, which makes it
``12 07 10 <6 bytes>``. These two are checked and taken by numpy; all others one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from ...storage.frame import BoolArray, FloatArray, IntArray
from ..wire.errors import TooMany, WireError
from ..wire.prompb import read_sample
from ..wire.protobuf import read_field, read_varint

SAMPLE_TAG: Final = 0x12
FULL: Final = 16
ZERO: Final = 7
#: Of a whole field, tag and length included.
FULL_BYTES: Final = FULL + 2
ZERO_BYTES: Final = ZERO + 2

_WORD: Final = 8
#: Bodies that differ do so soon.
_GLANCE: Final = 4096
# The last eight bytes of such a sample, as a little-endian number: anything, the tag of the time,
# and six bytes of which all but the last go on.
_TIME_MASK: Final = np.uint64(0x808080808080FF00)
_TIME_BITS: Final = np.uint64(0x0080808080801000)

WordArray = npt.NDArray[np.uint64]
ByteArray = npt.NDArray[np.uint8]


class Body:
    """The bytes of a request, as the three things one wants them to be."""

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self.bytes: ByteArray = np.frombuffer(raw, np.uint8)
        # A word at every byte: unaligned on purpose.
        self._words: WordArray = np.ndarray((max(len(raw) - _WORD + 1, 0),), "<u8", raw, 0, (1,))

    def __len__(self) -> int:
        return len(self.raw)

    def words(self, at: IntArray) -> WordArray:
        """Return the eight bytes from each place on; places that have no eight give anything."""
        if not len(self._words):
            return np.zeros(len(at), np.uint64)
        return self._words[np.clip(at, 0, len(self._words) - 1)]

    def byte(self, at: IntArray) -> ByteArray:
        """Return the byte at each place; places outside give anything."""
        if not len(self.raw):
            return np.zeros(len(at), np.uint8)
        return self.bytes[np.clip(at, 0, len(self.raw) - 1)]


def messages(
    raw: bytes, tag: int, side_tag: int, most: int
) -> tuple[list[int], list[int], list[int]]:
    """
    Find the messages of two fields in a body.

    Args:
        tag, side_tag: One-byte tags of length-delimited fields.
        most: How many fields there may be.

    Returns:
        Where those of ``tag`` begin and end, and those of ``side_tag``, begin and end in turns.

    Raises:
        WireError: The body is no row of fields, or (``TooMany``) of more than ``most``.
    """
    starts: list[int] = []
    ends: list[int] = []
    side: list[int] = []
    at, end = 0, len(raw)
    try:
        for _ in range(most):
            if at >= end:
                break
            found = raw[at]
            if found == tag:
                length = raw[at + 1]
                if length < 0x80:
                    at += 2
                elif (high := raw[at + 2]) < 0x80:
                    length += (high << 7) - 0x80
                    at += 3
                else:
                    length, at = read_varint(raw, at + 1)
                starts.append(at)
                at += length
                ends.append(at)
            elif found == side_tag:
                length, at = read_varint(raw, at + 1)
                side.append(at)
                at += length
                side.append(at)
            else:
                _, _, _, at = read_field(raw, at, end)
    except IndexError:
        raise _cut_short() from None
    if at < end:
        raise TooMany(f"more than {most} series; send them in several requests")
    if at > end:
        raise _cut_short()
    return starts, ends, side


def single_samples(body: Body, starts: IntArray, ends: IntArray) -> IntArray:
    """
    Guess where the only sample of each message begins, if it ends with one.

    A guess holds if everything before it is known to be whole fields: then the sample's tag can't
    be anything else. Without a guess it is the start of the message.
    """
    tail = body.words(ends - _WORD)
    timed = (tail & _TIME_MASK) == _TIME_BITS
    sizes = ends - starts
    full = timed & (sizes >= FULL_BYTES)
    full &= body.byte(ends - FULL_BYTES) == SAMPLE_TAG
    full &= body.byte(ends - FULL_BYTES + 1) == FULL
    zero = timed & ~full & (sizes >= ZERO_BYTES)
    zero &= body.byte(ends - ZERO_BYTES) == SAMPLE_TAG
    zero &= body.byte(ends - ZERO_BYTES + 1) == ZERO
    return np.where(full, ends - FULL_BYTES, np.where(zero, ends - ZERO_BYTES, starts))


def read_samples(body: Body, at: IntArray, odd_max: int) -> tuple[IntArray, FloatArray, bool]:
    """
    Read the sample fields that begin at some places.

    Args:
        odd_max: How many may be of another than the two usual kinds.

    Returns:
        Times and values, and whether all of them are of the usual kinds.

    Raises:
        WireError: One of them is no ``Sample``, or (``TooMany``) too many are odd.
    """
    sizes = body.byte(at + 1)
    is_full = (sizes == FULL) & (body.byte(at + 2) == 0x09)
    tail = body.words(np.where(is_full, at + (FULL_BYTES - _WORD), at + (ZERO_BYTES - _WORD)))
    timed: BoolArray = (tail & _TIME_MASK) == _TIME_BITS
    plain = timed & (is_full | (sizes == ZERO))
    words = body.words(at + 3)
    if not is_full.all():
        words = np.where(is_full, words, np.uint64(0))
    ts_ms, values = _times(tail), words.view(np.float64)
    odd = np.flatnonzero(~plain).tolist()
    if odd:
        if len(odd) > odd_max:
            raise TooMany(f"more than {odd_max} samples in an unusual form")
        raw = body.raw
        for place in odd:
            _, _, start, end = read_field(raw, int(at[place]), len(raw))
            values[place], ts_ms[place] = read_sample(raw, start, end)
    return ts_ms, values, not odd


class Template:
    """
    A body whose samples are all of the two usual kinds, apart from their values and times.

    A sender's requests repeat one another: the same series in the same order. Such a body is told
    by comparing it as a whole, which takes a fifth of the time of looking its series up.
    """

    def __init__(self, body: Body, at: IntArray, series: IntArray) -> None:
        """Args: ``at`` and ``series`` as :func:`read_samples` takes and returns them."""
        self.series = series
        is_full = body.byte(at + 1) == FULL
        self._tails = np.where(is_full, at + (FULL_BYTES - _WORD), at + (ZERO_BYTES - _WORD))
        self._values = at + 3
        self._zeros = None if is_full.all() else ~is_full
        mask = np.full(len(body), 0xFF, np.uint8)
        mask[(self._values[is_full])[:, None] + np.arange(_WORD)] = 0
        # Of the bytes of a time the upper bit says whether it goes on, and that has to stay.
        mask[self._tails[:, None] + np.arange(2, _WORD)] = 0x80
        self._mask = mask
        self._pattern = body.bytes & mask

    def read(self, body: Body) -> tuple[IntArray, FloatArray] | None:
        """Return times and values of a body of the same length; ``None`` if it is another."""
        for part in (slice(0, _GLANCE), slice(_GLANCE, None)):
            if not np.array_equal(body.bytes[part] & self._mask[part], self._pattern[part]):
                return None
        values = body.words(self._values).view(np.float64)
        if self._zeros is not None:
            values[self._zeros] = 0.0
        return _times(body.words(self._tails)), values


def read_packed(lists: Sequence[bytes]) -> tuple[IntArray, IntArray]:
    """
    Read lists of numbers below 2**32, each a row of varints.

    Returns:
        All numbers, and how many of them each list has.

    Raises:
        WireError: A list ends within a number, or one is too large.
    """
    data = np.frombuffer(b"".join(lists), np.uint8)
    is_last = data < 0x80
    lengths = np.fromiter(map(len, lists), np.int64, len(lists))
    ends = np.cumsum(lengths)
    filled = ends[lengths > 0]
    if not is_last[filled - 1].all():
        raise _cut_short()
    last = np.flatnonzero(is_last)
    first = np.concatenate([[0], last[:-1] + 1]) if len(last) else last
    sizes = last - first
    most = int(sizes.max(initial=0))
    if most > 4:
        raise WireError("a number is too large")
    numbers = np.zeros(len(last), np.int64)
    for place in range(most + 1):
        has = sizes >= place
        numbers[has] |= (data[first[has] + place] & 0x7F).astype(np.int64) << 7 * place
    if len(numbers) and int(numbers.max()) >> 32:
        raise WireError("a number is too large")
    counted = np.concatenate([[0], np.cumsum(is_last)])
    return numbers, counted[ends] - counted[ends - lengths]


def _times(tail: WordArray) -> IntArray:
    """Return the number that the last six bytes are, seven bits of each."""
    bits = tail >> np.uint64(16)
    ts = bits & np.uint64(0x7F)
    for place in range(1, 6):
        ts |= (bits >> np.uint64(place)) & np.uint64(0x7F << 7 * place)
    return ts.view(np.int64)


def _cut_short() -> WireError:
    return WireError("the message is cut short")
