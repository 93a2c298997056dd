"""``tachograph query``: PromQL at one time or over a range, from the agent or from its files."""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import sys
import time
from pathlib import Path
from typing import Final

from ...config.errors import SelectorError, TachographError
from ...config.selector import parse_selector
from ...config.units import DAY, HOUR, MINUTE, SECOND, format_duration, parse_duration
from .client import AgentUnreachable
from .errors import WrongUse
from .evaluate import Answer, Rows, Source, Span, source
from .options import Subparsers, add_client_options, add_command, add_output_option, client
from .sparkline import short, sparkline
from .table import print_table, show_metric, show_time
from .times import unix_s

_EPILOG = """examples:
  tachograph query up                                  newest values
  tachograph query 'up[10m]'                           samples as they were collected
  tachograph query 'sum by (job) (rate(http_requests_total[5m]))' --range 1h -o spark
  tachograph query 'oht50_cpu_usage_percent{core="total"}' --range 6h --step 1m -o csv > cpu.csv
  tachograph query up --time 2026-01-05T03:00:00Z
  tachograph query up --db /var/lib/tachograph         without an agent, or beside one
  tachograph query oht50_missions_total --range 30d --tier 1h --agg increase

A range without --step is cut into some 60 steps; -o spark without a range shows the last hour.
Warnings and infos about the query go to stderr.
"""
_POINTS: Final = 60
_SPARK_RANGE_MS: Final = HOUR
#: A range of samples back from one time; rollups have no lookback of their own.
_LOOKBACK_MS: Final = 5 * MINUTE
#: Ranges that are proposed.
_RANGES_MS: Final = (10 * MINUTE, HOUR, 6 * HOUR, DAY, 7 * DAY, 30 * DAY)
#: Steps that people count in.
_STEPS_MS: Final = tuple(
    number * unit
    for unit, numbers in (
        (SECOND, (1, 2, 5, 10, 15, 30)),
        (MINUTE, (1, 2, 5, 10, 15, 30)),
        (HOUR, (1, 2, 3, 6, 12)),
        (DAY, (1, 2, 7, 30)),
    )
    for number in numbers
)


def add(subparsers: Subparsers) -> None:
    parser = add_command(subparsers, "query", "answer a PromQL query", _EPILOG)
    parser.add_argument("expr", metavar="EXPR", help="PromQL")
    parser.add_argument(
        "--time", metavar="T", help="when: RFC 3339 or Unix seconds (default: now); ends a range"
    )
    parser.add_argument("--range", metavar="DURATION", help="the last 10m, 1h, 7d, ... before it")
    parser.add_argument("--step", metavar="DURATION", help="how far apart, in a range")
    parser.add_argument(
        "--tier",
        choices=("1m", "5m", "1h", "1d"),
        help="a selector's rollups as they are stored, rather than PromQL",
    )
    parser.add_argument(
        "--agg",
        choices=("avg", "sum", "min", "max", "count", "last", "increase"),
        help="with --tier: what to show of each bucket (default: avg)",
    )
    parser.add_argument(
        "--db", type=Path, metavar="DIR", help="read this data directory instead of asking an agent"
    )
    add_client_options(parser)
    add_output_option(parser, "table", "json", "csv", "spark")
    parser.set_defaults(handler=query)


def query(args: argparse.Namespace) -> int:
    span = _span(args)
    if args.tier:
        _check_selector(args.expr)
    elif args.agg:
        raise WrongUse("--agg: only buckets of a tier have that; add --tier, or write it in PromQL")
    try:
        with source(client(args), args.db) as answers:
            if args.tier:
                answer = answers.rollups(args.expr, span, args.tier, args.agg or "avg")
            else:
                answer = answers.query(args.expr, span)
            is_bare = not answer.rows and args.output in ("table", "spark")
            hint = _hint(answers, args, span.end_s) if is_bare and not args.tier else ""
    except AgentUnreachable as error:
        raise AgentUnreachable(f"{error}, or read its files with --db DIR") from error
    for word, texts in (("warning", answer.warnings), ("info", answer.infos)):
        for text in texts:
            print(f"{word}: {text}", file=sys.stderr)
    if args.tier:
        _tidy(answer.rows, newest_only=not args.range)
    _show(args.output, answer, span)
    if is_bare:
        print(f"no series{hint}", file=sys.stderr)
    return 0


