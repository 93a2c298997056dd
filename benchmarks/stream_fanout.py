"""What the live stream costs the server: 1 kB of news to 100 and 1,000 clients, with and without
one that stopped reading.

The server has a process of its own, the clients another, which only drains its sockets. Beside our
server, in the same run: as many bytes through aiohttp's ``send_str``, and as one prebuilt frame
written to every transport, which is the floor on aiohttp.

    python benchmarks/stream_fanout.py --clients 100,1000 --messages 300 --repeats 3
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import select
import socket
import statistics
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from aiohttp import web

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from support.stream import LiveStore, series_of
from tachograph.agent.stream.hub import Hub
from tachograph.agent.stream.server import PATH, StreamServer
from tachograph.config.settings import StreamSettings
from tachograph.storage.clock import SystemClock

KINDS = ("ours", "ours, 1 stalled", "aiohttp send_str", "aiohttp prebuilt")
#: So many series make a delta of 1 kB.
SERIES = 42
MESSAGE_BYTES = 1000
#: Messages a second to all clients together: some 60% of a core, so that nothing queues up.
DELIVERIES_PER_S = 40_000


class Served(Protocol):
    path: str
    routes: list[web.RouteDef]

    def connected(self) -> int: ...

    async def publish(self, n: int) -> None: ...


class Ours:
    def __init__(self, clients: int) -> None:
        settings = StreamSettings(max_connections=clients + 10)
        self.store = LiveStore()
        self.hub = self.store.hub = Hub(self.store, settings, SystemClock(), every_min_ms=0)
        self.server = StreamServer(self.hub, settings, SystemClock())
        self.refs = self._refs("fanout", SERIES)
        self.filler = self._refs("filler", 500)
        self.values = np.random.default_rng(1).random((1000, SERIES)) * 1000
        self.path, self.routes = PATH, self.server.routes()

    def connected(self) -> int:
        return self.hub.stats.subscriptions

    async def publish(self, n: int) -> None:
        self.hub.publish(self.refs, time.time_ns() // 1_000_000, self.values[n % 1000])

    async def fill(self) -> None:
        """Publish to the stalled client alone until the kernel takes no more of it."""
        n = 0
        while not self.server.unsent_bytes:
            n += 1
            values = np.full(len(self.filler), n / 7)
            self.hub.publish(self.filler, time.time_ns() // 1_000_000, values)
            await asyncio.sleep(0)

    def _refs(self, name: str, count: int) -> Any:
        return np.array([self.store.ref(series_of(name, n=str(n))) for n in range(count)], "u4")


class Bare:
    def __init__(self, kind: str) -> None:
        self.path, self.kind = "/", kind
        self.sockets: list[web.WebSocketResponse] = []
        self.transports: list[asyncio.Transport] = []
        self.routes = [web.get("/", self._serve)]

    def connected(self) -> int:
        return len(self.sockets)

    async def publish(self, n: int) -> None:
        text = json.dumps({"n": n}).ljust(MESSAGE_BYTES)
        if self.kind == "aiohttp send_str":
            for one in self.sockets:
                await one.send_str(text)
        else:
            frame = struct.pack("!BBH", 0x81, 126, len(text)) + text.encode()
            for transport in self.transports:
                transport.write(frame)

    async def _serve(self, request: web.Request) -> web.WebSocketResponse:
        one = web.WebSocketResponse(compress=False)
        await one.prepare(request)
        await one.receive()
        assert request.transport is not None
        self.sockets.append(one)
        self.transports.append(request.transport)
        await one.receive()
        return one


async def serve(kind: str, clients: int, messages: int) -> None:
    """The server process: prints its port, waits for everyone, publishes, prints the figures."""
    served: Served = Ours(clients) if kind.startswith("ours") else Bare(kind)
    app = web.Application()
    app.add_routes(served.routes)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, backlog=2048)
    await site.start()
    run = asyncio.create_task(served.server.run()) if isinstance(served, Ours) else None
    print(runner.addresses[0][1], flush=True)
    stalled = "stalled" in kind
    while served.connected() < clients + 2 * stalled:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    for n in range(10):
        await served.publish(n)
        await asyncio.sleep(0.02)
    base_kib = rss_kib()
    if stalled and isinstance(served, Ours):
        await served.fill()
    filled_kib = rss_kib()
    pace_s = clients / DELIVERIES_PER_S
    start_s, start_cpu_s = time.perf_counter(), time.process_time()
    for n in range(messages):
        await served.publish(n)
        await asyncio.sleep(max(0.0, start_s + (n + 1) * pace_s - time.perf_counter()))
    cpu_s, elapsed_s = time.process_time() - start_cpu_s, time.perf_counter() - start_s
    result = {
        "us": cpu_s / (messages * clients) * 1e6,
        "core": cpu_s / elapsed_s,
        "run_kib": rss_kib() - filled_kib,
        "stalled_kib": filled_kib - base_kib,
        "unsent_kib": served.server.unsent_bytes / 1024 if isinstance(served, Ours) else 0,
    }
    print(json.dumps(result), flush=True)
    sys.stdin.readline()
    if run is not None:
        run.cancel()


def drain(port: int, path: str, clients: int, stalled: int) -> None:
    """The client process: subscribe, then read whatever comes until stdin closes."""
    poll = select.epoll()
    links = {}
    for n in range(clients + stalled):
        link = connect(port, path, is_stalled=n >= clients)
        links[link.fileno()] = link
        if n < clients:
            poll.register(link.fileno(), select.EPOLLIN)
    poll.register(0, select.EPOLLIN)
    buffer = bytearray(1 << 18)
    received = 0
    while True:
        for fd, _ in poll.poll():
            if fd == 0:
                print(received, flush=True)
                return
            received += links[fd].recv_into(buffer)


def connect(port: int, path: str, *, is_stalled: bool) -> socket.socket:
    link = socket.socket()
    if is_stalled:
        link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    link.connect(("127.0.0.1", port))
    link.sendall(
        f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\n"
        "Connection: Upgrade\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
        "Sec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    head = b""
    while b"\r\n\r\n" not in head:
        head += link.recv(1)
    assert b" 101 " in head.split(b"\r\n")[0], head
    for sub_id, name in enumerate(["fanout", "filler"][: 1 + is_stalled], start=1):
        request = json.dumps({"op": "sub", "id": sub_id, "match": [name]}).encode()
        link.sendall(bytes((0x81, 0x80 | len(request))) + b"\0\0\0\0" + request)  # masked by zero
    link.setblocking(is_stalled)
    return link


def measure(kind: str, clients: int, messages: int) -> dict[str, float]:
    """Run one server and its clients; return the server's figures and the bytes a client got."""
    size = ("--clients", str(clients), "--messages", str(messages))
    with start("--serve", kind, *size) as server:
        port = hear(server)
        path = PATH if kind.startswith("ours") else "/"
        with start("--drain", port, path, str(clients), str(int("stalled" in kind))) as client:
            result: dict[str, float] = json.loads(hear(server))
            time.sleep(0.3)  # for what is on its way
            received = int(hear(client, nudge=True))
        assert server.stdin is not None
        server.stdin.close()
    return result | {"bytes": received / clients / (messages + 10)}


