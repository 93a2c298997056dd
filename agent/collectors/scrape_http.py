"""Fetching a metrics page over HTTP: log-in, TLS, redirects, and an end to everything."""

from __future__ import annotations

import asyncio
import base64
import os
import re
import ssl
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import aiohttp
from yarl import URL

from ...config.errors import ConfigError, TachographError
from ...config.prometheus import BasicAuth, HttpClient, TlsConfig
from ...config.secret import read_secret, resolve_secret

# In Prometheus 3's order: OpenMetrics with names of any characters, then with escaped ones, text.
ACCEPT: Final = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=1.0.0;q=0.5,"
    "application/openmetrics-text;version=0.0.1;q=0.4,"
    "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,"
    "text/plain;version=0.0.4;q=0.2,*/*;q=0.1"
)
# Prometheus has no limit unless one is set. A page of 64 MiB has some 600,000 samples; no exporter
# of one box comes near, and a body that never ends must not take the box's memory.
BODY_BYTES_MAX: Final = 64 * 1024 * 1024
REDIRECTS_MAX: Final = 10
# Longer than the usual interval of a minute, so that a connection serves the next scrape, too.
KEEPALIVE_S: Final = 90.0
# Would end the header, or the request, in the middle.
_NO_HEADER: Final = re.compile(r"[\r\n\0]")
# What one step of unpacking adds at most; a bomb goes no further over the limit than this.
_INFLATE_STEP_BYTES: Final = 1024 * 1024


