"""Series that a limit refuses are counted by limit and by metric."""

from __future__ import annotations

import pytest

from tachograph.config.settings import StorageLimits
from tachograph.storage.errors import SeriesRefused
from tachograph.storage.labels import Index
from tachograph.storage.model import Kind, Labels


def test_refusals_name_the_metric() -> None:
    index = Index(StorageLimits(series_per_metric=2))
    for number in range(5):
        labels = Labels.of({"n": str(number)}, "orders")
        if number < 2:
            index.add(labels, Kind.GAUGE, 0)
        else:
            with pytest.raises(SeriesRefused):
                index.add(labels, Kind.GAUGE, 0)
    with pytest.raises(SeriesRefused):
        index.add(Labels.of({"n": "\x1f"}, "other"), Kind.GAUGE, 0)
    assert index.refused == {"series_per_metric": 3, "label_bytes": 1}
    assert index.refused_metrics == {"orders": 3, "other": 1}


def test_what_is_remembered_of_refusals_is_bounded() -> None:
    index = Index(StorageLimits(series=0))
    for number in range(3000):
        with pytest.raises(SeriesRefused):
            index.add(Labels.of({}, f"m{number}" + "x" * 500), Kind.GAUGE, 0)
    assert index.refused["series"] == 3000
    assert len(index.refused_metrics) == 1000
    assert max(map(len, index.refused_metrics)) == 200
