"""Real programs against an agent in a process of its own: they write to it, and they ask it."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support import prometheus_pb as pb
from support.agent_process import Running, running
from support.programs import free_port, get, started
from tachograph.agent.wire import snappy
from tachograph.storage.frame import STALE_NAN

PROGRAMS = ("prometheus", "promtool", "prometheus-node-exporter", "vmagent", "vmalert")
_WAIT_S = 30.0
NOW_S = int(time.time()) // 60 * 60 - 60


def needs(*names: str) -> pytest.MarkDecorator:
    missing = [name for name in names if shutil.which(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"{', '.join(missing)} is not installed")


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("agent"), "--set", "storage.ack_interval=50ms") as agent:
        write(
            agent,
            *(
                pb.series(
                    {"__name__": "requests_total", "job": "api", "variant": variant},
                    [((NOW_S - 15 * i) * 1000, float(100 - i)) for i in range(40, -1, -1)],
                )
                for variant in ("200", "500")
            ),
            pb.series({"__name__": "odd", "l": 'quo"te'}, [(NOW_S * 1000, math.inf)]),
            pb.series({"__name__": "gone"}, [(NOW_S * 1000 - 1, 1.0), (NOW_S * 1000, STALE_NAN)]),
        )
        yield agent


def write(agent: Running, *series: Any) -> None:
    import urllib.request

    request = urllib.request.Request(
        f"{agent.url}/api/v1/write",
        snappy.compress(pb.write_request(*series)),
        {"Content-Type": "application/x-protobuf", "Content-Encoding": "snappy"},
        method="POST",
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request) as response:
        assert response.status == 204


def ask(url: str, path: str, **params: str) -> Any:
    query = urllib.parse.urlencode(params)
    _, text = get(f"{url}/api/v1/{path}?{query}")
    answer = json.loads(text)
    assert answer["status"] == "success", answer
    return answer["data"]


def until(url: str, query: str, wanted: float) -> None:
    """Wait until a query's first value is at least ``wanted``."""
    deadline = time.monotonic() + _WAIT_S
    while True:
        result = ask(url, "query", query=query)["result"]
        if result and float(result[0]["value"][1]) >= wanted:
            return
        assert time.monotonic() < deadline, f"{query} gives {result}"
        time.sleep(0.1)


def by_series(result: list[Any]) -> dict[str, Any]:
    return {json.dumps(each["metric"], sort_keys=True): each["values"] for each in result}


# --- promtool --------------------------------------------------------------------------------


