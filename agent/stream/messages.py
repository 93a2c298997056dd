"""The JSON messages of the stream protocol: reading a client's, writing the server's."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Annotated, Final, Literal

import msgspec
import numpy as np

from ...storage.frame import FloatArray, IntArray
from ...storage.model import Labels, Series
from .framing import Message, text

_encode: Final = msgspec.json.Encoder().encode

#: Clients number their subscriptions; 31 bits fit every language's plain integer.
SubscriptionId = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
_SELECTORS_MAX: Final = 64


class Position(msgspec.Struct, forbid_unknown_fields=True):
    """How far a client had come before it lost its connection."""

    epoch: str
    seq: int


class Hello(msgspec.Struct, tag_field="op", tag="hello", forbid_unknown_fields=True):
    token: str = ""


class Subscribe(msgspec.Struct, tag_field="op", tag="sub", forbid_unknown_fields=True):
    id: SubscriptionId
    match: Annotated[list[str], msgspec.Meta(max_length=_SELECTORS_MAX)] = []
    expr: str | None = None
    every: str | None = None
    mode: Literal["latest", "all"] = "latest"
    since: Position | None = None


class Unsubscribe(msgspec.Struct, tag_field="op", tag="unsub", forbid_unknown_fields=True):
    id: SubscriptionId


class Ping(msgspec.Struct, tag_field="op", tag="ping", forbid_unknown_fields=True):
    pass


ClientMessage = Hello | Subscribe | Unsubscribe | Ping
_decode: Final = msgspec.json.Decoder(ClientMessage).decode


class BadMessage(Exception):
    """A client sent something that is no message of this protocol; the text says what."""


def read_message(data: str) -> ClientMessage:
    """
    Read one message of a client.

    Raises:
        BadMessage: Not JSON, not of this protocol, or nested beyond reason.
    """
    try:
        message: ClientMessage = _decode(data)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise BadMessage(str(error)) from None
    return message


class Body:
    """A message but for the number of the subscription, which each client chose for itself."""

    __slots__ = ("_head", "_messages", "_tail")

    # Most clients number from 1: a few copies serve nearly all, and a thousand clients with a
    # thousand numbers must not cost a thousand copies.
    _COPIES_MAX: Final = 4

    def __init__(self, head: bytes, tail: bytes) -> None:
        self._head, self._tail = head, tail
        self._messages: dict[int, Message] = {}

    def __len__(self) -> int:
        return len(self._head) + len(self._tail)

    def message(self, sub_id: int) -> Message:
        """Return the message for one subscription, shared by all of that number."""
        message = self._messages.get(sub_id)
        if message is None:
            message = text(b"%b%d%b" % (self._head, sub_id, self._tail))
            if len(self._messages) < self._COPIES_MAX:
                self._messages[sub_id] = message
        return message

    def forget(self) -> None:
        """Drop the built messages; they can be built again."""
        self._messages.clear()


def ok(
    sub_id: int | None = None, epoch: str | None = None, *, resumed_seq: int | None = None
) -> Message:
    fields: dict[str, object] = {"op": "ok"}
    if sub_id is not None:
        fields["id"] = sub_id
    if epoch is not None:
        fields["epoch"] = epoch
    if resumed_seq is not None:
        fields |= {"seq": resumed_seq, "resumed": True}
    return text(_encode(fields))


def err(sub_id: int | None, code: str, message: str) -> Message:
    fields: dict[str, object] = {"op": "err"}
    if sub_id is not None:
        fields["id"] = sub_id
    return text(_encode(fields | {"code": code, "msg": message}))


PONG: Final = text(b'{"op":"pong"}')


def snapshot(
    epoch: str,
    seq: int,
    slots: IntArray,
    series: Sequence[Series],
    ts_ms: IntArray,
    values: FloatArray,
    *,
    reset: bool,
) -> Body:
    """Tell the values of all series as of ``seq``; ``reset`` says that what was known is void."""
    rows = list(
        zip(
            slots.tolist(),
            [dict(s.labels) for s in series],
            ts_ms.tolist(),
            plain_values(values),
            strict=True,
        )
    )
    tail = b',"epoch":%b,"seq":%d%b,"series":%b}' % (
        _encode(epoch),
        seq,
        b',"reset":true' if reset else b"",
        _encode(rows),
    )
    return Body(b'{"op":"snap","id":', tail)


def delta(
    first: int,
    seq: int,
    slots: IntArray,
    ts_ms: IntArray,
    values: FloatArray,
    *,
    newest_ms: int,
    new: Iterable[tuple[int, Labels]],
    gone: Sequence[int],
) -> Body:
    """
    Tell what changed in ``first..seq``; apply ``new``, then ``v``, then ``gone``.

    Args:
        newest_ms: The message's ``t``; a value of another time carries its own.
    """
    parts = [
        b',"seq":%d,' % seq,
        b'"from":%d,' % first if first != seq else b"",
        b'"t":%d,"v":' % newest_ms,
        _encode(_value_rows(slots, ts_ms, values, newest_ms)),
        _changes(new, gone),
        b"}",
    ]
    return Body(b'{"op":"d","id":', b"".join(parts))


def lag(
    first: int,
    last: int,
    dropped: int,
    *,
    new: Iterable[tuple[int, Labels]],
    gone: Sequence[int],
) -> Body:
    """Tell that ``dropped`` samples of ``first..last`` were not sent."""
    head = b',"dropped":%d,"from":%d,"to":%d' % (dropped, first, last)
    return Body(b'{"op":"lag","id":', head + _changes(new, gone) + b"}")


def simple_metrics(series: Iterable[Series], ts_ms: IntArray, values: FloatArray) -> Message | None:
    """Tell each sample as a message of its own, for clients that know nothing but JSON."""
    times = np.datetime_as_string(ts_ms.astype("datetime64[ms]")).tolist()
    payloads = [
        _encode(
            {
                "type": "metric",
                "data": {
                    "name": one.labels.name,
                    "labels": dict(one.labels.without("__name__")),
                    "value": value,
                },
                "timestamp": f"{time}Z",
            }
        )
        for one, time, value in zip(series, times, plain_values(values), strict=True)
    ]
    return Message(payloads) if payloads else None


def plain_values(values: FloatArray) -> list[float | str]:
    """Return the values as JSON can tell them: ``NaN``, ``+Inf``, ``-Inf`` become strings."""
    plain: list[float | str] = values.tolist()
    if not np.isfinite(values).all():
        return [v if isinstance(v, str) or math.isfinite(v) else _name(v) for v in plain]
    return plain


def read_value(value: float | str) -> float:
    """Undo :func:`plain_values`."""
    return float(value)


def _name(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    return "+Inf" if value > 0 else "-Inf"


def _value_rows(
    slots: IntArray, ts_ms: IntArray, values: FloatArray, newest_ms: int
) -> list[tuple[int, float | str] | tuple[int, float | str, int]]:
    plain = plain_values(values)
    if (ts_ms == newest_ms).all():
        return list(zip(slots.tolist(), plain, strict=True))
    rows = zip(slots.tolist(), plain, ts_ms.tolist(), strict=True)
    return [(slot, v) if ts == newest_ms else (slot, v, ts) for slot, v, ts in rows]


def _changes(new: Iterable[tuple[int, Labels]], gone: Sequence[int]) -> bytes:
    fields = b""
    if rows := [(slot, dict(labels)) for slot, labels in new]:
        fields += b',"new":' + _encode(rows)
    if gone:
        fields += b',"gone":' + _encode(list(gone))
    return fields
