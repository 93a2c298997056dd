"""``@timed``, ``@counted`` and ``@in_progress``, for functions of any kind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

from .metrics import SECONDS, Counter, Gauge, Histogram
from .registry import Registry
from .timing import Timer, around

F = TypeVar("F", bound=Callable[..., Any])

#: Value of the label ``exception`` of what ended well.
NO_EXCEPTION: Final = ""


class Timed:
    """
    ``@timed("render_seconds")``: how long calls take, by the exception that ended them.

    Also ``with timed("render_seconds"): ...`` around a block.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def __call__(
        self, name: str, help: str = "", *, bounds: Sequence[float] = SECONDS
    ) -> TimedWatch:
        metric = self._registry.histogram(name, help, ("exception",), bounds=bounds)
        return TimedWatch(metric, self._registry.monotonic_s)


class TimedWatch(Timer):
    """Measures one block, or each call of a function by itself."""

    __slots__ = ("_metric",)

    def __init__(self, metric: Histogram, monotonic_s: Callable[[], float]) -> None:
        self._metric = metric
        super().__init__(metric.labels(NO_EXCEPTION).observe, monotonic_s)

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if _is_failure(kind):
            self.seconds = self._monotonic_s() - self._began
            self._metric.labels(kind.__name__).observe(self.seconds)
        else:
            super().__exit__(kind, error, trace)

    def __call__(self, function: F) -> F:
        return around(function, lambda: TimedWatch(self._metric, self._monotonic_s))


class Counted:
    """``@counted("renders_total")``: how often, by the exception that ended it."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def __call__(self, name: str, help: str = "") -> CountedWatch:
        return CountedWatch(self._registry.counter(name, help, ("exception",)))


class CountedWatch:
    """Counts a block or each call when it ends."""

    __slots__ = ("_metric",)

    def __init__(self, metric: Counter) -> None:
        self._metric = metric
        metric.labels(NO_EXCEPTION)

    def __enter__(self) -> CountedWatch:
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self._metric.labels(kind.__name__ if _is_failure(kind) else NO_EXCEPTION).inc()

    def __call__(self, function: F) -> F:
        return around(function, lambda: self)


class InProgress:
    """``@in_progress("renders_in_progress")``: how many calls are going on."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def __call__(self, name: str, help: str = "") -> InProgressWatch:
        return InProgressWatch(self._registry.gauge(name, help))


class InProgressWatch:
    """Counts a block or each call while it goes on."""

    __slots__ = ("_metric",)

    def __init__(self, metric: Gauge) -> None:
        self._metric = metric

    def __enter__(self) -> InProgressWatch:
        self._metric.inc()
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self._metric.dec()

    def __call__(self, function: F) -> F:
        return around(function, lambda: self)


def _is_failure(kind: type[BaseException] | None) -> bool:
    """Whether a call failed; a generator that is given up half-way did not."""
    return kind is not None and kind is not GeneratorExit
