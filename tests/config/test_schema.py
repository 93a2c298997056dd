"""The JSON Schema, and the files made from the settings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tachograph.config.document import REFERENCE_MARK, render_reference, render_template
from tachograph.config.fields import settings_of
from tachograph.config.kinds import (
    Duration,
    Kind,
    ListOf,
    MapOf,
    Section,
    Tagged,
)
from tachograph.config.schema import json_schema
from tachograph.config.settings import Config
from tachograph.config.show import show_config

ROOT = Path(__file__).resolve().parents[2]


def models(kind: Kind) -> list[type[Any]]:
    if isinstance(kind, Section):
        return [kind.model]
    if isinstance(kind, Tagged):
        return list(kind.models.values())
    return models(kind.item) if isinstance(kind, (ListOf, MapOf)) else []


def all_sections() -> list[type[Any]]:
    found: list[type[Any]] = [Config]
    for model in found:
        for known in settings_of(model):
            found += [below for below in models(known.setting.kind) if below not in found]
    return found


@pytest.mark.parametrize("model", all_sections(), ids=lambda model: model.__name__)
def test_every_setting_has_a_sentence_and_a_fitting_name(model: type[Any]) -> None:
    assert model.__doc__
    keys = [known.key for known in settings_of(model)]
    assert len(keys) == len(set(keys))
    for known in settings_of(model):
        assert known.setting.about[0].isupper() or known.setting.about[0] == "`"
        assert known.setting.about.endswith(".")
        assert known.name.endswith("_ms") == isinstance(known.setting.kind, Duration)


def test_the_template_is_up_to_date() -> None:
    text = (ROOT / "config" / "default.yml").read_text(encoding="utf-8")
    assert text == render_template(), "run: python -m tachograph.config.document"


def test_the_reference_is_up_to_date() -> None:
    text = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    made = "".join(text.partition(REFERENCE_MARK)[1:])
    assert made == render_reference(), "run: python -m tachograph.config.document"


def test_the_schema_is_plain_json_with_all_sections() -> None:
    schema = json_schema()
    assert json.loads(json.dumps(schema)) == schema
    assert schema["properties"].keys() == {known.key for known in settings_of(Config)}
    assert {model.__name__ for model in all_sections()} - {"Config"} < schema["$defs"].keys()


def accepts(text: str) -> bool:
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed")
    validator = jsonschema.Draft202012Validator(json_schema())
    return bool(validator.is_valid(yaml.safe_load(text)))


def test_the_schema_is_a_schema() -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed")
    jsonschema.Draft202012Validator.check_schema(json_schema())


@pytest.mark.parametrize(
    "path",
    [ROOT / "config" / "default.yml", *sorted((ROOT / "config" / "examples").glob("*.yml"))],
    ids=str,
)
def test_the_schema_accepts_what_is_shipped(path: Path) -> None:
    assert accepts(path.read_text(encoding="utf-8"))


def test_the_schema_accepts_what_is_shown() -> None:
    assert accepts(show_config(Config()))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("storage: {max_bytes: 1.5GiB, retention: {raw: 100y}}", True),
        ("storage: {max_bytes: 4294967296}", True),
        ("stream: {max_connections: '${MAX}', ring: '${RING:-5m}'}", True),
        ("external_labels: {shard: 1}", True),
        ("alerting: {notification_channels: [{type: slack, webhook_url_file: /x}]}", True),
        ("storge: {}", False),
        ("storage: {retention: {raw: 5min}}", False),
        ("storage: {engine: mysql}", False),
        ("scrape_configs: [{}]", False),
        ("alerting: {notification_channels: [{type: pigeon}]}", False),
        ("alerting: {notification_channels: [{type: slack, recipients: [a@b]}]}", False),
        ("http: {lifecycle: 3}", False),
    ],
)
def test_the_schema_tells_right_from_wrong(text: str, expected: bool) -> None:
    assert accepts(text) is expected
