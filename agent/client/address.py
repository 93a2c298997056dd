"""Where the agent of this box is found by a backend."""

from __future__ import annotations

import os
from typing import Final

#: Environment variable with the address of the agent: the path of its socket, or its URL.
ADDRESS_VARIABLE: Final = "TACHOGRAPH_AGENT"
#: Set to anything but 0, it switches instrumentation off: nothing is sent, middlewares step aside.
DISABLED_VARIABLE: Final = "TACHOGRAPH_DISABLED"
#: Prefix of the ready-made metrics' names, as ``namespace`` in the agent's configuration.
NAMESPACE_VARIABLE: Final = "TACHOGRAPH_NAMESPACE"

_DEFAULT_ADDRESS: Final = "http://127.0.0.1:19797"
#: Where metrics are pushed to, over HTTP.
PUSH_PATH: Final = "/api/tachograph/v1/client"


class Address:
    """
    The path of a Unix socket, or host and port of an agent's HTTP server.

    A plain class: dataclasses would cost a backend 8 ms at its start, as everywhere here.
    """

    __slots__ = ("host", "path", "port")

    def __init__(self, path: str = "", host: str = "", port: int = 0) -> None:
        self.path, self.host, self.port = path, host, port

    def __str__(self) -> str:
        return (
            self.path or f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"
        )

    @classmethod
    def of(cls, text: str | os.PathLike[str] | None = None) -> Address:
        """
        Read an address.

        Args:
            text: A path, ``unix:PATH`` or ``http://HOST[:PORT]``; without it the variable
                ``TACHOGRAPH_AGENT`` counts, and without that the agent's default port.

        Raises:
            ValueError: It is none of these.
        """
        given = os.fspath(text) if text else os.environ.get(ADDRESS_VARIABLE) or _DEFAULT_ADDRESS
        if not given.startswith("http:"):
            host, _, port = given.rpartition(":")
            if "://" in given or (host and port.isdigit() and "/" not in given):
                raise ValueError(
                    f"{given!r}: give the path of the agent's socket, or http://HOST:PORT"
                )
            return cls(path=given.removeprefix("unix:"))
        rest = given.removeprefix("http://").rstrip("/")
        host, _, port = rest.rpartition(":") if not rest.endswith("]") else (rest, "", "")
        if not host:
            host, port = port, "80"
        if not host or not port.isdigit() or not 0 < int(port) < 65536 or "/" in rest:
            raise ValueError(f"{given!r} is no address of an agent, such as {_DEFAULT_ADDRESS}")
        return cls(host=host.strip("[]"), port=int(port))


def is_disabled() -> bool:
    return os.environ.get(DISABLED_VARIABLE, "") not in ("", "0")


def default_namespace() -> str:
    return os.environ.get(NAMESPACE_VARIABLE) or "backend"
