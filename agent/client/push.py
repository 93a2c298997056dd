"""The thread that tells the agent on this box what the process has measured."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Mapping
from time import perf_counter, sleep
from typing import Any, Final

from .address import Address, is_disabled
from .connection import Connection, ConnectionFailed
from .names import label_fault
from .outbox import Answer, Outbox
from .registry import Registry, go_on

#: How long the agent may take to answer; its event loop may be busy, or the box asleep.
_TIMEOUT_S: Final = 5.0
# While there is no agent it is looked for this often at least: what is measured meanwhile waits in
# its series, at no cost, so there is no hurry.
_RETRY_MAX_S: Final = 5.0
# While this thread computes, no other runs Python code: it takes so much time at a stretch, and
# then gives way for as long as another thread may need to wake up. Left to itself, Python would let
# the backend's event loop wait for 5 ms (benchmarks/client_outage.py). Some machines are 10 times
# slower than others, so that this is a time and not a number of series.
_STRETCH_S: Final = 0.0002
_PAUSE_S: Final = 0.0002
# Rows of a message that are made JSON in one go, 50 µs if they are histograms.
_ROWS: Final = 25
#: How long a process that ends waits for the agent to take its last words.
_GOODBYE_S: Final = 1.0


class Pusher:
    """
    Hands a registry's metrics on every ``interval_s``, from a daemon thread.

    What the process counts is never delayed by it. Without an agent, totals go on growing in their
    series; only :meth:`Registry.record` values have a bound and are dropped beyond it, counted.
    """

    def __init__(
        self,
        registry: Registry,
        address: Address,
        *,
        labels: Mapping[str, str] | None = None,
        interval_s: float = 1.0,
        retry_max_s: float = _RETRY_MAX_S,
    ) -> None:
        self.registry, self.address = registry, address
        self._labels, self._interval_s = labels, interval_s
        self._retry_max_s = retry_max_s
        #: Flushes that failed in a row, and why the last one did.
        self.failures = 0
        self.last_error = ""
        self.messages = 0
        self._thread: threading.Thread | None = None
        self._connection: Connection | None = None
        self._begin()
        registry.on_fork(self._after_fork)

    @property
    def worker(self) -> str:
        """The name that this process has with the agent."""
        return self._outbox.worker

    @property
    def uncommitted(self) -> int:
        """Messages that the agent has not committed to its disk yet."""
        return self._outbox.uncommitted

    def serves(
        self, registry: Registry, address: Address, labels: Mapping[str, str] | None
    ) -> bool:
        """Whether this is what somebody wants who asks so; without labels, any will do."""
        is_alike = registry is self.registry and str(address) == str(self.address)
        return is_alike and (labels is None or dict(labels) == dict(self._labels or {}))

    def start(self) -> None:
        """Begin to hand on, unless somebody else does, or it is switched off."""
        if is_disabled() or self._thread is not None or self.registry.reader is not None:
            return
        if self._outbox.is_final:
            return  # the agent was told that there is nothing more to come
        # What the thread needs is imported here: were it in the middle of an import at a fork, the
        # child would have half a module.
        import json
        import logging

        self._dumps = json.JSONEncoder(separators=(",", ":")).encode
        self._loads = json.loads
        self._log = logging.getLogger("tachograph.client")
        self.registry.reader, self._is_closing = self, False
        self.registry.breathe = self._breathe
        self._thread = threading.Thread(target=self._run, name="tachograph-client", daemon=True)
        self._thread.start()
        _finish_with_process(self)

    def flush(self, timeout_s: float = _TIMEOUT_S) -> bool:
        """Hand on what there is now, and tell whether the agent has taken it in time."""
        if self._thread is None:
            return False
        done = threading.Event()
        self._waiting.append(done)
        self._wake.set()
        return done.wait(timeout_s) and not self.failures

    def close(self, timeout_s: float = _GOODBYE_S, *, is_final: bool = False) -> None:
        """
        Hand on the last and stop; afterwards somebody else may. May be called twice.

        Args:
            is_final: The process ends, and this can't be started again.
        """
        thread, self._thread = self._thread, None
        if thread is None:
            return
        self._outbox.is_final = is_final
        self._is_closing = True
        self._wake.set()
        thread.join(timeout_s)
        if self.registry.reader is self:
            self.registry.reader, self.registry.breathe = None, go_on

    # --- The thread ---------------------------------------------------------------------------

    def _begin(self) -> None:
        # Made anew in a forked child, where the parent's thread and its locks are no use.
        self._outbox = Outbox(
            self.registry, labels=self._labels, interval_ms=round(self._interval_s * 1000)
        )
        self._connection = None
        self._thread = None
        self._wake = threading.Event()
        self._waiting: list[threading.Event] = []
        self._is_closing = False
        self._resumed_s = 0.0

    def _after_fork(self) -> None:
        was_running, connection = self._thread is not None, self._connection
        if connection is not None:
            connection.close()  # our copy only; the parent goes on with its own
        self._begin()
        self.failures = 0
        if was_running:
            self.start()
            if "multiprocessing.util" in sys.modules:
                # Who forked us may be multiprocessing, which first forgets what its parent wanted
                # done at the end.
                sys.modules["multiprocessing.util"].register_after_fork(self, _finish_with_process)

    def _run(self) -> None:
        wait_s = 0.0
        while True:
            self._wake.wait(wait_s)
            self._resumed_s = perf_counter()
            self._wake.clear()
            waiting, self._waiting = self._waiting, []
            is_closing = self._is_closing
            self._attempt(is_last=is_closing)
            for done in waiting:
                done.set()
            if is_closing:
                return
            wait_s = self._interval_s
            if self.failures:
                wait_s = min(
                    max(self._interval_s, self._retry_max_s),
                    self._interval_s * 2 ** min(self.failures - 1, 8),
                )

    def _attempt(self, *, is_last: bool) -> None:
        """Hand on once. Nothing may end this thread, so everything is a failure to try again."""
        try:
            # A second time if the agent greets: it was restarted, or had given us up.
            for _ in range(3):
                if self._push(is_last=is_last):
                    break
            else:
                raise ConnectionFailed(f"agent at {self.address} does not take our messages")
            if self.failures:
                self._log.info("the agent at %s is back", self.address)
            self.failures = 0
            for complaint in self.registry.complaints():
                self._log.warning("%s", complaint)
        except Exception as error:
            self._disconnect()
            self.last_error = str(error) or type(error).__name__
            self._breathe()
            if not self.failures:
                self._log.warning("%s; metrics are kept until it is back", self.last_error)
            self.failures += 1
        if is_last:
            self._disconnect()

    def _push(self, *, is_last: bool) -> bool:
        if self._connection is None:
            timeout_s = _GOODBYE_S if is_last else _TIMEOUT_S
            self._connection = Connection(self.address, timeout_s)
        if not self._outbox.is_connected:
            self._outbox.answered(self._call(self._outbox.greeting()))
        for message in self._outbox.messages(is_last=is_last):
            if not self._outbox.answered(self._call(message)):
                return False
        return True

    def _call(self, message: Mapping[str, Any]) -> Answer:
        assert self._connection is not None
        body = encode(message, self._dumps, self._breathe)
        received = self._connection.call(body)
        self._resumed_s = perf_counter()
        answer = Answer.of(self._loads(received))
        self.messages += 1
        return answer

    def _breathe(self) -> None:
        """Let the backend's threads run, if they may have waited for a while."""
        if perf_counter() - self._resumed_s > _STRETCH_S:
            sleep(_PAUSE_S)
            self._resumed_s = perf_counter()

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        self._outbox.lost()
        if connection is not None:
            connection.close()


