"""Structured logs to stderr: one line an event, as logfmt or JSON."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Final, TextIO

_PLAIN: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def set_up(level: str, style: str, stream: TextIO | None = None) -> None:
    """
    Send the logs of ``tachograph`` to ``stream`` (stderr). Only the command line calls this: as a
    guest in a backend's process we use the backend's logging.

    Args:
        level: ``debug``, ``info``, ``warn`` or ``error``.
        style: ``logfmt`` or ``json``.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if style == "json" else LogfmtFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("tachograph").setLevel(level_number(level))
    # A request that cannot be parsed is the client's mistake: no traceback of ours.
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)


def level_number(level: str) -> int:
    return {"warn": logging.WARNING}.get(level, logging.getLevelNamesMapping()[level.upper()])


def _fields(record: logging.LogRecord) -> dict[str, object]:
    seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    fields: dict[str, object] = {
        "ts": f"{seconds}.{int(record.msecs):03d}Z",
        "level": {"WARNING": "warn"}.get(record.levelname, record.levelname.lower()),
        "component": record.name.removeprefix("tachograph."),
        "msg": record.getMessage(),
    }
    fields |= {key: value for key, value in vars(record).items() if key not in _PLAIN}
    if record.exc_info:
        fields["error"] = logging.Formatter().formatException(record.exc_info)
    return fields


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        return json.dumps(_fields(record), default=str, ensure_ascii=False)


class LogfmtFormatter(logging.Formatter):
    """``key=value`` pairs, quoted where needed."""

    def format(self, record: logging.LogRecord) -> str:
        return " ".join(f"{key}={_quote(value)}" for key, value in _fields(record).items())


def _quote(value: object) -> str:
    text = str(value)
    if text and not any(c in text for c in ' "=\n\t\\'):
        return text
    return json.dumps(text, ensure_ascii=False)
