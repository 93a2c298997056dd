"""
Evaluates expressions at the steps of a grid.

A vector comes as a stream of blocks, so that an aggregation over many series never holds more than
one piece of them. What needs all series at once gathers them first and pays from the budget.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from ...storage.frame import BoolArray, FloatArray, IntArray, distinct
from ...storage.model import METRIC_NAME, Labels
from . import functions, matching
from .aggregators import ACCUMULATORS, Accumulator
from .annotations import Annotations
from .budget import Budget
from .cells import FACTS, Fact
from .durations import to_ms
from .errors import ExecutionError
from .invariance import NAME_KEEPING, is_invariant, mixes_names
from .literals import is_legacy_label_name, is_utf8, quote
from .nodes import (
    COMPARISONS,
    SET_OPERATORS,
    TRIM_OPERATORS,
    Aggregate,
    At,
    Binary,
    Call,
    Duration,
    Expr,
    MatrixSelector,
    NumberLiteral,
    Paren,
    StringLiteral,
    Subquery,
    Unary,
    ValueType,
    VectorSelector,
    spine,
    unwrap,
)
from .operators import elements, scalars
from .over_time import RangeFunction
from .ranking import best, first_rows, members_of, quantiles, sampling_offset, value_counts
from .samples import Samples, packed
from .selection import Selection
from .values import Block, Grid, Naming, count_cells, joined, merged, without_empty_rows
from .windows import Windows

Blocks = Iterator[Block]
#: What makes of a block another one, row by row.
Mapping = Callable[[Block], Block]


@dataclass(frozen=True, slots=True)
class Query:
    """
    What a query asks for and how, the same for all of its parts.

    Attributes:
        text: The query, which positions in messages refer to.
        start_ms: First step of the whole query; ``end_ms`` the last one it was asked for.
        step_ms: 0 for an instant query.
        subquery_step_ms: The step of subqueries that name none.
        legacy_names: Label names follow the old rules.
    """

    text: str
    start_ms: int
    end_ms: int
    step_ms: int
    is_range: bool
    subquery_step_ms: int
    legacy_names: bool


class Evaluator:
    """Evaluates one query."""

    def __init__(
        self,
        query: Query,
        selection: Selection,
        budget: Budget,
        notes: Annotations,
        naming: Naming,
    ) -> None:
        self.query, self.selection, self.budget = query, selection, budget
        self.notes, self.naming = notes, naming

    # -- entry points --------------------------------------------------------------------------

    def scalar(self, expr: Expr, grid: Grid) -> FloatArray:
        """Return ``[steps]`` values of a scalar expression."""
        match expr:
            case NumberLiteral():
                return np.full(grid.steps, expr.value)
            case Paren():
                return self.scalar(expr.expr, grid)
            case Unary():
                value = self.scalar(expr.expr, grid)
                return -value if expr.op == "-" else value
            case Call():
                return functions.SCALAR_CALLS[expr.func.name](self, expr, grid)
            case Binary():
                first, chain = spine(expr)
                lhs = self.scalar(first, grid)
                for node in chain:
                    lhs = scalars(node.op, lhs, self.scalar(node.rhs, grid))
                return lhs
        raise AssertionError(f"{type(expr).__name__} is no scalar")

    def vector(self, expr: Expr, grid: Grid) -> Blocks:
        """Yield the series of a vector expression, some at a time."""
        self.budget.check()
        if grid.steps > 1 and is_invariant(expr):
            for block in self._vector(expr, grid.first()):
                yield block.spread(grid.steps)
        else:
            yield from self._vector(expr, grid)

    def _vector(self, expr: Expr, grid: Grid) -> Blocks:
        match expr:
            case Paren():
                return self._vector(expr.expr, grid)
            case VectorSelector():
                return (block for block, _ in self.instant(expr, grid))
            case Call():
                return self._call(expr, grid)
            case Aggregate():
                return self._aggregate(expr, grid)
            case Binary():
                return self._binary(expr, grid)
            case Unary():
                blocks = self.vector(expr.expr, grid)
                if expr.op == "+":
                    return blocks
                negated = (block.mapped(-block.values, nameless=True) for block in blocks)
                return self.unnamed(negated, expr.expr, grid)
        raise AssertionError(f"{type(expr).__name__} is no vector")

    def text(self, expr: Expr) -> str:
        """Return the string of a string expression."""
        literal = unwrap(expr)
        assert isinstance(literal, StringLiteral)
        return literal.value

    @contextmanager
    def gathered(self, expr: Expr, grid: Grid) -> Iterator[Block]:
        """All series of a vector at once, held in memory until the end of the context."""
        block, held = self.gather(self.vector(expr, grid), grid.steps)
        yield block
        self.budget.release(held)

    def gather(self, blocks: Iterable[Block], steps: int) -> tuple[Block, int]:
        """Join blocks; return also how many values the budget was charged for."""
        kept: list[Block] = []
        held = 0
        for block in blocks:
            held += self.budget.hold(count_cells((block,)))
            kept.append(block)
        return joined(kept, steps), held

    def unnamed(self, blocks: Blocks, source: Expr, grid: Grid) -> Blocks:
        """
        Pass on blocks without names; series that differed only in their names become one.

        Args:
            source: The vector whose names were dropped.
        """
        if self.naming.delayed or not mixes_names(source):
            yield from blocks
            return
        block, held = self.gather(blocks, grid.steps)
        yield merged(self.naming.resolved(without_empty_rows(block)))
        self.budget.release(held)

    # -- times ---------------------------------------------------------------------------------

    def duration_ms(self, duration: Duration, *, positive: bool) -> int:
        query = self.query
        return to_ms(
            duration,
            query.text,
            positive=positive,
            step_ms=query.step_ms,
            range_ms=query.end_ms - query.start_ms,
        )

    def times(self, grid: Grid, at: At | None, offset: Duration | None) -> IntArray:
        """Return the times that a selector looks at from each step."""
        times = grid.ts_ms
        if at is not None:
            if at.timestamp_ms is not None:
                fixed = at.timestamp_ms
            else:
                fixed = self.query.start_ms if at.edge == "start" else self.query.end_ms
            times = np.full(grid.steps, fixed, np.int64)
        return times if offset is None else times - self.duration_ms(offset, positive=False)

    # -- selectors -----------------------------------------------------------------------------

    def instant(self, node: VectorSelector, grid: Grid) -> Iterator[tuple[Block, IntArray]]:
        """Yield an instant selector's series, and when their samples were taken."""
        times = self.times(grid, node.at, node.offset)
        found = self.selection.instant(node.matchers, times, smoothed=node.extension == "smoothed")
        for block, taken_ms in found:
            full: BoolArray = np.any(block.mask, axis=1)
            if full.all():
                yield block, taken_ms
            elif full.any():
                yield block.chosen(full), taken_ms[full] if taken_ms.ndim == 2 else taken_ms

    def windows(
        self, expr: Expr, grid: Grid, facts: frozenset[Fact] | None = None
    ) -> Iterator[Windows]:
        """Yield the windows of a range expression; ``facts`` as in :meth:`Selection.ranges`."""
        expr = unwrap(expr)
        if isinstance(expr, MatrixSelector):
            vector = expr.vector
            times = self.times(grid, vector.at, vector.offset)
            range_ms = self.duration_ms(expr.range, positive=True)
            return self.selection.ranges(
                vector.matchers, times, grid.ts_ms, range_ms, vector.extension, facts
            )
        assert isinstance(expr, Subquery)
        return self._subquery(expr, grid)

    def _subquery(self, node: Subquery, grid: Grid) -> Iterator[Windows]:
        times = self.times(grid, node.at, node.offset)
        range_ms = self.duration_ms(node.range, positive=True)
        if node.step is None:
            step_ms = self.query.subquery_step_ms
        else:
            step_ms = self.duration_ms(node.step, positive=True)
        starts = times - range_ms - self.selection.left_closed
        first, last = np.floor_divide(starts, step_ms) + 1, np.floor_divide(times, step_ms)
        contiguous = bool((np.diff(times) >= 0).all() and (first[1:] <= last[:-1] + 1).all())
        # Charged before it is made: years of steps of a second must not get that far.
        count = last[-1] - first[0] + 1 if contiguous else (last - first + 1).sum()
        held = self.budget.hold(int(count))
        inner = Grid(_multiples(first, last, contiguous) * step_ms)
        if not inner.steps:
            self.budget.release(held)
            return
        for block in self.vector(node.expr, inner):
            if not block.rows:
                continue
            if block.mask.all():
                samples = Samples(block.labels, block.nameless, inner.ts_ms, block.values)
            else:
                samples = packed(
                    block.labels, block.nameless, inner.ts_ms, block.values, block.mask
                )
            if samples.size:
                here = self.budget.hold(samples.size)
                yield self.selection.windows(samples, times, grid.ts_ms, range_ms)
                self.budget.release(here)
        self.budget.release(held)

    # -- functions -----------------------------------------------------------------------------

    def _call(self, node: Call, grid: Grid) -> Blocks:
        function = functions.RANGE_CALLS.get(node.func.name)
        if function is not None:
            return self.over_windows(node, node.args[0], function, grid)
        return functions.VECTOR_CALLS[node.func.name](self, node, grid)

    def over_windows(self, node: Call, source: Expr, function: RangeFunction, grid: Grid) -> Blocks:
        """Apply a function of windows; ``source`` is the range expression."""
        name = node.func.name
        counter = name in ("rate", "increase")
        fixed = unwrap(source)
        one_name = isinstance(fixed, MatrixSelector) and not mixes_names(fixed)

        def blocks() -> Blocks:
            for windows in self.windows(source, grid, FACTS.get(name)):
                values, mask = function(windows)
                samples = windows.samples
                nameless = samples.nameless | (name not in NAME_KEEPING)
                block = without_empty_rows(Block(samples.labels, values, mask, nameless))
                if counter and block.rows:
                    rows = block.labels[:1] if one_name else block.labels
                    self._hint_at_gauges(rows, samples, source)
                yield block

        return blocks() if name in NAME_KEEPING else self.unnamed(blocks(), source, grid)

    def _hint_at_gauges(self, rows: list[Labels], samples: Samples, at: Expr) -> None:
        if samples.nameless.any() and not self.naming.delayed:
            return
        for name in {labels.get(METRIC_NAME) for labels in rows}:
            if name and not name.endswith(("_total", "_sum", "_count", "_bucket")):
                self.notes.possible_non_counter(name, at)

    # -- operators -----------------------------------------------------------------------------

    def _binary(self, expr: Binary, grid: Grid) -> Blocks:
        first, chain = spine(expr)
        scalar: FloatArray | None = None
        blocks: Blocks = iter(())
        if first.type is ValueType.SCALAR:
            scalar = self.scalar(first, grid)
        else:
            blocks = self.vector(first, grid)
        pending: list[Mapping] = []
        for node in chain:
            if node.rhs.type is ValueType.SCALAR:
                other = self.scalar(node.rhs, grid)
                if scalar is not None:
                    scalar = scalars(node.op, scalar, other)
                else:
                    pending.append(self._with_scalar(node, other, vector_left=True))
            elif scalar is not None:
                blocks = self.vector(node.rhs, grid)
                pending.append(self._with_scalar(node, scalar, vector_left=False))
                scalar = None
            else:
                blocks = self._vectors(node, _mapped(blocks, pending), grid)
                pending = []
        assert scalar is None, "the type check said that this is a vector"
        result = _mapped(blocks, pending)
        return self.unnamed(result, expr, grid) if pending else result

    def _with_scalar(self, node: Binary, scalar: FloatArray, *, vector_left: bool) -> Mapping:
        if node.op in TRIM_OPERATORS:
            self.notes.no_native_histograms(f"operator {quote(node.op)}", node)
            return lambda block: block.chosen(np.zeros(block.rows, bool))
        drops_name = node.op not in COMPARISONS or node.return_bool

        def apply(block: Block) -> Block:
            lhs, rhs = (block.values, scalar) if vector_left else (scalar, block.values)
            values, holds = elements(node.op, lhs, rhs, block.values, return_bool=node.return_bool)
            result = block.mapped(values, nameless=drops_name)
            if holds is not None:
                result.mask = result.mask & holds
                result = without_empty_rows(result)
            return result

        return apply

    def _vectors(self, node: Binary, lhs_blocks: Blocks, grid: Grid) -> Blocks:
        lhs, lhs_held = self.gather(lhs_blocks, grid.steps)
        rhs, rhs_held = self.gather(self.vector(node.rhs, grid), grid.steps)
        if node.op in TRIM_OPERATORS:
            self.notes.no_native_histograms(f"operator {quote(node.op)}", node)
        elif node.op in SET_OPERATORS:
            yield matching.set_operation(node, lhs, rhs, self.naming)
        else:
            yield matching.combine(node, lhs, rhs, self.naming, self.budget)
        self.budget.release(lhs_held + rhs_held)

    # -- aggregations --------------------------------------------------------------------------

    def _aggregate(self, node: Aggregate, grid: Grid) -> Blocks:
        make = ACCUMULATORS.get(node.op)
        if make is None:
            return self._ranked(node, grid)
        return self._accumulated(node, grid, make(grid.steps))

    def _accumulated(self, node: Aggregate, grid: Grid, accumulator: Accumulator) -> Blocks:
        groups = _Groups(node.grouping, node.without, self.naming)
        held = 0
        for block in self.vector(node.expr, grid):
            if block.rows:
                numbers = groups.numbers(block)
                held += self.budget.hold(groups.total * grid.steps - held)
                accumulator.add(block.values, block.mask, numbers, groups.total)
        values, mask = accumulator.answer(groups.total)
        yield groups.block(values, mask)
        self.budget.release(held)

    def _ranked(self, node: Aggregate, grid: Grid) -> Blocks:
        assert node.param is not None
        match node.op:
            case "topk" | "bottomk" | "limitk":
                return self._limited(node, grid, self._limits(node.param, grid))
            case "limit_ratio":
                return self._sampled(node, grid, self.scalar(node.param, grid))
            case "quantile":
                return self._quantile(node, grid, self.scalar(node.param, grid))
            case _:
                return self._count_values(node, grid, self.text(node.param))

    def _limits(self, param: Expr, grid: Grid) -> IntArray:
        limits = self.scalar(param, grid)
        if np.isnan(limits).any():
            raise ExecutionError("Parameter value is NaN")
        over = np.flatnonzero(np.abs(limits) >= 2.0**63)
        if len(over):
            raise ExecutionError(f"Scalar value {limits[over[0]]} overflows int64")
        return limits.astype(np.int64)

    def _limited(self, node: Aggregate, grid: Grid, limits: IntArray) -> Blocks:
        """Choose some series of each group at each step: the best or the first ones."""
        groups = _Groups(node.grouping, node.without, self.naming)
        kept: Block | None = None
        held = 0
        if (limits < 1).all():
            for _ in self.vector(node.expr, grid):
                pass  # errors in evaluating what nothing is taken of are still errors
            return
        for block in self.vector(node.expr, grid):
            if not block.rows:
                continue
            both = block if kept is None else joined([kept, block], grid.steps)
            chosen = np.zeros(both.mask.shape, bool)
            numbers = groups.numbers(both)
            for _, rows in members_of(numbers, groups.total):
                self.budget.check()
                if node.op == "limitk":
                    chosen[rows] = first_rows(both.mask[rows], limits)
                else:
                    chosen[rows] = best(
                        both.values[rows], both.mask[rows], limits, down=node.op == "topk"
                    )
            # Whatever is not among the best so far will not be among the best of all.
            kept = without_empty_rows(Block(both.labels, both.values, chosen, both.nameless))
            self.budget.release(held)
            held = self.budget.hold(count_cells((kept,)))
        if kept is not None:
            yield kept if node.op == "limitk" else self._in_rank_order(node, kept, groups)
        self.budget.release(held)

    def _in_rank_order(self, node: Aggregate, block: Block, groups: _Groups) -> Block:
        """Sort an instant vector as users of ``topk`` expect it; of a range nothing is sorted."""
        if block.mask.shape[1] != 1:
            return block
        values = block.values[:, 0] if node.op == "bottomk" else -block.values[:, 0]
        order = np.lexsort((values, np.isnan(values), groups.numbers(block)))
        return block.chosen(order)

    def _sampled(self, node: Aggregate, grid: Grid, ratios: FloatArray) -> Blocks:
        assert node.param is not None
        if np.isnan(ratios).any():
            raise ExecutionError("Ratio value is NaN")
        if ratios.max() > 1:
            self.notes.invalid_ratio(float(ratios.max()), 1.0, node.param)
        if ratios.min() < -1:
            self.notes.invalid_ratio(float(ratios.min()), -1.0, node.param)
        ratios = np.clip(ratios, -1.0, 1.0)
        for block in self.vector(node.expr, grid):
            offsets = np.array([sampling_offset(labels) for labels in self.naming.visible(block)])
            offsets = offsets.reshape(-1, 1)
            chosen = np.where(ratios >= 0, offsets < ratios, offsets >= 1.0 + ratios)
            # A ratio of 1 takes everything, also the series whose hash is the very largest.
            chosen |= ratios >= 1.0
            result = Block(block.labels, block.values, block.mask & chosen, block.nameless)
            yield without_empty_rows(result)

    def _quantile(self, node: Aggregate, grid: Grid, phi: FloatArray) -> Blocks:
        assert node.param is not None
        self.warn_of_quantiles(phi, node.param)
        groups = _Groups(node.grouping, node.without, self.naming)
        with self.gathered(node.expr, grid) as block:
            numbers = groups.numbers(block)
            values = np.zeros((groups.total, grid.steps))
            mask = np.zeros((groups.total, grid.steps), bool)
            for group, rows in members_of(numbers, groups.total):
                self.budget.check()
                if not len(rows):
                    continue  # without grouping there is one group, also of nothing
                values[group] = quantiles(block.values[rows], block.mask[rows], phi)
                mask[group] = block.mask[rows].any(axis=0)
            yield groups.block(values, mask)

    def warn_of_quantiles(self, phi: FloatArray, at: Expr) -> None:
        """Warn of quantiles that are none: of the worst on each side, and of NaN."""
        if np.isnan(phi).any():
            self.notes.invalid_quantile(float("nan"), at)
        for worst in (float(np.fmin.reduce(phi)), float(np.fmax.reduce(phi))):
            if worst < 0 or worst > 1:
                self.notes.invalid_quantile(worst, at)

    def _count_values(self, node: Aggregate, grid: Grid, label: str) -> Blocks:
        legacy = self.query.legacy_names
        if not label or not is_utf8(label) or (legacy and not is_legacy_label_name(label)):
            raise ExecutionError(f"invalid label name {quote(label)}")
        kept = not node.without or label not in node.grouping
        groups = _Groups(
            tuple(name for name in node.grouping if name != label),
            node.without,
            self.naming,
            without_label=label,
        )
        counted: dict[Labels, IntArray] = {}
        held = 0
        with self.gathered(node.expr, grid) as block:
            numbers = groups.numbers(block)
            for group, rows in members_of(numbers, groups.total):
                self.budget.check()
                for value, counts in value_counts(block.values[rows], block.mask[rows]):
                    labels = groups.labels[group]
                    if kept:
                        labels = Labels(sorted((*labels, (label, value))))
                    if labels not in counted:
                        held += self.budget.hold(grid.steps)
                    counted[labels] = counted.get(labels, 0) + counts
        values = np.array(list(counted.values()), np.float64).reshape(len(counted), grid.steps)
        yield Block(list(counted), values, values > 0, np.zeros(len(counted), bool))
        self.budget.release(held)


