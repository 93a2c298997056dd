"""Functions by name: how each gets its arguments and what it makes of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

import numpy as np

from ...config.selector import MatchOp
from ...storage.frame import BoolArray, FloatArray, IntArray
from ...storage.model import METRIC_NAME, Labels
from . import histograms, over_time
from .cells import FACTS
from .errors import ExecutionError
from .info import InfoQuery
from .invariance import selected_times
from .label_functions import check_label, replacer, sorted_by_labels, with_label
from .literals import format_number
from .math_functions import DATES, MATH, larger, round_to, smaller
from .nodes import Call, Expr, MatrixSelector, VectorSelector, unwrap
from .over_time import OVER_TIME, RangeFunction
from .rates import RATES
from .signatures import NATIVE_FUNCTIONS
from .values import Block, Grid, merged, named, without_empty_rows

if TYPE_CHECKING:
    from .evaluator import Evaluator

Blocks = Iterator[Block]
VectorCall = Callable[["Evaluator", Call, Grid], Blocks]
ScalarCall = Callable[["Evaluator", Call, Grid], FloatArray]
OfTwo = Callable[[FloatArray, FloatArray], FloatArray]

#: Functions of one range vector and nothing else.
RANGE_CALLS: Final[dict[str, RangeFunction]] = OVER_TIME | RATES


# -- scalars -----------------------------------------------------------------------------------


def _time(_: Evaluator, __: Call, grid: Grid) -> FloatArray:
    return grid.ts_ms / 1000


def _pi(_: Evaluator, __: Call, grid: Grid) -> FloatArray:
    return np.full(grid.steps, math.pi)


def _scalar(evaluator: Evaluator, node: Call, grid: Grid) -> FloatArray:
    """The value of the only series, or NaN if there is not exactly one."""
    count = np.zeros(grid.steps, np.int64)
    value = np.zeros(grid.steps)
    for block in evaluator.vector(node.args[0], grid):
        count += np.count_nonzero(block.mask, axis=0)
        value = np.where(
            block.mask.any(axis=0), np.where(block.mask, block.values, 0).sum(axis=0), value
        )
    return np.where(count == 1, value, np.nan)


def _query_time(part: str) -> ScalarCall:
    def call(evaluator: Evaluator, _: Call, grid: Grid) -> FloatArray:
        query = evaluator.query
        ms = {
            "start": query.start_ms,
            "end": query.end_ms,
            "range": query.end_ms - query.start_ms,
            "step": query.step_ms,
        }[part]
        return np.full(grid.steps, ms / 1000)

    return call


def _of_two(function: OfTwo) -> ScalarCall:
    def call(evaluator: Evaluator, node: Call, grid: Grid) -> FloatArray:
        a, b = (evaluator.scalar(arg, grid) for arg in node.args)
        return function(a, b)

    return call


#: Functions that return a scalar.
SCALAR_CALLS: Final[dict[str, ScalarCall]] = {
    "time": _time,
    "pi": _pi,
    "scalar": _scalar,
    "start": _query_time("start"),
    "end": _query_time("end"),
    "range": _query_time("range"),
    "step": _query_time("step"),
    "min_of": _of_two(smaller),
    "max_of": _of_two(larger),
}


# -- one value at a time -----------------------------------------------------------------------


def _mapping(
    evaluator: Evaluator, node: Call, grid: Grid, function: Callable[[FloatArray], FloatArray]
) -> Blocks:
    """Apply a function to each value of the first argument."""
    source = node.args[0]
    blocks = (
        block.mapped(function(block.values), nameless=True)
        for block in evaluator.vector(source, grid)
    )
    return evaluator.unnamed(blocks, source, grid)


def _math(name: str) -> VectorCall:
    return lambda evaluator, node, grid: _mapping(evaluator, node, grid, MATH[name])


def _date(name: str) -> VectorCall:
    def call(evaluator: Evaluator, node: Call, grid: Grid) -> Blocks:
        part = DATES[name]
        if node.args:
            return _mapping(evaluator, node, grid, lambda values: part(values).astype(np.float64))
        return iter((_lone(part(grid.ts_ms / 1000).astype(np.float64)),))

    return call


def _lone(values: FloatArray) -> Block:
    """A vector of one series without labels."""
    return named([Labels()], values[None, :], np.ones((1, len(values)), bool))


def _vector(evaluator: Evaluator, node: Call, grid: Grid) -> Blocks:
    yield _lone(evaluator.scalar(node.args[0], grid))


def _round(evaluator: Evaluator, node: Call, grid: Grid) -> Blocks:
    nearest = evaluator.scalar(node.args[1], grid) if len(node.args) > 1 else np.ones(grid.steps)
    return _mapping(evaluator, node, grid, lambda values: round_to(values, nearest))


def _clamp(evaluator: Evaluator, node: Call, grid: Grid) -> Blocks:
    low, high = (evaluator.scalar(arg, grid) for arg in node.args[1:])
    possible = ~(high < low)
    source = node.args[0]

    def blocks() -> Blocks:
        for block in evaluator.vector(source, grid):
            result = block.mapped(larger(low, smaller(high, block.values)), nameless=True)
            result.mask = result.mask & possible
            yield without_empty_rows(result)

    return evaluator.unnamed(blocks(), source, grid)


def _clamp_one(function: OfTwo) -> VectorCall:
    def call(evaluator: Evaluator, node: Call, grid: Grid) -> Blocks:
        bound = evaluator.scalar(node.args[1], grid)
        return _mapping(evaluator, node, grid, lambda values: function(values, bound))

    return call


def _timestamp(evaluator: Evaluator, node: Call, grid: Grid) -> Blocks:
    """When the samples of a selector were taken; for all else the time of evaluation."""
    source = node.args[0]
    selector = unwrap(source)

    def blocks() -> Blocks:
        if isinstance(selector, VectorSelector) and not selector.extension:
            for block, taken_ms in evaluator.instant(selector, grid):
                times = np.broadcast_to(taken_ms / 1000, block.values.shape)
                yield block.mapped(times, nameless=True)
        else:
            for block in evaluator.vector(source, grid):
                times = np.broadcast_to(grid.ts_ms / 1000, block.values.shape)
                yield block.mapped(times, nameless=True)

    return evaluator.unnamed(blocks(), source, grid)


def _native(evaluator: Evaluator, node: Call, grid: Grid) -> Blocks:
    evaluator.notes.no_native_histograms(f"{node.func.name}()", node)
    for _ in evaluator.vector(node.args[0], grid):
        pass  # floats make no histogram, but errors in evaluating them are still errors
    return iter(())


# -- whole vectors -----------------------------------------------------------------------------


def _absent(evaluator: Evaluator, node: Call, grid: Grid) -> Blocks:
    present = np.zeros(grid.steps, bool)
    for block in evaluator.vector(node.args[0], grid):
        present |= block.mask.any(axis=0)
    yield from _absence(node.args[0], present)


def _absent_over_time(evaluator: Evaluator, node: Call, grid: Grid) -> Blocks:
    present = np.zeros(grid.steps, bool)
    for windows in evaluator.windows(node.args[0], grid, FACTS["absent_over_time"]):
        present |= windows.masked(1).any(axis=0)
    yield from _absence(node.args[0], present)


def _absence(source: Expr, present: BoolArray) -> Blocks:
    if not present.all():
        yield named([_sought_labels(source)], np.ones((1, len(present))), ~present[None, :])


def _sought_labels(expr: Expr) -> Labels:
    """The labels that a series would surely have had."""
    selector = expr.vector if isinstance(expr, MatrixSelector) else expr
    if not isinstance(selector, VectorSelector):
        return Labels()
    found: dict[str, str] = {}
    seen: set[str] = set()
    for matcher in selector.matchers:
        if matcher.name == METRIC_NAME:
            continue
        if matcher.op is MatchOp.EQUAL and matcher.name not in seen:
            found[matcher.name] = matcher.value
            seen.add(matcher.name)
        else:
            # Asked for twice, or not for one value: nobody knows which it would have been.
            found.pop(matcher.name, None)
    return Labels.of(found)


def _sort(*, down: bool) -> VectorCall:
    def call(evaluator: Evaluator, node: Call, grid: Grid) -> Blocks:
        if evaluator.query.is_range:
            evaluator.notes.useless_sort(node.func.name, node)
        with evaluator.gathered(node.args[0], grid) as block:
            if evaluator.query.is_range or grid.steps != 1:
                yield block
                return
            values = -block.values[:, 0] if down else block.values[:, 0]
            yield block.chosen(np.lexsort((values, np.isnan(values))))

    return call


def _sort_by_label(*, down: bool) -> VectorCall:
    def call(evaluator: Evaluator, node: Call, grid: Grid) -> Blocks:
        names = [evaluator.text(arg) for arg in node.args[1:]]
        for name in names:
            check_label(name, "", node.func.name, legacy=evaluator.query.legacy_names)
        if evaluator.query.is_range:
            evaluator.notes.useless_sort(node.func.name, node)
        with evaluator.gathered(node.args[0], grid) as block:
            labels = evaluator.naming.visible(block)
            order = sorted_by_labels(labels, names, down=down)
            yield block.chosen(np.array(order, np.int64))

    return call


def _relabeled(evaluator: Evaluator, node: Call, grid: Grid, name: str, change: _Change) -> Blocks:
    """Give a label a value that depends on the others; ``None`` leaves it as it is."""
    with evaluator.gathered(node.args[0], grid) as block:
        block = evaluator.naming.resolved(block)
        values = [change(labels) for labels in block.labels]
        labels = [
            old if value is None else with_label(old, name, value)
            for old, value in zip(block.labels, values, strict=True)
        ]
        nameless = block.nameless
        if name == METRIC_NAME:
            nameless = nameless & np.array([value is None for value in values], bool)
        yield merged(Block(labels, block.values, block.mask, nameless))


_Change = Callable[[Labels], str | None]


def _label_replace(evaluator: Evaluator, node: Call, grid: Grid) -> Blocks:
    target, replacement, source, pattern = (evaluator.text(arg) for arg in node.args[1:])
    replace = replacer(pattern, replacement)
    check_label(target, "destination", "label_replace", legacy=evaluator.query.legacy_names)
    known: dict[str, str | None] = {}

    def change(labels: Labels) -> str | None:
        value = labels.get(source)
        if value not in known:
            known[value] = replace(value)
        return known[value]

    return _relabeled(evaluator, node, grid, target, change)


def _label_join(evaluator: Evaluator, node: Call, grid: Grid) -> Blocks:
    target, separator, *sources = (evaluator.text(arg) for arg in node.args[1:])
    legacy = evaluator.query.legacy_names
    for source in sources:
        check_label(source, "source", "label_join", legacy=legacy)
    check_label(target, "destination", "label_join", legacy=legacy)
    return _relabeled(
        evaluator,
        node,
        grid,
        target,
        lambda labels: separator.join(labels.get(source) for source in sources),
    )


def _info(evaluator: Evaluator, node: Call, grid: Grid) -> Blocks:
    base, *rest = node.args
    query = InfoQuery(rest[0].matchers if rest and isinstance(rest[0], VectorSelector) else ())
    # Info metrics count as of the times that the other series were looked up at.
    times_of = selected_times(base)
    times = grid.ts_ms if times_of is None else evaluator.times(grid, times_of.at, times_of.offset)
    with evaluator.gathered(base, grid) as block:
        found = evaluator.selection.instant(query.matchers, times)
        yield query.enrich(block, found)


# -- ranges with parameters --------------------------------------------------------------------


def _predict_linear(evaluator: Evaluator, node: Call, grid: Grid) -> Blocks:
    ahead_s = evaluator.scalar(node.args[1], grid)
    return evaluator.over_windows(
        node, node.args[0], lambda windows: over_time.predict_linear(windows, ahead_s), grid
    )


def _quantile_over_time(evaluator: Evaluator, node: Call, grid: Grid) -> Blocks:
    phi = evaluator.scalar(node.args[0], grid)
    evaluator.warn_of_quantiles(phi, node.args[0])
    return evaluator.over_windows(
        node, node.args[1], lambda windows: over_time.quantile_over_time(windows, phi), grid
    )


def _double_exponential_smoothing(evaluator: Evaluator, node: Call, grid: Grid) -> Blocks:
    factors = []
    for arg, word in zip(node.args[1:], ("smoothing", "trend"), strict=True):
        factor = evaluator.scalar(arg, grid)
        bad = np.flatnonzero(~((factor >= 0) & (factor <= 1)))
        if len(bad):
            letter = word[0]
            raise ExecutionError(
                f"invalid {word} factor. Expected: 0 <= {letter}f <= 1, got: {factor[bad[0]]:f}"
            )
        factors.append(factor)
    smoothing, trend = factors
    return evaluator.over_windows(
        node,
        node.args[0],
        lambda windows: over_time.double_exponential_smoothing(windows, smoothing, trend),
        grid,
    )


# -- histograms --------------------------------------------------------------------------------


def _histogram(
    evaluator: Evaluator, source: Expr, grid: Grid, calculate: histograms.Calculation
) -> Blocks:
    with evaluator.gathered(source, grid) as block:
        result = histograms.evaluate(
            block, grid, evaluator.naming, evaluator.notes, source, calculate
        )
        yield merged(evaluator.naming.resolved(result))


def _histogram_quantile(evaluator: Evaluator, node: Call, grid: Grid) -> Blocks:
    phi = evaluator.scalar(node.args[0], grid)
    evaluator.warn_of_quantiles(phi, node.args[0])

    def calculate(buckets: histograms.Buckets, steps: IntArray) -> FloatArray:
        return histograms.histogram_quantile(buckets, phi[steps])

    return _histogram(evaluator, node.args[1], grid, calculate)


def _histogram_fraction(evaluator: Evaluator, node: Call, grid: Grid) -> Blocks:
    lower, upper = (evaluator.scalar(arg, grid) for arg in node.args[:2])

    def calculate(buckets: histograms.Buckets, steps: IntArray) -> FloatArray:
        return histograms.histogram_fraction(buckets, lower[steps], upper[steps])

    return _histogram(evaluator, node.args[2], grid, calculate)


def _histogram_quantiles(evaluator: Evaluator, node: Call, grid: Grid) -> Blocks:
    source, label, *params = node.args
    name = evaluator.text(label)
    check_label(name, "", "histogram_quantiles", legacy=evaluator.query.legacy_names)
    with evaluator.gathered(source, grid) as block:
        for param in params:
            phi = evaluator.scalar(param, grid)
            evaluator.warn_of_quantiles(phi, param)

            def calculate(
                buckets: histograms.Buckets, steps: IntArray, phi: FloatArray = phi
            ) -> FloatArray:
                return histograms.histogram_quantile(buckets, phi[steps])

            result = histograms.evaluate(
                block, grid, evaluator.naming, evaluator.notes, source, calculate
            )
            result = merged(evaluator.naming.resolved(result))
            if any(labels.get(name) for labels in result.labels):
                raise ExecutionError(f"label {name} already exists in the input vector")
            text = format_number(float(phi[0])) if len(phi) else ""
            labels = [with_label(labels, name, text) for labels in result.labels]
            yield Block(labels, result.values, result.mask, result.nameless)


#: Functions that return a vector and are more than a function of windows.
VECTOR_CALLS: Final[dict[str, VectorCall]] = {
    **{name: _math(name) for name in MATH},
    **{name: _date(name) for name in DATES},
    **dict.fromkeys(NATIVE_FUNCTIONS, _native),
    "absent": _absent,
    "absent_over_time": _absent_over_time,
    "clamp": _clamp,
    "clamp_max": _clamp_one(smaller),
    "clamp_min": _clamp_one(larger),
    "double_exponential_smoothing": _double_exponential_smoothing,
    "histogram_fraction": _histogram_fraction,
    "histogram_quantile": _histogram_quantile,
    "histogram_quantiles": _histogram_quantiles,
    "holt_winters": _double_exponential_smoothing,
    "info": _info,
    "label_join": _label_join,
    "label_replace": _label_replace,
    "predict_linear": _predict_linear,
    "quantile_over_time": _quantile_over_time,
    "round": _round,
    "sort": _sort(down=False),
    "sort_by_label": _sort_by_label(down=False),
    "sort_by_label_desc": _sort_by_label(down=True),
    "sort_desc": _sort(down=True),
    "timestamp": _timestamp,
    "vector": _vector,
}
