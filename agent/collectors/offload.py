"""Calls that may block, off the event loop; one that hangs costs its thread, nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable, Mapping
from typing import Final, Generic, TypeVar

T = TypeVar("T")

# Threads that may be stuck at a time, each with a stack of its own. A host with more dead network
# mounts than this has lost its file server, and more threads would tell no more.
HUNG_MAX: Final = 8


class CallHung(Exception):
    """A call did not return in time, or the same call of an earlier time still hangs."""


class _Batch(Generic[T]):
    """Calls for one thread, done in order; ``current`` is the one that it is in."""

    def __init__(self, calls: Mapping[str, Callable[[], T]]) -> None:
        self.calls = calls
        self.results: dict[str, T | Exception] = {}
        self.current = ""
        self.lock = threading.Lock()
        self.is_abandoned = False
        self.done = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def work(self) -> bool:
        """Do the calls; return False if they were given up meanwhile. Runs in the thread."""
        for key, call in self.calls.items():
            with self.lock:
                if self.is_abandoned:
                    return False
                self.current = key
            try:
                result: T | Exception = call()
            except Exception as error:  # belongs to whoever asked
                result = error
            with self.lock:
                if self.is_abandoned:
                    return False
                self.results[key] = result
        with contextlib.suppress(RuntimeError):  # the loop was closed
            self._loop.call_soon_threadsafe(self.done.set)
        return True

    def abandon(self) -> str | None:
        """Give up and return the key of the call that hangs; None if all are done after all."""
        with self.lock:
            if len(self.results) == len(self.calls):
                return None
            self.is_abandoned = True
            return self.current or next(iter(self.calls))


class _Worker(threading.Thread):
    """Works on batches until it is told to stop or its batch is given up."""

    def __init__(self, name: str) -> None:
        # A daemon: a thread stuck in the kernel must not keep the process from ending, as the
        # threads of concurrent.futures would.
        super().__init__(name=name, daemon=True)
        self.batches: queue.SimpleQueue[_Batch[object] | None] = queue.SimpleQueue()

    def run(self) -> None:
        while (batch := self.batches.get()) is not None:
            if not batch.work():
                return


class Offload:
    """
    Runs blocking calls one after another in a daemon thread.

    A call that doesn't return is left behind with its thread, and the calls after it go on in
    another; as long as it hangs, it isn't started again. Used by one task at a time.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._worker: _Worker | None = None
        self._hung: dict[str, _Worker] = {}

    @property
    def hung(self) -> list[str]:
        """Keys of the calls that hang now."""
        return [key for key, worker in self._hung.items() if worker.is_alive()]

    async def run(
        self, calls: Mapping[str, Callable[[], T]], timeout_s: float
    ) -> dict[str, T | Exception]:
        """
        Do ``calls`` and return their results by key; what a call raises is its result.

        A call that takes longer than ``timeout_s`` (up to twice as long goes unnoticed) has
        :class:`CallHung` for a result.
        """
        hung = self._hung = {key: self._hung[key] for key in self.hung}
        results: dict[str, T | Exception] = {
            key: CallHung(f"{key}: an earlier call still hangs") for key in calls if key in hung
        }
        pending = {key: call for key, call in calls.items() if key not in hung}
        while pending:
            if len(hung) >= HUNG_MAX:
                results |= {key: CallHung(f"{key}: too many calls hang") for key in pending}
                break
            batch = _Batch(pending)
            hung_key = await self._work(batch, timeout_s)
            results |= batch.results
            if hung_key is not None:
                results[hung_key] = CallHung(f"{hung_key}: no answer within {timeout_s:g} s")
            pending = {key: call for key, call in pending.items() if key not in results}
        return results

    def close(self) -> None:
        """End the idle thread; one that hangs ends when its call returns."""
        if self._worker is not None:
            self._worker.batches.put(None)
            self._worker.join(timeout=0.5)  # it is idle, so this takes microseconds
            self._worker = None

    async def _work(self, batch: _Batch[T], timeout_s: float) -> str | None:
        """Have the batch done; return the key of the call that hangs, if one does."""
        if self._worker is None:
            self._worker = _Worker(self._name)
            self._worker.start()
        self._worker.batches.put(batch)  # type: ignore[arg-type]  # the thread doesn't look inside
        done = -1
        try:
            while len(batch.results) > done:
                done = len(batch.results)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(timeout_s):
                        await batch.done.wait()
                        return None
        except asyncio.CancelledError:
            self._leave(batch)
            raise
        return self._leave(batch)

    def _leave(self, batch: _Batch[T]) -> str | None:
        key = batch.abandon()
        if key is not None:
            assert self._worker is not None
            self._hung[key] = self._worker
            self._worker = None
        return key
