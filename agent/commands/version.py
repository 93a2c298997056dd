"""``tachograph version``: what this is and what it runs on."""

from __future__ import annotations

import argparse
import platform
import sqlite3

from ... import __version__
from .options import Subparsers, add_command


def add(subparsers: Subparsers) -> None:
    add_command(subparsers, "version", "print versions").set_defaults(handler=version)


def version(_: argparse.Namespace) -> int:
    print(f"tachograph {__version__}")
    print(f"python     {platform.python_version()} ({platform.machine()}, {platform.system()})")
    print(f"sqlite     {sqlite3.sqlite_version}")
    return 0
