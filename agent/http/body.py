"""Request bodies: received, decompressed and held within limits, whatever the client claims."""

from __future__ import annotations

import asyncio
import mmap
import zlib
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Final

from aiohttp import hdrs, web

from .errors import ApiError, ErrorType

# Without it zstd is refused like any unknown coding.
_HAS_ZSTD: Final = find_spec("cramjam") is not None
#: What one request's body may take to arrive; the connection's own limits come on top.
DEFAULT_TIMEOUT_S: Final = 30.0
# Inflating takes about 1 ms per MiB that comes out: that much is done before anybody notices.
_INLINE_BYTES: Final = 4 * 1024 * 1024
# One byte of deflate gives at most 1,032 (zlib, "Technical details"); a little more for short ones.
_INFLATE_RATIO: Final = 1_100
_SLICE_BYTES: Final = 64 * 1024
# Tools that compress in parallel write a stream per block. A body of empty ones would cost much
# time for its bytes.
_STREAMS_MAX: Final = 1_000
_BUSY_RETRY_S: Final = 1


class Budget:
    """The bytes that all bodies together may take while they are read and decoded."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.used_bytes = 0
        #: Requests sent away because of it.
        self.refused = 0

    @contextmanager
    def share(self) -> Iterator[Share]:
        """Open one request's share; all of it comes back at the end."""
        share = Share(self)
        try:
            yield share
        finally:
            self.used_bytes -= share.used_bytes


class Share:
    """What one request has taken of a budget."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self.used_bytes = 0

    def take(self, more_bytes: int) -> None:
        """
        Account for bytes about to be held.

        Raises:
            ApiError: 429, the budget is used up.
        """
        budget = self._budget
        if budget.used_bytes + more_bytes > budget.max_bytes:
            budget.refused += 1
            raise ApiError(
                ErrorType.UNAVAILABLE,
                "too many requests at the same time; try again",
                status=429,
                retry_after_s=_BUSY_RETRY_S,
            )
        budget.used_bytes += more_bytes
        self.used_bytes += more_bytes

    def give_back(self, unused_bytes: int) -> None:
        self._budget.used_bytes -= unused_bytes
        self.used_bytes -= unused_bytes


async def read_body(
    request: web.Request,
    limit_bytes: int,
    share: Share | None = None,
    *,
    passthrough: Collection[str] = (),
    timeout_s: float = DEFAULT_TIMEOUT_S,
) -> bytes:
    """
    Return the body, decompressed.

    Works whether or not the server decompresses by itself, but only a server told not to
    (``auto_decompress=False``) lets us answer for a coding it doesn't know.

    Args:
        limit_bytes: Longest body, as received and after decompression.
        share: Where its bytes are accounted for.
        passthrough: Codings that the caller undoes: ``snappy``.

    Raises:
        ApiError: 413 too long, 415 unknown coding, 400 damaged, 408 too slow, 429 no budget left.
    """
    coding = _coding(request)
    if coding and coding not in _DECODERS and coding not in passthrough:
        known = ", ".join(sorted({*_DECODERS, *passthrough}))
        raise ApiError(
            ErrorType.BAD_DATA, f"Content-Encoding {coding!r} is not one of {known}", status=415
        )
    if (request.content_length or 0) > limit_bytes:
        raise too_large(limit_bytes)
    try:
        async with asyncio.timeout(timeout_s):
            raw = await _receive(request, limit_bytes, share)
    except TimeoutError:
        message = f"the body took longer than {timeout_s:g} s"
        raise ApiError(ErrorType.TIMEOUT, message, status=408) from None
    # aiohttp sets the count of compressed bytes if, and only if, it decompresses.
    decompressed = getattr(request.content, "total_compressed_bytes", None) is not None
    if not coding or coding in passthrough or decompressed:
        return raw
    return await _decompress(raw, coding, limit_bytes, share)


def too_large(limit_bytes: int) -> ApiError:
    return ApiError(ErrorType.BAD_DATA, f"the body is longer than {limit_bytes} bytes", status=413)


def _coding(request: web.Request) -> str:
    text = ",".join(request.headers.getall(hdrs.CONTENT_ENCODING, ())).strip().lower()
    return "" if text == "identity" else text


async def _receive(request: web.Request, limit_bytes: int, share: Share | None) -> bytes:
    chunks: list[bytes] = []
    received = 0
    try:
        async for chunk in request.content.iter_any():
            received += len(chunk)
            if received > limit_bytes:
                raise too_large(limit_bytes)
            if share is not None:
                share.take(len(chunk))
            chunks.append(chunk)
    except (web.RequestPayloadError, asyncio.IncompleteReadError) as error:
        raise ApiError(ErrorType.BAD_DATA, "the body is damaged or incomplete") from error
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


async def _decompress(raw: bytes, coding: str, limit_bytes: int, share: Share | None) -> bytes:
    decode = _DECODERS[coding]
    most = limit_bytes if coding == "zstd" else min(limit_bytes, len(raw) * _INFLATE_RATIO)
    if share is not None:
        share.take(most)
    body = (
        await asyncio.to_thread(decode, raw, limit_bytes)
        if most > _INLINE_BYTES
        else decode(raw, limit_bytes)
    )
    if share is not None:
        share.give_back(most - len(body))
    return body


def _gunzip(raw: bytes, limit_bytes: int) -> bytes:
    return _inflate(raw, limit_bytes, zlib.MAX_WBITS | 16)


def _undeflate(raw: bytes, limit_bytes: int) -> bytes:
    # By the book `deflate` has a zlib header (its first byte says 8), but many leave it out.
    has_header = raw[:1] and raw[0] & 0x0F == 8
    return _inflate(raw, limit_bytes, zlib.MAX_WBITS if has_header else -zlib.MAX_WBITS)


def _inflate(raw: bytes, limit_bytes: int, wbits: int) -> bytes:
    """Inflate one stream after the other; a gzip file may consist of several."""
    pieces: list[bytes] = []
    left, at, rest, streams = limit_bytes, 0, b"", 1
    stream = zlib.decompressobj(wbits)
    try:
        while rest or at < len(raw):
            if not rest:
                # In slices, as zlib copies whatever it is given and doesn't use.
                rest, at = raw[at : at + _SLICE_BYTES], at + _SLICE_BYTES
            if stream.eof:
                stream, streams = zlib.decompressobj(wbits), streams + 1
                if streams > _STREAMS_MAX:
                    raise _damaged()
            piece = stream.decompress(rest, left + 1)
            left -= len(piece)
            if left < 0:
                raise too_large(limit_bytes)
            pieces.append(piece)
            rest = stream.unused_data if stream.eof else stream.unconsumed_tail
    except zlib.error as error:
        raise _damaged() from error
    if not stream.eof:
        raise _damaged()
    return b"".join(pieces)


def _unzstd(raw: bytes, limit_bytes: int) -> bytes:
    from cramjam import DecompressionError, zstd

    # The decoder can't write beyond this. Fresh pages, and only those it touches, cost memory.
    out = mmap.mmap(-1, limit_bytes)
    try:
        return out[: zstd.decompress_into(raw, out)]
    except DecompressionError as error:
        if "whole buffer" in str(error):
            raise too_large(limit_bytes) from None
        raise _damaged() from error


def _damaged() -> ApiError:
    return ApiError(ErrorType.BAD_DATA, "the compressed body is damaged or incomplete")


_DECODERS: Final[dict[str, Callable[[bytes, int], bytes]]] = {
    "gzip": _gunzip,
    "x-gzip": _gunzip,
    "deflate": _undeflate,
}
if _HAS_ZSTD:
    _DECODERS["zstd"] = _unzstd
