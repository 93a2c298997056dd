"""
The backend of client_outage.py, which measures what holds its event loop; run as a program.

    python benchmarks/probed_backend.py SOCKET    with our client, which pushes to that agent
    python benchmarks/probed_backend.py -         the same without it

``--realtime`` behind that runs it before all other processes of the machine, which needs root.
Prints its port. ``GET /probe`` gives what was measured since it was last asked, as JSON. Linux.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import logging
import os
import resource
import struct
import sys
import threading
import time
from array import array
from collections.abc import Callable
from typing import Any, Protocol

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

#: Series that are there beside those of the requests, as in a backend of some age.
USERS = 1_000
ROUTES = 20
RECORD_EVERY = 10
MISSION_EVERY = 20
TICK_S = 0.001

Probes = dict[str, "Samples"]


class Samples:
    """Durations in nanoseconds: elapsed, and of the processor."""

    def __init__(self) -> None:
        self.wall, self.cpu = array("q"), array("q")

    def add(self, wall_ns: int, cpu_ns: int) -> None:
        self.wall.append(wall_ns)
        self.cpu.append(cpu_ns)

    def take(self) -> dict[str, Any]:
        """What was found since the last time, in microseconds."""
        taken = {
            "count": len(self.wall),
            "wall": spread(self.wall),
            "cpu": spread(self.cpu),
            "wall_over_1ms": sum(each > 1_000_000 for each in self.wall),
            "cpu_over_1ms": sum(each > 1_000_000 for each in self.cpu),
        }
        self.wall, self.cpu = array("q"), array("q")
        return taken


def spread(found: array[int]) -> list[float]:
    """The median, the 99th percentile, the 99.9th and the largest, in microseconds."""
    if not found:
        return [0.0] * 4
    ordered = sorted(found)
    at = [ordered[int(len(ordered) * share)] / 1000 for share in (0.5, 0.99, 0.999)]
    return [*at, ordered[-1] / 1000]


class Work(Protocol):
    """What a request's handler tells of its work."""

    def done(self, number: int) -> None: ...


class Untold:
    """The backend without a client."""

    def done(self, number: int) -> None:
        return None


class Told:
    """The backend with our client: counters, histograms, the ready-made metrics, values."""

    def __init__(self) -> None:
        import tachograph

        self.metrics = tachograph.BackendMetrics("shop")
        self._logins = tachograph.counter("logins_total", "Logins.", ("user",))
        self._size = tachograph.histogram(
            "basket_size", "Goods in a basket.", ("route", "payment"), bounds=(1, 2, 5, 10, 20, 50)
        )
        self._record = tachograph.record
        for user in range(USERS):
            self._logins.labels(str(user))

    def done(self, number: int) -> None:
        self._logins.labels(str(number % USERS)).inc()
        self._size.labels(str(number % ROUTES), str(number % 7)).observe(number % 60)
        self.metrics.telemetry("position", f"m{number % 50}", latency_s=0.02)
        if number % MISSION_EVERY == 0:
            self.metrics.mission_completed("transport", 12.5)
        if number % RECORD_EVERY == 0:
            self._record("basket_last", float(number))


# --- Probes -----------------------------------------------------------------------------------


def outer_and_inner(probe: Samples) -> tuple[Middleware, Middleware]:
    """
    Middlewares around the client's one: from their times ``probe`` gets what lies between.

    Nothing in between waits, so that it is one stretch before the handler and one behind it.
    """

    @web.middleware
    async def outer(request: web.Request, handler: Handler) -> web.StreamResponse:
        wall, cpu = time.perf_counter_ns(), time.thread_time_ns()
        response = await handler(request)
        end_cpu, end_wall = time.thread_time_ns(), time.perf_counter_ns()
        began_wall, began_cpu, left_wall, left_cpu = request["inner"]
        probe.add(
            (began_wall - wall) + (end_wall - left_wall), (began_cpu - cpu) + (end_cpu - left_cpu)
        )
        return response

    @web.middleware
    async def inner(request: web.Request, handler: Handler) -> web.StreamResponse:
        cpu, wall = time.thread_time_ns(), time.perf_counter_ns()
        response = await handler(request)
        request["inner"] = (wall, cpu, time.perf_counter_ns(), time.thread_time_ns())
        return response

    return outer, inner


def watch_steps(every: Samples, ours: Samples) -> None:
    """Time every callback of the event loop; ``ours`` gets those whose code is the client's."""
    run = asyncio.events.Handle._run

    def timed(self: asyncio.Handle) -> None:
        wall, cpu = time.perf_counter_ns(), time.thread_time_ns()
        callback = self._callback  # type: ignore[attr-defined]
        run(self)
        cpu, wall = time.thread_time_ns() - cpu, time.perf_counter_ns() - wall
        every.add(wall, cpu)
        if _is_ours(callback):
            ours.add(wall, cpu)

    asyncio.events.Handle._run = timed  # type: ignore[method-assign]


def _is_ours(callback: Any) -> bool:
    owner = getattr(callback, "__self__", None)
    if isinstance(owner, asyncio.Task):
        code = getattr(owner.get_coro(), "cr_code", None)
        return code is not None and "/agent/client/" in code.co_filename
    module = getattr(callback, "__module__", None) or type(owner).__module__
    return str(module).startswith("tachograph.") or type(owner).__module__.startswith("tachograph.")


