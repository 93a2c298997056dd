"""
What expressions evaluate to: values at the steps of a grid, many series at a time.

Whether there is a value is told by a mask and never by the value: NaN is a value like any other.
Where the mask is false the value means nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ...storage.frame import BoolArray, FloatArray, IntArray
from ...storage.model import METRIC_NAME, Labels
from .errors import ExecutionError

SAME_LABELSET = "vector cannot contain metrics with the same labelset"
#: What names and describes a series; operations that change its meaning drop these labels.
TYPE_AND_UNIT = ("__type__", "__unit__")


@dataclass(frozen=True, slots=True)
class Grid:
    """
    The times at which an expression is evaluated.

    Attributes:
        ts_ms: ``[steps]``, strictly rising; evenly spaced but for subqueries, whose windows may
            leave gaps.
    """

    ts_ms: IntArray

    @property
    def steps(self) -> int:
        return len(self.ts_ms)

    def first(self) -> Grid:
        """The first step alone, for what is the same at every step."""
        return Grid(self.ts_ms[:1])


@dataclass(slots=True)
class Block:
    """
    Some series of a vector.

    Attributes:
        labels: One per row.
        values: ``[rows, steps]``.
        mask: ``[rows, steps]``, true where there is a value.
        nameless: ``[rows]``, true where an operation has taken the metric name away. The name is
            still among the labels then, and counts for nothing unless names are removed last.
    """

    labels: list[Labels]
    values: FloatArray
    mask: BoolArray
    nameless: BoolArray

    @property
    def rows(self) -> int:
        return len(self.labels)

    def mapped(self, values: FloatArray, *, nameless: bool) -> Block:
        """The same series with new values; ``nameless`` takes their names away."""
        flags = np.ones(self.rows, bool) if nameless else self.nameless
        return Block(self.labels, values, self.mask, flags)

    def chosen(self, rows: IntArray | BoolArray) -> Block:
        """Some of the rows, in the order asked for."""
        index = np.flatnonzero(rows) if rows.dtype == bool else rows
        labels = [self.labels[i] for i in index]
        return Block(labels, self.values[index], self.mask[index], self.nameless[index])

    def spread(self, steps: int) -> Block:
        """Repeat a single step as often as asked."""
        shape = (self.rows, steps)
        return Block(
            self.labels,
            np.broadcast_to(self.values, shape),
            np.broadcast_to(self.mask, shape),
            self.nameless,
        )


def named(labels: list[Labels], values: FloatArray, mask: BoolArray) -> Block:
    """A block of series that carry their names."""
    return Block(labels, values, mask, np.zeros(len(labels), bool))


def empty(steps: int) -> Block:
    """No series."""
    return Block([], np.empty((0, steps)), np.empty((0, steps), bool), np.empty(0, bool))


def joined(blocks: Sequence[Block], steps: int) -> Block:
    """Put blocks below each other."""
    if len(blocks) == 1:
        return blocks[0]
    if not blocks:
        return empty(steps)
    return Block(
        [labels for block in blocks for labels in block.labels],
        np.concatenate([block.values for block in blocks]),
        np.concatenate([block.mask for block in blocks]),
        np.concatenate([block.nameless for block in blocks]),
    )


class Naming:
    """
    Which labels count at what time.

    Args:
        delayed: Keep the names that operations drop until the whole expression is evaluated, so
            that ``label_replace`` and ``by (__name__)`` still see them.
        type_and_unit: ``__type__`` and ``__unit__`` belong to the name.
    """

    def __init__(self, *, delayed: bool, type_and_unit: bool) -> None:
        self.delayed = delayed
        self.dropped = (METRIC_NAME, *TYPE_AND_UNIT) if type_and_unit else (METRIC_NAME,)

    def without_name(self, labels: Labels) -> Labels:
        # The name sorts before almost everything, so it usually is the first label or missing.
        if len(self.dropped) == 1 and labels and labels[0][0] == METRIC_NAME:
            return Labels(labels[1:])
        return labels.without(*self.dropped)

    def visible(self, block: Block) -> list[Labels]:
        """The labels that an operation on the block sees."""
        return block.labels if self.delayed else self.final(block)

    def final(self, block: Block) -> list[Labels]:
        """The labels as the user shall see them."""
        if not block.nameless.any():
            return block.labels
        drop = self.without_name
        flags = block.nameless.tolist()
        pairs = zip(block.labels, flags, strict=True)
        return [drop(labels) if nameless else labels for labels, nameless in pairs]

    def resolved(self, block: Block) -> Block:
        """Drop the names now if they are not dropped last, so that labels mean what they say."""
        if self.delayed or not block.nameless.any():
            return block
        return Block(self.final(block), block.values, block.mask, np.zeros(len(block.labels), bool))


def merged(block: Block) -> Block:
    """
    Make one series of those with equal labels, which may take turns but not overlap.

    Raises:
        ExecutionError: Two of them have a value at the same step.
    """
    first: dict[Labels, int] = {}
    target = [first.setdefault(labels, len(first)) for labels in block.labels]
    if len(first) == len(target):
        return block
    rows = np.asarray(target)
    steps = block.values.shape[1]
    counts = np.zeros((len(first), steps), np.int64)
    np.add.at(counts, rows, block.mask)
    if (counts > 1).any():
        raise ExecutionError(SAME_LABELSET)
    values = np.zeros((len(first), steps))
    row, step = np.nonzero(block.mask)
    values[rows[row], step] = block.values[row, step]
    nameless = np.zeros(len(first), bool)
    np.logical_or.at(nameless, rows, block.nameless)
    return Block(list(first), values, counts > 0, nameless)


def without_empty_rows(block: Block) -> Block:
    """Leave out the series that have no value at any step."""
    full: BoolArray = np.any(block.mask, axis=1)
    return block if full.all() else block.chosen(full)


def count_cells(blocks: Iterable[Block]) -> int:
    """How many values blocks hold."""
    return sum(int(np.count_nonzero(block.mask)) for block in blocks)
