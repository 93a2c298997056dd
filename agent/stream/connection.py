"""One open WebSocket: frames go out as fast as the client reads them, and no faster."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Final

from ...config.settings import StreamSettings
from .framing import Message
from .hub import Hub
from .protocol import INTERNAL_ERROR, Session

logger = logging.getLogger(__name__)

#: A client with more than this unsent gets nothing new until it has read most of it. That and one
#: message is what a stalled client costs us, beside the kernel's own buffers.
UNSENT_BYTES_MAX: Final = 64 * 1024


class Connection:
    """
    Writes prebuilt frames to the transport itself: that never waits, and takes a sixth less CPU
    than aiohttp's writer (5.4 against 6.5 us at 1,000 clients, benchmarks/stream_fanout.py).

    Args:
        scope: Ends the wait for the client's next message when the session decides to close.
        simple: As in :class:`Session`.
    """

    def __init__(
        self,
        hub: Hub,
        settings: StreamSettings,
        transport: asyncio.Transport,
        scope: asyncio.Timeout,
        now_s: float,
        *,
        deflate: bool,
        simple: Sequence[str] | None,
    ) -> None:
        self.is_blocked = False
        self._stats = hub.stats
        self._transport, self._scope, self._deflate = transport, scope, deflate
        self._unsent = 0
        self._free = asyncio.Event()
        self._free.set()
        self.session = Session(hub, settings, now_s, self.wake, simple=simple)

    def wake(self) -> None:
        """Send what was just published; the hub serves others after us, so nothing may escape."""
        try:
            self.pump()
        except Exception:
            logger.exception("live stream: a connection failed and is closed")
            self.session.close(INTERNAL_ERROR, "internal error")
            self._interrupt()

    def pump(self) -> None:
        """Write what there is, up to a bound."""
        if self.is_blocked:
            return
        next_message = self.session.next_message
        while (message := next_message()) is not None:
            self.write(message)
            if self.is_blocked:
                break
        if self.session.closing is not None:
            self._interrupt()

    def write(self, message: Message) -> None:
        transport, stats = self._transport, self._stats
        if transport.is_closing():
            return
        frame = message.deflated if self._deflate else message.frame
        transport.write(frame)
        stats.messages += len(message.payloads)
        stats.bytes += len(frame)
        unsent = transport.get_write_buffer_size()
        if unsent > UNSENT_BYTES_MAX:
            self._unsent = unsent
            self.is_blocked = True
            self._free.clear()

    def retry(self, now_s: float) -> None:
        """Look whether a blocked client has read on."""
        unsent = self._transport.get_write_buffer_size()
        if unsent < self._unsent:
            self._unsent = unsent
            self.session.heard(now_s)
        if unsent <= UNSENT_BYTES_MAX // 2:
            self.is_blocked = False
            self._free.set()
            self.wake()

    def poll(self, now_s: float) -> None:
        """Let the session ping or give up."""
        self.session.poll(now_s)
        self.wake()
        if self.session.closing is not None:
            self._interrupt()

    def close(self, code: int, reason: str) -> None:
        self.session.close(code, reason)
        self._interrupt()

    def cut(self) -> None:
        """Drop the socket and what was not sent."""
        self._transport.abort()

    @property
    def unsent_bytes(self) -> int:
        return self._transport.get_write_buffer_size()

    async def writable(self) -> None:
        """Wait until the client has read what it was sent: who asks must also listen."""
        await self._free.wait()

    def _interrupt(self) -> None:
        if self._scope.when() is None and not self._scope.expired():
            self._scope.reschedule(asyncio.get_running_loop().time())
