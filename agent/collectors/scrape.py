"""One scrape target as a source: fetch, read, append, report."""

from __future__ import annotations

import asyncio
import enum
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from ...storage.clock import Clock
from ...storage.model import Metadata, MetricType
from ...storage.sink import Sink
from ..ingest.exposition import Exemplar
from .scrape_http import Answer, Fetcher, ScrapeError
from .scrape_page import PageReader, PageRules, Reading
from .scrape_series import Columns, TargetSeries
from .targets import Target

#: What every scrape reports of itself, in the order it is written.
REPORT: Final = {
    "up": "1 if the target answered the last scrape, else 0.",
    "scrape_duration_seconds": "How long the scrape took.",
    "scrape_samples_scraped": "Samples the target exposed.",
    "scrape_samples_post_metric_relabeling": "Samples left after metric relabelling.",
    "scrape_series_added": "Series in this scrape that the last good one did not have.",
}
EXTRA_REPORT: Final = {
    "scrape_timeout_seconds": "Longest time this target may take.",
    "scrape_sample_limit": "Most samples this target may expose; 0 for no limit.",
    "scrape_body_size_bytes": "Unpacked length of the last page; -1 if it was too long.",
}
# Reading costs 4 ms a MB for a page known before and 100 ms for a new one
# (benchmarks/scrape_parse.py): up to here the event loop does it faster than a thread is there.
INLINE_BYTES_WARM: Final = 256 * 1024
INLINE_BYTES_COLD: Final = 64 * 1024
# A gzip body is held for this many times as long as it comes.
_GZIP_RATIO: Final = 10
# New series are made known to the store in pieces of some 5 ms.
_LEARN_PIECE: Final = 500
# Reading and storing come after the fetch, which alone must keep to the scrape's timeout; a pass
# that outlives even this is cancelled by the schedule.
GRACE_S: Final = 10.0

#: Takes the exemplars of a scrape, each with the number of its series; called before its tick.
OnExemplars = Callable[[Sequence[tuple[int, Exemplar]]], None]


class Health(enum.StrEnum):
    """How the last scrape went, by the words of Prometheus' API."""

    UNKNOWN = "unknown"
    UP = "up"
    DOWN = "down"


@dataclass(slots=True)
class TargetStatus:
    """
    What is known of a target.

    Attributes:
        last_error: Why the last scrape failed; empty if it did not.
        warning: What was left out of a scrape that did not fail.
        last_scrape_ms: When the last scrape was due; 0 for never.
        refused: Series of it that the store does not take.
    """

    health: Health = Health.UNKNOWN
    last_error: str = ""
    warning: str = ""
    last_scrape_ms: int = 0
    last_duration_s: float = 0.0
    refused: int = 0


@dataclass(slots=True)
class ScrapeStats:
    """Totals over all targets since the start; ``failures`` by the reason of their error."""

    scrapes: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    samples: int = 0
    duplicates: int = 0
    refused: int = 0
    points: int = 0
    exemplars: int = 0
    body_bytes: int = 0
    in_thread: int = 0


@dataclass(frozen=True, slots=True)
class ScrapeTools:
    """What all sources share."""

    sink: Sink
    clock: Clock
    stats: ScrapeStats
    extra_report: bool = False
    on_exemplars: OnExemplars | None = None


