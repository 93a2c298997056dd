"""Which series are remote-written, and which began here."""

from __future__ import annotations

import numpy as np

from support.clock import ManualClock
from support.store import bits, put, read
from tachograph.agent.ingest.own_series import OwnSeries
from tachograph.agent.ingest.remote_store import RemoteWriter
from tachograph.agent.ingest.remote_write import decode_1
from tachograph.agent.wire import prompb
from tachograph.storage.exemplars import Exemplars
from tachograph.storage.model import Labels
from tachograph.storage.store import Store

MINE = Labels.of({"host": "a"}, "up")
SENT = [Labels.of({"job": "node", "instance": f"{n}:9100"}, "up") for n in range(3)]


async def send(store: Store, writer: RemoteWriter, ts_ms: int) -> None:
    request = prompb.write_request([(list(labels), [(1.0, ts_ms)]) for labels in SENT])
    await writer.write(decode_1(request, writer.table), "127.0.0.1 Prometheus")


async def test_written_series_are_not_own_though_there_is_no_group_left_for_them(
    store: Store, clock: ManualClock
) -> None:
    now_ms = clock.now_ms()
    assert not list(OwnSeries(store).series())
    put(store.group("host"), now_ms, {MINE: 1.0})
    writer = RemoteWriter(store, Exemplars(), groups_max=1)
    for ts_ms in (now_ms, now_ms + 1):
        await send(store, writer, ts_ms)
    assert [series.labels for series in OwnSeries(store).series()] == [MINE]
    assert [series.labels for series in store.index.series()] == [MINE, *SENT]
    assert store.head_points == 4, "all but those of the one group"
    one = bits(np.ones(1))[0]
    assert await read(store) == {
        MINE: {now_ms: one},
        **{labels: {now_ms: one, now_ms + 1: one} for labels in SENT},
    }
