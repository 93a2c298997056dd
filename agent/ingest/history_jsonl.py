"""
VictoriaMetrics' JSON lines: ``{"metric":{...},"values":[...],"timestamps":[...]}``, times in ms.

What JSON has no number for: ``null`` is a stale marker, as it is where VictoriaMetrics exports one;
``"NaN"``, ``"Infinity"`` and ``"-Infinity"`` are what they say. When reading, ``Inf``, ``+Inf``,
``-Inf`` and ``NaN`` are taken too, in quotes or, as older versions wrote them, without.

``type``, ``help`` and ``unit`` of the metric's family may follow; VictoriaMetrics passes over them.

Source: VictoriaMetrics documentation, "JSON line format".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec
import numpy as np

from ...storage.frame import STALE_NAN, FloatArray, is_stale
from ...storage.model import Labels, MetricType
from .history import BadLines, Run

_WORDS: Final = {
    "NaN": float("nan"),
    "nan": float("nan"),
    "Inf": float("inf"),
    "+Inf": float("inf"),
    "Infinity": float("inf"),
    "+Infinity": float("inf"),
    "-Inf": float("-inf"),
    "-Infinity": float("-inf"),
}
_TYPES: Final = {type_.value: type_ for type_ in MetricType}
#: Numbers that old versions write and JSON doesn't know.
_BARE: Final = re.compile(rb"(?<=[\[,])\s*([+-]?Inf|[+-]?Infinity|NaN|nan)\s*(?=[,\]])")

_Value = float | str | None


class _Line(msgspec.Struct, gc=False):
    metric: dict[str, str]
    values: list[_Value]
    timestamps: list[int]
    type: str = ""
    help: str = ""
    unit: str = ""


class _Plain(msgspec.Struct, gc=False):
    """The same with nothing but numbers, which is read twice as fast."""

    metric: dict[str, str]
    values: list[float]
    timestamps: list[int]
    type: str = ""
    help: str = ""
    unit: str = ""


_plain: Final = msgspec.json.Decoder(_Plain)
_any: Final = msgspec.json.Decoder(_Line)
_encode: Final = msgspec.json.Encoder().encode


class JsonLinesReader:
    """Reads JSON lines; see :class:`.history.Reader`."""

    def __init__(self) -> None:
        self.bad = BadLines()
        self.samples = 0
        self._lines = 0
        self._runs: list[Run] = []

    def feed(self, lines: Sequence[bytes]) -> None:
        for line in lines:
            self._lines += 1
            if not line.strip():
                continue
            try:
                run = read_line(line)
            except ValueError as error:
                self.bad.add(self._lines, str(error))
                continue
            if len(run.ts_ms):
                self._runs.append(run)
                self.samples += len(run.ts_ms)

    def take(self) -> list[Run]:
        runs, self._runs = self._runs, []
        self.samples = 0
        return runs


def read_line(line: bytes) -> Run:
    """
    Read one line.

    Raises:
        ValueError: It is none; the message says why.
    """
    found: _Line | _Plain
    try:
        found = _plain.decode(line)
        values = np.array(found.values, np.float64)
    except msgspec.ValidationError:
        found = _any.decode(line)
        values = _numbers(found.values)
    except msgspec.DecodeError:
        quoted = _BARE.sub(rb'"\1"', line)
        if quoted == line:
            raise
        found = _any.decode(quoted)
        values = _numbers(found.values)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if len(found.timestamps) != len(values):
        raise ValueError(f"{len(values)} values and {len(found.timestamps)} timestamps")
    try:
        ts_ms = np.array(found.timestamps, np.int64)
    except OverflowError:
        raise ValueError("a timestamp is beyond 64 bits") from None
    type_ = _TYPES.get(found.type, MetricType.UNKNOWN)
    return Run(Labels.of(found.metric), ts_ms, values, type_, found.help, found.unit)


def _numbers(values: Sequence[_Value]) -> FloatArray:
    numbers = np.empty(len(values))
    for place, value in enumerate(values):
        if value is None:
            numbers[place] = STALE_NAN
        elif isinstance(value, float):
            numbers[place] = value
        elif value in _WORDS:
            numbers[place] = _WORDS[value]
        else:
            raise ValueError(f"{value[:40]!r} is not a number")
    return numbers


class JsonLinesWriter:
    """Writes JSON lines; see :class:`.history.Writer`. Nothing is left out."""

    left_out = 0

    def __init__(self) -> None:
        self._described: set[tuple[str, MetricType]] = set()

    def begin(self) -> bytes:
        return b""

    def write(self, runs: Iterable[Run]) -> bytes:
        return b"".join(self._line(run) for run in runs if len(run.ts_ms))

    def end(self) -> bytes:
        return b""

    def _line(self, run: Run) -> bytes:
        more = b""
        if run.type is not MetricType.UNKNOWN:
            more = b',"type":' + _encode(run.type.value)
        # Texts for people once for each metric: they are longer than most lines' samples.
        family = run.labels.name, run.type
        if (run.help or run.unit) and family not in self._described:
            self._described.add(family)
            more += b',"help":' + _encode(run.help) + b',"unit":' + _encode(run.unit)
        return b'{"metric":%b,"values":%b,"timestamps":%b%b}\n' % (
            _encode(dict(run.labels)),
            _written(run.values),
            _encode(run.ts_ms.tolist()),
            more,
        )


def _written(values: FloatArray) -> bytes:
    if np.isfinite(values).all():
        return _encode(values.tolist())
    cells: list[_Value] = values.tolist()
    stale = is_stale(np.ascontiguousarray(values))
    for place in np.flatnonzero(~np.isfinite(values)).tolist():
        value = values[place]
        if stale[place]:
            cells[place] = None
        else:
            cells[place] = "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"
    return _encode(cells)
