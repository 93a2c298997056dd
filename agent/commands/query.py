"""``tachograph query``: samples of a selector, the newest or those of a time range."""

from __future__ import annotations

import argparse
import csv
import json
import sys
import time

from ...config.errors import TachographError
from ...config.units import parse_duration
from .options import Subparsers, add_client_options, add_command, add_output_option, client
from .table import print_table, show_metric, show_time

_LOOKBACK_S = 300.0
_EPILOG = """examples:
  tachograph query up                                newest value of each series
  tachograph query 'oht50_cpu_usage_percent{core="total"}' --range 10m
  tachograph query oht50_missions_total --range 30d --tier 1h --agg increase
  tachograph query up --range 1h -o csv > up.csv
"""


def add(subparsers: Subparsers) -> None:
    parser = add_command(subparsers, "query", "print samples of a selector", _EPILOG)
    parser.add_argument("selector", metavar="SELECTOR")
    parser.add_argument("--range", metavar="DURATION", help="samples of the last 10m, 1h, 7d, ...")
    parser.add_argument(
        "--tier", choices=("1m", "5m", "1h", "1d"), help="rollups rather than samples"
    )
    parser.add_argument(
        "--agg",
        choices=("avg", "sum", "min", "max", "count", "last", "increase"),
        default="avg",
        help="what to show of each bucket of the tier (default: avg)",
    )
    add_client_options(parser)
    add_output_option(parser, "table", "json", "csv")
    parser.set_defaults(handler=query)


def query(args: argparse.Namespace) -> int:
    now_s = time.time()
    span_s = _LOOKBACK_S
    if args.range:
        try:
            span_s = parse_duration(args.range) / 1000
        except ValueError as error:
            raise TachographError(f"--range: {error}") from error
    params = [
        ("match[]", args.selector),
        ("start", f"{now_s - span_s:.3f}"),
        ("end", f"{now_s:.3f}"),
    ]
    path = "/api/tachograph/v1/points"
    if args.tier:
        path = "/api/tachograph/v1/rollups"
        params += [("tier", args.tier), ("agg", args.agg)]
    answer = client(args).get(path, params)
    for warning in answer.get("warnings", ()):
        print(f"warning: {warning}", file=sys.stderr)
    result = sorted(answer["data"]["result"], key=lambda row: show_metric(row["metric"]))
    if not args.range:
        for row in result:
            row["values"] = row["values"][-1:]
    if args.output == "json":
        print(json.dumps(result))
        return 0
    rows = [
        (show_metric(row["metric"]), show_time(ts), value)
        for row in result
        for ts, value in row["values"]
    ]
    if args.output == "csv":
        writer = csv.writer(sys.stdout)
        writer.writerow(("series", "time", "value"))
        writer.writerows(rows)
    else:
        print_table(rows, ("SERIES", "TIME", "VALUE"))
    return 0
