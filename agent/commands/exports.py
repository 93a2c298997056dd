"""``tachograph export``: history out of an agent or its files, as text that can be imported."""

from __future__ import annotations

import argparse
import gzip
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

from ...config.errors import TachographError
from .client import AgentUnreachable, Client
from .errors import WrongUse
from .history_files import FORMATS, STDIN, format_named, is_name_unknown
from .options import Subparsers, add_client_options, add_command
from .progress import Progress
from .times import unix_s

_EPILOG: Final = """examples:
  tachograph export -o history.jsonl.gz                    everything
  tachograph export --match '{job="api"}' --start 2026-01-01 --format csv > api.csv
  tachograph export --match up --format openmetrics -o up.om
  tachograph export --db /var/lib/tachograph -o history.jsonl.gz      without an agent
  tachograph export | curl -T - http://victoria:8428/api/v1/import

vm-jsonl and csv hold everything; openmetrics has no word for the markers that end a series, and
leaves them out.
"""
#: An export may take as long as it takes, but every piece of it has to come within that.
_TIMEOUT_S: Final = 300.0
#: Lines of a file that holds nothing: the header of CSV, the end of OpenMetrics.
_EMPTY_LINES: Final = {"vm-jsonl": 0, "csv": 1, "openmetrics": 1}


def add(subparsers: Subparsers) -> None:
    parser = add_command(subparsers, "export", "write history to a file", _EPILOG)
    parser.add_argument(
        "--match", action="append", default=[], metavar="SELECTOR", help="may be repeated"
    )
    parser.add_argument("--start", metavar="T", help="RFC 3339 or Unix seconds")
    parser.add_argument("--end", metavar="T", help="RFC 3339 or Unix seconds; included")
    parser.add_argument(
        "--format", choices=FORMATS, help="default: by the name of the file, else vm-jsonl"
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FILE",
        help="default: stdout; packed if it ends in .gz",
    )
    parser.add_argument(
        "--db", type=Path, metavar="DIR", help="read this data directory instead of asking an agent"
    )
    add_client_options(parser)
    parser.set_defaults(handler=export)


def export(args: argparse.Namespace) -> int:
    path: Path | None = args.output if str(args.output) != STDIN else None
    format_ = args.format or format_named(path) or "vm-jsonl"
    if path is not None and not args.format and is_name_unknown(path):
        print(
            f"{path.name} names none of {', '.join(FORMATS)}: {format_} is written",
            file=sys.stderr,
        )
    progress = Progress()
    written = lines = 0
    try:
        with _output(path) as out:
            for piece in _pieces(args, format_):
                out.write(piece)
                written += len(piece)
                lines += piece.count(b"\n")
                progress.show(written >> 10, 0, "KiB")
    except AgentUnreachable as error:
        raise AgentUnreachable(f"{error}, or read its files with --db DIR") from error
    finally:
        progress.clear()
    if lines <= _EMPTY_LINES[format_]:
        print("no samples there", file=sys.stderr)
    return 0


def _pieces(args: argparse.Namespace, format_: str) -> Iterator[bytes]:
    if args.db is not None:
        yield from _from_directory(args, format_)
        return
    params = [("format", format_), *(("match[]", each) for each in args.match)]
    for name in ("start", "end"):
        if getattr(args, name) is not None:
            params.append((name, f"{unix_s(getattr(args, name), f'--{name}'):.3f}"))
    yield from Client(args.url, _TIMEOUT_S).stream("/api/tachograph/v1/export", params)


def _from_directory(args: argparse.Namespace, format_: str) -> Iterator[bytes]:
    from ...config.selector import parse_selector
    from ...storage.offline import OfflineStore
    from ..ingest.history_export import WRITERS, HistoryExport

    logging.basicConfig(format="%(levelname)s: %(message)s")  # damaged rows are told
    selectors = [parse_selector(each) for each in args.match] or [()]
    low, high = (
        None if text is None else round(unix_s(text, option) * 1000)
        for text, option in ((args.start, "--start"), (args.end, "--end"))
    )
    with OfflineStore(args.db) as store:
        found = HistoryExport(
            WRITERS[format_](),
            store.families,
            selectors,
            -(1 << 62) if low is None else low,
            (1 << 62) if high is None else high,
        )
        while not found.is_over:
            yield found.step(store.querier)
        if found.left_out:
            print(
                f"{found.left_out:,} markers that end a series are left out: "
                "OpenMetrics has no word for them",
                file=sys.stderr,
            )


@contextmanager
def _output(path: Path | None) -> Iterator[IO[bytes]]:
    """Open the file to write; it gets its name only once it is whole."""
    if path is None:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    if path.is_dir():
        raise WrongUse(f"--output: {path} is a directory")
    # A pipe or a device is written to; a new file in its place would be the end of /dev/null.
    is_file = path.is_file() or not path.exists()
    part = path.with_name(f"{path.name}.part") if is_file else path
    try:
        with open(part, "wb") as file:
            if path.suffix.lower() == ".gz":
                # Level 1 packs 30 MB/s; higher ones gain a tenth and take thrice as long.
                with gzip.GzipFile(path.name.removesuffix(".gz"), "wb", 1, file) as packed:
                    yield packed  # type: ignore[misc]  # it has all that is used of it
            else:
                yield file
        if is_file:
            os.replace(part, path)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise TachographError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        if is_file:
            part.unlink(missing_ok=True)
