"""How two vectors find each other: matching of label sets, set operators, filling in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from ...storage.frame import BoolArray, FloatArray, IntArray
from ...storage.model import METRIC_NAME, Labels
from .budget import Budget
from .errors import ExecutionError
from .literals import quote
from .nodes import COMPARISONS, Binary, Cardinality, VectorMatching
from .operators import elements
from .values import Block, Naming, empty, joined, merged, without_empty_rows

_MANY_TO_ONE: Final = (
    "multiple matches for labels: many-to-one matching must be explicit (group_left/group_right)"
)
_NOT_UNIQUE: Final = "multiple matches for labels: grouping labels must ensure unique matches"

Signature = Callable[[Labels], Labels]


def signature(matching: VectorMatching) -> Signature:
    """Return what reduces labels to those that must be equal on both sides."""
    names = set(matching.labels)
    if matching.on:
        if not names:
            return lambda labels: Labels()
        return lambda labels: Labels([pair for pair in labels if pair[0] in names])
    # Type and unit count even where they belong to the name: what is measured in different units
    # does not match.
    names.add(METRIC_NAME)
    return lambda labels: Labels([pair for pair in labels if pair[0] not in names])


def _numbered(
    sides: Sequence[Sequence[Labels]], sign: Signature
) -> tuple[list[IntArray], list[Labels]]:
    """Give series with equal signatures equal numbers; return those and the signatures."""
    known: dict[Labels, int] = {}
    numbers = [
        np.array([known.setdefault(sign(labels), len(known)) for labels in side], np.int64)
        for side in sides
    ]
    return numbers, list(known)


def _any_by(numbers: IntArray, mask: BoolArray, total: int) -> BoolArray:
    """Tell for each signature at which steps any of its series has a value."""
    present = np.zeros((total, mask.shape[1]), bool)
    if len(numbers):
        order = np.argsort(numbers, kind="stable")
        ordered = numbers[order]
        starts = np.flatnonzero(np.diff(ordered, prepend=-1))
        present[ordered[starts]] = np.logical_or.reduceat(mask[order], starts, axis=0)
    return present


# -- set operators -----------------------------------------------------------------------------


def set_operation(node: Binary, lhs: Block, rhs: Block, naming: Naming) -> Block:
    """Evaluate ``and``, ``or`` and ``unless``."""
    assert node.matching is not None
    lhs, rhs = naming.resolved(lhs), naming.resolved(rhs)
    sign = signature(node.matching)
    (left, right), keys = _numbered((lhs.labels, rhs.labels), sign)
    if node.op == "or":
        taken = _any_by(left, lhs.mask, len(keys))[right]
        other = Block(rhs.labels, rhs.values, rhs.mask & ~taken, rhs.nameless)
        both = joined([lhs, without_empty_rows(other)], lhs.values.shape[1])
        return merged(both)
    found = _any_by(right, rhs.mask, len(keys))[left]
    mask = lhs.mask & (found if node.op == "and" else ~found)
    return without_empty_rows(Block(lhs.labels, lhs.values, mask, lhs.nameless))


# -- one to one, many to one -------------------------------------------------------------------


@dataclass(slots=True)
class _Pairs:
    """
    Rows that meet: ``many[i]`` with ``one[i]``.

    Attributes:
        keys: ``[pairs]``, the number of their signature.
    """

    many: IntArray
    one: IntArray
    keys: IntArray


def combine(node: Binary, lhs: Block, rhs: Block, naming: Naming, budget: Budget) -> Block:
    """
    Evaluate an arithmetic operator or a comparison of two vectors.

    Raises:
        ExecutionError: Series that should be unique are not, at some step where both sides have
            values.
        TooManySamples: Series that take turns make too many pairs.
    """
    assert node.matching is not None
    combination = _Combination(node, node.matching, naming, budget)
    return combination.run(naming.resolved(lhs), naming.resolved(rhs))


class _Combination:
    def __init__(
        self, node: Binary, matching: VectorMatching, naming: Naming, budget: Budget
    ) -> None:
        self.node, self.matching, self.naming, self.budget = node, matching, naming, budget
        self.swapped = matching.cardinality is Cardinality.ONE_TO_MANY
        self.one_to_one = matching.cardinality is Cardinality.ONE_TO_ONE
        self.drops_name = node.op not in COMPARISONS or node.return_bool
        # As upstream, which swaps the sides of group_right first: "left" is the many side then.
        self.fill_many, self.fill_one = matching.fill_left, matching.fill_right

    def run(self, lhs: Block, rhs: Block) -> Block:
        many, one = (rhs, lhs) if self.swapped else (lhs, rhs)
        steps = lhs.values.shape[1]
        sign = signature(self.matching)
        (many_keys, one_keys), keys = _numbered((many.labels, one.labels), sign)
        self.refuse_duplicates(many, one, one_keys, keys)
        pairs, held = self.pair(many_keys, one_keys, len(keys), steps)
        parts = [self.paired(many, one, pairs)]
        if self.fill_one is not None:
            there = _any_by(one_keys, one.mask, len(keys))
            parts.append(self.filled_one(many, many_keys, there))
        if self.fill_many is not None:
            there = _any_by(many_keys, many.mask, len(keys))
            parts.append(self.filled_many(one, one_keys, keys, there))
        result = merged(joined([part for part in parts if part.rows] or [empty(steps)], steps))
        self.budget.release(held)
        return result

    def pair(self, many: IntArray, one: IntArray, total: int, steps: int) -> tuple[_Pairs, int]:
        """Let all series with equal signatures meet; return also what that was charged."""
        order = np.argsort(one, kind="stable")
        starts = np.searchsorted(one[order], np.arange(total + 1))
        lengths = np.diff(starts)[many]
        held = self.budget.hold(int(lengths.sum()) * steps)
        rows = np.repeat(np.arange(len(many)), lengths)
        within = np.arange(len(rows)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        keys = many[rows]
        return _Pairs(rows, order[starts[keys] + within], keys), held

    def refuse_duplicates(
        self, many: Block, one: Block, one_keys: IntArray, keys: list[Labels]
    ) -> None:
        counts = np.bincount(one_keys, minlength=len(keys))
        if counts.max(initial=0) < 2:
            return
        # Where the other side is empty nothing can match, and nobody minds.
        filling = self.fill_one is not None or self.fill_many is not None
        active = np.full(one.mask.shape[1], filling) | np.any(many.mask, axis=0)
        for key in np.flatnonzero(counts > 1):
            rows = np.flatnonzero(one_keys == key)
            clash = (np.count_nonzero(one.mask[rows], axis=0) > 1) & active
            if clash.any():
                step = int(np.flatnonzero(clash)[0])
                present = rows[one.mask[rows, step]]
                first, second = sorted(one.labels[row] for row in present)[:2]
                raise ExecutionError(
                    f"found duplicate series for the match group {labels_text(keys[key])} on the "
                    f"{'left' if self.swapped else 'right'} hand-side of the operation: "
                    f"[{labels_text(first)}, {labels_text(second)}]"
                    ";many-to-many matching not allowed: matching labels must be unique on one side"
                )

    def paired(self, many: Block, one: Block, pairs: _Pairs) -> Block:
        mask = many.mask[pairs.many] & one.mask[pairs.one]
        labels = [
            self.labels(many.labels[m], one.labels[o])
            for m, o in zip(pairs.many.tolist(), pairs.one.tolist(), strict=True)
        ]
        self.refuse_ambiguity(labels, mask, pairs.keys)
        values, holds = self.calculate(many.values[pairs.many], one.values[pairs.one])
        return self.result(labels, values, mask, holds, many.nameless[pairs.many])

    def refuse_ambiguity(self, labels: list[Labels], mask: BoolArray, keys: IntArray) -> None:
        """Check that results are unique, before a comparison filters some of them away."""
        first: dict[tuple[int, Labels], int] = {}
        for key, label in zip(keys.tolist(), labels, strict=True):
            first.setdefault((key, Labels() if self.one_to_one else label), len(first))
        if len(first) == len(labels):
            return
        targets = [
            first[key, Labels() if self.one_to_one else label]
            for key, label in zip(keys.tolist(), labels, strict=True)
        ]
        counts = np.zeros((len(first), mask.shape[1]), np.int64)
        np.add.at(counts, np.asarray(targets), mask)
        if (counts > 1).any():
            raise ExecutionError(_MANY_TO_ONE if self.one_to_one else _NOT_UNIQUE)

    def filled_one(self, many: Block, keys: IntArray, there: BoolArray) -> Block:
        """Match the many's values that miss a partner with the value to fill in."""
        assert self.fill_one is not None
        mask = many.mask & ~there[keys]
        labels = [self.labels(labels, Labels()) for labels in many.labels]
        values, holds = self.calculate(many.values, np.full_like(many.values, self.fill_one))
        return self.result(labels, values, mask, holds, many.nameless)

    def filled_many(
        self, one: Block, numbers: IntArray, keys: list[Labels], there: BoolArray
    ) -> Block:
        """Match the one's values that miss a partner with the value to fill in."""
        assert self.fill_many is not None
        mask = one.mask & ~there[numbers]
        labels = [
            self.labels(keys[number], labels)
            for number, labels in zip(numbers.tolist(), one.labels, strict=True)
        ]
        values, holds = self.calculate(np.full_like(one.values, self.fill_many), one.values)
        return self.result(labels, values, mask, holds, np.zeros(one.rows, bool))

    def calculate(self, many: FloatArray, one: FloatArray) -> tuple[FloatArray, BoolArray | None]:
        lhs, rhs = (one, many) if self.swapped else (many, one)
        return elements(self.node.op, lhs, rhs, lhs, return_bool=self.node.return_bool)

    def result(
        self,
        labels: list[Labels],
        values: FloatArray,
        mask: BoolArray,
        holds: BoolArray | None,
        nameless: BoolArray,
    ) -> Block:
        flags = np.ones(len(labels), bool) if self.drops_name else nameless
        block = Block(labels, values, mask if holds is None else mask & holds, flags)
        return self.naming.resolved(without_empty_rows(block))

    def labels(self, many: Labels, one: Labels) -> Labels:
        matching = self.matching
        if self.one_to_one:
            names = matching.labels
            if matching.on:
                many = Labels(pair for pair in many if pair[0] in names)
            elif names:
                many = many.without(*names)
        if not matching.include:
            return many
        include = matching.include
        pairs = [pair for pair in many if pair[0] not in include]
        pairs += [pair for pair in one if pair[0] in include]
        pairs.sort()
        return Labels(pairs)


def labels_text(labels: Labels) -> str:
    """Write labels as upstream's messages do, with the name among the others."""
    return "{" + ", ".join(f"{name}={quote(value)}" for name, value in labels) + "}"
