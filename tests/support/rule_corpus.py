"""
The expressions of ``../shared/conformance/rules``, and a world whose series they select.

Every selector gets two series with the labels that it names, so that most expressions have an
answer; counters start anew, some series end with a stale marker and some have holes.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import yaml

from support.store import refs_of
from tachograph.aggregation.promql.errors import ParseError
from tachograph.aggregation.promql.nodes import VectorSelector, walk
from tachograph.aggregation.promql.parser import parse
from tachograph.config.selector import Matcher, MatchOp
from tachograph.storage.frame import ABSENT, STALE_NAN, FloatArray, IntArray, is_absent
from tachograph.storage.model import Labels
from tachograph.storage.store import Store

RULES: Final = Path(__file__).resolve().parents[3] / "shared" / "conformance" / "rules"

END_MS: Final = 1_767_614_400_000
_HOUR_MS: Final = 3_600_000
_SPAN_MS: Final = _HOUR_MS // 2
#: Off the grid of whole seconds: windows of Prometheus 2 and 3 have the same samples in them.
_PHASE_MS: Final = 337
_STEP_MS: Final = 30_000
#: Half an hour, and some ticks before for rules that look back by an hour, a day or a week.
_AGO_H: Final = (168, 24, 1)
#: Of one remote write; 5,000 series of them take 3 MB.
_SLICE_TICKS: Final = 20
_BOUNDS: Final = ("0.1", "0.5", "1", "5", "+Inf")
_COUNTERS: Final = ("_total", "_count", "_sum", "_bucket")
#: Where nothing else is said.
_PLACES: Final = ({"instance": "a:1", "job": "x"}, {"instance": "b:1", "job": "x"})
_SIZES: Final = (1, 1, 100, 5_000, 1 << 30)


def expressions() -> list[str]:
    """Every distinct expression, in order."""
    found: dict[str, None] = {}
    for path in sorted(RULES.glob("*.yml")):
        for group in yaml.load(path.read_text(), yaml.CSafeLoader)["groups"]:
            found.update((str(rule["expr"]), None) for rule in group["rules"])
    return list(found)


@dataclass(frozen=True, slots=True)
class CorpusWorld:
    """Series with common times; ``values`` ``[series, times]``, absent cells among them."""

    labels: list[Labels]
    ts_ms: IntArray
    values: FloatArray

    async def fill(self, store: Store) -> None:
        """Put it into an open store: half of it sealed into chunks, half of it in the head."""
        groups: dict[str, list[int]] = {}
        for row, labels in enumerate(self.labels):
            groups.setdefault(labels.get("instance"), []).append(row)
        half = len(self.ts_ms) // 2
        for part in (slice(0, half), slice(half, None)):
            for name, rows in groups.items():
                group = store.group(name)
                refs = refs_of(group.ref(self.labels[row]) for row in rows)
                for ts_ms, tick in zip(
                    self.ts_ms[part].tolist(), self.values[rows, part].T, strict=True
                ):
                    here = ~is_absent(tick)
                    group.append(ts_ms, refs[here], tick[here])
            if not part.start:
                await store.seal()
        await store.flush()

    def slices(self) -> Iterator[list[tuple[Labels, list[tuple[float, int]]]]]:
        """Yield everything in order of time, in parts that one remote write takes."""
        here = ~is_absent(self.values)
        for low in range(0, len(self.ts_ms), _SLICE_TICKS):
            yield [
                (labels, [(row[at], self.ts_ms[at].item()) for at in range(low, high) if kept[at]])
                for labels, row, kept in zip(
                    self.labels, self.values.tolist(), here.tolist(), strict=True
                )
                for high in [min(low + _SLICE_TICKS, len(self.ts_ms))]
            ]


def world_of(texts: Iterable[str]) -> CorpusWorld:
    """Make the series that expressions select."""
    found: dict[Labels, None] = {}
    for text in texts:
        try:
            expr = parse(text, experimental=True)
        except ParseError:
            continue
        for node in walk(expr):
            if isinstance(node, VectorSelector):
                found.update((labels, None) for labels in _selected(node.matchers))
    old = [END_MS - ago * _HOUR_MS - n * _STEP_MS for ago in _AGO_H for n in range(8, 0, -1)]
    new = range(END_MS - _SPAN_MS, END_MS, _STEP_MS)
    ts_ms = np.array([*old, *new], np.int64) + _PHASE_MS
    rng = np.random.default_rng(7)
    labels = list(found)
    values = np.array([_values(one, len(ts_ms), rng) for one in labels])
    _accumulate(labels, values)
    for row in range(0, len(labels), 11):
        _tear(values[row], rng)
    return CorpusWorld(labels, ts_ms, values)


def _selected(matchers: Sequence[Matcher]) -> Iterator[Labels]:
    chosen: dict[str, str] = {}
    for matcher in matchers:
        if value := _value(matcher, matchers):
            chosen.setdefault(matcher.name, value)
    named = {matcher.name for matcher in matchers}
    name = chosen.setdefault("__name__", "anything")
    for place in _PLACES:
        kept = {key: value for key, value in place.items() if key not in named}
        pairs = {**kept, **chosen}
        if name.endswith("_bucket"):
            for bound in {*_BOUNDS, chosen.get("le", "1")}:
                yield Labels.of({**pairs, "le": bound})
        else:
            yield Labels.of(pairs)


def _value(matcher: Matcher, matchers: Sequence[Matcher]) -> str:
    """Return a value that a label may have, empty if none comes to mind."""
    tries = [matcher.value]
    if matcher.op in (MatchOp.REGEX, MatchOp.NOT_REGEX):
        plain = re.sub(r"[\\^$]|\(\?[a-z]+\)|\?:", "", matcher.value)
        tries = []
        for part in re.split(r"[|()]", plain):
            tries.append(re.sub(r"\[\^?.+?\][+*]?|\.[+*]?", "1", part))
            tries.append(re.sub(r"\.[+*]", "", part))
        tries += ["".join(tries[1::2]), "1", "200", "500"]
    elif matcher.op is MatchOp.NOT_EQUAL:
        tries = ["1"]
    same = [one for one in matchers if one.name == matcher.name]
    good = (each for each in tries if each and all(one.matches(each) for one in same))
    return next(good, "")


def _values(labels: Labels, count: int, rng: np.random.Generator) -> FloatArray:
    # Small multiples of 1/64: sums of them are exact in any order.
    size = random.Random(str(labels)).choice(_SIZES)
    values = np.round(rng.random(count) * size * 64) / 64
    if labels.name.endswith(_COUNTERS):
        values = np.cumsum(values)
        if rng.random() < 0.5:
            reset = int(rng.integers(1, count))
            values[reset:] -= values[reset]
    elif rng.random() < 0.2:
        values = np.full(count, float(rng.integers(0, 2)))
    return values


def _accumulate(labels: Sequence[Labels], values: FloatArray) -> None:
    """Let histogram buckets hold what those below them hold."""
    families: dict[Labels, list[tuple[float, int]]] = {}
    for row, one in enumerate(labels):
        if one.name.endswith("_bucket") and (bound := one.get("le")):
            rest = Labels.of({key: value for key, value in one if key != "le"})
            families.setdefault(rest, []).append((_bound(bound), row))
    for members in families.values():
        rows = [row for _, row in sorted(members)]
        values[rows] = np.cumsum(values[rows], axis=0)


def _bound(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


def _tear(values: FloatArray, rng: np.random.Generator) -> None:
    """Take a hole out of a series, or all that follows a stale marker."""
    at = int(rng.integers(len(values) // 2, len(values) - 4))
    if rng.random() < 0.5:
        values[at], values[at + 1 :] = STALE_NAN, ABSENT
    else:
        values[at : at + 4] = ABSENT
