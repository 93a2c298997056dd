"""Warnings and infos of a query: what to tell the user beside the answer, in upstream's words."""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Final

from .errors import line_and_column
from .literals import format_number, quote
from .nodes import Expr

_MONOTONICITY_PAGE: Final = (
    "https://prometheus.io/docs/prometheus/latest/querying/functions/#histogram_quantile"
)


#: As many of each as upstream's API shows; of the others it says how many there were.
SHOWN_MAX: Final = 10


class Annotations:
    """Collects warnings and infos, each once, in the order they came up."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._warnings: dict[str, None] = {}
        self._infos: dict[str, None] = {}
        self._monotonicity: dict[tuple[str, int], _Monotonicity] = {}

    @property
    def warnings(self) -> tuple[str, ...]:
        return _shown(list(self._warnings), "warning")

    @property
    def infos(self) -> tuple[str, ...]:
        forced = (
            self._info(monotonicity.text(name), position)
            for (name, position), monotonicity in self._monotonicity.items()
        )
        return _shown([*self._infos, *forced], "info")

    def _where(self, position: int) -> str:
        line, column = line_and_column(self._text, position)
        return f"({line}:{column})"

    def _info(self, message: str, position: int) -> str:
        return f"PromQL info: {message} {self._where(position)}"

    def warn(self, message: str, at: Expr) -> None:
        where = self._where(at.span.start)
        self._warnings.setdefault(f"PromQL warning: {message} {where}")

    def info(self, message: str, at: Expr) -> None:
        self._infos.setdefault(self._info(message, at.span.start))

    # -- the single messages -------------------------------------------------------------------

    def invalid_quantile(self, quantile: float, at: Expr) -> None:
        got = format_number(quantile)
        self.warn(f"quantile value should be between 0 and 1, got {got}", at)

    def invalid_ratio(self, ratio: float, capped: float, at: Expr) -> None:
        self.warn(
            f"ratio value should be between -1 and 1, got {format_number(ratio)}, "
            f"capping to {format_number(capped)}",
            at,
        )

    def bad_bucket_label(self, name: str, value: str, at: Expr) -> None:
        message = f'bucket label "le" is missing or has a malformed value of {quote(value)}'
        self.warn(message + _for_metric(name), at)

    def possible_non_counter(self, name: str, at: Expr) -> None:
        self.info(
            "metric might not be a counter, name does not end in _total/_sum/_count/_bucket: "
            + quote(name),
            at,
        )

    def useless_sort(self, function: str, at: Expr) -> None:
        self.warn(
            f"{function} is ineffective for range queries since results are always ordered by "
            "labels",
            at,
        )

    def no_native_histograms(self, what: str, at: Expr) -> None:
        self.info(f"native histograms are not supported, and {what} ignores floats", at)

    def forced_monotonicity(
        self,
        name: str,
        at: Expr,
        buckets: tuple[float, float],
        difference: float,
        times_ms: tuple[int, int],
        samples: int,
    ) -> None:
        """
        Note that buckets had to be fixed; what is said of one metric becomes one message.

        Args:
            buckets: Lowest and highest bound concerned.
            difference: Largest fix.
            times_ms: First and last evaluation time concerned, ``samples`` of them in all.
        """
        key = (name, at.span.start)
        new = _Monotonicity(*buckets, difference, *times_ms, samples)
        old = self._monotonicity.get(key)
        self._monotonicity[key] = new if old is None else old.merged(new)


class _Monotonicity:
    def __init__(
        self, low: float, high: float, difference: float, first_ms: int, last_ms: int, samples: int
    ) -> None:
        self.low, self.high, self.difference = low, high, difference
        self.first_ms, self.last_ms, self.samples = first_ms, last_ms, samples

    def merged(self, other: _Monotonicity) -> _Monotonicity:
        return _Monotonicity(
            min(self.low, other.low),
            max(self.high, other.high),
            max(self.difference, other.difference),
            min(self.first_ms, other.first_ms),
            max(self.last_ms, other.last_ms),
            self.samples + other.samples,
        )

    def text(self, name: str) -> str:
        return (
            "input to histogram_quantile needed to be fixed for monotonicity "
            f"(see {_MONOTONICITY_PAGE}){_for_metric(name)}, "
            f"from buckets {format_number(self.low)} to {format_number(self.high)}, "
            f"with a max diff of {_two_digits(self.difference)}, over {self.samples} samples "
            f"from {_time_text(self.first_ms)} to {_time_text(self.last_ms)}"
        )


def is_mergeable(texts: Iterable[str]) -> bool:
    """Tell whether what is said of parts of a query can stand side by side for the whole of it."""
    return not any("for monotonicity" in text or text.endswith(" omitted") for text in texts)


def _shown(texts: list[str], kind: str) -> tuple[str, ...]:
    omitted = len(texts) - SHOWN_MAX
    if omitted <= 0:
        return tuple(texts)
    return (*texts[:SHOWN_MAX], f"{omitted} more {kind} annotations omitted")


def _for_metric(name: str) -> str:
    return f" for metric name {quote(name)}" if name else ""


def _two_digits(value: float) -> str:
    return format_number(float(f"{value:.1e}")) if math.isfinite(value) else format_number(value)


def _time_text(ms: int) -> str:
    """Write a time as RFC 3339 without trailing zeros; years beyond 9999 stay milliseconds."""
    try:
        time = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=ms)
    except OverflowError:
        return f"{ms}ms"
    fraction = f".{ms % 1000:03d}".rstrip("0") if ms % 1000 else ""
    return f"{time:%Y-%m-%dT%H:%M:%S}{fraction}Z"
