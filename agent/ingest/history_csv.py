"""
History as CSV: one sample a line, under a header that names the columns.

=================  =================================================================================
``time``           or ``timestamp``: Unix seconds or RFC 3339; ``time_ms``, ``timestamp_ms``:
                   milliseconds
``metric``         or ``series``: a series as text, ``up{job="api"}``
``name``           instead of that: a metric's name, all other columns being labels
``type``           beside ``metric``: the family's type, ``counter`` or ``gauge``; may be empty
``value``          a number, ``NaN``, ``+Inf``, ``-Inf``, or ``stale`` for the marker that ends a
                   series
anything else      a label of that name; an empty cell is no label
=================  =================================================================================

The order of the columns is free. A quoted cell ends on its line.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Final

import msgspec
import numpy as np

from ...storage.frame import STALE_NAN, FloatArray, IntArray, is_stale
from ...storage.model import METRIC_NAME, Labels, MetricType
from ..wire.errors import WireError
from ..wire.metric_text import metric_text
from .exposition_lines import LineError, Syntax, parse_labels
from .history import BadLines, Run, Table
from .naming import type_named

_METRIC: Final = ("metric", "series")
_SECONDS: Final = ("time", "timestamp")
_MILLISECONDS: Final = ("time_ms", "timestamp_ms")
_STALE: Final = "stale"
_WORDS: Final = {"nan": float("nan"), "inf": float("inf"), "infinity": float("inf")}
#: 10,000 years are the most that a time may be away from the epoch.
_SECONDS_MAX: Final = 3.2e11
#: float() takes underscores, too.
_NUMBER_CHARS: Final = str.maketrans("", "", "0123456789+-.eE")

Key = tuple[str, ...]
_encode: Final = msgspec.json.Encoder().encode


class CsvReader:
    """Reads CSV; see :class:`.history.Reader`."""

    def __init__(self) -> None:
        self.bad = BadLines()
        self._table = Table()
        self._columns: _Columns | None = None
        self._slots: dict[Key, int] = {}
        self._lines = 0

    @property
    def samples(self) -> int:
        return self._table.samples

    def take(self) -> list[Run]:
        return self._table.take()

    def feed(self, lines: Sequence[bytes]) -> None:
        if self._columns is None and lines:
            self._columns = _Columns(lines[0].decode("utf-8-sig", "replace"))
            self._lines, lines = 1, lines[1:]
        first, self._lines = self._lines + 1, self._lines + len(lines)
        try:
            rows = list(csv.reader((line.decode() for line in lines), strict=True))
            if len(rows) == len(lines) and self._add(rows):
                return
        except (csv.Error, ValueError, LineError):
            pass  # something is wrong somewhere: look at each line by itself
        for number, line in enumerate(lines, start=first):
            try:
                self._add_line(line)
            except (csv.Error, ValueError, LineError) as error:
                self.bad.add(number, str(error))

    def _add_line(self, line: bytes) -> None:
        rows = [row for row in csv.reader([line.decode()], strict=True) if row]
        if rows and not self._add(rows):
            assert self._columns is not None
            raise ValueError(f"{len(rows[0])} cells, the header has {self._columns.count}")

    def _add(self, rows: Sequence[list[str]]) -> bool:
        """Take all of some rows, or none: False if one has not as many cells as it should."""
        columns = self._columns
        assert columns is not None
        if set(map(len, rows)) - {columns.count}:
            return False
        cells = list(zip(*rows, strict=True))
        if not cells:
            return True
        ts_ms, values = columns.times(cells[columns.time]), _numbers(cells[columns.value])
        # Column by column, not row by row: that is three times as fast.
        keys = list(zip(*(cells[place] for place in columns.key), strict=True))
        known = list(map(self._slots.get, keys))
        pairs = zip(known, keys, strict=True)
        slots = [self._open(key) if slot is None else slot for slot, key in pairs]
        self._table.add(slots, ts_ms, values)
        return True

    def _open(self, key: Key) -> int:
        assert self._columns is not None
        slot = self._slots.get(key)
        if slot is None:
            slot = self._slots[key] = self._table.open(*self._columns.series(key))
        return slot


class _Columns:
    """What a header says."""

    def __init__(self, header: str) -> None:
        try:
            names = next(csv.reader([header], strict=True), [])
        except csv.Error as error:
            raise WireError(f"the header is no CSV: {error}") from error
        names = [name.strip() for name in names]
        if len(set(names)) != len(names):
            raise WireError(f"the header names a column twice: {header[:200]!r}")
        self.count = len(names)
        seconds = [name for name in names if name in _SECONDS]
        milliseconds = [name for name in names if name in _MILLISECONDS]
        metric = [name for name in names if name in _METRIC]
        given = seconds + milliseconds
        has_name = "name" in names and not metric
        if len(given) != 1 or "value" not in names or not (len(metric) == 1 or has_name):
            raise WireError(
                f"the header {header[:200]!r} has not one column each of time (or time_ms), "
                "value, and metric or name"
            )
        self.time, self.value = names.index(given[0]), names.index("value")
        self.times: Callable[[Sequence[str]], IntArray] = _seconds if seconds else _milliseconds
        self._is_text = bool(metric)
        names_apart = [metric[0] if metric else "name"]
        if metric and "type" in names:
            names_apart.append("type")
        labels = [name for name in names if name not in {given[0], "value", *names_apart}]
        self._has_type, self._labels = len(names_apart) == 2, labels
        #: The columns that tell a row's series, in the order that :meth:`series` wants.
        self.key = [names.index(name) for name in (*names_apart, *labels)]

    def series(self, key: Key) -> tuple[Labels, MetricType]:
        """
        Read a series.

        Raises:
            ValueError, LineError: It is none.
        """
        type_ = MetricType.UNKNOWN
        cells = key[1:]
        if self._has_type:
            found = type_named(key[1] or "unknown")
            if found is None:
                raise ValueError(f"{key[1][:40]!r} is no type of metric")
            type_, cells = found, key[2:]
        pairs = dict(zip(self._labels, cells, strict=True))
        if self._is_text:
            pairs |= parse_labels(key[0].encode(), Syntax.OPENMETRICS)
        else:
            pairs[METRIC_NAME] = key[0]
        return Labels.of(pairs), type_


def _seconds(texts: Sequence[str]) -> IntArray:
    try:
        if "".join(texts).translate(_NUMBER_CHARS):
            raise ValueError
        seconds = np.array(list(map(float, texts)), np.float64)
    except ValueError:
        seconds = np.array([_second(text) for text in texts], np.float64)
    if not (np.abs(seconds) < _SECONDS_MAX).all():
        raise ValueError("a time is not within 10,000 years of 1970; are these milliseconds?")
    ts_ms: IntArray = np.rint(seconds * 1000).astype(np.int64)
    return ts_ms


def _second(text: str) -> float:
    if not text.strip().translate(_NUMBER_CHARS):
        try:
            return float(text)
        except ValueError:
            pass
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        raise ValueError(
            f"{text[:40]!r} is neither Unix seconds nor a time such as 2026-01-31T12:00:00Z"
        ) from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _milliseconds(texts: Sequence[str]) -> IntArray:
    if "".join(texts).translate(_NUMBER_CHARS):
        raise ValueError("a time is not a whole number of milliseconds")
    try:
        return np.array(list(map(int, texts)), np.int64)
    except OverflowError:
        raise ValueError("a time is beyond 64 bits") from None


def _numbers(texts: Sequence[str]) -> FloatArray:
    if not "".join(texts).translate(_NUMBER_CHARS):
        return np.array(list(map(float, texts)), np.float64)
    return np.array([_number(text.strip()) for text in texts], np.float64)


def _number(text: str) -> float:
    if not text.translate(_NUMBER_CHARS):
        return float(text)
    if text == _STALE:
        return STALE_NAN
    sign = -1 if text.startswith("-") else 1
    word = text.lstrip("+-").lower()
    if word not in _WORDS or len(text) - len(word) > 1:
        raise ValueError(f"{text[:40]!r} is not a number")
    return sign * _WORDS[word]


class CsvWriter:
    """Writes CSV; see :class:`.history.Writer`. Nothing is left out but help and unit."""

    left_out = 0

    def begin(self) -> bytes:
        return b"metric,type,time,value\n"

    def write(self, runs: Iterable[Run]) -> bytes:
        return "".join(map(_lines, runs)).encode()

    def end(self) -> bytes:
        return b""


def _lines(run: Run) -> str:
    type_ = "" if run.type is MetricType.UNKNOWN else run.type.value
    metric = metric_text(run.labels).replace('"', '""')
    head = f'"{metric}",{type_},'
    return "".join(
        [
            f"{head}{time},{value}\n"
            for time, value in zip(times_text(run.ts_ms), values_text(run.values), strict=True)
        ]
    )


def times_text(ts_ms: IntArray) -> list[str]:
    """Write milliseconds as seconds: whole, or with three decimals."""
    if not (ts_ms % 1000).any():
        return list(map(str, (ts_ms // 1000).tolist()))
    signs = ["-" if ts < 0 else "" for ts in ts_ms.tolist()]
    whole, rest = np.divmod(np.abs(ts_ms), 1000)
    return [
        f"{sign}{second}.{part:03d}"
        for sign, second, part in zip(signs, whole.tolist(), rest.tolist(), strict=True)
    ]


def values_text(values: FloatArray) -> list[str]:
    """Write numbers with the fewest digits that give them back, and words for what is none."""
    if not len(values):
        return []
    finite = np.isfinite(values)
    texts = _encode(np.where(finite, values, 0.0).tolist()).decode()[1:-1].split(",")
    stale = is_stale(np.ascontiguousarray(values))
    for place in np.flatnonzero(~finite).tolist():
        value = values[place]
        if stale[place]:
            texts[place] = _STALE
        else:
            texts[place] = "NaN" if value != value else "+Inf" if value > 0 else "-Inf"
    return texts
