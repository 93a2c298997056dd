"""
CPU time of queries over a store with the peers' data: 2,000 series of a day at 10 s (M) and 200
series of 30 days at 30 s (L).

    python benchmarks/promql_store.py [--data DIR] [--sets M,L] [--only ID,ID] [--tier raw]

Milliseconds of CPU: ``cold`` is the first run in a fresh store object (the file is in the page
cache), ``warm`` the least of some more; with answers kept, ``next`` is a range that has moved on by
one step, and ``again`` the same once more. ``DIR`` is filled the first time and used again then.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import math
import pstats
import tempfile
import time
from pathlib import Path

from filled_store import NOW_S, open_filled

from tachograph.aggregation.promql.engine import Engine, EngineOptions
from tachograph.aggregation.promql.range_cache import RangeCache
from tachograph.aggregation.promql.result import Result
from tachograph.aggregation.tiered_querier import Force, force_of, tiered
from tachograph.storage.select import Querier
from tachograph.storage.store import Store

#: Text, seconds back (0: instant), step and end.
Query = tuple[str, int, int, int]
HOUR, DAY = 3_600, 86_400
RATE5 = "sum by (job) (rate(http_requests_total[5m]))"
P95 = "histogram_quantile(0.95, sum by (le) (rate(http_request_duration_seconds_bucket[5m])))"
ERRORS = 'sum(rate(http_requests_total{status="500"}[5m])) / sum(rate(http_requests_total[5m]))'
TOP = "topk(5, sum by (instance) (rate(http_requests_total[5m])))"
P95_HOUR = P95.replace("5m", "1h")
#: Name, data set, class, expression, seconds (0: instant) and step.
QUERIES = (
    ("i_raw_metric", "M", "instant", "node_load1", 0, 0),
    (
        "i_raw_regex",
        "M",
        "instant",
        'http_requests_total{endpoint=~"/api/.*",status!~"2.."}',
        0,
        0,
    ),
    ("i_sum_rate", "M", "instant", RATE5, 0, 0),
    ("i_p95", "M", "instant", P95, 0, 0),
    ("i_topk", "M", "instant", TOP, 0, 0),
    ("i_err_ratio", "M", "instant", ERRORS, 0, 0),
    ("i_absent", "M", "instant", 'absent(up{job="nonexistent"})', 0, 0),
    ("i_increase_1h", "M", "instant", "increase(http_requests_total[1h])", 0, 0),
    ("i_max_1h", "M", "instant", "max_over_time(node_load1[1h])", 0, 0),
    ("i_quantile_1h", "M", "instant", "quantile_over_time(0.99, queue_depth[1h])", 0, 0),
    (
        "i_disk_full",
        "M",
        "instant",
        "node_filesystem_avail_bytes / node_filesystem_size_bytes < 0.2",
        0,
        0,
    ),
    (
        "i_predict",
        "M",
        "instant",
        "predict_linear(node_filesystem_avail_bytes[1h], 4 * 3600) < 0",
        0,
        0,
    ),
    (
        "i_subquery",
        "M",
        "instant",
        "max_over_time(sum(rate(http_requests_total[5m]))[1h:1m])",
        0,
        0,
    ),
    ("i_count_all", "M", "instant", 'count({__name__=~".+"})', 0, 0),
    ("r1h_raw", "M", "range", "node_load1", HOUR, 15),
    (
        "r1h_cpu_pct",
        "M",
        "range",
        '100 - avg by (instance) (rate(node_cpu_seconds_total{mode="idle"}[5m])) * 100',
        HOUR,
        15,
    ),
    ("r1h_quantile", "M", "range", "quantile_over_time(0.9, queue_depth[5m])", HOUR, 15),
    ("r6h_sum_rate", "M", "range", RATE5, 6 * HOUR, 30),
    ("r6h_err_ratio", "M", "range", ERRORS, 6 * HOUR, 60),
    ("r6h_topk", "M", "range", TOP, 6 * HOUR, 60),
    ("r6h_offset", "M", "range", "node_load1 offset 6h", 6 * HOUR, 60),
    ("r6h_up_ratio", "M", "range", "sum by (job) (up) / count by (job) (up)", 6 * HOUR, 60),
    ("r6h_regex_raw", "M", "range", '{__name__=~"node_load.*"}', 6 * HOUR, 60),
    (
        "r24h_one_series",
        "M",
        "range24",
        'node_memory_MemAvailable_bytes{instance="10.0.0.1:9100"}',
        DAY,
        60,
    ),
    (
        "r24h_sum_rate",
        "M",
        "range24",
        "sum by (job, status) (rate(http_requests_total[5m]))",
        DAY,
        60,
    ),
    ("r24h_p95", "M", "range24", P95, DAY, 60),
    ("r24h_avg_10m", "M", "range24", "avg_over_time(temperature_celsius[10m])", DAY, 60),
    ("r24h_max_1h", "M", "range24", "max_over_time(queue_depth[1h])", DAY, 300),
    (
        "r24h_ratio_offset_1d",
        "L",
        "range24",
        "sum(rate(http_requests_total[5m])) / sum(rate(http_requests_total[5m] offset 1d))",
        DAY,
        60,
    ),
    ("i_max_30d", "L", "long", "max_over_time(queue_depth[30d])", 0, 0),
    ("i_quantile_7d", "L", "long", "quantile_over_time(0.95, temperature_celsius[7d])", 0, 0),
    ("r7d_max_5m", "L", "long", "max_over_time(node_load1[5m])", 7 * DAY, 300),
    ("r30d_raw", "L", "long", "node_memory_MemAvailable_bytes", 30 * DAY, HOUR),
    ("r30d_avg_1h", "L", "long", "avg_over_time(node_load1[1h])", 30 * DAY, HOUR),
    (
        "r30d_sum_rate_1h",
        "L",
        "long",
        "sum by (job) (rate(http_requests_total[1h]))",
        30 * DAY,
        HOUR,
    ),
    ("r30d_p95_1h", "L", "long", P95_HOUR, 30 * DAY, HOUR),
)
END_S = {"peers": NOW_S - 60, "hour": NOW_S // HOUR * HOUR}


def evaluate(
    store: Store, querier: Querier, engine: Engine, query: Query, force: Force | None
) -> Result:
    text, seconds, step, end_s = query
    source = tiered(querier, retention=store.retention, force=force)
    if not seconds:
        return engine.instant(source, text, end_s * 1000)
    return engine.range(source, text, (end_s - seconds) * 1000, end_s * 1000, step * 1000)


async def measure(directory: Path, args: argparse.Namespace) -> None:
    force = force_of(args.tier) if args.tier else None
    only = set(args.only.split(",")) if args.only else None
    totals: dict[tuple[str, str], list[float]] = {}
    for size in args.sets.split(","):
        for name, of_set, kind, text, seconds, step in QUERIES:
            if of_set != size or (only is not None and name not in only):
                continue
            for ends, end_s in END_S.items():
                if ends == "hour" and kind != "long":
                    continue  # the same as the other, but for tiers
                query = text, seconds, step, end_s
                store = await open_filled(directory, size)
                times = await time_query(store, query, force)
                if args.profile:
                    await profile(store, query, force)
                await store.close()
                label = kind if kind != "long" else f"{kind}, to the {ends}"
                columns = ""
                for which, spent in times.items():
                    totals.setdefault((label, which), []).append(spent)
                    columns += f"  {which} {spent:8.2f}"
                print(f"{name:22}{ends:6}{columns}")
    for (label, which), each in totals.items():
        mean = math.exp(sum(map(math.log, each)) / len(each))
        print(f"{label:22}{which}: geometric mean {mean:8.2f} ms over {len(each)}")


async def time_query(store: Store, query: Query, force: Force | None) -> dict[str, float]:
    """Return CPU milliseconds of the first run, later ones, and ones with answers kept."""
    options = EngineOptions(max_samples=1_000_000_000)

    async def once(engine: Engine, query: Query) -> float:
        began = time.process_time()
        await store.read(lambda querier: evaluate(store, querier, engine, query, force))
        return (time.process_time() - began) * 1000

    async def least(engine: Engine, query: Query) -> float:
        found = [await once(engine, query)]
        while sum(found) < 500 and len(found) < 20:
            found.append(await once(engine, query))
        return min(found)

    engine = Engine(options)
    times = {"cold": await once(engine, query), "warm": await least(engine, query)}
    text, seconds, step, end_s = query
    if seconds:
        keeping = Engine(options, RangeCache())
        await once(keeping, (text, seconds, step, end_s - 30 * step))
        moved = []
        for behind in range(29, -1, -1):
            moved.append(await once(keeping, (text, seconds, step, end_s - behind * step)))
        times |= {"next": min(moved), "again": await least(keeping, query)}
    return times


async def profile(store: Store, query: Query, force: Force | None) -> None:
    engine = Engine(EngineOptions(max_samples=1_000_000_000))

    def job(querier: Querier) -> None:
        profiler = cProfile.Profile()
        profiler.enable()
        for _ in range(3):
            evaluate(store, querier, engine, query, force)
        profiler.disable()
        pstats.Stats(profiler).sort_stats("tottime").print_stats(22)

    await store.read(job)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="directory of filled stores")
    parser.add_argument("--sets", default="M,L")
    parser.add_argument("--only", help="some queries, by name")
    parser.add_argument("--tier", help="raw: no tiers; 1h: only that one")
    parser.add_argument("--profile", action="store_true")
    args = parser.parse_args()
    if args.data is not None:
        asyncio.run(measure(args.data, args))
        return
    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(measure(Path(directory), args))


if __name__ == "__main__":
    main()