def _hint(answers: Source, args: argparse.Namespace, end_s: float) -> str:
    """Say of a selector that found nothing when there was something; empty if that isn't known."""
    try:
        parse_selector(args.expr)
        newest = answers.newest(args.expr, end_s)
    except TachographError:  # no plain selector, or somebody who has no such answer
        return ""
    if not newest.series:
        return ""
    if newest.sample_s is None:
        return f" with a sample at that time; {newest.series} are known"
    age_ms = round((end_s - newest.sample_s) * 1000)
    if age_ms < 0:
        return f" with a sample at that time; newest sample: {show_time(newest.sample_s)}"
    word = "ago" if args.time is None else "before"
    range_ms = next((each for each in _RANGES_MS if each > age_ms), age_ms // DAY * DAY + DAY)
    age_ms -= age_ms % (MINUTE if age_ms >= MINUTE else SECOND)
    return (
        f" with a sample at that time; newest sample {format_duration(age_ms)} {word}; "
        f"try --range {format_duration(range_ms)}"
    )


def _check_selector(text: str) -> None:
    try:
        parse_selector(text)
    except SelectorError as error:
        raise WrongUse(
            f'{error}; --tier shows what is stored of a selector such as up{{job="a"}}, '
            "and leaves PromQL to choose its tiers itself"
        ) from error


def _span(args: argparse.Namespace) -> Span:
    end_s = time.time() if args.time is None else unix_s(args.time, "--time")
    range_ms = _duration(args.range, "--range")
    step_ms = _duration(args.step, "--step")
    if step_ms and not range_ms:
        raise WrongUse("--step: only a range has steps; add --range")
    if args.tier:
        return Span(end_s - (range_ms or _LOOKBACK_MS) / 1000, end_s, 0)
    if args.output == "spark":
        range_ms = range_ms or _SPARK_RANGE_MS
    if range_ms and not step_ms:
        step_ms = next((each for each in _STEPS_MS if each * _POINTS >= range_ms), _STEPS_MS[-1])
        # On whole steps, so that the same is asked a second later and found in the agent's cache.
        end_s = end_s if args.time else end_s * 1000 // step_ms * step_ms / 1000
    return Span(end_s - range_ms / 1000, end_s, step_ms / 1000)


def _duration(text: str | None, option: str) -> int:
    if text is None:
        return 0
    try:
        duration_ms = parse_duration(text)
    except ValueError as error:
        raise WrongUse(f"{option}: {error}") from error
    if duration_ms <= 0:
        raise WrongUse(f"{option}: {format_duration(duration_ms)} is not longer than 0")
    return duration_ms


def _tidy(rows: Rows, *, newest_only: bool) -> None:
    rows.sort(key=lambda row: show_metric(row["metric"]))
    if newest_only:
        for row in rows:
            row["values"] = row["values"][-1:]


def _show(output: str, answer: Answer, span: Span) -> None:
    if output == "json":
        print(json.dumps(answer.rows))
    elif output == "spark":
        _print_sparks(answer.rows, span)
    else:
        rows = [
            (show_metric(row["metric"]), show_time(float(ts)), value)
            for row in answer.rows
            for ts, value in row["values"]
        ]
        if output == "csv":
            writer = csv.writer(sys.stdout)
            writer.writerow(("series", "time", "value"))
            writer.writerows(rows)
        else:
            print_table(rows, ("SERIES", "TIME", "VALUE"))


def _print_sparks(rows: Rows, span: Span) -> None:
    lines = []
    for row in rows:
        points = [(float(ts), float(value)) for ts, value in row["values"]]
        values = [value for _, value in points if value == value] or [float("nan")]
        times = span.times if span.step_s else [ts for ts, _ in points]
        facts = f"min {short(min(values))}  max {short(max(values))}  last {short(points[-1][1])}"
        lines.append((show_metric(row["metric"]), sparkline(points, times), facts))
    widest = max((len(blocks) + len(facts) for _, blocks, facts in lines), default=0)
    room = max(20, shutil.get_terminal_size().columns - widest - 4)
    if all(len(name) <= room for name, _, _ in lines):
        print_table(lines)
        return
    # A long name must not push the blocks beyond the edge of the terminal, nor be cut: what tells
    # two series apart often stands last.
    for name, blocks, facts in lines:
        print(f"{name}\n  {blocks}  {facts}")
