"""TCP connections by state: the kernel's table, and real sockets of this process."""

from __future__ import annotations

import os
import socket
import sys

import pytest

from tachograph.agent.collectors.connections import (
    STATES,
    count_by_proc,
    count_by_psutil,
    count_states,
)

TABLE = b"""\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:4D55 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 111 1 f
   1: 0100007F:4D55 0100007F:9C40 01 00000000:00000000 00:00000000 00000000  1000        0 222 1 f
   2: 0100007F:4D55 0100007F:9C41 01 00000000:00000000 00:00000000 00000000  1000        0 333 1 f
   3: 0100007F:4D55 0100007F:9C42 06 00000000:00000000 03:000007D0 00000000     0        0 0 3 f
   4: 0100007F:4D55 0100007F:9C43 08 00000000:00000000 00:00000000 00000000  1000        0 444 1 f
   5: 0100007F:4D55 0100007F:9C44 0C 00000000:00000000 00:00000000 00000000  1000        0 555 1 f
"""


def positive(counts: dict[str, int]) -> dict[str, int]:
    return {state: count for state, count in counts.items() if count}


def test_only_sockets_of_the_processes_are_counted() -> None:
    counts = count_states(TABLE, frozenset({b"111", b"222", b"444", b"999"}))
    assert positive(counts) == {"listen": 1, "established": 1, "close_wait": 1}
    assert set(counts) == set(STATES.values())


def test_states_that_belong_to_no_process_are_passed_over() -> None:
    assert positive(count_states(TABLE, frozenset({b"0", b"555"}))) == {}


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_sockets_of_this_process_are_found_and_psutil_agrees() -> None:
    before = count_by_proc([os.getpid()])
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as client,
        server.accept()[0],
    ):
        counts = count_by_proc([os.getpid(), os.getpid()])
        assert counts == count_by_psutil([os.getpid()])
        assert counts["listen"] - before["listen"] == 1
        assert counts["established"] - before["established"] == 2
        client.shutdown(socket.SHUT_WR)
        assert count_by_proc([os.getpid()])["close_wait"] - before["close_wait"] == 1
    assert count_by_proc([os.getpid()]) == before


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_a_process_that_ended_has_no_connections() -> None:
    assert positive(count_by_proc([2**22 + 1])) == {}
