"""Bodies: every coding, and every way to make one too long."""

from __future__ import annotations

import asyncio
import gzip
import json
import subprocess
import sys
import zlib
from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import web

from tachograph.agent.http.body import Budget, read_body
from tachograph.agent.http.errors import error_middleware

cramjam = pytest.importorskip("cramjam")

LIMIT = 64 * 1024
TEXT = b"a line of text\n" * 1000


def raw_deflate(data: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return compressor.compress(data) + compressor.flush()


def zstd(data: bytes) -> bytes:
    return bytes(cramjam.zstd.compress(data))


class Echo:
    """Reads a body and gives it back."""

    def __init__(self) -> None:
        self.budget = Budget(4 * LIMIT)
        self.timeout_s = 30.0
        self.requests = asyncio.Event()
        self.session = aiohttp.ClientSession()
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    async def handle(self, request: web.Request) -> web.Response:
        self.requests.set()
        with self.budget.share() as share:
            body = await read_body(
                request, LIMIT, share, passthrough=("snappy",), timeout_s=self.timeout_s
            )
            assert len(body) <= share.used_bytes
            return web.Response(body=body)

    async def post(self, body: object, coding: str | None = None) -> tuple[int, bytes]:
        headers = {} if coding is None else {"Content-Encoding": coding}
        async with self.session.post(self.url, data=body, headers=headers) as response:
            return response.status, await response.read()

    async def refused(self, body: object, coding: str | None = None) -> tuple[int, str]:
        status, answer = await self.post(body, coding)
        return status, json.loads(answer)["error"]


@pytest.fixture(params=["unpacked by us", "unpacked by aiohttp"])
async def any_echo(request: pytest.FixtureRequest) -> AsyncIterator[Echo]:
    async for echo in _echo(auto_decompress=request.param == "unpacked by aiohttp"):
        yield echo


@pytest.fixture
async def echo() -> AsyncIterator[Echo]:
    async for echo in _echo(auto_decompress=False):
        yield echo


async def _echo(*, auto_decompress: bool) -> AsyncIterator[Echo]:
    echo = Echo()
    app = web.Application(middlewares=[error_middleware])
    app.add_routes([web.post("/", echo.handle)])
    # Handlers are not cancelled when their client goes away: so they see what reading raises then.
    runner = web.AppRunner(app, auto_decompress=auto_decompress, handler_cancellation=False)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    echo.port = runner.addresses[0][1]
    yield echo
    await echo.session.close()
    await runner.cleanup()
    assert echo.budget.used_bytes == 0


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        (None, TEXT),
        (None, b""),
        ("identity", TEXT),
        ("gzip", gzip.compress(TEXT)),
        ("GZip", gzip.compress(TEXT)),
        ("deflate", zlib.compress(TEXT)),
        ("deflate", raw_deflate(TEXT)),
    ],
)
async def test_known_codings_are_undone_whoever_does_it(
    any_echo: Echo, coding: str | None, body: bytes
) -> None:
    assert await any_echo.post(body, coding) == (200, TEXT if body else b"")


@pytest.mark.parametrize(
    ("coding", "body", "expected"),
    [
        ("x-gzip", gzip.compress(TEXT), TEXT),
        ("gzip", gzip.compress(b"one ") + gzip.compress(b"two"), b"one two"),
        ("gzip", gzip.compress(b""), b""),
        ("zstd", zstd(TEXT), TEXT),
        ("snappy", b"left to the caller", b"left to the caller"),
    ],
)
async def test_codings_that_only_we_undo(
    echo: Echo, coding: str, body: bytes, expected: bytes
) -> None:
    assert await echo.post(body, coding) == (200, expected)


@pytest.mark.parametrize("coding", ["br", "gzip, gzip", "gzip, identity", "compress", "ß"])
async def test_unknown_coding_is_415_and_names_the_known_ones(echo: Echo, coding: str) -> None:
    status, error = await echo.refused(TEXT, coding)
    assert status == 415
    assert error.endswith("is not one of deflate, gzip, snappy, x-gzip, zstd")


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        ("gzip", b""),
        ("gzip", b"no gzip at all"),
        ("gzip", gzip.compress(TEXT)[:-4]),
        ("gzip", gzip.compress(TEXT) + b"x"),
        ("gzip", gzip.compress(b"") * 1001),
        ("deflate", zlib.compress(TEXT)[:20]),
        ("deflate", b"\xff\xff"),
        ("zstd", zstd(TEXT)[:-4]),
        ("zstd", b"nonsense"),
        ("zstd", b""),
    ],
)
async def test_damaged_body_is_400(echo: Echo, coding: str, body: bytes) -> None:
    assert await echo.refused(body, coding) == (400, "the compressed body is damaged or incomplete")


