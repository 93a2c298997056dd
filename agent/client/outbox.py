"""
What a process tells the agent, so that each increment counts once, whatever fails in between.

Pure: messages and answers in and out; who carries them is :mod:`.push`'s or the agent's business.
The protocol is drawn in docs/decisions/0005-client-totals.md.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Generator, Iterator, Mapping
from typing import Any, Final

from .metrics import Metric
from .names import as_unicode
from .registry import Drained, Given, Point, Registry
from .series import Payload

VERSION: Final = 1
# Series in one message: 300 objects, new ones 500, of which few are there a moment later. From 700
# on, each message would set off the garbage collector, at the expense of the backend's requests.
_SERIES_MAX: Final = 100
_POINTS_MAX: Final = 1_000
# Characters of label values in one message, of which JSON makes six bytes each at the worst: the
# agent refuses messages beyond 8 MiB, and one that is refused would be in the way for ever.
_CHARS_MAX: Final = 512 * 1024
_LABELS_MAX: Final = 100
# What isn't known to be committed. The agent commits every 10 s and we tell it something every
# second, so this is reached only if its disk fails, at 20 MB; then differences wait in the series.
_UNCOMMITTED_MAX: Final = 2_000
_UNCOMMITTED_SERIES_MAX: Final = 100_000
# A histogram that waits takes 120 bytes, a recorded value with its labels so many times more.
_POINT_WEIGHT: Final = 4

Message = dict[str, Any]


class Answer:
    """
    What the agent says to a message.

    Attributes:
        session: What the next messages must carry.
        applied: Number of the last message that it has applied, ever, of this process.
        committed: The last one that a kill -9 of the agent can't undo.
        is_greeting: It did not take the message and says where it stands.
    """

    __slots__ = ("applied", "committed", "is_greeting", "session")

    def __init__(self, session: str, applied: int, committed: int, is_greeting: bool) -> None:
        self.session, self.applied, self.committed = session, applied, committed
        self.is_greeting = is_greeting

    @classmethod
    def of(cls, answer: Mapping[str, Any]) -> Answer:
        """
        Read an answer.

        Raises:
            ValueError: It isn't one.
        """
        try:
            return cls(
                str(answer["session"]),
                int(answer["applied"]),
                int(answer["committed"]),
                bool(answer.get("greeting")),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"the agent's answer can't be understood: {error}") from None


class _Sent:
    """A message that may have arrived."""

    __slots__ = ("given", "number", "points", "weight")

    def __init__(self, number: int, given: Given, points: list[Point]) -> None:
        self.number, self.given, self.points = number, given, points
        self.weight = len(given) + _POINT_WEIGHT * len(points)


class Outbox:
    """
    Makes messages out of a registry and learns from the answers.

    Life of a connection: :meth:`greeting`, its answer to :meth:`answered`; then, as often as
    wanted, :meth:`messages`, each sent and its answer given to :meth:`answered` before the next one
    is taken. After any failure, :meth:`lost`, and from the beginning.
    """

    def __init__(
        self,
        registry: Registry,
        *,
        labels: Mapping[str, str] | None = None,
        interval_ms: int = 1_000,
    ) -> None:
        self._registry = registry
        self._labels = {str(name): as_unicode(str(value)) for name, value in (labels or {}).items()}
        self._interval_ms = interval_ms
        #: The process ends after the last message, so that nobody will ask again where it stood.
        self.is_final = False
        # 52 bits: a float64 holds them exactly, and the agent keeps them as a sample.
        self.worker = f"{int.from_bytes(os.urandom(7), 'big') >> 4:013x}"
        self._session = ""
        self._is_known = False
        self._last_number = 0
        self._committed = 0
        self._uncommitted: deque[_Sent] = deque()
        self._held = 0  # the weight of those
        self._draining: Generator[Drained, None, None] | None = None
        self._told_metrics: set[int] = set()
        self._told_series: set[int] = set()

    @property
    def uncommitted(self) -> int:
        """Messages that a crash of the agent might undo; they are kept for that."""
        return len(self._uncommitted)

    @property
    def is_connected(self) -> bool:
        return bool(self._session)

    def greeting(self) -> Message:
        """Ask the agent where it stands; whatever was sent before and isn't applied never will."""
        return {"v": VERSION, "worker": self.worker, "session": "", "acked": self._committed}

    def messages(self, *, is_last: bool = False) -> Iterator[Message]:
        """
        Yield what there is to tell: at least one message, as a sign of life.

        Args:
            is_last: This process won't tell anything more.
        """
        self._registry.refresh()
        if self._is_full():
            yield self._message(0, [], [], is_last=is_last)
            return
        drain = self._draining = self._registry.drain(self._told_series)
        has_more = True
        while has_more:
            found: list[Drained] = []
            chars = 0
            for each in drain:
                found.append(each)
                chars += self._chars(each)
                if len(found) >= _SERIES_MAX or chars >= _CHARS_MAX:
                    break
            else:
                has_more = False
            points = self._points()
            has_more = has_more or bool(self._registry.records and points)
            self._last_number += 1
            sent = _Sent(self._last_number, Given(found), points)
            self._uncommitted.append(sent)
            self._held += sent.weight
            try:
                yield self._message(
                    self._last_number, found, points, is_last=is_last and not has_more
                )
            except GeneratorExit:
                drain.close()
                raise
            if self._draining is not drain:
                return  # taken back meanwhile

    def answered(self, answer: Answer) -> bool:
        """
        Learn from an answer, and tell whether the message before was taken.

        If not (the agent was restarted, or had given us up), :meth:`messages` tells all anew.
        """
        self._committed = max(self._committed, answer.committed)
        self._forget_until(answer.committed)
        if not answer.is_greeting:
            self._is_known = True
            return True
        # What it has applied is behind us, even if only its memory holds it: should that be lost,
        # its next greeting says so, and by then these differences would be told again.
        self._take_back(answer.applied)
        self._session = answer.session
        self._is_known = False
        self._told_metrics.clear()
        self._told_series.clear()
        return False

    def lost(self) -> None:
        """The connection failed: nobody knows what of the last message arrived."""
        self._stop_draining()
        self._session = ""

    def _is_full(self) -> bool:
        is_many = len(self._uncommitted) >= _UNCOMMITTED_MAX
        return is_many or self._held >= _UNCOMMITTED_SERIES_MAX

    def _forget_until(self, number: int) -> None:
        while self._uncommitted and self._uncommitted[0].number <= number:
            self._held -= self._uncommitted.popleft().weight
            self._registry.breathe()

    def _take_back(self, applied: int) -> None:
        """Put the differences of what was never applied back into their series."""
        # First what is read but in no message yet: marks go back newest first.
        self._stop_draining()
        lost: list[_Sent] = []
        while self._uncommitted and self._uncommitted[-1].number > applied:
            lost.append(self._uncommitted.pop())
        for sent in lost:
            self._held -= sent.weight
            self._registry.restore(sent.given)
            self._registry.records.extendleft(reversed(sent.points))

    def _stop_draining(self) -> None:
        draining, self._draining = self._draining, None
        if draining is not None:
            draining.close()

    def _points(self) -> list[Point]:
        records = self._registry.records
        points: list[Point] = []
        chars = 0
        try:
            while len(points) < _POINTS_MAX and chars < _CHARS_MAX:
                self._registry.breathe()
                given = records.popleft()
                point = _as_text(given, self._registry.limits.label_value_bytes)
                if point is None:
                    self._registry.drop("labels", where=f"record({_shown(given[1])}, ...)")
                else:
                    points.append(point)
                    labels = point[3] or {}
                    chars += sum(map(len, (point[1], *labels, *labels.values())))
        except IndexError:
            pass
        return points

    def _chars(self, each: Drained) -> int:
        """How much text a series adds to a message, its number apart."""
        if each.child.number in self._told_series:
            return 0
        return len(each.metric.help) + sum(map(len, each.key))

    def _message(
        self, number: int, found: list[Drained], points: list[Point], *, is_last: bool
    ) -> Message:
        metrics: list[list[Any]] = []
        series: list[list[Any]] = []
        values: list[list[Any]] = []
        for each in found:
            self._registry.breathe()
            metric, child = each.metric, each.child
            if metric.number not in self._told_metrics:
                self._told_metrics.add(metric.number)
                metrics.append(self._define(each))
            if child.number not in self._told_series:
                self._told_series.add(child.number)
                label_values = [*each.key, *self._added(metric).values()]
                series.append([child.number, metric.number, label_values])
            values.append(_row(child.number, each.payload))
        message: Message = {
            "v": VERSION,
            "worker": self.worker,
            "session": self._session,
            "number": number,
            "acked": self._committed,
            "values": values,
        }
        if not self._is_known:
            message |= {"new": True, "interval_ms": self._interval_ms, "pid": os.getpid()}
        if metrics:
            message["metrics"] = metrics
        if series:
            message["series"] = series
        if points:
            rows: list[list[Any]] = []
            for ts_ms, name, value, labels, type_ in points:
                self._registry.breathe()
                rows.append([ts_ms, name, _number(value), labels, type_])
            message["points"] = rows
        gone = [each.child.number for each in found if each.is_gone]
        if gone:
            message["gone"] = gone
            self._told_series.difference_update(gone)
        if is_last:
            message["bye"] = True
            if self.is_final:
                message["ends"] = True
        return message

    def _define(self, each: Drained) -> list[Any]:
        metric = each.metric
        names = [*metric.label_names, *self._added(metric)]
        return [metric.number, metric.name, metric.type, metric.help, names, *metric.definition()]

    def _added(self, metric: Metric[Any]) -> dict[str, str]:
        """The labels that every series is given, but for those that the metric has itself."""
        own = metric.label_names
        return {name: value for name, value in self._labels.items() if name not in own}


