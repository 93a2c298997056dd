"""Options that several commands share."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from .client import Client

if TYPE_CHECKING:
    from ...config import Config

_DEFAULT_URL: Final = "http://127.0.0.1:19797"

Subparsers = Any  # argparse's own type for it is private


def add_command(
    subparsers: Subparsers, name: str, help: str, epilog: str = "", **more: Any
) -> argparse.ArgumentParser:
    """Add a command whose ``--help`` ends with examples."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        name,
        help=help,
        description=help[0].upper() + help[1:] + ".",
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        **more,
    )
    return parser


def add_config_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="configuration; without it $TACHOGRAPH_CONFIG, ./tachograph.yml, "
        "~/.config/tachograph/, /etc/tachograph/ are tried, and then the defaults used",
    )
    parser.add_argument("--listen", metavar="HOST:PORT", help="address to serve on")
    parser.add_argument("--data", type=Path, metavar="DIR", help="data directory")
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="set one setting, such as storage.retention.raw=100y; may be repeated",
    )


def load(args: argparse.Namespace) -> Config:
    """Load the configuration that the options name. Raises ConfigError."""
    from ...config import find_config, load_config

    overrides = list(args.overrides)
    if args.listen:
        overrides.append(f"listen={args.listen}")
    if args.data:
        overrides.append(f"storage.path={args.data}")
    return load_config(
        find_config(args.config, env=os.environ), env=os.environ, overrides=overrides
    )


def add_client_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--url",
        default=default_url(os.environ),
        metavar="URL",
        help="the agent (default: $TACHOGRAPH_URL, or $TACHOGRAPH_AGENT if that is a URL, "
        f"or {_DEFAULT_URL})",
    )


def default_url(env: Mapping[str, str]) -> str:
    """
    Return where the agent is, unless an option says so.

    Backends are told by ``TACHOGRAPH_AGENT`` where they push, which may be a socket. They don't
    read ``TACHOGRAPH_URL`` in turn: it may name another box, to look at.
    """
    agent = env.get("TACHOGRAPH_AGENT", "")
    return env.get("TACHOGRAPH_URL") or (agent if agent.startswith("http://") else _DEFAULT_URL)


def client(args: argparse.Namespace) -> Client:
    return Client(args.url)


def add_output_option(parser: argparse.ArgumentParser, *formats: str) -> None:
    parser.add_argument(
        "-o", "--output", choices=formats, default=formats[0], help=f"default: {formats[0]}"
    )
