"""How much a series changed over a window: ``rate``, ``increase``, ``delta``, ``changes`` …"""

from __future__ import annotations

from typing import Final

import numpy as np

from ...storage.frame import BoolArray, FloatArray, IntArray
from .over_time import Answer, RangeFunction
from .windows import Windows, correct_resets, pick

#: A gap at a window's edge longer than this many sampling intervals means that the series began or
#: ended there; upstream's constant.
_EDGE_INTERVALS: Final = 1.1


def rate(windows: Windows) -> Answer:
    return _extrapolated(windows, is_counter=True, per_second=True)


def increase(windows: Windows) -> Answer:
    return _extrapolated(windows, is_counter=True, per_second=False)


def delta(windows: Windows) -> Answer:
    return _extrapolated(windows, is_counter=False, per_second=False)


def _extrapolated(windows: Windows, *, is_counter: bool, per_second: bool) -> Answer:
    """
    Scale the change between a window's first and last sample up to the whole window.

    Source: Prometheus documentation, "Query functions"; the edges follow the conformance scripts.
    """
    if windows.extension:
        return _interpolated(windows, is_counter=is_counter, per_second=per_second)
    first_values = windows.first()
    change = windows.last() - first_values
    if is_counter:
        windows.add_resets(change)
    first_ms, last_ms = windows.first_ms(), windows.last_ms()
    sampled = (last_ms - first_ms) / 1000
    interval = sampled / (windows.numbers - 1)
    to_start = (first_ms - windows.start_ms) / 1000
    to_end = (windows.end_ms - last_ms) / 1000
    to_end = np.where(to_end >= _EDGE_INTERVALS * interval, interval / 2, to_end)
    begins_inside = to_start >= _EDGE_INTERVALS * interval
    if is_counter:
        # A counter cannot have been below zero: don't go back beyond where it would have been 0.
        to_zero = sampled * (first_values / change)
        cut = (change > 0) & (first_values >= 0)
        if windows.left_closed:
            # Prometheus 2 compares the shortened gap with the limit, not the gap itself.
            to_start = np.where(cut & (to_zero < to_start), to_zero, to_start)
            to_start = np.where(to_start >= _EDGE_INTERVALS * interval, interval / 2, to_start)
        else:
            to_start = np.where(begins_inside, interval / 2, to_start)
            to_start = np.where(cut & (to_zero < to_start), to_zero, to_start)
    else:
        to_start = np.where(begins_inside, interval / 2, to_start)
    factor = (sampled + to_start + to_end) / sampled
    if per_second:
        return change * (factor / windows.range_s), windows.masked(2)
    return windows.scaled(change * factor), windows.masked(2)


def irate(windows: Windows) -> Answer:
    last = windows.high - 1
    before, value = windows.pick(last - 1), windows.pick(last)
    # After a reset the counter started from 0.
    change = np.where(value < before, value, value - before)
    seconds = (windows.pick_ms(last) - windows.pick_ms(last - 1)) / 1000
    return change / seconds, windows.masked(2)


def idelta(windows: Windows) -> Answer:
    last = windows.high - 1
    return windows.pick(last) - windows.pick(last - 1), windows.masked(2)


def changes(windows: Windows) -> Answer:
    values = windows.samples.values
    differs = values[:, 1:] != values[:, :-1]
    if np.isnan(values.sum()):
        differs &= ~(np.isnan(values[:, 1:]) & np.isnan(values[:, :-1]))
    return _count_between(windows, differs)


def resets(windows: Windows) -> Answer:
    values = windows.samples.values
    return _count_between(windows, values[:, 1:] < values[:, :-1])


def _count_between(windows: Windows, events: BoolArray) -> Answer:
    """Count what happens between neighbouring samples of a window."""
    rows, width = windows.samples.values.shape
    upto = np.zeros((rows, max(width, 1)))  # counts below 2**53 are exact in floats
    np.cumsum(events, axis=1, out=upto[:, 1:])
    first, last, mask = windows.low, windows.high - 1, windows.masked(1)
    if windows.extension:
        # Anchored: the last sample before the window counts as its first one.
        anchored, at_start = _reach(windows)
        first = np.maximum(anchored, at_start - 1)
    return pick(upto, last) - pick(upto, first), mask


# -- anchored and smoothed -----------------------------------------------------------------------


def _reach(windows: Windows) -> tuple[IntArray, IntArray]:
    """First sample within reach of each window, and how many lie at or before its start."""
    samples = windows.samples
    return samples.upto(windows.start_ms - windows.reach_ms), samples.upto(windows.start_ms)


def _interpolated(windows: Windows, *, is_counter: bool, per_second: bool) -> Answer:
    """
    The change between a window's very edges.

    ``anchored`` takes the last samples at or before each edge, ``smoothed`` draws a line between
    the samples around it; nothing is extrapolated. Source: Prometheus proposal 52.
    """
    smoothed = windows.extension == "smoothed"
    samples, start_ms, end_ms = windows.samples, windows.start_ms, windows.end_ms
    reach, at_start = _reach(windows)
    first = np.maximum(reach, at_start - 1)
    if smoothed:
        behind = samples.upto(end_ms + windows.reach_ms)
        last = np.minimum(samples.upto(end_ms - 1), behind - 1)
    else:
        behind = samples.upto(end_ms)
        last = behind - 1
    first_ms, last_ms = windows.pick_ms(first), windows.pick_ms(last)
    exists = (behind > reach) & (last_ms > start_ms) & (first_ms <= end_ms)
    left, right = windows.pick(first), windows.pick(last)
    if smoothed:
        after, before = windows.pick(first + 1), windows.pick(last - 1)
        left = np.where(
            first_ms < start_ms,
            _line(left, after, first_ms, windows.pick_ms(first + 1), start_ms, is_counter, True),
            left,
        )
        right = np.where(
            (last > reach) & (last_ms > end_ms),
            _line(before, right, windows.pick_ms(last - 1), last_ms, end_ms, is_counter, False),
            right,
        )
    change = right - left
    if is_counter:
        inner = first + (first_ms <= start_ms)
        inner_last = last - (last_ms >= end_ms)
        any_inside = inner <= inner_last
        inner_values, inner_last_values = windows.pick(inner), windows.pick(inner_last)
        change = change + np.where(any_inside & (inner_values < left), left, 0.0)
        correct_resets(samples.values, inner, np.maximum(inner_last, inner), change)
        previous = np.where(any_inside, inner_last_values, left)
        change = change + np.where(right < previous, previous, 0.0)
    if per_second:
        change = change / windows.range_s
    return change, np.broadcast_to(exists, windows.shape)


def _line(
    before: FloatArray,
    after: FloatArray,
    before_ms: IntArray,
    after_ms: IntArray,
    at_ms: IntArray,
    is_counter: bool,
    left_edge: bool,
) -> FloatArray:
    """The value between two samples; of a counter that restarted between them it starts at 0."""
    if is_counter:
        restarted = after < before
        if left_edge:
            before = np.where(restarted, 0.0, before)
        else:
            after = np.where(restarted, after + before, after)
    weight = (at_ms - before_ms) / np.maximum(after_ms - before_ms, 1)
    result: FloatArray = before + (after - before) * weight
    return result


#: Functions of windows alone, by name.
RATES: Final[dict[str, RangeFunction]] = {
    function.__name__: function
    for function in (changes, delta, idelta, increase, irate, rate, resets)
}
