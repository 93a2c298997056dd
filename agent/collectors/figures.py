"""Business figures as a source: what a reader finds becomes a tick, and what it misses ends."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Final, Protocol

from ...config.errors import TachographError
from ...config.secret import MASK
from ...storage.errors import StoreUnavailable
from ...storage.sink import Sink
from .source import Noting
from .tick import Block, Family, TickWriter

# What the schedule gives a pass beyond its own timeout, to end the series of a failed one.
_GRACE_S: Final = 1.0
_ERROR_CHARS_MAX: Final = 500
# Less than that of a secret's beginning says nothing, and is likely to be something else.
_SECRET_PART_MIN: Final = 4

Pairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Figure:
    """One value of one series; ``labels`` are sorted by name and have no empty values."""

    family: Family
    labels: Pairs
    value: float

    @classmethod
    def of(cls, family: Family, labels: Mapping[str, str], value: float) -> Figure:
        return cls(family, tuple(sorted(pair for pair in labels.items() if pair[1])), value)

    def __str__(self) -> str:
        inner = ", ".join(f'{name}="{value}"' for name, value in self.labels)
        return f"{self.family.name}{self.family.suffix}{{{inner}}}"


class SourceError(TachographError):
    """
    A source has no answer that could be stored; the text holds no secret.

    Attributes:
        figures: What can be stored all the same, such as a program's exit code.
    """

    def __init__(self, message: str, figures: Sequence[Figure] = ()) -> None:
        super().__init__(message)
        self.figures = figures


class Reader(Protocol):
    """Asks one business source."""

    async def read(self) -> Sequence[Figure]:
        """
        Return every series of now. May be cancelled at any await.

        Raises:
            SourceError: There is no answer, or none that can be understood.
        """
        ...

    async def close(self) -> None: ...


class BusinessSource:
    """
    A :class:`~.source.Source`, also :class:`~.source.Ending` and :class:`~.source.Noting`, over a
    reader.

    A failed pass ends all series of the source, as a failed scrape does: nobody knows their values
    any more, and an old one must not pass for current. ``tachograph_source_up`` says which.

    Args:
        identity: Sources of equal name and identity are one to a reload.
        timeout_s: Of the reader; the schedule is told a little more.
    """

    backs_off = True
    reports_itself = False

    def __init__(
        self,
        sink: Sink,
        reader: Reader,
        *,
        name: str,
        identity: object,
        interval_s: float,
        timeout_s: float,
        namespace: str,
        labels: Mapping[str, str],
        max_series: int,
    ) -> None:
        self.name = name
        self.interval_s = interval_s
        self.timeout_s = timeout_s + _GRACE_S
        self._reader = reader
        self._answer_s = timeout_s
        self._max_series = max_series
        self._identity = (
            name,
            identity,
            interval_s,
            timeout_s,
            namespace,
            dict(labels),
            max_series,
        )
        self._writer = TickWriter(sink, name, namespace, labels)

    async def collect(self, ts_ms: int) -> None:
        """
        Raises:
            SourceError: Nothing could be learnt.
            StoreUnavailable: The tick was not taken.
        """
        try:
            blocks = self._blocks(await self._read())
        except StoreUnavailable:
            raise
        except SourceError as error:
            self._writer.write(ts_ms, _blocks(error.figures))
            raise
        except Exception:
            self._writer.end(ts_ms)
            raise
        self._writer.write(ts_ms, blocks)

    async def close(self) -> None:
        await self._reader.close()

    def end_series(self, ts_ms: int) -> None:
        self._writer.end(ts_ms)

    @property
    def note(self) -> str:
        return self._reader.note if isinstance(self._reader, Noting) else ""

    async def _read(self) -> Sequence[Figure]:
        try:
            async with asyncio.timeout(self._answer_s) as deadline:
                return await self._reader.read()
        except TimeoutError:
            if deadline.expired():
                raise SourceError(f"no answer within {self._answer_s:g} s") from None
            raise

    def _blocks(self, figures: Sequence[Figure]) -> list[Block]:
        if len(figures) > self._max_series:
            raise SourceError(
                f"{len(figures)} series, more than max_series allows ({self._max_series})"
            )
        seen: set[tuple[str, str, Pairs]] = set()
        for figure in figures:
            key = (figure.family.name, figure.family.suffix, figure.labels)
            if key in seen:
                raise SourceError(
                    f"two values for {figure}; add a label that tells them apart, or group by them"
                )
            seen.add(key)
        return _blocks(figures)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BusinessSource) and self._identity == other._identity

    def __hash__(self) -> int:
        return hash((self.name, self.interval_s))


def _blocks(figures: Iterable[Figure]) -> list[Block]:
    """A block per family, so that a new series in one makes nobody look up those of the others."""
    by_family: dict[tuple[str, str], list[Figure]] = {}
    for figure in figures:
        by_family.setdefault((figure.family.name, figure.family.suffix), []).append(figure)
    return [_block(key, found) for key, found in by_family.items()]


def _block(key: tuple[str, str], figures: list[Figure]) -> Block:
    return Block(
        (key, tuple(figure.labels for figure in figures)),
        [figure.value for figure in figures],
        lambda: [(figure.family, dict(figure.labels)) for figure in figures],
    )


def as_number(value: object, where: str) -> float | None:
    """
    Read a value of a database or a document: times become Unix seconds (without a zone they are
    UTC), durations seconds, booleans 0 and 1. ``None`` is no value.

    Raises:
        SourceError: It is no number; ``where`` says whose.
    """
    try:
        if value is None:
            return None
        if isinstance(value, bool | int | float | Decimal):
            return float(value)
        if isinstance(value, str):
            return float(value) if value.isascii() and "_" not in value else _no_number(value)
        if isinstance(value, timedelta):
            return value.total_seconds()
        if isinstance(value, datetime):
            return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
        if isinstance(value, date):
            return datetime.combine(value, time(), UTC).timestamp()
    except (ValueError, OverflowError):
        pass
    raise SourceError(f"{where}: {_shown(value)} is not a number")


def as_label(value: object, where: str) -> str:
    """
    Read a label's value; ``None`` is an empty one, which is no label.

    Raises:
        SourceError: It is a list or an object.
    """
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return str(int(value)) if math.isfinite(value) and value == int(value) else repr(value)
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, Mapping | list | tuple | set):
        raise SourceError(f"{where}: {_shown(value)} is not a single value")
    return str(value)  # int, Decimal, UUID, an enumeration


def masked(text: str, secrets: Iterable[str]) -> str:
    """Return a message on one line, shortened, without any of ``secrets``."""
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        text = text.replace(secret, MASK)
        # Of a value that was shown in part the beginning may be all there is.
        for length in range(len(secret) - 1, _SECRET_PART_MIN - 1, -1):
            text = text.replace(f"{secret[:length]}…", f"{MASK}…")
    text = " ".join(text.split())
    return text if len(text) <= _ERROR_CHARS_MAX else f"{text[: _ERROR_CHARS_MAX - 1]}…"


def _no_number(text: str) -> float:
    raise ValueError(text)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:59]}…"
