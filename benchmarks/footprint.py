"""
What an idle agent takes: memory and CPU while it watches the host and scrapes one target.

    python benchmarks/footprint.py --series 1000 --interval 10s --seconds 180

The target is a process of its own. CPU and memory are the agent's own, from /proc; the first
``--settle`` seconds (imports, first passes) do not count.
"""

from __future__ import annotations

import argparse
import http.server
import multiprocessing
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path


def serve(port: int, series: int) -> None:
    """Serve a page of counters and gauges whose values move."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            tick = int(time.time())
            lines = ["# TYPE requests_total counter"]
            half = series // 2
            lines += [f'requests_total{{path="/p{i}"}} {tick * (i % 7 + 1)}' for i in range(half)]
            lines.append("# TYPE queue_size gauge")
            lines += [
                f'queue_size{{queue="q{i}"}} {(tick * (i + 3)) % 97}' for i in range(series - half)
            ]
            body = ("\n".join(lines) + "\n").encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            return None

    http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_mib(pid: int) -> dict[str, float]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    pairs = (line.split(":") for line in lines if line.startswith(("VmRSS", "RssAnon")))
    return {name: int(value.split()[0]) / 1024 for name, value in pairs}


def wait_ready(url: str) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            urllib.request.urlopen(f"{url}/-/ready", timeout=1).close()
            return
        except OSError:
            time.sleep(0.1)
    raise SystemExit("the agent did not start")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--series", type=int, default=1000)
    parser.add_argument("--interval", default="10s")
    parser.add_argument("--seconds", type=float, default=180)
    parser.add_argument("--settle", type=float, default=20)
    args = parser.parse_args()
    target_port, port = free_port(), free_port()
    target = multiprocessing.Process(target=serve, args=(target_port, args.series), daemon=True)
    target.start()
    with tempfile.TemporaryDirectory() as directory:
        config = Path(directory) / "tachograph.yml"
        config.write_text(
            "scrape_configs:\n"
            f"  - {{job_name: app, scrape_interval: {args.interval}, scrape_timeout: 5s,\n"
            f"     static_configs: [{{targets: ['127.0.0.1:{target_port}']}}]}}\n"
        )
        agent = subprocess.Popen(
            [
                *(sys.executable, "-m", "tachograph", "run", "--config", str(config)),
                *("--listen", f"127.0.0.1:{port}", "--data", f"{directory}/data"),
            ]
        )
        try:
            wait_ready(f"http://127.0.0.1:{port}")
            time.sleep(args.settle)
            started_s, used_s = time.monotonic(), cpu_s(agent.pid)
            time.sleep(args.seconds)
            used_s = cpu_s(agent.pid) - used_s
            passed_s = time.monotonic() - started_s
            page = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read()
            held = sum(not line.startswith(b"#") for line in page.splitlines())
            memory = memory_mib(agent.pid)
        finally:
            agent.terminate()
            agent.wait(30)
            target.terminate()
    print(f"{held} series on /metrics, {args.series} scraped every {args.interval}")
    print(f"CPU      {used_s / passed_s:8.3%} of a core over {passed_s:.0f} s")
    for name, size in memory.items():
        print(f"{name:8} {size:8.1f} MiB")


if __name__ == "__main__":
    main()
