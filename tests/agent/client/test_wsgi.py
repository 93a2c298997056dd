"""What the WSGI middleware counts, with real Flask and Django behind a real server."""

from __future__ import annotations

import socket
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import django
import pytest
from django.conf import settings as django_settings
from django.core.handlers.asgi import ASGIHandler
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse
from django.urls import include, path, re_path
from flask import Flask, request
from werkzeug.middleware.dispatcher import DispatcherMiddleware

from support.metered import label_sets, serve_wsgi, value
from tachograph.agent.client.asgi import AsgiMiddleware
from tachograph.agent.client.registry import Registry
from tachograph.agent.client.wsgi import WsgiMiddleware

REQUESTS = "shop_http_requests_total"


@pytest.fixture
def registry() -> Registry:
    return Registry()


def fetch(url: str, data: bytes | None = None) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(url, data, timeout=5) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def exceptions(registry: Registry) -> dict[tuple[str, ...], float]:
    name = "shop_http_exceptions_total"
    names = ("method", "endpoint", "exception")
    return {
        key: value(registry, name, **dict(zip(names, key, strict=True)))
        for key in label_sets(registry, name)
    }


def flask_app() -> Flask:
    app = Flask(__name__)

    @app.get("/items/<int:item_id>")
    def item(item_id: int) -> str:
        return f"item {item_id}"

    @app.post("/orders")
    def order() -> tuple[str, int]:
        return str(len(request.get_data())), 201

    @app.get("/broken")
    def broken() -> str:
        raise LookupError("no such luck")

    @app.get("/stream")
    def stream() -> Iterator[bytes]:
        return (b"x" * 10 for _ in range(3))

    return app


def test_flask_is_counted_by_its_rules(registry: Registry) -> None:
    app = flask_app()
    app.wsgi_app = WsgiMiddleware(  # type: ignore[method-assign]
        app.wsgi_app, namespace="shop", registry=registry
    )
    with serve_wsgi(app) as url:
        assert fetch(url + "/items/7") == (200, b"item 7")
        assert fetch(url + "/items/8")[0] == 200
        assert fetch(url + "/orders", b"x" * 500) == (201, b"500")
        assert fetch(url + "/stream") == (200, b"x" * 30)
        assert fetch(url + "/nothing")[0] == fetch(url + "/else")[0] == 404
        assert fetch(url + "/broken")[0] == 500
    assert (
        value(registry, REQUESTS, method="GET", endpoint="/items/<int:item_id>", status_code="200")
        == 2
    )
    assert label_sets(registry, REQUESTS) == {
        ("GET", "/items/<int:item_id>", "200"),
        ("POST", "/orders", "201"),
        ("GET", "/stream", "200"),
        ("GET", "unmatched", "404"),
        ("GET", "/broken", "500"),
    }
    assert exceptions(registry) == {("GET", "/broken", "LookupError"): 1}
    sizes = registry.get("shop_http_response_size_bytes")
    assert sizes is not None
    assert sizes.children["GET", "/stream"].sum == 30
    sizes = registry.get("shop_http_request_size_bytes")
    assert sizes is not None
    assert sizes.children["POST", "/orders"].sum == 500
    assert value(registry, "shop_http_requests_in_progress", method="GET") == 0


def test_an_app_under_a_dispatcher_keeps_its_prefix(registry: Registry) -> None:
    root = DispatcherMiddleware(flask_app(), {"/v2": flask_app()})
    with serve_wsgi(WsgiMiddleware(root, namespace="shop", registry=registry)) as url:
        assert fetch(url + "/v2/items/7")[0] == 200
    assert label_sets(registry, REQUESTS) == {("GET", "/v2/items/<int:item_id>", "200")}


