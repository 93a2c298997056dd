"""
Every setting: one frozen dataclass per section, each field with its default and its documentation.

Names carry the unit in Python and not in YAML: ``flush_interval_ms`` is ``flush_interval: 5s``. A
setting without default must be given. Sections of Prometheus' shape are in :mod:`.prometheus`,
notification channels in :mod:`.channels`, business sources in :mod:`.sources`.
"""

# ruff: noqa: RUF009  # `setting()` returns a dataclass field; sections are frozen
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from .channels import CHANNEL_TYPES, AnyChannel
from .kinds import (
    Choice,
    Duration,
    FilePath,
    Flag,
    Integer,
    ListOf,
    MapOf,
    Regex,
    SecretText,
    Section,
    SelectorText,
    Size,
    Tagged,
    Text,
    Url,
    required,
    setting,
)
from .prometheus import GlobalSettings, RemoteWrite, ScrapeConfig
from .secret import Secret
from .sources import SOURCE_TYPES, AnySource
from .units import DAY, GIB, HOUR, KIB, MIB, MILLISECOND, MINUTE, SECOND, YEAR

_METRIC_NAME = Text(r"[a-zA-Z_][a-zA-Z0-9_]*", "a metric name: letters, digits and _")
_LABEL_NAME = Text(empty=False)


