"""A real Prometheus' answers, recorded, against ours: what Grafana, promtool and others ask."""

from __future__ import annotations

import gzip
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from yarl import URL

from support.api import Api, serving
from support.clock import ManualClock
from tachograph.config.settings import PromqlSettings

DATA = Path(__file__).resolve().parents[3] / ".." / "shared" / "conformance" / "http-api"

pytestmark = [
    pytest.mark.skipif(not DATA.exists(), reason="the recorded answers are not here"),
    pytest.mark.asyncio(loop_scope="module"),
]

#: Where we answer otherwise, and why.
ON_PURPOSE = {
    "GET /api/v1/status/buildinfo": "our own build, and a later version of the API",
    "GET /api/v1/status/config": "our own configuration",
    "GET /api/v1/query?query=up&time=1767573000&stats=all": "timings are of each run",
    "OPTIONS /api/v1/query": "CORS is closed",
    "GET /api/v1/query?query=1": "CORS is closed, and the time is now",
    "POST /-/reload": "the agent's own pages are tested with the agent",
    "GET /-/reload": "the agent's own pages are tested with the agent",
    "GET /metrics/../api/v1/query?query=1": "paths are not rewritten",
    "GET //api/v1/query?query=1": "paths are not rewritten",
}
#: Plain texts of our own wording.
PLAIN = {404, 405}


def goldens() -> list[Any]:
    if not DATA.exists():
        return []
    found: list[Any] = json.loads((DATA / "goldens.json").read_text())
    return found


def parse_openmetrics(text: str) -> dict[str, list[tuple[float, int]]]:
    series: dict[str, list[tuple[float, int]]] = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            name, value, seconds = line.rsplit(" ", 2)
            series.setdefault(name, []).append((float(value), round(float(seconds) * 1000)))
    return series


def in_order(answer: Any) -> Any:
    """Sort the series of a vector: nobody promises their order."""
    data = answer.get("data")
    if isinstance(data, dict) and data.get("resultType") == "vector":
        data["result"].sort(key=lambda series: sorted(series["metric"].items()))
    return answer


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Api]:
    text = gzip.decompress((DATA / "data.om.gz").read_bytes()).decode()
    series = parse_openmetrics(text)
    newest_ms = max(ts for samples in series.values() for _, ts in samples)
    settings = PromqlSettings(compat="prometheus2")
    clock = ManualClock(newest_ms + 60_000)
    path = tmp_path_factory.mktemp("store")
    async with serving(path, clock=clock, promql=settings) as api:
        await api.load(series)
        yield api


@pytest.mark.parametrize("golden", goldens(), ids=lambda g: f"{g['method']} {g['url']}")
async def test_answer_is_that_of_prometheus(api: Api, golden: dict[str, Any]) -> None:
    name = f"{golden['method']} {golden['url']}"
    if name in ON_PURPOSE:
        pytest.skip(ON_PURPOSE[name])
    headers = dict(golden["req_headers"])
    form = golden["form"]
    if form is not None and "Content-Type" not in headers:
        headers["Content-Type"] = "application/x-www-form-urlencoded"
    url = URL(api.base + golden["url"], encoded=True)
    async with api.session.request(
        golden["method"],
        url,
        data=None if form is None else form.encode(),
        headers={"Accept-Encoding": "identity", **headers},
        allow_redirects=False,
    ) as response:
        body = (await response.read()).decode()
    assert response.status == golden["status"], body
    assert response.headers["Content-Type"] == golden["resp_headers"]["Content-Type"]
    if response.status in PLAIN:
        allowed = golden["resp_headers"].get("Allow", "")
        ours = set(response.headers.get("Allow", "").replace(" ", "").split(","))
        assert ours == set(allowed.replace(" ", "").split(",")) - {"OPTIONS"} or not allowed
    elif golden["resp_headers"]["Content-Type"] == "application/json":
        expected = golden["body"].strip().replace("`^(?:", "`^(?s:")  # since Prometheus 3
        assert in_order(json.loads(body)) == in_order(json.loads(expected))
        assert sorted(body) == sorted(expected), "also in the spelling of numbers and texts"
    else:
        assert body == golden["body"]
