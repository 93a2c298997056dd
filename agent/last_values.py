"""The newest stored value of series, also if only chunks hold it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from ..storage.frame import RefArray, is_absent, is_stale
from ..storage.select import Querier
from ..storage.store import Store

_HOUR_MS: Final = 3_600_000
#: How far back is looked, in growing steps: a box that was off for a weekend costs three reads.
_STEPS_MS: Final = (_HOUR_MS, 24 * _HOUR_MS, 10 * 24 * _HOUR_MS, 1 << 62)


async def last_values(store: Store, refs: RefArray) -> Mapping[int, float]:
    """
    Return the newest value, other than a stale marker, by ref, of those that have one.

    Args:
        refs: Rising.

    Raises:
        StorageError: The store can't be read.
    """
    found: dict[int, float] = {}
    times, values = store.current.get(refs)
    gone = is_absent(values) | is_stale(values)
    for ref, value, is_gone in zip(refs.tolist(), values.tolist(), gone.tolist(), strict=True):
        if not is_gone:
            found[ref] = value
    end_ms = store.clock.now_ms()
    newest_ms = int(times.max()) if len(times) else 0
    end_ms = max(end_ms, newest_ms)
    for span_ms in _STEPS_MS:
        missing = refs[[ref not in found for ref in refs.tolist()]]
        if not len(missing):
            break
        start_ms = max(0, end_ms - span_ms)

        def job(querier: Querier, refs: RefArray = missing, min_ms: int = start_ms) -> None:
            for frame in querier.frames(refs, min_ms, end_ms):
                gone = is_absent(frame.values) | is_stale(frame.values)
                for series, row, left_out in zip(frame.series, frame.values, gone, strict=True):
                    kept = row[~left_out]
                    if len(kept):
                        found[series.ref] = float(kept[-1])

        await store.read(job)
    return found
