"""``tachograph series``: which series the agent knows."""

from __future__ import annotations

import argparse
import json
import sys

from .options import Subparsers, add_client_options, add_command, add_output_option, client
from .table import print_table, show_metric, show_time

_EPILOG = """examples:
  tachograph series
  tachograph series '{__name__=~"oht50_missions.*"}'
  tachograph series up -o json | jq length
"""


def add(subparsers: Subparsers) -> None:
    parser = add_command(subparsers, "series", "list series", _EPILOG)
    parser.add_argument("selectors", nargs="*", metavar="SELECTOR", help="default: all")
    parser.add_argument("--limit", type=int, default=1000, help="at the most (default: 1000)")
    add_client_options(parser)
    add_output_option(parser, "table", "json")
    parser.set_defaults(handler=series)


def series(args: argparse.Namespace) -> int:
    params = [("match[]", each) for each in args.selectors] + [("limit", str(args.limit))]
    answer = client(args).get("/api/tachograph/v1/series", params)
    for warning in answer.get("warnings", ()):
        print(f"warning: {warning}", file=sys.stderr)
    if args.output == "json":
        print(json.dumps(answer["data"]))
        return 0
    rows = [
        (show_metric(each["metric"]), each["kind"], show_time(each.get("newest", each["created"])))
        for each in sorted(answer["data"], key=lambda each: show_metric(each["metric"]))
    ]
    print_table(rows, ("SERIES", "KIND", "NEWEST"))
    return 0
