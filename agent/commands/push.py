"""``tachograph push``: store points from a shell or a script."""

from __future__ import annotations

import argparse
from typing import Any

from ...config.errors import TachographError
from .client import RequestFailed
from .errors import WrongUse
from .options import Subparsers, add_client_options, add_command, client

_EPILOG = """examples:
  tachograph push orders_total=17 --job shop --type counter
  tachograph push temperature_celsius=21.5 humidity_percent=40 --label room=lab
  tachograph push backup_bytes=1e9 --timestamp 2026-01-05T03:00:00Z
  tachograph push backup_bytes=1e9 --job backup --ttl 2d   current for two days, then gone
"""


def add(subparsers: Subparsers) -> None:
    parser = add_command(subparsers, "push", "store points", _EPILOG)
    parser.add_argument("points", nargs="+", metavar="METRIC=VALUE")
    parser.add_argument("--job", help="short for --label job=JOB")
    parser.add_argument(
        "--label", action="append", default=[], metavar="NAME=VALUE", help="may be repeated"
    )
    parser.add_argument("--type", choices=("gauge", "counter"), default="gauge")
    parser.add_argument(
        "--ttl",
        metavar="DURATION",
        help="keep the value current for 90m, 2d, ...; without it, it is one point in time, "
        "and queries forget it after five minutes",
    )
    parser.add_argument("--timestamp", help="Unix milliseconds or RFC 3339 (default: now)")
    add_client_options(parser)
    parser.set_defaults(handler=push)


def push(args: argparse.Namespace) -> int:
    labels = dict(split_pair(each, "--label") for each in args.label)
    if args.job:
        labels["job"] = args.job
    points = []
    for each in args.points:
        name, value = split_pair(each, "point")
        point: dict[str, Any] = {"name": name, "labels": labels, "type": args.type}
        point["value"] = _number(value, each)
        if args.ttl:
            point["ttl"] = args.ttl
        if args.timestamp:
            stamp = args.timestamp
            point["timestamp"] = int(stamp) if stamp.isdecimal() else stamp
        points.append(point)
    try:
        client(args).post("/api/tachograph/v1/points", points)
    except RequestFailed as error:
        answer = error.answer if isinstance(error.answer, dict) else {}
        reasons = [f"{args.points[r['index']]}: {r['reason']}" for r in answer.get("refused", ())]
        if not reasons:
            raise
        told = [f"{len(reasons)} of {len(points)} points refused", *reasons]
        raise TachographError(reasons[0] if len(points) == 1 else "\n".join(told)) from error
    return 0


def split_pair(text: str, what: str) -> tuple[str, str]:
    """Split ``NAME=VALUE``. Raises WrongUse."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise WrongUse(f"{what} {text!r}: write NAME=VALUE")
    if "{" in name:
        raise WrongUse(f"{what} {text!r}: labels are given by --label NAME=VALUE")
    return name, value


def _number(text: str, point: str) -> float | str:
    try:
        value = float(text)
    except ValueError:
        raise WrongUse(f"{point!r}: {text!r} is not a number") from None
    # JSON has no word for these; the agent reads them as strings.
    return value if value - value == 0 else {"nan": "NaN", "inf": "+Inf"}.get(str(value), "-Inf")
