"""
Sections in Prometheus' own shape: HTTP client, relabelling, scraping, remote write.

A key of Prometheus that we do not have yet stands in the class' ``UNSUPPORTED`` with a hint (which
may be empty), so that a pasted configuration gets an answer rather than "unknown key".
"""

# ruff: noqa: RUF009  # `setting()` returns a dataclass field; sections are frozen
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

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
    Size,
    Text,
    Url,
    required,
    setting,
)
from .secret import Secret
from .units import MILLISECOND, MINUTE, SECOND

_LABEL_NAME = Text(empty=False)
_PROXY_HINT = "proxies are not used; reach the target directly"
_HTTP_UNSUPPORTED: Mapping[str, str] = {
    "oauth2": "use authorization with a token",
    "proxy_url": _PROXY_HINT,
    "no_proxy": _PROXY_HINT,
    "proxy_from_environment": _PROXY_HINT,
    "proxy_connect_header": _PROXY_HINT,
    "enable_http2": "requests are always HTTP/1.1",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class BasicAuth:
    """A user and a password, each in place or in a file."""

    username: str = setting("", Text(), "User name.")
    username_file: Path | None = setting(None, FilePath(), "File that holds the user name.")
    password: Secret | None = setting(None, SecretText(), "Password.")
    password_file: Path | None = setting(
        None, FilePath(secret=True), "File that holds the password; read at every use."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Authorization:
    """The `Authorization` header."""

    type: str = setting("Bearer", Text(empty=False), "Scheme of the `Authorization` header.")
    credentials: Secret | None = setting(None, SecretText(), "What follows the scheme.")
    credentials_file: Path | None = setting(
        None, FilePath(secret=True), "File that holds the credentials; read at every use."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsConfig:
    """How to meet a TLS server."""

    UNSUPPORTED: ClassVar[Mapping[str, str]] = {
        "ca": "put it into a file and use ca_file",
        "cert": "put it into a file and use cert_file",
        "key": "put it into a file and use key_file",
        "max_version": "",
    }

    ca_file: Path | None = setting(
        None, FilePath(), "Certificates to trust instead of the system's, PEM."
    )
    cert_file: Path | None = setting(None, FilePath(), "Our client certificate, PEM.")
    key_file: Path | None = setting(None, FilePath(secret=True), "The key of `cert_file`, PEM.")
    server_name: str = setting(
        "", Text(), "Name to expect in the server's certificate if it is not the URL's host."
    )
    insecure_skip_verify: bool = setting(
        False, Flag(), "Accept any certificate; anyone on the way can then read and answer."
    )
    min_version: str = setting(
        "TLS12", Choice("TLS12", "TLS13"), "Oldest version of TLS to accept."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpHeader:
    """Values of one extra request header."""

    values: tuple[str, ...] = setting((), ListOf(Text()), "Values, sent in this order.")
    secrets: tuple[Secret, ...] = setting((), ListOf(SecretText()), "Values that are never shown.")
    files: tuple[Path, ...] = setting(
        (), ListOf(FilePath(secret=True)), "Files that hold a value each; read at every use."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpClient:
    """What every outgoing HTTP request of Prometheus' configuration shares."""

    UNSUPPORTED: ClassVar[Mapping[str, str]] = _HTTP_UNSUPPORTED

    basic_auth: BasicAuth | None = setting(
        None, Section(BasicAuth), "Log in with user and password."
    )
    authorization: Authorization | None = setting(
        None, Section(Authorization), "Send an `Authorization` header."
    )
    bearer_token: Secret | None = setting(
        None, SecretText(), "Older form of `authorization.credentials`."
    )
    bearer_token_file: Path | None = setting(
        None, FilePath(secret=True), "Older form of `authorization.credentials_file`."
    )
    tls_config: TlsConfig = setting(TlsConfig(), Section(TlsConfig), "How to meet a TLS server.")
    follow_redirects: bool = setting(True, Flag(), "Follow HTTP redirects.")
    http_headers: Mapping[str, HttpHeader] = setting(
        {}, MapOf(Section(HttpHeader)), "More headers to send, by name."
    )

    @property
    def bearer(self) -> Authorization | None:
        """``authorization``, also where it was written as ``bearer_token`` or its file."""
        if self.authorization is None and (self.bearer_token or self.bearer_token_file):
            return Authorization(
                credentials=self.bearer_token, credentials_file=self.bearer_token_file
            )
        return self.authorization


@dataclass(frozen=True, slots=True, kw_only=True)
class RelabelConfig:
    """One step that rewrites, keeps or drops by labels."""

    source_labels: tuple[str, ...] = setting(
        (), ListOf(_LABEL_NAME), "Labels whose values are joined and matched."
    )
    separator: str = setting(";", Text(), "What joins the values of `source_labels`.")
    regex: str = setting("(.*)", Regex(), "What the joined value must match as a whole.")
    modulus: int = setting(0, Integer(), "Divisor of `hashmod`.")
    target_label: str = setting("", Text(), "Label that gets the result.")
    replacement: str = setting(
        "$1", Text(), "The result of `replace` and `labelmap`; `$1` is the first group."
    )
    action: str = setting(
        "replace",
        Choice(
            "replace",
            "keep",
            "drop",
            "keepequal",
            "dropequal",
            "hashmod",
            "lowercase",
            "uppercase",
            "labelmap",
            "labeldrop",
            "labelkeep",
        ),
        "What to do.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class StaticConfig:
    """Targets written down here."""

    targets: tuple[str, ...] = setting(
        (), ListOf(Text(empty=False)), "Addresses, each `host:port`."
    )
    labels: Mapping[str, str] = setting(
        {}, MapOf(Text(), keys=_LABEL_NAME), "Labels of all of these targets."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSdConfig:
    """Targets listed in files that may change at any time."""

    files: tuple[str, ...] = field(
        metadata=required(
            ListOf(FilePath(glob=True)),
            "JSON or YAML files of static configs; the last part of a path may hold one `*`.",
        )
    )
    refresh_interval_ms: int = setting(
        5 * MINUTE, Duration(SECOND), "How often the files are read again at the latest."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class GlobalSettings:
    """Defaults of scraping and of rules."""

    UNSUPPORTED: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(
            (
                "body_size_limit",
                "sample_limit",
                "label_limit",
                "label_name_length_limit",
                "label_value_length_limit",
                "target_limit",
            ),
            "set it in each of scrape_configs",
        ),
        "keep_dropped_targets": "",
        "query_log_file": "",
        "scrape_failure_log_file": "",
        "scrape_protocols": "",
        "rule_query_offset": "",
        "metric_name_validation_scheme": "names are UTF-8",
        "metric_name_escaping_scheme": "",
        "runtime": "",
        "scrape_native_histograms": "",
        "always_scrape_classic_histograms": "",
        "convert_classic_histograms_to_nhcb": "",
        "extra_scrape_metrics": "",
    }

    scrape_interval_ms: int = setting(
        MINUTE, Duration(MILLISECOND), "How often targets are scraped."
    )
    scrape_timeout_ms: int = setting(
        10 * SECOND,
        Duration(MILLISECOND),
        "How long a scrape may take; a shorter `scrape_interval` shortens it.",
    )
    evaluation_interval_ms: int = setting(
        MINUTE, Duration(MILLISECOND), "How often rules are evaluated."
    )
    external_labels: Mapping[str, str] = setting(
        {},
        MapOf(Text(), keys=_LABEL_NAME),
        "Prometheus' place for `external_labels`; both places are merged.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ScrapeConfig(HttpClient):
    """One job: which targets to scrape, how, and what to keep."""

    UNSUPPORTED: ClassVar[Mapping[str, str]] = {
        **_HTTP_UNSUPPORTED,
        **{
            f"{name}_sd_configs": "use static_configs or file_sd_configs"
            for name in (
                *("azure", "consul", "digitalocean", "dns", "docker", "dockerswarm", "ec2"),
                *("eureka", "gce", "hetzner", "http", "ionos", "kubernetes", "kuma", "lightsail"),
                *("linode", "marathon", "nerve", "nomad", "openstack", "ovhcloud", "puppetdb"),
                *("scaleway", "serverset", "stackit", "triton", "uyuni", "vultr"),
            )
        },
        "scrape_protocols": "",
        "fallback_scrape_protocol": "",
        "enable_compression": "gzip is always offered",
        "keep_dropped_targets": "",
        "track_timestamps_staleness": "",
        "scrape_failure_log_file": "",
        "scrape_classic_histograms": "",
        "scrape_native_histograms": "",
        "always_scrape_classic_histograms": "",
        "convert_classic_histograms_to_nhcb": "",
        "native_histogram_bucket_limit": "",
        "native_histogram_min_bucket_factor": "",
        "metric_name_validation_scheme": "names are UTF-8",
        "metric_name_escaping_scheme": "",
        "extra_scrape_metrics": "",
    }

    job_name: str = field(
        metadata=required(Text(empty=False), "Label `job` of everything scraped; unique.")
    )
    scrape_interval_ms: int = setting(
        0, Duration(), "How often to scrape; 0 or absent: as in `global`."
    )
    scrape_timeout_ms: int = setting(
        0,
        Duration(),
        "How long a scrape may take, at most `scrape_interval`; 0 or absent: as in `global`.",
    )
    metrics_path: str = setting("/metrics", Text(empty=False), "Path of the URL.")
    params: Mapping[str, tuple[str, ...]] = setting(
        {}, MapOf(ListOf(Text())), "URL parameters, a list of values each."
    )
    scheme: str = setting("http", Choice("http", "https"), "Scheme of the URL.")
    honor_labels: bool = setting(
        False,
        Flag(),
        "Where labels collide, keep the target's instead of renaming it `exported_*`.",
    )
    honor_timestamps: bool = setting(True, Flag(), "Keep timestamps that the target gives.")
    static_configs: tuple[StaticConfig, ...] = setting(
        (), ListOf(Section(StaticConfig)), "Targets written down here."
    )
    file_sd_configs: tuple[FileSdConfig, ...] = setting(
        (), ListOf(Section(FileSdConfig)), "Targets listed in files."
    )
    relabel_configs: tuple[RelabelConfig, ...] = setting(
        (), ListOf(Section(RelabelConfig)), "Steps applied to each target before it is scraped."
    )
    metric_relabel_configs: tuple[RelabelConfig, ...] = setting(
        (), ListOf(Section(RelabelConfig)), "Steps applied to each scraped sample."
    )
    body_size_limit_bytes: int = setting(
        0,
        Size(),
        "Longest body, uncompressed; a longer one fails the scrape; 0: no limit.",
        key="body_size_limit",
    )
    sample_limit: int = setting(
        0, Integer(), "Most samples after relabelling; more fail the scrape; 0: no limit."
    )
    label_limit: int = setting(
        0, Integer(), "Most labels of a sample; more fail the scrape; 0: no limit."
    )
    label_name_length_limit: int = setting(
        0, Integer(), "Longest label name, in bytes; a longer one fails the scrape; 0: no limit."
    )
    label_value_length_limit: int = setting(
        0, Integer(), "Longest label value, in bytes; a longer one fails the scrape; 0: no limit."
    )
    target_limit: int = setting(
        0, Integer(), "Most targets of this job; with more, none is scraped; 0: no limit."
    )

    def resolved(self, defaults: GlobalSettings) -> ScrapeConfig:
        """Fill in interval and timeout from ``global`` where they are 0, as Prometheus does."""
        from dataclasses import replace

        interval_ms = self.scrape_interval_ms or defaults.scrape_interval_ms
        timeout_ms = self.scrape_timeout_ms or min(defaults.scrape_timeout_ms, interval_ms)
        return replace(self, scrape_interval_ms=interval_ms, scrape_timeout_ms=timeout_ms)


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueConfig:
    """The queue of one remote write."""

    capacity: int = setting(10_000, Integer(1), "Samples held in memory for one shard.")
    max_shards: int = setting(50, Integer(1, 1000), "Most requests under way at a time.")
    min_shards: int = setting(1, Integer(1, 1000), "Fewest requests under way at a time.")
    max_samples_per_send: int = setting(2_000, Integer(1), "Most samples in one request.")
    batch_send_deadline_ms: int = setting(
        5 * SECOND, Duration(MILLISECOND), "How long a sample waits for its batch to fill."
    )
    min_backoff_ms: int = setting(
        30 * MILLISECOND, Duration(MILLISECOND), "First wait before a failed request is repeated."
    )
    max_backoff_ms: int = setting(
        5 * SECOND, Duration(MILLISECOND), "Longest wait before a failed request is repeated."
    )
    retry_on_http_429: bool = setting(False, Flag(), "Repeat after status 429, too.")
    sample_age_limit_ms: int = setting(
        0, Duration(), "Samples older than this are not sent any more; 0: no limit."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class MetadataConfig:
    """Sending of help texts and types."""

    send: bool = setting(True, Flag(), "Send metadata.")
    send_interval_ms: int = setting(MINUTE, Duration(SECOND), "How often metadata is sent.")
    max_samples_per_send: int = setting(2_000, Integer(1), "Most entries in one request.")


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteWrite(HttpClient):
    """One receiver that gets a copy of every sample."""

    UNSUPPORTED: ClassVar[Mapping[str, str]] = {
        **_HTTP_UNSUPPORTED,
        "sigv4": "",
        "azuread": "",
        "google_iam": "",
        "send_exemplars": "",
        "send_native_histograms": "",
        "round_robin_dns": "",
    }

    url: str = field(metadata=required(Url(), "Where to send to."))
    name: str = setting("", Text(), "Name in metrics and messages; empty: made from the URL.")
    remote_timeout_ms: int = setting(
        30 * SECOND, Duration(MILLISECOND), "How long a request may take."
    )
    protobuf_message: str = setting(
        "prometheus.WriteRequest",
        Choice("prometheus.WriteRequest", "io.prometheus.write.v2.Request"),
        "Message to send: remote write 1.0 or 2.0.",
    )
    headers: Mapping[str, str] = setting({}, MapOf(Text()), "More headers to send.")
    write_relabel_configs: tuple[RelabelConfig, ...] = setting(
        (), ListOf(Section(RelabelConfig)), "Steps applied to each sample before it is sent."
    )
    queue_config: QueueConfig = setting(QueueConfig(), Section(QueueConfig), "The queue.")
    metadata_config: MetadataConfig = setting(
        MetadataConfig(), Section(MetadataConfig), "Sending of help texts and types."
    )
