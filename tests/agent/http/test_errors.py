"""What a client is told when a request fails, and what the log is."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from tachograph.agent.http.errors import STORE_RETRY_S, ApiError, ErrorType, error_middleware
from tachograph.config.errors import ConfigError, SelectorError
from tachograph.storage.errors import SeriesRefused, StoreCorrupt, StoreUnavailable

SECRET = "a secret from inside"


def raising(error: BaseException) -> web.RouteDef:
    async def handler(_: web.Request) -> web.Response:
        raise error

    return web.get("/", handler)


async def half(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    await response.write(b"half of ")
    raise RuntimeError(SECRET)


class Client:
    """One server for one route, and a session to ask it with."""

    def __init__(self) -> None:
        self._servers: list[TestServer] = []
        self.session = aiohttp.ClientSession()

    async def serve(self, route: web.RouteDef) -> str:
        app = web.Application(middlewares=[error_middleware])
        app.add_routes([route])
        server = TestServer(app)
        await server.start_server()
        self._servers.append(server)
        return str(server.make_url("/"))

    async def get(self, route: web.RouteDef, path: str = "") -> tuple[int, object, str]:
        """Return status, body (JSON decoded) and ``Retry-After``."""
        async with self.session.get(await self.serve(route) + path) as response:
            body = (
                await response.json()
                if response.content_type == "application/json"
                else await response.text()
            )
            return response.status, body, response.headers.get("Retry-After", "")

    async def close(self) -> None:
        await self.session.close()
        for server in self._servers:
            await server.close()


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    client = Client()
    yield client
    await client.close()


@pytest.mark.parametrize(
    ("type_", "status"),
    [
        (ErrorType.BAD_DATA, 400),
        (ErrorType.EXECUTION, 422),
        (ErrorType.TIMEOUT, 503),
        (ErrorType.CANCELED, 503),
        (ErrorType.UNAVAILABLE, 503),
        (ErrorType.NOT_FOUND, 404),
        (ErrorType.NOT_ACCEPTABLE, 406),
        (ErrorType.INTERNAL, 500),
    ],
)
async def test_each_type_has_its_status(client: Client, type_: ErrorType, status: int) -> None:
    body = {"status": "error", "errorType": type_.value, "error": "so"}
    assert await client.get(raising(ApiError(type_, "so"))) == (status, body, "")


async def test_error_carries_further_facts(client: Client) -> None:
    error = ApiError(
        ErrorType.BAD_DATA, '2 < 3 & "ü"', status=429, retry_after_s=7, facts={"stored": 3}
    )
    body = {"status": "error", "errorType": "bad_data", "error": '2 < 3 & "ü"', "stored": 3}
    assert await client.get(raising(error)) == (429, body, "7")


async def test_errors_of_the_layers_below_are_the_clients_or_pass(client: Client) -> None:
    status, body, _ = await client.get(raising(SelectorError("unexpected end", 4)))
    assert (status, body) == (
        400,
        {
            "status": "error",
            "errorType": "bad_data",
            "error": "1:5: parse error: unexpected end",
        },
    )
    assert (await client.get(raising(SeriesRefused("series", "too many"))))[0] == 400
    status, body, retry_after = await client.get(raising(StoreUnavailable("disk full")))
    assert (status, retry_after) == (503, str(STORE_RETRY_S))
    assert body == {"status": "error", "errorType": "unavailable", "error": "disk full"}


@pytest.mark.parametrize(
    "error", [RuntimeError(SECRET), StoreCorrupt(SECRET), ConfigError([SECRET]), KeyError(SECRET)]
)
async def test_unexpected_error_is_logged_once_and_tells_the_client_nothing(
    client: Client, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    with caplog.at_level(logging.DEBUG, "tachograph"):
        status, body, _ = await client.get(raising(error))
    assert status == 500
    assert isinstance(body, dict)
    assert (body["status"], body["errorType"]) == ("error", "internal")
    assert SECRET not in str(body)
    assert [record.getMessage() for record in caplog.records if record.levelno >= 30] == [
        "GET '/' failed"
    ]
    assert SECRET in caplog.text


async def test_broken_connection_of_our_own_is_unexpected(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    assert (await client.get(raising(ConnectionResetError(SECRET))))[0] == 500
    assert SECRET in caplog.text


async def test_path_can_not_forge_a_log_line(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    async def handler(_: web.Request) -> web.Response:
        raise RuntimeError

    assert (await client.get(web.get(r"/{rest:[\s\S]*}", handler), "x%0Aforged"))[0] == 500
    assert "GET '/x\\nforged' failed" in [record.getMessage() for record in caplog.records]


async def test_answer_that_has_begun_is_cut_off_and_logged_once(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    url = await client.serve(web.get("/", half))
    with caplog.at_level(logging.WARNING):
        async with client.session.get(url) as response:
            assert response.status == 200
            with pytest.raises(aiohttp.ClientPayloadError):
                await response.read()
    assert len(caplog.records) == 1


async def test_unknown_pages_and_methods_are_answered_in_plain_text(client: Client) -> None:
    async def handler(_: web.Request) -> web.Response:
        return web.Response(text="fine")

    assert await client.get(web.get("/", handler), "nowhere") == (404, "404 page not found\n", "")
    async with client.session.post(await client.serve(web.get("/", handler))) as response:
        assert response.status == 405
        assert response.headers["Allow"] == "GET,HEAD"
        assert await response.text() == "405 method not allowed\n"
    assert (await client.get(web.get("/", handler)))[:2] == (200, "fine")


async def test_other_http_answers_pass_as_they_are(client: Client) -> None:
    route = raising(web.HTTPUnauthorized(headers={"WWW-Authenticate": "Bearer"}))
    async with client.session.get(await client.serve(route)) as response:
        assert response.status == 401
        assert response.headers["WWW-Authenticate"] == "Bearer"
    status, body, _ = await client.get(raising(web.HTTPRequestEntityTooLarge(10, 20)))
    assert status == 413
    assert isinstance(body, dict)
    assert body["errorType"] == "bad_data"


async def test_a_message_with_bytes_that_are_no_utf8_is_told_all_the_same(client: Client) -> None:
    error = ApiError(ErrorType.EXECUTION, "invalid label name \udcff")
    status, body, _ = await client.get(raising(error))
    assert (status, body) == (
        422,
        {"status": "error", "errorType": "execution", "error": "invalid label name ?"},
    )
