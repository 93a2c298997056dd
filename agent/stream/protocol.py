"""One client's side of the stream as a state machine: messages in, messages and a close out."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from ...config.errors import SelectorError
from ...config.selector import Matcher, parse_selector
from ...config.settings import StreamSettings
from ...config.units import HOUR, parse_duration
from . import messages
from .feed import FeedKey, Mode, Subscription
from .framing import PING, Message
from .hub import Hub, SubscriptionRefused
from .messages import BadMessage, Hello, Ping, Position, Subscribe, Unsubscribe, read_message

BAD_MESSAGE: Final = 4400
UNAUTHORISED: Final = 4401  # for when there are logins
FORBIDDEN: Final = 4403
SILENT: Final = 4408
TOO_MANY: Final = 4429
TOO_SLOW: Final = 4430
GOING_AWAY: Final = 1001
TRY_LATER: Final = 1013
INTERNAL_ERROR: Final = 1011

#: Everything that has a name, so everything.
EVERYTHING: Final = '{__name__=~".+"}'
#: Pings that may stay unanswered.
_MISSES_MAX: Final = 2
#: Answers waiting for a client that asks without reading; the transport stops reading long before.
_REPLIES_MAX: Final = 1_000
_EVERY_MAX_MS: Final = HOUR
_REASON_BYTES_MAX: Final = 123  # RFC 6455, 5.5


@dataclass(frozen=True, slots=True)
class Close:
    """How a connection is to end; the reason fits into a close frame."""

    code: int
    reason: str

    @classmethod
    def of(cls, code: int, reason: str) -> Close:
        return cls(code, reason.encode()[:_REASON_BYTES_MAX].decode(errors="ignore"))


class Session:
    """
    What the server knows of one client. It has no socket and no clock: whoever owns those hands in
    what came (:meth:`receive`, :meth:`heard`), tells the time (:meth:`poll`), and takes messages
    (:meth:`next_message`) as fast as the client reads them, until :attr:`closing` is set.

    Args:
        now_s: Monotonic time, as in all methods.
        wake: Called when :meth:`next_message` or :attr:`closing` has news without a call from
            outside, i.e. when samples were published. Must not raise.
        simple: Selectors of a client that says nothing and gets each sample as a message; ``None``
            for one that speaks the protocol.
    """

    def __init__(
        self,
        hub: Hub,
        settings: StreamSettings,
        now_s: float,
        wake: Callable[[], None],
        *,
        simple: Sequence[str] | None = None,
    ) -> None:
        self.closing: Close | None = None
        self._hub, self._settings, self._wake = hub, settings, wake
        self._subscriptions: dict[int | None, Subscription] = {}
        self._replies: deque[Message] = deque()
        self._ready: deque[Subscription] = deque()
        self._is_simple = simple is not None
        self._has_spoken = self._is_simple
        self._started_s = now_s
        self._next_ping_s = now_s + settings.ping_ms / 1000
        self._misses = 0
        if simple is not None:
            self._subscribe_simple(simple or (EVERYTHING,))

    def receive(self, data: str, now_s: float) -> None:
        """Take a text message of the client."""
        self.heard(now_s)
        if self.closing or self._is_simple:
            return
        self._has_spoken = True
        try:
            message = read_message(data)
        except BadMessage as error:
            self.close(BAD_MESSAGE, f"bad message: {error}")
            return
        match message:
            case Hello():
                self._reply(messages.ok())
            case Ping():
                self._reply(messages.PONG)
            case Subscribe():
                self._subscribe(message)
            case Unsubscribe():
                self._unsubscribe(message.id)

    def receive_bytes(self, now_s: float) -> None:
        """Take a binary message, which no client has a reason to send."""
        self.heard(now_s)
        self.close(BAD_MESSAGE, "bad message: this protocol speaks JSON in text messages")

    def heard(self, now_s: float) -> None:
        """Note that the client lives: it answered a ping, or took some of what waits for it."""
        self._misses = 0
        self._next_ping_s = now_s + self._settings.ping_ms / 1000

    def poll(self, now_s: float) -> None:
        """Ping when it is time, and give up on a client that is silent."""
        if self.closing:
            return
        deadline_s = self._started_s + self._settings.hello_timeout_ms / 1000
        if not self._has_spoken and now_s >= deadline_s:
            self.close(SILENT, "no message came; send hello or sub first")
        elif now_s >= self._next_ping_s:
            self._next_ping_s = now_s + self._settings.ping_ms / 1000
            if self._misses >= _MISSES_MAX:
                self.close(TOO_SLOW, f"no answer to {_MISSES_MAX} pings")
                return
            self._misses += 1
            self._reply(PING)

    def next_message(self) -> Message | None:
        """Return what to send next; ``None`` if there is nothing now."""
        while True:
            if self._replies:
                return self._replies.popleft()
            if not self._ready or self.closing is not None:
                return None
            subscription = self._ready.popleft()
            message = subscription.take()
            if message is None:
                subscription.is_queued = False
                continue
            # To the back, so that one subscription's backlog does not hold up the others.
            self._ready.append(subscription)
            if len(message.frame) > self._settings.outbound_buffer_bytes:
                self._give_up(subscription, len(message.frame))
                continue
            return message

    def close(self, code: int, reason: str) -> None:
        """Decide to end the connection; the first decision stays."""
        if self.closing is None:
            self.closing = Close.of(code, reason)
            self._hub.stats.closed[code] += 1

    def end(self) -> None:
        """Leave the hub; the connection is gone."""
        for subscription in self._subscriptions.values():
            self._hub.unsubscribe(subscription)
        self._subscriptions.clear()
        self._ready.clear()
        self._replies.clear()

    def ready(self, subscription: Subscription) -> None:
        """The hub's call: there is something to take."""
        self._queue(subscription)
        self._wake()

    def warn(self, subscription: Subscription, code: str, message: str) -> None:
        """The hub's call: something the client should know."""
        self._warn(subscription, code, message)
        self._wake()

    def _warn(self, subscription: Subscription, code: str, message: str) -> None:
        if subscription.id is not None:
            self._reply(messages.err(subscription.id, code, message))

    def _queue(self, subscription: Subscription) -> None:
        if not subscription.is_queued:
            subscription.is_queued = True
            self._ready.append(subscription)

    def _reply(self, message: Message) -> None:
        self._replies.append(message)
        if len(self._replies) > _REPLIES_MAX:
            self.close(TOO_SLOW, "answers are not read")

    def _refuse(self, sub_id: int, code: str, message: str) -> None:
        self._hub.stats.refused[code] += 1
        self._reply(messages.err(sub_id, code, message))

    def _subscribe(self, message: Subscribe) -> None:
        sub_id, most = message.id, self._settings.max_subscriptions
        if message.expr is not None:
            self._refuse(
                sub_id, "expr_unsupported", "expressions cannot be streamed yet; use match"
            )
        elif sub_id in self._subscriptions:
            self._refuse(sub_id, "duplicate_id", f"subscription {sub_id} exists; unsub it first")
        elif len(self._subscriptions) >= most:
            self._refuse(sub_id, "too_many_subscriptions", f"a connection may have {most}")
        else:
            try:
                key = FeedKey(
                    read_selectors(message.match), Mode(message.mode), read_every(message.every)
                )
                self._open(sub_id, key, message.since)
            except SubscriptionRefused as refusal:
                self._refuse(sub_id, refusal.code, str(refusal))

    def _open(self, sub_id: int | None, key: FeedKey, since: Position | None) -> None:
        subscription = self._hub.subscribe(key, sub_id, self, since)
        self._subscriptions[sub_id] = subscription
        if sub_id is not None:
            resumed_seq = subscription.seq if subscription.epoch is not None else None
            self._reply(messages.ok(sub_id, subscription.feed.epoch, resumed_seq=resumed_seq))
        if warning := self._hub.warning(subscription.feed):
            self._warn(subscription, "too_many_series", warning)
        self._queue(subscription)

    def _subscribe_simple(self, selectors: Sequence[str]) -> None:
        try:
            self._open(None, FeedKey(read_selectors(selectors), Mode.LATEST, 0), None)
        except SubscriptionRefused as refusal:
            self._hub.stats.refused[refusal.code] += 1
            known = {"too_many_series": TOO_MANY, "busy": TRY_LATER}
            self.close(known.get(refusal.code, BAD_MESSAGE), str(refusal))

    def _unsubscribe(self, sub_id: int) -> None:
        subscription = self._subscriptions.pop(sub_id, None)
        if subscription is None:
            self._refuse(sub_id, "unknown_id", f"there is no subscription {sub_id}")
            return
        self._drop(subscription)
        self._reply(messages.ok(sub_id))

    def _drop(self, subscription: Subscription) -> None:
        self._hub.unsubscribe(subscription)
        if subscription.is_queued:
            self._ready.remove(subscription)

    def _give_up(self, subscription: Subscription, size: int) -> None:
        most = self._settings.outbound_buffer_bytes
        problem = f"a message of {size} bytes is above the limit of {most}; subscribe to less"
        if subscription.id is None:
            self.close(TOO_MANY, problem)
        else:
            del self._subscriptions[subscription.id]
            self._drop(subscription)
            self._refuse(subscription.id, "too_large", problem)


def read_selectors(texts: Sequence[str]) -> frozenset[tuple[Matcher, ...]]:
    """
    Parse the selectors of a subscription, which are ORed.

    Raises:
        SubscriptionRefused: One of them cannot be read, or there is none.
    """
    if not texts:
        raise SubscriptionRefused("bad_selector", f"match is empty; everything is {EVERYTHING}")
    selectors = set()
    for position, selector in enumerate(texts):
        try:
            selectors.add(parse_selector(selector))
        except SelectorError as error:
            raise SubscriptionRefused("bad_selector", f"match[{position}]: {error}") from None
    return frozenset(selectors)


def read_every(every: str | None) -> int:
    """
    Return the milliseconds of ``every``; 0 without it.

    Raises:
        SubscriptionRefused: Not a duration, or too long a one.
    """
    if every is None:
        return 0
    try:
        every_ms = parse_duration(every)
    except ValueError as error:
        raise SubscriptionRefused("bad_every", str(error)) from None
    if every_ms > _EVERY_MAX_MS:
        raise SubscriptionRefused("bad_every", f'"{every}" is too long; the most is 1h')
    return every_ms
