"""Properties: whatever is published and however slowly it is read, the messages add up."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from support.clock import ManualClock
from support.stream import LiveStore, Peer, pass_time, series_of
from tachograph.agent.stream.hub import Hub
from tachograph.config.settings import StreamSettings
from tachograph.storage.frame import ABSENT, STALE_NAN, is_stale
from tachograph.storage.model import Labels

NOW_MS = 1_767_571_200_000
SERIES = [series_of("up", job=job) for job in "abcdefgh"] + [series_of("load")]
VALUES = st.one_of(
    st.floats(allow_nan=False),  # among all NaNs is the one that means absent
    st.sampled_from([0.0, -0.0, 1.5, math.nan, math.inf, -math.inf, STALE_NAN, STALE_NAN]),
)
#: Every mode with and without throttling; the last two match only some of the series.
SUBSCRIPTIONS = [
    {"mode": "latest", "match": ["up"]},
    {"mode": "latest", "match": ["up", "load"], "every": "1s"},
    {"mode": "all", "match": ["up"]},
    {"mode": "all", "match": ['up{job=~"[a-d]"}'], "every": "300ms"},
    {"mode": "latest", "match": ['up{job!="a"}', "load"]},
]
PICKS: dict[str, Callable[[Labels], bool]] = {
    "up": lambda labels: labels.name == "up",
    "load": lambda labels: labels.name == "load",
    'up{job=~"[a-d]"}': lambda labels: labels.get("job") in {*"abcd"},
    'up{job!="a"}': lambda labels: labels.name == "up" and labels.get("job") != "a",
}


class Readers(RuleBasedStateMachine):
    """Five clients read at their own pace, lose their connection and come back."""

    series_max = 100
    has_churn = False

    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock(NOW_MS)
        hour_ms = 3_600_000
        self.settings = StreamSettings(max_series=self.series_max, ring_ms=hour_ms)
        self.store = LiveStore()
        self.hub = self.store.hub = Hub(
            self.store, self.settings, self.clock, every_min_ms=0, lookback_ms=hour_ms
        )
        self.newest: dict[Labels, tuple[int, float]] = {}
        self.told: list[tuple[Labels, int, str]] = []
        self.peers: list[Peer] = []

    @initialize(some=st.dictionaries(st.sampled_from(SERIES), VALUES))
    def begin(self, some):
        self.publish_tick(some, -1000)
        for n, subscription in enumerate(SUBSCRIPTIONS):
            peer = Peer(self.hub, self.settings)
            peer.say(op="sub", id=n, **subscription)
            self.peers.append(peer)
        self.told.clear()

    @rule(some=st.dictionaries(st.sampled_from(SERIES), VALUES), late_ms=st.integers(-50, 50))
    def publish_tick(self, some, late_ms):
        ts_ms = self.clock.now_ms() + late_ms
        self.store.append(ts_ms, some)
        self.note([(labels, ts_ms, value) for labels, value in some.items()])

    @rule(
        points=st.lists(
            st.tuples(st.sampled_from(SERIES), st.integers(-500, 0), VALUES), max_size=12
        )
    )
    def publish_points(self, points):
        points = [(labels, self.clock.now_ms() + at, value) for labels, at, value in points]
        self.store.append_points(points)
        self.note(points)

    @rule(at=st.integers(0, len(SERIES) - 1))
    def publish_absent(self, at):
        ref = self.store.ref(SERIES[at])
        self.hub.publish(np.array([ref], np.uint32), self.clock.now_ms(), np.array([ABSENT]))

    @precondition(lambda self: self.has_churn)
    @rule(some=st.sets(st.sampled_from(SERIES), min_size=5))
    def renew(self, some):
        """End series and forget them: the next samples make new ones of the same labels."""
        self.store.end(self.clock.now_ms() + 100, *some)
        self.store.delete(*some)
        for labels in some:
            self.newest.pop(labels, None)

    @rule(ms=st.sampled_from([10, 100, 400, 1000, 5000]))
    def pass_time(self, ms):
        pass_time(self.clock, ms)
        self.hub.poll()

    @rule(reader=st.integers(0, 4), most=st.integers(1, 3))
    def read_some(self, reader, most):
        self.peers[reader].take(most)

    @rule(reader=st.integers(0, 4))
    def reconnect(self, reader):
        """Lose what was not read; the position is where reading stopped."""
        peer = self.peers[reader]
        peer.session.end()
        replica = peer.replicas.get(reader)
        again = Peer(self.hub, self.settings)
        again.samples, again.dropped = peer.samples, peer.dropped
        since = None
        if replica is not None and replica.epoch:
            again.replicas[reader] = replica
            since = {"epoch": replica.epoch, "seq": replica.seq}
        ok, *_ = again.say(op="sub", id=reader, since=since, **SUBSCRIPTIONS[reader])
        assert ok.resumed == (since is not None) or self.has_churn
        self.peers[reader] = again

    @invariant()
    def sessions_are_open(self):
        assert all(peer.session.closing is None for peer in self.peers)

    def teardown(self):
        if not self.peers:
            return
        for _ in range(7):  # what was left out for lack of room is let in every 5 s
            pass_time(self.clock, 1000)
            self.hub.poll()
        for n, (peer, subscription) in enumerate(zip(self.peers, SUBSCRIPTIONS, strict=True)):
            peer.take()
            match = subscription["match"]
            wanted = {labels for labels in SERIES if any(PICKS[m](labels) for m in match)}
            assert peer.current(n) == {
                labels: (ts_ms, repr(value))
                for labels, (ts_ms, value) in self.newest.items()
                if labels in wanted and not is_end(value)
            }
            if subscription["mode"] == "all" and not self.has_churn:
                samples = [(labels, ts, repr(v)) for labels, ts, v in peer.samples[n]]
                expected = [one for one in self.told if one[0] in wanted]
                assert samples[len(samples) - len(expected) :] == expected

    def note(self, points):
        for labels, ts_ms, value in sorted(points, key=lambda point: point[1]):
            if self.newest.get(labels, (0, 0.0))[0] <= ts_ms:
                self.newest[labels] = (ts_ms, value)
        self.told += [(s, ts, repr(value)) for s, ts, value in points if not is_end(value)]


class ChurningReaders(Readers):
    """The same with series that come and go for good, until feeds number them anew."""

    series_max = 12
    has_churn = True


def is_end(value: float) -> bool:
    return bool(is_stale(np.array([value]))[0])


TestReaders = Readers.TestCase
TestReaders.settings = settings(max_examples=25, stateful_step_count=40, deadline=None)
TestChurningReaders = ChurningReaders.TestCase
TestChurningReaders.settings = settings(max_examples=25, stateful_step_count=40, deadline=None)
