"""The index in memory: label set to series, and matchers to the series that satisfy them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final, NoReturn

import numpy as np

from ..config.selector import Matcher, MatchOp
from ..config.settings import StorageLimits
from .errors import SeriesRefused
from .frame import BoolArray, RefArray
from .model import METRIC_NAME, Kind, Labels, Series

_SEPARATOR: Final = "\x1f"
_EMPTY: Final = np.empty(0, np.uint32)
#: Selections that are remembered until the set of series changes.
_SELECTIONS_MAX: Final = 256
#: Metrics whose refusals are counted by name; the culprits come first, and often.
_REFUSED_METRICS_MAX: Final = 1_000
_NAME_CHARS_MAX: Final = 200


def pack_labels(labels: Labels) -> str:
    """Join a label set into the text that the ``series`` table keeps."""
    return _SEPARATOR.join(part for pair in labels for part in pair)


def unpack_labels(text: str) -> Labels:
    parts = text.split(_SEPARATOR)
    return Labels(zip(parts[::2], parts[1::2], strict=True))


class Index:
    """
    All series by number, by label set, and by label value.

    ``version`` grows with every change of the set of series. Only the event loop's thread changes
    it; :meth:`select` may run in any thread.
    """

    def __init__(self, limits: StorageLimits) -> None:
        self.limits = limits
        self.version = 0
        #: New series that were refused, by limit and by metric.
        self.refused: Counter[str] = Counter()
        self.refused_metrics: Counter[str] = Counter()
        self._by_ref: dict[int, Series] = {}
        self._by_labels: dict[Labels, Series] = {}
        self._postings: dict[str, dict[str, list[int]]] = {}
        self._selections: dict[tuple[Matcher, ...], tuple[int, RefArray]] = {}
        self._next_ref = 1

    def __len__(self) -> int:
        return len(self._by_ref)

    def series(self) -> Iterable[Series]:
        """All series, oldest first."""
        return self._by_ref.values()

    def get(self, ref: int) -> Series | None:
        return self._by_ref.get(ref)

    def find(self, labels: Labels) -> Series | None:
        return self._by_labels.get(labels)

    def has_metric(self, name: str) -> bool:
        """Whether there are series of that metric name."""
        return name in self._postings.get(METRIC_NAME, {})

    @property
    def next_ref(self) -> int:
        """The number that the next new series gets."""
        return self._next_ref

    def reserve(self, next_ref: int) -> None:
        """Never give out a number below ``next_ref``: numbers are not reused across restarts."""
        self._next_ref = max(self._next_ref, next_ref)

    def load(self, series: Series) -> None:
        """Take a series that the store already has; limits do not apply to it."""
        self._insert(series)
        self.reserve(series.ref + 1)

    def add(self, labels: Labels, kind: Kind, created_ms: int) -> Series:
        """
        Create a series that :meth:`find` did not find.

        Raises:
            SeriesRefused: A limit is reached, or a label cannot be stored.
        """
        self.check(labels)
        series = Series(self._next_ref, labels, kind, created_ms)
        self._next_ref += 1
        self._insert(series)
        return series

    def check(self, labels: Labels) -> None:
        """Raise what :meth:`add` would raise, and count it."""
        try:
            self._check(labels)
        except SeriesRefused:
            self._note_refused(labels.name[:_NAME_CHARS_MAX])
            raise

    def remove(self, refs: Iterable[int]) -> None:
        """Forget series; their numbers stay used."""
        gone: set[int] = set()
        pairs: set[tuple[str, str]] = set()
        for ref in refs:
            series = self._by_ref.pop(ref, None)
            if series is not None:
                del self._by_labels[series.labels]
                gone.add(ref)
                pairs.update(series.labels)
        # Each list once, not once a series: a label that all have would take minutes. A new list,
        # as readers may be walking the old one.
        for name, value in pairs:
            values = self._postings[name]
            kept = [ref for ref in values[value] if ref not in gone]
            if kept:
                values[value] = kept
                continue
            del values[value]
            if not values:
                del self._postings[name]
        self.version += 1

    def select(self, matchers: Sequence[Matcher]) -> RefArray:
        """Return the numbers, rising, of the series that satisfy every matcher."""
        key = tuple(matchers)
        version = self.version
        cached = self._selections.get(key)
        if cached is not None and cached[0] == version:
            return cached[1]
        refs = self._select(key)
        if len(self._selections) >= _SELECTIONS_MAX:
            self._selections.clear()
        self._selections[key] = (version, refs)
        return refs

    def label_names(self, among: BoolArray | None = None) -> list[str]:
        """Return all label names, or those of some series: ``among`` tells them by number."""
        if among is None:
            return sorted(self._postings)
        return sorted(
            name
            for name, values in list(self._postings.items())
            if any(_has_any(refs, among) for refs in list(values.values()))
        )

    def label_values(self, name: str, among: BoolArray | None = None) -> list[str]:
        """Return all values of a label, or those among some series."""
        values = self._postings.get(name, {})
        if among is None:
            return sorted(values)
        return sorted(value for value, refs in list(values.items()) if _has_any(refs, among))

    def label_cardinality(self) -> dict[str, int]:
        """Number of distinct values by label name."""
        return {name: len(values) for name, values in self._postings.items()}

    def value_cardinality(self, name: str) -> dict[str, int]:
        """Number of series by value of a label."""
        return {value: len(refs) for value, refs in list(self._postings.get(name, {}).items())}

    def metric_cardinality(self) -> dict[str, int]:
        """Number of series by metric name."""
        return {name: len(refs) for name, refs in self._postings.get(METRIC_NAME, {}).items()}

    def _note_refused(self, name: str) -> None:
        if name in self.refused_metrics or len(self.refused_metrics) < _REFUSED_METRICS_MAX:
            self.refused_metrics[name] += 1

    def _insert(self, series: Series) -> None:
        self._by_ref[series.ref] = series
        self._by_labels[series.labels] = series
        for name, value in series.labels:
            self._postings.setdefault(name, {}).setdefault(value, []).append(series.ref)
        self.version += 1

    def _check(self, labels: Labels) -> None:
        limits = self.limits
        same_name = self._postings.get(METRIC_NAME, {}).get(labels.name, ())
        if not labels.name:
            self._refuse("no_name", f"{labels}: a series needs a metric name")
        if len(self._by_ref) >= limits.series:
            self._refuse("series", f"{labels}: the limit of {limits.series} series is reached")
        if len(same_name) >= limits.series_per_metric:
            self._refuse(
                "series_per_metric",
                f"{labels}: the limit of {limits.series_per_metric} series a metric is reached",
            )
        if len(labels) > limits.labels_per_series:
            self._refuse(
                "labels_per_series",
                f"{labels.name} has {len(labels)} labels; {limits.labels_per_series} are allowed",
            )
        for name, value in labels:
            if _SEPARATOR in name or _SEPARATOR in value:
                self._refuse("label_bytes", f"{labels.name}: label {name!r} has a 0x1F in it")
            try:
                name_bytes, value_bytes = len(name.encode()), len(value.encode())
            except UnicodeEncodeError:
                self._refuse("label_bytes", f"{labels.name!r}: label {name!r} is not valid UTF-8")
            if name_bytes > limits.label_name_bytes:
                self._refuse(
                    "label_bytes",
                    f"{labels.name}: label name {name[:40]!r}… is longer than "
                    f"{limits.label_name_bytes} bytes",
                )
            if value_bytes > limits.label_value_bytes:
                self._refuse(
                    "label_bytes",
                    f"{labels.name}: value of label {name!r} is longer than "
                    f"{limits.label_value_bytes} bytes",
                )

    def _refuse(self, reason: str, message: str) -> NoReturn:
        self.refused[reason] += 1
        raise SeriesRefused(reason, message)

    def _select(self, matchers: tuple[Matcher, ...]) -> RefArray:
        found: RefArray | None = None
        excluded: list[RefArray] = []
        for matcher in matchers:
            if matcher.matches(""):
                # Also the series without that label: take away those whose value does not match.
                refs = self._with_value(matcher, wanted=False)
                if len(refs):
                    excluded.append(refs)
                continue
            refs = self._with_value(matcher, wanted=True)
            found = refs if found is None else np.intersect1d(found, refs, assume_unique=True)
            if not len(found):
                return _EMPTY
        if found is None:
            found = np.fromiter(tuple(self._by_ref), np.uint32)
            found.sort()
        for refs in excluded:
            found = np.setdiff1d(found, refs, assume_unique=True)
        return found

    def _with_value(self, matcher: Matcher, *, wanted: bool) -> RefArray:
        """Numbers, rising, of the series that have the label with a value that does (not) match."""
        values = self._postings.get(matcher.name)
        if values is None:
            return _EMPTY
        if matcher.op is MatchOp.EQUAL and wanted:
            postings = [values.get(matcher.value, [])]
        else:
            # list() is atomic under the GIL: a new value may be added meanwhile.
            postings = [
                values.get(value, []) for value in list(values) if matcher.matches(value) == wanted
            ]
        if not postings:
            return _EMPTY
        if len(postings) == 1:
            return np.array(postings[0], np.uint32)
        merged = np.concatenate([np.array(refs, np.uint32) for refs in postings])
        merged.sort()
        return merged


def _has_any(refs: list[int], among: BoolArray) -> bool:
    numbers = np.array(refs, np.uint32)
    return bool(among[numbers[numbers < len(among)]].any())
