"""Query parameters: times, selectors and limits, as Prometheus' API reads them."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from typing import Final

from aiohttp import web

from ...config.errors import SelectorError
from ...config.selector import Matcher, parse_selector
from .errors import ApiError, ErrorType

_RFC3339: Final = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d")
#: Some year 285 million: times beyond are a client's mistake in units, and none of our samples.
_TIME_MAX_S: Final = 9e15


def bad(name: str, reason: str) -> ApiError:
    """Return the error for a parameter that cannot be used."""
    return ApiError(ErrorType.BAD_DATA, f'invalid parameter "{name}": {reason}')


def time_ms(request: web.Request, name: str, default_ms: int) -> int:
    """
    Read a time: Unix seconds with decimals, or RFC 3339.

    Raises:
        ApiError: It is neither.
    """
    text = request.query.get(name, "")
    return parse_time(text, name) if text else default_ms


def parse_time(text: str, name: str) -> int:
    """Read a time from text; see :func:`time_ms`."""
    try:
        seconds = float(text)
    except ValueError:
        if not _RFC3339.match(text):
            raise bad(name, f'cannot parse "{text}" to a valid timestamp') from None
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            raise bad(name, f'cannot parse "{text}" to a valid timestamp') from None
        zoned = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return round(zoned.timestamp() * 1000)
    if math.isnan(seconds):
        raise bad(name, f'cannot parse "{text}" to a valid timestamp')
    return round(min(max(seconds, -_TIME_MAX_S), _TIME_MAX_S) * 1000)


def range_ms(request: web.Request, now_ms: int, default_span_ms: int) -> tuple[int, int]:
    """Read ``start`` and ``end``; without them the last ``default_span_ms``."""
    end_ms = time_ms(request, "end", now_ms)
    start_ms = time_ms(request, "start", end_ms - default_span_ms)
    if end_ms < start_ms:
        raise bad("end", "end timestamp must not be before start time")
    return start_ms, end_ms


def selectors(request: web.Request, *, required: bool = True) -> list[tuple[Matcher, ...]]:
    """
    Read all of ``match[]`` and ``match``.

    Raises:
        ApiError: One cannot be read, or there is none though it is required.
    """
    found = []
    for name in ("match[]", "match"):
        for text in request.query.getall(name, ()):
            try:
                found.append(parse_selector(text))
            except SelectorError as error:
                raise bad(name, str(error)) from error
    if required and not found:
        raise ApiError(ErrorType.BAD_DATA, "no match[] parameter provided")
    return found


def count(request: web.Request, name: str, default: int) -> int:
    """Read a whole number from 0 on."""
    text = request.query.get(name, "")
    if not text:
        return default
    if not text.isdecimal():
        raise bad(name, f'"{text}" is not a whole number')
    return int(text)


def choice(request: web.Request, name: str, allowed: tuple[str, ...], default: str) -> str:
    """
    Read one of some words.

    Raises:
        ApiError: It is none of them; the error names all.
    """
    text = request.query.get(name, default)
    if text not in allowed:
        raise bad(name, f'"{text}" is not one of {", ".join(allowed)}')
    return text
