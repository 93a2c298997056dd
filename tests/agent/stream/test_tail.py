"""`tachograph tail` against a real server: what is printed, and every way it can end."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import math
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator

import pytest

from support.clock import ManualClock
from support.stream import series_of
from support.stream_server import UP_B, Box, serve, until
from tachograph.agent.tail import tail
from tachograph.config.settings import StreamSettings
from tachograph.storage.clock import Clock

NOW_MS = 1_767_571_200_000


class Gate(ManualClock):
    """Lets `tail` connect again when a test says so; at once unless it is shut."""

    def __init__(self) -> None:
        super().__init__()
        self.is_open = asyncio.Event()
        self.is_open.set()

    async def sleep(self, seconds: float) -> None:
        await self.is_open.wait()


class Screen(io.StringIO):
    """A terminal whose reader can be waited for."""

    @property
    def lines(self) -> list[str]:
        return self.getvalue().splitlines()

    async def shows(self, count: int) -> None:
        await until(lambda: len(self.lines) >= count)


@contextlib.asynccontextmanager
async def following(
    box: Box, out: Screen, err: Screen, *selectors: str, clock: Clock | None = None, **options
) -> AsyncIterator[asyncio.Task[int]]:
    clock = clock or Gate()
    task = asyncio.create_task(
        tail(box.url, selectors or ["up"], out=out, err=err, clock=clock, **options)
    )
    try:
        yield task
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_current_values_then_changes_are_printed_until_the_count():
    out, err = Screen(), Screen()
    async with serve(ManualClock(NOW_MS)) as box:
        async with following(box, out, err, 'up{job="a"}', count=4) as task:
            await out.shows(1)
            for n, value in enumerate((2.5, math.nan, -math.inf, 7.0)):
                box.tick(n, value)
            assert await task == 0
        await until(lambda: box.hub.stats.connections == 0)
    assert out.lines == [
        '2026-01-04T23:59:59.000Z up{job="a"} 1',
        '2026-01-05T00:00:00.000Z up{job="a"} 2.5',
        '2026-01-05T00:00:00.001Z up{job="a"} NaN',
        '2026-01-05T00:00:00.002Z up{job="a"} -Inf',
    ]
    assert err.lines == []


async def test_json_lines():
    out = Screen()
    async with (
        serve(ManualClock(NOW_MS)) as box,
        following(box, out, Screen(), 'up{job="b"}', count=2, output="json") as task,
    ):
        await out.shows(1)
        box.store.append(NOW_MS, {UP_B: math.inf})
        assert await task == 0
    assert [json.loads(line) for line in out.lines] == [
        {"timestamp": time, "name": "up", "labels": {"job": "b"}, "value": value}
        for time, value in [("2026-01-04T23:59:59.000Z", 0.0), ("2026-01-05T00:00:00.000Z", "+Inf")]
    ]


@pytest.mark.parametrize("mode", ["latest", "all"])
async def test_a_lost_connection_is_opened_again_and_nothing_comes_twice(mode):
    out, err = Screen(), Screen()
    async with (
        serve(ManualClock(NOW_MS)) as box,
        following(box, out, err, 'up{job="a"}', mode=mode),
    ):
        await out.shows(1)
        box.tick(0, 10)
        await out.shows(2)
        for connection in tuple(box.server._connections):
            connection.cut()
        box.tick(1, 11)
        box.tick(2, 12)
        await out.shows(4 if mode == "all" else 3)
        box.tick(3, 13)
        await until(lambda: out.lines[-1].endswith(" 13"))
    values = [line.split()[-1] for line in out.lines]
    assert values == (["1", "10", "11", "12", "13"] if mode == "all" else ["1", "10", "12", "13"])
    assert ["connecting again" in line for line in err.lines] == [True]


async def test_what_cannot_be_caught_up_is_said_and_not_printed_twice():
    out, err, clock, gate = Screen(), Screen(), ManualClock(NOW_MS), Gate()
    async with serve(clock) as box, following(box, out, err, clock=gate):
        await out.shows(2)
        gate.is_open.clear()
        for connection in tuple(box.server._connections):
            connection.cut()
        await until(lambda: box.hub.stats.subscriptions == 0)
        await clock.advance(62_000)
        assert box.hub.is_idle
        box.tick(0, 10)
        gate.is_open.set()
        await out.shows(3)
    assert [line.split()[-1] for line in out.lines] == ["1", "0", "10"]
    assert "samples may be missing" in err.getvalue()


async def test_an_agent_that_is_not_there_is_exit_code_3():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    err = Screen()
    assert await tail(f"ws://127.0.0.1:{port}/ws/metrics", ["up"], out=Screen(), err=err) == 3
    assert "no agent answers" in err.getvalue()


async def test_a_server_without_such_a_stream_is_exit_code_3():
    err = Screen()
    async with serve() as box:
        assert await tail(box.url + "/other", ["up"], out=Screen(), err=err) == 3
    assert "404" in err.getvalue()


async def test_no_url_is_exit_code_2():
    assert await tail("127.0.0.1:1", ["up"], out=Screen(), err=Screen()) == 2


async def test_a_refused_selector_is_exit_code_1_and_says_where():
    err = Screen()
    async with serve() as box:
        assert await tail(box.url, ["up{"], out=Screen(), err=err) == 1
    assert "match[0]: 1:4: parse error" in err.getvalue()


async def test_labels_cannot_move_the_cursor():
    out = Screen()
    async with serve(ManualClock(NOW_MS)) as box:
        box.store.append(NOW_MS, {series_of("evil", x="\x1b[2J\x07ü\n"): 1.0})
        assert await tail(box.url, ["evil"], count=1, out=out, err=Screen()) == 0
    assert out.lines == ['2026-01-05T00:00:00.000Z evil{x="\\x1b[2J\\x07ü\\n"} 1']


async def test_lost_samples_and_warnings_are_noticed():
    out, err = Screen(), Screen()
    settings = StreamSettings(max_series=2)
    async with serve(ManualClock(NOW_MS), settings) as box, following(box, out, err):
        await out.shows(2)
        box.store.append(NOW_MS, {series_of("up", job="c"): 1.0})
        await until(lambda: "more than 2 series match" in err.getvalue())
        box.tick(1, 5)
        await out.shows(3)


async def test_a_full_agent_is_asked_again():
    out, err = Screen(), Screen()
    settings = StreamSettings(max_connections=0)
    async with serve(ManualClock(NOW_MS), settings) as box, following(box, out, err) as task:
        await until(lambda: len(err.lines) >= 2)
        assert not task.done()
    assert "4429" in err.getvalue()


SCRIPT = textwrap.dedent(
    """
    import asyncio, sys
    from tachograph.agent.tail import tail
    try:
        sys.exit(asyncio.run(tail(sys.argv[1], ["up"], out=sys.stdout)))
    except KeyboardInterrupt:
        sys.exit(130)
    """
)


async def start(box: Box) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-c", SCRIPT, box.url, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


async def test_an_interrupt_ends_it_without_a_word():
    async with serve() as box:
        process = await start(box)
        assert process.stdout is not None
        assert (await process.stdout.readline()).endswith(b" 1\n")
        process.send_signal(signal.SIGINT)
        _, complaints = await process.communicate()
        assert (process.returncode, complaints) == (130, b"")
        await until(lambda: box.hub.stats.connections == 0)


async def test_a_reader_who_leaves_ends_it_without_a_word():
    async with serve() as box:
        process = await start(box)
        assert process.stdout is not None
        await process.stdout.readline()
        process.stdout._transport.close()  # type: ignore[attr-defined]
        n = 0
        while process.returncode is None:
            n += 1
            box.tick(n, n)
            await asyncio.sleep(0.01)
        assert process.stderr is not None
        assert (process.returncode, await process.stderr.read()) == (0, b"")
