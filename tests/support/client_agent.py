"""Agents for tests of pushed metrics: quick ones, in this process or as one that can be killed."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp

from tachograph.config import Config
from tachograph.config.settings import CollectionSettings, MetricsSettings, SystemSettings

from .store import store_settings


def client_config(path: Path) -> Config:
    """An agent that writes its totals ten times a second and collects little else."""
    return Config(
        namespace="shop",
        listen="127.0.0.1:0",
        storage=store_settings(path, ack_interval_ms=20),
        metrics=MetricsSettings(
            system=SystemSettings(enabled=False),
            collection=CollectionSettings(performance_interval_ms=100),
        ),
    )


class AgentProcess:
    """The real command, on a port and a data directory that stay the same over restarts."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.socket = path / "client.sock"
        self.url = ""
        self._port = 0
        self._process: asyncio.subprocess.Process | None = None

    async def start(self, session: aiohttp.ClientSession) -> None:
        """Start it and wait until it is ready."""
        if not self._port:
            self._port = _free_port()
            self.url = f"http://127.0.0.1:{self._port}"
        settings = {
            "listen": f"127.0.0.1:{self._port}",
            "storage.path": str(self.path),
            "storage.ballast_bytes": "0",
            "storage.ack_interval": "20ms",
            "metrics.system.enabled": "false",
            "metrics.collection.performance_metrics_interval": "100ms",
            "log.level": "error",
        }
        options = [part for item in settings.items() for part in ("--set", "=".join(item))]
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tachograph", "run", *options
        )
        async with asyncio.timeout(30):
            while True:
                try:
                    async with session.get(f"{self.url}/-/ready") as response:
                        if response.status == 200:
                            return
                except aiohttp.ClientError:
                    pass
                await asyncio.sleep(0.05)

    async def kill(self) -> None:
        """As the kernel does it when memory is short."""
        await self._end("kill")

    async def stop(self) -> None:
        await self._end("terminate")

    async def _end(self, how: str) -> None:
        process, self._process = self._process, None
        if process is not None:
            getattr(process, how)()
            await process.wait()


async def value_of(session: aiohttp.ClientSession, url: str, series: str) -> float | None:
    """The value of a series on ``/metrics``, written as it stands there; ``None``: not there."""
    async with session.get(f"{url}/metrics") as response:
        for line in (await response.text()).splitlines():
            if line.startswith(f"{series} "):
                return float(line.rpartition(" ")[2])
    return None


async def until(read: Callable[[], Awaitable[float | None]], wanted: float) -> None:
    """Wait for a value; fail with what it is after ten seconds, or if it is more."""
    found = None
    try:
        async with asyncio.timeout(10):
            while (found := await read()) != wanted:
                assert found is None or found < wanted, f"{found}, not {wanted}"
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(f"{found}, not {wanted}") from None


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
