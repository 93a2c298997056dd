"""The recorder that rides along with a backend: collects, stores, rolls up, answers and streams."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__all__ = ["Agent", "Config", "TachographError", "load_config"]
__version__ = "0.1.0"

if TYPE_CHECKING:
    from .agent.app import Agent
    from .config import Config, load_config
    from .config.errors import TachographError

_HOME = {
    "Agent": "agent.app",
    "Config": "config",
    "TachographError": "config.errors",
    "load_config": "config",
}


def __getattr__(name: str) -> Any:
    # Public names load on first use, so `import tachograph` stays cheap (PEP 562).
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