class ScrapeError(TachographError):
    """
    A scrape that failed; the text is the target's ``lastError``.

    Attributes:
        reason: In one word, for a counter.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Answer:
    """A page as it came."""

    raw: bytes | bytearray
    is_gzip: bool
    content_type: str


def open_session() -> aiohttp.ClientSession:
    """
    Return the session that all scrapes share; needs a running loop, and the caller closes it.

    Bodies are not unpacked by aiohttp, as that would not be bounded by ``body_size_limit``; cookies
    and the environment's proxies are left alone. Every target has one request under way at most,
    so there is no limit of connections.
    """
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEPALIVE_S),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        headers={"User-Agent": "Tachograph", "Accept": ACCEPT, "Accept-Encoding": "gzip"},
        timeout=aiohttp.ClientTimeout(total=None),
    )


class Fetcher:
    """
    Fetches the pages of one job.

    Args:
        session: From :func:`open_session`.
        limit_bytes: Longest body, unpacked; 0 for :data:`BODY_BYTES_MAX`.
    """

    def __init__(
        self, session: aiohttp.ClientSession, client: HttpClient, limit_bytes: int = 0
    ) -> None:
        if session.auto_decompress:
            raise ValueError("the session must not unpack bodies; see open_session")
        self.limit_bytes = limit_bytes or BODY_BYTES_MAX
        self._session, self._client = session, client
        self._tls = _TlsContext(client.tls_config)
        self._reads_files = _has_files(client)

    async def fetch(self, url: URL, timeout_s: float) -> Answer:
        """
        Get one page.

        Raises:
            ScrapeError: No connection, no answer in time, another status than 200, too long.
        """
        try:
            async with asyncio.timeout(timeout_s) as deadline:
                return await self._fetch(url, timeout_s)
        except TimeoutError as error:
            if deadline.expired():
                raise ScrapeError("timeout", f"no answer within {timeout_s:g} s") from None
            raise ScrapeError("connection", _text(error)) from error
        except (aiohttp.ClientError, OSError) as error:
            raise ScrapeError("connection", _text(error)) from error
        except ConfigError as error:  # a secret's file is gone
            raise ScrapeError("settings", str(error)) from error

    async def _fetch(self, url: URL, timeout_s: float) -> Answer:
        context: ssl.SSLContext | None = None
        if self._reads_files or url.scheme == "https":
            context, headers = await asyncio.to_thread(self._prepare, url.scheme == "https")
        else:
            headers = _own_headers(self._client)
        timeout_header = {"X-Prometheus-Scrape-Timeout-Seconds": f"{timeout_s:g}"}
        origin = url.origin()
        for _ in range(REDIRECTS_MAX + 1):
            is_home = url.origin() == origin
            # What lets us in at the target is no business of whoever it sends us to.
            request = self._session.get(
                url,
                headers={**timeout_header, **(headers if is_home else {})},
                allow_redirects=False,
                ssl=context if context is not None else True,
                server_hostname=(self._client.tls_config.server_name or None) if is_home else None,
            )
            async with request as response:
                if response.status not in (301, 302, 303, 307, 308) or not (
                    self._client.follow_redirects
                ):
                    return await self._read(response)
                url = _redirected(url, response)
            if url.scheme == "https" and context is None:
                context = await asyncio.to_thread(self._tls.current)
        raise ScrapeError("redirect", f"stopped after {REDIRECTS_MAX} redirects")

    def _prepare(self, with_tls: bool) -> tuple[ssl.SSLContext | None, dict[str, str]]:
        """Read the files this job needs. Blocks."""
        return self._tls.current() if with_tls else None, _own_headers(self._client)

    async def _read(self, response: aiohttp.ClientResponse) -> Answer:
        if response.status != 200:
            raise ScrapeError(
                "status", f"server returned HTTP status {response.status} {response.reason}"
            )
        encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
        if encoding not in ("gzip", "x-gzip", "identity", ""):
            raise ScrapeError("encoding", f"unsupported Content-Encoding {encoding!r}")
        if (response.content_length or 0) > self.limit_bytes:
            raise body_too_long(self.limit_bytes)
        body = bytearray()
        async for piece in response.content.iter_any():
            body += piece
            if len(body) > self.limit_bytes:
                raise body_too_long(self.limit_bytes)
        content_type = response.headers.get("Content-Type", "")
        return Answer(body, encoding.endswith("gzip"), content_type)


def unpacked(answer: Answer, limit_bytes: int) -> bytes | bytearray:
    """
    Return the page's text; costs CPU.

    Raises:
        ScrapeError: It is not gzip, or ends early, or is longer than the limit.
    """
    if not answer.is_gzip:
        return answer.raw
    text = bytearray()
    rest = bytes(answer.raw)
    try:
        while True:
            member = zlib.decompressobj(wbits=31)
            while not member.eof:
                piece = member.decompress(rest, _INFLATE_STEP_BYTES)
                rest = member.unconsumed_tail
                if not piece and not rest and not member.eof:
                    raise ScrapeError("encoding", "gzip body ends early")
                text += piece
                if len(text) > limit_bytes:
                    raise body_too_long(limit_bytes)
            rest = member.unused_data
            if not rest:
                return text
    except zlib.error as error:
        raise ScrapeError("encoding", f"gzip body is damaged: {error}") from None


def body_too_long(limit_bytes: int) -> ScrapeError:
    return ScrapeError("body_size", f"body size limit exceeded: more than {limit_bytes} bytes")


class _TlsContext:
    """Makes a TLS context, and a new one when the files it was made of have changed."""

    def __init__(self, config: TlsConfig) -> None:
        self._config = config
        self._files = tuple(
            file for file in (config.ca_file, config.cert_file, config.key_file) if file
        )
        self._made_of: tuple[tuple[int, int], ...] | None = None
        self._context: ssl.SSLContext | None = None

    def current(self) -> ssl.SSLContext:
        """Return the context. Blocks: stats the files, and may read them."""
        states = [os.stat(file) for file in self._files]
        made_of = tuple((state.st_mtime_ns, state.st_ino) for state in states)
        if self._context is None or made_of != self._made_of:
            self._context = _tls_context(self._config)
            self._made_of = made_of
        return self._context


def _tls_context(config: TlsConfig) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=config.ca_file)
    context.minimum_version = {
        "TLS12": ssl.TLSVersion.TLSv1_2,
        "TLS13": ssl.TLSVersion.TLSv1_3,
    }[config.min_version]
    if config.cert_file is not None:
        context.load_cert_chain(config.cert_file, config.key_file)
    if config.insecure_skip_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _has_files(client: HttpClient) -> bool:
    files: list[Path | None] = []
    if client.basic_auth is not None:
        files += [client.basic_auth.username_file, client.basic_auth.password_file]
    if client.bearer is not None:
        files.append(client.bearer.credentials_file)
    for header in client.http_headers.values():
        files += header.files
    return any(files)


def _own_headers(client: HttpClient) -> dict[str, str]:
    """Return what this job adds to a request. Blocks if it has files."""
    headers = dict(_extra_headers(client))
    if (basic := client.basic_auth) is not None:
        headers["Authorization"] = f"Basic {basic_authorization(basic)}"
    elif (bearer := client.bearer) is not None:
        credentials = resolve_secret(bearer.credentials, bearer.credentials_file)
        headers["Authorization"] = f"{bearer.type} {credentials.reveal() if credentials else ''}"
    for name, value in headers.items():
        if _NO_HEADER.search(name + value):
            raise ScrapeError("settings", f"header {name!r} holds a line feed or the like")
    return headers


def basic_authorization(basic: BasicAuth) -> str:
    """Return what the header says of user and password. Blocks if they lie in files."""
    user = basic.username
    if basic.username_file is not None:
        user = read_secret(basic.username_file).reveal()
    password = resolve_secret(basic.password, basic.password_file)
    both = f"{user}:{password.reveal() if password else ''}"
    return base64.b64encode(both.encode()).decode()


def _extra_headers(client: HttpClient) -> Mapping[str, str]:
    return {
        name: ", ".join(
            [
                *header.values,
                *(secret.reveal() for secret in header.secrets),
                *(read_secret(file).reveal() for file in header.files),
            ]
        )
        for name, header in client.http_headers.items()
    }


def _redirected(url: URL, response: aiohttp.ClientResponse) -> URL:
    location = response.headers.get("Location", "")
    try:
        target = url.join(URL(location))
    except ValueError:
        target = URL()
    if not location or target.scheme not in ("http", "https") or not target.host:
        raise ScrapeError("redirect", f"{response.status} leads to {location[:200]!r}")
    return target


def _text(error: Exception) -> str:
    return str(error) or type(error).__name__