def _mapped(blocks: Blocks, mappings: list[Mapping]) -> Blocks:
    if not mappings:
        return blocks
    return _map_all(blocks, list(mappings))


def _map_all(blocks: Blocks, mappings: list[Mapping]) -> Blocks:
    for block in blocks:
        for mapping in mappings:
            block = mapping(block)
        yield block


def _multiples(first: IntArray, last: IntArray, contiguous: bool) -> IntArray:
    """Return the numbers that lie in any of the intervals ``first`` to ``last``, both included."""
    if contiguous:
        return np.arange(first[0], last[-1] + 1, dtype=np.int64)
    parts = [np.arange(a, b + 1, dtype=np.int64) for a, b in zip(first, last, strict=True)]
    return distinct(np.concatenate(parts))


class _Groups:
    """Numbers the groups of an aggregation as their series come along."""

    def __init__(
        self, grouping: tuple[str, ...], without: bool, naming: Naming, without_label: str = ""
    ) -> None:
        self._naming = naming
        self._without = without
        self._names = frozenset(grouping)
        if without:
            self._names |= {*naming.dropped, *((without_label,) if without_label else ())}
        self._known: dict[Labels, int] = {}
        self._nameless: set[int] = set()

    @property
    def total(self) -> int:
        return len(self._known)

    @property
    def labels(self) -> list[Labels]:
        return list(self._known)

    def numbers(self, block: Block) -> IntArray:
        """Return the group of each row."""
        known, names = self._known, self._names
        if not names and not self._without:
            known.setdefault(Labels(), 0)
            return np.zeros(block.rows, np.int64)
        # Names that don't count are only looked at where the grouping would see them.
        sees_name = not self._without and not names.isdisjoint(self._naming.dropped)
        rows = self._naming.visible(block) if sees_name else block.labels
        # Lists, not generators: this runs once per series and is half of a small instant query.
        if self._without:
            keys = [Labels([pair for pair in labels if pair[0] not in names]) for labels in rows]
        else:
            keys = [Labels([pair for pair in labels if pair[0] in names]) for labels in rows]
        numbers = [known.setdefault(key, len(known)) for key in keys]
        if sees_name and block.nameless.any():
            flagged = zip(numbers, block.nameless.tolist(), strict=True)
            self._nameless.update(number for number, nameless in flagged if nameless)
        return np.array(numbers, np.int64)

    def block(self, values: FloatArray, mask: BoolArray) -> Block:
        """Put the groups' results together; a group loses its name if any of its series has."""
        nameless = np.zeros(self.total, bool)
        nameless[list(self._nameless)] = True
        return Block(self.labels, values, mask, nameless)
