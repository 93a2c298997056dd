"""The protocol by its messages alone: what a client says and what it is told."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.clock import ManualClock
from support.stream import LiveStore, Peer, series_of
from tachograph.agent.stream.framing import PING
from tachograph.agent.stream.hub import LOOKBACK_MS, Hub
from tachograph.agent.stream.protocol import Session
from tachograph.config.settings import StreamSettings

NOW_MS = 1_767_571_200_000
UP_A, UP_B = series_of("up", job="a"), series_of("up", job="b")
LOAD = series_of("load")


@pytest.fixture
def clock():
    return ManualClock(NOW_MS)


@pytest.fixture
def store():
    store = LiveStore()
    store.append(NOW_MS - 1000, {UP_A: 1.0, UP_B: 0.0, LOAD: 0.5})
    return store


@pytest.fixture
def hub(store, clock):
    store.hub = Hub(store, StreamSettings(max_series=5), clock, every_min_ms=0)
    return store.hub


def test_a_subscription_gets_ok_then_a_snapshot_then_deltas(store, hub):
    peer = Peer(hub)
    ok, snap = peer.say(op="sub", id=7, match=["up"])
    assert (ok.op, ok.id, snap.op, snap.id) == ("ok", 7, "snap", 7)
    assert ok.epoch == snap.epoch != ""
    assert {row[1]["job"]: row[2:] for row in snap.series} == {
        "a": (NOW_MS - 1000, 1.0),
        "b": (NOW_MS - 1000, 0.0),
    }
    store.append(NOW_MS, {UP_A: 0.0, LOAD: 9.0})
    [first] = peer.take()
    store.append(NOW_MS + 1000, {UP_B: 1.0})
    [second] = peer.take()
    assert (first.op, first.seq, first.t) == ("d", snap.seq + 1, NOW_MS)
    assert second.seq == first.seq + 1
    assert peer.current(7) == {UP_A: (NOW_MS, "0.0"), UP_B: (NOW_MS + 1000, "1.0")}


def test_the_frames_are_as_documented(store, hub):
    peer = Peer(hub)
    peer.say(op="sub", id=1, match=['up{job="a"}'])
    epoch = peer.replicas[1].epoch
    store.append(NOW_MS, {UP_A: math.inf})
    store.append_points([(UP_A, NOW_MS + 5, 2.5), (series_of("up", job="a", x="y"), NOW_MS, 1)])
    peer.take()
    assert [p.decode() for frame in peer.frames for p in frame.payloads] == [
        f'{{"op":"ok","id":1,"epoch":"{epoch}"}}',
        f'{{"op":"snap","id":1,"epoch":"{epoch}","seq":0,'
        '"series":[[0,{"__name__":"up","job":"a"},1767571199000,1.0]]}',
        # Both at once, for the client took nothing in between.
        '{"op":"d","id":1,"seq":2,"from":1,"t":1767571200005,'
        '"v":[[0,2.5],[1,1.0,1767571200000]],'
        '"new":[[1,{"__name__":"up","job":"a","x":"y"}]]}',
    ]
    store.append(NOW_MS + 9, {UP_A: -math.inf})
    store.end(NOW_MS + 10, UP_A)
    peer.take()
    assert peer.frames[-1].payloads == (
        b'{"op":"d","id":1,"seq":4,"from":3,"t":1767571200010,"v":[],"gone":[0]}',
    )


def test_nan_and_infinities_are_strings(store, hub):
    peer = Peer(hub)
    peer.say(op="sub", id=1, match=["up"], mode="all")
    for value in (math.nan, math.inf, -math.inf, -0.0):
        store.append(NOW_MS, {UP_A: value})
    assert [message.v[0][1] for message in peer.take()] == ["NaN", "+Inf", "-Inf", 0.0]
    late = Peer(hub)
    late.say(op="sub", id=1, match=["up"])
    assert late.current()[UP_A] == (NOW_MS, "-0.0")


def test_selectors_are_ored_and_a_series_comes_once(hub):
    peer = Peer(hub)
    peer.say(op="sub", id=1, match=["up", 'up{job="a"}', '{__name__="load"}'])
    assert peer.current().keys() == {UP_A, UP_B, LOAD}


def test_a_series_that_begins_later_is_announced_with_its_labels(store, hub):
    peer = Peer(hub)
    peer.say(op="sub", id=1, match=["up"])
    new = series_of("up", job="c")
    store.append(NOW_MS, {new: 1.0})
    [delta] = peer.take()
    assert [labels for _, labels in delta.new] == [{"__name__": "up", "job": "c"}]
    assert peer.current()[new] == (NOW_MS, "1.0")


def test_a_stale_marker_ends_a_series_and_a_sample_brings_it_back(store, hub):
    peer = Peer(hub)
    peer.say(op="sub", id=1, match=["up"])
    store.end(NOW_MS, UP_A)
    [gone] = peer.take()
    assert (len(gone.gone), gone.v, gone.t) == (1, [], NOW_MS)
    assert peer.current().keys() == {UP_B}
    store.append(NOW_MS + 1, {UP_A: 5.0})
    [back] = peer.take()
    assert [slot for slot, _ in back.new] == gone.gone
    assert peer.current()[UP_A] == (NOW_MS + 1, "5.0")


def test_older_samples_do_not_disturb_latest_but_are_told_by_all(store, hub):
    latest, every = Peer(hub), Peer(hub)
    latest.say(op="sub", id=1, match=["up"])
    every.say(op="sub", id=1, match=["up"], mode="all")
    store.append_points([(UP_A, NOW_MS - 5000, 7.0)])
    assert latest.take() == []
    [told] = every.take()
    assert (told.t, told.v) == (NOW_MS - 5000, [[0, 7.0]])
    assert every.current() == latest.current()


@pytest.mark.parametrize("mode", ["latest", "all"])
def test_history_is_not_told_and_takes_no_place(store, hub, mode):
    peer = Peer(hub)
    peer.say(op="sub", id=1, match=["up"], mode=mode)
    before, oldest_ms = peer.current(), NOW_MS - LOOKBACK_MS
    imported = [series_of("up", job=f"imported{n}") for n in range(10)]
    store.append_points([(labels, oldest_ms - 1, 1.0) for labels in (UP_A, *imported)])
    store.append(oldest_ms - 1, {UP_B: 2.0, imported[0]: 3.0})
    assert peer.take() == []
    assert peer.current() == before
    assert hub.stats.dropped == {"old": 13}
    store.append_points([(UP_A, oldest_ms - 1, 4.0), (imported[0], oldest_ms, 5.0)])
    [told] = peer.take()
    assert [labels["job"] for _, labels in told.new] == ["imported0"]
    assert [value for _, value in told.v] == [5.0]
    assert hub.stats.dropped == {"old": 14}


def test_slow_latest_gets_one_message_with_the_newest_values(store, hub):
    peer = Peer(hub)
    peer.say(op="sub", id=1, match=["up"])
    for n in range(100):
        store.append(NOW_MS + n, {UP_A: n, UP_B: -n} if n % 2 else {UP_A: n})
    store.end(NOW_MS + 100, UP_B)
    [delta] = peer.take()
    assert (delta.from_, delta.seq) == (1, 101)
    assert peer.current() == {UP_A: (NOW_MS + 99, "99.0")}
    assert hub.stats.coalesced == 100


def test_slow_all_gets_every_sample_while_the_ring_reaches_back(store, hub):
    peer = Peer(hub)
    peer.say(op="sub", id=1, match=["up"], mode="all")
    for n in range(100):
        store.append(NOW_MS + n, {UP_A: n})
    assert [message.v[0][1] for message in peer.take()] == list(range(100))
    assert peer.dropped == 0


async def test_what_left_the_ring_is_told_as_lag(store, hub, clock):
    peer, c = Peer(hub), series_of("up", job="c")
    peer.say(op="sub", id=1, match=["up"], mode="all")
    store.append(NOW_MS, {UP_A: 1, UP_B: 2})
    store.append(NOW_MS + 1, {UP_A: 3, c: 4})
    store.end(NOW_MS + 2, UP_B)
    await clock.advance(61_000)
    store.append(NOW_MS + 61_000, {c: 5})
    hub.poll()
    lag, delta = peer.take()
    assert (lag.op, lag.dropped, lag.from_, lag.to) == ("lag", 4, 1, 3)
    assert [labels["job"] for _, labels in lag.new] == ["c"]
    assert [peer.replicas[1].labels[slot] for slot in lag.gone] == [UP_B]
    assert (delta.seq, peer.samples[1][-1]) == (4, (c, NOW_MS + 61_000, 5.0))
    assert hub.stats.dropped == {"lag": 4}


async def test_every_thins_out_latest_and_bundles_all(store, hub, clock):
    latest, every = Peer(hub), Peer(hub)
    latest.say(op="sub", id=1, match=["up"], every="1s")
    every.say(op="sub", id=1, match=["up"], every="1s", mode="all")
    seen, bundles = [], []
    for n in range(31):
        store.append(NOW_MS + 100 * n, {UP_A: n})
        hub.poll()
        seen += [(n, message.v) for message in latest.take()]
        bundles += [(n, [row[1] for row in message.v]) for message in every.take()]
        await clock.advance(100)
    # The first at once, then one a second.
    assert seen == [(n, [[0, float(n)]]) for n in (0, 10, 20, 30)]
    assert bundles == [
        (0, [0.0]),
        (10, [float(n) for n in range(1, 11)]),
        (20, [float(n) for n in range(11, 21)]),
        (30, [float(n) for n in range(21, 31)]),
    ]


async def test_a_newcomer_sees_the_present_however_slow_the_feed(store, hub, clock):
    peer, late = Peer(hub), Peer(hub)
    peer.say(op="sub", id=1, match=["up"], every="1h")
    store.append(NOW_MS, {UP_A: 1})
    await clock.advance(1000)
    store.append(NOW_MS + 1000, {UP_A: 2})
    late.say(op="sub", id=1, match=["up"], every="1h")
    peer.take()
    assert late.current()[UP_A] == peer.current()[UP_A] == (NOW_MS + 1000, "2.0")


async def test_resume_goes_on_where_the_client_left_off(store, hub):
    for mode in ("latest", "all"):
        peer = Peer(hub)
        peer.say(op="sub", id=1, match=["up"], mode=mode)
        store.append(NOW_MS, {UP_A: 1})
        peer.take()
        replica = peer.replicas[1]
        peer.session.end()
        store.append(NOW_MS + 1, {UP_A: 2})
        store.append(NOW_MS + 2, {UP_A: 3})
        again = Peer(hub)
        again.replicas[1] = replica
        since = {"epoch": replica.epoch, "seq": replica.seq}
        ok, *deltas = again.say(op="sub", id=1, match=["up"], mode=mode, since=since)
        assert (ok.resumed, ok.seq) == (True, since["seq"])
        assert [d.op for d in deltas] == (["d"] if mode == "latest" else ["d", "d"])
        assert again.current()[UP_A] == (NOW_MS + 2, "3.0")


@pytest.mark.parametrize("since", [{"epoch": "other", "seq": 0}, {"epoch": None, "seq": 99}])
def test_a_position_that_is_void_gets_a_snapshot_that_says_so(hub, since):
    peer = Peer(hub)
    peer.say(op="sub", id=1, match=["up"])
    since = {"epoch": since["epoch"] or peer.replicas[1].epoch, "seq": since["seq"]}
    ok, snap = Peer(hub).say(op="sub", id=1, match=["up"], since=since)
    assert not ok.resumed
    assert (snap.op, snap.reset) == ("snap", True)


async def test_a_position_older_than_the_ring_gets_a_snapshot_that_says_so(store, hub, clock):
    peer, stays = Peer(hub), Peer(hub)
    for one in (peer, stays):
        one.say(op="sub", id=1, match=["up"], mode="all")
    epoch = peer.replicas[1].epoch
    peer.session.end()
    store.append(NOW_MS, {UP_A: 1})
    await clock.advance(61_000)
    store.append(NOW_MS + 61_000, {UP_A: 2})
    hub.poll()
    _, snap = Peer(hub).say(
        op="sub", id=1, match=["up"], mode="all", since={"epoch": epoch, "seq": 0}
    )
    assert (snap.op, snap.reset) == ("snap", True)


async def test_a_feed_without_listeners_is_kept_as_long_as_the_ring(store, hub, clock):
    peer = Peer(hub)
    peer.say(op="sub", id=1, match=["up"])
    epoch = peer.replicas[1].epoch
    peer.session.end()
    await clock.advance(59_000)
    hub.poll()
    assert not hub.is_idle
    again = Peer(hub)
    ok, *_ = again.say(op="sub", id=1, match=["up"], since={"epoch": epoch, "seq": 0})
    assert ok.resumed
    again.session.end()
    await clock.advance(62_000)
    hub.poll()
    assert hub.is_idle


def test_unsub_ends_the_messages_and_frees_the_number(store, hub):
    peer = Peer(hub)
    peer.say(op="sub", id=1, match=["up"])
    store.append(NOW_MS, {UP_A: 1})
    assert [m.op for m in peer.say(op="unsub", id=1)] == ["ok"]
    store.append(NOW_MS + 1, {UP_A: 2})
    assert peer.take() == []
    assert [m.op for m in peer.say(op="sub", id=1, match=["up"])] == ["ok", "snap"]


def test_hello_and_ping_are_answered(hub):
    peer = Peer(hub)
    assert [m.op for m in peer.say(op="hello", token="x")] == ["ok"]
    assert [m.op for m in peer.say(op="ping")] == ["pong"]


@pytest.mark.parametrize(
    ("message", "code", "words"),
    [
        ({"match": ["up{"]}, "bad_selector", "match[0]: 1:4: parse error"),
        ({"match": ["up", 'up{a=~"("}']}, "bad_selector", "match[1]"),
        ({"match": []}, "bad_selector", '{__name__=~".+"}'),
        ({"match": ["up"], "every": "5min"}, "bad_every", "write 5m"),
        ({"match": ["up"], "every": "2h"}, "bad_every", "the most is 1h"),
        ({"expr": "sum(up)"}, "expr_unsupported", "use match"),
        ({"match": ["up"], "id": 9}, "duplicate_id", "9"),
    ],
)
def test_a_request_that_cannot_be_served_gets_an_error_and_the_rest_goes_on(
    store, hub, message, code, words
):
    peer = Peer(hub)
    peer.say(op="sub", id=9, match=["up"])
    [error] = peer.say(**{"op": "sub", "id": 1} | message)
    assert (error.op, error.code) == ("err", code)
    assert words in error.msg
    assert peer.session.closing is None
    store.append(NOW_MS, {UP_A: 1})
    assert [m.op for m in peer.take()] == ["d"]
    assert hub.stats.refused == {code: 1}


def test_unsub_of_nothing_is_an_error(hub):
    [error] = Peer(hub).say(op="unsub", id=3)
    assert error.code == "unknown_id"


def test_the_twenty_first_subscription_is_refused(hub):
    peer = Peer(hub)
    for n in range(20):
        assert peer.say(op="sub", id=n, match=["up"])[0].op == "ok"
    [error] = peer.say(op="sub", id=20, match=["up"])
    assert (error.code, peer.session.closing) == ("too_many_subscriptions", None)


def test_too_many_series_refuse_a_subscription(store, hub):
    store.append(NOW_MS, {series_of("up", job=str(n)): n for n in range(6)})
    [error] = Peer(hub).say(op="sub", id=1, match=["up"])
    assert error.code == "too_many_series"
    assert "8 series match; a subscription may have 5" in error.msg


async def test_series_beyond_the_limit_are_left_out_told_and_let_in_later(store, hub, clock):
    peer = Peer(hub)
    peer.say(op="sub", id=1, match=["up"])
    more = {series_of("up", job=str(n)): float(n) for n in range(5)}
    store.append(NOW_MS, more)
    warning, delta = peer.take()
    assert (warning.op, warning.code, len(delta.new)) == ("err", "too_many_series", 3)
    assert hub.stats.dropped == {"series_limit": 2}
    late = Peer(hub)
    assert [m.op for m in late.say(op="sub", id=1, match=["up"])] == ["ok", "err", "snap"]
    store.end(NOW_MS + 1, UP_A, UP_B)
    await clock.advance(6_000)
    hub.poll()
    await clock.advance(1_000)
    hub.poll()
    peer.take()
    assert peer.current() == {labels: (NOW_MS, repr(value)) for labels, value in more.items()}
    store.append(NOW_MS + 7_000, more)
    peer.take()
    assert {ts_ms for ts_ms, _ in peer.current().values()} == {NOW_MS + 7_000}


def test_churn_numbers_the_series_anew_with_a_reset_snapshot(store, hub):
    peer, every = Peer(hub), Peer(hub)
    peer.say(op="sub", id=1, match=["up"])
    every.say(op="sub", id=1, match=["up"], mode="all")
    ops = []
    for n in range(30):
        one = series_of("up", job=f"j{n}")
        store.append(NOW_MS + 2 * n, {one: n, UP_A: n})
        store.end(NOW_MS + 2 * n + 1, one)
        ops += [m.op for m in peer.take()]
        every.take()
    assert ops.count("snap") > 1
    assert (
        peer.current()
        == every.current()
        == {
            UP_A: (NOW_MS + 58, "29.0"),
            UP_B: (NOW_MS - 1000, "0.0"),
        }
    )
    store.append(NOW_MS + 100, {series_of("up", job="j0"): 1.0})  # one that had left the table
    peer.take()
    assert series_of("up", job="j0") in peer.current()


async def test_series_silent_for_the_lookback_or_deleted_are_gone(store, hub, clock):
    peer = Peer(hub)
    peer.say(op="sub", id=1, match=["up", "load"])
    store.delete(LOAD)
    await clock.advance(6_000)
    hub.poll()
    peer.take()
    assert peer.current().keys() == {UP_A, UP_B}
    store.append(clock.now_ms(), {UP_B: 1})
    await clock.advance(299_000)
    hub.poll()
    peer.take()
    assert peer.current().keys() == {UP_B}


def test_series_without_a_current_value_are_not_in_the_snapshot(store, hub):
    store.ref(series_of("up", job="never"))
    store.append_points([(series_of("up", job="old"), NOW_MS - 301_000, 1.0)])
    store.end(NOW_MS, UP_B)
    peer = Peer(hub)
    peer.say(op="sub", id=1, match=["up"])
    assert peer.current().keys() == {UP_A}
    store.append(NOW_MS, {series_of("up", job="never"): 1.0, series_of("up", job="old"): 1.0})
    peer.take()
    assert len(peer.current()) == 3


@pytest.mark.parametrize(
    "data",
    [
        "", "{", "[]", "1", '"sub"', "null", "{}", '{"op":1}', '{"op":"nope"}', '{"op":"sub"}',
        '{"op":"sub","id":"1","match":["up"]}', '{"op":"sub","id":-1,"match":["up"]}',
        '{"op":"sub","id":1,"match":"up"}', '{"op":"sub","id":1,"match":["up"],"evry":"1s"}',
        '{"op":"sub","id":1,"match":["up"],"mode":"some"}',
        '{"op":"sub","id":1,"match":["up"],"since":{"epoch":"e"}}',
        '{"op":"sub","id":1,"match":' + json.dumps(["up"] * 65) + "}",
        '{"op":"ping","x":' + "[" * 30_000, "[" * 60_000, '{"op":"hello","token":"\\ud800"}',
    ],
)  # fmt: skip
def test_what_is_no_message_closes_with_4400(hub, data):
    peer = Peer(hub)
    peer.session.receive(data, 0.0)
    assert peer.session.closing is not None
    assert peer.session.closing.code == 4400
    assert 0 < len(peer.session.closing.reason.encode()) <= 123
    peer.session.receive('{"op":"ping"}', 0.0)
    assert peer.take() == []


def test_a_binary_message_closes_with_4400(hub):
    peer = Peer(hub)
    peer.session.receive_bytes(0.0)
    assert peer.session.closing.code == 4400


def test_a_client_that_says_nothing_is_closed_with_4408(hub):
    peer, talker = Peer(hub), Peer(hub)
    talker.say(op="ping")
    for one in (peer, talker):
        one.session.poll(9.9)
        assert one.session.closing is None
        one.session.poll(10.0)
    assert peer.session.closing.code == 4408
    assert talker.session.closing is None


def test_two_unanswered_pings_end_a_connection(hub):
    peer = Peer(hub)
    peer.say(op="hello")
    pings = []
    for second in range(61):
        peer.session.poll(float(second))
        peer.take()
        pings.append(peer.frames.count(PING))
    assert (pings[19], pings[20], pings[39], pings[40], pings[60]) == (0, 1, 1, 2, 2)
    assert peer.session.closing.code == 4430


def test_any_sign_of_life_answers_a_ping(hub):
    peer = Peer(hub)
    peer.say(op="hello")
    for second in range(200):
        peer.session.poll(float(second))
        if second % 30 == 0:
            peer.session.heard(float(second))
    assert peer.session.closing is None


def test_a_client_that_asks_without_reading_is_too_slow(hub):
    peer = Peer(hub)
    for _ in range(2000):
        peer.session.receive('{"op":"ping"}', 0.0)
    assert peer.session.closing.code == 4430
    assert len(peer.take()) < 1100


def test_a_message_above_the_outbound_limit_ends_the_subscription(store, clock):
    hub = Hub(store, StreamSettings(outbound_buffer_bytes=150), clock)
    peer = Peer(hub, StreamSettings(outbound_buffer_bytes=150))
    messages = peer.say(op="sub", id=1, match=["up"])
    assert [(m.op, m.code) for m in messages] == [("ok", ""), ("err", "too_large")]
    assert hub.stats.subscriptions == 0


def test_one_backlog_does_not_hold_up_another_subscription(store, hub):
    peer = Peer(hub)
    peer.say(op="sub", id=1, match=["up"], mode="all")
    peer.say(op="sub", id=2, match=["load"])
    for n in range(10):
        store.append(NOW_MS + n, {UP_A: n, LOAD: n})
    assert {m.id for m in peer.take(2)} == {1, 2}


def test_the_simple_format_tells_samples_to_a_client_that_says_nothing(store, hub):
    peer = Peer(hub, simple=['up{job="a"}'])
    peer.take()
    store.append(NOW_MS + 1, {UP_A: math.nan, UP_B: 3})
    peer.take()
    store.end(NOW_MS + 2, UP_A)
    peer.take()
    assert [json.loads(p) for frame in peer.frames for p in frame.payloads] == [
        {
            "type": "metric",
            "data": {"name": "up", "labels": {"job": "a"}, "value": value},
            "timestamp": timestamp,
        }
        for value, timestamp in [
            (1.0, "2026-01-04T23:59:59.000Z"),
            ("NaN", "2026-01-05T00:00:00.001Z"),
        ]
    ]
    peer.session.receive("anything", 0.0)
    peer.session.poll(15.0)
    assert peer.session.closing is None


def test_a_bad_selector_of_the_simple_format_closes_with_4400(hub):
    peer = Peer(hub, simple=["up{"])
    assert peer.session.closing.code == 4400
    assert "parse error" in peer.session.closing.reason


def test_without_selectors_the_simple_format_tells_everything(hub):
    peer = Peer(hub, simple=[])
    peer.take()
    assert len(peer.frames[0].payloads) == 3


def test_equal_subscriptions_share_the_very_message(store, hub):
    one, other, third = Peer(hub), Peer(hub), Peer(hub)
    one.say(op="sub", id=1, match=["up", "load"])
    other.say(op="sub", id=1, match=["load", "up"])
    third.say(op="sub", id=2, match=["load", "up"])
    store.append(NOW_MS, {UP_A: 1})
    for peer in (one, other, third):
        peer.take()
    assert one.frames[-1] is other.frames[-1]
    assert third.frames[-1] is not one.frames[-1]
    assert hub.stats.feeds == 1


def test_a_mistake_of_the_stream_does_not_reach_the_store(store, hub, caplog):
    peer = Peer(hub)
    peer.say(op="sub", id=1, match=["up"])
    series, store.series = store.series, None
    for n in range(3):
        store.append(NOW_MS + n, {series_of("up", job="c"): n})
    assert (hub.stats.failures, len(caplog.records)) == (3, 1)
    store.series = series
    store.append(NOW_MS + 3, {series_of("up", job="c"): 3})
    peer.take()
    assert peer.current()[series_of("up", job="c")] == (NOW_MS + 3, "3.0")


def test_leaving_leaves_nothing_behind(hub):
    peer = Peer(hub)
    peer.say(op="sub", id=1, match=["up"])
    peer.say(op="sub", id=2, match=["load"])
    assert hub.stats.subscriptions == 2
    peer.session.end()
    peer.session.end()
    assert hub.stats.subscriptions == 0
    assert peer.take() == []


MESSAGES = st.one_of(
    st.text(max_size=30),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
        max_leaves=5,
    ).map(json.dumps),
    st.fixed_dictionaries(
        {"op": st.sampled_from(["hello", "sub", "sub", "unsub", "ping", "bye"])},
        optional={
            "id": st.integers(0, 3) | st.integers() | st.text(max_size=2),
            "match": st.lists(st.sampled_from(["up", 'up{job="a"}', "up{", ""]), max_size=3),
            "every": st.sampled_from(["1s", "0", "-1s", "", "100ms", "9y"]),
            "mode": st.sampled_from(["latest", "all", "none"]),
            "expr": st.just("1"),
            "token": st.text(max_size=3),
            "since": st.fixed_dictionaries(
                {"epoch": st.text(max_size=3), "seq": st.integers()}
            ),
        },
    ).map(json.dumps),
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(MESSAGES, st.floats(0, 30), st.booleans()), max_size=25))
def test_no_sequence_of_client_messages_raises(script):
    store, clock = LiveStore(), ManualClock(NOW_MS)
    hub = store.hub = Hub(store, StreamSettings(max_series=4), clock, every_min_ms=0)
    session = Session(hub, StreamSettings(max_subscriptions=3), 0.0, lambda: None)
    now_s = 0.0
    for n, (message, pause_s, takes) in enumerate(script):
        now_s += pause_s
        session.receive(message, now_s)
        session.poll(now_s)
        store.append(NOW_MS + n, {UP_A: n, series_of("up", n=str(n)): n})
        while takes and session.next_message() is not None:
            pass
    session.end()
    assert hub.stats.subscriptions == 0
