"""A watched process as a source: one, or all of a name added up. Our own is one of them."""

from __future__ import annotations

import asyncio
import functools
import logging
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from ...config.settings import ProcessWatch
from ...storage.sink import Sink
from .connections import STATES, CountConnections, TableTooLarge, default_connection_counter
from .offload import CallHung, Offload
from .process_table import Process, ProcessGone, find_pids
from .tick import Block, Family, TickWriter, counter, gauge

LOG = logging.getLogger(__name__)

# Looking through all processes, or through all sockets of the host, costs milliseconds.
SEARCH_INTERVAL_S: Final = 60.0
CONNECTIONS_INTERVAL_S: Final = 60.0
# A process takes 0.1 ms to read, so the event loop gets its turn after 2 ms.
_PROCESSES_PER_TURN: Final = 20

_ALL: Final = "all processes of the watch together"
UP: Final = gauge("process_up", "1 if a process of the watch runs, else 0.")
COUNT: Final = gauge("process_members", "Processes of the watch that run.")
START: Final = gauge(
    "process_start_time_seconds", "When the oldest process of the watch began, in Unix time."
)
FD_USAGE: Final = gauge(
    "process_fd_usage_ratio",
    "Open file descriptors as share of the limit, 0 to 1, of the process that is nearest to it.",
)
CONNECTIONS: Final = gauge(
    "process_connections", f"TCP connections by state, {_ALL}; counted once a minute."
)

_CPU = counter("process_cpu_seconds_total", f"CPU time by mode: user, system; {_ALL}.")
_SWITCHES = counter(
    "process_context_switches_total", f"Context switches by kind: voluntary, involuntary; {_ALL}."
)
_FAULTS = counter(
    "process_page_faults_total", f"Page faults by kind: minor, major (from disk); {_ALL}."
)
#: Of each process these are added up; the word is :meth:`Process.read`'s.
_SUMMED: Final[dict[str, tuple[Family, dict[str, str]]]] = {
    "cpu_user": (_CPU, {"mode": "user"}),
    "cpu_system": (_CPU, {"mode": "system"}),
    "voluntary": (_SWITCHES, {"kind": "voluntary"}),
    "involuntary": (_SWITCHES, {"kind": "involuntary"}),
    "minor": (_FAULTS, {"kind": "minor"}),
    "major": (_FAULTS, {"kind": "major"}),
    "read_bytes": (counter("process_read_bytes_total", f"Read from disks, {_ALL}."), {}),
    "written_bytes": (counter("process_written_bytes_total", f"Written to disks, {_ALL}."), {}),
    "resident": (gauge("process_resident_memory_bytes", f"Resident memory, {_ALL}."), {}),
    "virtual": (gauge("process_virtual_memory_bytes", f"Virtual memory, {_ALL}."), {}),
    "threads": (gauge("process_threads", f"Threads, {_ALL}."), {}),
    "open_fds": (gauge("process_open_fds", f"Open file descriptors, {_ALL}."), {}),
    "max_fds": (gauge("process_max_fds", f"Open file descriptors allowed, {_ALL}."), {}),
}
_COUNTERS: Final = frozenset(
    word for word, (family, _) in _SUMMED.items() if family.name.endswith("_total")
)


class ReadableProcess(Protocol):
    """What is needed of a process; :class:`Process` is the real one."""

    @property
    def pid(self) -> int: ...

    def read(self) -> dict[str, float]: ...


class ProcessTotals:
    """
    Adds up readings of several processes so that counters never fall while one of them lives.

    What a process had counted when it ended stays in the totals: else a worker that ends would look
    like a counter that was reset, and ``rate()`` would take the rest of the sum for new. When all
    have ended the totals begin anew, so a single process always has the kernel's own numbers.
    """

    def __init__(self) -> None:
        self._last: dict[int, dict[str, float]] = {}
        self._ended: dict[str, float] = {}

    def update(self, readings: Mapping[int, Mapping[str, float]]) -> dict[str, float]:
        """Take the readings of all processes that live, by pid, and return the totals by word."""
        if not readings:
            self._last, self._ended = {}, {}
            return {}
        for pid in self._last.keys() - readings.keys():
            for word, value in self._last[pid].items():
                self._ended[word] = self._ended.get(word, 0) + value
        if not self._last.keys() & readings.keys():
            self._ended = {}
        self._last = {
            pid: {word: value for word, value in reading.items() if word in _COUNTERS}
            for pid, reading in readings.items()
        }
        totals: dict[str, float] = {}
        for reading in readings.values():
            for word, value in reading.items():
                if word in _SUMMED:
                    totals[word] = totals.get(word, self._ended.get(word, 0)) + value
        # The kernel gives hundredths of a second; the noise of adding floats only costs space.
        return {word: round(value, 2) for word, value in totals.items()}


@dataclass(slots=True)
class ProcessStats:
    """
    Attributes:
        processes: Found in the last pass.
        searches: How often the system was searched.
        ended: Processes that were seen to end.
        refused: Series that the store doesn't take, now.
    """

    processes: int = 0
    searches: int = 0
    ended: int = 0
    refused: int = 0


def own_process() -> ProcessWatch:
    """The watch of the process that we live in."""
    return ProcessWatch(name="tachograph", pid=os.getpid())