def promtool(agent: Running, *args: str) -> str:
    command = ["promtool", "query", *args[:1], agent.url, *args[1:]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@needs("promtool")
def test_promtool_asks_for_values(agent: Running) -> None:
    out = promtool(agent, "instant", f"--time={NOW_S}", "sum by (variant) (requests_total)")
    assert out.splitlines() == [
        f'{{variant="200"}} => 100 @[{NOW_S}]',
        f'{{variant="500"}} => 100 @[{NOW_S}]',
    ]
    out = promtool(agent, "instant", f"--time={NOW_S}", "odd")
    assert "+Inf" in out
    assert not promtool(agent, "instant", f"--time={NOW_S}", "gone").strip()
    out = promtool(
        agent,
        "range",
        f"--start={NOW_S - 30}",
        f"--end={NOW_S}",
        "--step=15s",
        'requests_total{variant="200"}',
    )
    assert [line.split()[0] for line in out.splitlines()[1:]] == ["98", "99", "100"]


@needs("promtool")
def test_promtool_asks_for_series_and_labels(agent: Running) -> None:
    out = promtool(agent, "series", "--match=requests_total")
    assert len(out.splitlines()) == 2
    assert promtool(agent, "labels", "variant").splitlines() == ["200", "500"]


@needs("promtool")
def test_promtool_says_what_is_wrong_with_a_query(agent: Running) -> None:
    command = ["promtool", "query", "instant", agent.url, "sum("]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode
    assert "parse error" in done.stderr + done.stdout


# --- Prometheus ------------------------------------------------------------------------------


@needs("prometheus")
def test_prometheus_writes_to_us_what_it_scrapes(agent: Running, tmp_path: Path) -> None:
    port = free_port()
    config = tmp_path / "prometheus.yml"
    config.write_text(
        "global: {scrape_interval: 500ms, external_labels: {site: lab}}\n"
        "scrape_configs:\n"
        f"- {{job_name: self, static_configs: [{{targets: ['127.0.0.1:{port}']}}]}}\n"
        f"remote_write:\n- url: {agent.url}/api/v1/write\n"
        "  metadata_config: {send_interval: 1s}\n"
    )
    url = f"http://127.0.0.1:{port}"
    command = [
        "prometheus",
        f"--config.file={config}",
        f"--storage.tsdb.path={tmp_path / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with started(command, f"{url}/-/ready", tmp_path / "log"):
        until(agent.url, 'count_over_time(up{site="lab"}[1m])', 6)
        # What both have had for a second, and the sender has not begun to send just now.
        end_s = time.time() - 1.5
        window = {"start": f"{end_s - 2:.3f}", "end": f"{end_s:.3f}", "step": "0.5"}
        theirs = ask(url, "query_range", query='{job="self"}', **window)["result"]
        for series in theirs:
            series["metric"]["site"] = "lab"
        ours = ask(agent.url, "query_range", query='{job="self",site="lab"}', **window)["result"]
        assert len(theirs) > 300
        assert by_series(ours) == by_series(theirs)
        until(agent.url, 'count({site="lab"})', len(theirs))
    metadata = ask(agent.url, "metadata", metric="prometheus_build_info")
    assert metadata["prometheus_build_info"][0]["type"] == "gauge"


@needs("prometheus")
def test_prometheus_reads_from_us_and_federates(agent: Running, tmp_path: Path) -> None:
    port = free_port()
    config = tmp_path / "prometheus.yml"
    address = agent.url.removeprefix("http://")
    config.write_text(
        "global: {scrape_interval: 500ms}\n"
        f"remote_read:\n- {{url: '{agent.url}/api/v1/read', read_recent: true}}\n"
        "scrape_configs:\n"
        "- job_name: federate\n  honor_labels: true\n  metrics_path: /federate\n"
        "  params: {'match[]': ['{__name__=~\"tachograph_build_info|tachograph_series\"}']}\n"
        f"  static_configs: [{{targets: ['{address}']}}]\n"
    )
    url = f"http://127.0.0.1:{port}"
    command = [
        "prometheus",
        f"--config.file={config}",
        f"--storage.tsdb.path={tmp_path / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    # At a time between samples, where windows of both versions hold the same ones.
    window = {"start": str(NOW_S - 307), "end": str(NOW_S - 7), "step": "30"}
    with started(command, f"{url}/-/ready", tmp_path / "log"):
        for query in (
            "requests_total",
            "rate(requests_total[1m])",
            'requests_total{variant!="200"}',
        ):
            theirs = ask(url, "query_range", query=query, **window)["result"]
            assert theirs
            ours = ask(agent.url, "query_range", query=query, **window)["result"]
            assert by_series(ours) == by_series(theirs)
        until(url, 'up{job="federate"}', 1)
        until(url, "tachograph_series", 1)


# --- VictoriaMetrics' agents -----------------------------------------------------------------


@needs("vmagent", "prometheus-node-exporter")
def test_vmagent_writes_to_us(agent: Running, tmp_path: Path) -> None:
    port, exporter = free_port(), free_port()
    config = tmp_path / "scrape.yml"
    config.write_text(
        "scrape_configs:\n"
        "- job_name: node\n  scrape_interval: 1s\n"
        f"  static_configs: [{{targets: ['127.0.0.1:{exporter}']}}]\n"
    )
    command = [
        "vmagent",
        f"-promscrape.config={config}",
        f"-remoteWrite.url={agent.url}/api/v1/write",
        "-remoteWrite.flushInterval=200ms",
        f"-remoteWrite.tmpDataPath={tmp_path / 'queue'}",
        f"-httpListenAddr=127.0.0.1:{port}",
    ]
    node = ["prometheus-node-exporter", f"--web.listen-address=127.0.0.1:{exporter}"]
    with (
        started(node, f"http://127.0.0.1:{exporter}/metrics", tmp_path / "node.log"),
        started(command, f"http://127.0.0.1:{port}/metrics", tmp_path / "log"),
    ):
        until(agent.url, 'count_over_time(up{job="node"}[1m])', 3)
        _, page = get(f"http://127.0.0.1:{exporter}/metrics")
    exposed = sum(not line.startswith("#") for line in page.splitlines())
    result = ask(agent.url, "query", query='count(last_over_time({job="node"}[1m]))')["result"]
    assert float(result[0]["value"][1]) >= exposed


@needs("vmalert")
def test_vmalert_asks_us_and_writes_back(agent: Running, tmp_path: Path) -> None:
    port = free_port()
    rules = tmp_path / "rules.yml"
    rules.write_text(
        "groups:\n- name: g\n  interval: 1s\n  rules:\n"
        "  - {record: 'variant:requests:max', expr: 'max by (variant) (last_over_time("
        "requests_total[1h]))'}\n"
        "  - {alert: Odd, expr: 'last_over_time(odd[1h]) > 1', labels: {severity: page}}\n"
    )
    command = [
        "vmalert",
        f"-rule={rules}",
        f"-datasource.url={agent.url}",
        f"-remoteWrite.url={agent.url}",
        f"-remoteRead.url={agent.url}",
        "-remoteWrite.flushInterval=200ms",
        "-notifier.blackhole",
        f"-httpListenAddr=127.0.0.1:{port}",
    ]
    if (
        "blackhole"
        not in subprocess.run(
            ["vmalert", "-help"], capture_output=True, text=True, check=False
        ).stderr
    ):
        command[command.index("-notifier.blackhole")] = "-notifier.url=http://127.0.0.1:9"
    with started(command, f"http://127.0.0.1:{port}/metrics", tmp_path / "log"):
        until(agent.url, 'variant:requests:max{variant="200"}', 100)
        until(agent.url, 'ALERTS{alertname="Odd",severity="page"}', 1)


# --- prometheus-api-client -------------------------------------------------------------------


def test_prometheus_api_client_asks_us(agent: Running) -> None:
    client = pytest.importorskip("prometheus_api_client")
    prometheus = client.PrometheusConnect(url=agent.url, disable_ssl=True)
    assert prometheus.check_prometheus_connection()
    assert "requests_total" in prometheus.all_metrics()
    assert prometheus.get_label_names()
    assert prometheus.get_label_values("variant") == ["200", "500"]
    [row] = prometheus.custom_query("sum(last_over_time(requests_total[1h]))")
    assert row["value"][1] == "200"
    assert prometheus.get_targets()["activeTargets"] == []
    assert prometheus.get_metric_metadata("requests_total") == []
