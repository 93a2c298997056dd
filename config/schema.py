"""JSON Schema of the configuration, for completion and checks in editors."""

from __future__ import annotations

from typing import Any, Final

from .fields import KnownSetting, settings_of
from .kinds import Kind, ListOf, MapOf, Scalar, Section, Tagged
from .settings import Config
from .show import plain_value

#: Any value may be made of variables; what they hold is checked when they are known.
_VARIABLE: Final = {"type": "string", "pattern": r"\$\{"}


def json_schema() -> dict[str, Any]:
    """
    Return the JSON Schema (draft 2020-12) of a configuration file.

    It knows keys, types, units, bounds, defaults and sentences; rules between settings are checked
    by ``check config`` alone.
    """
    definitions: dict[str, Any] = {"variable": _VARIABLE}
    root = _section(Config, definitions)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Tachograph configuration",
        **root,
        "$defs": dict(sorted(definitions.items())),
    }


def _section(model: type[Any], definitions: dict[str, Any], tag: str = "", name: str = "") -> Any:
    properties: dict[str, Any] = {tag: {"const": name}} if tag else {}
    required = [tag] if tag else []
    for known in settings_of(model):
        properties[known.key] = _property(known, definitions)
        if known.required:
            required.append(known.key)
    schema: dict[str, Any] = {
        "type": "object",
        "description": " ".join((model.__doc__ or "").split()),
        "properties": properties,
        "additionalProperties": False,
    }
    return {**schema, "required": required} if required else schema


def _property(known: KnownSetting, definitions: dict[str, Any]) -> dict[str, Any]:
    schema = _value(known.setting.kind, definitions)
    schema["description"] = known.setting.about
    # A section's defaults stand at its own settings.
    if known.default is not None and not isinstance(known.setting.kind, Section):
        schema["default"] = plain_value(known.setting.kind, known.default)
    return schema


def _value(kind: Kind, definitions: dict[str, Any]) -> dict[str, Any]:
    if isinstance(kind, Section):
        return {"$ref": _define(kind.model, definitions)}
    if isinstance(kind, Tagged):
        references = [
            {"$ref": _define(model, definitions, kind.tag, name)}
            for name, model in kind.models.items()
        ]
        return {"oneOf": references}
    if isinstance(kind, ListOf):
        return {"type": "array", "items": _value(kind.item, definitions)}
    if isinstance(kind, MapOf):
        return {"type": "object", "additionalProperties": _value(kind.item, definitions)}
    assert isinstance(kind, Scalar), f"unknown kind {kind!r}"
    return {"anyOf": [kind.schema(), {"$ref": "#/$defs/variable"}]}


def _define(model: type[Any], definitions: dict[str, Any], tag: str = "", name: str = "") -> str:
    if model.__name__ not in definitions:
        definitions[model.__name__] = {}  # holds the place while sections refer to each other
        definitions[model.__name__] = _section(model, definitions, tag, name)
    return f"#/$defs/{model.__name__}"
