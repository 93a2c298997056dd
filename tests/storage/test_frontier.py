"""What a frontier says of samples that came since a mark."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from support.history import LOOSE, MINUTE, History
from tachograph.storage.frontier import ALWAYS_MS, NEVER_MS, Frontier
from tachograph.storage.select import Querier


@given(st.lists(st.integers(0, 20_000), max_size=60))
def test_never_later_than_what_came(times: list[int]) -> None:
    frontier = Frontier()
    marks = [frontier.mark]
    for ts_ms in times:
        frontier.note(ts_ms)
        marks.append(frontier.mark)
    for at, mark in enumerate(marks):
        earliest = min(times[at:], default=NEVER_MS)
        found = frontier.earliest_since(mark)
        assert found <= earliest
        assert found > earliest - 1_000, "and hardly earlier"


def test_old_marks_are_forgotten_not_guessed() -> None:
    frontier = Frontier()
    marks = []
    for second in range(20_000):
        marks.append(frontier.mark)
        frontier.note(second * 1_000)
    assert frontier.earliest_since(marks[0]) == ALWAYS_MS
    assert frontier.earliest_since(marks[-10]) == 19_990_000


async def test_store_notes_ticks_and_points(tmp_path: Path) -> None:
    h = History(tmp_path)
    await h.open()
    await h.ticks("web", 5, MINUTE)

    async def mark() -> Querier:
        return await h.store.read(lambda querier: querier)

    before = await mark()
    assert before.earliest_since(before.mark) == NEVER_MS
    await h.ticks("web", 3, MINUTE)
    newest_ms = h.clock.now_ms()
    assert newest_ms - 3 * MINUTE < before.earliest_since(before.mark) <= newest_ms - 2 * MINUTE
    after = await mark()
    late_ms = newest_ms - 100 * MINUTE
    h.points([(LOOSE[0], newest_ms, 1.0), (LOOSE[1], late_ms, 2.0)])
    assert after.earliest_since(after.mark) == late_ms
    revision = before.revision
    assert (await mark()).revision == revision
    await h.store.seal()
    assert (await mark()).revision == revision, "a seal changes no answer"
    await h.next_day()
    await h.compact()
    assert (await mark()).revision != revision
    await h.close()
