"""
Answers of range queries, kept for a dashboard that asks again a little later.

A step is used again as long as no sample has come since that it could have seen, so an answer is
never out of date: only the newest steps are evaluated again, and those that are new.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from typing import Final, Protocol, runtime_checkable

import numpy as np

from ...storage.frame import IntArray
from .annotations import is_mergeable
from .budget import QueryStats
from .durations import is_constant, to_ms
from .nodes import (
    Aggregate,
    Call,
    Duration,
    Expr,
    MatrixSelector,
    Subquery,
    ValueType,
    VectorSelector,
    walk,
)
from .result import Result

#: A panel of 12 series and 1,440 steps takes 160 kB.
CACHE_BYTES: Final = 16 << 20
#: What is larger would push out nearly everything else.
_SHARE_MAX: Final = 0.25
#: What a series takes beside its values: its labels and the objects around them.
_SERIES_BYTES: Final = 500
#: Functions whose value at a step depends on the other steps of the query.
_OF_THE_WHOLE: Final = frozenset(("start", "end", "range"))


@runtime_checkable
class Versioned(Protocol):
    """A querier that knows what has changed since another one looked."""

    @property
    def version(self) -> Hashable:
        """Queriers of the same version see the same, but for samples that came in between."""
        ...

    @property
    def mark(self) -> int:
        """How much had come when this querier looked, or somewhat before."""
        ...

    def earliest_since(self, mark: int) -> int:
        """Return the time of the earliest sample, or one earlier, that came after a mark."""
        ...


@dataclass(frozen=True, slots=True)
class _Entry:
    version: Hashable
    mark: int
    result: Result
    size: int


#: What makes two queries the same but for their ends.
Key = tuple[Hashable, ...]


class RangeCache:
    """
    Bounded memory of answers; the least recently used one goes first. Any thread may use it.

    Attributes:
        bytes: What the answers take.
        hits: Queries that were answered in full from here; ``partial`` ones in part.
    """

    def __init__(self, max_bytes: int = CACHE_BYTES) -> None:
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._entries: OrderedDict[Key, _Entry] = OrderedDict()
        self.bytes = self.hits = self.partial = self.misses = 0

    def __len__(self) -> int:
        return len(self._entries)

    def range(
        self,
        key: Key,
        querier: Versioned,
        times_ms: tuple[int, int, int],
        evaluate: Callable[[int], tuple[Result, bool]],
    ) -> Result:
        """
        Answer a query.

        Args:
            key: Names the query together with its step and where its steps fall.
            times_ms: Start, end and step.
            evaluate: Answers the query from a later start on, and tells whether :func:`keeps` its
                expression.
        """
        start_ms, end_ms, step_ms = times_ms
        version, mark = querier.version, querier.mark
        steps = np.arange(start_ms, end_ms + 1, step_ms, dtype=np.int64)
        known = self._known(key, querier, steps)
        if known is None:
            self.misses += 1
            result, is_kept = evaluate(start_ms)
        elif len(known.times_ms) == len(steps):
            self.hits += 1
            return known  # what is kept may reach further and stays
        else:
            self.partial += 1
            newer, is_kept = evaluate(int(steps[len(known.times_ms)]))
            result = _joined(known, newer, steps)
        if is_kept and is_mergeable((*result.warnings, *result.infos)):
            self._keep(key, version, mark, result)
        return result

    def _known(self, key: Key, querier: Versioned, steps: IntArray) -> Result | None:
        """Return the first steps of a query as far as they are known and still hold."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None or entry.version != querier.version:
                return None
            self._entries.move_to_end(key)
        old = entry.result
        holds_until = querier.earliest_since(entry.mark)
        low = int(np.searchsorted(old.times_ms, steps[0]))
        high = int(np.searchsorted(old.times_ms, min(int(steps[-1]) + 1, holds_until)))
        if low >= high or old.times_ms[low] != steps[0]:
            return None
        return _cut(old, low, high)

    def _keep(self, key: Key, version: Hashable, mark: int, result: Result) -> None:
        size = result.values.nbytes + result.mask.nbytes + result.times_ms.nbytes
        size += _SERIES_BYTES * (1 + len(result.labels))
        if size > self._max_bytes * _SHARE_MAX:
            return
        for array in (result.values, result.mask):
            array.flags.writeable = False
        with self._lock:
            old = self._entries.pop(key, None)
            if old is not None:
                self.bytes -= old.size
            self._entries[key] = _Entry(version, mark, result, size)
            self.bytes += size
            while self.bytes > self._max_bytes:
                _, gone = self._entries.popitem(last=False)
                self.bytes -= gone.size


def keeps(expr: Expr) -> bool:
    """
    Tell whether each step of an expression depends on nothing but samples up to that step.

    That rules out looking ahead, what stands at one place whichever step it is, and what is chosen
    by the order in which series happen to be read.
    """
    if expr.type is not ValueType.VECTOR:
        return False
    for node in walk(expr):
        match node:
            case VectorSelector():
                if node.at is not None or node.extension == "smoothed" or _is_ahead(node.offset):
                    return False
            case Subquery():
                fixed = is_constant(node.range) and (node.step is None or is_constant(node.step))
                if node.at is not None or not fixed or _is_ahead(node.offset):
                    return False
            case MatrixSelector() if not is_constant(node.range):
                return False
            case Call() if node.func.name in _OF_THE_WHOLE:
                return False
            case Aggregate() if node.op == "limitk":
                return False
    return True


def _is_ahead(offset: Duration | None) -> bool:
    if offset is None:
        return False
    return not is_constant(offset) or to_ms(offset, "", positive=False) < 0


def _cut(result: Result, low: int, high: int) -> Result:
    """Return some steps of an answer."""
    if low == 0 and high == len(result.times_ms):
        return replace(result, stats=QueryStats())
    values, mask = result.values[:, low:high], result.mask[:, low:high]
    full = np.flatnonzero(mask.any(axis=1))
    labels = result.labels
    if len(full) < len(labels):
        labels, values, mask = [labels[row] for row in full], values[full], mask[full]
    return replace(
        result,
        times_ms=result.times_ms[low:high],
        labels=labels,
        values=values,
        mask=mask,
        stats=QueryStats(),
    )


def _joined(first: Result, second: Result, steps: IntArray) -> Result:
    """Put two answers one after the other."""
    labels = first.labels
    if labels == second.labels:
        values = np.concatenate((first.values, second.values), axis=1)
        mask = np.concatenate((first.mask, second.mask), axis=1)
    else:
        labels = sorted({*first.labels, *second.labels})
        row_of = {each: row for row, each in enumerate(labels)}
        values = np.zeros((len(labels), len(steps)))
        mask = np.zeros(values.shape, np.bool_)
        at = 0
        for part in (first, second):
            rows = [row_of[each] for each in part.labels]
            until = at + len(part.times_ms)
            values[rows, at:until], mask[rows, at:until] = part.values, part.mask
            at = until
    return replace(
        second,
        times_ms=steps,
        labels=labels,
        values=values,
        mask=mask,
        warnings=tuple(dict.fromkeys((*first.warnings, *second.warnings))),
        infos=tuple(dict.fromkeys((*first.infos, *second.infos))),
    )
