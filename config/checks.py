"""Rules between the settings of one section; each single value was checked when it was read."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, Final

from .channels import EmailChannel, SlackChannel, TelegramChannel, WebhookChannel
from .kinds import ListOf, MapOf, Section, Tagged
from .prometheus import (
    Authorization,
    BasicAuth,
    FileSdConfig,
    HttpClient,
    QueueConfig,
    RelabelConfig,
    RemoteWrite,
    ScrapeConfig,
    StaticConfig,
    TlsConfig,
)
from .secret import Secret
from .settings import Config, ProcessWatch, StorageSettings
from .sources import CommandSource, HttpJsonSource, SqlSource
from .sqlurl import has_url_shape
from .tree import join_path
from .units import format_duration

#: Where (the key within the section, or "" for the section itself) and what is wrong.
Finding = tuple[str, str]

# Set by us or by the settings made for them; a second value would be sent beside ours.
_RESERVED_HEADERS: Final = {
    "authorization": "use authorization or basic_auth",
    "host": "it comes from the URL",
    "content-encoding": "it follows from the body",
    "content-length": "it follows from the body",
    "content-type": "it follows from the body",
    "x-prometheus-remote-write-version": "it follows from protobuf_message",
    "x-prometheus-scrape-timeout-seconds": "it follows from scrape_timeout",
    "accept-encoding": "gzip is always offered",
}
_HEADER_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_VARIABLE_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SD_FILE: Final = re.compile(r"[^*]*(\*[^/]*)?\.(json|yml|yaml)")

_WITH_TARGET: Final = frozenset(
    {"replace", "hashmod", "lowercase", "uppercase", "keepequal", "dropequal"}
)
_ONLY_REGEX: Final = frozenset({"labeldrop", "labelkeep"})
_NO_REGEX: Final = frozenset({"keepequal", "dropequal"})


def check_section(value: Any, wrong: Collection[str] | None = None) -> Iterator[Finding]:
    """
    Yield what is wrong within one settings object, not looking into the sections below it.

    Args:
        wrong: Given, something in the section was wrong already: at least these fields, which now
            hold their defaults. Rules that would be misled by that are left out.
    """
    for model, rule, needs in _RULES:
        if isinstance(value, model) and (
            wrong is None or (needs and not any(name in wrong for name in needs))
        ):
            yield from rule(value)


def validate(config: Config) -> list[str]:
    """
    Check a configuration that was built in Python: one line ``path: message`` per mistake.

    What the loader makes is checked already. Single values are taken as they are.
    """
    return [f"{path}: {message}" if path else message for path, message in _walk(config, "")]


def _walk(value: Any, path: str) -> Iterator[Finding]:
    from .fields import settings_of

    for key, message in check_section(value):
        yield join_path(path, key) if key else path, message
    for known in settings_of(type(value)):
        here, child = join_path(path, known.key), getattr(value, known.name)
        kind = known.setting.kind
        if isinstance(kind, ListOf):
            for index, message in repeated(kind, child):
                yield join_path(here, index), message
        if isinstance(kind, (Section, Tagged)) and child is not None:
            yield from _walk(child, here)
        elif isinstance(kind, ListOf) and isinstance(kind.item, (Section, Tagged)):
            for index, item in enumerate(child):
                yield from _walk(item, join_path(here, index))
        elif isinstance(kind, MapOf) and isinstance(kind.item, Section):
            for name, item in child.items():
                yield from _walk(item, join_path(here, name))


def repeated(kind: ListOf, items: Mapping[int, Any] | tuple[Any, ...]) -> Iterator[tuple[int, str]]:
    """Yield the index of each item whose ``unique`` field an earlier item has already."""
    if not kind.unique:
        return
    seen: dict[str, int] = {}
    for index, item in items.items() if isinstance(items, Mapping) else enumerate(items):
        name = getattr(item, kind.unique)
        if name and seen.setdefault(name, index) != index:
            yield index, f'{kind.unique} "{name}" is already taken by item {seen[name]}'


def _check_labels(config: Config) -> Iterator[Finding]:
    for name, value in config.global_.external_labels.items():
        if config.external_labels.get(name) != value:
            yield f"external_labels.{name}", "global.external_labels gives it another value"


def _check_timeouts(config: Config) -> Iterator[Finding]:
    for index, scrape in enumerate(config.scrape_configs):
        if scrape.scrape_timeout_ms > scrape.scrape_interval_ms:
            timeout = format_duration(scrape.scrape_timeout_ms)
            interval = format_duration(scrape.scrape_interval_ms)
            yield (
                f"scrape_configs[{index}].scrape_timeout",
                f"{timeout} is longer than the scrape_interval of {interval}",
            )


def _check_source_timeouts(config: Config) -> Iterator[Finding]:
    usual_ms = config.metrics.collection.business_interval_ms
    for index, source in enumerate(config.sources):
        interval_ms = source.interval_ms or usual_ms
        if source.timeout_ms is not None and source.timeout_ms > interval_ms:
            timeout, interval = format_duration(source.timeout_ms), format_duration(interval_ms)
            yield (
                f"sources[{index}].timeout",
                f"{timeout} is longer than the interval of {interval}",
            )


def _check_listen(config: Config) -> Iterator[Finding]:
    import ipaddress

    host, colon, port = config.listen.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not colon or not re.fullmatch("[0-9]{1,5}", port) or int(port) > 65535:
        yield "listen", f'"{config.listen}" is not an address with a port; write 127.0.0.1:19797'
        return
    if ":" in host and not bracketed:
        yield "listen", f'"{config.listen}" is ambiguous; write an IPv6 address as [::1]:19797'
        return
    name = host.removeprefix("[").removesuffix("]")
    try:
        is_loopback = ipaddress.ip_address(name).is_loopback
    except ValueError:
        is_loopback = name == "localhost"
        if bracketed or not re.fullmatch(r"[A-Za-z0-9._-]*", name):
            yield "listen", f'"{host}" is neither an address nor a host name'
            return
    if not is_loopback and not config.insecure:
        where = f"{name} is not a loopback address" if name else "this means every address"
        yield (
            "listen",
            f"{where}, and there is no login yet; write 127.0.0.1:{port}, or set insecure: true "
            "if everyone who reaches it may read and write",
        )


def _check_state_url(storage: StorageSettings) -> Iterator[Finding]:
    yield from _at_most_one(storage, "state_url", "state_url_file")


def _check_flush(storage: StorageSettings) -> Iterator[Finding]:
    if storage.ack_interval_ms > storage.flush_interval_ms:
        yield "ack_interval", "must not be longer than flush_interval"


def _check_process(watch: ProcessWatch) -> Iterator[Finding]:
    yield from _exactly_one(watch, "pid", "pid_file", "process_name")


def _check_basic_auth(auth: BasicAuth) -> Iterator[Finding]:
    yield from _at_most_one(auth, "username", "username_file")
    yield from _at_most_one(auth, "password", "password_file")


def _check_authorization(authorization: Authorization) -> Iterator[Finding]:
    yield from _at_most_one(authorization, "credentials", "credentials_file")
    if authorization.type.strip().lower() == "basic":
        yield "type", "write basic_auth instead of authorization for user and password"


def _check_tls(tls: TlsConfig) -> Iterator[Finding]:
    if (tls.cert_file is None) != (tls.key_file is None):
        given, missing = ("key_file", "cert_file") if tls.key_file else ("cert_file", "key_file")
        yield given, f"needs {missing}, too"


def _check_http_auth(client: HttpClient) -> Iterator[Finding]:
    yield from _at_most_one(client, *_HTTP_AUTH)


def _check_http_headers(client: HttpClient) -> Iterator[Finding]:
    yield from _check_headers("http_headers", client.http_headers)


def _check_headers(key: str, headers: Mapping[str, Any]) -> Iterator[Finding]:
    for name in headers:
        if not _HEADER_NAME.fullmatch(name):
            yield f"{key}.{name}", "is not a header name"
        elif name.lower() in _RESERVED_HEADERS:
            yield f"{key}.{name}", f"cannot be set here; {_RESERVED_HEADERS[name.lower()]}"


def _check_scrape(scrape: ScrapeConfig) -> Iterator[Finding]:
    if not scrape.metrics_path.startswith("/"):
        yield "metrics_path", f'"{scrape.metrics_path}" must begin with /'


def _check_static(static: StaticConfig) -> Iterator[Finding]:
    for index, target in enumerate(static.targets):
        if "/" in target:
            message = (
                f'"{target}" is not host:port; scheme and metrics_path are settings of the job'
            )
            yield f"targets[{index}]", message


def _check_file_sd(discovery: FileSdConfig) -> Iterator[Finding]:
    if not discovery.files:
        yield "files", "needs at least one file"
    for index, name in enumerate(discovery.files):
        if not _SD_FILE.fullmatch(name):
            yield (
                f"files[{index}]",
                f'"{name}" must end in .json, .yml or .yaml and may hold one * in its last part',
            )


def _check_relabel(relabel: RelabelConfig) -> Iterator[Finding]:
    action = relabel.action
    if action in _WITH_TARGET and not relabel.target_label:
        yield "target_label", f"is required by action {action}"
    if action == "hashmod" and not relabel.modulus:
        yield "modulus", "is required by action hashmod; it must be at least 1"
    if action in _NO_REGEX | _ONLY_REGEX:
        defaults = RelabelConfig()
        unused = ["separator", "modulus", "replacement"]
        unused += ["regex"] if action in _NO_REGEX else ["source_labels", "target_label"]
        for key in unused:
            if getattr(relabel, key) != getattr(defaults, key):
                yield key, f"has no meaning with action {action}"


def _check_remote_write(remote: RemoteWrite) -> Iterator[Finding]:
    yield from _check_headers("headers", remote.headers)


def _check_queue(queue: QueueConfig) -> Iterator[Finding]:
    if queue.min_shards > queue.max_shards:
        yield "min_shards", "must not be more than max_shards"
    if queue.min_backoff_ms > queue.max_backoff_ms:
        yield "min_backoff", "must not be longer than max_backoff"


def _check_email(channel: EmailChannel) -> Iterator[Finding]:
    if not channel.recipients:
        yield "recipients", "needs at least one mail address"
    yield from _at_most_one(channel, "password", "password_file")
    if not channel.username and (channel.password or channel.password_file):
        yield "username", "is required with a password"


def _check_slack(channel: SlackChannel) -> Iterator[Finding]:
    yield from _exactly_one(channel, "webhook_url", "webhook_url_file")
    yield from _check_secret_url("webhook_url", channel.webhook_url)


def _check_telegram(channel: TelegramChannel) -> Iterator[Finding]:
    yield from _exactly_one(channel, "bot_token", "bot_token_file")


def _check_webhook(channel: WebhookChannel) -> Iterator[Finding]:
    yield from _exactly_one(channel, "url", "url_file")
    yield from _check_secret_url("url", channel.url)


def _check_secret_url(key: str, url: Secret | None) -> Iterator[Finding]:
    # The mask passes, so that the output of `config show` can be checked, too.
    if url and not re.fullmatch(r"https?://[^\s/]+\S*|<secret>", url.reveal()):
        yield key, "is not a URL that starts with http:// or https:// (not shown: it is a secret)"


def _check_source_metrics(source: SqlSource | HttpJsonSource) -> Iterator[Finding]:
    if not source.metrics:
        yield "metrics", "needs at least one metric"


def _check_sql(source: SqlSource) -> Iterator[Finding]:
    yield from _exactly_one(source, "url", "url_file")
    # The mask passes, so that the output of `config show` can be checked, too.
    if source.url and source.url.reveal() != "<secret>" and not has_url_shape(source.url):
        yield (
            "url",
            "is not a database URL such as postgresql://user:password@host/database"
            " (not shown: it is a secret)",
        )


def _check_command(source: CommandSource) -> Iterator[Finding]:
    if not source.command or not source.command[0]:
        yield "command", "needs a program"
    if any("\0" in word for word in source.command):
        yield "command", "has no NUL character"
    if source.output == "value" and not source.metric:
        yield "metric", "is required by output: value"
    if source.output != "value" and source.metric:
        yield "metric", f"has no meaning with output: {source.output}"
    for key in ("environment", "environment_files"):
        for name in getattr(source, key):
            if not _VARIABLE_NAME.fullmatch(name):
                yield f"{key}.{name}", "is not a name of a variable"
    for name in source.environment_files:
        if name in source.environment:
            yield f"environment_files.{name}", "is given by environment, too; remove one of them"


def _at_most_one(section: Any, *keys: str) -> Iterator[Finding]:
    given = [key for key in keys if getattr(section, key) not in (None, "")]
    if len(given) > 1:
        yield given[1], f"at most one of {', '.join(keys)} may be given; remove it or {given[0]}"


def _exactly_one(section: Any, *keys: str) -> Iterator[Finding]:
    yield from _at_most_one(section, *keys)
    if all(getattr(section, key) in (None, "") for key in keys):
        yield "", f"one of {', '.join(keys)} is required"


_HTTP_AUTH: Final = ("basic_auth", "authorization", "bearer_token", "bearer_token_file")

#: For which sections, the rule, and the fields it reads; none: it needs the section in whole.
_Rule = tuple[type[Any], Callable[[Any], Iterator[Finding]], tuple[str, ...]]
_RULES: Final[tuple[_Rule, ...]] = (
    (Config, _check_listen, ("listen", "insecure")),
    (Config, _check_labels, ("external_labels", "global_")),
    (Config, _check_timeouts, ("scrape_configs", "global_")),
    (Config, _check_source_timeouts, ("sources", "metrics")),
    (SqlSource, _check_source_metrics, ("metrics",)),
    (SqlSource, _check_sql, ("url", "url_file")),
    (HttpJsonSource, _check_source_metrics, ("metrics",)),
    (CommandSource, _check_command, ()),
    (StorageSettings, _check_state_url, ("state_url", "state_url_file")),
    (StorageSettings, _check_flush, ("ack_interval_ms", "flush_interval_ms")),
    (ProcessWatch, _check_process, ()),
    (BasicAuth, _check_basic_auth, ()),
    (Authorization, _check_authorization, ()),
    (TlsConfig, _check_tls, ()),
    (HttpClient, _check_http_auth, _HTTP_AUTH),
    (HttpClient, _check_http_headers, ("http_headers",)),
    (ScrapeConfig, _check_scrape, ("metrics_path",)),
    (StaticConfig, _check_static, ("targets",)),
    (FileSdConfig, _check_file_sd, ("files",)),
    (RelabelConfig, _check_relabel, ()),
    (RemoteWrite, _check_remote_write, ("headers",)),
    (QueueConfig, _check_queue, ()),
    (EmailChannel, _check_email, ()),
    (SlackChannel, _check_slack, ()),
    (TelegramChannel, _check_telegram, ()),
    (WebhookChannel, _check_webhook, ()),
)
