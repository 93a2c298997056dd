"""``tachograph tail``: follow series live."""

from __future__ import annotations

import argparse
import asyncio
import sys

from .options import Subparsers, add_client_options, add_command

_EPILOG = """examples:
  tachograph tail                                    everything
  tachograph tail 'oht50_cpu_usage_percent{core="total"}' up
  tachograph tail up --count 10 -o json
"""


def add(subparsers: Subparsers) -> None:
    parser = add_command(subparsers, "tail", "follow series live", _EPILOG)
    parser.add_argument(
        "selectors", nargs="*", default=['{__name__!=""}'], metavar="SELECTOR", help="default: all"
    )
    parser.add_argument(
        "--mode",
        choices=("all", "latest"),
        default="all",
        help="all: every sample; latest: newest values when we fall behind",
    )
    parser.add_argument("--count", type=int, default=0, help="stop after so many samples")
    add_client_options(parser)
    parser.add_argument("-o", "--output", choices=("text", "json"), default="text")
    parser.set_defaults(handler=follow)


def follow(args: argparse.Namespace) -> int:
    from ..tail import tail

    url = args.url.replace("http", "ws", 1).rstrip("/") + "/ws/metrics"
    return asyncio.run(
        tail(
            url,
            args.selectors,
            mode=args.mode,
            output=args.output,
            count=args.count or None,
            out=sys.stdout,
        )
    )
