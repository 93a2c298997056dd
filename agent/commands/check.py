"""``tachograph check``: find mistakes before the agent meets them."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from .options import Subparsers, add_command

_EPILOG = """examples:
  tachograph check config                     the file that `run` would use
  tachograph check config tachograph.yml      a file, and conf.d beside it
"""


def add(subparsers: Subparsers) -> None:
    parser = add_command(subparsers, "check", "check files", _EPILOG)
    kinds = parser.add_subparsers(dest="kind", metavar="KIND", required=True)
    config = add_command(kinds, "config", "show every mistake in a configuration", _EPILOG)
    config.add_argument("files", nargs="*", type=Path, metavar="FILE")
    config.add_argument("--lint-fatal", action="store_true", help="warnings count as problems, too")
    config.set_defaults(handler=check_config)


def check_config(args: argparse.Namespace) -> int:
    from ...config import find_config
    from ...config.check import inspect_config

    bad = False
    for file in args.files or [find_config(None, env=os.environ)]:
        report = inspect_config(file, env=os.environ)
        for line in report.lines():
            print(line, file=sys.stderr)
        bad = bad or bool(report.errors) or (args.lint_fatal and bool(report.warnings))
        name = file or "defaults (no file found)"
        if report.errors:
            print(f"{name}: FAILED: {len(report.errors)} mistakes")
        else:
            print(
                f"{name}: SUCCESS" + (f", {len(report.warnings)} warnings" * bool(report.warnings))
            )
    return 1 if bad else 0
