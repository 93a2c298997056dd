"""
CPU time to roll up, encode and decode a day of series, and the bytes that each bucket takes.

``python benchmarks/rollup.py [--rows 100] [--jitter MS]``
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import numpy as np
from series import KINDS, mix, regular_times

from tachograph.aggregation.rollup import BucketRows, Buckets, Tier, coarsen_rows, rollup_rows
from tachograph.aggregation.rollup_codec import decode_day, decode_days, encode_day
from tachograph.storage.frame import ABSENT, FloatArray, IntArray
from tachograph.storage.keys import DAY_MS, day_of

_T = TypeVar("_T")


def _timed(work: Callable[[], _T]) -> tuple[float, _T]:
    """The least CPU time of three runs: neighbours on the machine only ever add to it."""
    best = float("inf")
    for _ in range(3):
        start = time.process_time()
        result = work()
        best = min(best, time.process_time() - start)
    return best, result


def _cascade(ts_ms: IntArray, values: FloatArray) -> dict[Tier, BucketRows]:
    rows = {Tier.M1: rollup_rows(ts_ms, values, Tier.M1.width_ms)}
    for finer, coarser in ((Tier.M1, Tier.M5), (Tier.M5, Tier.H1), (Tier.H1, Tier.D1)):
        rows[coarser] = coarsen_rows(rows[finer], finer.width_ms, coarser.width_ms)
    return rows


def _encode(series: list[Buckets], day: int, is_counter: bool) -> list[bytes]:
    return [encode_day(each, day, keep_resets=is_counter) for each in series]


def _decode(blobs: list[bytes], tier: Tier, day: int) -> None:
    for blob in blobs:
        decode_day(blob, tier, day)


def _rollups(matrices: list[FloatArray], ts_ms: IntArray) -> None:
    every = np.concatenate(matrices)
    samples = every[:64].size
    gaps = every[:64].copy()
    gaps[np.random.default_rng(3).random(gaps.shape) < 0.01] = ABSENT
    for name, values in (("whole rows", every[:64]), ("1% gaps", gaps)):
        seconds, _ = _timed(partial(_cascade, ts_ms, values))
        print(f"samples to four tiers, {name:12} {seconds / samples * 1e9:6.1f} ns/sample")


def _year() -> None:
    ts_ms = 60_000 * np.arange(1, 365 * 1440 + 1, dtype=np.int64)
    noise = np.random.default_rng(1).normal(0, 1, len(ts_ms))
    tiers = _cascade(ts_ms, np.round(50 + noise, 1)[np.newaxis])
    for tier in (Tier.H1, Tier.D1):
        per_day = DAY_MS // tier.width_ms
        buckets: Buckets = next(iter(tiers[tier]))
        rows = []
        for day in range(365):
            part = buckets.between(day * per_day, (day + 1) * per_day - 1)
            rows.append((day, encode_day(part, day, keep_resets=False)))
        seconds, _ = _timed(partial(decode_days, rows, tier))
        print(f"one year of {tier.label}: {seconds * 1e3:.1f} ms")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=100)
    parser.add_argument("--jitter", type=int, default=0, metavar="MS")
    args = parser.parse_args()
    ts_ms = regular_times(8640, jitter_ms=args.jitter)
    day = day_of(int(ts_ms[0]) + DAY_MS // 2)
    ts_ms = np.clip(ts_ms, day * DAY_MS + 1, (day + 1) * DAY_MS)
    matrices = [values for _, values in mix(args.rows, 8640)]
    _rollups(matrices, ts_ms)

    by_kind = [_cascade(ts_ms, values) for values in matrices]
    print(f"\n{'bytes per bucket':24}" + "".join(f"{tier.label:>9}" for tier in Tier))
    totals = dict.fromkeys(Tier, 0.0)
    encode, decode = dict.fromkeys(Tier, 0.0), dict.fromkeys(Tier, 0.0)
    for kind, tiers in zip(KINDS, by_kind, strict=True):
        line = f"{kind.name:24}"
        for tier in Tier:
            series = list(tiers[tier])
            seconds, blobs = _timed(partial(_encode, series, day, kind.is_counter))
            encode[tier] += seconds / len(series) * kind.share
            seconds, _ = _timed(partial(_decode, blobs, tier, day))
            decode[tier] += seconds / len(series) * kind.share
            size = sum(map(len, blobs)) / sum(map(len, series))
            totals[tier] += size * kind.share
            line += f"{size:9.2f}"
        print(line)
    print(f"{'mix':24}" + "".join(f"{totals[tier]:9.2f}" for tier in Tier))
    print(f"{'encode, us a row':24}" + "".join(f"{encode[tier] * 1e6:9.0f}" for tier in Tier))
    print(f"{'decode, us a row':24}" + "".join(f"{decode[tier] * 1e6:9.0f}" for tier in Tier))
    print()
    _year()


if __name__ == "__main__":
    main()
