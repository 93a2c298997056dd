"""
Are the rollups of a running agent what its raw samples say?

    tachograph run --config with-a-scrape-target.yml &
    python benchmarks/rollup_equality.py --minutes 10

Pushes custom points for a while (gauges, counters with resets, points up to two minutes late)
while the agent collects and scrapes on its own. Then reads every series' raw samples and every tier
and aggregate over HTTP, recomputes the latter from the former in plain Python, and compares:
exactly for count, min, max, last and increase, to 1e-12 of the added magnitudes for sum and avg.

Of the pushed series every bucket is compared, the open ones included; of the others, which go on
growing, those that are over.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
import urllib.parse
import urllib.request
from collections import Counter
from typing import Any

WIDTHS_S = {"1m": 60, "5m": 300, "1h": 3600, "1d": 86_400}
AGGREGATES = ("count", "sum", "avg", "min", "max", "last", "increase")


class Agent:
    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/") + "/api/tachograph/v1"

    def get(self, path: str, **params: str) -> Any:
        query = urllib.parse.urlencode(params)
        with urllib.request.urlopen(f"{self.url}/{path}?{query}", timeout=120) as response:
            return json.load(response)["data"]

    def push(self, points: list[dict[str, Any]]) -> None:
        request = urllib.request.Request(
            f"{self.url}/points",
            json.dumps(points).encode(),
            {"Content-Type": "application/json"},
        )
        urllib.request.urlopen(request, timeout=60).close()


def load(agent: Agent, minutes: float) -> int:
    """Push points until the time is over; return how many."""
    chance = random.Random(1)
    totals = [0.0] * 20
    pushed = 0
    end_s = time.monotonic() + minutes * 60
    while time.monotonic() < end_s:
        now_ms = int(time.time() * 1000)
        points = []
        for number in range(20):
            totals[number] += chance.randrange(50)
            if chance.random() < 0.002:
                totals[number] = 0.0
            labels = {"n": str(number)}
            points += [
                {
                    "name": "load_total",
                    "labels": labels,
                    "value": totals[number],
                    "type": "counter",
                },
                {
                    "name": "load_gauge",
                    "labels": labels,
                    "value": round(chance.gauss(20, 5), 2),
                    "timestamp": now_ms - (chance.randrange(120_000) if number % 4 == 0 else 0),
                },
            ]
        agent.push(points)
        pushed += len(points)
        time.sleep(0.1)
    return pushed


def by_series(result: list[dict[str, Any]]) -> dict[str, list[tuple[float, float]]]:
    return {
        json.dumps(row["metric"], sort_keys=True): [(t, float(v)) for t, v in row["values"]]
        for row in result
    }


def recompute(
    samples: list[tuple[float, float]], width_s: int, what: str
) -> dict[int, tuple[float, float]]:
    """Return value and magnitude (for the tolerance) by the end of each bucket ``(start, end]``."""
    found: dict[int, list[float]] = {}
    steps: dict[int, list[tuple[float, float]]] = {}
    before: float | None = None
    for ts_s, value in samples:
        end_s = -(-round(ts_s * 1000) // (width_s * 1000)) * width_s
        found.setdefault(end_s, []).append(value)
        steps.setdefault(end_s, []).append((value if before is None else before, value))
        before = value
    out = {}
    for end_s, values in found.items():
        size = math.fsum(map(abs, values))
        if what == "increase":
            pairs = steps[end_s]
            lost = math.fsum(old for old, new in pairs if new < old)
            result = pairs[-1][1] - pairs[0][0] + lost
        else:
            result = {
                "count": float(len(values)),
                "sum": math.fsum(values),
                "avg": math.fsum(values) / len(values),
                "min": min(values),
                "max": max(values),
                "last": values[-1],
            }[what]
        out[end_s] = (result, size if what == "sum" else size / len(values))
    return out


def equal(what: str, wanted: float, got: float, size: float) -> bool:
    if math.isnan(wanted) or math.isnan(got):
        return math.isnan(wanted) == math.isnan(got)
    if what in ("sum", "avg"):
        return abs(wanted - got) <= 1e-12 * max(size, abs(wanted))
    return wanted == got or (what == "increase" and abs(wanted - got) <= 1e-9 * abs(wanted))


def compare(agent: Agent, start_s: float, end_s: float) -> Counter[str]:
    counts: Counter[str] = Counter()
    window = {"start": f"{start_s:.3f}", "end": f"{end_s:.3f}"}
    kinds = {
        json.dumps(each["metric"], sort_keys=True): each["kind"]
        for each in agent.get("series", limit="100000")
    }
    names = sorted({json.loads(metric)["__name__"] for metric in kinds})
    for name in names:
        is_pushed = name.startswith("load_")
        window["end"] = f"{time.time() if is_pushed else end_s:.3f}"
        selector = f'{{__name__="{name}"}}'
        raw = by_series(agent.get("points", match=selector, **window)["result"])
        counts["samples"] += sum(map(len, raw.values()))
        for tier, width_s in WIDTHS_S.items():
            for what in AGGREGATES:
                rows = agent.get("rollups", match=selector, tier=tier, agg=what, **window)
                got = by_series(rows["result"])
                for metric, samples in raw.items():
                    if what == "increase" and kinds.get(metric) == "gauge":
                        continue
                    wanted = recompute(samples, width_s, what)
                    there = dict(got.get(metric, ()))
                    for bucket_s, (value, size) in wanted.items():
                        if bucket_s > end_s and not is_pushed:
                            continue
                        counts["compared"] += 1
                        answer = there.get(bucket_s)
                        if answer is None or not equal(what, value, answer, size):
                            counts["different"] += 1
                            if counts["different"] <= 20:
                                print(f"{tier} {what} {metric} {bucket_s}: {value!r} is {answer!r}")
                    extra = [t for t in there if t not in wanted and (is_pushed or t <= end_s)]
                    counts["different"] += len(extra)
    counts["series"] = len(kinds)
    return counts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:19797")
    parser.add_argument("--minutes", type=float, default=10.0)
    args = parser.parse_args()
    agent = Agent(args.url)
    start_s = time.time() // 86_400 * 86_400 - 86_400
    pushed = load(agent, args.minutes)
    # Samples go on coming; what lies behind the last whole minute holds still but for late points,
    # and those have stopped.
    end_s = time.time() // 60 * 60
    counts = compare(agent, start_s, end_s)
    print(
        f"{pushed} points pushed; {counts['series']} series, {counts['samples']} samples; "
        f"{counts['compared']} buckets compared, {counts['different']} different"
    )
    return 1 if counts["different"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