def start(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, os.path.abspath(__file__), *arguments]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def hear(process: subprocess.Popen[str], *, nudge: bool = False) -> str:
    assert process.stdin is not None
    assert process.stdout is not None
    if nudge:
        process.stdin.write("\n")
        process.stdin.flush()
    return process.stdout.readline().strip()


def rss_kib() -> int:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--clients", default="100,1000")
    parser.add_argument("--messages", type=int, default=300)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--drain", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        asyncio.run(serve(options.serve, int(options.clients), options.messages))
        return
    if options.drain:
        port, path, clients, stalled = options.drain
        drain(int(port), path, int(clients), int(stalled))
        return
    print(f"medians of {options.repeats}; CPU of the server process")
    print(
        "| clients | server | us a message | B a message | of a core | RSS growth, MiB | stalled |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for clients in map(int, options.clients.split(",")):
        for kind in KINDS:
            runs = [measure(kind, clients, options.messages) for _ in range(options.repeats)]
            row = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
            stalled = (
                f"{row['unsent_kib']:.0f} KiB unsent, +{row['stalled_kib'] / 1024:.1f} MiB RSS"
            )
            print(
                f"| {clients} | {kind} | {row['us']:.1f} | {row['bytes']:.0f} | {row['core']:.0%}"
                f" | {row['run_kib'] / 1024:.1f} | {stalled if 'stalled' in kind else ''} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
