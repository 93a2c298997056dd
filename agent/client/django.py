"""Which route of Django a path takes: its handlers tell nobody, so they are asked once more."""

from __future__ import annotations

from .http import UNMATCHED


def is_django(app: object) -> bool:
    """Whether ``app`` is what ``get_wsgi_application()`` or ``get_asgi_application()`` gave."""
    return any(kind.__module__.startswith("django.core.handlers") for kind in type(app).__mro__)


def find_route(path: str) -> str:
    """Return the pattern that the root URL configuration has for a path."""
    from django.urls import Resolver404, resolve

    try:
        route = str(resolve(path).route)
    except Resolver404:
        return UNMATCHED
    return route if route.startswith(("/", "^")) else f"/{route}"
