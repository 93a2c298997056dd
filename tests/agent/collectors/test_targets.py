from __future__ import annotations

from typing import Any

import pytest

from tachograph.agent.collectors.relabel import compile_steps
from tachograph.agent.collectors.targets import Discovery, Target, discover, static_groups
from tachograph.config.prometheus import (
    GlobalSettings,
    RelabelConfig,
    ScrapeConfig,
    StaticConfig,
)


def found(*addresses: str, **settings: Any) -> Discovery:
    labels = settings.pop("labels", {})
    static = StaticConfig(targets=addresses, labels=labels)
    config = ScrapeConfig(job_name="node", static_configs=(static,), **settings)
    config = config.resolved(GlobalSettings())
    return discover(config, compile_steps(config.relabel_configs), static_groups(config))


def one(*addresses: str, **settings: Any) -> Target:
    discovery = found(*addresses, **settings)
    assert discovery.problems == []
    [target] = discovery.targets
    return target


def moved(source: str, target: str, **settings: Any) -> RelabelConfig:
    return RelabelConfig(source_labels=(source,), target_label=target, **settings)


def constant(target: str, value: str) -> RelabelConfig:
    return RelabelConfig(target_label=target, replacement=value)


def test_static_target_gets_job_instance_and_url() -> None:
    target = one("127.0.0.1:9100", labels={"zone": "a"})
    assert dict(target.labels) == {"instance": "127.0.0.1:9100", "job": "node", "zone": "a"}
    assert str(target.url) == "http://127.0.0.1:9100/metrics"
    assert (target.interval_ms, target.timeout_ms) == (60_000, 10_000)
    assert target.group == "scrape/node/127.0.0.1:9100"
    assert dict(target.discovered) == {
        "__address__": "127.0.0.1:9100",
        "__metrics_path__": "/metrics",
        "__scheme__": "http",
        "__scrape_interval__": "1m",
        "__scrape_timeout__": "10s",
        "job": "node",
        "zone": "a",
    }


def test_labels_of_the_target_win_over_settings() -> None:
    target = one(
        "h:1",
        labels={
            "job": "mine",
            "instance": "here",
            "__scheme__": "https",
            "__metrics_path__": "/m",
            "__scrape_interval__": "5s",
            "__scrape_timeout__": "1500ms",
        },
    )
    assert dict(target.labels) == {"instance": "here", "job": "mine"}
    assert str(target.url) == "https://h:1/m"
    assert (target.interval_ms, target.timeout_ms) == (5000, 1500)


def test_port_is_not_added_to_an_address_without_one() -> None:
    target = one("example")
    assert target.labels.get("instance") == "example"
    assert str(target.url) == "http://example/metrics"


def test_parameters_are_labels_and_labels_are_parameters() -> None:
    target = one(
        "probe:9115",
        params={"module": ("http_2xx",), "x": ("1", "2 3"), "none": ()},
        relabel_configs=(
            moved("__address__", "__param_target"),
            moved("__param_target", "instance"),
            constant("__address__", "127.0.0.1:9115"),
            constant("__param_x", "9"),
        ),
    )
    assert str(target.url) == (
        "http://127.0.0.1:9115/metrics?module=http_2xx&target=probe:9115&x=9&x=2+3"
    )
    assert target.labels.get("instance") == "probe:9115"


def test_path_is_quoted_as_a_path() -> None:
    assert str(one("h:1", metrics_path="/a b?c#d%2Fé").url) == (
        "http://h:1/a%20b%3Fc%23d%252F%C3%A9"
    )


def test_internal_labels_are_not_on_samples() -> None:
    target = one("h:1", labels={"__meta_x": "1", "__tmp": "2", "a": ""})
    assert dict(target.labels) == {"instance": "h:1", "job": "node"}


def test_dropped_targets_are_told_by_their_discovered_labels() -> None:
    keep = RelabelConfig(source_labels=("__address__",), regex="a.*", action="keep")
    discovery = found("a:1", "b:1", relabel_configs=(keep,))
    assert [target.labels.get("instance") for target in discovery.targets] == ["a:1"]
    assert [labels.get("__address__") for labels in discovery.dropped] == ["b:1"]


def test_equal_targets_are_one() -> None:
    assert len(found("a:1", "a:1").targets) == 1
    assert len(found("a:1", "b:1", relabel_configs=(constant("instance", "x"),)).targets) == 2


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"relabel_configs": (constant("__address__", ""),)}, "no address"),
        ({"relabel_configs": (constant("__scheme__", "ftp"),)}, "invalid scheme: 'ftp'"),
        ({"relabel_configs": (constant("__address__", "h:1/m"),)}, "not a valid hostname"),
        ({"relabel_configs": (constant("__address__", "u:p@h:1"),)}, "not a valid hostname"),
        ({"relabel_configs": (constant("__address__", "h:99999"),)}, "makes no URL"),
        ({"relabel_configs": (constant("__address__", "h:x"),)}, "makes no URL"),
        ({"relabel_configs": (constant("__scrape_interval__", "5"),)}, "is not a duration"),
        ({"relabel_configs": (constant("__scrape_timeout__", "0s"),)}, "cannot be 0"),
        ({"relabel_configs": (constant("__scrape_timeout__", "2m"),)}, "cannot be greater"),
    ],
)
def test_target_that_cannot_be_scraped_is_a_problem_of_its_own(
    settings: dict[str, Any], problem: str
) -> None:
    discovery = found("h:1", **settings)
    assert discovery.targets == []
    [text] = discovery.problems
    assert text.startswith("node: h:1: ")
    assert problem in text
