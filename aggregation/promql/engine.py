"""
The query engine: text or tree in, columns out.

An engine keeps nothing but what it has parsed, and may be used by any number of threads at once.
Everything is synchronous and computes; callers on an event loop run it in a worker thread.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from ...storage.frame import BoolArray, FloatArray, IntArray
from ...storage.model import Labels
from .annotations import Annotations
from .budget import Budget, Check
from .cells import TieredQuerier
from .errors import BadQuery, ExecutionError, TooManySamples
from .lexer import ParseLimits
from .nodes import Expr, MatrixSelector, Subquery, ValueType, unwrap
from .parser import parse
from .printer import to_text
from .range_cache import RangeCache, Versioned, keeps
from .result import Result
from .selection import Querier, Selection
from .values import Block, Grid, Naming, merged, without_empty_rows

if TYPE_CHECKING:
    from .evaluator import Evaluator

#: Parsed texts that are kept: a large dashboard and its rules.
_PARSED_MAX: Final = 256
_PARSED_CHARS: Final = 2_000


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """
    How queries are understood and what they may use.

    Attributes:
        lookback_ms: How old a sample an instant selector still takes.
        subquery_step_ms: The step of subqueries that name none.
        max_samples: The most samples a query may hold in memory at once.
        compat: ``prometheus2`` closes windows and lookback on the left, clamps counters near zero
            as 2.x did and allows only old label names in functions.
        experimental: Allow what Prometheus hides behind feature flags.
        delayed_name_removal: Drop metric names at the end of the evaluation, not at each function.
        type_and_unit_labels: Treat ``__type__`` and ``__unit__`` as parts of the name.
        limits: How large a query's text may be.
    """

    lookback_ms: int = 300_000
    subquery_step_ms: int = 60_000
    max_samples: int = 10_000_000
    compat: Literal["prometheus3", "prometheus2"] = "prometheus3"
    experimental: bool = False
    delayed_name_removal: bool = False
    type_and_unit_labels: bool = False
    limits: ParseLimits = field(default_factory=ParseLimits)


class Engine:
    """
    Answers queries about the samples of a querier.

    Args:
        cache: Keeps answers of range queries; engines with other options may share it.
    """

    def __init__(
        self, options: EngineOptions | None = None, cache: RangeCache | None = None
    ) -> None:
        self.options = options or EngineOptions()
        self._cache = cache
        self._parsed = lru_cache(_PARSED_MAX)(self._parse)

    def parse(self, text: str) -> Expr:
        """
        Parse and type-check with this engine's options.

        Raises:
            ParseError: See :func:`.parser.parse`.
        """
        # Dashboards and rules ask the same again and again, and short texts are most of them.
        return self._parsed(text) if len(text) <= _PARSED_CHARS else self._parse(text)

    def _parse(self, text: str) -> Expr:
        options = self.options
        return parse(text, experimental=options.experimental, limits=options.limits)

    def instant(
        self,
        querier: Querier,
        query: str | Expr,
        time_ms: int,
        *,
        check: Check | None = None,
        lookback_ms: int | None = None,
    ) -> Result:
        """
        Evaluate at one time.

        Args:
            query: Text, or a tree from :meth:`parse`; only text gives positions in messages.
            check: Asked between pieces of work; see :class:`.budget.Deadline`.
            lookback_ms: Instead of that of the options.

        Raises:
            PromqlError: Its ``error_type`` is that of the HTTP API.
        """
        text, expr = self._prepare(query)
        times_ms = (time_ms, time_ms, 0)
        run = self._run(querier, text, times_ms, check, lookback_ms, is_range=False)
        grid = Grid(np.array([time_ms], np.int64))
        return _guarded(lambda: run.instant(expr, grid))

    def range(
        self,
        querier: Querier,
        query: str | Expr,
        start_ms: int,
        end_ms: int,
        step_ms: int,
        *,
        check: Check | None = None,
        lookback_ms: int | None = None,
        cached: bool = True,
    ) -> Result:
        """
        Evaluate at ``start_ms`` and every ``step_ms`` from there up to ``end_ms``.

        Args:
            cached: Use the cache, if there is one and the querier is ``Versioned``.

        Raises:
            PromqlError: As :meth:`instant`; also for expressions that are no scalar or vector.
            ValueError: ``step_ms`` is not positive, or the end before the start.
        """
        if step_ms <= 0 or end_ms < start_ms:
            raise ValueError("a range query needs a positive step and an end after its start")
        lookback_ms = self.options.lookback_ms if lookback_ms is None else lookback_ms

        def evaluate(from_ms: int) -> tuple[Result, bool]:
            return self._range(querier, query, from_ms, end_ms, step_ms, check, lookback_ms)

        cache, steps = self._cache, (end_ms - start_ms) // step_ms
        if (
            cache is None
            or not (cached and isinstance(querier, Versioned))
            or steps >= self.options.max_samples
        ):
            return evaluate(start_ms)[0]
        text = query if isinstance(query, str) else to_text(query)
        key = text, step_ms, start_ms % step_ms, lookback_ms, self.options
        return cache.range(key, querier, (start_ms, end_ms, step_ms), evaluate)

    def _range(
        self,
        querier: Querier,
        query: str | Expr,
        start_ms: int,
        end_ms: int,
        step_ms: int,
        check: Check | None,
        lookback_ms: int,
    ) -> tuple[Result, bool]:
        """Evaluate a range query; tell also whether its steps stand for themselves."""
        text, expr = self._prepare(query)
        if expr.type not in (ValueType.SCALAR, ValueType.VECTOR):
            raise BadQuery(
                f'invalid expression type "{expr.type.documented}" for range query, '
                "must be Scalar or instant Vector"
            )
        if (end_ms - start_ms) // step_ms >= self.options.max_samples:
            raise TooManySamples(self.options.max_samples)
        times_ms = (start_ms, end_ms, step_ms)
        run = self._run(querier, text, times_ms, check, lookback_ms, is_range=True)
        grid = Grid(np.arange(start_ms, end_ms + 1, step_ms, dtype=np.int64))
        return _guarded(lambda: run.range(expr, grid)), keeps(expr)

    def _prepare(self, query: str | Expr) -> tuple[str, Expr]:
        if isinstance(query, str):
            return query, self.parse(query)
        return to_text(query), query

    def _run(
        self,
        querier: Querier,
        text: str,
        times_ms: tuple[int, int, int],
        check: Check | None,
        lookback_ms: int | None,
        *,
        is_range: bool,
    ) -> _Run:
        # All functions of the language take 1 MiB, and 25 ms of the first query's own thread: not
        # of every agent and backend that is asked nothing.
        from .evaluator import Evaluator, Query

        options = self.options
        old = options.compat == "prometheus2"
        budget = Budget(options.max_samples, check)
        lookback_ms = options.lookback_ms if lookback_ms is None else lookback_ms
        selection = Selection(querier, budget, lookback_ms=lookback_ms, left_closed=old)
        query = Query(text, *times_ms, is_range, options.subquery_step_ms, old)
        naming = Naming(
            delayed=options.delayed_name_removal, type_and_unit=options.type_and_unit_labels
        )
        evaluator = Evaluator(query, selection, budget, Annotations(text), naming)
        return _Run(evaluator, querier)


def _guarded(work: Callable[[], Result]) -> Result:
    # Dividing by zero and the like are answers here. The limits on nesting leave room for deep
    # call stacks; but the caller may already stand deep in its own.
    with np.errstate(all="ignore"):
        try:
            return work()
        except RecursionError:
            raise ExecutionError("query is nested too deeply to be evaluated here") from None


class _Run:
    """One query on its way from the tree to the result."""

    def __init__(self, evaluator: Evaluator, querier: Querier) -> None:
        self._evaluator, self._querier = evaluator, querier

    def instant(self, expr: Expr, grid: Grid) -> Result:
        evaluator = self._evaluator
        match expr.type:
            case ValueType.STRING:
                return self._result(ValueType.STRING, grid, text=evaluator.text(expr))
            case ValueType.SCALAR:
                value = evaluator.scalar(expr, grid)
                return self._result(ValueType.SCALAR, grid, values=value[None, :])
            case ValueType.VECTOR:
                block = self._final(expr, grid)
                return self._of_block(ValueType.VECTOR, grid, block)
            case _:
                return self._matrix(expr, grid)

    def range(self, expr: Expr, grid: Grid) -> Result:
        if expr.type is ValueType.SCALAR:
            values = self._evaluator.scalar(expr, grid)[None, :]
            block = Block([Labels()], values, np.ones(values.shape, bool), np.zeros(1, bool))
        else:
            block = self._final(expr, grid)
            order = sorted(range(block.rows), key=block.labels.__getitem__)
            if order != list(range(block.rows)):
                block = block.chosen(np.array(order, np.int64))
        return self._of_block(ValueType.MATRIX, grid, block)

    def _final(self, expr: Expr, grid: Grid) -> Block:
        evaluator = self._evaluator
        block, _ = evaluator.gather(evaluator.vector(expr, grid), grid.steps)
        labels = evaluator.naming.final(block)
        block = Block(labels, block.values, block.mask, np.zeros(block.rows, bool))
        return merged(without_empty_rows(block))

    def _matrix(self, expr: Expr, grid: Grid) -> Result:
        """An instant query for a range vector: the samples themselves."""
        inner = unwrap(expr)
        assert isinstance(inner, MatrixSelector | Subquery)
        evaluator = self._evaluator
        labels: list[Labels] = []
        points: list[tuple[IntArray, FloatArray]] = []
        for windows in evaluator.windows(inner, grid):
            samples, shape = windows.samples, windows.shape
            low = np.broadcast_to(windows.low, shape)[:, 0]
            high = np.broadcast_to(windows.high, shape)[:, 0]
            flags = np.zeros(samples.rows, bool)
            block = Block(samples.labels, samples.values, flags[:, None], samples.nameless)
            names = evaluator.naming.final(block)
            for row, (first, last) in enumerate(zip(low.tolist(), high.tolist(), strict=True)):
                if first < last:
                    times = samples.ts_ms if samples.ts_ms.ndim == 1 else samples.ts_ms[row]
                    evaluator.budget.hold(last - first)
                    labels.append(names[row])
                    points.append((times[first:last], samples.values[row, first:last]))
        order = sorted(range(len(labels)), key=labels.__getitem__)
        return self._result(
            ValueType.MATRIX,
            grid,
            labels=[labels[i] for i in order],
            points=[points[i] for i in order],
        )

    def _served(self) -> list[str]:
        querier = self._querier
        notes = querier.notes() if isinstance(querier, TieredQuerier) else ()
        return [f"PromQL info: {note}" for note in notes]

    def _of_block(self, kind: ValueType, grid: Grid, block: Block) -> Result:
        return self._result(kind, grid, labels=block.labels, values=block.values, mask=block.mask)

    def _result(
        self,
        kind: ValueType,
        grid: Grid,
        *,
        labels: list[Labels] | None = None,
        values: FloatArray | None = None,
        mask: BoolArray | None = None,
        text: str = "",
        points: list[tuple[IntArray, FloatArray]] | None = None,
    ) -> Result:
        evaluator = self._evaluator
        return Result(
            kind,
            grid.ts_ms,
            labels or [],
            np.empty((0, grid.steps)) if values is None else values,
            np.empty((0, grid.steps), bool) if mask is None else mask,
            text,
            points,
            evaluator.notes.warnings,
            (*evaluator.notes.infos, *self._served()),
            evaluator.budget.stats,
        )
