"""The effective configuration as YAML, secrets masked; the loader reads it back as the same."""

from __future__ import annotations

from typing import Any

from .fields import settings_of
from .kinds import Kind, ListOf, MapOf, Scalar, Section, Tagged
from .settings import Config


def show_config(config: Config) -> str:
    """Return every setting of ``config``, also those at their default, as YAML."""
    import json

    import yaml

    plain = plain_section(config)
    # PyYAML folds Unicode's own line breaks into spaces; escaped, they survive.
    content = json.dumps(plain, ensure_ascii=False)
    readable = not any(char in content for char in "\x85\u2028\u2029")
    text: str = yaml.safe_dump(plain, sort_keys=False, allow_unicode=readable, width=100)
    return text


def plain_section(section: Any) -> dict[str, Any]:
    """Return a settings object as what its YAML would hold, without what is not set."""
    return {
        known.key: plain_value(known.setting.kind, value)
        for known in settings_of(type(section))
        if (value := getattr(section, known.name)) is not None
    }


def plain_value(kind: Kind, value: Any) -> Any:
    """Return one value as what its YAML would hold: str, int, bool, list or dict."""
    if isinstance(kind, Section):
        return plain_section(value)
    if isinstance(kind, Tagged):
        names = {model: name for name, model in kind.models.items()}
        return {kind.tag: names[type(value)], **plain_section(value)}
    if isinstance(kind, ListOf):
        return [plain_value(kind.item, item) for item in value]
    if isinstance(kind, MapOf):
        return {key: plain_value(kind.item, item) for key, item in value.items()}
    assert isinstance(kind, Scalar), f"unknown kind {kind!r}"
    plain = kind.plain(value)
    return _escape(plain) if isinstance(plain, str) else plain


def _escape(text: str) -> str:
    # Only what the loader would take for a variable; `$1` of a relabelling stays readable.
    return text.replace("$", "$$") if "$$" in text or "${" in text else text
