"""A table of series for tests of the remote write decoder, and what a batch says in plain words."""

from __future__ import annotations

import numpy as np

from tachograph.agent.ingest.remote_series import SeriesTable
from tachograph.agent.ingest.remote_write import WriteBatch
from tachograph.storage.model import Labels

#: Labels (or what is wrong with them), time and the bits of the value.
Plain = list[tuple[Labels | str, int, int]]


class Senders:
    """Learns the series of batches as the store does, and remembers which is which."""

    def __init__(self) -> None:
        self.table = SeriesTable()
        self._labels: dict[int, Labels] = {}

    def take(self, batch: WriteBatch) -> Plain:
        """Return the samples of a batch; its good series are known from then on."""
        plain = self.plain(batch)
        for one in batch.fresh:
            if not one.fault:
                slot = self.table.add(one.key, 1, 1)
                self._labels[slot] = one.labels
        return plain

    def plain(self, batch: WriteBatch) -> Plain:
        """Return the samples of a batch in order."""
        bits = np.ascontiguousarray(batch.values).view(np.uint64)
        return [
            (self._name(batch, series), ts, value)
            for series, ts, value in zip(
                batch.series.tolist(), batch.ts_ms.tolist(), bits.tolist(), strict=True
            )
        ]

    def _name(self, batch: WriteBatch, series: int) -> Labels | str:
        if series >= 0:
            return self._labels[series]
        fresh = batch.fresh[~series]
        return fresh.fault or fresh.labels
