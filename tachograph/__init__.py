"""The recorder that rides along with a backend: collects, stores, rolls up, answers and streams."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .config.lazy import lazy_names

__all__ = [
    "Agent",
    "AsgiMiddleware",
    "BackendMetrics",
    "Config",
    "HttpMetrics",
    "MetricNameWarning",
    "Registry",
    "TachographError",
    "WsgiMiddleware",
    "adopt_prometheus",
    "aiohttp_middleware",
    "connect",
    "counted",
    "counter",
    "disconnect",
    "flush",
    "gauge",
    "histogram",
    "in_progress",
    "info",
    "instrument_cache",
    "instrument_gc",
    "instrument_logging",
    "instrument_loop",
    "instrument_memory",
    "instrument_redis",
    "instrument_sqlalchemy",
    "instrument_threads",
    "load_config",
    "rate",
    "ratio",
    "record",
    "timed",
]
__version__ = "0.1.0"

if TYPE_CHECKING:
    from .agent.app import Agent
    from .agent.client.aiohttp_web import aiohttp_middleware
    from .agent.client.asgi import AsgiMiddleware
    from .agent.client.business import BackendMetrics
    from .agent.client.caches import instrument_cache
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
    from .agent.client.event_loop import instrument_loop
    from .agent.client.gc import instrument_gc
    from .agent.client.http import HttpMetrics
    from .agent.client.logs import instrument_logging
    from .agent.client.memory import instrument_memory
    from .agent.client.names import MetricNameWarning
    from .agent.client.prometheus import adopt_prometheus
    from .agent.client.redis import instrument_redis
    from .agent.client.registry import Registry
    from .agent.client.sqlalchemy import instrument_sqlalchemy
    from .agent.client.threads import instrument_threads
    from .agent.client.wsgi import WsgiMiddleware
    from .config import Config, load_config
    from .config.errors import TachographError

_HOME = {
    "Agent": "agent.app",
    "AsgiMiddleware": "agent.client.asgi",
    "BackendMetrics": "agent.client.business",
    "Config": "config",
    "HttpMetrics": "agent.client.http",
    "MetricNameWarning": "agent.client.names",
    "Registry": "agent.client.registry",
    "TachographError": "config.errors",
    "WsgiMiddleware": "agent.client.wsgi",
    "adopt_prometheus": "agent.client.prometheus",
    "aiohttp_middleware": "agent.client.aiohttp_web",
    "connect": "agent.client.default",
    "counted": "agent.client.default",
    "counter": "agent.client.default",
    "disconnect": "agent.client.default",
    "flush": "agent.client.default",
    "gauge": "agent.client.default",
    "histogram": "agent.client.default",
    "in_progress": "agent.client.default",
    "info": "agent.client.default",
    "instrument_cache": "agent.client.caches",
    "instrument_gc": "agent.client.gc",
    "instrument_logging": "agent.client.logs",
    "instrument_loop": "agent.client.event_loop",
    "instrument_memory": "agent.client.memory",
    "instrument_redis": "agent.client.redis",
    "instrument_sqlalchemy": "agent.client.sqlalchemy",
    "instrument_threads": "agent.client.threads",
    "load_config": "config",
    "rate": "agent.client.default",
    "ratio": "agent.client.default",
    "record": "agent.client.default",
    "timed": "agent.client.default",
}

# Loaded on first use, so `import tachograph` stays cheap.
__getattr__, __dir__ = lazy_names(__name__, _HOME)
