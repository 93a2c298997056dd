"""Puts what was read of tiers and samples into the shapes that PromQL's engine works on."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..storage.frame import BoolArray, FloatArray, Frame, IntArray, is_absent
from .promql.cells import Cells, Column, Fact, Rounding, cells_of
from .promql.samples import Samples
from .tier_reader import Part, Strip

#: What :func:`lasting_samples` and :func:`pseudo_samples` need of a bucket.
LASTING = ("last", "last_ms", "stale_after_ms")
PSEUDO = ("last", "last_ms")


def bucket_cells(strip: Strip, facts: frozenset[Fact], rounding: Rounding | None) -> Cells:
    """Return cells for window functions."""
    columns: dict[Fact, Column] = {fact: _joined(strip, fact) for fact in facts}
    labels = [series.labels for series in strip.series]
    return cells_of(labels, _ends(strip), _counts(strip), columns, rounding)


def lasting_samples(strip: Strip, lookback_ms: int) -> Samples:
    """
    Return samples, of buckets the last one, each with the time until which it is the latest value.

    At the end of a bucket that is what the samples would say: a value not older than the lookback
    and no stale marker since. In between, a series whose last sample is that near to the end of its
    bucket is taken to go on until the next bucket ends.
    """
    present = _counts(strip) > 0
    values, times = _joined(strip, "last"), _joined(strip, "last_ms")
    until = np.concatenate(
        [_until(part, after, lookback_ms) for part, after in _with_next(strip.parts)], axis=1
    )
    labels = [series.labels for series in strip.series]
    nameless = np.zeros(len(labels), bool)
    if present.all() and (times == times[0]).all():
        return Samples(labels, nameless, times[0], values, until_ms=until)
    counts = np.count_nonzero(present, axis=1).astype(np.int64)
    places = np.arange(int(counts.max(initial=0))) < counts[:, None]

    def left(column: Column) -> Column:
        moved = np.zeros(places.shape, column.dtype)
        moved[places] = column[present]
        return moved

    return Samples(labels, nameless, left(times), left(values), counts, until_ms=left(until))


def pseudo_samples(strip: Strip, min_ms: int, max_ms: int) -> Iterator[Frame]:
    """Yield samples of a range of time, of buckets the last one."""
    values = _joined(strip, "last")
    if not any(part.width_ms for part in strip.parts):
        yield Frame(strip.series, _ends(strip), values, bool(is_absent(values).any()))
        return
    times = _joined(strip, "last_ms")
    inside: BoolArray = (_counts(strip) > 0) & (times >= min_ms) & (times <= max_ms)
    for row, series in enumerate(strip.series):
        here = inside[row]
        if here.any():
            yield Frame((series,), times[row, here], values[row, here].reshape(1, -1), False)


def _with_next(parts: list[Part]) -> Iterator[tuple[Part, int]]:
    """Yield each part with the width of the buckets that come after it, 0 if there are none."""
    for part, after in zip(parts, [*parts[1:], None], strict=True):
        yield part, 0 if after is None else after.width_ms


def _until(part: Part, width_after_ms: int, lookback_ms: int) -> IntArray:
    last_ms, stale_after_ms = part.columns["last_ms"], part.columns["stale_after_ms"]
    until: IntArray = last_ms + lookback_ms
    if part.width_ms:
        next_ms = part.end_ms + part.width_ms
        next_ms[-1:] += width_after_ms - part.width_ms
        goes_on = part.end_ms - last_ms < lookback_ms
        until = np.maximum(until, np.where(goes_on, next_ms, 0))
        until = np.where(stale_after_ms > 0, np.minimum(until, last_ms + stale_after_ms), until)
    return until


def _ends(strip: Strip) -> IntArray:
    return np.concatenate([part.end_ms for part in strip.parts])


def _counts(strip: Strip) -> FloatArray:
    return np.concatenate([part.count for part in strip.parts], axis=1)


def _joined(strip: Strip, name: str) -> Column:
    columns = [part.columns[name] for part in strip.parts]
    return columns[0] if len(columns) == 1 else np.concatenate(columns, axis=1)
