"""Functions of one range vector that look at its samples one by one: ``*_over_time``, trends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

from ...storage.frame import BoolArray, FloatArray, IntArray
from .windows import WindowMatrix, Windows, fold, window_matrices

#: Values and which of them exist, both ``[rows, steps]``.
Answer = tuple[FloatArray, BoolArray]
RangeFunction = Callable[[Windows], Answer]

#: Beyond this ratio of a sum's parts to the sum itself, pairwise adding may lose so many digits
#: that the exact loop is worth its price; up to it at least 12 digits are right.
_CANCELLATION: Final = 1e3
#: A power of two: scaling by it changes no digit, and sums of 2**64 values cannot overflow then.
_SCALE: Final = 2.0**-64


def count_over_time(windows: Windows) -> Answer:
    counts = np.broadcast_to(windows.numbers, windows.shape)
    return windows.scaled(counts), windows.masked(1)


def present_over_time(windows: Windows) -> Answer:
    return np.ones(windows.shape), windows.masked(1)


def last_over_time(windows: Windows) -> Answer:
    return windows.last(), windows.masked(1)


def first_over_time(windows: Windows) -> Answer:
    return windows.first(), windows.masked(1)


def ts_of_last_over_time(windows: Windows) -> Answer:
    times = windows.last_ms() / 1000
    return np.broadcast_to(times, windows.shape), windows.masked(1)


def ts_of_first_over_time(windows: Windows) -> Answer:
    times = windows.first_ms() / 1000
    return np.broadcast_to(times, windows.shape), windows.masked(1)


# fmin and fmax pass over NaN as long as there is another value, as upstream does.


def min_over_time(windows: Windows) -> Answer:
    values = fold(np.fmin, windows.minima, windows.low, windows.high, np.nan)
    return values, windows.masked(1)


def max_over_time(windows: Windows) -> Answer:
    values = fold(np.fmax, windows.maxima, windows.low, windows.high, np.nan)
    return values, windows.masked(1)


def sum_over_time(windows: Windows) -> Answer:
    return windows.scaled(_sums(windows)), windows.masked(1)


def avg_over_time(windows: Windows) -> Answer:
    numbers = np.broadcast_to(windows.numbers, windows.shape)
    means: FloatArray = _sums(windows) / numbers
    # A sum may overflow where the mean does not.
    lost = ~np.isfinite(means) & (numbers > 0)
    if lost.any():
        scaled = _exact_sums(windows, lost, _SCALE) / numbers / _SCALE
        means = np.where(lost, scaled, means)
    return means, windows.masked(1)


def _sums(windows: Windows) -> FloatArray:
    """Sums of windows, precise even where large parts cancel each other."""
    addends, low, high = windows.addends, windows.low, windows.high
    sums = fold(np.add, addends, low, high, 0.0)
    if not addends.size or np.fmin.reduce(addends, axis=None) >= 0:
        return sums
    parts = fold(np.add, np.abs(addends), low, high, 0.0)
    doubtful = (parts > _CANCELLATION * np.abs(sums)) & np.isfinite(parts)
    if doubtful.any():
        return np.where(doubtful, _exact_sums(windows, doubtful, 1.0), sums)
    return sums


def _exact_sums(windows: Windows, wanted: BoolArray, scale: float) -> FloatArray:
    """
    Sum windows one by one with Neumaier's compensation, the way upstream does.

    Args:
        wanted: ``[rows, steps]``, the windows to sum; the others stay 0.
        scale: Multiply all values by this first.
    """
    result = np.zeros(windows.shape)
    rows, steps = np.nonzero(wanted)
    low = np.broadcast_to(windows.low, windows.shape)[rows, steps]
    high = np.broadcast_to(windows.high, windows.shape)[rows, steps]
    total, lost = np.zeros(len(rows)), np.zeros(len(rows))
    for offset in range(int((high - low).max(initial=0))):
        windows.check()
        column = low + offset
        inside = column < high
        value = windows.addends[rows, np.where(inside, column, low)]
        value = np.where(inside, value * scale, 0.0)
        total, lost = compensated_add(total, lost, value)
    result[rows, steps] = total + lost
    return result


def compensated_add(
    total: FloatArray, lost: FloatArray, value: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """
    Add to a running sum, keeping what rounding takes away in ``lost``.

    An infinite total has lost nothing. Source: Neumaier's variant of Kahan's summation.
    """
    new = total + value
    larger = np.abs(total) >= np.abs(value)
    error = np.where(larger, (total - new) + value, (value - new) + total)
    return new, np.where(np.isinf(new), 0.0, lost + error)


# -- what needs all samples of a window at once ------------------------------------------------


def _each_window(
    windows: Windows, least: int, function: Callable[[WindowMatrix], FloatArray]
) -> Answer:
    values = np.zeros(windows.shape)
    for matrix in window_matrices(windows):
        values[matrix.rows, matrix.steps] = function(matrix)
    return values, windows.masked(least)


def stdvar_over_time(windows: Windows) -> Answer:
    return _each_window(windows, 1, _variance)


def stddev_over_time(windows: Windows) -> Answer:
    values, mask = stdvar_over_time(windows)
    return np.sqrt(values), mask


def _variance(matrix: WindowMatrix) -> FloatArray:
    # Relative to the first sample, so that equal samples give exactly 0.
    deviations = np.where(matrix.inside, matrix.values - matrix.values[..., :1], 0.0)
    means = deviations.sum(axis=-1) / matrix.counts
    squares = np.where(matrix.inside, (deviations - means[..., None]) ** 2, 0.0)
    result: FloatArray = squares.sum(axis=-1) / matrix.counts
    return result


def mad_over_time(windows: Windows) -> Answer:
    return _each_window(windows, 1, _median_deviation)


def _median_deviation(matrix: WindowMatrix) -> FloatArray:
    half = np.full(matrix.values.shape[:2], 0.5)
    medians = _quantiles(matrix, matrix.values, half)
    result = _quantiles(matrix, np.abs(matrix.values - medians[..., None]), half)
    # A NaN would sort first and might shift the medians; here it spoils them.
    nans = (np.isnan(matrix.values) & matrix.inside).any(axis=-1)
    return np.where(nans, np.nan, result)


def quantile_over_time(windows: Windows, quantiles: FloatArray) -> Answer:
    """Quantiles of windows; ``quantiles`` are those of each step."""
    return _each_window(
        windows,
        1,
        lambda matrix: _quantiles(
            matrix,
            matrix.values,
            np.broadcast_to(quantiles[matrix.steps], matrix.values.shape[:2]),
        ),
    )


def _quantiles(matrix: WindowMatrix, values: FloatArray, quantiles: FloatArray) -> FloatArray:
    counts = np.broadcast_to(matrix.counts, quantiles.shape)
    ordered = np.sort(np.where(matrix.inside, values, np.nan), axis=-1)
    numbers = np.count_nonzero(~np.isnan(ordered), axis=-1)
    return sorted_quantiles(ordered, numbers, counts, quantiles)


def sorted_quantiles(
    ordered: FloatArray, numbers: IntArray, counts: IntArray, quantiles: FloatArray
) -> FloatArray:
    """
    Interpolate quantiles of sorted values.

    NaNs count as the smallest values though they were sorted to the end; a quantile below 0 is
    -Inf, above 1 +Inf.

    Args:
        ordered: ``[..., width]``, NaNs and cells without a value last.
        numbers: ``[...]``, how many values are numbers.
        counts: ``[...]``, how many values there are, NaNs included.
        quantiles: ``[...]``.
    """
    nans = counts - numbers
    rank = quantiles * (counts - 1)
    safe = np.where(np.isfinite(rank), rank, 0.0)
    lower = np.clip(np.floor(safe), 0, np.maximum(counts - 1, 0)).astype(np.int64)
    upper = np.minimum(lower + 1, np.maximum(counts - 1, 0))
    weight = safe - np.floor(safe)

    def at(index: IntArray) -> FloatArray:
        place = np.clip(index - nans, 0, ordered.shape[-1] - 1)
        found = np.take_along_axis(ordered, place[..., None], axis=-1)[..., 0]
        return np.where(index < nans, np.nan, found)

    result = at(lower) * (1 - weight) + at(upper) * weight
    result = np.where(quantiles < 0, -np.inf, np.where(quantiles > 1, np.inf, result))
    return np.where(np.isnan(quantiles) | (counts == 0), np.nan, result)


def ts_of_min_over_time(windows: Windows) -> Answer:
    return _each_window(windows, 1, lambda matrix: _time_of(matrix, -matrix.values))


def ts_of_max_over_time(windows: Windows) -> Answer:
    return _each_window(windows, 1, lambda matrix: _time_of(matrix, matrix.values))


def _time_of(matrix: WindowMatrix, values: FloatArray) -> FloatArray:
    """When the last of the largest values was, in seconds; a NaN is larger than nothing."""
    ranked = np.where(np.isnan(values), -np.inf, values)
    ranked = np.where(matrix.inside, ranked, -np.inf)
    largest = ranked.max(axis=-1, keepdims=True)
    hits = (ranked == largest) & matrix.inside
    last = hits.shape[-1] - 1 - np.argmax(hits[..., ::-1], axis=-1)
    times_ms = np.broadcast_to(matrix.times_ms, matrix.values.shape)
    result: FloatArray = np.take_along_axis(times_ms, last[..., None], axis=-1)[..., 0] / 1000
    return result


# -- trends ------------------------------------------------------------------------------------


def deriv(windows: Windows) -> Answer:
    return _each_window(windows, 2, lambda matrix: _regression(matrix)[0])


def predict_linear(windows: Windows, ahead_s: FloatArray) -> Answer:
    """Extrapolate by least squares; ``ahead_s`` is how far beyond the evaluation, per step."""

    def predict(matrix: WindowMatrix) -> FloatArray:
        slope, intercept = _regression(matrix)
        return slope * ahead_s[matrix.steps] + intercept

    return _each_window(windows, 2, predict)


def _regression(matrix: WindowMatrix) -> tuple[FloatArray, FloatArray]:
    """Least squares through a window: slope per second, and the value at the evaluation."""
    inside, counts = matrix.inside, matrix.counts
    first = matrix.values[..., 0]
    constant = ((matrix.values == first[..., None]) | ~inside).all(axis=-1)
    seconds = np.where(inside, matrix.seconds, 0.0)
    mean_s = seconds.sum(axis=-1) / counts
    values = np.where(inside, matrix.values, 0.0)
    mean = values.sum(axis=-1) / counts
    # Centred first: the textbook's sums of squares would cancel, with times far from zero.
    from_mean_s = np.where(inside, seconds - mean_s[..., None], 0.0)
    covariance = (from_mean_s * np.where(inside, values - mean[..., None], 0.0)).sum(axis=-1)
    slope = covariance / (from_mean_s**2).sum(axis=-1)
    slope = np.where(constant, 0.0, slope)
    intercept = np.where(constant, first, mean - slope * mean_s)
    infinite = constant & np.isinf(first)
    return np.where(infinite, np.nan, slope), np.where(infinite, np.nan, intercept)


def double_exponential_smoothing(
    windows: Windows, smoothing: FloatArray, trend: FloatArray
) -> Answer:
    """Holt's method: level and trend, each with a factor per step."""

    def smooth(matrix: WindowMatrix) -> FloatArray:
        values, steps = matrix.values, matrix.steps
        factor, trend_factor = smoothing[steps], trend[steps]
        width = values.shape[-1]
        before = np.zeros(values.shape[:2])
        level = values[..., 0]
        slope = values[..., 1] - values[..., 0] if width > 1 else np.zeros(values.shape[:2])
        for place in range(1, width):
            windows.check()
            if place > 1:
                changed = trend_factor * (level - before) + (1 - trend_factor) * slope
            else:
                changed = slope
            new = factor * values[..., place] + (1 - factor) * (level + changed)
            inside = matrix.inside[..., place]
            before = np.where(inside, level, before)
            level = np.where(inside, new, level)
            slope = np.where(inside, changed, slope)
        return level

    return _each_window(windows, 2, smooth)


#: Functions of windows alone, by name.
OVER_TIME: Final[dict[str, RangeFunction]] = {
    function.__name__: function
    for function in (
        avg_over_time,
        count_over_time,
        deriv,
        first_over_time,
        last_over_time,
        mad_over_time,
        max_over_time,
        min_over_time,
        present_over_time,
        stddev_over_time,
        stdvar_over_time,
        sum_over_time,
        ts_of_first_over_time,
        ts_of_last_over_time,
        ts_of_max_over_time,
        ts_of_min_over_time,
    )
}
