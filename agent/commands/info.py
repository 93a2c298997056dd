"""``tachograph info``: how the running agent fares."""

from __future__ import annotations

import argparse
import json

from .options import Subparsers, add_client_options, add_command, add_output_option, client
from .table import print_table, show_bytes, show_time


def add(subparsers: Subparsers) -> None:
    parser = add_command(
        subparsers, "info", "show how the agent fares", "examples:\n  tachograph info -o json\n"
    )
    add_client_options(parser)
    add_output_option(parser, "table", "json")
    parser.set_defaults(handler=info)


def info(args: argparse.Namespace) -> int:
    facts = client(args).get("/api/tachograph/v1/info")["data"]
    if args.output == "json":
        print(json.dumps(facts, indent=2))
    else:
        print_table(
            [
                ("version", facts["version"]),
                ("started", show_time(facts["started"])),
                ("data", facts["directory"]),
                ("on disk", show_bytes(facts["bytes"])),
                ("series", str(facts["series"])),
                ("samples taken", str(facts["samplesAppended"])),
                ("compacted days", str(facts["compactedDays"])),
                ("trouble", facts["trouble"] or "none"),
            ]
        )
        print()
        rows = [
            (
                source["name"],
                f"{source['intervalSeconds']:g}s",
                "up" if source["up"] else "DOWN",
                f"{source['durationSeconds'] * 1000:.1f}ms",
                source.get("note", "") if source["up"] else source["lastError"],
            )
            for source in facts["sources"]
        ]
        print_table(rows, ("SOURCE", "EVERY", "STATE", "TOOK", "REMARK"))
    return 1 if facts["trouble"] or not all(each["up"] for each in facts["sources"]) else 0
