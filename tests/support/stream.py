"""A store for tests of the live stream: series, their newest samples, and who is told of them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence

import numpy as np

from support.clock import ManualClock
from tachograph.agent.stream.framing import Message
from tachograph.agent.stream.hub import Hub
from tachograph.agent.stream.protocol import Session
from tachograph.agent.stream.replica import Replica, Sample, ServerMessage, read_message
from tachograph.config.selector import Matcher
from tachograph.config.settings import StreamSettings
from tachograph.storage.current import Current
from tachograph.storage.frame import STALE_NAN, FloatArray, IntArray, RefArray
from tachograph.storage.model import Kind, Labels, Series


def series_of(name: str, **labels: str) -> Labels:
    """Write a label set as one reads it: ``series_of("up", job="api")``."""
    return Labels.of(labels, name)


def pass_time(clock: ManualClock, ms: int) -> None:
    """Move a clock nobody sleeps by, where there is no event loop."""
    steps = clock.advance(ms)
    with contextlib.suppress(StopIteration):
        while True:
            steps.send(None)


class LiveStore:
    """Keeps what is appended as the newest samples and publishes it to ``hub``."""

    def __init__(self) -> None:
        self.version = 0
        self.hub: Hub | None = None
        self._by_ref: dict[int, Series] = {}
        self._refs: dict[Labels, int] = {}
        self._current = Current()
        self._last_ref = 0

    def series(self, ref: int) -> Series | None:
        return self._by_ref.get(ref)

    def select(self, matchers: Sequence[Matcher]) -> RefArray:
        found = [
            ref
            for ref, series in self._by_ref.items()
            if all(m.matches(series.labels.get(m.name)) for m in matchers)
        ]
        return np.array(sorted(found), np.uint32)

    def current(self, refs: RefArray) -> tuple[IntArray, FloatArray]:
        return self._current.get(refs)

    def ref(self, labels: Labels) -> int:
        ref = self._refs.get(labels)
        if ref is None:
            ref = self._refs[labels] = self._last_ref = self._last_ref + 1
            self._by_ref[ref] = Series(ref, labels, Kind.GAUGE, 0)
            self.version += 1
        return ref

    def append(self, ts_ms: int, samples: Mapping[Labels, float]) -> None:
        """Take one tick."""
        self.append_arrays([self.ref(s) for s in samples], ts_ms, list(samples.values()))

    def append_points(self, points: Sequence[tuple[Labels, int, float]]) -> None:
        """Take samples with times of their own."""
        refs = [self.ref(labels) for labels, _, _ in points]
        times = np.array([ts_ms for _, ts_ms, _ in points], np.int64)
        self.append_arrays(refs, times, [value for _, _, value in points])

    def end(self, ts_ms: int, *ended: Labels) -> None:
        self.append(ts_ms, dict.fromkeys(ended, STALE_NAN))

    def delete(self, *deleted: Labels) -> None:
        """Forget series without a stale marker, as retention does."""
        refs = [self._refs.pop(labels) for labels in deleted]
        for ref in refs:
            del self._by_ref[ref]
        self._current.forget(np.array(refs, np.uint32))
        self.version += 1

    def append_arrays(
        self, refs: Sequence[int], ts_ms: int | IntArray, values: Sequence[float]
    ) -> None:
        ref_array, value_array = np.array(refs, np.uint32), np.array(values, np.float64)
        self._current.update(ref_array, ts_ms, value_array)
        if self.hub is not None:
            self.hub.publish(ref_array, ts_ms, value_array)


class Peer:
    """A client without a socket: speaks to a session and keeps what it is told."""

    def __init__(
        self,
        hub: Hub,
        settings: StreamSettings | None = None,
        now_s: float = 0.0,
        simple: Sequence[str] | None = None,
    ) -> None:
        self.wakes = 0
        self.replicas: dict[int, Replica] = {}
        self.samples: dict[int, list[Sample]] = {}
        self.dropped = 0
        self.frames: list[Message] = []
        self.session = Session(hub, settings or StreamSettings(), now_s, self._woken, simple=simple)

    def say(self, now_s: float = 0.0, /, **message: object) -> list[ServerMessage]:
        """Send one message and take every answer."""
        self.session.receive(json.dumps(message), now_s)
        return self.take()

    def take(self, most: int | None = None) -> list[ServerMessage]:
        """Take at most so many messages and apply them."""
        taken: list[ServerMessage] = []
        while most is None or len(taken) < most:
            message = self.session.next_message()
            if message is None:
                break
            self.frames.append(message)
            for payload in message.payloads:
                taken.append(read_message(payload))
                self._apply(taken[-1])
        return taken

    def current(self, sub_id: int = 1) -> dict[Labels, tuple[int, str]]:
        """What the client holds for current; values as text, for NaN equals nothing."""
        replica = self.replicas[sub_id]
        held = replica.current.items()
        return {replica.labels[slot]: (ts_ms, repr(value)) for slot, (ts_ms, value) in held}

    def _apply(self, message: ServerMessage) -> None:
        if message.id is None:
            return
        if message.op == "ok" and message.epoch and not message.resumed:
            self.replicas[message.id] = Replica()
        self.dropped += message.dropped
        if replica := self.replicas.get(message.id):
            self.samples.setdefault(message.id, []).extend(replica.apply(message))

    def _woken(self) -> None:
        self.wakes += 1
