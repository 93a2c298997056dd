"""
JSON points: ``{"name", "labels", "value", "timestamp", "ttl", "type", "help", "unit"}`` to columns.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec
import numpy as np

from ...config.errors import TachographError
from ...config.settings import StorageLimits
from ...config.units import DAY, SECOND, format_duration, parse_duration
from ...storage.frame import FloatArray, IntArray
from ...storage.model import Kind, Labels, Metadata, MetricType
from .naming import family_of, kind_of, labels_fault, text_fault, type_named

DEFAULT_MAX_POINTS: Final = 100_000

# Milliseconds below are before 1973, and a sign of seconds; those above are after the year 9999,
# and a sign of micro- or nanoseconds.
_MIN_MS: Final = 100_000_000_000
_MAX_MS: Final = 253_402_300_799_999
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_SPECIAL_VALUES: Final = {
    "NaN": float("nan"),
    "+Inf": float("inf"),
    "Inf": float("inf"),
    "-Inf": float("-inf"),
}
_FIELDS: Final = ("name", "labels", "value", "timestamp", "ts", "ttl", "type", "help", "unit")
# A job that runs once a year is not forgotten between two runs.
_TTL_MIN_MS: Final = SECOND
_TTL_MAX_MS: Final = 400 * DAY
# A text for people; a page of it is plenty.
_HELP_BYTES_MAX: Final = 4096
# What a sender repeats from request to request is looked at once. Long names and labels are left
# out, so that the whole takes some 20 MB at most.
_KNOWN_MAX: Final = 10_000
_KNOWN_BYTES_MAX: Final = 512
_BLANK: Final = re.compile(r"[ \t\r\n]*")
# An error's position in the whole text is found by counting lines, too slow to do for each line.
_SPREAD_MAX: Final = 100


class PointsError(TachographError):
    """A body none of whose points can be taken; ``too_many`` says that it is only too long."""

    def __init__(self, message: str, *, too_many: bool = False) -> None:
        super().__init__(message)
        self.too_many = too_many


@dataclass(frozen=True, slots=True)
class Refused:
    """A point that can't be stored; ``index`` counts the points of the request from 0."""

    index: int
    reason: str


@dataclass(frozen=True, slots=True)
class PointSeries:
    """A series that points of a request belong to, and its metric family."""

    labels: Labels
    kind: Kind
    type: MetricType
    family: str


@dataclass(frozen=True, slots=True)
class PointBatch:
    """
    The points of one request, as columns.

    Attributes:
        count: Points in the request, good and bad.
        series: Of the good points; one may come twice, if it was spelt in two ways. A series may
            be there without a point, all of its points being bad.
        series_of: ``[n]``, of each good point its place in ``series``.
        index: ``[n]``, of each good point its place in the request.
        ts_ms: ``[n]``, in the order of the request.
        values: ``[n]``.
        ttl_ms: ``[n]``, how long each is kept current; 0 for a plain point.
        metadata: By family, as far as given; empty texts were not.
        refused: The bad points, in order.
    """

    count: int
    series: list[PointSeries]
    series_of: IntArray
    index: IntArray
    ts_ms: IntArray
    values: FloatArray
    ttl_ms: IntArray
    metadata: dict[str, Metadata]
    refused: list[Refused]


