"""Which blocks exist: the map of the chunks on disk, kept in memory and never changed in place."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from .keys import PART_MAX, POINTS_GROUP, day_of, split_key


@dataclass(frozen=True, slots=True)
class Block:
    """One run of ticks of a group (or, in group 0, of points), as its row in ``block`` says."""

    key: int
    min_ms: int
    max_ms: int
    n: int

    @property
    def window(self) -> int:
        return split_key(self.key)[0]

    @property
    def part(self) -> int:
        return split_key(self.key)[1]

    @property
    def group(self) -> int:
        return split_key(self.key)[2]


@dataclass(frozen=True)
class Catalogue:
    """
    All blocks by group, in order of their keys, so that later parts come later.

    ``generation`` is the database's when this became true; a reader compares it with the snapshot
    it sees.
    """

    generation: int = 0
    blocks: Mapping[int, Sequence[Block]] = field(default_factory=dict)

    @cached_property
    def days(self) -> frozenset[int]:
        """UTC days that have blocks; no block crosses midnight."""
        return frozenset(day_of(block.min_ms) for block in self)

    @staticmethod
    def of(blocks: Iterable[Block], generation: int) -> Catalogue:
        by_group: dict[int, list[Block]] = {}
        for block in sorted(blocks, key=lambda b: b.key):
            by_group.setdefault(block.group, []).append(block)
        return Catalogue(generation, by_group)

    def changed(
        self, generation: int, *, added: Iterable[Block] = (), removed: Iterable[int] = ()
    ) -> Catalogue:
        """Return the catalogue after a transaction that added and removed blocks."""
        added, gone = list(added), set(removed)
        blocks = dict(self.blocks)
        for group in {b.group for b in added} | {split_key(key)[2] for key in gone}:
            kept = [b for b in blocks.get(group, ()) if b.key not in gone]
            kept += [b for b in added if b.group == group]
            kept.sort(key=lambda b: b.key)
            if kept:
                blocks[group] = kept
            else:
                blocks.pop(group, None)
        return Catalogue(generation, blocks)

    def overlapping(self, group: int, min_ms: int, max_ms: int) -> list[Block]:
        return [b for b in self.blocks.get(group, ()) if b.min_ms <= max_ms and b.max_ms >= min_ms]

    def __iter__(self) -> Iterator[Block]:
        for blocks in self.blocks.values():
            yield from blocks

    def newest_ms(self, group: int) -> int:
        """Time of the newest sealed sample of a group, -1 if it has none."""
        return max((b.max_ms for b in self.blocks.get(group, ())), default=-1)


class PartNumbers:
    """
    Gives out part numbers for the new blocks of one job.

    Later data get higher parts, as readers let the last part win. Points share their rows' key
    space with every group, so they go above all of their window's parts, and groups above them.
    """

    def __init__(self, catalogue: Catalogue) -> None:
        self._taken: dict[int, dict[int, int]] = {}  # window -> group -> highest part
        self._points = list(catalogue.blocks.get(POINTS_GROUP, ()))
        for block in catalogue:
            self._take(block.window, block.group, block.part)

    def window_of_points(self, window: int, min_ms: int, max_ms: int) -> int:
        """
        Return the window, this one or later, in which new points of these times come after all that
        they may replace: blocks of points overlap in time, and readers take them by their keys.
        """
        met = (b.window for b in self._points if b.min_ms <= max_ms and b.max_ms >= min_ms)
        return max([window, *met])

    def next(self, group: int, window: int) -> int | None:
        """Return the next part of a window, or ``None`` if it has no room for another."""
        taken = self._taken.get(window, {})
        if group == POINTS_GROUP:
            part = max(taken.values(), default=-1) + 1
        else:
            part = max(taken.get(group, -1), taken.get(POINTS_GROUP, -1)) + 1
        if part > PART_MAX:
            return None
        self._take(window, group, part)
        return part

    def _take(self, window: int, group: int, part: int) -> None:
        parts = self._taken.setdefault(window, {})
        parts[group] = max(part, parts.get(group, -1))


class Ledger:
    """
    What is on disk, as the last commit left it. The writer thread swaps it, right after the commit;
    readers take what they see.
    """

    def __init__(self) -> None:
        self.catalogue = Catalogue()
        #: UTC days whose rollup rows are written.
        self.compacted: frozenset[int] = frozenset()
        #: Grows when chunks of blocks that stay have been changed: what was decoded of them before
        #: is out of date.
        self.era = 0
        #: Grows when something was deleted, replaced or rolled up: what was computed before may be
        #: answered otherwise now. New samples and their way into chunks do not count.
        self.revision = 0
        self._eras, self._revisions = itertools.count(1), itertools.count(1)

    def rewritten(self) -> None:
        """Note that chunks were deleted or replaced, after it was committed. Any thread may."""
        self.era = next(self._eras)
        self.revision = next(self._revisions)

    def change(
        self,
        generation: int,
        *,
        added: Iterable[Block] = (),
        removed: Iterable[int] = (),
        compacted: frozenset[int] | None = None,
    ) -> None:
        """Follow a transaction that bumped the generation."""
        removed = list(removed)
        if compacted is not None:
            self.compacted = compacted
        self.catalogue = self.catalogue.changed(generation, added=added, removed=removed)
        if removed or compacted is not None:
            self.revision = next(self._revisions)