def test_an_exception_nobody_caught_goes_on(registry: Registry) -> None:
    def app(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        raise LookupError("no such luck")

    with pytest.raises(LookupError):
        WsgiMiddleware(app, namespace="shop", registry=registry)(
            {"REQUEST_METHOD": "GET", "PATH_INFO": "/"}, lambda *_: None
        )
    assert label_sets(registry, "shop_http_exceptions_total") == {
        ("GET", "unmatched", "LookupError")
    }


def test_an_exception_that_flask_passes_on_counts_once(registry: Registry) -> None:
    app = flask_app()
    app.testing = True
    app.wsgi_app = WsgiMiddleware(  # type: ignore[method-assign]
        app.wsgi_app, namespace="shop", registry=registry
    )
    with pytest.raises(LookupError):
        app.test_client().get("/broken")
    assert exceptions(registry) == {("GET", "/broken", "LookupError"): 1}


def test_middlewares_within_each_other_count_once(registry: Registry) -> None:
    inner = WsgiMiddleware(flask_app(), namespace="shop", registry=registry)
    root = DispatcherMiddleware(flask_app(), {"/v2": inner})
    with serve_wsgi(WsgiMiddleware(root, namespace="shop", registry=registry)) as url:
        assert fetch(url + "/v2/items/7")[0] == 200
    endpoint = "/v2/items/<int:item_id>"
    assert value(registry, REQUESTS, method="GET", endpoint=endpoint, status_code="200") == 1
    assert len(label_sets(registry, REQUESTS)) == 1


def test_a_body_that_is_given_up_is_a_disconnect(registry: Registry) -> None:
    def app(environ: dict[str, Any], start: Callable[..., Any]) -> Iterator[bytes]:
        start("200 OK", [])
        yield b"one"
        yield b"two"

    middleware = WsgiMiddleware(app, namespace="shop", registry=registry)
    body = middleware({"REQUEST_METHOD": "GET", "PATH_INFO": "/"}, lambda *_: None)
    assert next(iter(body)) == b"one"
    body.close()  # type: ignore[attr-defined]  # as the server does
    assert label_sets(registry, REQUESTS) == {("GET", "unmatched", "499")}


def hello(request: HttpRequest, **_: Any) -> HttpResponse:
    return HttpResponse("hello")


def broken(request: HttpRequest) -> HttpResponse:
    raise LookupError("no such luck")


urlpatterns = [
    path("broken", broken),
    path("items/<int:pk>/", hello),
    path("v2/", include([path("users/<slug:name>", hello)])),
    re_path(r"^old/(?P<pk>[0-9]+)/$", hello),
]


@pytest.fixture
def django_ready() -> None:
    if not django_settings.configured:
        django_settings.configure(
            ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], SECRET_KEY="of a test", DEBUG=False
        )
        django.setup(set_prefix=False)


EXPECTED = {
    ("GET", "/items/<int:pk>/", "200"),
    ("GET", "/v2/users/<slug:name>", "200"),
    ("GET", "^old/(?P<pk>[0-9]+)/$", "200"),
    ("GET", "/broken", "500"),
    ("GET", "unmatched", "404"),
}
PATHS = ("/items/7/", "/v2/users/ann", "/old/3/", "/broken", "/nothing")


@pytest.mark.usefixtures("django_ready")
def test_django_is_counted_by_its_patterns(registry: Registry) -> None:
    app = WsgiMiddleware(get_wsgi_application(), namespace="shop", registry=registry)
    with serve_wsgi(app) as url:
        for each in PATHS:
            fetch(url + each)
    assert label_sets(registry, REQUESTS) == EXPECTED
    assert exceptions(registry) == {("GET", "/broken", "LookupError"): 1}


@pytest.mark.usefixtures("django_ready")
async def test_django_over_asgi_likewise(registry: Registry) -> None:
    import aiohttp

    from support.metered import serve_asgi

    app = AsgiMiddleware(ASGIHandler(), namespace="shop", registry=registry)
    async with serve_asgi(app) as url, aiohttp.ClientSession() as session:
        for each in PATHS:
            async with session.get(url + each):
                pass
    assert label_sets(registry, REQUESTS) == EXPECTED
    assert exceptions(registry) == {("GET", "/broken", "LookupError"): 1}


def test_a_client_that_hangs_up_early_does_no_harm(registry: Registry) -> None:
    app = flask_app()
    with serve_wsgi(WsgiMiddleware(app, namespace="shop", registry=registry)) as url:
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as client:
            client.sendall(b"GET /items/1 HTTP/1.0\r\n\r\n")
        assert fetch(url + "/items/2")[0] == 200
    assert value(registry, "shop_http_requests_in_progress", method="GET") == 0
