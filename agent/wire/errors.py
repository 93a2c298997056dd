"""What can be wrong with bytes from outside."""

from __future__ import annotations

from ...config.errors import TachographError


class WireError(TachographError):
    """The bytes are not what they claim to be; nothing of them can be used."""


class TooLong(WireError):
    """What is packed in the bytes is longer than the receiver allows."""

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(f"the body is longer than {limit_bytes} bytes once unpacked")
        self.limit_bytes = limit_bytes


class TooMany(WireError):
    """There is more in the bytes than is taken apart for one request."""
