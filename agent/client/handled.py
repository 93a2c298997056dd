"""Exceptions that a framework answers itself: Flask and Django tell of them by signals."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import MutableMapping
from typing import Any, Final

from .http import Exchange

#: Where a middleware leaves the exchange in WSGI's environment or ASGI's scope.
EXCHANGE: Final = "tachograph.exchange"
#: Where the rule stands by which Flask had found what then failed.
RULE: Final = "tachograph.rule"


def watch_handled() -> None:
    """
    Listen to the frameworks that are in use; a second call is none.

    Without it a backend in Flask or Django would have no exceptions at all: no middleware around
    them sees one.
    """
    if "flask" in sys.modules:
        from flask import got_request_exception as flask_signal

        # Until 2.3 it could do without what signals need, and then refuses to connect.
        with contextlib.suppress(RuntimeError):
            flask_signal.connect(_in_flask)
    if "django.core.signals" in sys.modules:
        from django.core.signals import got_request_exception as django_signal

        django_signal.connect(_in_django, dispatch_uid=EXCHANGE)


def _in_flask(sender: object, exception: BaseException, **_: Any) -> None:
    from flask import request

    # Flask takes its request out of the environment before an exception that it passes on is ours.
    request.environ[RULE] = request.url_rule
    _note(request.environ, exception)


def _in_django(sender: object, request: Any = None, **_: Any) -> None:
    place = getattr(request, "environ", None) or getattr(request, "scope", None)
    error = sys.exc_info()[1]
    if place is not None and error is not None:
        _note(place, error)


def _note(place: MutableMapping[str, Any], error: BaseException) -> None:
    exchange = place.get(EXCHANGE)
    if isinstance(exchange, Exchange):
        exchange.answered_for(error)
