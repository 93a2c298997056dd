"""
The template ``default.yml`` and the reference in ``docs/configuration.md``, made from the settings.

``python -m tachograph.config.document`` writes both anew; a test fails while they are out of date.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from .fields import KnownSetting, settings_of, unsupported_keys
from .kinds import Choice, Duration, Integer, Kind, ListOf, MapOf, Scalar, Section, Size, Tagged
from .settings import Config
from .show import plain_value
from .tree import join_path
from .units import DURATION_MAX_MS, SIZE_MAX_BYTES, format_duration, format_size

#: Everything below this line of the page is made by :func:`render_reference`.
REFERENCE_MARK: Final = "<!-- From here on: python -m tachograph.config.document -->"

_WIDTH: Final = 96
_HEAD: Final = """\
# yaml-language-server: $schema=tachograph.schema.json
# (written by: tachograph config schema > tachograph.schema.json)
#
# Every setting of Tachograph at its default; a file needs only what differs. Durations are 90s,
# 5m, 1h30m, 15d or 100y, sizes 512MiB or 2GiB. ${NAME} and ${NAME:-default} in a value come from
# the environment, $$ is a plain $. Check a file with: tachograph check config FILE
"""

#: What the template shows for lists that are empty by default.
_EXAMPLES: Final = {
    "external_labels": "{site: plant-7}",
    "global.external_labels": "{site: plant-7}",
    "metrics.process": "[{name: backend, pid_file: /run/backend.pid}]",
    "storage.retention_policies": "[{match: '{job=\"debug\"}', raw: 3d, 1m: 7d}]",
    "scrape_configs": "[{job_name: api, static_configs: [{targets: ['127.0.0.1:8000']}]}]",
    "sources": (
        "[{type: http_json, name: queue, url: 'http://127.0.0.1:8000/queue', "
        "metrics: [{name: queue_size, value: size}]}]"
    ),
    "rule_files": "[rules/*.yml]",
    "alerting.notification_channels": "[{type: email, recipients: [admin@example.org]}]",
    "remote_write": "[{url: 'http://127.0.0.1:8428/api/v1/write'}]",
    "stream.allowed_origins": "['https://panel.example.org']",
    "http.allowed_hosts": "[monitor.example.org]",
}


def render_template() -> str:
    """Return ``default.yml``: every setting with its sentence, loading as the defaults."""
    return _HEAD + "\n".join(_template(Config, "", "")) + "\n"


def render_reference() -> str:
    """Return the reference of all sections as Markdown, one table each."""
    parts = [REFERENCE_MARK, ""]
    for title, about, model in _sections():
        parts += [f"## {title}", "", about, "", *_table(model), ""]
        hints = unsupported_keys(model)
        if hints:
            names = ", ".join(f"`{name}`" for name in sorted(hints))
            parts += [f"Keys of Prometheus that are refused with a hint: {names}.", ""]
    return "\n".join(parts)


def _template(model: type[Any], indent: str, path: str) -> Iterator[str]:
    for known in settings_of(model):
        here = join_path(path, known.key)
        kind = known.setting.kind
        if not path:
            yield ""
        sentence = known.setting.about
        if isinstance(kind, Choice):
            sentence += f" One of {', '.join(kind.choices)}."
        yield from textwrap.wrap(
            sentence, _WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# "
        )
        if isinstance(kind, Section) and known.default is not None:
            yield f"{indent}{known.key}:"
            yield from _template(kind.model, indent + "  ", here)
            continue
        if here in _EXAMPLES:
            yield f"{indent}# {known.key}: {_EXAMPLES[here]}"
        if known.default is None:
            yield f"{indent}# {known.key}:"
        elif isinstance(known.default, tuple) and known.default:
            yield f"{indent}{known.key}:"
            yield from (f"{indent}  - {_yaml(item)}" for item in plain_value(kind, known.default))
        else:
            yield f"{indent}{known.key}: {_yaml(plain_value(kind, known.default))}"


def _yaml(value: Any) -> str:
    """Return one scalar or an empty list or mapping as YAML."""
    if isinstance(value, str) and value and value[0].isalnum() and ": " not in value:
        return value
    return json.dumps(value, ensure_ascii=False)


def _sections() -> Iterator[tuple[str, str, type[Any]]]:
    """Yield (heading, sentence, dataclass) of all sections, those used in many places once."""
    seen: set[type[Any]] = set()

    titles: set[str] = set()

    def walk(
        model: type[Any], path: str, title: str, tag: str = ""
    ) -> Iterator[tuple[str, str, type[Any]]]:
        if model in seen:
            return
        seen.add(model)
        # Sections of several types may stand at the same place.
        title = title if title not in titles else f"{title} with {tag}"
        titles.add(title)
        yield title, _doc(model), model
        for known in settings_of(model):
            yield from below(known.setting.kind, join_path(path, known.key), tag)

    def below(kind: Kind, path: str, tag: str) -> Iterator[tuple[str, str, type[Any]]]:
        if isinstance(kind, ListOf):
            yield from below(kind.item, f"{path}[]", tag)
        elif isinstance(kind, MapOf):
            yield from below(kind.item, f"{path}.NAME", tag)
        elif isinstance(kind, Section):
            yield from walk(kind.model, path, f"`{path}`", tag)
        elif isinstance(kind, Tagged):
            for name, model in kind.models.items():
                tag = f"`{kind.tag}: {name}`"
                yield from walk(model, path, f"`{path}` with {tag}", tag)

    yield from walk(Config, "", "Top level")


def _doc(model: type[Any]) -> str:
    if model is Config:
        return "The keys at the left margin."
    return " ".join((model.__doc__ or "").split())


def _table(model: type[Any]) -> Iterator[str]:
    yield "| setting | type | default | |"
    yield "| --- | --- | --- | --- |"
    for known in settings_of(model):
        about = known.setting.about.replace("|", "\\|")
        yield f"| `{known.key}` | {_type(known.setting.kind)} | {_default(known)} | {about} |"


def _type(kind: Kind) -> str:
    if isinstance(kind, Choice):
        return ", ".join(f"`{choice}`" for choice in kind.choices)
    if isinstance(kind, ListOf):
        return f"list of {_type(kind.item)}"
    if isinstance(kind, MapOf):
        return f"map to {_type(kind.item)}"
    bounds = ""
    if isinstance(kind, Duration):
        low = format_duration(kind.minimum_ms) if kind.minimum_ms else ""
        high = format_duration(kind.maximum_ms) if kind.maximum_ms < DURATION_MAX_MS else ""
        bounds = _bounds(low, high)
    elif isinstance(kind, Size):
        low = format_size(kind.minimum_bytes) if kind.minimum_bytes else ""
        high = format_size(kind.maximum_bytes) if kind.maximum_bytes < SIZE_MAX_BYTES else ""
        bounds = _bounds(low, high)
    elif isinstance(kind, Integer):
        low = str(kind.minimum) if kind.minimum else ""
        high = str(kind.maximum) if kind.maximum < 2**31 - 1 else ""
        bounds = _bounds(low, high)
    return kind.word + bounds


def _bounds(low: str, high: str) -> str:
    if low and high:
        return f", {low} to {high}"
    if low:
        return f", at least {low}"
    return f", at most {high}" if high else ""


def _default(known: KnownSetting) -> str:
    if known.required:
        return "required"
    kind = known.setting.kind
    if known.default is None or isinstance(kind, Section):
        return ""
    if not isinstance(kind, (Scalar, ListOf, MapOf)):
        return ""
    plain = plain_value(kind, known.default)
    text = plain if isinstance(plain, str) and plain else json.dumps(plain, ensure_ascii=False)
    return "`" + text.replace("|", "\\|") + "`"


def main(root: Path) -> None:
    """Write both files into the checkout at ``root``."""
    (root / "config" / "default.yml").write_text(render_template(), encoding="utf-8")
    page = root / "docs" / "configuration.md"
    head = page.read_text(encoding="utf-8").partition(REFERENCE_MARK)[0]
    page.write_text(head + render_reference(), encoding="utf-8")


if __name__ == "__main__":
    main(Path(__file__).resolve().parents[1])
