"""Metrics as a backend's code knows them: counters, gauges, histograms, ratios, with labels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, TypeVar

from .caller import caller
from .names import as_unicode, help_text
from .series import CounterSeries, GaugeSeries, HistogramSeries, Mark, Payload, RatioSeries
from .timing import Timer

if TYPE_CHECKING:
    from .registry import Registry

#: Value of a label, in place of one for which there is no more room.
OTHER: Final = "other"
#: Upper bounds in seconds: from 5 ms to 10 s, as most clients of Prometheus have them.
SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
#: Upper bounds in bytes: from 256 B to 64 MiB, by factors of 8.
BYTES: Final = tuple(float(1 << power) for power in range(8, 27, 3))
#: How the values that several processes have for one gauge become one.
GAUGE_MODES: Final = ("sum", "max", "min", "last", "worker")
# Once a metric is full, so many series more may come that differ in their other labels only.
_OVERFLOW_SERIES: Final = 64


class Drainable(Protocol):
    """A series, as far as handing it on is concerned."""

    number: int

    def drain(self) -> tuple[Payload, Mark] | None: ...

    def restore(self, mark: Mark) -> None: ...

    def blank(self) -> Payload:
        """What is told of it when it is new to the agent and has nothing to tell."""
        ...

    def forget(self) -> None: ...


S = TypeVar("S", bound=Drainable)


class Metric(ABC, Generic[S]):
    """
    A metric and its series by label values.

    Attributes:
        type: ``counter``, ``gauge``, ``histogram``, ``ratio`` or ``rate``; the agent turns the last
            two into gauges.
    """

    type = ""

    def __init__(
        self,
        registry: Registry,
        number: int,
        name: str,
        help: str,
        labels: Sequence[str],
        *,
        is_own: bool = False,
    ) -> None:
        self.registry, self.number = registry, number
        self.name, self.help, self.label_names = name, help_text(help), tuple(labels)
        self.is_own = is_own
        self.children: dict[tuple[str, ...], S] = {}
        self._overflowed = 0
        self._culprit: int | None = None
        self._source = ""
        self._nowhere = self._make(0)
        # A series without labels is there from the start, so that its 0 is seen before its 1.
        self._only: S = _Unlabelled(registry) if self.label_names else self._add(())  # type: ignore[assignment]

    def labels(self, *values: Any, **named: Any) -> S:
        """
        Return the series of these label values, in the order of definition, or by name.

        Text is fastest. With too many series, some values are replaced by ``other``; with wrong
        labels, what is returned counts for nothing but ``tachograph_client_dropped_total``.
        """
        try:
            return self.children[values]
        except (KeyError, TypeError):
            return self._resolve(values, named)

    def labels_of(self, values: tuple[str, ...]) -> S:
        """Return the series of label values in a tuple; of none, for a metric without labels."""
        return self.labels(*values) if values else self._only

    def remove(self, *values: Any) -> None:
        """Forget the series of these label values; the agent ends it when nobody else has it."""
        with self.registry.lock:
            key = tuple(map(str, values))
            child = self.children.pop(key, None)
            if child is not None:
                self.registry.bury(self, key, child)

    def fingerprint(self) -> tuple[Any, ...]:
        """What must be equal for two definitions to be one."""
        return (self.type, self.label_names)

    def described(self) -> str:
        """What it is, in words, beside its name and help."""
        return f"a {self.type} with labels {list(self.label_names)}"

    def definition(self) -> list[Any]:
        """The rest of what the agent is told of it, beside number, name, type, help and labels."""
        return []

    @abstractmethod
    def _make(self, number: int) -> S:
        """Return a new series."""

    def _resolve(self, values: tuple[Any, ...], named: dict[str, Any]) -> S:
        try:
            if named:
                if len(named) + len(values) != len(self.label_names):
                    raise KeyError
                values = (*values, *(named[name] for name in self.label_names[len(values) :]))
            if len(values) != len(self.label_names) or not values:
                raise KeyError
            key = tuple(value if value.__class__ is str else str(value) for value in values)
        except Exception:  # str() of a foreign object may raise anything
            self.registry.drop("labels")
            return self._nowhere
        return self.children.get(key) or self._add(key)

    def _add(self, key: tuple[str, ...]) -> S:
        registry = self.registry
        key = tuple(map(as_unicode, key))
        with registry.lock:
            limits = registry.limits
            for place, value in enumerate(key):
                if not self.is_own and _is_long(value, limits.label_value_bytes):
                    key = (*key[:place], OTHER, *key[place + 1 :])
                    registry.overflowed(self.name, self.label_names[place], self._caller())
            child = self.children.get(key)
            if child is not None:
                return child
            if not (self.is_own or not key):
                if registry.series_count >= limits.series:
                    return self._overflow((OTHER,) * len(key), "")
                if len(self.children) - self._overflowed >= limits.series_per_metric:
                    return self._overflow_one(key)
            return self._insert(key)

    def _insert(self, key: tuple[str, ...]) -> S:
        child = self.children[key] = self._make(self.registry.next_number())
        return child

    def _overflow_one(self, key: tuple[str, ...]) -> S:
        """Give up the label that has most values, and keep apart what the others tell."""
        if self._culprit is None:
            distinct = [len(set(values)) for values in zip(*self.children, strict=True)]
            self._culprit = distinct.index(max(distinct))
        place = self._culprit
        shortened = (*key[:place], OTHER, *key[place + 1 :])
        if shortened not in self.children and self._overflowed >= _OVERFLOW_SERIES:
            shortened = (OTHER,) * len(key)
        return self._overflow(shortened, self.label_names[place])

    def _overflow(self, key: tuple[str, ...], label: str) -> S:
        self.registry.overflowed(self.name, label, self._caller())
        child = self.children.get(key)
        if child is None:
            self._overflowed += 1
            child = self._insert(key)
        return child

    def _caller(self) -> str:
        """Say which line of the backend asked for the first one too many: ``shop/cart.py:41``."""
        self._source = self._source or caller()
        return self._source


class _Unlabelled:
    """Stands in for a series where labels are needed and none were given: it takes nothing."""

    value = sum = float("nan")
    count = 0

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def inc(self, amount: float = 1.0) -> None:
        self._registry.drop("labels")

    dec = set = observe = take = inc

    def hit(self) -> None:
        self._registry.drop("labels")

    miss = hit

    def set_function(self, function: Callable[[], float]) -> None:
        self._registry.drop("labels")


class Counter(Metric[CounterSeries]):
    """Something that is counted; its name ends with ``_total``."""

    type = "counter"

    def inc(self, amount: float = 1.0) -> None:
        self._only.inc(amount)

    @property
    def value(self) -> float:
        return self._only.value

    def _make(self, number: int) -> CounterSeries:
        return CounterSeries(self.registry, number)


class Rate(Counter):
    """Something whose number a second is of interest; the agent shows it as a gauge."""

    type = "rate"


class Gauge(Metric[GaugeSeries]):
    """Something that goes up and down."""

    type = "gauge"

    def __init__(self, *args: Any, mode: str = "sum", **options: Any) -> None:
        self.mode = mode
        super().__init__(*args, **options)

    def set(self, value: float) -> None:
        self._only.set(value)

    def inc(self, amount: float = 1.0) -> None:
        self._only.inc(amount)

    def dec(self, amount: float = 1.0) -> None:
        self._only.dec(amount)

    def set_function(self, function: Callable[[], float]) -> None:
        self._only.set_function(function)

    @property
    def value(self) -> float:
        return self._only.value

    def fingerprint(self) -> tuple[Any, ...]:
        return (*super().fingerprint(), self.mode)

    def described(self) -> str:
        return f"{super().described()} and mode {self.mode}"

    def definition(self) -> list[Any]:
        return [self.mode]

    def _make(self, number: int) -> GaugeSeries:
        return GaugeSeries(self.registry, number)


class Histogram(Metric[HistogramSeries]):
    """Values whose distribution is of interest, counted by upper bound."""

    type = "histogram"

    def __init__(self, *args: Any, bounds: Sequence[float] = SECONDS, **options: Any) -> None:
        try:
            numbers = {float(bound) for bound in bounds}
        except (TypeError, ValueError):
            numbers = {float("nan")}
        if any(number != number for number in numbers):
            raise ValueError(f"{args[2]}: bounds are a list of numbers, not {bounds!r}")
        self.bounds = tuple(sorted(number for number in numbers if number < float("inf")))
        super().__init__(*args, **options)

    def observe(self, value: float) -> None:
        self._only.observe(value)

    @property
    def count(self) -> int:
        return self._only.count

    @property
    def sum(self) -> float:
        return self._only.sum

    def time(self) -> Timer:
        """Measure a block or a function: ``with h.time(): ...`` or ``@h.time()``."""
        return Timer(self._only.observe, self.registry.monotonic_s)

    def fingerprint(self) -> tuple[Any, ...]:
        return (*super().fingerprint(), self.bounds)

    def described(self) -> str:
        return f"{super().described()} and bounds {list(self.bounds)}"

    def definition(self) -> list[Any]:
        return list(self.bounds)

    def _make(self, number: int) -> HistogramSeries:
        return HistogramSeries(self.registry, number, self.bounds)


class Ratio(Metric[RatioSeries]):
    """
    A share of hits among all, from 0 to 1: over all processes, and over the last ``window_s``.

    With nothing to divide by, the last share stays.
    """

    type = "ratio"

    def __init__(self, *args: Any, window_s: float = 300.0, **options: Any) -> None:
        if not isinstance(window_s, int | float) or not 0 < window_s < float("inf"):
            raise ValueError(f"{args[2]}: window_s is a number of seconds, not {window_s!r}")
        self.window_s = window_s
        super().__init__(*args, **options)

    def hit(self) -> None:
        self._only.hit()

    def miss(self) -> None:
        self._only.miss()

    def take(self, is_hit: bool) -> None:
        self._only.take(is_hit)

    @property
    def value(self) -> float:
        return self._only.value

    def definition(self) -> list[Any]:
        return [self.window_s]

    def _make(self, number: int) -> RatioSeries:
        return RatioSeries(self.registry, number)


def _is_long(value: str, bytes_max: int) -> bool:
    # A character has at most four bytes: short texts need no encoding to be judged.
    return len(value) * 4 > bytes_max < len(value.encode("utf-8", "replace"))


def series_of(metric: Metric[Any]) -> Iterator[tuple[tuple[str, ...], Drainable]]:
    """The label values and series of a metric, as they are now."""
    yield from list(metric.children.items())
