"""How a request fails: the error shapes of Prometheus' HTTP API, made in one place."""

from __future__ import annotations

import enum
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import msgspec
from aiohttp import hdrs, web

from ...config.errors import SelectorError, TachographError
from ...storage.errors import SeriesRefused, StoreUnavailable

log = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

#: What a client is told to wait when the store can't take samples: two flushes at their slowest.
STORE_RETRY_S: Final = 10


class ErrorType(enum.StrEnum):
    """``errorType`` of an answer, by the names that Prometheus' clients know."""

    BAD_DATA = "bad_data"
    EXECUTION = "execution"
    TIMEOUT = "timeout"
    CANCELED = "canceled"
    UNAVAILABLE = "unavailable"
    NOT_FOUND = "not_found"
    NOT_ACCEPTABLE = "not_acceptable"
    INTERNAL = "internal"

    @property
    def status(self) -> int:
        """The HTTP status that goes with it. Source: Prometheus, "HTTP API", "Format overview"."""
        return _STATUS[self]


_STATUS: Final = {
    ErrorType.BAD_DATA: 400,
    ErrorType.EXECUTION: 422,
    ErrorType.TIMEOUT: 503,
    ErrorType.CANCELED: 503,
    ErrorType.UNAVAILABLE: 503,
    ErrorType.NOT_FOUND: 404,
    ErrorType.NOT_ACCEPTABLE: 406,
    ErrorType.INTERNAL: 500,
}


class ApiError(TachographError):
    """
    A request that can't be answered as asked.

    Attributes:
        type: Goes into the body as ``errorType``.
        status: That of the type, unless another one says it better (413, 415, 429).
        retry_after_s: When trying again may help.
        facts: Further members of the body.
    """

    def __init__(
        self,
        type_: ErrorType,
        message: str,
        *,
        status: int | None = None,
        retry_after_s: int | None = None,
        facts: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(message)
        self.type = type_
        self.status = status or type_.status
        self.retry_after_s = retry_after_s
        self.facts = facts or {}

    def response(self) -> web.Response:
        # What a client sent in bytes that are no UTF-8 comes back in the message as surrogates,
        # which JSON cannot hold.
        message = str(self).encode("utf-8", "replace").decode()
        body = {"status": "error", "errorType": self.type.value, "error": message, **self.facts}
        headers = {}
        if self.retry_after_s is not None:
            headers[hdrs.RETRY_AFTER] = str(self.retry_after_s)
        return web.Response(
            status=self.status,
            body=msgspec.json.encode(body),
            headers=headers,
            content_type="application/json",
        )


def as_api_error(error: TachographError) -> ApiError | None:
    """Return what an error of the layers below means for the client; ``None`` if it is ours."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, SelectorError | SeriesRefused):
        return ApiError(ErrorType.BAD_DATA, str(error))
    if isinstance(error, StoreUnavailable):
        return ApiError(ErrorType.UNAVAILABLE, str(error), retry_after_s=STORE_RETRY_S)
    return None


@web.middleware
async def error_middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """
    Turn what a handler raises into an answer.

    Unexpected errors are logged here, once, and say nothing about themselves to the client.
    """
    try:
        return await handler(request)
    except TachographError as error:
        known = as_api_error(error)
        return known.response() if known is not None else _unexpected(request, error)
    except web.HTTPNotFound:
        return _plain(404, "404 page not found")
    except web.HTTPMethodNotAllowed as error:
        # As Prometheus does, in plain text: Grafana repeats a POST as GET on this status alone.
        return _plain(405, "405 method not allowed", {hdrs.ALLOW: error.headers[hdrs.ALLOW]})
    except web.HTTPRequestEntityTooLarge as error:
        return ApiError(ErrorType.BAD_DATA, error.text or "body too large", status=413).response()
    except web.HTTPException:
        raise
    except ConnectionError as error:
        if request.transport is None:
            return web.Response(status=400)  # nobody is left to read it
        return _unexpected(request, error)
    except Exception as error:
        return _unexpected(request, error)


def _plain(status: int, text: str, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.Response(status=status, text=f"{text}\n", headers=headers)


def _unexpected(request: web.Request, error: Exception) -> web.StreamResponse:
    # %r: a decoded path may hold line breaks, and with them forged log lines.
    log.error("%s %r failed", request.method, request.path, exc_info=error)
    if request.writer.output_size and request.transport is not None:
        # The answer has begun. Only a broken connection still tells the client that it isn't whole.
        request.transport.abort()
    return ApiError(
        ErrorType.INTERNAL, "unexpected error; the agent's log has the details"
    ).response()
