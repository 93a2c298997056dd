"""
Cut the power of a store at random moments, very often, and look at what is left.

``python benchmarks/storage_power_loss.py [--cuts 1000] [--ticks 300]``: needs strace. Each line is
one run, recorded call by call, and the disks that cuts at random moments might have left. The last
line is the proof that the search finds what it looks for: it claims too much.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from support import power
from support.kills import FSYNC_TICKS


async def run(ticks: int, cuts: int) -> None:
    print(f"{'durability':<12}{'checkpoint':>12}{'syncs':>8}{'may lose':>10}{'cuts':>7}", end="")
    print(f"{'lost some':>11}{'broke the promise':>19}")
    for durability, pages, lost in (
        ("full", 40, 0),
        ("full", 1_000, 0),
        ("normal", 40, FSYNC_TICKS + 1),
        ("normal", 1_000, FSYNC_TICKS + 1),
        ("normal", 1_000, 0),
    ):
        with tempfile.TemporaryDirectory() as root:
            operations = power.record(Path(root), durability, ticks, pages)
            problems, lossy = await power.cut(Path(root), operations, cuts, seed=3, lost=lost)
        broken = len({problem.split(":")[0] for problem in problems})
        syncs = sum(each.kind == "sync" for each in operations)
        print(f"{durability:<12}{pages:>12}{syncs:>8}{lost:>10}{cuts:>7}{lossy:>11}{broken:>19}")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cuts", type=int, default=1000)
    parser.add_argument("--ticks", type=int, default=300)
    args = parser.parse_args()
    logging.disable()
    if not power.is_possible():
        raise SystemExit("needs strace, and the right to use it")
    asyncio.run(run(args.ticks, args.cuts))


if __name__ == "__main__":
    main()
