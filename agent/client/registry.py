"""All metrics of one process: definition, limits, and what the agent hasn't heard of them yet."""

from __future__ import annotations

import os
import time
import warnings
import weakref
from array import array
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from threading import Lock, RLock
from typing import Any, Final, TypeVar

from .address import default_namespace
from .caller import caller, origin
from .metrics import (
    GAUGE_MODES,
    SECONDS,
    Counter,
    Drainable,
    Gauge,
    Histogram,
    Metric,
    Rate,
    Ratio,
    series_of,
)
from .names import MetricNameWarning, name_clash, name_fault, name_lint
from .series import GaugeSeries, Mark, Payload

M = TypeVar("M", bound=Metric[Any])
#: Time in Unix ms, name, value, labels, type: as ``record()`` took them.
Point = tuple[int, str, float, Mapping[str, str] | None, str]

# The lock is given back after so many series, 150 µs if all are histograms that have changed, so
# that no increment waits for long.
_SLICE: Final = 50
# Removed series wait so many at most for the agent to hear of their end.
_BURIED_MAX: Final = 10_000
# A fork doesn't wait any longer for somebody's function that hangs in another thread.
_FORK_WAIT_S: Final = 0.05
_LINTS_SHOWN: Final = 100
# A process says so many times at most, in its log, that something of it is not counted as meant.
_COMPLAINTS_MAX: Final = 50


class Limits:
    """
    Bounds for one process; the defaults are those of the agent's ``metrics.limits``.

    Attributes:
        records: Values of :meth:`Registry.record` that are held for the agent.
    """

    __slots__ = ("label_value_bytes", "records", "series", "series_per_metric")

    def __init__(
        self,
        series: int = 10_000,
        series_per_metric: int = 2_000,
        label_value_bytes: int = 1024,
        records: int = 1_000,
    ) -> None:
        self.series, self.series_per_metric = series, series_per_metric
        self.label_value_bytes, self.records = label_value_bytes, records


class Drained:
    """One series with something to tell: its metric, label values, difference and mark."""

    __slots__ = ("child", "is_gone", "key", "mark", "metric", "payload")

    def __init__(
        self,
        metric: Metric[Any],
        key: tuple[str, ...],
        child: Drainable,
        payload: Payload,
        mark: Mark | None,
        *,
        is_gone: bool = False,
    ) -> None:
        self.metric, self.key, self.child = metric, key, child
        self.payload, self.mark, self.is_gone = payload, mark, is_gone


class Given:
    """
    Series that were drained, as they were before, for as long as they may have to be taken back.

    A list of what is there anyway, and numbers: objects of its own for each series, kept for some
    seconds, would set off the garbage collector, and it would look at all of the backend's.
    """

    __slots__ = ("_ends", "_marks", "buried", "children")

    def __init__(self, drained: Iterable[Drained] = ()) -> None:
        self.children: list[Drainable] = []
        self._marks = array("d")
        self._ends = array("l")
        self.buried: list[tuple[Metric[Any], tuple[str, ...], Drainable]] = []
        for each in drained:
            self.add(each)

    def __len__(self) -> int:
        return len(self.children)

    def add(self, drained: Drained) -> None:
        if drained.mark is not None:
            self.children.append(drained.child)
            self._marks.extend(drained.mark)
            self._ends.append(len(self._marks))
        if drained.is_gone:
            self.buried.append((drained.metric, drained.key, drained.child))

    def restore(self, start: int, end: int) -> None:
        """Take back some series, the last one first; the caller holds the lock."""
        for place in range(end - 1, start - 1, -1):
            first = self._ends[place - 1] if place else 0
            self.children[place].restore(tuple(self._marks[first : self._ends[place]]))


