"""An agent in a process of its own, as users run it."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from support.programs import free_port, get

_STOP_S = 20


class Running:
    """An agent in a process of its own."""

    def __init__(self, directory: Path, port: int, *more: str) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.log = directory / "agent.log"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "tachograph", "run"),
                    *("--listen", f"127.0.0.1:{port}", "--data", str(directory / "data"), *more),
                ],
                stderr=log,
                cwd=directory,
            )
        self.wait_ready()

    def wait_ready(self) -> None:
        for _ in range(400):
            with contextlib.suppress(OSError):
                get(f"{self.url}/-/ready")
                return
            assert self.process.poll() is None, self.log.read_text()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(0.05)
        raise AssertionError(self.log.read_text())

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(_STOP_S)


@contextlib.contextmanager
def running(directory: Path, *more: str) -> Iterator[Running]:
    agent = Running(directory, free_port(), *more)
    try:
        yield agent
    finally:
        if agent.process.poll() is None:
            agent.process.kill()
            agent.process.wait()
