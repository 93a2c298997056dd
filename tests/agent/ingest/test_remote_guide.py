"""Following a sender's order: wherever it cuts, whatever it leaves out, and when it has none."""

from __future__ import annotations

import random
from collections.abc import Sequence

from support.remote import Senders
from tachograph.agent.ingest.remote_guide import Guide
from tachograph.agent.ingest.remote_series import SeriesTable
from tachograph.agent.ingest.remote_write import decode_1
from tachograph.agent.wire import prompb
from tachograph.agent.wire.protobuf import length_delimited

NOW_MS = 1_767_571_200_000


def labels(number: int) -> list[tuple[str, str]]:
    return [("__name__", f"metric_{number % 9}"), ("i", "x" * (number % 100)), ("n", str(number))]


def message(number: int, value: float, ts_ms: int) -> bytes:
    """One series and its sample; a value of 0 is left out, as senders do."""
    sample = prompb.sample_field(value, ts_ms)
    if not value:
        sample = b"\x12\x07" + sample[11:]
    return length_delimited(1, prompb.label_fields(labels(number)) + sample)


def stream(seed: int, series: int, ticks: int) -> list[bytes]:
    """Messages of a sender, tick after tick; now and then a series is missing, or its value 0."""
    rng = random.Random(seed)
    return [
        message(number, float(rng.random() > 0.03) * rng.random(), NOW_MS + tick)
        for tick in range(ticks)
        for number in range(series)
        if rng.random() > 0.02
    ]


def requests(messages: Sequence[bytes], size: int) -> list[bytes]:
    return [b"".join(messages[at : at + size]) for at in range(0, len(messages), size)]


def follows(senders: Senders, body: bytes) -> bool:
    return senders.table.guide.follow(body) is not None


def test_what_is_followed_is_what_is_read() -> None:
    senders = Senders()
    for body in requests(stream(1, 120, 30), 173):
        expected = Senders().plain(decode_1(body, SeriesTable()))
        assert senders.take(decode_1(body, senders.table)) == expected


def test_bodies_cut_anywhere_are_followed() -> None:
    senders = Senders()
    bodies = requests(stream(2, 120, 40), 173)
    for body in bodies[:10]:
        senders.take(decode_1(body, senders.table))
    assert all(follows(senders, body) for body in bodies[10:])


def test_other_bodies_are_not_followed() -> None:
    senders = Senders()
    body = requests(stream(3, 60, 1), 60)[0]
    for _ in range(3):
        senders.take(decode_1(body, senders.table))
    assert follows(senders, body)
    dense = length_delimited(
        1,
        prompb.label_fields(labels(1)) + 2 * prompb.sample_field(1.0, NOW_MS),
    )
    for other in (
        body + message(1000, 1.0, NOW_MS),
        body + dense,
        body + length_delimited(3, b""),
        body[:-1],
        body + b"\xff" * 40,
        b"\xff" * 40,
    ):
        assert not follows(senders, other)


def test_a_sender_without_an_order_is_left_alone_for_a_while() -> None:
    senders = Senders()
    messages = [message(number, 1.0, NOW_MS) for number in range(400)]
    senders.take(decode_1(b"".join(messages), senders.table))
    rng = random.Random(5)
    for _ in range(20):
        rng.shuffle(messages)
        follows(senders, b"".join(messages))
    assert senders.table.guide._rests > 0


def test_an_empty_body_has_no_series() -> None:
    found = Guide({}).follow(b"")
    assert found is not None
    assert not len(found[0])
