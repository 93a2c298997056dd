"""What a reload would change."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tachograph.config.diff import diff_configs
from tachograph.config.prometheus import BasicAuth, ScrapeConfig
from tachograph.config.secret import Secret
from tachograph.config.settings import Config, HttpSettings, RetentionSettings, StorageSettings
from tachograph.config.units import YEAR


def test_equal_configurations_have_no_changes() -> None:
    assert diff_configs(Config(), Config()).changes == ()


def test_changes_are_told_setting_by_setting() -> None:
    new = Config(
        storage=StorageSettings(retention=RetentionSettings(raw_ms=100 * YEAR)),
        http=HttpSettings(lifecycle=False),
        rule_files=("a.yml",),
    )
    diff = diff_configs(Config(), new)
    assert [str(change) for change in diff.changes] == [
        "storage.retention.raw: 15d -> 100y",
        'rule_files: [] -> ["a.yml"]',
        "http.lifecycle: true -> false",
    ]
    assert diff.sections == {"storage", "rule_files", "http"}
    assert [change.path for change in diff.needs_restart] == ["http.lifecycle"]


def test_what_needs_a_restart_is_told() -> None:
    new = Config(
        listen="127.0.0.1:1",
        namespace="x",
        storage=StorageSettings(path=Path("/x"), engine="remote", state_url=Secret("hunter2")),
    )
    diff = diff_configs(Config(), new)
    assert [change.path for change in diff.needs_restart] == [
        "listen",
        "storage.path",
        "storage.engine",
        "storage.state_url",
    ]
    assert "hunter2" not in str(diff)


def test_named_items_are_compared_one_by_one() -> None:
    a, b, c = (ScrapeConfig(job_name=name) for name in "abc")
    old = Config(scrape_configs=(a, b))
    new = Config(scrape_configs=(replace(b, honor_labels=True), c))
    changes = diff_configs(old, new).changes
    assert [change.path for change in changes] == [f"scrape_configs.{name}" for name in "abc"]
    assert [(c.before is None, c.after is None) for c in changes] == [
        (False, True),
        (False, False),
        (True, False),
    ]
    (order,) = diff_configs(Config(scrape_configs=(a, b)), Config(scrape_configs=(b, a))).changes
    assert str(order) == "scrape_configs: another order -> this order"


def test_a_changed_secret_is_a_change_that_shows_nothing() -> None:
    jobs = [
        ScrapeConfig(job_name="a", basic_auth=BasicAuth(username="u", password=Secret(text)))
        for text in ("hunter2", "hunter3")
    ]
    (change,) = diff_configs(
        Config(scrape_configs=(jobs[0],)), Config(scrape_configs=(jobs[1],))
    ).changes
    assert str(change) == "scrape_configs.a: changed"


def test_the_first_of_an_optional_section_is_added() -> None:
    job = ScrapeConfig(job_name="a")
    (change,) = diff_configs(Config(), Config(scrape_configs=(job,))).changes
    assert str(change).startswith('scrape_configs.a: added {"basic_auth"') is False
    assert str(change).startswith("scrape_configs.a: added {")
    assert len(str(change)) < 250
