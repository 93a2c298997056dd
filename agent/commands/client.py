"""The agent's HTTP interface for commands, by the standard library alone: it starts fast."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

from ...config.errors import TachographError
from .errors import WrongUse

_TIMEOUT_S: Final = 130.0
_PIECE_BYTES: Final = 1 << 18


class AgentUnreachable(TachographError):
    """Nobody answers at the agent's address."""


class RequestFailed(TachographError):
    """
    The agent answered with an error; ``answer`` is its body where that is JSON, ``status`` that of
    HTTP.
    """

    def __init__(self, message: str, answer: Any = None, status: int = 0) -> None:
        super().__init__(message)
        self.answer, self.status = answer, status


def checked_url(url: str) -> str:
    """
    Return an agent's address as it is.

    Raises:
        WrongUse: It isn't one of HTTP.
    """
    try:
        parts = urllib.parse.urlsplit(url)
        # A port that is no number is told of only when it is asked for.
        is_url = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_url = False
    if not is_url or url != url.strip():
        raise WrongUse(f"--url: {url!r} is not a URL such as http://127.0.0.1:19797")
    return url


class Client:
    """Asks one agent. ``url`` is its base, such as ``http://127.0.0.1:19797``."""

    def __init__(self, url: str, timeout_s: float = _TIMEOUT_S) -> None:
        self.url = url.rstrip("/")
        self._timeout_s = timeout_s

    def get(self, path: str, params: Sequence[tuple[str, str]] = ()) -> Any:
        """Return the JSON that a path answers."""
        query = f"?{urllib.parse.urlencode(params)}" if params else ""
        return self._send(self._request(f"{path}{query}"))

    def post(self, path: str, body: Any = None) -> Any:
        """Post JSON and return the JSON that comes back, or None."""
        data = b"" if body is None else json.dumps(body).encode()
        headers = {} if body is None else {"Content-Type": "application/json"}
        return self._send(self._request(path, data, headers))

    def post_form(self, path: str, params: Sequence[tuple[str, str]]) -> Any:
        """Post parameters that may be too long for a URL, and return the JSON that comes back."""
        data = urllib.parse.urlencode(params).encode()
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        return self._send(self._request(path, data, headers))

    def post_lines(self, path: str, lines: bytes) -> Any:
        """Post JSON lines and return the JSON that comes back."""
        headers = {"Content-Type": "application/x-ndjson"}
        return self._send(self._request(path, lines, headers))

    def stream(self, path: str, params: Sequence[tuple[str, str]]) -> Iterator[bytes]:
        """Yield an answer in pieces, as they come. Raises as the other methods, also half-way."""
        query = f"?{urllib.parse.urlencode(params)}" if params else ""
        with self._opened(self._request(f"{path}{query}")) as response:
            while piece := response.read(_PIECE_BYTES):
                yield piece

    def _request(
        self, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> urllib.request.Request:
        """Make a request; with a body it is a POST. Raises WrongUse: the URL is none."""
        url = f"{checked_url(self.url)}{path}"
        method = "GET" if body is None else "POST"
        return urllib.request.Request(url, body, dict(headers or {}), method=method)

    def _send(self, request: urllib.request.Request) -> Any:
        with self._opened(request) as response:
            return _decode(response.read())

    @contextmanager
    def _opened(self, request: urllib.request.Request) -> Iterator[http.client.HTTPResponse]:
        # Proxies of the environment are not for loopback, nor for a box in the rack.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=self._timeout_s) as response:
                yield response
        except urllib.error.HTTPError as error:
            answer = _decode(error.read())
            message = answer.get("error") if isinstance(answer, dict) else answer
            raise RequestFailed(f"{message or error.reason}", answer, error.code) from error
        except ValueError as error:
            raise RequestFailed(f"{self.url}: {error}") from error
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            raise AgentUnreachable(
                f"no agent answers at {self.url} ({reason}); start one with `tachograph run`, "
                "or name another with --url"
            ) from error


def _decode(body: bytes) -> Any:
    text = body.decode("utf-8", "replace").strip()
    try:
        return json.loads(text) if text else None
    except ValueError:
        return text
