"""
Kill a store at random moments, very often, and look at what is left.

``python benchmarks/storage_kill9.py [--runs 1000] [--seed 1]``: a process appends, seals, rolls up
and deletes (a second of it stands for days) until ``kill -9``; then a copy of its files is opened
and every acknowledged sample looked for. Exits with 1 at the first problem.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from support.kills import Killer


async def run(runs: int, seed: int) -> int:
    opened: list[float] = []
    acked = samples = 0
    started = time.perf_counter()
    # A directory starts anew after so many kills: later ones find long histories, first ones none.
    per_directory = 50
    for first in range(0, runs, per_directory):
        with (
            tempfile.TemporaryDirectory() as root,
            Killer(Path(root), seed * 1_000_003 + first) as killer,
        ):
            before = 0
            for number in range(first, min(runs, first + per_directory)):
                killer.kill()
                outcome = await killer.check()
                opened.append(outcome.open_s)
                samples += outcome.samples
                acked += max(0, outcome.acked + 1 - before)
                before = max(before, outcome.acked + 1)
                if outcome.problems:
                    print(f"kill {number}: {len(outcome.problems)} problems")
                    print(*outcome.problems[:10], sep="\n")
                    return 1
    print(f"kills                  {runs}")
    print(f"acknowledged commits   {acked}, none lost")
    print(f"samples looked at      {samples}")
    print(f"opening, median        {statistics.median(opened) * 1000:.1f} ms")
    print(f"opening, longest       {max(opened) * 1000:.1f} ms")
    print(f"wall time              {time.perf_counter() - started:.0f} s")
    return 0


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    raise SystemExit(asyncio.run(run(args.runs, args.seed)))


if __name__ == "__main__":
    main()
