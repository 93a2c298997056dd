"""Beside real peers: a Prometheus that scrapes us, a node_exporter that we scrape."""

from __future__ import annotations

import asyncio
import json
import shutil
import urllib.parse
from pathlib import Path
from typing import Any

import pytest

from support.programs import free_port, get, started
from tachograph.agent.app import Agent
from tachograph.config import Config, load_config

NODE_EXPORTER = shutil.which("prometheus-node-exporter")
PROMETHEUS = shutil.which("prometheus")


def _load(directory: Path, text: str) -> Config:
    file = directory / "tachograph.yml"
    file.write_text(text)
    return load_config(
        file, env={}, overrides=["listen=127.0.0.1:0", f"storage.path={directory / 'data'}"]
    )


async def _json(url: str, **params: str) -> Any:
    query = f"?{urllib.parse.urlencode(params)}" if params else ""
    _, text = await asyncio.to_thread(get, f"{url}{query}")
    return json.loads(text)


@pytest.mark.skipif(NODE_EXPORTER is None, reason="prometheus-node-exporter is not installed")
async def test_the_agent_scrapes_a_node_exporter(tmp_path: Path) -> None:
    assert NODE_EXPORTER is not None
    port = free_port()
    command = [NODE_EXPORTER, f"--web.listen-address=127.0.0.1:{port}"]
    with started(command, f"http://127.0.0.1:{port}/metrics", tmp_path / "node.log"):
        config = _load(
            tmp_path,
            "scrape_configs:\n"
            "  - job_name: node\n"
            "    scrape_interval: 1s\n"
            "    scrape_timeout: 1s\n"
            f"    static_configs: [{{targets: ['127.0.0.1:{port}']}}]\n",
        )
        async with Agent(config) as agent:
            points = f"{agent.url}/api/tachograph/v1/points"
            async with asyncio.timeout(20):
                while True:
                    answer = await _json(points, match='up{job="node"}')
                    rows = answer["data"]["result"]
                    if rows and [value for _, value in rows[0]["values"]][-2:] == ["1", "1"]:
                        break
                    await asyncio.sleep(0.1)
            (row,) = rows
            assert row["metric"] == {
                "__name__": "up",
                "instance": f"127.0.0.1:{port}",
                "job": "node",
            }
            scraped = await _json(points, match='scrape_samples_scraped{job="node"}')
            assert float(scraped["data"]["result"][0]["values"][-1][1]) > 300
            memory = await _json(points, match="node_memory_MemTotal_bytes")
            total = int(Path("/proc/meminfo").read_text().split()[1]) * 1024
            assert memory["data"]["result"][0]["values"][-1][1] == str(total)


@pytest.mark.skipif(PROMETHEUS is None, reason="prometheus is not installed")
async def test_a_prometheus_scrapes_the_agent_without_a_warning(tmp_path: Path) -> None:
    assert PROMETHEUS is not None
    async with Agent(_load(tmp_path, "namespace: oht50\n")) as agent:
        # A page with the host's figures in it, before Prometheus comes for it.
        async with asyncio.timeout(20):
            while (
                "oht50_memory_total_bytes"
                not in (await asyncio.to_thread(get, f"{agent.url}/metrics"))[1]
            ):
                await asyncio.sleep(0.05)
        port = free_port()
        (tmp_path / "prometheus.yml").write_text(
            "scrape_configs:\n"
            "  - job_name: tachograph\n"
            "    scrape_interval: 1s\n"
            "    scrape_timeout: 1s\n"
            "    honor_labels: true\n"
            f"    static_configs: [{{targets: ['127.0.0.1:{agent.server.port}']}}]\n"
        )
        command = [
            PROMETHEUS,
            f"--config.file={tmp_path / 'prometheus.yml'}",
            f"--storage.tsdb.path={tmp_path / 'prometheus'}",
            f"--web.listen-address=127.0.0.1:{port}",
        ]
        log = tmp_path / "prometheus.log"
        peer = f"http://127.0.0.1:{port}"
        started_peer = started(command, f"{peer}/-/ready", log)
        await asyncio.to_thread(started_peer.__enter__)
        try:
            async with asyncio.timeout(20):
                while True:
                    answer = await _json(f"{peer}/api/v1/query", query="oht50_memory_total_bytes")
                    if answer["data"]["result"]:
                        break
                    await asyncio.sleep(0.1)
            (target,) = (await _json(f"{peer}/api/v1/targets"))["data"]["activeTargets"]
            assert (target["health"], target["lastError"]) == ("up", "")
            total = int(Path("/proc/meminfo").read_text().split()[1]) * 1024
            assert answer["data"]["result"][0]["value"][1] == str(total)
            metadata = await _json(f"{peer}/api/v1/metadata", metric="oht50_memory_total_bytes")
            assert metadata["data"]["oht50_memory_total_bytes"][0]["type"] == "gauge"
        finally:
            await asyncio.to_thread(started_peer.__exit__, None, None, None)
        warnings = [
            line
            for line in log.read_text().splitlines()
            if "level=warn" in line and "scrape" in line
        ]
        assert warnings == []
