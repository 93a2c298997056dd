"""Reads the declarations of :mod:`.settings` back: which keys a section has, and what they hold."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .kinds import Duration, Setting


@dataclass(frozen=True, slots=True)
class KnownSetting:
    """
    One setting of a section.

    Attributes:
        name: The field of the dataclass.
        key: The key in YAML.
        default: The value inside when the key is absent; of no meaning if ``required``.
    """

    name: str
    key: str
    setting: Setting
    required: bool
    default: Any


_CACHE: dict[type[Any], tuple[KnownSetting, ...]] = {}


def settings_of(model: type[Any]) -> tuple[KnownSetting, ...]:
    """Return the settings of a dataclass in the order they are declared."""
    if model not in _CACHE:
        _CACHE[model] = tuple(_known(field) for field in dataclasses.fields(model))
    return _CACHE[model]


def unsupported_keys(model: type[Any]) -> Mapping[str, str]:
    """Return Prometheus' keys that this section does not have yet, with a hint or nothing each."""
    keys: Mapping[str, str] = getattr(model, "UNSUPPORTED", {})
    return keys


def _known(field: dataclasses.Field[Any]) -> KnownSetting:
    setting: Setting = field.metadata["setting"]
    key = setting.key
    if key is None:
        is_duration = isinstance(setting.kind, Duration)
        key = field.name.removesuffix("_ms") if is_duration else field.name
    if field.default_factory is not dataclasses.MISSING:
        return KnownSetting(field.name, key, setting, False, field.default_factory())
    required = field.default is dataclasses.MISSING
    return KnownSetting(field.name, key, setting, required, None if required else field.default)