class Registry:
    """
    Metrics by name, for any thread; nothing raises but a wrong definition.

    Args:
        now_s, monotonic_s: Wall time and a time for durations, in seconds.
    """

    def __init__(
        self,
        limits: Limits | None = None,
        *,
        now_s: Callable[[], float] = time.time,
        monotonic_s: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.limits = limits or Limits()
        self.now_s, self.monotonic_s = now_s, monotonic_s
        self.lock = RLock()
        self._metrics: dict[str, Metric[Any]] = {}
        self._hooks: dict[object, Callable[[], None]] = {}
        self._fork_hooks: list[Callable[[], None]] = []
        self._done: set[object] = set()
        self._refreshing = RLock()
        self._buried: deque[tuple[Metric[Any], tuple[str, ...], Drainable]] = deque(
            maxlen=_BURIED_MAX
        )
        self._last_number = 0
        # What went wrong for the first time: told already, and to be told.
        self._complained: set[str] = set()
        self._complaints: list[str] = []
        self.series_count = 0
        self.records: deque[Point] = deque()
        #: An agent in this process takes values itself; it never raises.
        self.taker: Callable[..., None] | None = None
        #: Who hands the metrics on; only one does, as each difference is told once.
        self.reader: object | None = None
        #: Called often while metrics are handed on, never with the lock held; a thread beside the
        #: backend's lets those run.
        self.breathe: Callable[[], object] = go_on
        self._dropped = self._own(
            "tachograph_client_dropped_total",
            "Observations that the backend's process could not use, by reason.",
            ("reason",),
        )
        self._overflow = self._own(
            "tachograph_client_overflow_total",
            "Look-ups of series beyond the limits; the label's value was replaced by other.",
            ("metric", "label", "source"),
        )
        _registries.add(self)

    # --- Definition ---------------------------------------------------------------------------

    def counter(
        self, name: str, help: str = "", labels: Sequence[str] = (), *, unit: str = ""
    ) -> Counter:
        """
        Define a counter, or return the one that is defined so.

        Raises:
            ValueError: The name or another part of it can't be used, or the name is another
                metric's. This goes for all kinds.
        """
        return self._define(Counter, name, help, labels, unit)

    def gauge(
        self,
        name: str,
        help: str = "",
        labels: Sequence[str] = (),
        *,
        unit: str = "",
        mode: str = "sum",
    ) -> Gauge:
        """
        Define a gauge.

        Args:
            mode: What becomes of the values of several processes: ``sum``, ``max``, ``min``,
                ``last`` (set), or ``worker`` (each by itself, with a label ``worker``).
        """
        if mode not in GAUGE_MODES:
            raise ValueError(f"{name}: mode {mode!r} is none of {', '.join(GAUGE_MODES)}")
        return self._define(Gauge, name, help, labels, unit, mode=mode)

    def histogram(
        self,
        name: str,
        help: str = "",
        labels: Sequence[str] = (),
        *,
        unit: str = "",
        bounds: Sequence[float] = SECONDS,
    ) -> Histogram:
        """Define a histogram with these upper bounds; ``+Inf`` is always there."""
        return self._define(Histogram, name, help, labels, unit, bounds=bounds)

    def ratio(
        self, name: str, help: str = "", labels: Sequence[str] = (), *, window_s: float = 300.0
    ) -> Ratio:
        """Define a share of hits, from 0 to 1, that the agent computes over ``window_s``."""
        return self._define(Ratio, name, help, labels, "", window_s=window_s)

    def rate(self, name: str, help: str = "", labels: Sequence[str] = ()) -> Rate:
        """Define a number a second, that the agent computes between its collections."""
        return self._define(Rate, name, help, labels, "")

    def info(self, name: str, help: str = "", **facts: object) -> Gauge:
        """State facts, as labels of a metric that is always 1; its name ends with ``_info``."""
        metric = self._define(Gauge, name, help, tuple(facts), "", mode="max")
        metric.labels(*facts.values()).set(1.0)
        return metric

    def adopt(
        self, kind: type[M], name: str, help: str, labels: Sequence[str], **options: Any
    ) -> M:
        """Define a metric that is somebody else's: its name is as it is. Raises as the others."""
        return self._define(kind, name, help, labels, "", is_linted=False, **options)

    def prefix(self, namespace: str | None) -> str:
        """What names of ready-made metrics begin with."""
        namespace = default_namespace() if namespace is None else namespace
        return f"{namespace}_" if namespace else ""

    def is_first(self, key: object) -> bool:
        """Whether this is the first time that somebody asks so; for what may be done only once."""
        with self.lock:
            if key in self._done:
                return False
            self._done.add(key)
            return True

    def get(self, name: str) -> Metric[Any] | None:
        return self._metrics.get(name)

    def metrics(self) -> list[Metric[Any]]:
        return list(self._metrics.values())

    # --- Recording ----------------------------------------------------------------------------

    def record(
        self,
        name: str,
        value: float,
        labels: Mapping[str, str] | None = None,
        type: str = "gauge",
    ) -> None:
        """
        Take one value of a series as of now; never wait, never raise.

        The agent judges it, and counts what it can't use. For what happens often, a metric is
        better: it is one number however often it changes.
        """
        taker = self.taker
        if taker is not None:
            taker(name, value, labels, type)
            return
        try:
            if len(self.records) >= self.limits.records:
                self.drop("full")
                return
            if labels:
                labels = dict(labels)
            self.records.append((int(self.now_s() * 1000), name, value, labels, type))
        except Exception:  # a backend never fails for its metrics, whatever it hands us
            self.drop("labels")

    def drop(self, reason: str, count: float = 1.0, *, where: str = "") -> None:
        """Count observations that came to nothing; ``where`` says what was at fault, if known."""
        self._dropped.labels(reason).inc(count)
        if reason not in self._complained:
            self._complain(
                reason,
                f"values are dropped ({reason}), first those of {where or caller()}; "
                "tachograph_client_dropped_total counts them",
            )

    def overflowed(self, metric: str, label: str, source: str) -> None:
        """Count one look-up of a series for which there was no room."""
        self._overflow.labels(metric, label, source).inc()
        if metric not in self._complained:
            self._complain(
                metric,
                f"{metric} has too many or too long label values, first at {source}; "
                f"for new ones {f'the label {label}' if label else 'each label'} is other",
            )

    def complaints(self) -> list[str]:
        """What went wrong for the first time since the last call, for whoever has a log."""
        found, self._complaints = self._complaints, []
        return found

    @property
    def dropped(self) -> dict[str, float]:
        """How many observations came to nothing, by reason."""
        return {key[0]: child.value for key, child in series_of(self._dropped)}  # type: ignore[attr-defined]

    # --- Handing on ---------------------------------------------------------------------------

    def before_drain(self, key: object, hook: Callable[[], None]) -> None:
        """Call ``hook`` before metrics are handed on, once for equal keys; it must not wait."""
        self._hooks.setdefault(key, hook)

    def without_hook(self, key: object) -> None:
        self._hooks.pop(key, None)

    def refresh(self, wait_s: float = -1) -> None:
        """
        Ask everybody who is asked only when metrics are handed on, one caller at a time.

        Args:
            wait_s: For how long another caller is waited for; below 0 for ever.
        """
        if self._refreshing.acquire(timeout=wait_s):
            try:
                self._refresh()
            finally:
                self._refreshing.release()

    def _refresh(self) -> None:
        for hook in list(self._hooks.values()):
            try:
                hook()
            except Exception as error:  # foreign; it must not keep the others from being told
                self.drop("function", where=origin(error))
            self.breathe()
        for metric in self.metrics():
            if isinstance(metric, Gauge):
                for place, (_, child) in enumerate(series_of(metric)):
                    if isinstance(child, GaugeSeries):
                        child.refresh()
                    if not place % _SLICE:
                        self.breathe()

    def drain(self, told: set[int]) -> Generator[Drained, None, None]:
        """
        Give each series that changed, or isn't among those ``told`` already, and forget the change.

        What is given but doesn't arrive must be given back by :meth:`restore`.
        """
        buried, self._buried = self._buried, deque(maxlen=_BURIED_MAX)
        while buried:
            self.breathe()
            metric, key, child = buried.popleft()
            payload, mark = child.drain() or (child.blank(), None)
            last = Drained(metric, key, child, payload, mark, is_gone=True)
            try:
                yield last
            except GeneratorExit:
                self._buried.extendleft(reversed(buried))
                raise
        for metric in self.metrics():
            with self.lock:
                # Two lists, and not one of pairs: those would be a few thousand objects.
                keys, children = list(metric.children), list(metric.children.values())
            for start in range(0, len(keys), _SLICE):
                self.breathe()
                found: list[Drained] = []
                part = slice(start, start + _SLICE)
                with self.lock:
                    for key, child in zip(keys[part], children[part], strict=True):
                        drained = child.drain()
                        if drained is not None:
                            found.append(Drained(metric, key, child, *drained))
                        elif child.number not in told:
                            blank = child.blank()
                            if blank:
                                # Only what was never sent has nothing to be restored to.
                                found.append(Drained(metric, key, child, blank, None))
                for index, each in enumerate(found):
                    try:
                        yield each
                    except GeneratorExit:
                        self.restore(Given(found[index + 1 :]))
                        raise

    def restore(self, given: Given) -> None:
        """Take back what didn't arrive; what was given last must be taken back first."""
        for end in range(len(given), 0, -_SLICE):
            self.breathe()
            with self.lock:
                given.restore(max(0, end - _SLICE), end)
        with self.lock:
            self._buried.extend(given.buried)

    def next_number(self) -> int:
        """A number for a new series; the caller holds the lock."""
        self._last_number += 1
        self.series_count += 1
        return self._last_number

    def bury(self, metric: Metric[Any], key: tuple[str, ...], child: Drainable) -> None:
        """Keep a removed series until the agent has heard the rest; the caller holds the lock."""
        self.series_count -= 1
        self._buried.append((metric, key, child))

    # --- Fork ---------------------------------------------------------------------------------

    def on_fork(self, hook: Callable[[], None]) -> None:
        """Call ``hook`` in each forked child, once its metrics begin anew."""
        self._fork_hooks.append(hook)

    def begin_anew(self) -> None:
        """In a forked child: all totals so far are the parent's to tell."""
        self._refreshing = RLock()
        self._buried.clear()
        self.records.clear()
        self.reader = None
        for metric in self.metrics():
            for _, child in series_of(metric):
                child.forget()
        for hook in list(self._fork_hooks):
            hook()

    # --- Inside -------------------------------------------------------------------------------

    def _complain(self, about: str, text: str) -> None:
        if len(self._complained) < _COMPLAINTS_MAX:
            self._complained.add(about)
            self._complaints.append(text)

    def _own(self, name: str, help: str, labels: Sequence[str]) -> Counter:
        metric = Counter(self, self._next_metric(), name, help, labels, is_own=True)
        self._metrics[name] = metric
        return metric

    def _next_metric(self) -> int:
        return len(self._metrics) + 1

    def _define(
        self,
        kind: type[M],
        name: str,
        help: str,
        labels: Sequence[str],
        unit: str,
        *,
        is_linted: bool = True,
        **options: Any,
    ) -> M:
        if isinstance(labels, str) or not isinstance(labels, Iterable):
            raise ValueError(f"{name}: labels are a list of names, not {labels!r}")
        labels = tuple(labels)
        fault = name_fault(name, labels, kind.type)
        if fault:
            raise ValueError(fault)
        with self.lock:
            known = self._metrics.get(name)
            if known is None:
                clash = name_clash(name, kind.type, self._type_of)
                if clash:
                    raise ValueError(clash)
                metric = kind(self, self._next_metric(), name, help, labels, **options)
                self._metrics[name] = metric
                lint = name_lint(name, kind.type, unit) if is_linted else ""
                if lint and self._next_metric() <= _LINTS_SHOWN:
                    warnings.warn(lint, MetricNameWarning, stacklevel=3)
                return metric
            # A second definition costs a throw-away metric, but modules may be loaded twice.
            wanted = kind(_Scratch(), 0, name, help, labels, **options)  # type: ignore[arg-type]
            if wanted.fingerprint() != known.fingerprint() or not isinstance(known, kind):
                raise ValueError(
                    f"{name} is {known.described()} already; it can't be {wanted.described()}, too"
                )
            return known

    def _type_of(self, name: str) -> str:
        metric = self._metrics.get(name)
        return "" if metric is None else metric.type


def go_on() -> None:
    """Breathe where nobody else would run meanwhile."""


class _Scratch:
    """A registry for a metric that is only looked at."""

    def __init__(self) -> None:
        self.lock = RLock()
        self.monotonic_s = time.perf_counter
        self.limits = Limits()
        self.series_count = 0

    def next_number(self) -> int:
        return 0


_registries: weakref.WeakSet[Registry] = weakref.WeakSet()
# One fork at a time, as `_held` is that of one.
_forking: Final = Lock()
_held: list[Registry] = []


def _before_fork() -> None:
    registries = list(_registries)
    # Followers look once more, so that what others counted until now is not the child's. In the
    # child they might wait for a lock of theirs that a thread held which isn't there.
    for registry in registries:
        registry.refresh(_FORK_WAIT_S)
    _forking.acquire()
    # Ours are held over the fork for the same reason.
    for registry in registries:
        registry.lock.acquire()
    _held.extend(registries)


def _after_in_parent() -> None:
    while _held:
        _held.pop().lock.release()
    _forking.release()


def _after_in_child() -> None:
    registries = list(_held)
    _after_in_parent()
    for registry in registries:
        registry.begin_anew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork, after_in_parent=_after_in_parent, after_in_child=_after_in_child
    )
