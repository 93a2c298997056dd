"""``tachograph cron``: run a job and push how it went, without getting into its way."""

from __future__ import annotations

import argparse
import contextlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Final

from ...config.errors import TachographError
from ...config.units import parse_duration
from .client import AgentUnreachable, Client
from .errors import WrongUse
from .options import Subparsers, add_client_options, add_command
from .push import split_pair

_EPILOG: Final = """examples:
  tachograph cron --job backup -- /usr/local/bin/backup --all
  0 3 * * * tachograph cron --job backup --ttl 3d -- sh -c 'pg_dump oht50 | gzip > /backup/oht50.gz'

pushed, each with the label job:
  job_last_start_timestamp_seconds    when it was started; pushed while it runs
  job_duration_seconds                how long the last run took
  job_exit_code                       0 good; 126, 127 not run; 128 and more: ended by a signal
  job_last_success_timestamp_seconds  when it last ended well; left alone by a run that failed

an alert for it:
  time() - job_last_success_timestamp_seconds{job="backup"} > 26 * 3600

exit code: that of COMMAND, whatever becomes of the push
"""
#: Longer than the longest pause between two runs of most jobs, a month.
_TTL: Final = "32d"
#: An agent that is being restarted is back within this time; one that is gone is not waited for.
_PATIENCE: Final = "10s"
_RETRY_S: Final = 1.0
_TIMEOUT_S: Final = 5.0
#: Ctrl-C comes from the terminal to the job as well as to us; the others to us alone.
_FORWARDED: Final = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)

_HELP: Final = {
    "job_last_start_timestamp_seconds": "When the job was last started, in Unix time.",
    "job_duration_seconds": "How long the last run of the job took.",
    "job_exit_code": "Exit code of the job's last run; 128 and more: a signal.",
    "job_last_success_timestamp_seconds": "When the job last ended well, in Unix time.",
}


def add(subparsers: Subparsers) -> None:
    parser = add_command(subparsers, "cron", "run a job and push how it went", _EPILOG)
    parser.add_argument("--job", required=True, help="its name, the label job")
    parser.add_argument(
        "--label", action="append", default=[], metavar="NAME=VALUE", help="may be repeated"
    )
    parser.add_argument(
        "--ttl",
        default=_TTL,
        metavar="DURATION",
        help=f"how long it is remembered (default: {_TTL})",
    )
    parser.add_argument(
        "--patience",
        default=_PATIENCE,
        metavar="DURATION",
        help="how long to wait, after the job, for an agent that is being restarted "
        f"(default: {_PATIENCE})",
    )
    parser.add_argument(
        "--quiet", action="store_true", help="say nothing when the agent is not reachable"
    )
    parser.add_argument("words", nargs=argparse.REMAINDER, metavar="-- COMMAND")
    add_client_options(parser)
    parser.set_defaults(handler=cron)


def cron(args: argparse.Namespace) -> int:
    words = args.words[1:] if args.words[:1] == ["--"] else args.words
    if not words:
        raise WrongUse("cron: write the command after --")
    patience_s = _duration_ms(args.patience, "--patience") / 1000
    _duration_ms(args.ttl, "--ttl")
    labels = dict(split_pair(each, "--label") for each in args.label) | {"job": args.job}
    reporter = _Reporter(args.url, labels, args.ttl, patience_s, args.quiet)
    started_s, began_s = time.time(), time.monotonic()
    code = _run(words, lambda: reporter.begin(started_s))
    results = {
        "job_last_start_timestamp_seconds": started_s,
        "job_duration_seconds": time.monotonic() - began_s,
        "job_exit_code": float(code),
    }
    if code == 0:
        results["job_last_success_timestamp_seconds"] = time.time()
    with contextlib.suppress(KeyboardInterrupt):
        reporter.finish(results)
    return code


def _duration_ms(text: str, option: str) -> int:
    try:
        return parse_duration(text)
    except ValueError as error:
        raise WrongUse(f"{option}: {error}") from error


def _run(words: list[str], started: Callable[[], None]) -> int:
    """Run the job with our own input, output and directory; return its exit code as shells do."""
    waiting: list[signal.Signals] = []
    process: subprocess.Popen[bytes] | None = None

    def forward(number: int, _: FrameType | None) -> None:
        if process is None:
            waiting.append(signal.Signals(number))
        else:
            process.send_signal(number)

    # Before the job is there, so that none that comes in between ends us and leaves it behind. What
    # is ignored (nohup) stays so, for the job, too.
    before = {
        number: signal.signal(number, forward)
        for number in _FORWARDED
        if signal.getsignal(number) is not signal.SIG_IGN
    }
    before[signal.SIGINT] = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        try:
            process = subprocess.Popen(words, restore_signals=True)
        except OSError as error:
            print(f"tachograph: {words[0]}: {error.strerror}", file=sys.stderr)
            return 127 if isinstance(error, FileNotFoundError) else 126
        for number in waiting:
            process.send_signal(number)
        started()
        code = process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return code if code >= 0 else 128 - code


class _Reporter:
    """Tells the agent of one run; never raises, never waits long."""

    def __init__(
        self, url: str, labels: dict[str, str], ttl: str, patience_s: float, quiet: bool
    ) -> None:
        self._client = Client(url, _TIMEOUT_S)
        self._labels, self._ttl = labels, ttl
        self._patience_s, self._quiet = patience_s, quiet

    def begin(self, started_s: float) -> None:
        """Push the start, beside the job: an agent that hangs must not hold it up."""
        point = {"job_last_start_timestamp_seconds": started_s}
        threading.Thread(target=self._push, args=(point, True), daemon=True).start()

    def finish(self, results: dict[str, float]) -> None:
        """Push the results; wait some seconds for an agent that is being restarted."""
        deadline_s = time.monotonic() + self._patience_s
        while not self._push(results, time.monotonic() + _RETRY_S < deadline_s):
            if time.monotonic() + _RETRY_S >= deadline_s:
                return
            time.sleep(_RETRY_S)

    def _push(self, values: dict[str, float], quiet: bool) -> bool:
        """Return whether it is done with, pushed or refused."""
        points = [
            {
                "name": name,
                "labels": self._labels,
                "value": value,
                "type": "gauge",
                "ttl": self._ttl,
                "help": _HELP[name],
            }
            for name, value in values.items()
        ]
        try:
            self._client.post("/api/tachograph/v1/points", points)
            return True
        except TachographError as error:
            is_gone = isinstance(error, AgentUnreachable)
            if not self._quiet and not (is_gone and quiet):
                print(f"tachograph: {error}; the job's result is not recorded", file=sys.stderr)
            return not is_gone
