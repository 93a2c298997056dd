"""The recorder that rides along with a backend: collects, stores, rolls up, answers and streams."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__all__ = [
    "Agent",
    "Config",
    "MetricNameWarning",
    "Registry",
    "TachographError",
    "connect",
    "counted",
    "counter",
    "disconnect",
    "flush",
    "gauge",
    "histogram",
    "in_progress",
    "info",
    "load_config",
    "rate",
    "ratio",
    "record",
    "timed",
]
__version__ = "0.1.0"

if TYPE_CHECKING:
    from .agent.app import Agent
    from .agent.client.default import (
        connect,
        counted,
        counter,
        disconnect,
        flush,
        gauge,
        histogram,
        in_progress,
        info,
        rate,
        ratio,
        record,
        timed,
    )
    from .agent.client.names import MetricNameWarning
    from .agent.client.registry import Registry
    from .config import Config, load_config
    from .config.errors import TachographError

_HOME = {
    "Agent": "agent.app",
    "Config": "config",
    "MetricNameWarning": "agent.client.names",
    "Registry": "agent.client.registry",
    "TachographError": "config.errors",
    "connect": "agent.client.default",
    "counted": "agent.client.default",
    "counter": "agent.client.default",
    "disconnect": "agent.client.default",
    "flush": "agent.client.default",
    "gauge": "agent.client.default",
    "histogram": "agent.client.default",
    "in_progress": "agent.client.default",
    "info": "agent.client.default",
    "load_config": "config",
    "rate": "agent.client.default",
    "ratio": "agent.client.default",
    "record": "agent.client.default",
    "timed": "agent.client.default",
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
