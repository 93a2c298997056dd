"""Reading threads: a few, each with a read-only connection of its own."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, TypeVar

from .errors import StoreUnavailable
from .sqlite import open_reader, translate

log = logging.getLogger(__name__)
T = TypeVar("T")

#: How long a closing store lets the reads go on that have begun. Whoever asked over HTTP has had
#: some seconds by then.
GRACE_S: Final = 3.0
#: How long it waits for them to end once they are cut off: each ends at its next statement.
_END_S: Final = 3.0
#: A statement may begin right after an interrupt, which then has missed it.
_INTERRUPT_EVERY_S: Final = 0.05


class Reader(sqlite3.Connection):
    """A connection that can be cut off from another thread: all that it is asked for then fails."""

    is_cut = False

    def cut(self) -> None:
        """End the statement that runs, if one does, and begin no other."""
        self.is_cut = True
        self.interrupt()

    def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
        if self.is_cut and sql != "ROLLBACK":
            raise StoreUnavailable("the store is closing")
        return super().execute(sql, *args)


class ReaderPool:
    """
    Runs reads in threads.

    Args:
        grace_s, end_s: How long :meth:`close` lets reads go on, and then waits for them to end.
    """

    def __init__(
        self, path: Path, threads: int, *, grace_s: float = GRACE_S, end_s: float = _END_S
    ) -> None:
        self._path = path
        self._grace_s, self._end_s = grace_s, end_s
        self._local = threading.local()
        self._connections: list[Reader] = []
        self._pool = ThreadPoolExecutor(threads, "tachograph-reader")
        self._running: set[Future[Any]] = set()
        self._closed = False

    def connection(self) -> Reader:
        """Return this thread's connection, opening it the first time."""
        connection: Reader | None = getattr(self._local, "connection", None)
        if connection is None:
            opened = open_reader(self._path, Reader)
            assert isinstance(opened, Reader)
            connection = self._local.connection = opened
            self._connections.append(connection)
        return connection

    async def run(self, job: Callable[[sqlite3.Connection], T]) -> T:
        """
        Run ``job`` in one of the threads. The job goes on when the wait for it is cancelled.

        Raises:
            StorageError: SQLite refused, or the store is being closed.
        """

        def call() -> T:
            if self._closed:
                raise StoreUnavailable(f"{self._path} is closed")
            connection = self.connection()
            try:
                return job(connection)
            except sqlite3.Error as error:
                if connection.is_cut:
                    raise StoreUnavailable("the store is closing") from error
                raise translate(error, self._path) from error

        if self._closed:
            raise StoreUnavailable(f"{self._path} is closed")
        future = self._pool.submit(call)
        self._running.add(future)
        future.add_done_callback(self._running.discard)
        return await asyncio.wrap_future(future)

    async def close(self) -> None:
        """
        Refuse the jobs that wait, let those that have begun go on for a moment, and cut them off
        then. One that does not even end then, as it computes and asks for nothing, is left behind:
        the process waits for it at its own end. May be called twice.
        """
        # Not `cancel_futures`: who waits would see a cancellation that nobody asked for.
        self._closed = True
        if not await self._end_within(self._grace_s):
            log.warning("%d reads are cut off, as the store is closing", len(self._running))
            for _ in range(max(1, round(self._end_s / _INTERRUPT_EVERY_S))):
                for connection in list(self._connections):
                    connection.cut()
                if await self._end_within(_INTERRUPT_EVERY_S):
                    break
            else:
                log.error("%d reads do not end and are left behind", len(self._running))
                self._pool.shutdown(wait=False)
                return
        await asyncio.to_thread(self._pool.shutdown, True)
        while self._connections:
            self._connections.pop().close()

    async def _end_within(self, seconds: float) -> bool:
        """Wait for all jobs to end, and tell whether they did."""
        loop, ended = asyncio.get_running_loop(), asyncio.Event()

        def tell(_: Future[Any]) -> None:
            with contextlib.suppress(RuntimeError):  # left behind, and the loop is gone
                loop.call_soon_threadsafe(ended.set)

        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while running := list(self._running):
                    ended.clear()
                    running[0].add_done_callback(tell)
                    await ended.wait()
        return not self._running
