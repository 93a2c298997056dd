"""Telling systemd how we are: ``sd_notify`` over its datagram socket."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping


class ServiceManager:
    """
    Speaks to the service manager named in ``NOTIFY_SOCKET``; without one it does nothing.

    Source: the manual pages sd_notify(3) and systemd.service(5).
    """

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self._address = environment.get("NOTIFY_SOCKET", "")
        if self._address.startswith("@"):
            self._address = "\0" + self._address[1:]
        usec = environment.get("WATCHDOG_USEC", "")
        pid = environment.get("WATCHDOG_PID", str(os.getpid()))
        #: Seconds between two signs of life, half of what the manager allows; 0: none wanted.
        self.watchdog_s = int(usec) / 2e6 if usec.isdigit() and pid == str(os.getpid()) else 0.0

    def ready(self, status: str) -> None:
        self._send(f"READY=1\nSTATUS={status}")

    def reloading(self) -> None:
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        self._send("STOPPING=1")

    def alive(self) -> None:
        self._send("WATCHDOG=1")

    def _send(self, message: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as s:
                s.connect(self._address)
                s.send(message.encode())
        except OSError:
            pass  # the manager is gone or deaf; there is nobody to tell
