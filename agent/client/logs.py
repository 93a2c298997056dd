"""How many messages the backend logs, by level."""

from __future__ import annotations

import logging
from typing import Any

from .default import REGISTRY
from .registry import Registry


def instrument_logging(namespace: str | None = None, *, registry: Registry | None = None) -> None:
    """
    Count every record that a logger makes, whatever its handlers do with it. A second call is none.

    It is counted where records are made: a handler of ours at the root would keep
    ``logging.basicConfig()`` from doing its work.
    """
    registry = registry or REGISTRY
    prefix = registry.prefix(namespace)
    counter = registry.counter(
        f"{prefix}log_messages_total", "Messages logged, by level.", ("level",)
    )
    if not registry.is_first(("logs", prefix)):
        return
    before = logging.getLogRecordFactory()

    def factory(*args: Any, **named: Any) -> logging.LogRecord:
        record = before(*args, **named)
        counter.labels(record.levelname.lower()).inc()
        return record

    for level in ("debug", "info", "warning", "error", "critical"):
        counter.labels(level)
    logging.setLogRecordFactory(factory)