class _Point(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    name: str
    value: float | str
    labels: msgspec.Raw = msgspec.Raw(b"{}")
    timestamp: int | float | str | None = None
    ts: int | float | str | None = None
    ttl: str | None = None
    type: str = ""
    help: str = ""
    unit: str = ""


class _Bad(Exception):
    """Why one point is refused."""


class _Pairs(list[tuple[str, object]]):
    """A JSON object as it was written: in order, with its duplicates."""


@dataclass(frozen=True, slots=True)
class _Literal:
    """``NaN`` or ``Infinity``, as Python writes them and JSON doesn't know them."""

    text: str


# A point's name, type and labels, these as JSON or as pairs.
_Key = tuple[str, str, bytes] | tuple[str, str, tuple[tuple[str, object], ...]]


class PointDecoder:
    """
    Decodes bodies; what it learns of one is only a faster way through the next.

    An object is one point. An array, or objects one after the other (NDJSON), are many. A bad
    point doesn't keep the others out.
    """

    def __init__(self, limits: StorageLimits, max_points: int = DEFAULT_MAX_POINTS) -> None:
        self._limits, self._max_points = limits, max_points
        self._array = msgspec.json.Decoder(list[_Point])
        self._objects = msgspec.json.Decoder(_Point)
        self._known: dict[tuple[str, str, bytes], PointSeries | str] = {}

    def decode(self, body: bytes, received_ms: int) -> PointBatch:
        """
        Args:
            received_ms: The time of points that have none.

        Raises:
            PointsError: The body is no UTF-8, no JSON, or has too many points.
        """
        body = body.strip()
        if not body:
            raise PointsError("the body is empty; send a point, an array of points or NDJSON")
        try:
            text = body.decode()
        except UnicodeDecodeError as error:
            raise PointsError(f"the body is not valid UTF-8 at byte {error.start}") from error
        batch = _Batch(received_ms)
        points = self._decode_typed(body)
        if points is None:
            for item in _array_items(text) if text.startswith("[") else _object_items(text):
                if batch.count == self._max_points:
                    raise self._too_many()
                self._add_item(batch, item)
        elif len(points) > self._max_points:
            raise self._too_many()
        else:
            for point in points:
                self._add_point(batch, point)
        return batch.finished()

    def _decode_typed(self, body: bytes) -> list[_Point] | None:
        """Decode all at once; ``None`` if something is wrong with one or the other."""
        # Every point has at least one brace. More than this are looked at one by one, so that
        # megabytes of them never become objects all at once.
        if body.count(b"{") > 2 * self._max_points:
            return None
        try:
            if body.startswith(b"["):
                return self._array.decode(body)
            return self._objects.decode_lines(body)
        except (msgspec.DecodeError, RecursionError):
            return None

    def _add_point(self, batch: _Batch, point: _Point) -> None:
        key = (point.name, point.type, bytes(point.labels))
        try:
            slot = batch.slots.get(key)
            if slot is None:
                slot = batch.open(key, self._recall(key))
            if point.help or point.unit:
                batch.describe(slot, point.help, point.unit)
            batch.add(slot, point.value, _only_one(point.timestamp, point.ts), point.ttl)
        except _Bad as bad:
            batch.refuse(bad)

    def _add_item(self, batch: _Batch, item: object) -> None:
        try:
            fields = _fields(item)
            name, type_text, pairs = fields["name"], fields["type"], fields["labels"]
            assert isinstance(name, str)
            assert isinstance(type_text, str)
            assert isinstance(pairs, _Pairs)
            series = self._identify(name, type_text, pairs)
            # Good label values are strings, so the pairs can be a key by now.
            key = (name, type_text, tuple(pairs))
            slot = batch.slots.get(key)
            if slot is None:
                slot = batch.open(key, series)
            batch.describe(slot, str(fields["help"]), str(fields["unit"]))
            timestamp = _only_one(fields["timestamp"], fields["ts"])
            batch.add(slot, fields["value"], timestamp, fields["ttl"])
        except _Bad as bad:
            batch.refuse(bad)

    def _recall(self, key: tuple[str, str, bytes]) -> PointSeries:
        known = self._known.get(key)
        if known is None:
            name, type_text, labels_json = key
            try:
                known = self._identify(name, type_text, _parse_labels(labels_json))
            except _Bad as bad:
                known = str(bad)
            if len(name) + len(type_text) + len(labels_json) <= _KNOWN_BYTES_MAX:
                if len(self._known) >= _KNOWN_MAX:
                    self._known.clear()
                self._known[key] = known
        if isinstance(known, str):
            raise _Bad(known)
        return known

    def _identify(self, name: str, type_text: str, pairs: _Pairs) -> PointSeries:
        fault = labels_fault(name, pairs, self._limits)
        if fault is not None:
            raise _Bad(fault)
        type_ = type_named(type_text or "unknown")
        if type_ is None:
            raise _Bad(
                f"type {type_text[:40]!r} is none of {', '.join(t.value for t in MetricType)}"
            )
        labels = Labels.of(((label, str(value)) for label, value in pairs), name)
        kind = kind_of(type_, name, [label for label, _ in pairs])
        if kind is None:
            raise _Bad(
                "a histogram is sent as its _bucket (with `le`), _sum and _count"
                if type_ is MetricType.HISTOGRAM
                else "a summary is sent as its quantiles (with `quantile`), _sum and _count"
            )
        return PointSeries(labels, kind, type_, family_of(type_, name))

    def _too_many(self) -> PointsError:
        return PointsError(
            f"more than {self._max_points} points; send them in several requests", too_many=True
        )


class _Batch:
    """Collects the points of one request."""

    def __init__(self, received_ms: int) -> None:
        self.count = 0
        self.slots: dict[_Key, int] = {}
        self._received_ms = received_ms
        self._series: list[PointSeries] = []
        self._series_of: list[int] = []
        self._index: list[int] = []
        self._ts_ms: list[int] = []
        self._values: list[float] = []
        self._ttl_ms: list[int] = []
        self._metadata: dict[str, Metadata] = {}
        self._refused: list[Refused] = []

    def open(self, key: _Key, series: PointSeries) -> int:
        """Make a place for a series."""
        slot = self.slots[key] = len(self._series)
        self._series.append(series)
        if series.type is not MetricType.UNKNOWN:
            self.describe(slot, "", "")
        return slot

    def add(self, slot: int, value: object, timestamp: object, ttl: object) -> None:
        number = _value(value)
        ts_ms = self._received_ms if timestamp is None else _timestamp_ms(timestamp)
        self._ttl_ms.append(0 if ttl is None else _ttl_ms(ttl))
        self._series_of.append(slot)
        self._index.append(self.count)
        self._ts_ms.append(ts_ms)
        self._values.append(number)
        self.count += 1

    def describe(self, slot: int, help_: str, unit: str) -> None:
        series = self._series[slot]
        for what, text in (("help", help_), ("unit", unit)):
            fault = text_fault(f"the {what}", text, _HELP_BYTES_MAX) if text else None
            if fault is not None:
                raise _Bad(fault)
        if not (help_ or unit or series.type is not MetricType.UNKNOWN):
            return
        before = self._metadata.get(series.family)
        if before is not None:
            help_, unit = help_ or before.help, unit or before.unit
        if before is None or (help_, unit) != (before.help, before.unit):
            self._metadata[series.family] = Metadata(series.type, help_, unit)

    def refuse(self, bad: _Bad) -> None:
        self._refused.append(Refused(self.count, str(bad)))
        self.count += 1

    def finished(self) -> PointBatch:
        return PointBatch(
            count=self.count,
            series=self._series,
            series_of=np.array(self._series_of, dtype=np.int64),
            index=np.array(self._index, dtype=np.int64),
            ts_ms=np.array(self._ts_ms, dtype=np.int64),
            values=np.array(self._values, dtype=np.float64),
            ttl_ms=np.array(self._ttl_ms, dtype=np.int64),
            metadata=self._metadata,
            refused=self._refused,
        )


def _value(value: object) -> float:
    if isinstance(value, float):
        if math.isinf(value):
            raise _Bad("the value is out of the range of a 64-bit float")
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, str) and value in _SPECIAL_VALUES:
        return _SPECIAL_VALUES[value]
    if isinstance(value, _Literal):
        raise _Bad(f'{value.text} is not JSON; write "NaN", "+Inf" or "-Inf" as a string')
    raise _Bad('the value is neither a number nor "NaN", "+Inf" or "-Inf"')


