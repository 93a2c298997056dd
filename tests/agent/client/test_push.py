"""The client's thread: addresses, beginning, ending, and what it leaves behind."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import aiohttp
import pytest

from support.client_agent import client_config, until, value_of
from tachograph.agent.app import Agent
from tachograph.agent.client import push
from tachograph.agent.client.address import Address
from tachograph.agent.client.push import Pusher
from tachograph.agent.client.registry import Registry

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/run/tachograph/client.sock", "/run/tachograph/client.sock"),
        ("unix:data/client.sock", "data/client.sock"),
        ("http://127.0.0.1:19797", "http://127.0.0.1:19797"),
        ("http://127.0.0.1:19797/", "http://127.0.0.1:19797"),
        ("http://localhost", "http://localhost:80"),
        ("http://[::1]:9000", "http://[::1]:9000"),
        (None, "http://127.0.0.1:19797"),
    ],
)
def test_addresses(text: str | None, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TACHOGRAPH_AGENT", raising=False)
    assert str(Address.of(text)) == shown


@pytest.mark.parametrize(
    "text",
    ["https://a", "http://", "http://a:b", "http://a:1/path", "http://a:70000", "127.0.0.1:19797"],
)
def test_what_is_no_address_is_said(text: str) -> None:
    with pytest.raises(ValueError, match=r"address|socket"):
        Address.of(text)


def test_the_environment_says_where_the_agent_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TACHOGRAPH_AGENT", "/run/a.sock")
    assert str(Address.of()) == "/run/a.sock"
    assert str(Address.of("/run/b.sock")) == "/run/b.sock"


def test_connecting_twice_is_connecting_once(tmp_path: Path) -> None:
    registry = Registry()
    address = str(tmp_path / "nobody.sock")
    first = push.connect(registry, address)
    assert push.connect(registry, address) is first
    assert sum(thread.name == "tachograph-client" for thread in threading.enumerate()) == 1
    other = push.connect(registry, str(tmp_path / "other.sock"))
    assert other is not first
    assert registry.reader is other
    push.disconnect()
    push.disconnect()
    assert registry.reader is None
    assert not push.flush()


def test_connecting_with_other_labels_is_connecting_anew(tmp_path: Path) -> None:
    registry = Registry()
    address = str(tmp_path / "nobody.sock")
    first = push.connect(registry, address, labels={"service": "a"})
    assert push.connect(registry, address, labels={"service": "a"}) is first
    assert push.connect(registry, address) is first
    assert push.connect(registry, address, labels={"service": "b"}) is not first
    push.disconnect()


@pytest.mark.parametrize("label", ["bad-name", "__name__", "", 5])
def test_labels_of_a_process_are_checked(label: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="connect: "):
        push.connect(Registry(), str(tmp_path / "nobody.sock"), labels={label: "x"})


async def test_open_and_closed_again_and_again_nothing_is_left(tmp_path: Path) -> None:
    async with Agent(client_config(tmp_path)) as agent:
        registry = Registry()
        jobs = registry.counter("jobs_total")
        pusher = Pusher(registry, Address.of(str(tmp_path / "client.sock")))

        async def once() -> None:
            pusher.start()
            jobs.inc()
            assert await asyncio.to_thread(pusher.flush), pusher.last_error
            await asyncio.to_thread(pusher.close)

        # The executor makes its threads and the agent's store its files on the way.
        for _ in range(10):
            await once()
        files = len(os.listdir("/proc/self/fd"))
        for _ in range(20):
            await once()
        async with asyncio.timeout(10):
            # The agent closes its side a moment later.
            # A few may have been opened for other ends; a leak would be one a round, at least.
            while len(os.listdir("/proc/self/fd")) > files + 5:
                await asyncio.sleep(0.01)
        assert not [each for each in threading.enumerate() if each.name == "tachograph-client"]
        pusher.start()
        async with aiohttp.ClientSession() as session:
            await until(lambda: value_of(session, agent.url, "jobs_total"), 30)
        await asyncio.to_thread(pusher.close)


async def test_a_peer_that_talks_nonsense_is_a_failure_like_any_other(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    answers = [b"\0\0\0\2{}", b"\xff\xff\xff\xff", b"\0\0\0\5hello", b""]

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answers.pop() if answers else b"")
        writer.close()

    server = await asyncio.start_unix_server(serve, str(path))
    registry = Registry()
    registry.counter("jobs_total").inc(3)
    pusher = Pusher(registry, Address.of(str(path)), interval_s=0.001, retry_max_s=0.001)
    pusher.start()
    async with asyncio.timeout(10):
        while answers:
            await asyncio.sleep(0.01)
    server.close()
    await asyncio.to_thread(pusher.close)
    assert pusher.failures
    assert pusher.messages == 0


def test_multiprocessing_children_count_for_themselves(tmp_path: Path) -> None:
    """Forked by multiprocessing, with an agent that hears of none of them: nobody hangs."""
    code = (
        "import multiprocessing, tachograph\n"
        "tachograph.connect('nowhere.sock', interval_s=0.01)\n"
        "c = tachograph.counter('a_total'); c.inc(5)\n"
        "def work(_): c.inc(); return c.value\n"
        "with multiprocessing.get_context('fork').Pool(3) as pool:\n"
        "    assert max(pool.map(work, range(30))) <= 30\n"
        "assert c.value == 5\n"
    )
    subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        cwd=tmp_path,
        timeout=30,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize("is_early", [True, False], ids=["before the fork", "in the child"])
async def test_pool_processes_that_end_have_told_everything(
    tmp_path: Path, method: str, is_early: bool
) -> None:
    """They end by ``os._exit``, past `atexit`; the interval says that nothing else told it."""
    (tmp_path / "jobs.py").write_text(
        "import sys, time, multiprocessing, tachograph\n"
        "from concurrent.futures import ProcessPoolExecutor\n"
        "JOBS = tachograph.counter('jobs_total')\n"
        "def begin(): tachograph.connect('client.sock', interval_s=60)\n"
        "def work(n):\n"
        "    assert tachograph.flush()  # past the first message of all\n"
        "    JOBS.inc(n)\n"
        "if __name__ == '__main__':\n"
        f"    if {is_early}: begin()\n"
        f"    context = multiprocessing.get_context('{method}')\n"
        "    with ProcessPoolExecutor(2, context, initializer=begin) as pool:\n"
        "        list(pool.map(work, [1] * 8))\n"
        "    pool = context.Pool(1, initializer=begin)\n"
        "    pool.map(work, [10])\n"
        "    pool.close()\n"
        "    pool.join()\n"
    )
    async with Agent(client_config(tmp_path)) as agent:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "jobs.py", cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}
        )
        assert await process.wait() == 0
        async with aiohttp.ClientSession() as session:
            await until(lambda: value_of(session, agent.url, "jobs_total"), 18)


async def test_processes_that_come_and_go_leave_no_slots_behind(tmp_path: Path) -> None:
    (tmp_path / "job.py").write_text(
        "import tachograph\n"
        "tachograph.connect('client.sock', interval_s=60)\n"
        "tachograph.counter('jobs_total').inc()\n"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    # With a registry of its own, as that of this process may have series, and so a slot.
    agent = Agent(client_config(tmp_path), registry=Registry())
    async with agent, aiohttp.ClientSession() as session:
        for _ in range(3):
            process = await asyncio.create_subprocess_exec(
                sys.executable, "job.py", cwd=tmp_path, env=env
            )
            assert await process.wait() == 0
        await until(lambda: value_of(session, agent.url, "jobs_total"), 3)
        async with asyncio.timeout(10):
            while agent.backends.intake.positions():
                await asyncio.sleep(0.01)


def test_once_the_agent_was_told_of_the_end_there_is_no_new_beginning(tmp_path: Path) -> None:
    registry = Registry()
    pusher = Pusher(registry, Address.of(str(tmp_path / "nobody.sock")))
    pusher.start()
    pusher.close(is_final=True)
    pusher.start()
    assert registry.reader is None


def test_a_connection_that_never_answers_is_given_up(tmp_path: Path) -> None:
    from tachograph.agent.client.connection import Connection, ConnectionFailed

    path = str(tmp_path / "a.sock")
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(path)
        silent.listen()
        connection = Connection(Address.of(path), 0.01)
        with pytest.raises(ConnectionFailed, match="timed out"):
            connection.call(b"{}")
        connection.close()