def _row(number: int, payload: Payload) -> list[Any]:
    """What a series has to tell, behind its number."""
    total = sum(payload)
    # As it nearly always is: then no single one needs to be looked at.
    if total - total == 0.0:
        return [number, *payload]
    return [number, *map(_plain, payload)]


def _plain(value: float) -> float | str:
    """A number as JSON has it; it has no infinity and no NaN."""
    value = float(value)
    return value if value - value == 0.0 else str(value)


def _as_text(point: Point, bytes_max: int) -> Point | None:
    """A point whose name, labels and type are text that JSON can say; ``None`` if they aren't."""
    ts_ms, name, value, labels, type_ = point
    texts: list[Any] = [name, type_, *(labels or ()), *(labels or {}).values()]
    if len(labels or ()) > _LABELS_MAX or not all(isinstance(text, str) for text in texts):
        return None
    if any(len(text) > bytes_max for text in texts):
        return None
    if labels:
        labels = {as_unicode(name): as_unicode(value) for name, value in labels.items()}
    return ts_ms, as_unicode(name), value, labels, as_unicode(type_)


def _shown(name: Any) -> str:
    return repr(name[:100]) if isinstance(name, str) else type(name).__name__


def _number(value: Any) -> float | str | None:
    """The number that was recorded; ``None`` if it is none, which the agent then counts."""
    if isinstance(value, str | bytes):
        return None
    try:
        return _plain(value)
    except Exception:  # foreign number types may raise anything
        return None
