"""
Whether a backend feels that its agent stops for two minutes and comes back.

    python benchmarks/client_outage.py
    python benchmarks/client_outage.py --signal term --seconds-down 120 --seconds-up 60
    sudo python benchmarks/client_outage.py --realtime

Three processes: an agent, a backend that pushes to it, and the same backend without our client. One
driver sends both the same steady load, one request to each in turn, so that whatever else happens
on the machine shows in both. Times of requests are seen by the driver; the rest is measured in the
backends (probed_backend.py): what our code takes of a request, of the event loop's steps, and for
how long our thread keeps the interpreter, by the clock on the wall and by that of the processor,
which other processes don't move. ``--realtime`` keeps those away from driver and backends. Ends
with 1 if a count is wrong or something was logged.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from array import array
from pathlib import Path
from typing import Any

from probed_backend import MISSION_EVERY, RECORD_EVERY, ROUTES, USERS, spread

HERE = Path(__file__).resolve().parent
OVER_NS = 1_000_000
#: What the client may say: that its agent is gone, that it is back, that record() has its bound.
EXPECTED_LOG = ("metrics are kept until it is back", "is back", "values are dropped (full)")


class Backend:
    """A backend's process, and one connection to it."""

    def __init__(self, name: str, address: str, log: Path, *options: str) -> None:
        self.name, self.log = name, log
        self.took_ns = array("q")
        self.sent = 0
        with log.open("wb") as file:
            self._process = subprocess.Popen(
                [sys.executable, str(HERE / "probed_backend.py"), address, *options],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
            )
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())
        self._socket = socket.create_connection(("127.0.0.1", self.port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self) -> None:
        """Send one request, and take its time until the whole answer is there."""
        number = self.sent
        self.sent += 1
        request = (
            f"GET /v1/shops/{number % ROUTES}/items/{number} HTTP/1.1\r\n"
            "Host: localhost\r\nAccept: */*\r\n\r\n"
        ).encode()
        began_ns = time.perf_counter_ns()
        self._socket.sendall(request)
        answer = self._socket.recv(65536)
        while not answer.endswith(b"}"):
            part = self._socket.recv(65536)
            if not part:
                raise SystemExit(f"{self.name} closed the connection; see {self.log}")
            answer += part
        self.took_ns.append(time.perf_counter_ns() - began_ns)
        if not answer.startswith(b"HTTP/1.1 200 "):
            raise SystemExit(f"{self.name}: {answer!r}")

    def probe(self) -> dict[str, Any]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/probe") as response:
            found: dict[str, Any] = json.load(response)
        return found

    def complaints(self) -> list[str]:
        lines = self.log.read_text().splitlines()
        return [line for line in lines if not any(text in line for text in EXPECTED_LOG)]

    def end(self) -> None:
        self._socket.close()
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()


class AgentProcess:
    """The real command on a directory that stays."""

    def __init__(self, path: Path) -> None:
        self.path, self.log = path, path.with_suffix(".log")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = int(probe.getsockname()[1])
        self.url = f"http://127.0.0.1:{self._port}"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def socket(self) -> str:
        return str(self.path / "client.sock")

    def start(self) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "tachograph", "run", "--data", str(self.path)),
                    *("--listen", f"127.0.0.1:{self._port}", "--set", "log.level=error"),
                ],
                stdout=log,
                stderr=log,
            )

    def wait_ready(self) -> None:
        deadline_s = time.monotonic() + 60
        while time.monotonic() < deadline_s:
            try:
                with urllib.request.urlopen(f"{self.url}/-/ready"):
                    return
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.1)
        raise SystemExit(f"the agent does not start; see {self.log}")

    def end(self, number: int) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(number)
            process.wait(30)

    def values(self) -> dict[str, float]:
        """What ``/metrics`` shows, by name with labels."""
        with urllib.request.urlopen(f"{self.url}/metrics") as response:
            lines = response.read().decode().splitlines()
        found = {}
        for line in lines:
            if line and not line.startswith("#"):
                name, _, value = line.rpartition(" ")
                found[name] = float(value)
        return found

    def query(self, expression: str) -> float:
        url = f"{self.url}/api/v1/query?{urllib.parse.urlencode({'query': expression})}"
        with urllib.request.urlopen(url) as response:
            result = json.load(response)["data"]["result"]
        return float(result[0]["value"][1]) if result else 0.0


