from __future__ import annotations

import asyncio
import contextlib
import gzip
import os
import shutil
import ssl
import subprocess
import zlib
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from yarl import URL

from support.exporter import TEXT, Exporter, gzipped
from tachograph.agent.collectors.scrape_http import (
    Answer,
    Fetcher,
    ScrapeError,
    open_session,
    unpacked,
)
from tachograph.config.prometheus import (
    Authorization,
    BasicAuth,
    HttpClient,
    HttpHeader,
    TlsConfig,
)
from tachograph.config.secret import Secret


async def fetch(
    exporter: Exporter,
    *,
    limit_bytes: int = 0,
    timeout_s: float = 10.0,
    scheme: str = "http",
    **client: Any,
) -> Answer:
    async with open_session() as session:
        fetcher = Fetcher(session, HttpClient(**client), limit_bytes)
        return await fetcher.fetch(URL(f"{scheme}://{exporter.address}/metrics?a=b"), timeout_s)


async def failure(exporter: Exporter, **settings: Any) -> ScrapeError:
    with pytest.raises(ScrapeError) as caught:
        await fetch(exporter, **settings)
    return caught.value


async def test_request_offers_both_formats_gzip_and_its_timeout() -> None:
    async with Exporter("a 1\n") as exporter:
        answer = await fetch(exporter, timeout_s=2.5)
    assert answer == Answer(b"a 1\n", is_gzip=False, content_type=TEXT)
    assert exporter.paths == ["/metrics?a=b"]
    [headers] = exporter.headers
    assert headers["Accept"].startswith("application/openmetrics-text;version=1.0.0")
    assert "text/plain;version=0.0.4" in headers["Accept"]
    assert headers["Accept-Encoding"] == "gzip"
    assert headers["X-Prometheus-Scrape-Timeout-Seconds"] == "2.5"
    assert headers["User-Agent"] == "Tachograph"
    assert "Authorization" not in headers


async def test_gzip_is_left_packed_until_it_is_read() -> None:
    async def handler(_: web.BaseRequest) -> web.Response:
        return gzipped(b"a 1\n")

    async with Exporter() as exporter:
        exporter.handler = handler
        answer = await fetch(exporter)
    assert answer.is_gzip
    assert unpacked(answer, 100) == b"a 1\n"


@pytest.mark.parametrize("status", [404, 500, 503, 204])
async def test_other_status_than_200_fails(status: int) -> None:
    async def handler(_: web.BaseRequest) -> web.Response:
        return web.Response(status=status)

    async with Exporter() as exporter:
        exporter.handler = handler
        error = await failure(exporter)
    assert error.reason == "status"
    assert str(error).startswith(f"server returned HTTP status {status} ")


async def test_slow_target_fails_at_its_timeout() -> None:
    async with Exporter() as exporter:
        exporter.handler = exporter.never
        error = await failure(exporter, timeout_s=0.05)
    assert (error.reason, str(error)) == ("timeout", "no answer within 0.05 s")


async def test_connection_reset_in_the_body_fails() -> None:
    async with Exporter() as exporter:
        exporter.handler = exporter.broken_off
        error = await failure(exporter)
    assert error.reason == "connection"


async def test_nobody_listening_fails() -> None:
    async with Exporter() as exporter:
        pass
    error = await failure(exporter)
    assert error.reason == "connection"
    assert exporter.address.partition(":")[2] in str(error)


OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n"


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"220 smtp.example ESMTP\r\n\r\n", id="not HTTP"),
        pytest.param(b"", id="nothing"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-", id="half a header"),
        pytest.param(OK + b"X: " + b"x" * 100_000 + b"\r\n\r\n", id="endless header"),
        pytest.param(OK + b"X: y\r\n" * 100_000 + b"\r\n", id="endless headers"),
        pytest.param(OK + b"Content-Length: 9\r\n\r\na 1\n", id="short body"),
        pytest.param(OK + b"Content-Length: -9\r\n\r\na 1\n", id="negative length"),
        pytest.param(OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\na 1\n", id="bad chunk"),
        pytest.param(OK + b"Transfer-Encoding: chunked\r\n\r\n4\r\na 1\n", id="half a chunk"),
    ],
)
async def test_broken_http_fails(answer: bytes) -> None:
    async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    server = await asyncio.start_server(babble, "127.0.0.1", 0)
    async with server:
        host, port = server.sockets[0].getsockname()[:2]
        exporter = Exporter()
        exporter.address = f"{host}:{port}"
        error = await failure(exporter)
    assert error.reason == "connection"


async def test_header_that_cannot_be_sent_fails_without_showing_it() -> None:
    async with Exporter() as exporter:
        error = await failure(exporter, bearer_token=Secret("hush\nX-Evil: 1"))
    assert error.reason == "settings"
    assert "hush" not in str(error)
    assert exporter.headers == []


