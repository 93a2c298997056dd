"""Business figures that nobody records: one dataclass per ``type`` of ``sources``."""

# ruff: noqa: RUF009  # `setting()` returns a dataclass field; sections are frozen
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeAlias

from .kinds import (
    Choice,
    Duration,
    FilePath,
    Integer,
    JmesPath,
    ListOf,
    MapOf,
    SecretText,
    Section,
    Size,
    Text,
    Url,
    required,
    setting,
)
from .prometheus import HttpClient
from .secret import Secret
from .units import KIB, MIB, MILLISECOND, SECOND

_NAME = Text(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", "a name of letters, digits, _, . and -")
_METRIC = Text(r"[a-zA-Z_:][a-zA-Z0-9_:]*", "a metric name: letters, digits, _ and :")
_LABEL = Text(
    r"(?!__)[a-zA-Z_][a-zA-Z0-9_]*", "a label name: letters, digits and _, not beginning with __"
)
_PREFIX = Text(r"([a-zA-Z_][a-zA-Z0-9_]*)?", "a prefix: letters, digits and _")
_COLUMN = Text(empty=False)
_TYPE = Choice("gauge", "counter")
#: How long an answer may take unless it is said.
TIMEOUT_MS: Final = 10 * SECOND
_TYPE_ABOUT: Final = "What it is; a counter is a total that only grows."


@dataclass(frozen=True, slots=True, kw_only=True)
class SqlMetric:
    """One metric of a query: a value and labels from the columns of each row."""

    name: str = field(metadata=required(_METRIC, "Name, without the namespace."))
    value: str = setting(
        "", Text(), "Column of the value; empty: the one of the metric's name. NULL: no sample."
    )
    labels: tuple[str, ...] = setting(
        (), ListOf(_LABEL), "Columns that become labels of their name; NULL: no such label."
    )
    type: str = setting("gauge", _TYPE, _TYPE_ABOUT)
    help: str = setting("", Text(), "A sentence for people.")


@dataclass(frozen=True, slots=True, kw_only=True)
class JsonMetric:
    """One metric of a JSON document: items of it, and a value and labels of each item."""

    name: str = field(metadata=required(_METRIC, "Name, without the namespace."))
    items: str = setting(
        "",
        JmesPath(optional=True),
        "JMESPath to a list; each item gives a series. Empty: the document itself is the item.",
    )
    value: str = setting(
        "@",
        JmesPath(),
        "JMESPath from the item to a number, a boolean or a number as text; null: no sample.",
    )
    labels: Mapping[str, str] = setting(
        {}, MapOf(JmesPath(), keys=_LABEL), "Labels, each with a JMESPath from the item."
    )
    type: str = setting("gauge", _TYPE, _TYPE_ABOUT)
    help: str = setting("", Text(), "A sentence for people.")


@dataclass(frozen=True, slots=True, kw_only=True)
class BusinessSource:
    """What all business sources share. Beyond a limit nothing of a pass is taken."""

    name: str = field(metadata=required(_NAME, "Label `source` of its own health; unique."))
    interval_ms: int | None = setting(
        None,
        Duration(100 * MILLISECOND),
        "How often it is asked; absent: `metrics.collection.business_metrics_interval`.",
    )
    timeout_ms: int | None = setting(
        None,
        Duration(100 * MILLISECOND),
        "How long an answer may take; absent: 10s, or the interval if that is shorter.",
    )
    namespace: str | None = setting(
        None, _PREFIX, "Prefix of the metrics' names instead of the top-level one; '': none."
    )
    labels: Mapping[str, str] = setting({}, MapOf(Text(), keys=_LABEL), "Labels of every series.")
    max_series: int = setting(1_000, Integer(1, 100_000), "Most series.")

    def timing_s(self, usual_interval_ms: int) -> tuple[float, float]:
        """Return interval and timeout in seconds, given the interval of sources without one."""
        interval_ms = self.interval_ms or usual_interval_ms
        timeout_ms = self.timeout_ms or min(TIMEOUT_MS, interval_ms)
        return interval_ms / 1000, timeout_ms / 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class SqlSource(BusinessSource):
    """A query of a database, read-only, through SQLAlchemy: `pip install 'tachograph[sql]'`."""

    url: Secret | None = setting(
        None, SecretText(), "SQLAlchemy URL, such as `postgresql://user:password@host/database`."
    )
    url_file: Path | None = setting(
        None, FilePath(secret=True), "File that holds the URL; read at every connection."
    )
    query: str = field(metadata=required(Text(empty=False), "One SELECT statement."))
    metrics: tuple[SqlMetric, ...] = field(
        metadata=required(ListOf(Section(SqlMetric), unique="name"), "What its columns are.")
    )
    max_rows: int = setting(1_000, Integer(1, 1_000_000), "Most rows.")


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpJsonSource(BusinessSource):
    """A JSON document at an HTTP address, read by JMESPath."""

    url: str = field(metadata=required(Url(), "Address of the document."))
    params: Mapping[str, Secret] = setting(
        {}, MapOf(SecretText()), "More query parameters, such as an API key; never shown."
    )
    http_config: HttpClient = setting(
        HttpClient(), Section(HttpClient), "Log-in, TLS and headers of the request."
    )
    metrics: tuple[JsonMetric, ...] = field(
        metadata=required(ListOf(Section(JsonMetric), unique="name"), "What stands where in it.")
    )
    max_bytes: int = setting(1 * MIB, Size(KIB, 64 * MIB), "Longest document, unpacked.")


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandSource(BusinessSource):
    """A program that is run, without a shell; its exit code is `command_exit_code`."""

    command: tuple[str, ...] = field(
        metadata=required(ListOf(Text()), "The program and its arguments.")
    )
    output: str = setting(
        "none",
        Choice("none", "value", "pairs", "exposition"),
        "What it prints: nothing of interest, one number, `name=value` lines, or metrics as"
        " Prometheus reads them. Unless `none`, an exit code other than 0 is a failed pass.",
    )
    metric: str = setting(
        "",
        Text(r"([a-zA-Z_:][a-zA-Z0-9_:]*)?", "a metric name: letters, digits, _ and :"),
        "Name of the gauge that `output: value` makes.",
    )
    help: str = setting("", Text(), "A sentence for people about `metric`.")
    working_directory: Path | None = setting(
        None, FilePath(), "Where it runs; absent: where the agent does."
    )
    environment: Mapping[str, Secret] = setting(
        {},
        MapOf(SecretText()),
        "Its environment, never shown; of ours it has PATH, HOME, USER, TZ, LANG and LC_*.",
    )
    environment_files: Mapping[str, Path] = setting(
        {},
        MapOf(FilePath(secret=True)),
        "Variables whose values files hold; read at every run.",
    )
    max_bytes: int = setting(256 * KIB, Size(KIB, 64 * MIB), "Most that it may print.")


AnySource: TypeAlias = SqlSource | HttpJsonSource | CommandSource

#: The values of `type`.
SOURCE_TYPES: Final[Mapping[str, type[AnySource]]] = {
    "sql": SqlSource,
    "http_json": HttpJsonSource,
    "command": CommandSource,
}
