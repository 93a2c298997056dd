"""Parameters of Prometheus' API: from the URL or a posted form, and what they mean."""

from __future__ import annotations

import asyncio
import math
from typing import Final
from urllib.parse import parse_qsl

from aiohttp import hdrs, web

from ...config.errors import SelectorError
from ...config.selector import Matcher, parse_selector
from ...config.settings import HttpSettings
from ...config.units import parse_duration
from . import multipart
from .body import read_body
from .errors import ApiError, ErrorType
from .params import bad, parse_time

_FORM: Final = "application/x-www-form-urlencoded"
_FIELDS_MAX: Final = 10_000
#: Sixteen times the longest query. Reading it takes a tenth of a second where every byte is
#: escaped, and nothing that is asked by form is longer.
FORM_BYTES_MAX: Final = 1 << 20
# What is longer is read in another thread: everybody else may wait 7 ms at most.
_INLINE_BYTES: Final = 64 * 1024
# Regular expressions take up to 2 µs a character to compile.
_INLINE_SELECTOR_CHARS: Final = 4 * 1024
#: Prometheus' own idea of all time; Grafana and others send it back. Times are ms.
_MIN_TIME: Final = "-292273086-05-16T16:47:06Z"
_MAX_TIME: Final = "292277025-08-18T07:12:54.999999999Z"
TIME_MAX_MS: Final = 9_000_000_000_000_000_000


class Form:
    """
    What a request asks, by name. Where the URL and a form have the same name, the form's value
    comes first, whatever the method says.
    """

    def __init__(self, pairs: list[tuple[str, str]]) -> None:
        self._values: dict[str, list[str]] = {}
        for name, value in pairs:
            self._values.setdefault(name, []).append(value)

    @classmethod
    async def of(cls, request: web.Request, http: HttpSettings) -> Form:
        """
        Read a request's parameters.

        Raises:
            ApiError: The body can't be read, or is too long.
        """
        pairs: list[tuple[str, str]] = []
        # Whatever else is posted is no parameter, as in Go: some clients send an empty JSON body.
        if request.method != hdrs.METH_GET and request.content_type in (_FORM, multipart.TYPE):
            body = await read_body(
                request,
                min(http.max_body_bytes, FORM_BYTES_MAX),
                timeout_s=http.body_timeout_ms / 1000,
            )
            content_type = request.headers[hdrs.CONTENT_TYPE]
            try:
                if len(body) > _INLINE_BYTES:
                    pairs = await asyncio.to_thread(_parse, body, content_type)
                else:
                    pairs = _parse(body, content_type)
            except ValueError as error:
                raise ApiError(ErrorType.BAD_DATA, f"the form cannot be read: {error}") from error
        return cls([*pairs, *request.query.items()])

    def get(self, name: str, default: str = "") -> str:
        return self._values.get(name, (default,))[0]

    def getall(self, name: str) -> list[str]:
        return self._values.get(name, [])

    def time_ms(self, name: str, default_ms: int) -> int:
        """Read a time: Unix seconds or RFC 3339. Raises ApiError."""
        text = self.get(name)
        if not text:
            return default_ms
        if text == _MIN_TIME:
            return -TIME_MAX_MS
        if text == _MAX_TIME:
            return TIME_MAX_MS
        return parse_time(text, name)

    def range_ms(self) -> tuple[int, int]:
        """Read ``start`` and ``end``; without them all of time. Raises ApiError."""
        start_ms = self.time_ms("start", -TIME_MAX_MS)
        end_ms = self.time_ms("end", TIME_MAX_MS)
        if end_ms < start_ms:
            raise bad("end", "end timestamp must not be before start time")
        return start_ms, end_ms

    def duration_ms(self, name: str, default_ms: int, *, signed: bool = False) -> int:
        """
        Read a duration: seconds as a number, or ``5m``.

        Args:
            signed: Whether the caller has a better word for one below 0.

        Raises:
            ApiError: It is neither, or below 0.
        """
        text = self.get(name)
        if not text:
            return default_ms
        try:
            seconds = float(text)
        except ValueError:
            # With a unit, durations have no sign, as in Prometheus.
            try:
                return parse_duration(text)
            except ValueError:
                raise bad(name, f'cannot parse "{text}" to a valid duration') from None
        if math.isnan(seconds) or abs(seconds) > TIME_MAX_MS / 1e6:
            raise bad(name, f'cannot parse "{text}" to a valid duration. It overflows int64')
        if seconds < 0 and not signed:
            raise bad(name, f'cannot parse "{text}" to a valid duration: it is negative')
        return round(seconds * 1000)

    def count(self, name: str = "limit") -> int:
        """Read a whole number; 0, for no limit, if there is none. Raises ApiError."""
        text = self.get(name)
        if not text:
            return 0
        if not text.isascii() or not text.isdecimal():
            raise bad(name, f'cannot parse "{text}" to a whole number that is not negative')
        return int(text)

    async def selectors(self, *, required: bool) -> list[tuple[Matcher, ...]]:
        """
        Read all of ``match[]``.

        Raises:
            ApiError: One cannot be read, or there is none though it is required.
        """
        texts = self.getall("match[]")
        if required and not texts:
            raise ApiError(ErrorType.BAD_DATA, "no match[] parameter provided")
        if sum(map(len, texts)) > _INLINE_SELECTOR_CHARS:
            return await asyncio.to_thread(_parse_selectors, texts)
        return _parse_selectors(texts)


def _parse_selectors(texts: list[str]) -> list[tuple[Matcher, ...]]:
    found = []
    for text in texts:
        try:
            found.append(parse_selector(text))
        except SelectorError as error:
            raise bad("match[]", str(error)) from error
    return found


def _parse(body: bytes, content_type: str) -> list[tuple[str, str]]:
    if content_type.strip().lower().startswith(multipart.TYPE):
        return multipart.parse_multipart(body, content_type, _FIELDS_MAX)
    return parse_qsl(
        body.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=_FIELDS_MAX
    )