@pytest.mark.parametrize("chunked", [False, True])
async def test_body_over_the_limit_fails(chunked: bool) -> None:
    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": TEXT})
        if chunked:
            response.enable_chunked_encoding()
        else:
            response.content_length = 2000
        await response.prepare(request)
        await response.write(b"a 1\n" * 500)
        return response

    async with Exporter() as exporter:
        exporter.handler = handler
        error = await failure(exporter, limit_bytes=1999)
        assert (error.reason, "more than 1999 bytes" in str(error)) == ("body_size", True)
        assert len((await fetch(exporter, limit_bytes=2000)).raw) == 2000


async def test_encoding_that_was_not_offered_fails() -> None:
    async def handler(_: web.BaseRequest) -> web.Response:
        return web.Response(body=b"a 1\n", headers={"Content-Encoding": "br"})

    async with Exporter() as exporter:
        exporter.handler = handler
        error = await failure(exporter)
    assert (error.reason, str(error)) == ("encoding", "unsupported Content-Encoding 'br'")


# --- unpacking --------------------------------------------------------------------------------


def packed(raw: bytes) -> Answer:
    return Answer(raw, is_gzip=True, content_type=TEXT)


def test_gzip_of_several_members_is_one_page() -> None:
    raw = gzip.compress(b"a 1\n") + gzip.compress(b"") + gzip.compress(b"b 2\n")
    assert unpacked(packed(raw), 8) == b"a 1\nb 2\n"


def test_gzip_bomb_is_stopped_at_the_limit() -> None:
    squeeze = zlib.compressobj(9, wbits=31)
    bomb = b"".join(squeeze.compress(bytes(1 << 20)) for _ in range(100)) + squeeze.flush()
    with pytest.raises(ScrapeError, match="body size limit exceeded") as caught:
        unpacked(packed(bomb), 1 << 20)
    assert caught.value.reason == "body_size"


PACKED = gzip.compress(b"a 1\n" * 100, mtime=0)


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"a 1\n", id="not gzip"),
        pytest.param(PACKED[:5], id="short header"),
        pytest.param(PACKED[:15], id="short body"),
        pytest.param(PACKED[:-9], id="no trailer"),
        pytest.param(PACKED[:-8] + bytes(8), id="wrong checksum"),
        pytest.param(PACKED + b"rest", id="rest"),
    ],
)
def test_damaged_gzip_fails(raw: bytes) -> None:
    with pytest.raises(ScrapeError) as caught:
        unpacked(packed(raw), 100_000)
    assert caught.value.reason == "encoding"


# --- who we are -------------------------------------------------------------------------------


async def test_basic_auth_is_sent() -> None:
    async with Exporter() as exporter:
        await fetch(exporter, basic_auth=BasicAuth(username="jöe", password=Secret("p:w")))
    assert exporter.headers[0]["Authorization"] == "Basic asO2ZTpwOnc="


async def test_token_file_is_read_at_every_request(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("one\n")
    async with Exporter() as exporter, open_session() as session:
        client = HttpClient(authorization=Authorization(credentials_file=token))
        fetcher = Fetcher(session, client)
        await fetcher.fetch(URL(f"http://{exporter.address}/"), 10)
        token.write_text("two\n")
        await fetcher.fetch(URL(f"http://{exporter.address}/"), 10)
        token.unlink()
        with pytest.raises(ScrapeError, match="cannot read secret file") as caught:
            await fetcher.fetch(URL(f"http://{exporter.address}/"), 10)
    assert caught.value.reason == "settings"
    assert [headers["Authorization"] for headers in exporter.headers] == [
        "Bearer one",
        "Bearer two",
    ]


async def test_old_bearer_token_and_extra_headers_are_sent(tmp_path: Path) -> None:
    (tmp_path / "h").write_text("3")
    headers = {
        "X-Scope": HttpHeader(values=("1",), secrets=(Secret("2"),), files=(tmp_path / "h",))
    }
    async with Exporter() as exporter:
        await fetch(exporter, bearer_token=Secret("old"), http_headers=headers)
    assert exporter.headers[0]["Authorization"] == "Bearer old"
    assert exporter.headers[0]["X-Scope"] == "1, 2, 3"


# --- redirects --------------------------------------------------------------------------------


def redirecting(location: str) -> Any:
    async def handler(request: web.BaseRequest) -> web.Response:
        if request.path == "/moved":
            return web.Response(body=b"a 1\n", headers={"Content-Type": TEXT})
        return web.Response(status=302, headers={"Location": location})

    return handler


async def test_redirect_is_followed_with_credentials_on_the_same_host() -> None:
    async with Exporter() as exporter:
        exporter.handler = redirecting("/moved")
        answer = await fetch(exporter, bearer_token=Secret("t"))
    assert answer.raw == b"a 1\n"
    assert exporter.paths == ["/metrics?a=b", "/moved"]
    assert exporter.headers[1]["Authorization"] == "Bearer t"


async def test_redirect_to_another_host_goes_without_credentials() -> None:
    headers = {"X-Api-Key": HttpHeader(secrets=(Secret("k"),))}
    async with Exporter() as exporter, Exporter("b 2\n") as other:
        exporter.handler = redirecting(f"http://{other.address}/there")
        answer = await fetch(exporter, bearer_token=Secret("t"), http_headers=headers)
    assert answer.raw == b"b 2\n"
    assert exporter.headers[0]["X-Api-Key"] == "k"
    assert "Authorization" not in other.headers[0]
    assert "X-Api-Key" not in other.headers[0]


async def test_redirect_is_a_failure_if_not_to_be_followed() -> None:
    async with Exporter() as exporter:
        exporter.handler = redirecting("/moved")
        error = await failure(exporter, follow_redirects=False)
    assert str(error) == "server returned HTTP status 302 Found"


@pytest.mark.parametrize("location", ["/loop", "", "ftp://h/", "file:///etc/passwd", "http://[:"])
async def test_redirect_that_leads_nowhere_fails(location: str) -> None:
    async with Exporter() as exporter:
        exporter.handler = redirecting(location)
        error = await failure(exporter)
    assert error.reason == "redirect"
    assert len(exporter.paths) == (11 if location == "/loop" else 1)


# --- TLS --------------------------------------------------------------------------------------

needs_openssl = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="openssl is not installed"
)


