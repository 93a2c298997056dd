"""Totals over several processes are exact, whoever is killed: with real processes and agents."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from support import backend_workers
from support.client_agent import AgentProcess, client_config, until, value_of
from tachograph.agent.app import Agent

REQUESTS = 'shop_http_requests_total{endpoint="/items/{number}",method="GET",status_code="200"}'


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    # A connection for each request: a killed worker then takes none along that is idle.
    connector = aiohttp.TCPConnector(force_close=True, limit=16)
    async with aiohttp.ClientSession(connector=connector) as session:
        yield session


class Backend:
    """The forked workers of support/backend_workers.py."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self._process, self._port = process, port
        self.pids: list[int] = []

    @classmethod
    @asynccontextmanager
    async def started(cls, agent: str, workers: int) -> AsyncIterator[Backend]:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(backend_workers.__file__),
            agent,
            str(workers),
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        backend = cls(process, int(await process.stdout.readline()))
        try:
            for _ in range(workers):
                await backend.take_pid()
            yield backend
        finally:
            process.terminate()
            # To the pipe's end: the workers hold it, too, and go a little later.
            await process.communicate()

    async def take_pid(self) -> int:
        assert self._process.stdout is not None
        self.pids.append(int(await self._process.stdout.readline()))
        return self.pids[-1]

    async def load(self, session: aiohttp.ClientSession, requests: int) -> set[int]:
        """Send requests, 16 at a time; return the workers that answered."""
        numbers = iter(range(requests))
        answered: set[int] = set()

        async def client() -> None:
            for number in numbers:
                url = f"http://127.0.0.1:{self._port}/items/{number}"
                async with session.get(url) as response:
                    assert response.status == 200
                    answered.add(int(await response.text()))

        await asyncio.gather(*(client() for _ in range(16)))
        return answered


@pytest.mark.parametrize("way", ["socket", "http"])
async def test_four_forked_workers_of_which_one_is_killed(
    tmp_path: Path, session: aiohttp.ClientSession, way: str
) -> None:
    async with Agent(client_config(tmp_path)) as agent:
        address = str(tmp_path / "client.sock") if way == "socket" else agent.url
        async with Backend.started(address, 4) as backend:
            assert len(await backend.load(session, 400)) > 1
            await until(lambda: value_of(session, agent.url, REQUESTS), 400)
            os.kill(backend.pids[0], signal.SIGKILL)
            await backend.take_pid()
            await backend.load(session, 400)
            await until(lambda: value_of(session, agent.url, REQUESTS), 800)
            assert await value_of(session, agent.url, 'jobs_total{kind="before the fork"}') == 1
        # All have ended, and have told the last before they did.
        jobs = [await value_of(session, agent.url, f'jobs_total{{kind="{k}"}}') for k in range(3)]
        assert sum(filter(None, jobs)) == 1600


async def test_workers_that_end_under_load_have_told_everything(
    tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    async with Agent(client_config(tmp_path)) as agent:
        async with Backend.started(str(tmp_path / "client.sock"), 4) as backend:
            await backend.load(session, 500)
        # Not a moment to flush in: what is told now was told at their exit.
        await until(lambda: value_of(session, agent.url, REQUESTS), 500)


async def test_the_agent_is_killed_again_and_again_while_the_backend_works(
    tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    agent = AgentProcess(tmp_path)
    await agent.start(session)
    try:
        async with Backend.started(str(agent.socket), 4) as backend:
            sent = 0
            for _ in range(3):
                load = asyncio.create_task(backend.load(session, 600))
                await asyncio.sleep(0.4)  # anywhere in the load; the result may not depend on it
                await agent.kill()
                await load
                await agent.start(session)
                sent += 600
            await backend.load(session, 200)
            await until(lambda: value_of(session, agent.url, REQUESTS), sent + 200)
    finally:
        await agent.kill()


async def test_the_agent_is_stopped_for_a_while_and_totals_go_on(
    tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    agent = AgentProcess(tmp_path)
    await agent.start(session)
    try:
        async with Backend.started(str(agent.socket), 2) as backend:
            await backend.load(session, 300)
            await agent.stop()
            await backend.load(session, 300)
            await agent.start(session)
            await until(lambda: value_of(session, agent.url, REQUESTS), 600)
    finally:
        await agent.kill()


def test_a_process_that_never_finds_an_agent_ends_as_if_nothing_was(tmp_path: Path) -> None:
    code = (
        "import sys, tachograph\n"
        "tachograph.connect(sys.argv[1], interval_s=0.01)\n"
        "c = tachograph.counter('a_total')\n"
        "for _ in range(1000): c.inc(); tachograph.record('x', 1.0)\n"
        "print(c.value)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "nobody.sock")],
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    )
    assert (result.returncode, result.stdout) == (0, "1000.0\n")
    assert "Traceback" not in result.stderr
