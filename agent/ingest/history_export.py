"""History out of the store, as text, a piece at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from ...config.selector import Matcher
from ...storage.dump import Dump
from ...storage.frame import distinct
from ...storage.metadata import Families
from ...storage.select import Querier
from .history import Run, Writer
from .history_csv import CsvWriter
from .history_jsonl import JsonLinesWriter
from .history_openmetrics import OpenMetricsWriter, family_key
from .history_types import type_of

#: How to make a writer of each format, by the names of the command line.
WRITERS: Final[dict[str, Callable[[], Writer]]] = {
    "vm-jsonl": JsonLinesWriter,
    "csv": CsvWriter,
    "openmetrics": OpenMetricsWriter,
}
CONTENT_TYPES: Final = {
    "vm-jsonl": "application/x-ndjson",
    "csv": "text/csv; charset=utf-8",
    "openmetrics": "application/openmetrics-text; version=1.0.0; charset=utf-8",
}


class HistoryExport:
    """
    Writes the samples of some selectors with ``min_ms <= t <= max_ms``.

    Attributes:
        is_over: Whether the whole text was returned.
    """

    def __init__(
        self,
        writer: Writer,
        families: Families,
        selectors: Sequence[Sequence[Matcher]],
        min_ms: int,
        max_ms: int,
    ) -> None:
        self._writer, self._families, self._selectors = writer, families, selectors
        self._range_ms = min_ms, max_ms
        self._dump: Dump | None = None
        self.is_over = False

    @property
    def samples(self) -> int:
        """How many samples were read so far."""
        return 0 if self._dump is None else self._dump.samples

    @property
    def left_out(self) -> int:
        """How many of them the format has no word for."""
        return self._writer.left_out

    def step(self, querier: Querier) -> bytes:
        """Return the next piece of the text. Each step may be given another snapshot."""
        text = b""
        if self._dump is None:
            self._dump = self._begin(querier)
            text = self._writer.begin()
        text += self._writer.write(
            Run(
                each.series.labels,
                each.ts_ms,
                each.values,
                *type_of(each.series, self._families),
            )
            for each in self._dump.step(querier)
        )
        self.is_over = self._dump.is_over
        return text + self._writer.end() if self.is_over else text

    def _begin(self, querier: Querier) -> Dump:
        refs = [querier.index.select(matchers) for matchers in self._selectors]
        series = querier.resolve(distinct(np.concatenate(refs)))
        is_whole = isinstance(self._writer, OpenMetricsWriter)
        if is_whole:
            families = self._families
            series.sort(key=lambda one: family_key(one.labels, type_of(one, families)[0]))
        return Dump(querier, series, *self._range_ms, whole=is_whole)
