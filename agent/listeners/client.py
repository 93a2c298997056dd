"""The Unix socket on which the backends of this box push their metrics."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from ...config.errors import TachographError
from ..ingest.client import MESSAGE_BYTES_MAX

log = logging.getLogger(__name__)

_LENGTH_BYTES: Final = 4
#: Clients send something every few seconds; this one is gone without closing.
_IDLE_S: Final = 120.0
_CONNECTIONS_MAX: Final = 512
# `sun_path` of Linux has 108 bytes, a zero among them.
_PATH_BYTES_MAX: Final = 107
# Who may enter the directory of the socket may push: the data directory is ours alone, another
# place is chosen by whoever sets `metrics.custom.socket`.
_MODE: Final = 0o666


class Intake(Protocol):
    async def answer(self, body: bytes) -> bytes:
        """Apply a message; return the answer. Raises TachographError if there is none."""
        ...


@dataclass(slots=True)
class ListenerStats:
    """
    Attributes:
        refused: Connections over the limit.
        broken: Connections ended by us, as what came was no message or couldn't be applied.
    """

    connections: int = 0
    refused: int = 0
    broken: int = 0


class ClientListener:
    """
    Takes messages from a socket: 4 bytes of length, big-endian, and JSON; answers come likewise.

    A path that can't be listened on is logged and leaves HTTP as the way in.
    """

    def __init__(self, intake: Intake, path: Path) -> None:
        self._intake, self.path = intake, path
        self.stats = ListenerStats()
        self._server: asyncio.Server | None = None
        self._inode = 0
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def is_listening(self) -> bool:
        return self._server is not None

    async def start(self) -> None:
        fault = self._fault()
        if fault:
            log.warning("no socket for backends: %s; they can still push over HTTP", fault)
            return
        try:
            # asyncio removes a socket file that is left over.
            self._server = await asyncio.start_unix_server(self._serve, str(self.path))
            self.path.chmod(_MODE)
            self._inode = self.path.stat().st_ino
        except OSError as error:
            log.warning("no socket for backends at %s: %s", self.path, error.strerror or error)

    async def stop(self) -> None:
        """Take no more and end the connections that are there. May be called twice."""
        server, self._server = self._server, None
        if server is None:
            return
        server.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await server.wait_closed()
        with contextlib.suppress(OSError):
            # Not another agent's, that took the place over.
            if self.path.stat().st_ino == self._inode:
                self.path.unlink()

    def _fault(self) -> str:
        """Say why the path can't be used; empty if it can."""
        if len(os.fsencode(self.path)) > _PATH_BYTES_MAX:
            return f"{self.path} is longer than {_PATH_BYTES_MAX} bytes; set metrics.custom.socket"
        try:
            mode = self.path.lstat().st_mode
        except OSError:
            return ""
        if not stat.S_ISSOCK(mode):
            return f"{self.path} is there, and no socket"
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(1.0)
            try:
                probe.connect(str(self.path))
            except OSError:
                return ""
        return f"another agent listens on {self.path}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            if self.stats.connections >= _CONNECTIONS_MAX:
                self.stats.refused += 1
                return
            self.stats.connections += 1
            try:
                await self._converse(reader, writer)
            finally:
                self.stats.connections -= 1
        except (asyncio.IncompleteReadError, ConnectionError, TimeoutError):
            pass  # gone; the client comes back if it lives
        except asyncio.CancelledError:
            pass  # by `stop`, which nobody but this task's own end answers
        except TachographError as error:
            self.stats.broken += 1
            log.debug("connection of a backend closed: %s", error)
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            async with asyncio.timeout(_IDLE_S):
                size = int.from_bytes(await reader.readexactly(_LENGTH_BYTES), "big")
                if size > MESSAGE_BYTES_MAX:
                    self.stats.broken += 1
                    return
                body = await reader.readexactly(size)
            answer = await self._intake.answer(body)
            writer.write(len(answer).to_bytes(_LENGTH_BYTES, "big") + answer)
            await writer.drain()