def watch_sender(stretches: Samples) -> None:
    """
    Time the client's thread from where it gets the interpreter to where it gives it back.

    That is as long as the event loop can have to wait for it: everything the thread calls that
    waits is wrapped, and gives the interpreter back while it does.
    """
    from tachograph.agent.client import push
    from tachograph.agent.client.connection import Connection

    began: list[tuple[int, int]] = []

    def around(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **named: Any) -> Any:
            if threading.current_thread().name != "tachograph-client":
                return function(*args, **named)
            if began:
                wall, cpu = began.pop()
                stretches.add(time.perf_counter_ns() - wall, time.thread_time_ns() - cpu)
            try:
                return function(*args, **named)
            finally:
                began.append((time.perf_counter_ns(), time.thread_time_ns()))

        return call

    # Replaced from outside, as the client has no such hooks, and needs none.
    Connection.__init__ = around(Connection.__init__)  # type: ignore[method-assign]
    Connection.call = around(Connection.call)  # type: ignore[method-assign]
    threading.Event.wait = around(threading.Event.wait)  # type: ignore[method-assign]
    if hasattr(push, "sleep"):
        push.sleep = around(push.sleep)


class Ticker:
    """
    A timer of the kernel that wakes the loop every millisecond: how late is it seen?

    A lateness has many reasons. What the client's thread did since the tick before, by the clock of
    its processor time, is the most of it that it can be blamed for. The thread gives way several
    times meanwhile: a loop that has a core to run on waits for one stretch and not for their sum.
    """

    def __init__(self, late: Samples, blamed: Samples) -> None:
        self._late, self._blamed = late, blamed
        self._clock = -1
        self._cpu_ns = 0
        libc = ctypes.CDLL(None, use_errno=True)
        self._fd = libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK)
        tick_ns = round(TICK_S * 1e9)
        self._due_ns = time.monotonic_ns() + tick_ns
        first = (self._due_ns // 10**9, self._due_ns % 10**9)
        value = struct.pack("qqqq", 0, tick_ns, *first)
        is_absolute = 1
        if self._fd < 0 or libc.timerfd_settime(self._fd, is_absolute, value, None):
            raise OSError(ctypes.get_errno(), "no timer")
        asyncio.get_running_loop().add_reader(self._fd, self._tick)

    def follow(self, thread: threading.Thread) -> None:
        """Look at this thread's processor time, too."""
        assert thread.ident is not None
        self._clock = time.pthread_getcpuclockid(thread.ident)

    def _tick(self) -> None:
        (ticks,) = struct.unpack("Q", os.read(self._fd, 8))
        late_ns = time.monotonic_ns() - self._due_ns
        self._due_ns += ticks * round(TICK_S * 1e9)
        blamed_ns = 0
        if self._clock != -1:
            cpu_ns = time.clock_gettime_ns(self._clock)
            blamed_ns = min(late_ns, cpu_ns - self._cpu_ns)
            self._cpu_ns = cpu_ns
        self._late.add(late_ns, 0)
        self._blamed.add(blamed_ns, blamed_ns)


# --- The backend ------------------------------------------------------------------------------


async def main() -> None:
    address = sys.argv[1]
    if "--realtime" in sys.argv:
        go_before_others()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s")
    names = ("middleware", "calls", "steps", "client steps", "client thread", "late", "blamed")
    probes: Probes = {name: Samples() for name in names}
    middlewares = list(outer_and_inner(probes["middleware"]))
    work: Work = Untold()
    thread: threading.Thread | None = None
    if address != "-":
        import tachograph

        watch_sender(probes["client thread"])
        work = Told()
        middlewares.insert(1, tachograph.aiohttp_middleware(namespace="shop"))
        tachograph.instrument_loop("shop")
        pusher = tachograph.connect(address)
        thread = pusher._thread
    watch_steps(probes["steps"], probes["client steps"])

    async def item(request: web.Request) -> web.StreamResponse:
        number = int(request.match_info["item"])
        cpu, wall = time.thread_time_ns(), time.perf_counter_ns()
        work.done(number)
        wall, cpu = time.perf_counter_ns() - wall, time.thread_time_ns() - cpu
        probes["calls"].add(wall, cpu)
        return web.json_response({"item": number, "in_stock": True, "price": 12.5})

    async def probe(request: web.Request) -> web.StreamResponse:
        found: dict[str, Any] = {name: samples.take() for name, samples in probes.items()}
        found["rss_kib"] = rss_kib()
        found["rss_max_kib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        found["collections"] = [each["collections"] for each in gc.get_stats()]
        return web.json_response(found)

    app = web.Application(middlewares=middlewares)
    app.router.add_get("/shops/{shop}/items/{item}", item)
    whole = web.Application()
    whole.router.add_get("/probe", probe)
    whole.add_subapp("/v1", app)
    ticker = Ticker(probes["late"], probes["blamed"])
    if thread is not None:
        ticker.follow(thread)
    runner = web.AppRunner(whole, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await runner.cleanup()


def go_before_others() -> None:
    """Have this thread, and those that it makes, run before all usual ones."""
    os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))


def rss_kib() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024


if __name__ == "__main__":
    asyncio.run(main())
