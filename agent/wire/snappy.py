"""Snappy's block format, as remote write and remote read use it."""

from __future__ import annotations

from typing import Final

from .errors import TooLong, WireError

# Three bytes copy 64 at the most (Snappy, "Compressed data format description", section 2.2), so a
# header that claims more is a lie, told before anything is allocated for it.
_RATIO_MAX: Final = 22


def unpacked_bytes(data: bytes, limit_bytes: int) -> int:
    """
    Return how long a block says that it is unpacked.

    Raises:
        TooLong: Longer than ``limit_bytes``.
        WireError: The block is damaged.
    """
    # Not at the top: 4 MB of library that an agent nobody writes to can do without.
    from cramjam import DecompressionError, snappy

    try:
        claimed = int(snappy.decompress_raw_len(data))
    except DecompressionError as error:
        raise _damaged() from error
    if claimed > limit_bytes:
        raise TooLong(limit_bytes)
    if claimed > len(data) * _RATIO_MAX:
        raise _damaged()
    return claimed


def decompress(data: bytes, limit_bytes: int) -> bytes:
    """Unpack one block. Raises as :func:`unpacked_bytes`."""
    from cramjam import DecompressionError, snappy

    unpacked_bytes(data, limit_bytes)
    try:
        return bytes(snappy.decompress_raw(data))
    except DecompressionError as error:
        raise _damaged() from error


def compress(data: bytes) -> bytes:
    from cramjam import snappy

    return bytes(snappy.compress_raw(data))


def _damaged() -> WireError:
    return WireError("snappy: corrupt input")
