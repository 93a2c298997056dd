"""From settings to business sources: which reader asks what."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import aiohttp

from ...config.settings import Config
from ...config.sources import AnySource, CommandSource, HttpJsonSource
from ...storage.sink import Sink
from .callback import Callback, CallbackReader
from .command import CommandReader
from .figures import BusinessSource, Reader
from .json_document import JsonReader
from .source import Source

#: Series of a callback without a limit of its own.
_CALLBACK_SERIES_MAX: Final = 1_000
_CALLBACK_TIMEOUT_S: Final = 5.0


def business_sources(config: Config, sink: Sink, session: aiohttp.ClientSession) -> list[Source]:
    """Return the sources of ``config.sources``; does no I/O."""
    usual_ms = config.metrics.collection.business_interval_ms
    sources: list[Source] = []
    for settings in config.sources:
        interval_s, timeout_s = settings.timing_s(usual_ms)
        kind, reader = _reader(settings, session, timeout_s)
        sources.append(
            BusinessSource(
                sink,
                reader,
                name=f"{kind}/{settings.name}",
                identity=settings,
                interval_s=interval_s,
                timeout_s=timeout_s,
                namespace=config.namespace if settings.namespace is None else settings.namespace,
                labels=settings.labels,
                max_series=settings.max_series,
            )
        )
    return sources


def callback_source(
    sink: Sink,
    callback: Callback,
    *,
    name: str,
    interval_s: float,
    namespace: str,
    labels: Mapping[str, str] | None = None,
    timeout_s: float | None = None,
    max_series: int = _CALLBACK_SERIES_MAX,
) -> Source:
    """Return a source that calls a function of this process; see :class:`CallbackReader`."""
    return BusinessSource(
        sink,
        CallbackReader(callback),
        name=f"callback/{name}",
        identity=callback,
        interval_s=interval_s,
        timeout_s=timeout_s or min(_CALLBACK_TIMEOUT_S, interval_s),
        namespace=namespace,
        labels=labels or {},
        max_series=max_series,
    )


def _reader(
    settings: AnySource, session: aiohttp.ClientSession, timeout_s: float
) -> tuple[str, Reader]:
    if isinstance(settings, HttpJsonSource):
        return "http_json", JsonReader(settings, session, timeout_s)
    if isinstance(settings, CommandSource):
        return "command", CommandReader(settings)
    from .sql import SqlReader

    return "sql", SqlReader(settings, timeout_s)
