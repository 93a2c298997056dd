"""The list of ``tachograph_*`` metrics: names, help and where each number comes from."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping

from ..storage.disk_usage import own_sizes
from ..storage.stats import StoreStats
from ..storage.store import Store
from .collectors.kept import KeptPoints
from .collectors.schedule import ScheduleStats
from .collectors.scrape import ScrapeStats
from .http.exposition import ExpositionStats
from .http.history import HistoryStats
from .http.points import PointsEndpoint
from .http.prometheus import PrometheusApi
from .http.server import HttpServer
from .ingest.recorder import RecorderStats
from .selfmon import SelfMetric
from .stream.stats import StreamStats
from .supervisor import Supervisor


def store_metrics(store: Store) -> list[SelfMetric]:
    stats: StoreStats = store.stats
    return [
        SelfMetric("samples_appended_total", "Samples taken in.", lambda: stats.samples_appended),
        SelfMetric(
            "samples_committed_total",
            "Samples committed to the journal, and so acknowledged.",
            lambda: stats.samples_committed,
        ),
        SelfMetric(
            "points_appended_total",
            "Samples with timestamps of their own, late ones included.",
            lambda: stats.points_appended,
        ),
        SelfMetric(
            "samples_dropped_total",
            "Samples that were not taken, by reason.",
            lambda: stats.dropped,
            "reason",
        ),
        SelfMetric(
            "clock_corrections_total",
            "Times a clock behind the stored samples was believed.",
            lambda: stats.clock_corrections,
        ),
        SelfMetric("samples_pending", "Samples not committed yet.", lambda: store.pending_samples),
        SelfMetric(
            "series_refused_total",
            "New series refused by a limit, by limit.",
            lambda: store.index.refused,
            "reason",
        ),
        SelfMetric("series", "Series in the index.", lambda: len(store.index)),
        SelfMetric(
            "series_buried",
            "Deleted series whose numbers are remembered.",
            lambda: store.buried_series,
        ),
        SelfMetric("groups", "Groups of series collected together.", lambda: store.groups),
        SelfMetric(
            "groups_shared_total",
            "New groups that took over one that was silent, or share one, as there are too many.",
            lambda: stats.groups_shared,
        ),
        SelfMetric("metric_families", "Metric families described.", lambda: len(store.families)),
        SelfMetric(
            "metric_families_refused_total",
            "Descriptions not kept, as there are too many with series.",
            lambda: store.families.refused,
        ),
        SelfMetric("head_samples", "Cells of the head's matrices.", lambda: store.head_cells),
        SelfMetric("head_points", "Points in the head.", lambda: store.head_points),
        SelfMetric("journal_flushes_total", "Commits of the journal.", lambda: stats.flushes),
        SelfMetric("journal_errors_total", "Commits that failed.", lambda: stats.flush_errors),
        SelfMetric(
            "journal_flush_seconds_total", "Time spent in commits.", lambda: stats.flush_seconds
        ),
        SelfMetric("journal_bytes_total", "Bytes journalled.", lambda: stats.journal_bytes),
        SelfMetric("seals_total", "Times the head was sealed.", lambda: stats.seals),
        SelfMetric("seal_errors_total", "Seals that failed.", lambda: stats.seal_errors),
        SelfMetric("seal_seconds_total", "Time spent sealing.", lambda: stats.seal_seconds),
        SelfMetric("chunks_written_total", "Chunks written.", lambda: stats.chunks_written),
        SelfMetric("chunk_bytes_total", "Bytes of chunks written.", lambda: stats.chunk_bytes),
        SelfMetric(
            "corrupt_rows_total",
            "Rows whose checksum failed, by table.",
            lambda: stats.corrupt,
            "table",
        ),
        SelfMetric(
            "compacted_series_total",
            "Series whose day was compacted into chunks and rollups.",
            lambda: stats.compacted_series,
        ),
        SelfMetric(
            "compaction_seconds_total", "Time spent compacting.", lambda: stats.compaction_seconds
        ),
        SelfMetric(
            "compacted_dates", "Days (UTC) that have rollups.", lambda: len(store.ledger.compacted)
        ),
        SelfMetric(
            "retention_rows_total",
            "Rows deleted by retention, by table.",
            lambda: stats.retention_rows,
            "table",
        ),
        SelfMetric(
            "retention_bytes_total",
            "Bytes given back to the file system.",
            lambda: stats.retention_bytes,
        ),
        SelfMetric(
            "decoded_chunks_total",
            "Decoded chunks asked for, by whether they were still there.",
            lambda: {"hit": store.decoded.hits, "miss": store.decoded.misses},
            "cache",
        ),
        SelfMetric("decoded_bytes", "Size of what is kept decoded.", lambda: store.decoded.bytes),
        SelfMetric("reads_total", "Reads of samples.", lambda: stats.reads),
        SelfMetric("read_seconds_total", "Time spent in reads.", lambda: stats.read_seconds),
        SelfMetric(
            "recovery_seconds", "How long opening the store took.", lambda: stats.recovery_seconds
        ),
        SelfMetric(
            "recovered_samples",
            "Samples played back from the journal at the start.",
            lambda: stats.recovered_samples,
        ),
        SelfMetric(
            "storage_bytes",
            "Size of the files.",
            lambda: own_sizes(store.directory),
            "file",
            waits=True,
        ),
        SelfMetric(
            "storage_trouble", "1 while nothing can be committed.", lambda: bool(store.trouble)
        ),
    ]


def stream_metrics(stats: StreamStats) -> list[SelfMetric]:
    return [
        SelfMetric("stream_connections", "Open WebSockets.", lambda: stats.connections),
        SelfMetric("stream_subscriptions", "Live subscriptions.", lambda: stats.subscriptions),
        SelfMetric("stream_feeds", "Distinct things subscribed to.", lambda: stats.feeds),
        SelfMetric("stream_messages_total", "Messages sent.", lambda: stats.messages),
        SelfMetric(
            "stream_failures_total", "Updates that could not be told.", lambda: stats.failures
        ),
        SelfMetric("stream_bytes_total", "Bytes sent.", lambda: stats.bytes),
        SelfMetric(
            "stream_coalesced_total",
            "Updates that a slow client got together with later ones.",
            lambda: stats.coalesced,
        ),
        SelfMetric(
            "stream_dropped_total",
            "Samples not told to a subscriber, by reason.",
            lambda: stats.dropped,
            "reason",
        ),
        SelfMetric(
            "stream_refused_total",
            "Connections and subscriptions refused, by reason.",
            lambda: stats.refused,
            "reason",
        ),
        SelfMetric(
            "stream_closed_total",
            "Connections closed by us, by close code.",
            lambda: {str(code): n for code, n in stats.closed.items()},
            "code",
        ),
    ]


def collection_metrics(
    schedule: ScheduleStats, scrape: ScrapeStats, dropped: Callable[[], Mapping[str, float]]
) -> list[SelfMetric]:
    return [
        SelfMetric("source_passes_total", "Passes of all sources.", lambda: schedule.passes),
        SelfMetric("clock_steps_total", "Steps of the wall clock.", lambda: schedule.clock_steps),
        SelfMetric(
            "clock_step_seconds_total",
            "Sum of the wall clock's steps, as absolute values.",
            lambda: schedule.clock_step_s,
        ),
        SelfMetric("scrapes_total", "Scrapes of all targets.", lambda: scrape.scrapes),
        SelfMetric(
            "scrape_failures_total", "Failed scrapes, by reason.", lambda: scrape.failures, "reason"
        ),
        SelfMetric("scraped_samples_total", "Samples scraped.", lambda: scrape.samples),
        SelfMetric(
            "scrape_duplicates_total",
            "Samples left out as their series was in the page before.",
            lambda: scrape.duplicates,
        ),
        SelfMetric("targets_dropped", "Targets dropped by relabelling, by job.", dropped, "job"),
        SelfMetric("scraped_bytes_total", "Bytes of scraped pages.", lambda: scrape.body_bytes),
    ]


def kept_metrics(kept: KeptPoints) -> list[SelfMetric]:
    stats = kept.stats
    return [
        SelfMetric(
            "kept_series", "Series kept current as they were pushed with a ttl.", lambda: len(kept)
        ),
        SelfMetric("kept_points_total", "Points pushed with a ttl.", lambda: stats.taken),
        SelfMetric(
            "kept_refused_total",
            "Points stored but not kept, as too many others are.",
            lambda: stats.refused,
        ),
        SelfMetric("kept_expired_total", "Series whose ttl ended.", lambda: stats.expired),
    ]


def edge_metrics(
    points: PointsEndpoint, recorder: RecorderStats, exposition: ExpositionStats
) -> list[SelfMetric]:
    return [
        SelfMetric(
            "points_requests_total", "Bodies of pushed points.", lambda: points.stats.requests
        ),
        SelfMetric("points_stored_total", "Pushed points stored.", lambda: points.stats.stored),
        SelfMetric(
            "points_refused_total",
            "Pushed points refused, by who found the fault.",
            lambda: points.stats.refused,
            "by",
        ),
        SelfMetric(
            "body_bytes_held", "Bytes of bodies being read.", lambda: points.budget.used_bytes
        ),
        SelfMetric(
            "bodies_refused_total",
            "Requests sent away as too many bodies were being read.",
            lambda: points.budget.refused,
        ),
        SelfMetric("recorded_values_total", "Values of record() stored.", lambda: recorder.stored),
        SelfMetric(
            "recorded_values_dropped_total",
            "Values of record() lost, by reason.",
            lambda: recorder.dropped,
            "reason",
        ),
        SelfMetric("expositions_total", "Pages of /metrics made.", lambda: exposition.renders),
        SelfMetric(
            "exposition_hidden_series",
            "Series without a place on /metrics.",
            lambda: exposition.hidden,
        ),
    ]


def history_metrics(stats: HistoryStats) -> list[SelfMetric]:
    return [
        SelfMetric("history_imports_total", "Bodies of history.", lambda: stats.imports),
        SelfMetric(
            "history_imported_samples_total", "Imported samples stored.", lambda: stats.imported
        ),
        SelfMetric(
            "history_refused_samples_total",
            "Imported samples refused, by reason.",
            lambda: stats.refused,
            "reason",
        ),
        SelfMetric(
            "history_bad_lines_total",
            "Lines of history that can't be read.",
            lambda: stats.bad_lines,
        ),
        SelfMetric("history_exports_total", "Exports begun.", lambda: stats.exports),
        SelfMetric("history_exports_running", "Exports under way.", lambda: stats.exporting),
        SelfMetric(
            "history_exported_samples_total",
            "Samples read by exports that are over.",
            lambda: stats.exported,
        ),
        SelfMetric(
            "history_exports_refused_total",
            "Exports sent away as others were under way.",
            lambda: stats.exports_refused,
        ),
    ]


def api_metrics(api: PrometheusApi) -> list[SelfMetric]:
    queries, writes, exemplars = api.runner.stats, api.writer.stats, api.exemplars
    cache = api.runner.cache
    return [
        SelfMetric("queries_total", "PromQL queries asked for.", lambda: queries.queries),
        SelfMetric("queries_running", "Queries being evaluated.", lambda: queries.running),
        SelfMetric("queries_waiting", "Queries that wait for their turn.", lambda: queries.waiting),
        SelfMetric(
            "query_failures_total", "Failed queries, by type.", lambda: queries.failed, "type"
        ),
        SelfMetric(
            "query_seconds_total", "Time spent evaluating queries.", lambda: queries.seconds
        ),
        SelfMetric(
            "query_queue_seconds_total",
            "Time that queries waited for their turn.",
            lambda: queries.queue_seconds,
        ),
        SelfMetric("query_samples_total", "Samples that queries read.", lambda: queries.samples),
        SelfMetric(
            "range_cache_queries_total",
            "Range queries, by how much of the answer was there.",
            lambda: {"all": cache.hits, "part": cache.partial, "nothing": cache.misses},
            "found",
        ),
        SelfMetric("range_cache_bytes", "Size of the answers kept.", lambda: cache.bytes),
        SelfMetric(
            "remote_write_requests_total",
            "Remote write requests, by version of the protocol.",
            lambda: writes.requests,
            "version",
        ),
        SelfMetric(
            "remote_write_samples_total", "Samples of senders stored.", lambda: writes.samples
        ),
        SelfMetric(
            "remote_write_refused_total",
            "Samples of senders refused, by reason.",
            lambda: writes.refused,
            "reason",
        ),
        SelfMetric("exemplars", "Exemplars in memory.", lambda: len(exemplars)),
        SelfMetric(
            "exemplars_dropped_total",
            "Exemplars not kept, by reason.",
            lambda: exemplars.stats.dropped,
            "reason",
        ),
    ]


def process_metrics(
    version: str,
    server: HttpServer,
    supervisor: Supervisor,
    reload_ok: Callable[[], tuple[bool, float]],
) -> list[SelfMetric]:
    build = {f"{version}, Python {platform.python_version()}": 1.0}
    return [
        SelfMetric("build_info", "Version of the agent, 1.", lambda: build, "version"),
        SelfMetric("http_connections", "Open HTTP connections.", lambda: server.connections),
        SelfMetric(
            "http_connections_refused_total",
            "Connections over the limit.",
            lambda: server.refused,
        ),
        SelfMetric(
            "http_header_timeouts_total",
            "Connections closed as a request's head took too long.",
            lambda: server.timed_out,
        ),
        SelfMetric(
            "http_requests_refused_total",
            "Requests of other sites' pages, by the header that told.",
            lambda: server.foreign,
            "header",
        ),
        SelfMetric(
            "component_restarts_total",
            "Components that failed and were started again.",
            lambda: supervisor.restarts,
            "name",
        ),
        SelfMetric(
            "config_last_reload_successful",
            "Whether the last reload of the configuration worked.",
            lambda: reload_ok()[0],
        ),
        SelfMetric(
            "config_last_reload_success_timestamp_seconds",
            "When the configuration was last loaded.",
            lambda: reload_ok()[1],
        ),
    ]
