"""
Bytes and CPU time per sample of storage/codec.py.

``python benchmarks/codec.py [--rows 100] [--host TICKS]``: generated series of ten kinds,
times, rows with gaps; with ``--host`` also what this machine's psutil reads, TICKS times at 0.2 s.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence

import numpy as np
from host import sample_host
from series import FloatArray, IntArray, mix, regular_times

from tachograph.storage import codec
from tachograph.storage.frame import ABSENT


def _seconds(work: Callable[[], object]) -> float:
    """The least CPU time of three runs: neighbours on the machine only ever add to it."""
    best = float("inf")
    for _ in range(3):
        start = time.process_time()
        work()
        best = min(best, time.process_time() - start)
    return best


def measure(rows: Sequence[FloatArray], pco: bool = True) -> tuple[float, float, float]:
    """Return bytes per sample, and ns per sample to encode and to decode, over all ``rows``."""
    samples = sum(len(row) for row in rows)
    blobs = [codec.encode_chunk(row, pco=pco) for row in rows]
    out = np.empty(max(len(row) for row in rows))

    def encode() -> None:
        for row in rows:
            codec.encode_chunk(row, pco=pco)

    def decode() -> None:
        for blob, row in zip(blobs, rows, strict=True):
            codec.decode_chunk(blob, len(row), out[: len(row)])

    size = sum(map(len, blobs)) / samples
    return size, _seconds(encode) / samples * 1e9, _seconds(decode) / samples * 1e9


def _line(
    name: str, figures: tuple[float, float, float], fallback: tuple[float, float, float]
) -> None:
    print(f"{name:24}" + "".join(f"{x:9.2f}" for x in (*figures, *fallback)))


def _times(n: int, jitter_ms: int) -> IntArray:
    return regular_times(n, jitter_ms=jitter_ms)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=100)
    parser.add_argument("--host", type=int, default=0, metavar="TICKS")
    args = parser.parse_args()

    print(f"{'':24}{'pcodec':>27}{'fallback':>27}")
    print(f"{'':24}" + f"{'B/sample':>9}{'enc ns':>9}{'dec ns':>9}" * 2)
    for n in (12, 60, 360, 720, 8640):
        every: list[FloatArray] = []
        for kind, rows in mix(args.rows if n < 8640 else args.rows // 3, n):
            every += list(rows)
            if n == 360:
                _line(f"{n} {kind.name}", measure(list(rows)), measure(list(rows), pco=False))
        _line(f"{n} mix", measure(every), measure(every, pco=False))
        if n == 360:
            gaps = [row.copy() for row in every]
            rng = np.random.default_rng(3)
            for row in gaps:
                row[rng.random(n) < 0.01] = ABSENT
            _line(f"{n} mix, 1% gaps", measure(gaps), measure(gaps, pco=False))
            for row, whole in zip(gaps, every, strict=True):
                row[:] = whole
                row[: rng.integers(1, n)] = ABSENT
            _line(f"{n} mix, late start", measure(gaps), measure(gaps, pco=False))

    print("\ntimes, bytes each (divided by the series of a group when shared)")
    for n in (60, 360, 720, 8640):
        sizes = [len(codec.encode_ints(_times(n, jitter))) / n for jitter in (0, 3, 50)]
        print(f"{n:6}  regular {sizes[0]:.3f}  3 ms jitter {sizes[1]:.3f}  50 ms {sizes[2]:.3f}")

    if args.host:
        values = sample_host(args.host, 0.2)
        changing = [row for row in values if np.ptp(row) > 0]
        print(f"\nthis host: {len(values)} series of {args.host}, {len(changing)} of them change")
        _line("host, all", measure(list(values)), measure(list(values), pco=False))
        _line("host, changing", measure(changing), measure(changing, pco=False))


if __name__ == "__main__":
    main()