class ProcessSource:
    """
    CPU, memory, files, threads and connections of what a watch means.

    A process that isn't there is no failed pass: then ``process_up`` is 0 and all else ends. It is
    searched for again in each pass, and once a minute for more of the same name.

    Args:
        watch: Its ``interval_ms`` is the source's interval.
        find, attach, count_connections: How the system is asked.
    """

    backs_off = True
    reports_itself = False

    def __init__(
        self,
        sink: Sink,
        watch: ProcessWatch,
        *,
        namespace: str,
        timeout_s: float = 5.0,
        find: Callable[[ProcessWatch], Collection[int]] = find_pids,
        attach: Callable[[int], ReadableProcess] = Process,
        count_connections: CountConnections | None = None,
    ) -> None:
        self.name = f"process/{watch.name}"
        self.interval_s = watch.interval_ms / 1000
        self.timeout_s = timeout_s
        self.stats = ProcessStats()
        self._watch = watch
        self._identity = (watch, namespace, timeout_s)
        self._find, self._attach = find, attach
        self._count_connections = count_connections or default_connection_counter()
        self._offload = Offload(f"tachograph-{self.name}")
        self._writer = TickWriter(sink, self.name, namespace, {"process": watch.name})
        self._members: dict[int, ReadableProcess] = {}
        self._totals = ProcessTotals()
        self._passes_to_search = 0
        self._connections: dict[str, int] = {}
        self._connections_pids: frozenset[int] = frozenset()
        self._passes_to_connections = 0
        self._connections_work = True
        self._is_up: bool | None = None

    async def collect(self, ts_ms: int) -> None:
        """
        Raises:
            PidFileError, OSError, CallHung: The process can't be searched for.
            StoreUnavailable: The tick was not taken.
        """
        self._passes_to_search -= 1
        if self._passes_to_search < 0 or not self._members:
            await self._search()
        readings = await self._read_members()
        if not readings and self._is_up:
            await self._search()  # restarted between two passes, it is missing in neither
            readings = await self._read_members()
        self._note_state(bool(readings))
        if readings:
            await self._refresh_connections()
        self.stats.processes = len(readings)
        self._writer.write(ts_ms, self._blocks(readings))
        self.stats.refused = self._writer.refused

    async def close(self) -> None:
        self._offload.close()

    async def _search(self) -> None:
        self._passes_to_search = round(SEARCH_INTERVAL_S / self.interval_s) - 1
        self.stats.searches += 1
        call = functools.partial(self._find, self._watch)
        found = (await self._offload.run({"search": call}, self.timeout_s / 4))["search"]
        if isinstance(found, Exception):
            raise found
        self._members = {pid: self._members[pid] for pid in self._members if pid in found}
        for pid in found:
            if pid not in self._members:
                try:
                    self._members[pid] = self._attach(pid)
                except ProcessGone:
                    continue

    async def _read_members(self) -> dict[int, dict[str, float]]:
        """Read every process, and forget those that have ended."""
        readings: dict[int, dict[str, float]] = {}
        for number, (pid, member) in enumerate(list(self._members.items()), 1):
            try:
                readings[pid] = member.read()
            except ProcessGone:
                del self._members[pid]
                self.stats.ended += 1
            if number % _PROCESSES_PER_TURN == 0:
                await asyncio.sleep(0)
        return readings

    async def _refresh_connections(self) -> None:
        """Count connections if that is due, or if the processes are others than then."""
        self._passes_to_connections -= 1
        pids = frozenset(self._members)
        if self._passes_to_connections >= 0 and pids == self._connections_pids:
            return
        self._passes_to_connections = round(CONNECTIONS_INTERVAL_S / self.interval_s) - 1
        self._connections_pids = pids
        call = functools.partial(self._count_connections, pids)
        counts = (await self._offload.run({"connections": call}, self.timeout_s / 4))["connections"]
        if not isinstance(counts, Exception):
            self._connections, self._connections_work = counts, True
            return
        if not isinstance(counts, (OSError, CallHung, TableTooLarge)):
            raise counts
        self._connections = {}
        if self._connections_work:
            self._connections_work = False
            LOG.warning("connections of %s cannot be counted: %s", self.name, counts)

    def _blocks(self, readings: Mapping[int, Mapping[str, float]]) -> list[Block]:
        totals = self._totals.update(readings)
        words = tuple(totals)
        blocks = [
            Block("state", [float(bool(readings)), len(readings)], lambda: [(UP, {}), (COUNT, {})]),
            Block(words, list(totals.values()), lambda: [_SUMMED[word] for word in words]),
        ]
        starts = [reading["start_time"] for reading in readings.values() if "start_time" in reading]
        if starts:
            blocks.append(Block("start", [min(starts)], lambda: [(START, {})]))
        shares = [
            reading["open_fds"] / reading["max_fds"]
            for reading in readings.values()
            if "open_fds" in reading and reading.get("max_fds")
        ]
        if shares:
            blocks.append(Block("fds", [round(max(shares), 6)], lambda: [(FD_USAGE, {})]))
        if readings and self._connections:
            blocks.append(
                Block(
                    "connections",
                    [self._connections[state] for state in STATES.values()],
                    lambda: [(CONNECTIONS, {"state": state}) for state in STATES.values()],
                )
            )
        return blocks

    def _note_state(self, is_up: bool) -> None:
        if is_up is not self._is_up:
            if is_up and self._is_up is not None:
                LOG.info("%s is there again", self.name)
            elif not is_up:
                LOG.warning("%s is not there", self.name)
        self._is_up = is_up

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ProcessSource) and self._identity == other._identity

    def __hash__(self) -> int:
        return hash(self._identity)