def certificate(folder: Path, name: str, host: str) -> tuple[Path, Path]:
    """Make a self-signed certificate; return it and its key."""
    cert, key = folder / f"{name}.pem", folder / f"{name}.key"
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")
    names = ("-subj", f"/CN={name}", "-addext", f"subjectAltName={host}")
    files = ("-keyout", str(key), "-out", str(cert))
    subprocess.run(
        ["openssl", "req", "-x509", *curve, "-nodes", "-days", "2", *files, *names],
        check=True,
        capture_output=True,
    )
    return cert, key


def server_side(cert: Path, key: Path, clients: Path | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=clients)
    context.load_cert_chain(cert, key)
    if clients is not None:
        context.verify_mode = ssl.CERT_REQUIRED
    return context


@needs_openssl
async def test_certificate_is_verified_unless_told_otherwise(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path, "server", "IP:127.0.0.1")
    async with Exporter("a 1\n").with_tls(server_side(cert, key)) as exporter:
        error = await failure(exporter, scheme="https")
        assert "certificate verify failed" in str(error)
        trusting = TlsConfig(ca_file=cert)
        assert (await fetch(exporter, scheme="https", tls_config=trusting)).raw == b"a 1\n"
        careless = TlsConfig(insecure_skip_verify=True)
        assert (await fetch(exporter, scheme="https", tls_config=careless)).raw == b"a 1\n"


@needs_openssl
async def test_server_name_is_what_the_certificate_must_say(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path, "server", "DNS:metrics.example")
    async with Exporter("a 1\n").with_tls(server_side(cert, key)) as exporter:
        error = await failure(exporter, scheme="https", tls_config=TlsConfig(ca_file=cert))
        assert "certificate verify failed" in str(error)
        named = TlsConfig(ca_file=cert, server_name="metrics.example")
        assert (await fetch(exporter, scheme="https", tls_config=named)).raw == b"a 1\n"


@needs_openssl
async def test_client_certificate_is_shown_and_read_again_when_it_changes(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path, "server", "IP:127.0.0.1")
    good, good_key = certificate(tmp_path, "client", "DNS:client")
    bad, bad_key = certificate(tmp_path, "other", "DNS:other")
    ours, ours_key = tmp_path / "ours.pem", tmp_path / "ours.key"
    ours.write_bytes(bad.read_bytes())
    ours_key.write_bytes(bad_key.read_bytes())
    tls = TlsConfig(ca_file=cert, cert_file=ours, key_file=ours_key)
    server = Exporter("a 1\n").with_tls(server_side(cert, key, clients=good))
    async with server as exporter, open_session() as session:
        fetcher = Fetcher(session, HttpClient(tls_config=tls))
        url = URL(f"https://{exporter.address}/")
        with pytest.raises(ScrapeError):
            await fetcher.fetch(url, 10)
        ours.write_bytes(good.read_bytes())
        ours_key.write_bytes(good_key.read_bytes())
        later = ours.stat().st_mtime_ns + 1_000_000
        os.utime(ours, ns=(later, later))
        assert (await fetcher.fetch(url, 10)).raw == b"a 1\n"
        ours.unlink()
        with pytest.raises(ScrapeError, match="No such file"):
            await fetcher.fetch(url, 10)


async def test_session_that_unpacks_by_itself_is_refused() -> None:
    import aiohttp

    async with aiohttp.ClientSession() as session:
        with pytest.raises(ValueError, match="must not unpack"):
            Fetcher(session, HttpClient())
