"""How many TCP connections processes hold, by state."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from typing import Final

import psutil

# TIME_WAIT and SYN_RECV are missing: such connections belong to the kernel and to no process.
#: States by their code in the kernel's tables (include/net/tcp_states.h), under common names.
STATES: Final[dict[bytes, str]] = {
    b"01": "established",
    b"02": "syn_sent",
    b"04": "fin_wait1",
    b"05": "fin_wait2",
    b"07": "close",
    b"08": "close_wait",
    b"09": "last_ack",
    b"0A": "listen",
    b"0B": "closing",
}
# A line is 150 bytes: some 200,000 sockets, for which parsing takes 0.2 s of a thread.
_TABLE_BYTES_MAX: Final = 32 * 1024 * 1024
_READ_BYTES: Final = 64 * 1024

CountConnections = Callable[[Iterable[int]], dict[str, int]]


class TableTooLarge(Exception):
    """The system has more sockets than are worth counting."""


def count_states(table: bytes, inodes: frozenset[bytes]) -> dict[str, int]:
    """Count the lines of ``/proc/net/tcp`` or ``tcp6`` whose socket is in ``inodes``, by state."""
    counts = dict.fromkeys(STATES.values(), 0)
    for line in table.splitlines()[1:]:
        fields = line.split(None, 10)
        if fields[9] in inodes and (state := STATES.get(fields[3])):
            counts[state] += 1
    return counts


def count_by_proc(pids: Iterable[int]) -> dict[str, int]:
    """
    Count on Linux: the sockets of the processes from their open files, the states from the tables.

    A table is read once per network namespace and not, as psutil does, once per process.

    Raises:
        OSError: Another user's process.
        TableTooLarge: There are more than some 200,000 sockets.
    """
    inodes: dict[int, set[bytes]] = {}  # by network namespace
    member: dict[int, int] = {}
    for pid in pids:
        try:
            namespace = os.stat(f"/proc/{pid}/ns/net").st_ino
            sockets = _socket_inodes(pid)
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended
        inodes.setdefault(namespace, set()).update(sockets)
        member[namespace] = pid
    totals = dict.fromkeys(STATES.values(), 0)
    for namespace, pid in member.items():
        for table in ("tcp", "tcp6"):
            try:
                data = _read(f"/proc/{pid}/net/{table}")
            except (FileNotFoundError, ProcessLookupError):
                continue  # it ended, or the kernel has no IPv6
            for state, count in count_states(data, frozenset(inodes[namespace])).items():
                totals[state] += count
    return totals


def count_by_psutil(pids: Iterable[int]) -> dict[str, int]:
    """Count elsewhere; a denied process counts as without connections."""
    totals = dict.fromkeys(STATES.values(), 0)
    for pid in pids:
        try:
            connections = psutil.Process(pid).net_connections(kind="tcp")
        except psutil.Error:
            continue
        for connection in connections:
            state = connection.status.lower()
            if state in totals:
                totals[state] += 1
    return totals


def default_connection_counter() -> CountConnections:
    return count_by_proc if sys.platform == "linux" else count_by_psutil


def _read(path: str) -> bytes:
    data = bytearray()
    # Not at once: for read() with the limit Python would allocate as much at every pass.
    with open(path, "rb", buffering=0) as file:
        while part := file.read(_READ_BYTES):
            data += part
            if len(data) > _TABLE_BYTES_MAX:
                raise TableTooLarge(f"{path} is longer than {_TABLE_BYTES_MAX} bytes")
    return bytes(data)


def _socket_inodes(pid: int) -> set[bytes]:
    folder = os.fsencode(f"/proc/{pid}/fd/")
    found: set[bytes] = set()
    for name in os.listdir(folder):
        try:
            target = os.readlink(folder + name)
        except FileNotFoundError:
            continue  # closed meanwhile
        if target.startswith(b"socket:["):
            found.add(target[8:-1])
    return found
