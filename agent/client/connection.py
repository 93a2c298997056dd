"""One connection to the agent, that carries a message and brings its answer: socket or HTTP."""

from __future__ import annotations

import socket
from typing import Final

from .address import PUSH_PATH, Address

#: Longest answer that is read; real ones have 100 bytes.
_ANSWER_BYTES_MAX: Final = 64 * 1024
_LENGTH_BYTES: Final = 4
_REASON_CHARS_MAX: Final = 200


class ConnectionFailed(OSError):
    """The agent isn't there, or answers nonsense; the message says which."""


class Connection:
    """
    A connection that is open. Blocking, for the client's own thread.

    Over a socket a message is its length (4 bytes, big-endian) and its JSON; so is the answer. Over
    HTTP it is the body of a POST. Written by hand, as http.client would cost a backend 15 ms.
    """

    def __init__(self, address: Address, timeout_s: float) -> None:
        self._address = address
        try:
            if address.path:
                self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                self._socket.settimeout(timeout_s)
                self._socket.connect(address.path)
            else:
                # As bytes, or Python imports a codec for it, here in a thread.
                host: str = address.host.encode("ascii")  # type: ignore[assignment]
                self._socket = socket.create_connection((host, address.port), timeout_s)
                self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError as error:
            if hasattr(self, "_socket"):
                self._socket.close()
            raise ConnectionFailed(f"no agent at {address}: {error.strerror or error}") from error
        self._buffer = b""

    def call(self, message: bytes) -> bytes:
        """
        Send a message and wait for its answer.

        Raises:
            ConnectionFailed: Whether it arrived nobody knows; the connection is of no use any more.
        """
        try:
            if self._address.path:
                self._socket.sendall(len(message).to_bytes(_LENGTH_BYTES, "big") + message)
                size = int.from_bytes(self._take(_LENGTH_BYTES), "big")
                return self._take(size)
            head = (
                f"POST {PUSH_PATH} HTTP/1.1\r\nHost: {self._address.host}\r\n"
                f"Content-Type: application/json\r\nContent-Length: {len(message)}\r\n\r\n"
            )
            self._socket.sendall(head.encode() + message)
            return self._take_http()
        except ConnectionFailed:
            raise
        except (OSError, ValueError) as error:
            raise ConnectionFailed(f"agent at {self._address}: {error}") from error

    def close(self) -> None:
        self._socket.close()

    def _take_http(self) -> bytes:
        while b"\r\n\r\n" not in self._buffer:
            self._receive()
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        status, *lines = head.decode("latin-1").split("\r\n")
        size = 0
        for line in lines:
            name, _, value = line.partition(":")
            if name.strip().lower() == "content-length":
                size = int(value)
        body = self._take(size)
        if status.split(" ")[1:2] != ["200"]:
            raise ConnectionFailed(f"agent at {self._address} says {status}: {_reason(body)}")
        return body

    def _take(self, size: int) -> bytes:
        if size > _ANSWER_BYTES_MAX:
            raise ConnectionFailed(f"agent at {self._address}: an answer of {size} bytes")
        while len(self._buffer) < size:
            self._receive()
        taken, self._buffer = self._buffer[:size], self._buffer[size:]
        return taken

    def _receive(self) -> None:
        if len(self._buffer) > _ANSWER_BYTES_MAX:
            raise ConnectionFailed(f"agent at {self._address}: the answer does not end")
        part = self._socket.recv(4096)
        if not part:
            raise ConnectionFailed(f"agent at {self._address} closed the connection")
        self._buffer += part


def _reason(body: bytes) -> str:
    """Return what an answer complains of: the ``error`` of ours, the beginning of any other."""
    # Whoever pushes has it imported; it costs too much for the others.
    import json

    try:
        reason = json.loads(body)["error"]
    except (ValueError, TypeError, KeyError):
        reason = body.decode("utf-8", "replace")
    return str(reason)[:_REASON_CHARS_MAX].strip()
