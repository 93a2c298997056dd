"""
Settings: one model per section, loaded with every mistake at once; label matchers and selectors.

Names load on first use, so a program that only needs the errors pays for nothing else (PEP 562).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .lazy import lazy_names

if TYPE_CHECKING:
    from .check import CheckReport, check_config, inspect_config
    from .checks import validate
    from .diff import Change, ConfigDiff, diff_configs
    from .errors import ConfigError, SelectorError, TachographError
    from .loader import find_config, load_config
    from .schema import json_schema
    from .secret import Secret, read_secret, resolve_secret
    from .selector import Matcher, MatchOp, parse_selector, render_selector
    from .settings import Config
    from .show import show_config
    from .units import format_duration, format_size, parse_duration, parse_size

_HOME = {
    "Change": "diff",
    "CheckReport": "check",
    "Config": "settings",
    "ConfigDiff": "diff",
    "ConfigError": "errors",
    "MatchOp": "selector",
    "Matcher": "selector",
    "Secret": "secret",
    "SelectorError": "errors",
    "TachographError": "errors",
    "check_config": "check",
    "diff_configs": "diff",
    "find_config": "loader",
    "format_duration": "units",
    "format_size": "units",
    "inspect_config": "check",
    "json_schema": "schema",
    "load_config": "loader",
    "parse_duration": "units",
    "parse_selector": "selector",
    "parse_size": "units",
    "read_secret": "secret",
    "render_selector": "selector",
    "resolve_secret": "secret",
    "show_config": "show",
    "validate": "checks",
}

__all__ = [
    "Change",
    "CheckReport",
    "Config",
    "ConfigDiff",
    "ConfigError",
    "MatchOp",
    "Matcher",
    "Secret",
    "SelectorError",
    "TachographError",
    "check_config",
    "diff_configs",
    "find_config",
    "format_duration",
    "format_size",
    "inspect_config",
    "json_schema",
    "load_config",
    "parse_duration",
    "parse_selector",
    "parse_size",
    "read_secret",
    "render_selector",
    "resolve_secret",
    "show_config",
    "validate",
]

__getattr__, __dir__ = lazy_names(__name__, _HOME)
