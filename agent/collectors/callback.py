"""A function of the backend's own as a business source, where the agent lives in its process."""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Final, TypeAlias

from ...storage.model import MetricType
from .figures import Figure, SourceError, as_label, as_number
from .tick import Family

#: ``{"queue_size": 3}``, or ``("queue_size", 3)`` and ``("queue_size", 3, {"priority": "high"})``.
Named: TypeAlias = tuple[str, float] | tuple[str, float, Mapping[str, str]]
Values: TypeAlias = Mapping[str, float] | Iterable[Named]
Callback: TypeAlias = Callable[[], Values | Awaitable[Values]]

_NAME: Final = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL: Final = re.compile(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]*")


class CallbackReader:
    """
    Calls a function on the event loop: it may look at the backend's objects without a lock, and
    must not block. What it returns may be awaited.

    A metric whose name ends in ``_total`` is a counter, any other a gauge.
    """

    def __init__(self, callback: Callback) -> None:
        self._callback = callback

    async def read(self) -> Sequence[Figure]:
        values = self._callback()
        if inspect.isawaitable(values):
            values = await values
        if isinstance(values, Mapping):
            values = list(values.items())
        if not isinstance(values, Iterable) or isinstance(values, str | bytes):
            raise SourceError(
                f"the function returned {type(values).__name__}, not {{name: value}} or a list of "
                "(name, value) or (name, value, labels)"
            )
        return [_figure(item) for item in values]

    async def close(self) -> None:
        return None


def _figure(item: object) -> Figure:
    if not isinstance(item, tuple | list) or not 2 <= len(item) <= 3:
        raise SourceError(f"{item!r} is not (name, value) or (name, value, labels)")
    name, value, labels = (*item, {})[:3]
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise SourceError(f"{name!r} is not a metric name")
    if not isinstance(labels, Mapping):
        raise SourceError(f"{name}: labels must be a mapping, not {labels!r}")
    number = as_number(value, name)
    if number is None:
        raise SourceError(f"{name}: the value is None")
    texts = {}
    for label, text in labels.items():
        if not isinstance(label, str) or not _LABEL.fullmatch(label):
            raise SourceError(f"{name}: {label!r} is not a label name")
        texts[label] = as_label(text, f"{name}, label {label}")
    type_ = MetricType.COUNTER if name.endswith("_total") else MetricType.GAUGE
    return Figure.of(Family(name, type_, ""), texts, number)
