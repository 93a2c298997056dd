"""WSGI middleware: Flask, Django, Bottle, Pyramid."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from .address import is_disabled
from .django import find_route, is_django
from .handled import EXCHANGE, RULE, watch_handled
from .http import UNMATCHED, Exchange, HttpMetrics, length
from .registry import Registry

Environ = dict[str, Any]
App = Callable[[Environ, Callable[..., Any]], Iterable[bytes]]


class WsgiMiddleware:
    """
    ``app.wsgi_app = WsgiMiddleware(app.wsgi_app)`` in Flask, ``WsgiMiddleware(application)`` else.

    Args:
        metrics: What is counted; without it the usual metrics in ``registry`` under ``namespace``.
    """

    def __init__(
        self,
        app: App,
        metrics: HttpMetrics | None = None,
        *,
        namespace: str | None = None,
        registry: Registry | None = None,
    ) -> None:
        self.app = app
        self._metrics = metrics or HttpMetrics(namespace, registry=registry)
        self._is_disabled = is_disabled()
        self._is_django = is_django(app)
        if not self._is_disabled:
            watch_handled()

    def __call__(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        if (
            self._is_disabled
            or self._metrics.is_excluded(path)
            or self._metrics.is_counted(environ.get(EXCHANGE))
        ):
            return self.app(environ, start_response)
        script = environ.get("SCRIPT_NAME", "")
        exchange = environ[EXCHANGE] = self._metrics.begin(environ.get("REQUEST_METHOD", ""))
        exchange.request_bytes = length(environ.get("CONTENT_LENGTH"))

        route = ""

        def watch_start(status: str, *rest: Any) -> Callable[[bytes], object]:
            nonlocal route
            exchange.status = length(status[:3])
            # Flask takes its request out of the environment as soon as it has called us.
            route = route or self._endpoint(environ, script, path)
            write: Callable[[bytes], object] = start_response(status, *rest)
            return write

        def endpoint() -> str:
            return route or self._endpoint(environ, script, path)

        try:
            answer = self.app(environ, watch_start)
        except BaseException as error:
            exchange.fail(endpoint(), error)
            raise
        return _Body(answer, exchange, endpoint)

    def _endpoint(self, environ: Environ, script: str, path: str) -> str:
        given = environ.get("tachograph.route")
        if given is not None:
            return str(given)
        if self._is_django:
            return find_route(path)
        # Werkzeug leaves the request there; Flask's knows its rule.
        rule = getattr(environ.get("werkzeug.request"), "url_rule", None) or environ.get(RULE)
        if rule is None:
            return UNMATCHED
        # A dispatcher before the app has moved what it is mounted under into SCRIPT_NAME.
        return f"{environ.get('SCRIPT_NAME', '').removeprefix(script)}{rule.rule}"


class _Body:
    """The answer's parts on their way to the server, which closes it in any case (PEP 3333)."""

    def __init__(
        self, answer: Iterable[bytes], exchange: Exchange, endpoint: Callable[[], str]
    ) -> None:
        self._answer, self._parts = answer, iter(answer)
        self._exchange, self._endpoint = exchange, endpoint
        self._is_whole = False

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        try:
            part = next(self._parts)
        except StopIteration:
            self._is_whole = True
            raise
        except BaseException as error:
            self._exchange.fail(self._endpoint(), error)
            raise
        self._exchange.response_bytes += len(part)
        return part

    def close(self) -> None:
        try:
            close = getattr(self._answer, "close", None)
            if close is not None:
                close()
        finally:
            # A HEAD request's body is not read, nor is one of known length to its end.
            is_empty = self._exchange.method == "HEAD"
            if self._is_whole or is_empty or _is_list(self._answer):
                self._exchange.end(self._endpoint())
            else:
                self._exchange.abandon(self._endpoint())


def _is_list(answer: object) -> bool:
    return isinstance(answer, list | tuple)
