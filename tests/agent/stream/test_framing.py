"""Prebuilt frames, read back by a WebSocket library that did not write them."""

from __future__ import annotations

import json
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame, Opcode
from websockets.streams import StreamReader

from tachograph.agent.stream.framing import PING, Message, pong, text


def parse(data: bytes, extensions: list[PerMessageDeflate] | None = None) -> list[Frame]:
    reader = StreamReader()
    reader.feed_data(data)
    frames = []
    while reader.buffer:
        parser = Frame.parse(
            reader.read_exact, mask=False, max_size=None, extensions=extensions or []
        )
        try:
            while True:
                next(parser)
        except StopIteration as end:
            frames.append(end.value)
    return frames


@pytest.mark.parametrize("length", [0, 1, 125, 126, 65_535, 65_536])
def test_a_frame_of_any_length_reads_back(length):
    payload = b"x" * length
    [frame] = parse(text(payload).frame)
    assert (frame.opcode, frame.fin, frame.data) == (Opcode.TEXT, True, payload)


def test_several_payloads_become_as_many_frames():
    assert [frame.data for frame in parse(Message([b"a", b"bb"]).frame)] == [b"a", b"bb"]


def test_control_frames_carry_no_message():
    assert [f.opcode for f in parse(PING.frame + pong(b"hello").frame)] == [
        Opcode.PING,
        Opcode.PONG,
    ]
    assert PING.payloads == pong(b"").payloads == ()


@given(st.lists(st.text(max_size=40).map(lambda s: s * 80), min_size=1, max_size=5))
def test_deflated_messages_read_back_with_and_without_a_kept_window(texts):
    kept = PerMessageDeflate(
        remote_no_context_takeover=False,
        local_no_context_takeover=False,
        remote_max_window_bits=15,
        local_max_window_bits=15,
    )
    sent = [text(one.encode()) for one in texts]
    read = parse(b"".join(message.deflated for message in sent), [kept])
    assert [frame.data.decode() for frame in read] == texts


def test_a_short_message_is_not_deflated_and_noise_neither():
    short, noise = text(b"a" * 1023), text(zlib.compress(json.dumps(list(range(5000))).encode()))
    assert short.deflated == short.frame
    assert len(noise.deflated) <= len(noise.frame)
    assert len(text(b"a" * 5000).deflated) < 100
