"""Real WebSockets on loopback: aiohttp serves, two libraries and bare sockets listen."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import tracemalloc
import zlib
from collections.abc import AsyncIterator

import aiohttp
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.frames import Frame, Opcode

from support.clock import ManualClock
from support.stream import series_of
from support.stream_server import Box, serve, until
from tachograph.agent.stream.connection import UNSENT_BYTES_MAX, Connection
from tachograph.agent.stream.replica import Replica, ServerMessage, read_message
from tachograph.agent.stream.server import PATH
from tachograph.config.settings import StreamSettings

NOW_MS = 1_767_571_200_000


async def ask(client: ClientConnection, **message: object) -> None:
    await client.send(json.dumps(message))


async def hear(client: ClientConnection) -> ServerMessage:
    return read_message(await client.recv())


async def subscribe(client: ClientConnection, **message: object) -> Replica:
    await ask(client, op="sub", id=1, match=["up"], **message)
    assert (await hear(client)).op == "ok"
    replica = Replica()
    replica.apply(await hear(client))
    return replica


async def closed_with(client: ClientConnection) -> int | None:
    try:
        while True:
            await client.recv()
    except ConnectionClosed as closed:
        return closed.rcvd.code if closed.rcvd else None


async def test_two_libraries_receive_the_same_points():
    async with (
        serve() as box,
        connect(box.url) as one,
        aiohttp.ClientSession() as http,
        http.ws_connect(box.url) as other,
    ):
        replica = await subscribe(one, mode="all")
        await other.send_str(json.dumps({"op": "sub", "id": 1, "match": ["up"], "mode": "all"}))
        await other.receive_str()
        twin = Replica()
        twin.apply(read_message(await other.receive_str()))
        mine, theirs = [], []
        for n in range(50):
            box.tick(n, n / 3)
        while len(mine) < 50:
            mine += replica.apply(await hear(one))
        while len(theirs) < 50:
            theirs += twin.apply(read_message(await other.receive_str()))
        assert mine == theirs
        assert [value for _, _, value in mine] == [n / 3 for n in range(50)]
        assert replica.current == twin.current


async def test_a_client_may_say_hello_and_pings_like_any_websocket():
    async with serve() as box, connect(box.url) as client:
        await ask(client, op="hello")
        assert (await hear(client)).op == "ok"
        await ask(client, op="ping")
        assert (await hear(client)).op == "pong"
        await (await client.ping(b"are you there"))


@pytest.mark.parametrize("mode", ["latest", "all"])
async def test_a_stalled_client_costs_little_and_harms_nobody(mode):
    async with (
        serve() as box,
        connect(box.url, max_size=None) as fast,
        open_raw(box, is_stalled=True) as (reader, writer),
    ):
        many = {series_of("up", n=str(n)): 0.0 for n in range(500)}
        box.store.append(box.now_ms, many)
        writer.write(client_frame({"op": "sub", "id": 1, "match": ["up"], "mode": mode}))
        replica = await subscribe(fast, mode="all")
        ticks = 600  # some 7 MB, more than the kernel takes for a client that does not read
        most = 0
        for n in range(ticks):
            box.store.append(box.now_ms + n, {labels: n + k / 7 for k, labels in enumerate(many)})
            replica.apply(await hear(fast))
            most = max(most, box.server.unsent_bytes)
        assert UNSENT_BYTES_MAX < most < UNSENT_BYTES_MAX + 100_000
        assert replica.current[replica_slot(replica, "499")] == (
            box.now_ms + ticks - 1,
            ticks - 1 + 499 / 7,
        )
        behind, messages = Replica(), 0
        while behind.seq < replica.seq:
            message = read_message(await read_frame(reader))
            messages += message.op == "d"
            behind.apply(message)
        if mode == "latest":
            assert messages < ticks
        else:
            assert messages == ticks, "the ring still had them all"
        labelled = {behind.labels[slot]: sample for slot, sample in behind.current.items()}
        assert labelled == {replica.labels[s]: sample for s, sample in replica.current.items()}
        assert box.server.unsent_bytes == 0


async def test_a_stalled_client_of_all_is_told_what_it_lost():
    settings = StreamSettings(outbound_buffer_bytes=256 * 1024)
    async with (
        serve(settings=settings) as box,
        connect(box.url, max_size=None) as fast,
        open_raw(box, is_stalled=True) as (reader, writer),
    ):
        many = {series_of("up", n=str(n)): 0.0 for n in range(500)}
        box.store.append(box.now_ms, many)
        writer.write(client_frame({"op": "sub", "id": 1, "match": ["up"], "mode": "all"}))
        replica = await subscribe(fast, mode="all")
        for n in range(600):
            box.store.append(box.now_ms + n, {labels: n + k / 7 for k, labels in enumerate(many)})
            replica.apply(await hear(fast))
        behind, told, dropped = Replica(), 0, 0
        while behind.seq < replica.seq:
            message = read_message(await read_frame(reader))
            samples = behind.apply(message)
            told += len(samples) if message.op == "d" else 0
            dropped += message.dropped
        assert dropped > 0
        assert told + dropped == 600 * 500
        assert box.hub.stats.dropped["lag"] == dropped


async def test_a_client_that_comes_back_goes_on_where_it_was():
    async with serve() as box:
        async with connect(box.url) as client:
            replica = await subscribe(client, mode="all")
            box.tick(0, 10)
            seen = replica.apply(await hear(client))
        for n in range(1, 4):
            box.tick(n, 10 + n)
        async with connect(box.url) as client:
            since = {"epoch": replica.epoch, "seq": replica.seq}
            await ask(client, op="sub", id=1, match=["up"], mode="all", since=since)
            assert (await hear(client)).resumed
            while len(seen) < 4:
                seen += replica.apply(await hear(client))
        assert [value for _, _, value in seen] == [10, 11, 12, 13]


async def test_another_server_run_is_another_epoch():
    async with serve(ManualClock(NOW_MS)) as box, connect(box.url) as client:
        old = await subscribe(client)
    async with serve(ManualClock(NOW_MS + 5)) as box, connect(box.url) as client:
        since = {"epoch": old.epoch, "seq": old.seq}
        await ask(client, op="sub", id=1, match=["up"], since=since)
        assert not (await hear(client)).resumed
        assert (await hear(client)).reset


async def test_a_foreign_origin_is_refused_with_4403():
    async with serve() as box:
        async with connect(box.url, origin="http://evil.example") as client:
            assert await closed_with(client) == 4403
        assert box.hub.stats.refused == {"origin": 1}
        async with connect(box.url, origin=f"http://127.0.0.1:{box.port}") as client:
            await subscribe(client)


async def test_an_allowed_origin_may_connect():
    settings = StreamSettings(allowed_origins=("https://panel.example",))
    async with (
        serve(settings=settings) as box,
        connect(box.url, origin="https://panel.example") as client,
    ):
        await subscribe(client)


async def test_a_rebound_name_gets_403_before_the_handshake():
    async with serve() as box:
        with pytest.raises(InvalidStatus) as refused:
            await connect_as(box, "evil.example")
        assert refused.value.response.status_code == 403
        assert b"allowed_hosts" in (refused.value.response.body or b"")
    async with serve(allowed_hosts=["evil.example"]) as box:
        await (await connect_as(box, "evil.example")).close()
    async with serve(is_local=False) as box:
        await (await connect_as(box, "anything.example")).close()


async def test_a_request_that_is_no_handshake_gets_400():
    async with (
        serve() as box,
        aiohttp.ClientSession() as http,
        http.get(box.url.replace("ws:", "http:")) as response,
    ):
        assert response.status == 400


@pytest.mark.parametrize("size", [64 * 1024, 10 << 20])
async def test_an_oversized_message_closes_with_1009(size):
    async with serve() as box, connect(box.url) as client:
        with contextlib.suppress(ConnectionClosed):
            await client.send("x" * size)
        assert await closed_with(client) == 1009
        assert box.hub.stats.closed == {1009: 1}


async def test_an_oversized_message_in_fragments_closes_with_1009():
    async with serve() as box, connect(box.url) as client:
        with contextlib.suppress(ConnectionClosed):
            await client.send("x" * 1000 for _ in range(70))
        assert await closed_with(client) == 1009


async def test_a_deflate_bomb_closes_with_1009_and_takes_no_memory():
    squeeze = zlib.compressobj(wbits=-15)
    bomb = squeeze.compress(b" " * (64 << 20)) + squeeze.flush(zlib.Z_SYNC_FLUSH)
    agree = "Sec-WebSocket-Extensions: permessage-deflate\r\n"
    async with serve() as box, open_raw(box, "?deflate=1", agree) as (reader, writer):
        assert len(bomb) > 60_000
        frame = compressed_frame(bomb[:60_000])
        tracemalloc.start()
        try:
            writer.write(frame)
            assert await read_close(reader) == 1009
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 2 << 20


async def test_compressed_frames_nobody_agreed_on_are_a_protocol_error():
    async with serve() as box, open_raw(box) as (reader, writer):
        writer.write(compressed_frame(b"xx"))
        assert await read_close(reader) == 1002


async def test_deflate_is_used_only_when_asked_for():
    many = {series_of("up", n=str(n)): 0.0 for n in range(200)}
    async with serve() as box, aiohttp.ClientSession() as http:
        box.store.append(box.now_ms, many)
        async with connect(box.url) as client:
            assert "Sec-WebSocket-Extensions" not in client.response.headers
        async with (
            connect(box.url + "?deflate=1") as one,
            http.ws_connect(box.url + "?deflate=1", compress=15) as other,
        ):
            assert "permessage-deflate" in one.response.headers["Sec-WebSocket-Extensions"]
            assert other.compress == 15
            replica, twin = await subscribe(one), Replica()
            await other.send_str(json.dumps({"op": "sub", "id": 1, "match": ["up"]}))
            for _ in range(2):
                twin.apply(read_message(await other.receive_str()))
            sent = box.hub.stats.bytes
            for n in range(1, 4):
                box.store.append(box.now_ms + n, dict.fromkeys(many, n / 4))
                replica.apply(await hear(one))
                twin.apply(read_message(await other.receive_str()))
            assert replica.current == twin.current
            assert box.hub.stats.bytes - sent < 6 * 1000, "3 kB each before"


async def test_invalid_utf8_and_binary_are_refused():
    async with serve() as box:
        async with open_raw(box) as (reader, writer):
            writer.write(Frame(Opcode.TEXT, b"\xff\xfe").serialize(mask=True))
            assert await read_close(reader) == 1007
        async with connect(box.url) as client:
            await client.send(b"{}")
            assert await closed_with(client) == 4400


async def test_the_connection_above_the_limit_is_closed_with_4429():
    async with serve(settings=StreamSettings(max_connections=2)) as box:
        async with connect(box.url) as one, connect(box.url) as two:
            for client in (one, two):
                await subscribe(client)
            async with connect(box.url) as third:
                assert await closed_with(third) == 4429
            box.tick(0, 1)
            assert (await hear(one)).op == (await hear(two)).op == "d"
        async with connect(box.url) as again:
            await subscribe(again)


async def test_an_unknown_format_is_refused():
    async with serve() as box, connect(box.url + "?format=xml") as client:
        assert await closed_with(client) == 4400


async def test_shutdown_says_1001_to_everyone_and_ends_with_a_stalled_client():
    async with serve() as box, open_raw(box, is_stalled=True) as (_, writer):
        clients = [await connect(box.url) for _ in range(5)]
        for client in clients:
            await subscribe(client)
        writer.write(client_frame({"op": "sub", "id": 1, "match": ["up"], "mode": "all"}))
        many = {series_of("up", n=str(n)): 0.0 for n in range(5000)}
        listeners = [asyncio.create_task(closed_with(client)) for client in clients]
        while not box.server.unsent_bytes:
            box.now_ms += 1
            box.store.append(box.now_ms, dict.fromkeys(many, box.now_ms / 7))
            await asyncio.sleep(0)
        box.run.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await box.run
        assert await asyncio.gather(*listeners) == [1001] * 5
        assert box.hub.stats.connections == box.hub.stats.subscriptions == 0
        async with connect(box.url) as late:
            assert await closed_with(late) == 1013
        await box.server.close()


async def test_a_server_that_runs_again_takes_connections_again():
    async with serve() as box:
        box.run.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await box.run
        again = asyncio.create_task(box.server.run())
        await until(lambda: not box.server._is_closing)
        async with connect(box.url) as client:
            await subscribe(client)
        again.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await again


async def test_a_silent_client_is_closed_with_4408_but_not_in_the_simple_format():
    clock = ManualClock(NOW_MS)
    async with (
        serve(clock) as box,
        connect(box.url) as silent,
        connect(box.url + "?format=simple") as simple,
    ):
        for n in range(2):
            assert json.loads(await simple.recv())["type"] == "metric", n
        await until(lambda: box.hub.stats.connections == 2)
        await clock.advance(11_000)
        assert await closed_with(silent) == 4408
        box.tick(0, 5)
        assert json.loads(await simple.recv()) == {
            "type": "metric",
            "data": {"name": "up", "labels": {"job": "a"}, "value": 5.0},
            "timestamp": "2026-01-05T00:00:00.000Z",
        }


async def test_the_simple_format_takes_selectors_from_the_url():
    async with serve() as box:
        url = box.url + "?format=simple&match=up%7Bjob%3D%22b%22%7D"
        async with connect(url) as client:
            assert json.loads(await client.recv())["data"]["labels"] == {"job": "b"}
        async with connect(box.url + "?format=simple&match=up%7B") as client:
            assert await closed_with(client) == 4400


async def test_a_client_that_answers_no_ping_is_given_up():
    clock = ManualClock(NOW_MS)
    async with (
        serve(clock) as box,
        aiohttp.ClientSession() as http,
        http.ws_connect(box.url, autoping=False) as dead,
        connect(box.url) as alive,
    ):
        await dead.send_str('{"op":"hello"}')
        assert (await dead.receive()).data == '{"op":"ok"}'
        await subscribe(alive)
        for _ in range(2):
            await clock.advance(22_000)
            assert (await dead.receive()).type is aiohttp.WSMsgType.PING
            # Its pong is here once something later is.
            await ask(alive, op="ping")
            assert (await hear(alive)).op == "pong"
        await clock.advance(22_000)
        closed = await dead.receive()
        assert (closed.type, closed.data) == (aiohttp.WSMsgType.CLOSE, 4430)
        box.tick(0, 1)
        assert (await hear(alive)).op == "d"


async def test_fifty_connections_leave_nothing_behind():
    async with serve() as box:
        async with connect(box.url) as client:
            await subscribe(client)
        await until(lambda: box.hub.stats.connections == 0)
        tasks, files = len(asyncio.all_tasks()), len(os.listdir("/proc/self/fd"))
        for n in range(50):
            client = await connect(box.url)
            await subscribe(client)
            if n % 2:
                await client.close()
            else:
                client.transport.abort()
        await until(lambda: box.hub.stats.connections == 0)
        await until(lambda: len(asyncio.all_tasks()) <= tasks)
        assert len(os.listdir("/proc/self/fd")) <= files
        assert box.hub.stats.subscriptions == 0


async def test_a_connection_that_fails_is_closed_and_the_next_one_served(caplog):
    async with serve() as box, connect(box.url) as broken, connect(box.url) as well:
        await subscribe(broken)
        await subscribe(well)
        connection: Connection = next(iter(box.server._connections))

        def fail() -> None:
            raise RuntimeError("broken on purpose")

        connection.session.next_message = fail  # type: ignore[method-assign, assignment]
        box.tick(0, 1)
        assert (await hear(well)).op == "d"
        assert await closed_with(broken) == 1011
    assert "broken on purpose" in caplog.text


async def connect_as(box: Box, host: str) -> ClientConnection:
    return await connect(f"ws://{host}:{box.port}{PATH}", host="127.0.0.1", port=box.port)


@contextlib.asynccontextmanager
async def open_raw(
    box: Box, query: str = "", headers: str = "", *, is_stalled: bool = False
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Shake hands on a bare socket; a stalled one has small buffers and reads when told to."""
    link = socket.socket()
    if is_stalled:
        link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    link.connect(("127.0.0.1", box.port))
    reader, writer = await asyncio.open_connection(sock=link, limit=1024 if is_stalled else 1 << 16)
    try:
        writer.write(
            f"GET {PATH}{query} HTTP/1.1\r\nHost: 127.0.0.1:{box.port}\r\nUpgrade: websocket\r\n"
            "Connection: Upgrade\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
            f"Sec-WebSocket-Version: 13\r\n{headers}\r\n".encode()
        )
        assert b"101" in await reader.readuntil(b"\r\n\r\n")
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def client_frame(message: object) -> bytes:
    return Frame(Opcode.TEXT, json.dumps(message).encode()).serialize(mask=True)


def compressed_frame(payload: bytes) -> bytes:
    plain = Frame(Opcode.TEXT, payload).serialize(mask=True)
    return bytes((plain[0] | 0x40,)) + plain[1:]  # RSV1


async def read_frame(reader: asyncio.StreamReader) -> bytes:
    """Read one data frame of the server, which masks none and splits none."""
    while True:
        first, length = await reader.readexactly(2)
        if length >= 126:
            length = int.from_bytes(await reader.readexactly(2 if length == 126 else 8), "big")
        payload = await reader.readexactly(length)
        if first == 0x81:
            return payload
        if first == 0x88:
            raise EOFError(payload)


async def read_close(reader: asyncio.StreamReader) -> int:
    try:
        while True:
            await read_frame(reader)
    except EOFError as closed:
        return int.from_bytes(closed.args[0][:2], "big")


def replica_slot(replica: Replica, n: str) -> int:
    return next(slot for slot, labels in replica.labels.items() if labels.get("n") == n)
