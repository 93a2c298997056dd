"""The command ``tachograph``: arguments, exit codes, and nothing else."""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Final

from ..config.errors import ConfigError, TachographError
from .broken_pipe import discard
from .commands.client import AgentUnreachable
from .commands.errors import WrongUse

GOOD: Final = 0
PROBLEMS: Final = 1
USAGE: Final = 2
UNREACHABLE: Final = 3
_DISK_ERRORS: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)

#: Modules of ``commands``, in the order of ``--help``; each has ``add(subparsers)``.
_COMMANDS: Final = (
    "run",
    "check",
    "config",
    "query",
    "imports",
    "exports",
    "series",
    "cardinality",
    "tail",
    "push",
    "cron",
    "db",
    "info",
    "doctor",
    "version",
)

_EPILOG: Final = """examples:
  tachograph run                                 start with the defaults, data in ./data
  tachograph run --config tachograph.yml         start with a configuration
  tachograph check config tachograph.yml         show every mistake in it at once
  tachograph query 'backend_memory_usage_bytes'  newest values
  tachograph tail 'backend_cpu_usage_percent'    follow live
  tachograph push orders_total=17 --job shop     store a point
  tachograph cron --job backup -- backup --all   run a job and record how it went

exit codes: 0 good, 1 problems found, 2 wrong use, 3 agent not reachable
"""


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tachograph",
        description="The recorder that rides along with a backend: collects, stores, rolls up, "
        "answers and streams metrics.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name in _COMMANDS:
        import_module(f"{__package__}.commands.{name}").add(subparsers)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    args = build_parser().parse_args(argv)
    try:
        code: int = args.handler(args)
        # What is printed must be out before we say that all went well.
        sys.stdout.flush()
        return code
    except ConfigError as error:
        for problem in error.problems:
            print(problem, file=sys.stderr)
        return PROBLEMS
    except WrongUse as error:
        print(f"tachograph: {error}", file=sys.stderr)
        return USAGE
    except AgentUnreachable as error:
        print(f"tachograph: {error}", file=sys.stderr)
        return UNREACHABLE
    except TachographError as error:
        print(f"tachograph: {error}", file=sys.stderr)
        return PROBLEMS
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        discard(sys.stdout)
        return GOOD
    except OSError as error:
        # Files are told of by who opens them; what is left is the disk under our own output.
        if error.errno not in _DISK_ERRORS:
            raise
        discard(sys.stdout)
        print(f"tachograph: cannot write: {os.strerror(error.errno)}", file=sys.stderr)
        return PROBLEMS
