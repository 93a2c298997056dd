"""
Holds a running agent's rollups to its raw samples: every tier and aggregate of every series.

``python benchmarks/rollup_equality.py [--url http://127.0.0.1:19797] [--minutes 10]``

For some minutes it pushes gauges and counters, with a reset, corrections and points up to two
minutes late, while the agent collects what it collects. Then it reads all raw samples and all
rollups since midnight (UTC) and computes the buckets anew, in plain Python: counts, minima, maxima
and last values must agree exactly, and sums and increases to 1e-12 of what they add up. What was
pushed must be what is stored. Exits with 1 if anything differs.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

WIDTHS = {"1m": 60_000, "5m": 300_000, "1h": 3_600_000, "1d": 86_400_000}
AGGREGATES = ("avg", "sum", "min", "max", "count", "last", "increase")
PROMISE = 1e-12
DAY_MS = 86_400_000

Labels = tuple[tuple[str, str], ...]
Samples = list[tuple[int, float]]


@dataclass
class Api:
    """The agent, over HTTP."""

    url: str

    def get(self, path: str, **params: str) -> Any:
        url = f"{self.url}/api/tachograph/v1/{path}?{urllib.parse.urlencode(params)}"
        with urllib.request.urlopen(url, timeout=120) as response:
            return json.load(response)["data"]

    def push(self, points: list[dict[str, Any]]) -> None:
        request = urllib.request.Request(
            f"{self.url}/api/tachograph/v1/points",
            json.dumps(points).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=120) as response:
            assert response.status == 204, response.status

    def matrix(
        self, path: str, match: str, start_ms: int, end_ms: int, **params: str
    ) -> dict[Labels, Samples]:
        """Ask for a range, in pieces where the answer would be too long."""
        try:
            data = self.get(
                path, match=match, start=str(start_ms / 1000), end=str(end_ms / 1000), **params
            )
        except urllib.error.HTTPError as error:
            if error.code != 422 or end_ms - start_ms < 2:
                raise
            middle = (start_ms + end_ms) // 2
            found = self.matrix(path, match, start_ms, middle, **params)
            for labels, samples in self.matrix(path, match, middle + 1, end_ms, **params).items():
                found[labels] = found.get(labels, []) + samples
            return found
        return {
            tuple(sorted(row["metric"].items())): [
                (round(at * 1000), float(value)) for at, value in row["values"]
            ]
            for row in data["result"]
        }


# --- Pushing -----------------------------------------------------------------------------------


@dataclass
class Pusher:
    """Pushes points and remembers what must be stored."""

    api: Api
    run: str
    rng: random.Random
    pushed: dict[Labels, dict[int, float]] = field(default_factory=dict)
    levels: Counter[str] = field(default_factory=Counter)

    def work(self, minutes: float) -> None:
        begin_s = time.time()
        end_s = begin_s + 60 * minutes
        next_s = begin_s
        while (now_s := time.time()) < end_s:
            has_restarted = now_s > (begin_s + end_s) / 2
            self.api.push(list(self._points(round(now_s * 1000), has_restarted)))
            next_s += 1
            time.sleep(max(0.0, next_s - time.time()))

    def _points(self, now_ms: int, has_restarted: bool) -> Iterator[dict[str, Any]]:
        rng = self.rng
        if has_restarted and not self.levels["restarted"]:
            self.levels.clear()
            self.levels["restarted"] = 1
        for n in range(4):
            value = rng.choice([round(rng.gauss(50, 20), 2), rng.gauss(0, 1), float(n)])
            yield self._point("gauge", n, now_ms, value)
            self.levels[f"c{n}"] += rng.randint(0, 9)
            yield self._point("counter", n, now_ms, float(self.levels[f"c{n}"]))
            # A point that comes late, of a series that has them only; and one that is corrected.
            late_ms = now_ms - rng.randint(0, 120_000)
            yield self._point("late_gauge", n, late_ms, round(rng.gauss(5, 1), 3))
            if rng.random() < 0.1:
                yield self._point("gauge", n, now_ms, -1.0)
            self.levels[f"s{n}"] += rng.randint(1, 500)
            self._seconds(n, now_ms)
            yield self._point("seconds", n, now_ms, self.levels[f"s{n}"] / 1000)

    def _seconds(self, n: int, now_ms: int) -> None:
        """A second restart, at no particular time, so that increases have more to add up."""
        if self.rng.random() < 0.02:
            self.levels[f"s{n}"] = 0

    def _point(self, kind: str, n: int, ts_ms: int, value: float) -> dict[str, Any]:
        name, type_ = {
            "gauge": ("equality_level", "gauge"),
            "late_gauge": ("equality_late_level", "gauge"),
            "counter": ("equality_jobs_total", "counter"),
            "seconds": ("equality_busy_seconds_total", "counter"),
        }[kind]
        labels = {"n": str(n), "run": self.run}
        key = tuple(sorted({"__name__": name, **labels}.items()))
        self.pushed.setdefault(key, {})[ts_ms] = value
        return {
            "name": name,
            "labels": labels,
            "value": value,
            "timestamp": ts_ms,
            "type": type_,
        }


# --- Judging -----------------------------------------------------------------------------------


def buckets(samples: Samples, width_ms: int) -> dict[int, tuple[float | None, list[float]]]:
    """Return, by the end of each bucket, the value before it (None at first) and its values."""
    found: dict[int, tuple[float | None, list[float]]] = {}
    before = None
    for ts_ms, value in samples:
        end_ms = -(-ts_ms // width_ms) * width_ms
        found.setdefault(end_ms, (before, []))[1].append(value)
        before = value
    return found


def aggregate(what: str, before: float | None, values: list[float]) -> tuple[float, float]:
    """Return an aggregate and how far a stored one may be off."""
    numbers = [value for value in values if value == value] or [math.nan]
    size = sum(abs(value) for value in values)
    match what:
        case "count":
            return float(len(values)), 0.0
        case "min":
            return min(numbers), 0.0
        case "max":
            return max(numbers), 0.0
        case "last":
            return values[-1], 0.0
        case "sum":
            return exact_sum(values), PROMISE * size
        case "avg":
            return exact_sum(values) / len(values), PROMISE * size / len(values)
    previous = values[0] if before is None else before
    terms = [values[-1], -previous]
    for value in values:
        if value < previous:
            terms.append(previous)  # it has restarted from 0
        previous = value
    return exact_sum(terms), PROMISE * sum(map(abs, terms))


def exact_sum(values: list[float]) -> float:
    if all(map(math.isfinite, values)):
        return math.fsum(values)
    return sum(value for value in values if not math.isfinite(value))


def agree(got: float, want: float, slack: float) -> bool:
    if math.isfinite(want):
        return abs(got - want) <= slack
    return got == want or (math.isnan(got) and math.isnan(want))


@dataclass
class Judge:
    api: Api
    since_ms: int
    compared: Counter[tuple[str, str]] = field(default_factory=Counter)
    mismatches: list[str] = field(default_factory=list)

    def judge(self, name: str, kinds: dict[Labels, str], older: set[Labels]) -> None:
        """Compare all series of one metric."""
        match = f'{{__name__="{name}"}}'
        # The agent goes on collecting: what is read before and after brackets what is compared.
        end_ms = round(time.time() * 1000) + 600_000
        first_ms = self.since_ms - 3_600_000
        raw = self.api.matrix("points", match, first_ms, end_ms)
        rollups = {
            (tier, what): self.api.matrix(
                "rollups", match, self.since_ms, end_ms, tier=tier, agg=what
            )
            for tier in WIDTHS
            for what in AGGREGATES
        }
        again = self.api.matrix("points", match, first_ms, end_ms)
        for (tier, what), found in rollups.items():
            for labels in again.keys() | found.keys():
                if what == "increase" and kinds.get(labels) == "gauge":
                    if labels in found:
                        self.mismatches.append(f"{tier} increase of a gauge: {dict(labels)}")
                    continue
                self._series(
                    tier,
                    what,
                    labels,
                    dict(found.get(labels, [])),
                    again.get(labels, []),
                    len(raw.get(labels, [])),
                    labels in older,
                )

    def _series(
        self,
        tier: str,
        what: str,
        labels: Labels,
        found: dict[int, float],
        samples: Samples,
        settled: int,
        is_older: bool,
    ) -> None:
        """Compare one series; its first ``settled`` samples were there before the rollups."""
        width_ms = WIDTHS[tier]
        finals = buckets(samples, width_ms)
        certain = buckets(samples[:settled], width_ms)
        ends = {end for end in finals if end > self.since_ms}
        must = {end for end in certain if end > self.since_ms}
        for end in sorted((must - found.keys()) | (found.keys() - ends)):
            kind = "missing" if end in must else "from nowhere"
            self.mismatches.append(f"{tier} {what} of {dict(labels)} at {end}: {kind}")
        for end in ends & found.keys():
            before, values = finals[end]
            if what == "increase" and before is None and is_older:
                continue  # the sample before it is older than what was read
            known = len(certain.get(end, (None, []))[1])
            wanted = [
                aggregate(what, before, values[:count])
                for count in range(max(1, known), len(values) + 1)
            ]
            self.compared[tier, what] += 1
            if not any(agree(found[end], want, slack) for want, slack in wanted):
                say = f"{found[end]!r}, not {wanted[-1][0]!r}"
                self.mismatches.append(f"{tier} {what} of {dict(labels)} at {end}: {say}")


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", default="http://127.0.0.1:19797")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    api = Api(args.url)
    begin_ms = round(time.time() * 1000)
    since_ms = begin_ms // DAY_MS * DAY_MS
    pusher = Pusher(api, str(begin_ms), random.Random(args.seed))
    pusher.work(args.minutes)

    judge = Judge(api, since_ms)
    stored = api.matrix(
        "points", f'{{run="{pusher.run}"}}', begin_ms - DAY_MS, round(time.time() * 1000) + 1_000
    )
    pushed = {labels: sorted(samples.items()) for labels, samples in pusher.pushed.items()}
    for labels in pushed.keys() | stored.keys():
        if pushed.get(labels) != stored.get(labels):
            judge.mismatches.append(f"raw samples of {dict(labels)} are not what was pushed")
    listed = api.get("series", limit="1000000")
    kinds = {tuple(sorted(each["metric"].items())): each["kind"] for each in listed}
    older = {
        tuple(sorted(each["metric"].items()))
        for each in listed
        if each["created"] * 1000 < since_ms
    }
    for name in sorted({each["metric"]["__name__"] for each in listed}):
        judge.judge(name, kinds, older)

    points = sum(map(len, pushed.values()))
    print(f"{points} points pushed to {len(pushed)} series; {len(listed)} series in all")
    print(f"{'buckets compared':18}" + "".join(f"{what:>10}" for what in AGGREGATES))
    for tier in WIDTHS:
        row = "".join(f"{judge.compared[tier, what]:>10}" for what in AGGREGATES)
        print(f"{tier:18}{row}")
    print(f"{judge.compared.total()} numbers compared, {len(judge.mismatches)} mismatches")
    for text in judge.mismatches[:20]:
        print(f"  {text}")
    return 1 if judge.mismatches or not judge.compared.total() else 0


if __name__ == "__main__":
    sys.exit(main())
