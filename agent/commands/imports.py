"""``tachograph import``: history from files, into a running agent or straight into its files."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ...config.errors import TachographError
from ...storage.keys import day_of
from ..wire.errors import WireError
from .client import AgentUnreachable
from .history_files import READ_FORMATS, HistoryFile
from .import_targets import Target, target_of
from .options import Subparsers, add_client_options, add_command, add_output_option
from .progress import Progress, show_seconds

if TYPE_CHECKING:
    from ..ingest.history import Reader
    from ..ingest.history_import import Imported

_EPILOG: Final = """examples:
  tachograph import history.jsonl.gz                       what `tachograph export` wrote
  curl -s 'http://vm:8428/api/v1/export?match[]={job="api"}' | tachograph import
  tachograph import old.om --format openmetrics
  promtool tsdb dump /var/lib/prometheus | tachograph import
  tachograph import temperatures.csv                       columns: time, name or metric, value
  tachograph import old.jsonl --db /var/lib/tachograph --set storage.retention.raw=100y

Formats (told by name or content; gzip by content):
  vm-jsonl     VictoriaMetrics' JSON lines: {"metric":{},"values":[],"timestamps":[]}, times in ms
  openmetrics  text with a timestamp, in seconds, on every sample
  prometheus   text with a timestamp, in ms, on every sample: what `promtool tsdb dump` prints, or a
               saved /federate
  csv          a header names the columns: time (Unix seconds or RFC 3339) or time_ms; metric (as in
               up{job="api"}) or name; value; all others are labels