def encode(
    message: Mapping[str, Any], dumps: Callable[[Any], str], breathe: Callable[[], None]
) -> bytes:
    """Make a message JSON, a few rows at a time."""
    parts: list[str] = []
    for key, value in message.items():
        if isinstance(value, list):
            rows: list[str] = []
            for start in range(0, len(value), _ROWS):
                breathe()
                rows.append(dumps(value[start : start + _ROWS])[1:-1])
            parts.append(f'"{key}":[{",".join(rows)}]')
        else:
            parts.append(f'"{key}":{dumps(value)}')
    return f"{{{','.join(parts)}}}".encode()


def _finish_with_process(pusher: Pusher) -> None:
    """
    Hand on the last at the end of a pool's process: those end by ``os._exit``, past `atexit`.

    What makes pools is asked only where it is in use; it isn't imported for that.
    """
    modules = sys.modules
    pools, process = modules.get("multiprocessing.util"), modules.get("multiprocessing.process")
    if pools is not None and process is not None and process.parent_process() is not None:
        # After other finalizers, which may count.
        pools.Finalize(None, pusher.close, kwargs={"is_final": True}, exitpriority=-100)
    if "celery.signals" in modules:
        modules["celery.signals"].worker_process_shutdown.connect(
            lambda **_: pusher.close(is_final=True), weak=False, dispatch_uid="tachograph"
        )


_pusher: Pusher | None = None
_is_exit_registered = False


def connect(
    registry: Registry,
    address: str | os.PathLike[str] | None = None,
    *,
    labels: Mapping[str, str] | None = None,
    interval_s: float = 1.0,
) -> Pusher:
    """
    Begin to hand a registry's metrics to the agent; a second call with the same address is none,
    unless it gives other labels.

    Raises:
        ValueError: The address or a label's name can't be one.
    """
    global _pusher, _is_exit_registered
    wanted = Address.of(address)
    for label in labels or ():
        fault = label_fault(label)
        if fault:
            raise ValueError(f"connect: {fault}")
    if _pusher is not None:
        if _pusher.serves(registry, wanted, labels):
            _pusher.start()
            return _pusher
        _pusher.close()
    _pusher = Pusher(registry, wanted, labels=labels, interval_s=interval_s)
    _pusher.start()
    if not _is_exit_registered:
        import atexit

        _is_exit_registered = True
        atexit.register(_disconnect_finally)
    return _pusher


def disconnect() -> None:
    """Hand on the last and stop."""
    if _pusher is not None:
        _pusher.close()


def _disconnect_finally() -> None:
    if _pusher is not None:
        _pusher.close(is_final=True)


def flush(timeout_s: float = _TIMEOUT_S) -> bool:
    """Hand on what there is now; ``False`` if the agent has not taken it in time."""
    return _pusher is not None and _pusher.flush(timeout_s)
