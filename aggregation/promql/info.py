"""``info()``: adds the labels of info metrics, such as ``target_info``, to other series."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np

from ...config.selector import Matcher, MatchOp
from ...storage.frame import BoolArray, IntArray
from ...storage.model import METRIC_NAME, Labels
from .errors import ExecutionError
from .matching import labels_text
from .values import Block, merged, without_empty_rows

#: The labels by which a series finds the info metrics of its target.
IDENTIFYING: Final = ("instance", "job")
_DEFAULT_METRIC: Final = "target_info"
_POSITIVE: Final = (MatchOp.EQUAL, MatchOp.REGEX)

#: Info series with the times at which their values were taken, ``[steps]`` or ``[rows, steps]``.
Found = Iterable[tuple[Block, IntArray]]


class InfoQuery:
    """
    What a call of ``info`` asks for.

    Args:
        matchers: Those of the second argument, if there is one.
    """

    def __init__(self, matchers: Sequence[Matcher]) -> None:
        names = [matcher for matcher in matchers if matcher.name == METRIC_NAME]
        if not any(matcher.op in _POSITIVE for matcher in names):
            names.append(Matcher(METRIC_NAME, MatchOp.EQUAL, _DEFAULT_METRIC))
        self._names = names
        self._data = [matcher for matcher in matchers if matcher.name != METRIC_NAME]
        self._wanted = {matcher.name for matcher in self._data}

    @property
    def matchers(self) -> list[Matcher]:
        """What selects the info series."""
        return self._names + self._data

    def enrich(self, base: Block, found: Found) -> Block:
        """
        Add the info metrics' labels to a vector's series.

        Raises:
            ExecutionError: Two info metrics disagree on a label, or two series of one have values
                of the same time.
        """
        infos = _Infos(found)
        rows: list[tuple[int, Labels, BoolArray]] = []
        optional = all(matcher.matches("") for matcher in self._data)
        for row, labels in enumerate(base.labels):
            mask = base.mask[row]
            name = labels.get(METRIC_NAME)
            itself = all(matcher.matches(name) for matcher in self._names)
            sources = [] if itself else infos.of(labels)
            if not sources:
                if itself or optional:
                    rows.append((row, labels, mask))
                continue
            # Every combination of info series occurs at some steps of its own.
            choice = np.stack([source.chosen for source in sources])
            for number in {tuple(column) for column in choice[:, mask].T.tolist()}:
                steps = mask & (choice == np.array(number)[:, None]).all(axis=0)
                if all(index < 0 for index in number):
                    if optional:
                        rows.append((row, labels, steps))
                    continue
                rows.append((row, self._enriched(labels, infos.labels_of(number)), steps))
        index = np.array([row for row, _, _ in rows], np.int64)
        masks = np.array([mask for _, _, mask in rows]).reshape(len(rows), base.mask.shape[1])
        block = Block(
            [labels for _, labels, _ in rows], base.values[index], masks, base.nameless[index]
        )
        return merged(without_empty_rows(block))

    def _enriched(self, labels: Labels, infos: list[Labels]) -> Labels:
        own = {name for name, _ in labels}
        added: dict[str, str] = {}
        for info in infos:
            for name, value in info:
                if name in own or name == METRIC_NAME or name in IDENTIFYING:
                    continue
                if self._wanted and name not in self._wanted:
                    continue
                if added.setdefault(name, value) != value:
                    raise ExecutionError(f"conflicting label: {name}")
        return Labels(sorted((*labels, *added.items())))


class _Source:
    """One info metric of one target: which of its series counts at each step (-1: none)."""

    def __init__(self, steps: int) -> None:
        self.chosen = np.full(steps, -1)
        self._taken_ms = np.full(steps, np.iinfo(np.int64).min)

    def offer(self, index: int, mask: BoolArray, taken_ms: IntArray, labels: list[Labels]) -> None:
        """Let a series in where its sample is newer than what is there."""
        clash = mask & (self.chosen >= 0) & (taken_ms == self._taken_ms)
        if clash.any():
            step = int(np.flatnonzero(clash)[0])
            existing, time_ms = labels[self.chosen[step]], int(taken_ms[step])
            raise ExecutionError(
                f"found duplicate series for info metric: existing {labels_text(existing)} "
                f"@ {time_ms}, new {labels_text(labels[index])} @ {time_ms}"
            )
        newer = mask & (taken_ms > self._taken_ms)
        self.chosen[newer], self._taken_ms[newer] = index, taken_ms[newer]


class _Infos:
    def __init__(self, found: Found) -> None:
        self._labels: list[Labels] = []
        self._targets: dict[tuple[str, ...], dict[str, _Source]] = {}
        for block, times_ms in found:
            taken_ms = np.broadcast_to(times_ms, block.mask.shape)
            for row, labels in enumerate(block.labels):
                self._labels.append(labels)
                target = self._targets.setdefault(_identity(labels), {})
                source = target.setdefault(labels.get(METRIC_NAME), _Source(block.mask.shape[1]))
                index = len(self._labels) - 1
                source.offer(index, block.mask[row], taken_ms[row], self._labels)

    def of(self, labels: Labels) -> list[_Source]:
        """The info metrics of a series' target, by name; none without identifying labels."""
        identity = _identity(labels)
        if not any(identity):
            return []
        return [source for _, source in sorted(self._targets.get(identity, {}).items())]

    def labels_of(self, indexes: Iterable[int]) -> list[Labels]:
        return [self._labels[index] for index in indexes if index >= 0]


def _identity(labels: Labels) -> tuple[str, ...]:
    return tuple(labels.get(name) for name in IDENTIFYING)