What is there already is replaced: an import that was cut off is simply started again. Samples older
than storage.retention.raw are refused; days that are over are compacted in the end.
"""
#: Samples that are sent at a time; as JSON lines they are some MB.
_BATCH_SAMPLES: Final = 250_000
_BATCH_BYTES: Final = 4 << 20
_BAD_SHOWN: Final = 10
_HINTS: Final = {
    "too_old": "raise storage.retention.raw first, such as by --set storage.retention.raw=100y",
    "future": "storage.limits.future says how far ahead of the clock a sample may be",
    "series": "raise storage.limits.series",
    "series_per_metric": "raise storage.limits.series_per_metric",
}


def add(subparsers: Subparsers) -> None:
    parser = add_command(subparsers, "import", "store history from files", _EPILOG)
    parser.add_argument(
        "files", nargs="*", default=["-"], metavar="FILE", help="default: - (stdin)"
    )
    parser.add_argument("--format", choices=READ_FORMATS, help="default: by name or content")
    parser.add_argument(
        "--no-compact", action="store_true", help="leave the days that are over to the daily job"
    )
    parser.add_argument(
        "--db",
        type=Path,
        metavar="DIR",
        help="write to this data directory, which no agent must be using",
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings to go with --db")
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="with --db: set one setting; may be repeated",
    )
    add_client_options(parser)
    add_output_option(parser, "text", "json")
    parser.set_defaults(handler=import_, listen=None, data=None)


def import_(args: argparse.Namespace) -> int:
    with ExitStack() as stack:
        files = [stack.enter_context(HistoryFile(name)) for name in args.files]
        sizes = [file.size_bytes for file in files]
        progress = Progress(sum(sizes) if all(sizes) else 0)
        target = stack.enter_context(target_of(args))
        work = _Import(target, progress)
        try:
            for file in files:
                work.read(file, args.format or file.format())
            read_s = progress.seconds
            compacted = 0 if args.no_compact else work.compact()
        except KeyboardInterrupt:
            progress.clear()
            print(f"tachograph: stopped; {work.so_far()}", file=sys.stderr)
            raise
        except AgentUnreachable as error:
            raise AgentUnreachable(f"{error}; {work.so_far()}") from error
        except TachographError as error:
            raise TachographError(f"{error}; {work.so_far()}") from error
        finally:
            progress.clear()
    return work.report(args.output, read_s, compacted)


class _Import:
    """Reads files one after the other and adds up what becomes of them."""

    def __init__(self, target: Target, progress: Progress) -> None:
        from ..ingest.history_import import Imported

        self._target, self._progress = target, progress
        self._before_bytes = 0
        self.done = Imported()
        self._bad = 0
        self._first_bad: list[str] = []

    def read(self, file: HistoryFile, format_: str) -> None:
        if format_ == "vm-jsonl" and self._target.takes_lines:
            self._pass_on(file)
        else:
            self._decode(file, format_)
        self._before_bytes += file.size_bytes

    def so_far(self) -> str:
        """Say what is stored, and what to do about the rest."""
        if not self.done.samples:
            return "nothing was stored"
        return f"{self.done.samples:,} samples are stored; start again, and they are replaced"

    def _pass_on(self, file: HistoryFile) -> None:
        first, size = 1, 0
        lines: list[bytes] = []
        for block in file.blocks():
            lines.append(block)
            size += len(block)
            if size >= _BATCH_BYTES:
                first = self._send_lines(file, b"\n".join(lines), first)
                lines, size = [], 0
        if lines:
            self._send_lines(file, b"\n".join(lines), first)

    def _send_lines(self, file: HistoryFile, lines: bytes, first: int) -> int:
        imported, bad, some = self._target.send_lines(lines)
        self._note(file, imported, bad, [(first + line - 1, reason) for line, reason in some])
        return first + lines.count(b"\n") + 1

    def _decode(self, file: HistoryFile, format_: str) -> None:
        reader = _reader(format_)
        for block in file.blocks():
            try:
                reader.feed(block.split(b"\n"))
            except WireError as error:
                raise TachographError(f"{file.name}: {error}") from error
            if reader.samples >= _BATCH_SAMPLES:
                self._note(file, self._target.send(reader.take()))
        if reader.samples:
            self._note(file, self._target.send(reader.take()))
        self._note(file, None, reader.bad.count, reader.bad.first)

    def _note(
        self,
        file: HistoryFile,
        imported: Imported | None,
        bad: int = 0,
        some: Sequence[tuple[int, str]] = (),
    ) -> None:
        if imported is not None:
            self.done.add(imported)
        self._bad += bad
        for line, reason in some:
            if len(self._first_bad) < _BAD_SHOWN:
                self._first_bad.append(f"{file.name}:{line}: {reason}")
        self._progress.show(self.done.samples, self._before_bytes + file.read_bytes)

    def compact(self) -> int:
        today = day_of(time.time_ns() // 1_000_000)
        over = sum(day < today for day in self.done.days)
        if not over:
            return 0
        self._progress.say(f"{self.done.samples:,} samples stored; {over} days are compacted ...")
        return self._target.compact()

    def report(self, output: str, read_s: float, compacted: int) -> int:
        done = self.done
        if output == "json":
            facts: dict[str, Any] = {
                "samples": done.samples,
                "refused": dict(done.refused),
                "badLines": self._bad,
                "days": len(done.days),
                "compactedDays": compacted,
                "seconds": round(read_s, 3),
            }
            print(json.dumps(facts))
        else:
            rate = done.samples / max(read_s, 1e-3)
            text = f"{done.samples:,} samples stored in {show_seconds(read_s)} ({rate:,.0f}/s)"
            print(f"{text}; {compacted} days compacted" if compacted else text)
        for reason, count in done.refused.most_common():
            hint = f"; {_HINTS[reason]}" if reason in _HINTS else ""
            print(f"refused: {count:,} samples: {done.faults[reason]}{hint}", file=sys.stderr)
        for text in self._first_bad:
            print(f"bad line: {text}", file=sys.stderr)
        if self._bad > len(self._first_bad):
            print(f"bad lines: {self._bad - len(self._first_bad):,} more", file=sys.stderr)
        return 1 if done.refused or self._bad else 0


def _reader(format_: str) -> Reader:
    from ..ingest.history_csv import CsvReader
    from ..ingest.history_jsonl import JsonLinesReader
    from ..ingest.history_openmetrics import OpenMetricsReader
    from ..ingest.history_prometheus import PrometheusTextReader

    made: dict[str, Callable[[], Reader]] = {
        "csv": CsvReader,
        "vm-jsonl": JsonLinesReader,
        "openmetrics": OpenMetricsReader,
        "prometheus": PrometheusTextReader,
    }
    return made[format_]()