def _only_one(timestamp: object, ts: object) -> object:
    if timestamp is not None and ts is not None:
        raise _Bad("`timestamp` and `ts` are the same; give one of them")
    return ts if timestamp is None else timestamp


def _timestamp_ms(timestamp: object) -> int:
    """Read Unix milliseconds, or an ISO 8601 time; fractions of a millisecond are cut off."""
    if isinstance(timestamp, str):
        return _iso_ms(timestamp)
    if isinstance(timestamp, bool) or not isinstance(timestamp, int | float):
        raise _Bad("the timestamp is neither a number nor a string")
    if not _MIN_MS <= timestamp <= _MAX_MS:
        # An integer may have more digits than a float can show.
        shown = f"{float(max(min(timestamp, 10**30), -(10**30))):.15g}"
        guess = "seconds" if timestamp < _MIN_MS else "micro- or nanoseconds"
        raise _Bad(f"timestamp {shown} is not in milliseconds; {guess}, perhaps?")
    return int(timestamp)


def _ttl_ms(ttl: object) -> int:
    """Read a duration as the configuration has them, ``2d``."""
    if not isinstance(ttl, str):
        raise _Bad('the ttl is not a duration such as "2d"')
    try:
        ttl_ms = parse_duration(ttl)
    except ValueError as error:
        raise _Bad(f"ttl: {error}") from None
    if not _TTL_MIN_MS <= ttl_ms <= _TTL_MAX_MS:
        low, high = format_duration(_TTL_MIN_MS), format_duration(_TTL_MAX_MS)
        raise _Bad(f"ttl {format_duration(ttl_ms)} is not between {low} and {high}")
    return ttl_ms


