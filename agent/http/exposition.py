"""``/metrics``: current values of the series it is given, in the formats that scrapers read."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, compress
from typing import Final, ParamSpec, Protocol, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt
from aiohttp import hdrs, web

from ...storage.clock import Clock
from ...storage.current import Current
from ...storage.frame import BoolArray, FloatArray, IntArray, RefArray, is_stale
from ...storage.model import Metadata, Series
from .families import Block, build_block, stem_of
from .negotiation import Style, accepts_gzip, choose

_P = ParamSpec("_P")
_T = TypeVar("_T")

DEFAULT_LOOKBACK_MS: Final = 5 * 60 * 1000

# A line takes about 0.1 µs to render, so up to here the event loop waits for 2 ms at most and a
# trip to another thread and back isn't worth it (benchmarks/exposition_render.py).
_INLINE_LINES: Final = 20_000
# zlib does 300 MB/s at level 1; level 6 saves another 8 % of the bytes for twice that time.
_INLINE_GZIP_BYTES: Final = 128 * 1024
_GZIP_LEVEL: Final = 1
# For more than 500 elements NumPy lets other threads have the interpreter, and getting it back from
# queries takes up to a millisecond each time: a page, which computes for 0.2 ms, would do so twenty
# times (benchmarks/exposition_under_load.py).
_SLICE: Final = 480
# Beyond this share of changed values, setting all of them costs less than picking them out.
_REPLACE_ALL_SHARE: Final = 0.25

_json = msgspec.json.Encoder()


class SeriesSource(Protocol):
    """Which series there are."""

    @property
    def version(self) -> int:
        """A number that changes whenever a series comes or goes."""
        ...

    def series(self) -> Iterable[Series]:
        """Return the series, in an order that stays the same for those that stay."""
        ...


class MetadataSource(Protocol):
    """What is known of metric families."""

    @property
    def version(self) -> int:
        """A number that changes whenever an answer of :meth:`metadata` would."""
        ...

    def metadata(self, family: str) -> Metadata | None:
        """Answer for one family; called from other threads, too."""
        ...


@dataclass(slots=True)
class ExpositionStats:
    """
    Attributes:
        renders: Expositions made.
        layouts: How often lines had to be laid out anew before that.
        blocks: Metrics (of one stem) laid out in doing so; the others were kept.
        lines: Of the last exposition.
        hidden: Series that the last layout left out, for want of a name or because escaping
            made their name that of another series.
    """

    renders: int = 0
    layouts: int = 0
    blocks: int = 0
    lines: int = 0
    hidden: int = 0


@dataclass(frozen=True, slots=True)
class _Known:
    """The series that have a name, as of a version of their source."""

    series: Sequence[Series]
    refs: RefArray
    version: int | None
    nameless: int


@dataclass(frozen=True, slots=True)
class _Reading:
    """All series with their newest samples, taken in one go on the thread of the event loop."""

    known: _Known
    shown: BoolArray
    values: FloatArray


@dataclass(frozen=True, slots=True)
class _KeptBlock:
    """A block, and what it was made from."""

    refs: list[int]
    answers: dict[str, Metadata | None]
    block: Block


class ExpositionRenderer:
    """
    Writes current values under prepared line prefixes.

    What changes from one scrape to the next is the values only, so everything else is kept: a
    layout per style, in blocks of one metric, of which only those are built again whose series or
    metadata changed. A layout that nobody asked for during a lookback is dropped.

    Series without a name, series that ended and values older than the lookback are left out.
    """

    def __init__(
        self,
        series_source: SeriesSource,
        current: Current,
        metadata_source: MetadataSource,
        lookback_ms: int = DEFAULT_LOOKBACK_MS,
    ) -> None:
        self._source, self._current, self._metadata = series_source, current, metadata_source
        self._lookback_ms = lookback_ms
        self._views: dict[Style, _View] = {}
        self._known = _Known([], np.empty(0, dtype=np.uint32), None, 0)
        self._lock = asyncio.Lock()
        self._arrivals = 0
        self.stats = ExpositionStats()

    def render(self, style: Style, now_ms: int) -> bytes:
        """Return the exposition of this moment, on the thread that ``current`` belongs to."""
        if self._is_outdated():
            self._known = _know(list(self._source.series()), self._source.version)
        view, reading = self._prepare(style, now_ms)
        self._update(view, reading)
        return view.body

    async def page(self, style: Style, now_ms: int, gzip: bool = False) -> bytes:
        """
        Return the exposition, gzipped if asked for; long work is done in another thread.

        Whoever asks while one is being made gets the next one, made once for all who wait.
        """
        self._arrivals += 1
        arrival = self._arrivals
        async with self._lock:
            view = self._views.get(style)
            if view is None or view.served < arrival:
                view = await self._renew(style, now_ms)
            if not gzip:
                return view.body
            if not view.gzipped:
                heavy = len(view.body) > _INLINE_GZIP_BYTES
                view.gzipped = await _call(heavy, gzipped, view.body)
            return view.gzipped

    async def _renew(self, style: Style, now_ms: int) -> _View:
        served = self._arrivals
        if self._is_outdated():
            # The list is made here, where nothing changes under the iteration.
            series, version = list(self._source.series()), self._source.version
            self._known = await _call(len(series) > _INLINE_LINES, _know, series, version)
        view, reading = self._prepare(style, now_ms)
        heavy = len(reading.values) > _INLINE_LINES or view.is_outdated(reading)
        try:
            await _call(heavy, self._update, view, reading)
        except BaseException:
            # Cancelling the wait doesn't stop the thread: leave it the view and make a new one.
            self._views.pop(style, None)
            raise
        view.served = served
        return view

    def _is_outdated(self) -> bool:
        return self._known.version != self._source.version

    def _prepare(self, style: Style, now_ms: int) -> tuple[_View, _Reading]:
        """Take the values, and the view they go to; not in another thread, both change here."""
        refs, oldest_ms = self._known.refs, now_ms - self._lookback_ms
        values, shown = np.empty(len(refs)), np.empty(len(refs), dtype=np.bool_)
        for part in _slices(len(refs)):
            ts_ms, values[part] = self._current.get(refs[part])
            shown[part] = (ts_ms > oldest_ms) & ~is_stale(values[part])
        for other, kept in tuple(self._views.items()):
            if kept.asked_ms <= now_ms - self._lookback_ms:
                del self._views[other]
        view = self._views.get(style)
        if view is None:
            view = self._views[style] = _View(style, self._metadata, self.stats)
        view.asked_ms = now_ms
        return view, _Reading(self._known, shown, values)

    def _update(self, view: _View, reading: _Reading) -> None:
        view.update(reading)
        self.stats.renders += 1
        self.stats.lines = view.lines


class _View:
    """The exposition in one style: its blocks, its lines and the bytes made of them last."""

    def __init__(self, style: Style, metadata: MetadataSource, stats: ExpositionStats) -> None:
        self._style, self._metadata, self._stats = style, metadata, stats
        self._end = b"\n# EOF\n" if style.openmetrics else b"\n"
        self._series_version: int | None = None
        self._metadata_version: int | None = None
        self._shown: BoolArray = np.empty(0, dtype=np.bool_)
        self._blocks: dict[str, _KeptBlock] = {}
        # Prefix and value by turns, and the end.
        self._pieces: list[bytes] = [b""]
        self._line_places: IntArray = np.empty(0, dtype=np.int64)
        self._bits: npt.NDArray[np.uint64] = np.empty(0, dtype=np.uint64)
        self.body = b""
        self.gzipped = b""
        self.served = 0
        self.asked_ms = 0

    @property
    def lines(self) -> int:
        return len(self._line_places)

    def is_outdated(self, reading: _Reading) -> bool:
        """Tell whether lines come or go, or their headers change."""
        return (
            self._series_version != reading.known.version
            or self._metadata_version != self._metadata.version
            or self._shown.tobytes() != reading.shown.tobytes()
        )

    def update(self, reading: _Reading) -> None:
        fresh = self.is_outdated(reading)
        if fresh:
            self._lay_out(reading)
        values = np.empty(len(self._line_places))
        for part in _slices(len(values)):
            values[part] = reading.values[self._line_places[part]]
        bits = values.view(np.uint64)
        if not fresh and bits.tobytes() == self._bits.tobytes():
            return
        changed = np.flatnonzero(bits != self._bits) if len(bits) == len(self._bits) else None
        if fresh or changed is None or len(changed) > len(bits) * _REPLACE_ALL_SHARE:
            self._pieces[1:-1:2] = format_values(values)
        else:
            texts = format_values(values[changed])
            for place, text in zip((2 * changed + 1).tolist(), texts, strict=True):
                self._pieces[place] = text
        self._bits = bits
        self.body = b"".join(self._pieces)
        self.gzipped = b""

    def _lay_out(self, reading: _Reading) -> None:
        metadata_version = self._metadata.version
        stems: dict[str, str] = {}
        members: dict[str, list[Series]] = {}
        for one in compress(reading.known.series, reading.shown.tolist()):
            name = one.labels.name
            stem = stems.get(name)
            if stem is None:
                stem = stems[name] = stem_of(name, self._style)
                members.setdefault(stem, [])
            members[stem].append(one)
        blocks = {}
        for stem in sorted(members):
            refs = [one.ref for one in members[stem]]
            kept = self._blocks.get(stem)
            if kept is None or kept.refs != refs or self._answers_changed(kept):
                kept = self._build(members[stem], refs)
            blocks[stem] = kept
        self._blocks = blocks
        ordered = [kept.block for kept in blocks.values()]
        prefixes = list(chain.from_iterable(block.prefixes for block in ordered))
        self._pieces = [b""] * (2 * len(prefixes)) + [self._end]
        self._pieces[0:-1:2] = prefixes
        # Every header or line begins with a line break, and so does the end; the first has none.
        self._pieces[0] = self._pieces[0][1:]
        place_of = {one.ref: place for place, one in enumerate(reading.known.series)}
        self._line_places = np.array(
            [place_of[ref] for block in ordered for ref in block.refs], dtype=np.int64
        )
        self._shown = reading.shown
        self._series_version = reading.known.version
        self._metadata_version = metadata_version
        self._stats.layouts += 1
        self._stats.hidden = reading.known.nameless + sum(block.hidden for block in ordered)

    def _build(self, series: list[Series], refs: list[int]) -> _KeptBlock:
        answers: dict[str, Metadata | None] = {}

        def find(family: str) -> Metadata | None:
            answers[family] = self._metadata.metadata(family)
            return answers[family]

        self._stats.blocks += 1
        return _KeptBlock(refs, answers, build_block(series, find, self._style))

    def _answers_changed(self, kept: _KeptBlock) -> bool:
        return self._metadata_version != self._metadata.version and any(
            self._metadata.metadata(family) != answer for family, answer in kept.answers.items()
        )


def format_values(values: FloatArray) -> list[bytes]:
    """
    Write floats as both formats read them: the shortest digits that give the same float again,
    whole numbers without ``.0``, ``NaN``, ``+Inf``, ``-Inf``.

    The JSON encoder does it eight times as fast as ``repr``, all in one call; what JSON can't
    hold is mended after.
    """
    text = _json.encode(values.tolist())[1:-1] + b","
    # Some readers take "-0" for the integer, which has no sign.
    text = text.replace(b".0,", b",").replace(b"-0,", b"-0.0,")
    texts = text.split(b",")[:-1] if len(values) else []
    for place in np.flatnonzero(~np.isfinite(values)).tolist():
        value = values[place]
        texts[place] = b"NaN" if value != value else b"+Inf" if value > 0 else b"-Inf"
    return texts


def gzipped(body: bytes) -> bytes:
    """Compress an exposition, fast rather than small."""
    compressor = zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, zlib.MAX_WBITS | 16)
    return compressor.compress(body) + compressor.flush()


def routes(renderer: ExpositionRenderer, clock: Clock) -> list[web.RouteDef]:
    """Return the route of ``/metrics``."""

    async def metrics(request: web.Request) -> web.Response:
        answer = choose(",".join(request.headers.getall(hdrs.ACCEPT, ())))
        gzip = accepts_gzip(",".join(request.headers.getall(hdrs.ACCEPT_ENCODING, ())))
        body = await renderer.page(answer.style, clock.now_ms(), gzip)
        headers = {
            hdrs.CONTENT_TYPE: answer.content_type,
            hdrs.VARY: f"{hdrs.ACCEPT}, {hdrs.ACCEPT_ENCODING}",
        }
        if gzip:
            headers[hdrs.CONTENT_ENCODING] = "gzip"
        return web.Response(body=body, headers=headers)

    return [web.get("/metrics", metrics)]


def _slices(length: int) -> Iterator[slice]:
    """Yield slices over arrays of so many lines; a single one where that is the smaller evil."""
    size = _SLICE if length <= _INLINE_LINES else length
    for low in range(0, length, size):
        yield slice(low, low + size)


def _know(series: Sequence[Series], version: int) -> _Known:
    named = [one for one in series if one.labels.name]
    refs = np.fromiter((one.ref for one in named), dtype=np.uint32, count=len(named))
    return _Known(named, refs, version, len(series) - len(named))


async def _call(heavy: bool, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Call it in another thread if it is heavy, else here."""
    return (
        await asyncio.to_thread(function, *args, **kwargs) if heavy else function(*args, **kwargs)
    )
