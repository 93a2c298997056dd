"""
Ask our engine and a real Prometheus (2.42) the same random questions, and compare the answers.

    python benchmarks/promql_differential.py [--worlds 40] [--questions 1000] [--seed 0]

Each world is made of its seed alone, and so are its questions. Worlds of even seeds have samples on
whole seconds and are asked with ``compat: prometheus2``; those of odd seeds have them in between,
where Prometheus 3's left-open windows hold the same samples as 2.42's, and are asked with its
semantics. Half of them lie compacted, so that tiers answer where they may. Exits with 1 if a
difference belongs to none of these classes, each told by code
(``tests/support/promql_differences.py``):

- *the answer depends on the order of equal values*: which of equal values ``topk`` takes is up to
  the order in which an engine meets them. Ours gives another answer too, once its series come in
  another order, or both chose the same values at each time.
- *counter near zero at the start of a window*: Prometheus 3 limits how far ``rate`` looks back
  beyond a counter's first sample in another way than 2.42. Our engine gives 2.42's answer if asked
  for ``compat: prometheus2``, all else being the same.
- *ambiguous matches that a comparison filters away*: Prometheus 3 refuses several matches for one
  series also where the comparison leaves one or none of them; 2.42 refuses only if the comparison
  is asked with ``bool`` and so leaves them all.
- *an error between the windows of a subquery*: Prometheus evaluates a subquery also at times that
  are in no window, and fails where the expression fails; we do not look there. The expression by
  itself fails here as well, somewhere in the world.
- *series that become one by losing their names take turns*: of functions of ranges Prometheus
  refuses that over a range of time though at each of its times it would not. Ours is the answer
  that it gives time by time.
- *a window without a step of its subquery*: asked at one time for a subquery that has no step then,
  2.42 returns series without points, or with one after that time. Ours has none.
- *what is left where a regression's terms cancel*: of ``deriv`` and ``predict_linear`` both engines
  have less than 1e-12, which is nothing beside the samples.

Not asked about, as 2.42 is known to be wrong there: ``atan2`` of series with names (it keeps them),
``stddev`` of infinities and large numbers, ``deriv`` and the like of times since the epoch (few
digits are left), ``predict_linear`` with ``@`` (the window moves along), ``timestamp`` of a
selector with both ``@`` and ``offset`` (the offset is forgotten), ``count_values`` into a label
that sorts before the grouping ones, or of sums of -0.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from support.promql_differences import Tally, compare_world
from support.promql_peer import PROMETHEUS

_SHOWN_MAX = 30


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--worlds", type=int, default=40)
    parser.add_argument("--questions", type=int, default=1000, help="of each world")
    parser.add_argument("--seed", type=int, default=0, help="of the first world")
    args = parser.parse_args()
    if PROMETHEUS is None:
        print("prometheus is not installed")
        return 1
    tally, known = Tally(), Counter[str]()
    unexplained = 0
    began_s = time.monotonic()
    for seed in range(args.seed, args.seed + args.worlds):
        with tempfile.TemporaryDirectory() as directory:
            found = asyncio.run(compare_world(seed, args.questions, Path(directory), tally))
        for one in found:
            known[one.known] += bool(one.known)
            if not one.known:
                unexplained += 1
                if unexplained <= _SHOWN_MAX:
                    times = f"{one.question.start_ms} to {one.question.end_ms}"
                    print(f"world {seed}: {one.question.text}")
                    print(f"    at {times} step {one.question.step_ms}: {one.what}")
    print(
        f"{tally.asked} questions in {time.monotonic() - began_s:.0f} s; "
        f"{tally.filled} with an answer, {tally.errors} refused by both or either; "
        f"{unexplained} differences unexplained"
    )
    for name, number in known.items():
        if number:
            print(f"    {number} explained: {name}")
    return 1 if unexplained else 0


if __name__ == "__main__":
    sys.exit(main())
