"""The client's half of the protocol: what the messages of one subscription add up to."""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec

from ...config.errors import TachographError
from ...storage.model import Labels


class ServerMessage(msgspec.Struct, rename={"from_": "from"}):
    """Any message of the server; fields that its ``op`` does not have keep their defaults."""

    op: str = ""
    id: int | None = None
    epoch: str = ""
    seq: int = 0
    resumed: bool = False
    reset: bool = False
    series: list[tuple[int, dict[str, str], int, float | str]] = []
    from_: int | None = None
    t: int = 0
    v: list[list[float | str]] = []
    new: list[tuple[int, dict[str, str]]] = []
    gone: list[int] = []
    to: int = 0
    dropped: int = 0
    code: str = ""
    msg: str = ""


read_message: Final = msgspec.json.Decoder(ServerMessage).decode


class Sample(NamedTuple):
    labels: Labels
    ts_ms: int
    value: float


class StreamGap(TachographError):
    """The server left out a part of a stream without saying so."""

    def __init__(self, expected: int, got: int) -> None:
        super().__init__(f"the stream goes on at {got} instead of {expected}")
        self.expected, self.got = expected, got


class Replica:
    """
    State of one subscription.

    Attributes:
        epoch: With ``seq`` the position from which a new connection can go on; empty at first.
        labels: Of each slot that was ever announced in this epoch.
        current: Time and value of each slot that is alive and whose value is known.
    """

    def __init__(self) -> None:
        self.epoch = ""
        self.seq = -1
        self.labels: dict[int, Labels] = {}
        self.current: dict[int, tuple[int, float]] = {}

    def apply(self, message: ServerMessage) -> list[Sample]:
        """
        Take a ``snap``, ``d`` or ``lag`` and return the samples it told; others are ignored.

        Raises:
            StreamGap: The message does not follow the one before.
        """
        match message.op:
            case "snap":
                return self._replace(message)
            case "d":
                self._follow(message.seq if message.from_ is None else message.from_, message.seq)
                self._announce(message)
                samples = self._take(message)
                self._end(message.gone)
                return samples
            case "lag":
                assert message.from_ is not None
                self._follow(message.from_, message.to)
                self._announce(message)
                self._end(message.gone)
        return []

    def newest(self) -> dict[Labels, int]:
        """Return the time of the newest sample of each series that is alive."""
        return {self.labels[slot]: ts_ms for slot, (ts_ms, _) in self.current.items()}

    def _replace(self, message: ServerMessage) -> list[Sample]:
        self.epoch, self.seq = message.epoch, message.seq
        self.labels = {slot: Labels.of(labels) for slot, labels, _, _ in message.series}
        self.current = {slot: (ts_ms, float(value)) for slot, _, ts_ms, value in message.series}
        return [Sample(self.labels[slot], *sample) for slot, sample in self.current.items()]

    def _follow(self, first: int, last: int) -> None:
        if first != self.seq + 1:
            raise StreamGap(self.seq + 1, first)
        self.seq = last

    def _announce(self, message: ServerMessage) -> None:
        for slot, labels in message.new:
            self.labels[slot] = Labels.of(labels)

    def _take(self, message: ServerMessage) -> list[Sample]:
        samples = []
        for row in message.v:
            slot, value = int(row[0]), float(row[1])
            ts_ms = int(row[2]) if len(row) > 2 else message.t
            samples.append(Sample(self.labels[slot], ts_ms, value))
            held = self.current.get(slot)
            if held is None or held[0] <= ts_ms:
                self.current[slot] = (ts_ms, value)
        return samples

    def _end(self, gone: list[int]) -> None:
        for slot in gone:
            self.current.pop(slot, None)
