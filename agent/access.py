"""Which pages may connect and write: checks of Origin and Host that browsers leave to servers."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from urllib.parse import urlsplit

_PORTS = {"http": 80, "https": 443}


def is_origin_allowed(origins: Collection[str], host: str, allowed: Collection[str]) -> bool:
    """
    Tell whether a page may connect or write; browsers don't bind WebSockets and forms to the page's
    own server.

    Args:
        origins: Values of all ``Origin`` headers. None: not a browser, which may.
        host: The ``Host`` header, i.e. our own name as the client knows it.
        allowed: Origins that may, beside our own, such as ``https://panel.example``.
    """
    if not origins:
        return True
    if len(origins) > 1:
        return False
    origin = _split(next(iter(origins)))
    if origin is None:
        return False  # among them "null": sandboxed frames and local files
    scheme, name, port = origin
    # A proxy may end TLS before us: the scheme is the page's own word.
    return _split(f"{scheme}://{host}") == origin or (scheme, name, port) in map(_split, allowed)


def is_local_host(host: str, allowed: Collection[str]) -> bool:
    """
    Tell whether ``Host`` names this machine, as it must when only this machine can connect.

    Another name means that someone's domain was pointed at the loopback address (DNS rebinding),
    to reach us from a page of that domain.

    Args:
        host: The ``Host`` header; empty if there was none.
        allowed: Further names, without port.
    """
    parts = _split(f"http://{host}")
    if parts is None:
        return False
    _, name, _ = parts
    if name == "localhost" or name.endswith(".localhost"):
        return True
    if name in {one.lower().strip("[]") for one in allowed}:
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _split(url: str) -> tuple[str, str, int] | None:
    """Return scheme, name and port of an origin; ``None`` if it is not one."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    if not parts.hostname or parts.scheme not in _PORTS:
        return None
    if parts.path or parts.query or parts.fragment or "@" in parts.netloc:
        return None
    return parts.scheme, parts.hostname, _PORTS[parts.scheme] if port is None else port