class ScrapeSource:
    """
    Scrapes one target into one group; implements :class:`.source.Source`.

    A failed scrape is not an error to the schedule: it is written, as ``up 0`` and stale markers.
    Only a store that takes nothing is.

    Args:
        name: Of the source and its group; unique.
        fetcher: Of the target's job.
        rules: Of the target's job.
    """

    backs_off: Final = False
    reports_itself: Final = True

    def __init__(
        self,
        name: str,
        target: Target,
        fetcher: Fetcher,
        rules: PageRules,
        tools: ScrapeTools,
        *,
        honor_timestamps: bool = True,
    ) -> None:
        self.name, self.target, self.status = name, target, TargetStatus()
        #: If set, nothing is fetched and every scrape fails with this text.
        self.forced_error = ""
        self._fetcher, self._rules, self._tools = fetcher, rules, tools
        self._reader = self._new_reader()
        self._report = {**REPORT, **(EXTRA_REPORT if tools.extra_report else {})}
        self._series = TargetSeries(
            tools.sink, name, target.labels, list(self._report), honor_timestamps
        )
        self._predecessor: ScrapeSource | None = None
        self._abandoned: asyncio.Future[Reading] | None = None
        self._is_described = False

    @property
    def interval_s(self) -> float:
        return self.target.interval_ms / 1000

    @property
    def timeout_s(self) -> float:
        return self.target.timeout_ms / 1000 + GRACE_S

    def succeed(self, old: ScrapeSource) -> None:
        """
        Take the place of ``old``, whose settings have changed, once it has stopped: series that go
        on, go on without a stale marker.
        """
        # One that never made a pass has not taken its own predecessor's place yet.
        self._predecessor = old._predecessor or old

    async def collect(self, ts_ms: int) -> None:
        """
        Scrape once.

        Raises:
            StoreUnavailable: Nothing of it was stored, not even ``up``.
        """
        started_s = self._tools.clock.monotonic_s()
        self._take_place()
        reading = await self._fetch_and_read()
        columns = await self._store_names(reading, ts_ms)
        duration_s = self._tools.clock.monotonic_s() - started_s
        self._note(reading, columns, ts_ms, duration_s)
        report = [
            float(reading.error is None),
            duration_s,
            float(reading.scraped),
            float(reading.kept),
            float(0 if columns is None else columns.added),
            self.target.timeout_ms / 1000,
            float(self._rules.sample_limit),
            float(reading.body_bytes),
        ]
        self._series.append(ts_ms, columns, report[: len(self._report)])

    async def close(self) -> None:
        """Nothing to release: the session belongs to all targets together."""

    def end(self, ts_ms: int) -> None:
        """
        End all series of a target that is gone, once it has stopped.

        Raises:
            StoreUnavailable: Nothing was taken.
        """
        self._take_place()
        self._series.end(ts_ms)

    def _take_place(self) -> None:
        if self._predecessor is not None:
            self._series.succeed(self._predecessor._series)
            self._predecessor = None

    async def _fetch_and_read(self) -> Reading:
        if self.forced_error:
            return _failed(ScrapeError("target_limit", self.forced_error))
        if self._abandoned is not None and not self._abandoned.done():
            # A second thread would take as long, and then there would be a third.
            return _failed(ScrapeError("busy", "an earlier page takes too long to read"))
        try:
            answer = await self._fetcher.fetch(self.target.url, self.target.timeout_ms / 1000)
        except ScrapeError as error:
            return _failed(error)
        length = len(answer.raw) * (_GZIP_RATIO if answer.is_gzip else 1)
        if length <= (INLINE_BYTES_WARM if self._reader.is_warm else INLINE_BYTES_COLD):
            return self._reader.read(answer)
        self._tools.stats.in_thread += 1
        return await self._read_in_thread(answer)

    async def _read_in_thread(self, answer: Answer) -> Reading:
        loop = asyncio.get_running_loop()
        reading = loop.run_in_executor(None, self._reader.read, answer)
        try:
            return await asyncio.shield(reading)
        except asyncio.CancelledError:
            # The thread goes on; it may keep that reader.
            self._abandoned = reading
            self._start_anew()
            raise

    async def _store_names(self, reading: Reading, ts_ms: int) -> Columns | None:
        """Tell the store of new series, and sort the page out. ``None`` for a failed scrape."""
        if reading.starts_anew:
            self._series.forget_slots()
        if reading.error is not None or reading.page is None:
            return None
        try:
            for at in range(0, len(reading.named), _LEARN_PIECE):
                if at:
                    await asyncio.sleep(0)
                self._series.learn(reading.named[at : at + _LEARN_PIECE], ts_ms)
        except BaseException:
            # The reader believes that all of them are known.
            self._start_anew()
            raise
        columns = self._series.sort(reading.page, ts_ms)
        self._tell_more(reading, columns)
        return columns

    def _tell_more(self, reading: Reading, columns: Columns) -> None:
        """Hand on what a page has beside samples."""
        sink, page = self._tools.sink, reading.page
        assert page is not None
        for family, metadata in page.metadata.items():
            sink.describe(family, metadata)
        if not self._is_described:
            self._is_described = True
            for name, text in self._report.items():
                sink.describe(name, Metadata(MetricType.GAUGE, text))
        if page.exemplars and self._tools.on_exemplars is not None:
            found = [(self._series.ref_of(one.slot), one) for one in page.exemplars]
            self._tools.on_exemplars([(ref, one) for ref, one in found if ref])

    def _note(
        self, reading: Reading, columns: Columns | None, ts_ms: int, duration_s: float
    ) -> None:
        stats, status = self._tools.stats, self.status
        stats.scrapes += 1
        stats.body_bytes += max(0, reading.body_bytes)
        if reading.error is not None:
            stats.failures[reading.error.reason] += 1
        if columns is not None and reading.page is not None:
            stats.samples += len(columns.refs)
            stats.points += len(columns.point_refs)
            stats.duplicates += columns.duplicates
            stats.refused += columns.refused
            stats.exemplars += len(reading.page.exemplars)
        status.health = Health.UP if reading.error is None else Health.DOWN
        status.last_error = "" if reading.error is None else str(reading.error)
        status.last_scrape_ms, status.last_duration_s = ts_ms, duration_s
        status.refused = self._series.refused
        status.warning = _warning(columns)

    def _new_reader(self) -> PageReader:
        return PageReader(self.target.labels, self._rules, self._fetcher.limit_bytes)

    def _start_anew(self) -> None:
        self._reader = self._new_reader()
        self._series.forget_slots()


def _failed(error: ScrapeError) -> Reading:
    # -1 tells a page that was too long from one that never came, as in Prometheus.
    size = -1 if error.reason == "body_size" else 0
    return Reading(None, [], starts_anew=False, body_bytes=size, error=error)


def _warning(columns: Columns | None) -> str:
    if columns is None:
        return ""
    parts = []
    if columns.refused:
        parts.append(f"{columns.refused} samples of series that the store refuses were left out")
    if columns.duplicates:
        parts.append(f"{columns.duplicates} samples of series that were on the page already")
    return "; ".join(parts)