# --- metrics ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectionSettings:
    """How often the built-in collectors run."""

    system_interval_ms: int = setting(
        10 * SECOND,
        Duration(100 * MILLISECOND),
        "How often CPU, memory, disks, network and load are read.",
        key="system_metrics_interval",
    )
    business_interval_ms: int = setting(
        60 * SECOND,
        Duration(100 * MILLISECOND),
        "How often business sources are asked.",
        key="business_metrics_interval",
    )
    performance_interval_ms: int = setting(
        10 * SECOND,
        Duration(100 * MILLISECOND),
        "How often run-time figures (memory, garbage collection, pools) are read.",
        key="performance_metrics_interval",
    )
    timeout_ms: int = setting(
        5 * SECOND,
        Duration(100 * MILLISECOND),
        "How long one collector may take before its tick is given up.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemSettings:
    """What is read from the operating system. The ignore lists are whole-matching RE2 regexes."""

    enabled: bool = setting(True, Flag(), "Read from the operating system at all.")
    cpu: bool = setting(True, Flag(), "Collect `cpu_usage_percent`.")
    memory: bool = setting(True, Flag(), "Collect `memory_usage_bytes`, `memory_total_bytes`.")
    disk: bool = setting(True, Flag(), "Collect `disk_usage_bytes`.")
    network: bool = setting(True, Flag(), "Collect `network_bytes_total`.")
    load: bool = setting(True, Flag(), "Collect `system_load`.")
    ignored_mount_points: tuple[str, ...] = setting(
        # Written out, as such patterns need no regex engine in memory; see regex.py.
        (
            *("/dev|/dev/.*", "/proc|/proc/.*", "/run|/run/.*", "/sys|/sys/.*"),
            *("/var/lib/docker/.*", "/var/lib/containers/.*", "/var/lib/kubelet/.*", "/snap/.*"),
        ),
        ListOf(Regex()),
        "Mount points that are not measured.",
    )
    ignored_fstypes: tuple[str, ...] = setting(
        (
            "autofs|binfmt_misc|bpf|cgroup|cgroup2|configfs|debugfs|devpts|devtmpfs|efivarfs|fusectl",
            "hugetlbfs|iso9660|mqueue|nsfs|overlay|proc|pstore|ramfs|rpc_pipefs|securityfs",
            "selinuxfs|squashfs|sysfs|tmpfs|tracefs",
        ),
        ListOf(Regex()),
        "Types of file systems that are not measured.",
    )
    ignored_interfaces: tuple[str, ...] = setting(
        ("lo", "veth.*", "br-[0-9a-f]+", "docker[0-9]+", "cali.*", "cni.*", "flannel.*"),
        ListOf(Regex()),
        "Network interfaces that are not measured.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessWatch:
    """One process to watch, found by exactly one of `pid`, `pid_file` and `process_name`."""

    name: str = field(
        metadata=required(Text(empty=False), "Label `process` of what is measured; unique.")
    )
    pid: int | None = setting(None, Integer(1, 2**31 - 1), "Its number.")
    pid_file: Path | None = setting(
        None,
        FilePath(expected=False),
        "File that holds its number; read again when the process is gone.",
    )
    process_name: str | None = setting(
        None, Text(empty=False), "Its name, as `ps -o comm` shows it; several are added up."
    )
    interval_ms: int = setting(10 * SECOND, Duration(100 * MILLISECOND), "How often it is read.")


@dataclass(frozen=True, slots=True, kw_only=True)
class CustomSettings:
    """Metrics that the backend records itself."""

    enabled: bool = setting(True, Flag(), "Take metrics from the backend's own code.")
    buffer_size: int = setting(
        1000,
        Integer(1, 10_000_000),
        "Observations held between two flushes; when it is full the newest are dropped, counted.",
    )
    flush_interval_ms: int = setting(
        1 * SECOND, Duration(10 * MILLISECOND), "How often the buffer is handed on."
    )
    socket: Path | None = setting(
        None,
        FilePath(expected=False),
        "Unix socket that other processes push to; absent: `client.sock` in the data directory.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsLimits:
    """Bounds for what one process records; the store has its own in `storage.limits`."""

    series: int = setting(10_000, Integer(1), "Most series of all metrics together.")
    series_per_metric: int = setting(2_000, Integer(1), "Most series of one metric.")
    labels_per_series: int = setting(32, Integer(1, 1000), "Most labels of one series.")
    label_value_bytes: int = setting(
        1 * KIB, Size(1), "Longest label value; a longer one refuses the observation."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsSettings:
    """What is collected on this machine."""

    collection: CollectionSettings = setting(
        CollectionSettings(), Section(CollectionSettings), "How often the collectors run."
    )
    system: SystemSettings = setting(
        SystemSettings(), Section(SystemSettings), "What is read from the operating system."
    )
    process: tuple[ProcessWatch, ...] = setting(
        (),
        ListOf(Section(ProcessWatch), unique="name"),
        "Processes to watch, such as the backend's.",
    )
    custom: CustomSettings = setting(
        CustomSettings(), Section(CustomSettings), "Metrics that the backend records itself."
    )
    limits: MetricsLimits = setting(
        MetricsLimits(), Section(MetricsLimits), "Bounds for what one process records."
    )


# --- storage ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionSettings:
    """How long each tier is kept. `100y` is as good as for ever."""

    raw_ms: int = setting(15 * DAY, Duration(HOUR), "Samples as they came.")
    tier_1m_ms: int = setting(30 * DAY, Duration(HOUR), "Buckets of one minute.", key="1m")
    tier_5m_ms: int = setting(90 * DAY, Duration(HOUR), "Buckets of five minutes.", key="5m")
    tier_1h_ms: int = setting(1 * YEAR, Duration(HOUR), "Buckets of one hour.", key="1h")
    tier_1d_ms: int = setting(5 * YEAR, Duration(HOUR), "Buckets of one day (UTC).", key="1d")

    def by_tier(self) -> dict[str, int]:
        """Milliseconds by the tier's name: ``raw``, ``1m``, ``5m``, ``1h``, ``1d``."""
        return {
            "raw": self.raw_ms,
            "1m": self.tier_1m_ms,
            "5m": self.tier_5m_ms,
            "1h": self.tier_1h_ms,
            "1d": self.tier_1d_ms,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionPolicy:
    """Another retention for some series. The first policy that matches a series is used."""

    match: str = field(
        metadata=required(SelectorText(), 'Selector of the series, such as `{job="debug"}`.')
    )
    raw_ms: int | None = setting(None, Duration(HOUR), "As in `storage.retention`.")
    tier_1m_ms: int | None = setting(None, Duration(HOUR), "As in `storage.retention`.", key="1m")
    tier_5m_ms: int | None = setting(None, Duration(HOUR), "As in `storage.retention`.", key="5m")
    tier_1h_ms: int | None = setting(None, Duration(HOUR), "As in `storage.retention`.", key="1h")
    tier_1d_ms: int | None = setting(None, Duration(HOUR), "As in `storage.retention`.", key="1d")

    def over(self, retention: RetentionSettings) -> RetentionSettings:
        """``retention`` with what this policy sets itself."""
        return RetentionSettings(
            raw_ms=retention.raw_ms if self.raw_ms is None else self.raw_ms,
            tier_1m_ms=retention.tier_1m_ms if self.tier_1m_ms is None else self.tier_1m_ms,
            tier_5m_ms=retention.tier_5m_ms if self.tier_5m_ms is None else self.tier_5m_ms,
            tier_1h_ms=retention.tier_1h_ms if self.tier_1h_ms is None else self.tier_1h_ms,
            tier_1d_ms=retention.tier_1d_ms if self.tier_1d_ms is None else self.tier_1d_ms,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SealSettings:
    """When the head is written out as compressed chunks."""

    interval_ms: int = setting(
        1 * HOUR, Duration(MINUTE, DAY), "Longest time that samples stay in the head."
    )
    ticks: int = setting(
        720, Integer(60, 100_000), "Most ticks of one group that stay in the head."
    )
    codec: str = setting(
        "auto",
        Choice("auto", "pcodec", "zlib"),
        "Codec of chunks; `auto` is pcodec where it is installed.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageLimits:
    """Bounds of the store. What exceeds one is refused, counted per metric, and shown."""

    series: int = setting(100_000, Integer(1), "Most series.")
    series_per_metric: int = setting(20_000, Integer(1), "Most series of one metric.")
    labels_per_series: int = setting(64, Integer(1, 1000), "Most labels of one series.")
    label_name_bytes: int = setting(256, Size(1, 64 * KIB), "Longest label name.")
    label_value_bytes: int = setting(4 * KIB, Size(1, MIB), "Longest label value.")
    future_ms: int = setting(10 * MINUTE, Duration(), "How far ahead of our clock a sample may be.")


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageSettings:
    """Where and how long samples are kept."""

    path: Path = setting(
        Path("data"),
        FilePath(from_cwd=True, expected=False),
        "Data directory; a relative one is taken from the working directory.",
    )
    engine: str = setting(
        "sqlite",
        Choice("sqlite", "remote"),
        "`sqlite` answers queries from the data directory; `remote` asks the engine behind us.",
    )
    state_url: Secret | None = setting(
        None,
        SecretText(),
        "SQLAlchemy URL of the database for alert states and silences; absent: in `path`.",
    )
    state_url_file: Path | None = setting(
        None, FilePath(secret=True), "File that holds `state_url`; read at start."
    )
    retention: RetentionSettings = setting(
        RetentionSettings(), Section(RetentionSettings), "How long each tier is kept."
    )
    retention_policies: tuple[RetentionPolicy, ...] = setting(
        (), ListOf(Section(RetentionPolicy)), "Other retentions for some series; first match wins."
    )
    max_bytes: int = setting(
        2 * GIB,
        Size(16 * MIB),
        "Most disk space of the data directory; beyond it the oldest samples go first.",
    )
    durability: str = setting(
        "normal",
        Choice("normal", "full"),
        "`normal`: a power cut may cost the last `fsync_interval`; `full`: every commit is synced.",
    )
    flush_interval_ms: int = setting(
        5 * SECOND, Duration(10 * MILLISECOND, 5 * MINUTE), "How often the journal is committed."
    )
    ack_interval_ms: int = setting(
        200 * MILLISECOND,
        Duration(MILLISECOND, MINUTE),
        "How often it is committed while a sender waits for its acknowledgement.",
    )
    fsync_interval_ms: int = setting(
        10 * SECOND,
        Duration(10 * MILLISECOND, 10 * MINUTE),
        "How often a commit is synced to the disk with `durability: normal`.",
    )
    seal: SealSettings = setting(
        SealSettings(), Section(SealSettings), "When the head is written out as chunks."
    )
    ballast_bytes: int = setting(
        8 * MIB,
        Size(),
        "Space held back in a file that is given up when the disk is full; 0: none.",
    )
    limits: StorageLimits = setting(StorageLimits(), Section(StorageLimits), "Bounds of the store.")


# --- alerting --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertingSettings:
    """Where alerts are sent."""

    UNSUPPORTED: ClassVar[Mapping[str, str]] = {
        "alertmanagers": "use a notification channel of type alertmanager",
        "alert_relabel_configs": "",
    }

    notification_channels: tuple[AnyChannel, ...] = setting(
        (), ListOf(Tagged("type", CHANNEL_TYPES), unique="name"), "Receivers of alerts."
    )


# --- serving ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSettings:
    """The live stream at `/ws/metrics`."""

    max_connections: int = setting(200, Integer(0), "Most WebSockets at a time.")
    max_subscriptions: int = setting(20, Integer(1), "Most subscriptions of one connection.")
    max_series: int = setting(10_000, Integer(1), "Most series of one subscription.")
    ring_ms: int = setting(
        60 * SECOND, Duration(0, HOUR), "How far back a client that comes back can catch up."
    )
    ping_ms: int = setting(
        20 * SECOND, Duration(SECOND), "How often clients are pinged; two misses end one."
    )
    hello_timeout_ms: int = setting(
        10 * SECOND, Duration(SECOND), "How long a new connection may take to say hello."
    )
    max_message_bytes: int = setting(64 * KIB, Size(KIB, 16 * MIB), "Longest incoming message.")
    outbound_buffer_bytes: int = setting(
        4 * MIB,
        Size(64 * KIB),
        "Longest outgoing message, and how far a client in mode `all` may fall behind.",
        key="outbound_buffer",
    )
    allowed_origins: tuple[str, ...] = setting(
        (),
        ListOf(Text(r"https?://[^\s/?#]+", "an origin such as https://panel.example:8443")),
        "Origins of pages, beside our own, that may connect here, and write by the HTTP API.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpSettings:
    """The HTTP server."""

    external_url: str = setting(
        "",
        Url(optional=True),
        "URL at which people reach this agent, for links in messages; empty: from `listen`.",
    )
    allowed_hosts: tuple[str, ...] = setting(
        (),
        ListOf(Text(empty=False)),
        "Names, beside localhost and our address, that requests may carry as `Host`.",
    )
    lifecycle: bool = setting(True, Flag(), "Allow `POST /-/reload`.")
    admin_api: bool = setting(False, Flag(), "Allow deleting series and taking backups by API.")
    metrics_of_remote_writers: bool = setting(
        False,
        Flag(),
        "Show on `/metrics` what others remote-write, too. A Prometheus must not do both: write to "
        "this agent and scrape it; it would be sent its own samples for ever.",
    )
    max_connections: int = setting(1000, Integer(1), "Most connections at a time.")
    max_body_bytes: int = setting(
        32 * MIB, Size(KIB), "Longest request body, also after decompression."
    )
    max_line_bytes: int = setting(
        64 * KIB, Size(1 * KIB, MIB), "Longest request line and longest header."
    )
    header_timeout_ms: int = setting(
        10 * SECOND, Duration(100 * MILLISECOND), "How long the head of a request may take."
    )
    body_timeout_ms: int = setting(
        30 * SECOND, Duration(100 * MILLISECOND), "How long the body of a request may take."
    )
    idle_timeout_ms: int = setting(
        60 * SECOND, Duration(100 * MILLISECOND), "How long an idle connection is kept."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PromqlSettings:
    """How queries are answered."""

    compat: str = setting(
        "prometheus3",
        Choice("prometheus3", "prometheus2"),
        "Bounds of windows: left-open as in Prometheus 3, or closed as in Prometheus 2.",
    )
    lookback_ms: int = setting(
        5 * MINUTE, Duration(MILLISECOND), "How far back an instant query looks for a sample."
    )
    timeout_ms: int = setting(2 * MINUTE, Duration(10 * MILLISECOND), "How long a query may take.")
    max_samples: int = setting(
        10_000_000,
        Integer(1),
        "Most samples that one query may hold in memory, at some 20 bytes each.",
    )
    # Python computes in one thread at a time, so two answer no fewer queries in a second, and let
    # /metrics wait half as long (benchmarks/exposition_under_load.py). But two that run until their
    # timeout must not keep everybody else from being answered.
    max_concurrency: int = setting(4, Integer(1, 256), "Most queries evaluated at a time.")
    experimental: bool = setting(
        False, Flag(), "Allow functions and aggregations that Prometheus calls experimental."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSettings:
    """What the agent tells on stderr."""

    level: str = setting("info", Choice("debug", "info", "warn", "error"), "Least level shown.")
    format: str = setting("logfmt", Choice("logfmt", "json"), "Form of a line.")


# --- everything ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """
    The whole configuration.

    ``external_labels`` holds those of ``global``, too, and every scrape config has its interval and
    timeout filled in, however the object is made.
    """

    UNSUPPORTED: ClassVar[Mapping[str, str]] = {
        "scrape_config_files": "put a file with scrape_configs into conf.d/",
        "remote_read": "",
        "tracing": "",
        "otlp": "",
        "runtime": "",
    }

    namespace: str = setting(
        "backend", _METRIC_NAME, "Prefix of the names that built-in collectors produce."
    )
    listen: str = setting(
        "127.0.0.1:19797", Text(empty=False), "Address and port of the HTTP server."
    )
    insecure: bool = setting(
        False,
        Flag(),
        "Allow `listen` on other than loopback addresses; there is no login yet.",
    )
    external_labels: Mapping[str, str] = setting(
        {},
        MapOf(Text(), keys=_LABEL_NAME),
        "Labels added to everything that leaves this agent.",
    )
    global_: GlobalSettings = setting(
        GlobalSettings(),
        Section(GlobalSettings),
        "Defaults of scraping and of rules.",
        key="global",
    )
    metrics: MetricsSettings = setting(
        MetricsSettings(), Section(MetricsSettings), "What is collected on this machine."
    )
    storage: StorageSettings = setting(
        StorageSettings(), Section(StorageSettings), "Where and how long samples are kept."
    )
    scrape_configs: tuple[ScrapeConfig, ...] = setting(
        (),
        ListOf(Section(ScrapeConfig), unique="job_name"),
        "Targets to scrape, in Prometheus' own shape.",
    )
    sources: tuple[AnySource, ...] = setting(
        (),
        ListOf(Tagged("type", SOURCE_TYPES), unique="name"),
        "Business figures from databases, JSON documents and programs.",
    )
    rule_files: tuple[str, ...] = setting(
        (), ListOf(FilePath(glob=True)), "Rule files in Prometheus' own format; globs are allowed."
    )
    alerting: AlertingSettings = setting(
        AlertingSettings(), Section(AlertingSettings), "Where alerts are sent."
    )
    remote_write: tuple[RemoteWrite, ...] = setting(
        (), ListOf(Section(RemoteWrite), unique="name"), "Receivers of a copy of every sample."
    )
    stream: StreamSettings = setting(StreamSettings(), Section(StreamSettings), "The live stream.")
    http: HttpSettings = setting(HttpSettings(), Section(HttpSettings), "The HTTP server.")
    promql: PromqlSettings = setting(
        PromqlSettings(), Section(PromqlSettings), "How queries are answered."
    )
    log: LogSettings = setting(LogSettings(), Section(LogSettings), "What the agent tells.")

    def __post_init__(self) -> None:
        # Normalised here and not by the loader, so that a Config built in Python (an embedded
        # agent, a test) means the same as one read from a file.
        labels = {**self.global_.external_labels, **self.external_labels}
        object.__setattr__(self, "external_labels", labels)
        scrapes = tuple(scrape.resolved(self.global_) for scrape in self.scrape_configs)
        object.__setattr__(self, "scrape_configs", scrapes)

    @property
    def listen_host(self) -> str:
        """The host of ``listen`` without brackets; empty for every address."""
        return self.listen.rpartition(":")[0].removeprefix("[").removesuffix("]")

    @property
    def listen_port(self) -> int:
        return int(self.listen.rpartition(":")[2])