def _iso_ms(text: str) -> int:
    # The dashes keep numbers in quotes out, which Python would read as a date.
    if text[4:5] == "-" and text[7:8] == "-":
        try:
            time = datetime.fromisoformat(text.upper())
            if time.tzinfo is None:
                time = time.replace(tzinfo=UTC)
            return (time - _EPOCH) // timedelta(milliseconds=1)
        except (ValueError, OverflowError):
            pass
    raise _Bad(f"timestamp {text[:40]!r} is not a time such as 2026-01-31T12:00:00.5Z")


def _fields(item: object) -> dict[str, object]:
    """Check the shape of one decoded point; all members are there afterwards."""
    if isinstance(item, _Bad):
        raise item
    if not isinstance(item, _Pairs):
        raise _Bad("the point is not an object")
    fields: dict[str, object] = dict.fromkeys(_FIELDS)
    given: set[str] = set()
    for name, value in item:
        if name not in fields:
            raise _Bad(f"unknown member {name[:40]!r}; there are {', '.join(_FIELDS)}")
        if name in given:
            raise _Bad(f"`{name}` is given twice")
        given.add(name)
        fields[name] = value
    for name in ("name", "value"):
        if name not in given:
            raise _Bad(f"`{name}` is missing")
    for name in ("name", "type", "help", "unit"):
        value = fields[name] if name in given else ""
        if not isinstance(value, str):
            raise _Bad(f"`{name}` is not a string")
        fields[name] = value
    if "labels" not in given:
        fields["labels"] = _Pairs()
    if not isinstance(fields["labels"], _Pairs):
        raise _Bad("`labels` is not an object")
    return fields


def _parse_labels(text: bytes) -> _Pairs:
    try:
        pairs, _ = _json.raw_decode(text.decode())
    except (ValueError, RecursionError) as error:
        raise _Bad("`labels` is not an object of strings") from error
    if not isinstance(pairs, _Pairs):
        raise _Bad("`labels` is not an object")
    return pairs


def _array_items(text: str) -> Iterator[object]:
    """Yield the items of an array one by one; a syntax error ends it all."""
    try:
        at = _skip(text, 1)
        while text[at : at + 1] != "]":
            item, at = _json.raw_decode(text, at)
            yield item
            at = _skip(text, at)
            if text[at : at + 1] == ",":
                at = _skip(text, at + 1)
            elif text[at : at + 1] != "]":
                raise json.JSONDecodeError("Expecting ',' or ']'", text, at)
        if at + 1 < len(text):
            raise json.JSONDecodeError("Extra data", text, at + 1)
    except json.JSONDecodeError as error:
        raise PointsError(f"malformed JSON at {error.lineno}:{error.colno}: {error.msg}") from error
    except RecursionError as error:
        raise PointsError("malformed JSON: nested too deeply") from error


def _object_items(text: str) -> Iterator[object]:
    """Yield values one by one, and a :class:`_Bad` for each line that isn't one."""
    start, spread_left = 0, _SPREAD_MAX
    while start < len(text):
        newline = text.find("\n", start)
        end = newline if newline >= 0 else len(text)
        # A line of its own, as an error counts the lines of its whole text.
        line, following = text[start:end], end + 1
        at = _skip(line, 0)
        while at < len(line):
            begin = start + at
            item: object
            try:
                item, at = _json.raw_decode(line, at)
            except RecursionError:
                item, at = _Bad("malformed JSON: nested too deeply"), len(line)
            except json.JSONDecodeError as error:
                item, at = _Bad(f"malformed JSON: {error.msg}"), len(line)
                if spread_left:
                    spread_left -= 1
                    # A point may be spread over several lines.
                    with suppress(json.JSONDecodeError, RecursionError):
                        item, following = _json.raw_decode(text, begin)
            yield item
            at = _skip(line, at)
        start = following


def _skip(text: str, at: int) -> int:
    match = _BLANK.match(text, at)
    assert match is not None
    return match.end()


def _parse_int(digits: str) -> int | float:
    # Python refuses to read integers of more than 4,300 digits, with an error of another sort.
    return int(digits) if len(digits) < 20 else float(digits)


_json: Final = json.JSONDecoder(
    object_pairs_hook=_Pairs, parse_int=_parse_int, parse_constant=_Literal
)