def drive(backends: list[Backend], seconds: float, rate: float) -> None:
    """Send ``rate`` requests a second to each, evenly, and never two at a time."""
    interval_s = 1 / rate
    due_s = time.monotonic()
    end_s = due_s + seconds
    while due_s < end_s:
        wait_s = due_s - time.monotonic()
        if wait_s > 0:
            time.sleep(wait_s)
        for backend in backends:
            backend.ask()
        backends.reverse()
        # After a pause of the machine there is no burst.
        due_s = max(due_s + interval_s, time.monotonic() - interval_s)


def report(phase: str, client: Backend, control: Backend) -> None:
    """Print what a phase has shown, and begin anew."""
    middle_ns = sorted(control.took_ns)[len(control.took_ns) // 2]
    print(f"\n{phase}\n{'request, µs':<34}{'count':>8}", end="")
    print(f"{'p50':>8}{'p99':>8}{'p99.9':>8}{'max':>8}{'>1ms':>7}{'>p50+1ms':>10}")
    for backend in (client, control):
        took = backend.took_ns
        p50, p99, p999, most = spread(took)
        over = sum(each > OVER_NS for each in took)
        over_middle = sum(each > middle_ns + OVER_NS for each in took)
        print(
            f"{backend.name:<34}{len(took):>8}{p50:>8.0f}{p99:>8.0f}{p999:>8.0f}{most:>8.0f}",
            end="",
        )
        print(f"{over:>7}{over_middle:>10}")
        backend.took_ns = array("q")
    found, bare = client.probe(), control.probe()
    print(f"{'inside, µs':<34}{'count':>8}", end="")
    print(f"{'CPU p50':>9}{'p99.9':>8}{'max':>8}{'>1ms':>6}{'wall p99.9':>12}{'max':>8}{'>1ms':>6}")
    rows = [
        ("our middleware, per request", found["middleware"]),
        ("our calls in the handler", found["calls"]),
        ("our callbacks on the loop", found["client steps"]),
        ("our thread with the interpreter", found["client thread"]),
        ("any step of the loop", found["steps"]),
        ("any step of the loop, control", bare["steps"]),
    ]
    for name, row in rows:
        cpu, wall = row["cpu"], row["wall"]
        print(f"{name:<34}{row['count']:>8}{cpu[0]:>9.0f}{cpu[2]:>8.0f}{cpu[3]:>8.0f}", end="")
        print(f"{row['cpu_over_1ms']:>6}{wall[2]:>12.0f}{wall[3]:>8.0f}{row['wall_over_1ms']:>6}")
    print(f"{'1 ms timer seen late by, µs':<34}{'count':>8}", end="")
    print(f"{'p50':>9}{'p99':>8}{'p99.9':>8}{'max':>8}{'>1ms':>7}")
    for name, row in (
        (client.name, found["late"]),
        (control.name, bare["late"]),
        ("of it our thread, all stretches", found["blamed"]),
    ):
        p50, p99, p999, most = row["wall"]
        print(f"{name:<34}{row['count']:>8}{p50:>9.0f}{p99:>8.0f}{p999:>8.0f}{most:>8.0f}", end="")
        print(f"{row['wall_over_1ms']:>7}")
    for name, row in ((client.name, found), (control.name, bare)):
        print(f"{name}: resident {row['rss_kib'] / 1024:.1f} MiB; ", end="")
        print(f"runs of the garbage collector so far, by generation: {row['collections']}")
    # Once more, for what the making of all this did to the timers.
    for backend in (client, control):
        time.sleep(0.2)
        backend.probe()


def wanted(requests: int) -> dict[str, float]:
    """What the agent must have counted, by PromQL expression."""
    route = 'method="GET",endpoint="/v1/shops/{shop}/items/{item}"'
    missions = -(-requests // MISSION_EVERY)
    return {
        f'shop_http_requests_total{{{route},status_code="200"}}': requests,
        f"shop_http_request_duration_seconds_count{{{route}}}": requests,
        "sum(logins_total)": requests,
        "count(logins_total)": USERS,
        "sum(basket_size_count)": requests,
        "sum(basket_size_sum)": sum(number % 60 for number in range(requests)),
        "sum(shop_telemetry_data_points_total)": requests,
        'shop_missions_total{status="completed"}': missions,
        "shop_mission_duration_seconds_sum": missions * 12.5,
    }


def check(agent: AgentProcess, requests: int, drops_max: int) -> bool:
    """Compare the agent's totals with what was sent, as soon as it stores them."""
    deadline_s = time.monotonic() + 40
    pairs = wanted(requests)
    while True:
        found = {expression: agent.query(expression) for expression in pairs}
        if found == pairs or time.monotonic() > deadline_s:
            break
        time.sleep(0.5)
    print(f"\n{'count':<82}{'sent':>10}{'agent':>10}")
    for expression, number in pairs.items():
        print(f"{expression:<82}{number:>10.0f}{found[expression]:>10.0f}")
    recorded = -(-requests // RECORD_EVERY)
    stored = agent.query("count_over_time(basket_last[1d])")
    dropped = agent.query('tachograph_client_dropped_total{reason="full"}')
    others = agent.query('sum(tachograph_client_dropped_total{reason!="full"})')
    print(f"{'record(): stored, and dropped by its bound':<82}{recorded:>10}", end="")
    print(f"{stored:>6.0f}+{dropped:.0f}")
    print(f"{'anything else dropped':<82}{0:>10}{others:>10.0f}")
    is_right = found == pairs and stored + dropped == recorded and not others
    return is_right and dropped <= drops_max


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--seconds-down", type=float, default=120.0)
    parser.add_argument("--seconds-up", type=float, default=60.0, help="before, and afterwards")
    parser.add_argument("--rate", type=float, default=200.0, help="requests a second to each")
    parser.add_argument("--signal", choices=("kill", "term"), default="kill")
    parser.add_argument("--realtime", action="store_true", help="needs root")
    options = parser.parse_args()
    more = ["--realtime"] if options.realtime else []
    number = signal.SIGKILL if options.signal == "kill" else signal.SIGTERM
    gc.disable()  # the driver's own pauses are not the backends'
    with tempfile.TemporaryDirectory() as directory:
        agent = AgentProcess(Path(directory, "agent"))
        backends: list[Backend] = []
        try:
            agent.start()
            agent.wait_ready()
            client = Backend("with our client", agent.socket, Path(directory, "client.log"), *more)
            backends.append(client)
            control = Backend("without", "-", Path(directory, "control.log"), *more)
            backends.append(control)
            if options.realtime:
                # The driver, too, but not the agent that it starts again.
                policy = os.SCHED_RR | os.SCHED_RESET_ON_FORK
                os.sched_setscheduler(0, policy, os.sched_param(1))
            drive(backends, 3.0, options.rate)
            for backend in backends:
                backend.took_ns = array("q")
                backend.probe()
            drive(backends, options.seconds_up, options.rate)
            report("the agent is there", client, control)
            agent.end(number)
            drive(backends, options.seconds_down, options.rate)
            report(f"the agent is gone, SIG{options.signal.upper()}", client, control)
            agent.start()
            drive(backends, options.seconds_up, options.rate)
            report("the agent starts and is there again", client, control)
            agent.wait_ready()
            # While it is gone record() keeps a thousand values, and says how many it didn't.
            drops_max = round((options.seconds_down + 60) * options.rate / RECORD_EVERY)
            is_right = check(agent, client.sent, drops_max)
            complaints = [line for backend in backends for line in backend.complaints()]
            print(f"\nlines logged beside those that are meant to be: {len(complaints)}")
            for line in complaints:
                print(f"    {line}")
        finally:
            for backend in backends:
                backend.end()
            agent.end(signal.SIGTERM)
    print("right" if is_right and not complaints else "WRONG")
    return 0 if is_right and not complaints else 1


if __name__ == "__main__":
    sys.exit(main())
