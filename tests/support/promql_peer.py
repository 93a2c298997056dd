"""A real Prometheus with a world in it, to ask the same questions."""

from __future__ import annotations

import contextlib
import http.client
import json
import shutil
import urllib.parse
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from support.programs import free_port, started
from support.promql_queries import Question
from support.promql_worlds import World
from tachograph.agent.wire import snappy
from tachograph.agent.wire.prompb import write_request
from tachograph.storage.model import Labels

PROMETHEUS: Final = shutil.which("prometheus")
#: Prometheus takes no sample older than an hour before the newest one.
_SLICE_MS: Final = 40 * 60_000
_HEADERS: Final = {
    "Content-Type": "application/x-protobuf",
    "Content-Encoding": "snappy",
    "X-Prometheus-Remote-Write-Version": "0.1.0",
}


class Peer:
    """Asks one Prometheus over one connection."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def close(self) -> None:
        self._connection.close()

    def write(self, world: World) -> None:
        """Remote-write a world in order of time."""
        end_ms = max(int(one.ts_ms[-1]) for one in world.series) + 1
        low_ms = min(int(one.ts_ms[0]) for one in world.series)
        while low_ms < end_ms:
            high_ms = low_ms + _SLICE_MS
            self.send(
                (
                    one.labels,
                    [
                        (value, ts)
                        for ts, value in zip(one.ts_ms.tolist(), one.values.tolist(), strict=True)
                        if low_ms <= ts < high_ms
                    ],
                )
                for one in world.series
            )
            low_ms = high_ms

    def send(self, rows: Iterable[tuple[Labels, Sequence[tuple[float, int]]]]) -> None:
        """Remote-write values and times of series."""
        body = snappy.compress(write_request(rows))
        status, answer = self._post("/api/v1/write", body, _HEADERS)
        assert status in (200, 204), answer

    def ask(self, question: Question) -> dict[str, Any]:
        """Return the JSON of an answer, also of one that is an error."""
        form = {"query": question.text}
        path = "/api/v1/query"
        if question.step_ms:
            path = "/api/v1/query_range"
            form["start"] = f"{question.start_ms / 1000:.3f}"
            form["end"] = f"{question.end_ms / 1000:.3f}"
            form["step"] = f"{question.step_ms / 1000:.3f}"
        else:
            form["time"] = f"{question.start_ms / 1000:.3f}"
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        _, answer = self._post(path, urllib.parse.urlencode(form).encode(), headers)
        document: dict[str, Any] = json.loads(answer)
        return document

    def _post(self, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
        self._connection.request("POST", path, body, headers)
        response = self._connection.getresponse()
        return response.status, response.read()


@contextlib.contextmanager
def running_peer(directory: Path, world: World | None = None) -> Iterator[Peer]:
    """Run a Prometheus, with a world in it if one is given, until the block ends."""
    assert PROMETHEUS is not None
    config = directory / "prometheus.yml"
    config.write_text("global: {scrape_interval: 1h}\n")
    port = free_port()
    command = [
        PROMETHEUS,
        f"--config.file={config}",
        f"--storage.tsdb.path={directory / 'tsdb'}",
        "--storage.tsdb.retention.time=100y",
        f"--web.listen-address=127.0.0.1:{port}",
        "--web.enable-remote-write-receiver",
        "--log.level=warn",
    ]
    with started(command, f"http://127.0.0.1:{port}/-/ready", directory / "prometheus.log"):
        peer = Peer(port)
        try:
            if world is not None:
                peer.write(world)
            yield peer
        finally:
            peer.close()
