"""WebSocket frames (RFC 6455, RFC 7692) as a server writes them, built once for many clients."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from typing import Final

_TEXT: Final = 0x81  # final fragment, opcode 1
_DEFLATED: Final = 0x40  # RSV1
_PING: Final = 0x89
_PONG: Final = 0x8A

# Deflating a short message costs 40 us and saves nothing that fits into one packet anyway.
DEFLATE_BYTES_MIN: Final = 1024
# The window every client must be able to read unless it asks for a smaller one.
DEFLATE_WINDOW_BITS: Final = 15


class Message:
    """
    One or more text messages on their way to any number of clients.

    Attributes:
        payloads: UTF-8, one per WebSocket message; none in a control frame.
        frame: The bytes of all of them on the wire, not deflated.
    """

    __slots__ = ("_deflated", "frame", "payloads")

    def __init__(self, payloads: Sequence[bytes], frame: bytes | None = None) -> None:
        self.payloads = tuple(payloads)
        if frame is None:
            frame = b"".join([part for p in self.payloads for part in (_header(_TEXT, len(p)), p)])
        self.frame = frame
        self._deflated: bytes | None = None

    @property
    def deflated(self) -> bytes:
        """
        The bytes on the wire for a client that negotiated permessage-deflate.

        Each message is compressed by itself, so the result suits every such client: RFC 7692 lets
        a sender forget its window at any time. Short messages stay as they are.
        """
        if self._deflated is None:
            if len(self.payloads) != 1 or len(self.payloads[0]) < DEFLATE_BYTES_MIN:
                self._deflated = self.frame
            else:
                self._deflated = min(self.frame, _deflate(self.payloads[0]), key=len)
        return self._deflated


def text(payload: bytes) -> Message:
    """Return the message of one UTF-8 payload."""
    return Message((payload,))


PING: Final = Message((), bytes((_PING, 0)))


def pong(data: bytes) -> Message:
    """Answer a ping; ``data`` is what came with it, at most 125 bytes."""
    return Message((), bytes((_PONG, len(data))) + data)


def _header(first: int, length: int) -> bytes:
    if length < 126:
        return bytes((first, length))
    if length < 1 << 16:
        return struct.pack("!BBH", first, 126, length)
    return struct.pack("!BBQ", first, 127, length)


def _deflate(payload: bytes) -> bytes:
    compressor = zlib.compressobj(level=3, wbits=-DEFLATE_WINDOW_BITS)
    data = compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH)
    body = data[:-4]  # RFC 7692, 7.2.1: the empty block at the end is not sent
    return _header(_TEXT | _DEFLATED, len(body)) + body