async def test_damaged_body_is_400_whoever_finds_it(any_echo: Echo) -> None:
    status, error = await any_echo.refused(b"no gzip at all" * 5, "gzip")
    assert status == 400
    assert "damaged" in error


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        (None, b"x" * (LIMIT + 1)),
        ("gzip", gzip.compress(b"x" * (LIMIT + 1))),
        ("gzip", gzip.compress(b"x" * LIMIT) + gzip.compress(b"x")),
        ("deflate", raw_deflate(b"x" * (LIMIT + 1))),
        ("zstd", zstd(b"x" * (LIMIT + 1))),
        ("gzip", gzip.compress(bytes(100 * LIMIT))),
        ("zstd", zstd(bytes(1000 * LIMIT))),
    ],
)
async def test_longer_body_is_413(echo: Echo, coding: str | None, body: bytes) -> None:
    assert await echo.refused(body, coding) == (413, f"the body is longer than {LIMIT} bytes")


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        (None, b"x" * LIMIT),
        ("gzip", gzip.compress(b"x" * LIMIT)),
        ("zstd", zstd(b"x" * LIMIT)),
    ],
    ids=["plain", "gzip", "zstd"],  # a gzip body holds the time it was made at
)
async def test_longest_body_is_taken(echo: Echo, coding: str | None, body: bytes) -> None:
    assert await echo.post(body, coding) == (200, b"x" * LIMIT)


async def test_chunked_body_without_a_length_is_bounded_too(echo: Echo) -> None:
    async def chunks(count: int) -> AsyncIterator[bytes]:
        for _ in range(count):
            yield b"x" * 1024

    assert await echo.post(chunks(64)) == (200, b"x" * LIMIT)
    assert (await echo.refused(chunks(65)))[0] == 413


async def test_slow_body_is_408(echo: Echo) -> None:
    echo.timeout_s = 0.05
    reader, writer = await asyncio.open_connection("127.0.0.1", echo.port)
    writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nxxx")
    assert b" 408 " in await reader.readline()
    writer.close()
    await writer.wait_closed()


async def test_sender_that_goes_away_is_no_error(
    echo: Echo, caplog: pytest.LogCaptureFixture
) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", echo.port)
    writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nxxx")
    await echo.requests.wait()
    writer.close()
    await writer.wait_closed()
    assert await echo.post(b"x") == (200, b"x")
    assert [record for record in caplog.records if record.levelno >= 30] == []


async def test_requests_that_together_hold_too_much_are_sent_away(echo: Echo) -> None:
    with echo.budget.share() as share:
        share.take(3 * LIMIT + 1)
        async with echo.session.post(echo.url, data=b"x" * LIMIT) as response:
            assert response.status == 429
            assert response.headers["Retry-After"] == "1"
        assert echo.budget.refused == 1
        assert await echo.post(b"x") == (200, b"x")
    assert await echo.post(b"x" * LIMIT) == (200, b"x" * LIMIT)


_BOMBS = """
import gzip, sys, zlib
import cramjam
from tachograph.agent.http.body import _gunzip, _undeflate, _unzstd
from tachograph.agent.http.errors import ApiError

MIB = 1 << 20
decode, bomb = {
    "gzip": (_gunzip, gzip.compress(bytes(100 * MIB), 1)),
    "members": (_gunzip, gzip.compress(b"") * (MIB // 20)),
    "deflate": (_undeflate, zlib.compress(bytes(100 * MIB), 1)),
    "zstd": (_unzstd, bytes(cramjam.zstd.compress(bytes(100 * MIB)))),
}[sys.argv[1]]
# What making the bomb took must not hide what it takes to meet it.
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")
def peak_kib():
    with open("/proc/self/status") as file:
        return int(next(line for line in file if line.startswith("VmHWM")).split()[1])
before_kib = peak_kib()
try:
    decode(bomb, 32 * MIB)
except ApiError as error:
    print(error.status, peak_kib() - before_kib)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("kind", ["gzip", "members", "deflate", "zstd"])
def test_bomb_costs_little_memory(kind: str) -> None:
    child = subprocess.run(
        [sys.executable, "-c", _BOMBS, kind],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    status, grown_kib = child.stdout.split()
    assert status == ("400" if kind == "members" else "413")
    assert int(grown_kib) < 64 * 1024
