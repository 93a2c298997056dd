"""What is counted of HTTP requests and WebSockets, the same in every framework."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from .default import REGISTRY
from .metrics import BYTES
from .registry import Registry
from .series import CounterSeries, HistogramSeries

#: Endpoint of requests that no route matches: one for all, whatever a scanner tries.
UNMATCHED: Final = "unmatched"
#: Status of a request whose client left before the answer was whole, as nginx writes it.
CLIENT_CLOSED: Final = 499
#: Paths, matched as a whole, that are left out: what looks at the backend isn't its work.
EXCLUDED: Final = r"/(metrics|health|healthz|livez|ready|readyz|ping|favicon\.ico)/?"

_METHODS: Final = frozenset(
    ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE")
)
_OTHER_METHOD: Final = "OTHER"
# Series found by one look-up instead of six; more routes than that are looked up one by one.
_KNOWN_MAX: Final = 4096


class HttpMetrics:
    """
    The metrics of a backend's HTTP side; one set for each registry and namespace.

    Args:
        namespace: Prefix of the names; without it that of ``TACHOGRAPH_NAMESPACE``, or ``backend``.
        exclude: Paths that are left out, a regular expression for the whole path, or ``None``.
    """

    def __init__(
        self,
        namespace: str | None = None,
        *,
        registry: Registry | None = None,
        exclude: str | None = EXCLUDED,
    ) -> None:
        self.registry = registry or REGISTRY
        prefix = self.registry.prefix(namespace)
        define = self.registry
        route = ("method", "endpoint")
        self.requests = define.counter(
            f"{prefix}http_requests_total", "HTTP requests answered.", (*route, "status_code")
        )
        self.duration = define.histogram(
            f"{prefix}http_request_duration_seconds",
            "Time from a request to the end of its answer.",
            route,
        )
        self.request_size = define.histogram(
            f"{prefix}http_request_size_bytes", "Size of request bodies.", route, bounds=BYTES
        )
        self.response_size = define.histogram(
            f"{prefix}http_response_size_bytes", "Size of response bodies.", route, bounds=BYTES
        )
        self.in_progress = define.gauge(
            f"{prefix}http_requests_in_progress", "HTTP requests being answered.", ("method",)
        )
        self.exceptions = define.counter(
            f"{prefix}http_exceptions_total",
            "HTTP requests ended by an exception that nobody caught.",
            (*route, "exception"),
        )
        self.disconnects = define.counter(
            f"{prefix}http_disconnects_total",
            "HTTP requests whose client left before the answer was whole.",
            route,
        )
        self.websockets = define.gauge(
            f"{prefix}websocket_connections_active", "Open WebSockets.", ("channel",)
        )
        self.websocket_messages = define.counter(
            f"{prefix}websocket_messages_total",
            "Messages over WebSockets; direction is in or out.",
            ("channel", "direction"),
        )
        self.api_duration = define.histogram(
            f"{prefix}api_response_time_seconds",
            "Time from a request to the end of its answer, of known endpoints.",
            ("endpoint", "method"),
        )
        self.api_throughput = define.rate(
            f"{prefix}api_throughput_requests_per_second",
            "Requests answered a second, of known endpoints.",
            ("endpoint",),
        )
        self.monotonic_s: Callable[[], float] = self.registry.monotonic_s
        self.is_excluded = _matcher(exclude)
        self._known: dict[tuple[str, str, int], _Route] = {}
        self._methods = {
            method: self.in_progress.labels(method) for method in (*_METHODS, _OTHER_METHOD)
        }
        for child in self._methods.values():
            child.set(0.0)
        self.registry.on_fork(self._begin_anew)

    def is_counted(self, exchange: object) -> bool:
        """
        Whether a middleware further out counts this request into the same metrics: a backend and
        what is mounted in it may each have one.

        Args:
            exchange: What that left: an :class:`Exchange`, its metrics, or nothing.
        """
        if exchange is None:
            return False
        metrics = getattr(exchange, "metrics", exchange)
        return isinstance(metrics, HttpMetrics) and metrics.requests is self.requests

    def begin(self, method: str) -> Exchange:
        """A request has come; whatever becomes of it, :meth:`Exchange.end` is called once."""
        exchange = Exchange(self, method if method in _METHODS else _OTHER_METHOD)
        self._methods[exchange.method].inc()
        return exchange

    def finish(self, exchange: Exchange, endpoint: str, status: int) -> None:
        seconds = self.monotonic_s() - exchange.began_s
        method = exchange.method
        self._methods[method].dec()
        key = (method, endpoint, status)
        route = self._known.get(key)
        if route is None:
            route = _Route(self, method, endpoint, status)
            if len(self._known) < _KNOWN_MAX:
                self._known[key] = route
        route.requests.inc()
        route.duration.observe(seconds)
        route.request_size.observe(exchange.request_bytes)
        route.response_size.observe(exchange.response_bytes)
        if route.api_duration is not None and route.api_throughput is not None:
            route.api_duration.observe(seconds)
            route.api_throughput.inc()

    def _begin_anew(self) -> None:
        for child in self._methods.values():
            child.set(0.0)


class _Route:
    """The series of one endpoint, method and status."""

    __slots__ = (
        "api_duration",
        "api_throughput",
        "duration",
        "request_size",
        "requests",
        "response_size",
    )

    def __init__(self, metrics: HttpMetrics, method: str, endpoint: str, status: int) -> None:
        self.requests: CounterSeries = metrics.requests.labels(method, endpoint, str(status))
        self.duration: HistogramSeries = metrics.duration.labels(method, endpoint)
        self.request_size = metrics.request_size.labels(method, endpoint)
        self.response_size = metrics.response_size.labels(method, endpoint)
        self.api_duration: HistogramSeries | None = None
        self.api_throughput: CounterSeries | None = None
        if endpoint != UNMATCHED:
            self.api_duration = metrics.api_duration.labels(endpoint, method)
            self.api_throughput = metrics.api_throughput.labels(endpoint)


class Exchange:
    """One request and its answer."""

    __slots__ = (
        "began_s",
        "error",
        "is_ended",
        "method",
        "metrics",
        "request_bytes",
        "response_bytes",
        "status",
    )

    def __init__(self, metrics: HttpMetrics, method: str) -> None:
        self.metrics, self.method = metrics, method
        self.began_s = metrics.monotonic_s()
        self.request_bytes = self.response_bytes = 0
        self.status = 0
        self.error = ""
        self.is_ended = False

    def answered_for(self, error: BaseException) -> None:
        """The framework has caught an exception, and answers in its place."""
        self.error = type(error).__name__

    def end(self, endpoint: str, status: int | None = None) -> None:
        """The answer is whole, with ``self.status`` or another one. Only the first call counts."""
        if not self.is_ended:
            self.is_ended = True
            if self.error:
                self.metrics.exceptions.labels(self.method, endpoint, self.error).inc()
            self.metrics.finish(self, endpoint, self.status if status is None else status)

    def fail(self, endpoint: str, error: BaseException) -> None:
        """An exception went through; the server will answer 500 if nobody has answered yet."""
        self.error = ""
        name = type(error).__name__
        self.metrics.exceptions.labels(self.method, endpoint, name).inc()
        self.end(endpoint, self.status or 500)

    def abandon(self, endpoint: str) -> None:
        """The client left before the answer was whole."""
        if not self.is_ended:
            self.metrics.disconnects.labels(self.method, endpoint).inc()
            self.end(endpoint, CLIENT_CLOSED)


class Socket:
    """One WebSocket that was accepted."""

    __slots__ = ("_active", "_channel", "_messages", "is_ended")

    def __init__(self, metrics: HttpMetrics, channel: str) -> None:
        self._active = metrics.websockets.labels(channel)
        self._messages, self._channel = metrics.websocket_messages, channel
        self.is_ended = False
        self._active.inc()

    def received(self) -> None:
        self._messages.labels(self._channel, "in").inc()

    def sent(self) -> None:
        self._messages.labels(self._channel, "out").inc()

    def end(self) -> None:
        if not self.is_ended:
            self.is_ended = True
            self._active.dec()


def fill_in(prefix: str, params: Mapping[str, object]) -> str:
    """
    Put names back where a path has their values: ``/shops/7`` and ``shop=7`` are ``/shops/{shop}``.
    """
    if not params:
        return prefix
    names = {str(value): name for name, value in params.items()}
    return "/".join(
        f"{{{names[part]}}}" if part and part in names else part for part in prefix.split("/")
    )


def length(text: object) -> int:
    """The number in a Content-Length header; 0 if there is none."""
    try:
        return max(0, int(text))  # type: ignore[call-overload, no-any-return]  # that is the question
    except (TypeError, ValueError):
        return 0


def _matcher(exclude: str | None) -> Callable[[str], object]:
    if not exclude:
        return lambda _: None
    import re  # not needed by those who only count

    return re.compile(exclude).fullmatch
