"""The effective configuration as YAML."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tachograph.config.loader import load_config
from tachograph.config.prometheus import RelabelConfig, ScrapeConfig, StaticConfig
from tachograph.config.secret import Secret
from tachograph.config.settings import Config
from tachograph.config.show import show_config

ROOT = Path(__file__).resolve().parents[2]

EVERY_SECRET = """
storage: {state_url: "postgresql://u:hunter2@h/d"}
scrape_configs:
  - {job_name: a, basic_auth: {username: u, password: hunter2}}
  - {job_name: b, bearer_token: hunter2}
  - {job_name: c, authorization: {credentials: hunter2}, http_headers: {X: {secrets: [hunter2]}}}
alerting:
  notification_channels:
    - {type: email, recipients: [a@b], username: u, password: hunter2}
    - {type: slack, webhook_url: "https://h/hunter2"}
    - {type: telegram, bot_token: hunter2, chat_id: 1}
    - {type: webhook, url: "http://h/hunter2"}
remote_write: [{url: "http://h/", bearer_token: hunter2}]
"""


def load(text: str, folder: Path) -> Config:
    path = folder / "shown.yml"
    path.write_text(text, encoding="utf-8")
    return load_config(path, env={})


def test_the_defaults_read_back(tmp_path: Path) -> None:
    assert load(show_config(Config()), tmp_path) == Config()


@pytest.mark.parametrize("path", sorted((ROOT / "config" / "examples").glob("*.yml")), ids=str)
def test_every_example_reads_back(path: Path, tmp_path: Path) -> None:
    config = load_config(path, env={})
    assert load(show_config(config), tmp_path) == config


def test_every_setting_is_shown() -> None:
    shown = yaml.safe_load(show_config(Config()))
    assert shown["storage"]["retention"] == {
        "raw": "15d",
        "1m": "30d",
        "5m": "90d",
        "1h": "1y",
        "1d": "5y",
    }
    assert shown["storage"]["max_bytes"] == "2GiB"
    assert shown["storage"]["limits"]["label_name_bytes"] == 256
    assert "state_url" not in shown["storage"]


def test_no_secret_is_shown(tmp_path: Path) -> None:
    config = load(EVERY_SECRET, tmp_path)
    shown = show_config(config)
    assert "hunter2" not in shown
    assert shown.count("<secret>") == 10
    assert "hunter2" not in repr(config)
    assert show_config(load(shown, tmp_path)) == shown


def test_text_that_looks_like_variables_or_yaml_reads_back(tmp_path: Path) -> None:
    labels = {
        "a": "${HOME}",
        "b": "$$",
        "c": "$1 ${1}",
        "d": "yes",
        "e": "~",
        "f": "# : [",
        "g": "",
    }
    config = Config(
        external_labels=labels,
        scrape_configs=(
            ScrapeConfig(
                job_name="on",
                relabel_configs=(RelabelConfig(target_label="x", replacement="$1"),),
            ),
        ),
    )
    shown = show_config(config)
    assert "replacement: $1\n" in shown
    assert load(shown, tmp_path) == config


_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)


@settings(max_examples=60)
@given(st.dictionaries(_TEXT.filter(bool), _TEXT, max_size=3), _TEXT.filter(bool))
def test_any_text_reads_back(
    tmp_path_factory: pytest.TempPathFactory, labels: dict[str, str], name: str
) -> None:
    config = Config(
        external_labels=labels,
        scrape_configs=(
            ScrapeConfig(job_name=name, static_configs=(StaticConfig(labels=labels),)),
        ),
    )
    assert load(show_config(config), tmp_path_factory.mktemp("show")) == config


def test_a_secret_hides_itself() -> None:
    secret = Secret("hunter2")
    assert (
        f"{secret} {secret!r} {secret:>10} {[secret]}" == "<secret> <secret>   <secret> [<secret>]"
    )
    assert secret.reveal() == "hunter2"
    assert secret == Secret("hunter2")
    assert hash(secret) == hash(Secret("hunter2"))
    assert secret != "hunter2"
    assert not Secret("")
