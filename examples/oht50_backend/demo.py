"""
``python -m oht50_backend.demo``: an agent, the backend and its load, until Ctrl-C.

Each is a process of its own, as in a real deployment. The backend is there first, so that the agent
finds all it is to collect; until then, what the backend has counted waits in its process. They are
stopped in the order of the data's flow, the load first, so that the agent has the last of its
figures, too.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Final

_ROOT: Final = Path(__file__).resolve().parents[2]
_CONFIG: Final = _ROOT / "config" / "examples" / "oht50.yml"
_START_S: Final = 30.0
_STOP_S: Final = 15.0
_POLL_S: Final = 0.05


class DemoError(Exception):
    """One of the processes did not start, or ended by itself."""


class _Stop(Exception):
    """A signal told us to end."""


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="oht50_backend.demo",
        description="Run an agent, the example backend and its load together.",
    )
    parser.add_argument("--data", type=Path, default=Path("data"), help="the agent's directory")
    parser.add_argument("--listen", default="127.0.0.1:19797", help="the agent's address")
    parser.add_argument("--port", type=int, default=8050, help="the backend's port (default: 8050)")
    parser.add_argument("--rate", type=float, default=20.0, help="requests a second (default: 20)")
    parser.add_argument("--counts", type=Path, help="file for what the load counts")
    parser.add_argument("--config", type=Path, default=_CONFIG, help="the agent's configuration")
    parser.add_argument(
        "agent_options", nargs="*", metavar="-- OPTION", help="more options of `tachograph run`"
    )
    args = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _on_signal)
    try:
        with (
            tempfile.TemporaryDirectory(prefix="oht50-") as folder,
            contextlib.ExitStack() as stack,
        ):
            _run(args, Path(folder), stack)
    except DemoError as error:
        print(f"oht50: {error}", file=sys.stderr)
        return 1
    except _Stop:
        return 0
    return 0


def _run(args: argparse.Namespace, folder: Path, stack: contextlib.ExitStack) -> None:
    host, _, port = args.listen.rpartition(":")
    _require_free(host, int(port), "--listen")
    _require_free("127.0.0.1", args.port, "--port")
    agent_url, backend_url = f"http://{args.listen}", f"http://127.0.0.1:{args.port}"
    counts = args.counts or folder / "counts.json"
    slack = folder / "slack"
    # The example's channel needs a webhook; nobody listens on this port.
    slack.write_text("http://127.0.0.1:9/no-slack-here\n")
    slack.chmod(0o600)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(
            filter(None, [str(_ROOT / "examples"), os.environ.get("PYTHONPATH")])
        ),
        "OHT50_PID_FILE": str(folder / "backend.pid"),
        "OHT50_BACKEND_URL": backend_url,
        "OHT50_SLACK_FILE": str(slack),
    }
    python = [sys.executable, "-m"]
    agent = [*python, "tachograph", "run", "--config", str(args.config), "--listen", args.listen]
    agent += ["--data", str(args.data), *args.agent_options]
    backend = [*python, "oht50_backend", "--port", str(args.port), "--agent", agent_url]
    backend += ["--pid-file", str(folder / "backend.pid"), "--database", str(folder / "oht50.db")]
    load = [*python, "oht50_backend.load", "--url", backend_url, "--rate", f"{args.rate:g}"]
    load += ["--counts", str(counts)]
    processes: dict[str, subprocess.Popen[bytes]] = {}
    for name in ("agent", "backend", "load"):  # what is named last is stopped first
        stack.callback(_stop, processes, name)
    _start(processes, "backend", backend, environment, f"{backend_url}/health")
    _start(processes, "agent", agent, environment, f"{agent_url}/-/ready")
    _start(processes, "load", load, environment, "")
    faults = f"{backend_url}/api/v1/faults"
    program = _program()
    option = "" if args.listen == "127.0.0.1:19797" else f" --url {agent_url}"
    print(
        f"agent    {agent_url}  (/metrics, /ws/metrics, /api/tachograph/v1/...)\n"
        f"backend  {backend_url}/api/v1/status\n"
        f"load     {args.rate:g} requests a second; its own counts: {counts}\n"
        f"faults   curl -X PUT {faults} -d '{{\"slow_database\": 0.2}}'  (GET shows all)\n"
        f"look     {program} tail 'oht50_missions_total'{option}\n"
        f"         {program} query 'oht50_mission_success_rate'{option}\n"
        "Ctrl-C stops all three",
        flush=True,
    )
    while all(process.poll() is None for process in processes.values()):
        time.sleep(_POLL_S)
    for process in processes.values():
        if process.poll() is not None:
            raise DemoError(f"ended by itself ({process.returncode}): {_shown(process)}")


def _require_free(host: str, port: int, option: str) -> None:
    """Another program's answer on our port must not pass for that of our own process."""
    host = host.strip("[]")
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise DemoError(f"{host}:{port}: {error.strerror}; choose another {option}") from None


def _start(
    processes: dict[str, subprocess.Popen[bytes]],
    name: str,
    command: Sequence[str],
    environment: dict[str, str],
    ready_url: str,
) -> None:
    """Start a process and wait until its URL answers."""
    # In a session of its own, so that the terminal's Ctrl-C reaches us alone: we keep the order.
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    processes[name] = process
    deadline_s = time.monotonic() + _START_S
    while ready_url and not _answers(ready_url):
        if process.poll() is not None:
            raise DemoError(f"did not start ({process.returncode}): {_shown(process)}")
        if time.monotonic() > deadline_s:
            raise DemoError(f"does not answer at {ready_url}: {_shown(process)}")
        time.sleep(_POLL_S)


def _stop(processes: dict[str, subprocess.Popen[bytes]], name: str) -> None:
    """Stop a process, if it was started."""
    process = processes.get(name)
    if process is None:
        return
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(_STOP_S)
    except (subprocess.TimeoutExpired, _Stop):  # or a second Ctrl-C: now it is meant
        process.kill()
        process.wait()


def _program() -> str:
    """The command `tachograph` as it is to be typed, of the environment that we run in."""
    beside = Path(sys.executable).with_name("tachograph")
    return shlex.quote(os.path.relpath(beside)) if beside.exists() else "tachograph"


def _answers(url: str) -> bool:
    # Proxies of the environment are not for loopback.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=2):
            return True
    except OSError:
        return False


def _shown(process: subprocess.Popen[bytes]) -> str:
    arguments = process.args
    return shlex.join(map(str, arguments)) if isinstance(arguments, list) else str(arguments)


def _on_signal(*_: object) -> None:
    raise _Stop


if __name__ == "__main__":
    sys.exit(main())
