"""``POST /api/tachograph/v1/client``: what backends push when they don't use the socket."""

from __future__ import annotations

from typing import Final, Protocol

from aiohttp import web

from ...config.settings import HttpSettings
from ...storage.errors import StorageError
from ..ingest.client import MESSAGE_BYTES_MAX, ClientError
from .body import Budget, read_body
from .errors import ApiError, ErrorType

PATH: Final = "/api/tachograph/v1/client"
#: So many of the longest messages may be held by all requests together.
_BODIES_HELD: Final = 4


class Intake(Protocol):
    async def answer(self, body: bytes) -> bytes: ...


class ClientEndpoint:
    """Takes the messages of our client library; not meant for anybody else."""

    def __init__(self, intake: Intake, http: HttpSettings) -> None:
        self._intake = intake
        self._body_timeout_s = http.body_timeout_ms / 1000
        self.budget = Budget(_BODIES_HELD * MESSAGE_BYTES_MAX)

    def routes(self) -> list[web.AbstractRouteDef]:
        return [web.post(PATH, self.post)]

    async def post(self, request: web.Request) -> web.Response:
        # A page in a browser can't send this type to us without asking first, and we don't answer.
        if request.content_type != "application/json":
            raise ApiError(
                ErrorType.BAD_DATA,
                f"Content-Type {request.content_type!r} is not application/json",
                status=415,
            )
        with self.budget.share() as share:
            body = await read_body(
                request, MESSAGE_BYTES_MAX, share, timeout_s=self._body_timeout_s
            )
            try:
                answer = await self._intake.answer(body)
            except ClientError as error:
                raise ApiError(ErrorType.BAD_DATA, str(error)) from None
            except StorageError as error:
                raise ApiError(
                    ErrorType.UNAVAILABLE, str(error), status=503, retry_after_s=1
                ) from None
        return web.Response(body=answer, content_type="application/json")


def switched_off() -> list[web.AbstractRouteDef]:
    """What stands in the endpoint's place: whoever pushes learns why nobody takes it."""

    async def refuse(_: web.Request) -> web.Response:
        raise ApiError(
            ErrorType.NOT_FOUND,
            "this agent takes no pushed metrics: metrics.custom.enabled is false",
        )

    return [web.post(PATH, refuse)]
