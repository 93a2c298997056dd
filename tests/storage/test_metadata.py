"""What is known of metric families, and what becomes of it when there are too many."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.clock import ManualClock
from support.store import FailingConnection, put_points, store_settings
from tachograph.storage.errors import StorageError
from tachograph.storage.metadata import TEXT_CHARS_MAX, Families
from tachograph.storage.model import Labels, Metadata, MetricType
from tachograph.storage.store import Store

GAUGE = Metadata(MetricType.GAUGE, "How full it is.", "ratio")
COUNTER = Metadata(MetricType.COUNTER)


def test_what_is_no_news_changes_nothing() -> None:
    families = Families()
    assert families.set("level", GAUGE) == [("level", GAUGE)]
    version = families.version
    assert families.set("level", GAUGE) == []
    assert families.version == version
    assert families.set("level", COUNTER) == [("level", COUNTER)]
    assert families.version > version


def test_the_first_described_without_series_makes_room() -> None:
    used = {"a", "c_total"}
    families = Families(used.__contains__, most=3)
    for name in "abc":
        families.set(name, COUNTER)
    assert families.set("d", GAUGE) == [("b", None), ("d", GAUGE)]
    assert [name for name, _ in families.items()] == ["a", "c", "d"]
    assert families.refused == 0


def test_while_all_have_series_a_new_family_is_refused_and_counted() -> None:
    families = Families(lambda name: True, most=2)
    families.load({"a": GAUGE, "b": GAUGE})
    assert families.set("c", GAUGE) == []
    assert families.metadata("c") is None
    assert families.refused == 1
    assert families.set("a", COUNTER) == [("a", COUNTER)], "what is known may change"


def test_the_search_for_room_is_short_and_goes_on_where_it_was() -> None:
    looks: list[str] = []

    def has_series(name: str) -> bool:
        looks.append(name)
        return not name.startswith("f199")

    families = Families(has_series, most=200)
    families.load({f"f{n}": GAUGE for n in range(200)})
    for tries in range(1, 5):
        changes = families.set("new", GAUGE)
        assert len(looks) < 80 * tries
        if changes:
            break
    assert changes == [("f199", None), ("new", GAUGE)]
    assert tries == 4


def test_long_texts_are_cut_and_long_names_refused() -> None:
    families = Families()
    long = Metadata(MetricType.GAUGE, "x" * 10_000, "y" * 10_000)
    [(_, kept)] = families.set("a", long)
    assert kept == Metadata(MetricType.GAUGE, "x" * TEXT_CHARS_MAX, "y" * TEXT_CHARS_MAX)
    assert families.set("a", long) == [], "the same again is no news"
    assert families.set("z" * 5_000, GAUGE) == []
    assert families.refused == 1


async def test_a_store_forgets_families_on_disk_too(tmp_path: Path) -> None:
    store = Store(store_settings(tmp_path / "data"), ManualClock())
    await store.open()
    disk = FailingConnection.install(store)
    store.families._most = 2
    put_points(store, [(Labels.of({}, "used_total"), store.clock.now_ms(), 1.0)])
    for name in ("used", "unused"):
        store.describe(name, GAUGE)
    await store.flush()
    disk.fail_after(0)
    store.describe("new", COUNTER)
    with pytest.raises(StorageError):
        await store.flush()
    disk.heal()
    await store.close()
    again = Store(store_settings(tmp_path / "data"), ManualClock())
    await again.open()
    assert again.families.items() == [("new", COUNTER), ("used", GAUGE)]
    await again.close()
