"""Generated series for the benchmarks: ten kinds, mixed as in a backend and its host."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

_DAY = 86_400.0


@dataclass(frozen=True, slots=True)
class SeriesKind:
    """One kind of series: its name, its share of all series, and how ``n`` samples are made."""

    name: str
    share: float
    is_counter: bool
    generate: Callable[[np.random.Generator, int, float], FloatArray]


def _walk(rng: np.random.Generator, n: int, step: float) -> FloatArray:
    """A random walk that is pulled back to 0, so that it neither flattens nor runs away."""
    noise = rng.normal(0.0, step, n)
    out = np.empty(n)
    level = 0.0
    for i, x in enumerate(noise):
        level += x - 0.02 * level
        out[i] = level
    return out


def _traffic(rng: np.random.Generator, n: int, interval_s: float) -> FloatArray:
    """Load between 0 and 2 that follows the time of day, with bursts."""
    day = np.arange(n) * interval_s * (2 * np.pi / _DAY) + rng.uniform(0, 6)
    load: FloatArray = (1 + 0.6 * np.sin(day)) * rng.gamma(8.0, 1 / 8.0, n)
    return load


def _decimal_gauge(rng: np.random.Generator, n: int, interval_s: float) -> FloatArray:
    return np.round(rng.uniform(20, 80) + _walk(rng, n, 0.4), 2)


def _int_gauge(rng: np.random.Generator, n: int, interval_s: float) -> FloatArray:
    return np.maximum(np.round(rng.uniform(2, 30) + _walk(rng, n, 0.5)), 0.0)


def _byte_gauge(rng: np.random.Generator, n: int, interval_s: float) -> FloatArray:
    moves = np.where(rng.random(n) < 0.4, rng.normal(0, 20, n), 0.0)
    pages = rng.integers(50_000, 2_000_000) + np.cumsum(np.round(moves))
    size: FloatArray = np.maximum(pages, 0.0) * 4096.0
    return size


def _float_gauge(rng: np.random.Generator, n: int, interval_s: float) -> FloatArray:
    return rng.uniform(0.1, 5.0) * np.exp(_walk(rng, n, 0.05))


def _int_counter(rng: np.random.Generator, n: int, interval_s: float) -> FloatArray:
    per_tick = rng.choice([0.2, 2.0, 20.0, 200.0]) * _traffic(rng, n, interval_s)
    return float(rng.integers(0, 10_000_000)) + np.cumsum(rng.poisson(per_tick))


def _byte_counter(rng: np.random.Generator, n: int, interval_s: float) -> FloatArray:
    packets = rng.poisson(40 * _traffic(rng, n, interval_s))
    size = rng.integers(60, 1500, n)
    return float(rng.integers(0, 10_000_000_000)) + np.cumsum(packets * size)


def _seconds_counter(rng: np.random.Generator, n: int, interval_s: float) -> FloatArray:
    ticks = rng.poisson(interval_s * 100 * 0.05 * _traffic(rng, n, interval_s))
    seconds: FloatArray = np.round(rng.integers(0, 100_000) + np.cumsum(ticks) / 100.0, 2)
    return seconds


def _constant(rng: np.random.Generator, n: int, interval_s: float) -> FloatArray:
    return np.full(n, float(rng.choice([0.0, 1.0, 4096.0, 8_326_103_040.0])))


def _rare(rng: np.random.Generator, n: int, interval_s: float) -> FloatArray:
    return float(rng.integers(0, 50)) + np.cumsum(rng.random(n) < 0.005, dtype=np.float64)


def _le_bucket(rng: np.random.Generator, n: int, interval_s: float) -> FloatArray:
    per_tick = rng.choice([0.02, 0.2, 1.0, 3.0]) * _traffic(rng, n, interval_s)
    return float(rng.integers(0, 100_000)) + np.cumsum(rng.poisson(per_tick))


KINDS: tuple[SeriesKind, ...] = (
    SeriesKind("decimal gauge", 0.12, False, _decimal_gauge),
    SeriesKind("int gauge", 0.08, False, _int_gauge),
    SeriesKind("byte gauge", 0.08, False, _byte_gauge),
    SeriesKind("float gauge", 0.04, False, _float_gauge),
    SeriesKind("int counter", 0.15, True, _int_counter),
    SeriesKind("byte counter", 0.05, True, _byte_counter),
    SeriesKind("seconds counter", 0.08, True, _seconds_counter),
    SeriesKind("constant", 0.18, False, _constant),
    SeriesKind("rare change", 0.10, False, _rare),
    SeriesKind("le bucket", 0.12, True, _le_bucket),
)


def matrix(
    kind: SeriesKind, rows: int, n: int, interval_s: float = 10.0, seed: int = 1
) -> FloatArray:
    """``[rows, n]`` samples of one kind; the same arguments give the same samples."""
    rng = np.random.default_rng([seed, KINDS.index(kind)])
    return np.stack([kind.generate(rng, n, interval_s) for _ in range(rows)])


def mix(
    rows: int, n: int, interval_s: float = 10.0, seed: int = 1
) -> Iterator[tuple[SeriesKind, FloatArray]]:
    """The kinds with ``rows`` series in all, shared out by :attr:`SeriesKind.share`."""
    for kind in KINDS:
        yield kind, matrix(kind, max(1, round(rows * kind.share)), n, interval_s, seed)


def regular_times(n: int, interval_ms: int = 10_000, jitter_ms: int = 0, seed: int = 1) -> IntArray:
    """``n`` rising times from the start of a UTC day, each off by up to ``jitter_ms``."""
    start = 1_767_225_600_000
    ts = start + interval_ms * np.arange(1, n + 1, dtype=np.int64)
    if jitter_ms:
        ts += np.random.default_rng(seed).integers(-jitter_ms, jitter_ms + 1, n)
    return ts
