"""The agent's HTTP interface for commands, by the standard library alone: it starts fast."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from typing import Any, Final

from ...config.errors import TachographError

_TIMEOUT_S: Final = 130.0


class AgentUnreachable(TachographError):
    """Nobody answers at the agent's address."""


class RequestFailed(TachographError):
    """The agent answered with an error; ``answer`` is its body where that is JSON."""

    def __init__(self, message: str, answer: Any = None) -> None:
        super().__init__(message)
        self.answer = answer


class Client:
    """Asks one agent. ``url`` is its base, such as ``http://127.0.0.1:19797``."""

    def __init__(self, url: str, timeout_s: float = _TIMEOUT_S) -> None:
        self.url = url.rstrip("/")
        self._timeout_s = timeout_s

    def get(self, path: str, params: Sequence[tuple[str, str]] = ()) -> Any:
        """Return the JSON that a path answers."""
        query = f"?{urllib.parse.urlencode(params)}" if params else ""
        return self._send(urllib.request.Request(f"{self.url}{path}{query}"))

    def post(self, path: str, body: Any = None) -> Any:
        """Post JSON and return the JSON that comes back, or None."""
        data = b"" if body is None else json.dumps(body).encode()
        headers = {} if body is None else {"Content-Type": "application/json"}
        return self._send(urllib.request.Request(f"{self.url}{path}", data, headers, method="POST"))

    def post_form(self, path: str, params: Sequence[tuple[str, str]]) -> Any:
        """Post parameters that may be too long for a URL, and return the JSON that comes back."""
        data = urllib.parse.urlencode(params).encode()
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        return self._send(urllib.request.Request(f"{self.url}{path}", data, headers, method="POST"))

    def _send(self, request: urllib.request.Request) -> Any:
        # Proxies of the environment are not for loopback, nor for a box in the rack.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=self._timeout_s) as response:
                return _decode(response.read())
        except urllib.error.HTTPError as error:
            answer = _decode(error.read())
            message = answer.get("error") if isinstance(answer, dict) else answer
            raise RequestFailed(f"{message or error.reason}", answer) from error
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
