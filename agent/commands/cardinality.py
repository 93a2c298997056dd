"""``tachograph cardinality``: which metric, label and source make the most series."""

from __future__ import annotations

import argparse
import json
from typing import Any

from .options import Subparsers, add_client_options, add_command, add_output_option, client
from .table import print_table, terminal_columns

_EPILOG = """examples:
  tachograph cardinality
  tachograph cardinality '{__name__=~"oht50_.*"}' --top 20
  tachograph cardinality -o json | jq '.metrics[0]'

Cells too long for the terminal are cut; -o json, and a pipe, have all of them.
exit code: 1 if a limit has refused series or a backend has folded some into one
"""


def add(subparsers: Subparsers) -> None:
    parser = add_command(subparsers, "cardinality", "show what makes the most series", _EPILOG)
    parser.add_argument("selectors", nargs="*", metavar="MATCHER", help="default: all series")
    parser.add_argument("--top", type=int, default=10, help="of each kind (default: 10)")
    add_client_options(parser)
    add_output_option(parser, "table", "json")
    parser.set_defaults(handler=cardinality)


def cardinality(args: argparse.Namespace) -> int:
    params = [("match[]", each) for each in args.selectors] + [("top", str(args.top))]
    data = client(args).get("/api/tachograph/v1/cardinality", params)["data"]
    if args.output == "json":
        print(json.dumps(data))
    else:
        _print(data)
    return 1 if data["refused"] or data["overflow"] else 0


def _print(data: dict[str, Any]) -> None:
    limits = data["limits"]
    print(
        f"{data['series']} series; {limits['series']} are allowed, "
        f"{limits['seriesPerMetric']} of one metric"
    )
    _table(
        data["metrics"],
        ("METRIC", "SERIES", "LABELS BY VALUES", "SOURCES"),
        lambda one: (one["name"], one["series"], _parts(one["labels"]), _parts(one["sources"])),
    )
    _table(
        data["labels"],
        ("LABEL", "VALUES", "SERIES", "METRICS BY VALUES"),
        lambda one: (one["name"], one["values"], one["series"], _parts(one["metrics"])),
    )
    _table(
        data["sources"],
        ("SOURCE", "SERIES", "METRICS"),
        lambda one: (one["name"], one["series"], one["metrics"]),
    )
    _table(
        data["refused"], ("REFUSED BY LIMIT", "SERIES"), lambda one: (one["limit"], one["count"])
    )
    _table(
        data["refusedMetrics"],
        ("REFUSED METRIC", "SERIES"),
        lambda one: (one["name"], one["count"]),
    )
    _table(
        data["overflow"],
        ("FOLDED IN THE BACKEND", "LABEL", "LOOK-UPS", "ASKED BY"),
        lambda one: (one["metric"], one["label"] or "(all)", f"{one['count']:g}", one["source"]),
    )


def _table(rows: list[Any], header: tuple[str, ...], cells: Any) -> None:
    if rows:
        print()
        shown = [[str(cell) for cell in cells(row)] for row in rows]
        print_table(shown, header, width=terminal_columns())


def _parts(parts: list[dict[str, Any]]) -> str:
    return ", ".join(f"{part['name']} {part.get('values', part.get('series'))}" for part in parts)
