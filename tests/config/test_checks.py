"""Rules between settings, by the loader and for configurations built in Python."""

from __future__ import annotations

from pathlib import Path

import pytest

from tachograph.config.checks import validate
from tachograph.config.errors import ConfigError
from tachograph.config.loader import load_config
from tachograph.config.settings import Config, MetricsSettings, ProcessWatch


def mistakes(text: str, tmp_path: Path) -> list[str]:
    """Return the mistakes of one text without the place."""
    path = tmp_path / "t.yml"
    path.write_text(text, encoding="utf-8")
    try:
        load_config(path, env={})
    except ConfigError as error:
        return [line.removeprefix(str(path)).partition(": ")[2] for line in error.problems]
    return []


@pytest.mark.parametrize(
    "listen",
    [
        "127.0.0.1:19797",
        "127.8.8.8:0",
        "localhost:65535",
        "'[::1]:1'",
    ],
)
def test_loopback_addresses_need_no_login(listen: str, tmp_path: Path) -> None:
    assert mistakes(f"listen: {listen}", tmp_path) == []


@pytest.mark.parametrize("listen", ["0.0.0.0:1", "':1'", "'[::]:1'", "10.0.0.1:1", "example.org:1"])
def test_other_addresses_need_a_word(listen: str, tmp_path: Path) -> None:
    (line,) = mistakes(f"listen: {listen}", tmp_path)
    assert "there is no login yet; write 127.0.0.1:1, or set insecure: true" in line
    assert mistakes(f"listen: {listen}\ninsecure: true", tmp_path) == []


@pytest.mark.parametrize(
    ("listen", "line"),
    [
        ("19797", 'listen: "19797" is not an address with a port; write 127.0.0.1:19797'),
        ("localhost", "is not an address with a port"),
        ("localhost:http", "is not an address with a port"),
        ("localhost:65536", "is not an address with a port"),
        ("::1:80", 'listen: "::1:80" is ambiguous; write an IPv6 address as [::1]:19797'),
        ("http://localhost:80", "is ambiguous"),
        ("'[x]:80'", 'listen: "[x]" is neither an address nor a host name'),
        ("a b:80", "is neither an address nor a host name"),
    ],
)
def test_what_is_no_address_is_refused(listen: str, line: str, tmp_path: Path) -> None:
    (problem,) = mistakes(f"listen: {listen}", tmp_path)
    assert line in problem


@pytest.mark.parametrize(
    ("listen", "host", "port"),
    [("127.0.0.1:80", "127.0.0.1", 80), ("[::1]:0", "::1", 0), (":9", "", 9)],
)
def test_the_parts_of_the_address(listen: str, host: str, port: int) -> None:
    config = Config(listen=listen)
    assert (config.listen_host, config.listen_port) == (host, port)


SCRAPE = "scrape_configs: [{{job_name: a, {}}}]"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            "external_labels: {a: x}\nglobal: {external_labels: {a: y}}",
            "external_labels.a: global.external_labels gives it another value",
        ),
        (
            SCRAPE.format("scrape_interval: 5s, scrape_timeout: 6s"),
            "scrape_configs[0].scrape_timeout: 6s is longer than the scrape_interval of 5s",
        ),
        (
            "global: {scrape_interval: 15s}\n" + SCRAPE.format("scrape_timeout: 20s"),
            "scrape_configs[0].scrape_timeout: 20s is longer than the scrape_interval of 15s",
        ),
        (
            SCRAPE.format("metrics_path: metrics"),
            'scrape_configs[0].metrics_path: "metrics" must begin with /',
        ),
        (
            SCRAPE.format("static_configs: [{targets: [ok:1, 'http://x:1']}]"),
            'static_configs[0].targets[1]: "http://x:1" is not host:port; scheme and metrics_path',
        ),
        (
            SCRAPE.format("file_sd_configs: [{files: [a.txt]}]"),
            '/a.txt" must end in .json, .yml or .yaml and may hold one * in its last part',
        ),
        (SCRAPE.format("file_sd_configs: [{files: []}]"), "files: needs at least one file"),
        (
            SCRAPE.format("basic_auth: {username: u}, bearer_token: t"),
            "scrape_configs[0].bearer_token: at most one of basic_auth, authorization, bearer",
        ),
        (
            SCRAPE.format("basic_auth: {password: p, password_file: f}"),
            "basic_auth.password_file: at most one of password, password_file may be given; "
            "remove it or password",
        ),
        (
            SCRAPE.format("authorization: {type: Basic}"),
            "authorization.type: write basic_auth instead of authorization",
        ),
        (
            SCRAPE.format("authorization: {credentials: a, credentials_file: b}"),
            "credentials_file: at most one of",
        ),
        (
            SCRAPE.format("tls_config: {cert_file: c.pem}"),
            "scrape_configs[0].tls_config.cert_file: needs key_file, too",
        ),
        (
            SCRAPE.format("http_headers: {Authorization: {values: [x]}}"),
            "http_headers.Authorization: cannot be set here; use authorization or basic_auth",
        ),
        (SCRAPE.format("http_headers: {'a b': {}}"), "http_headers.a b: is not a header name"),
        (SCRAPE.format("relabel_configs: [{}]"), "target_label: is required by action replace"),
        (
            SCRAPE.format("relabel_configs: [{action: hashmod, target_label: x}]"),
            "modulus: is required by action hashmod",
        ),
        (
            SCRAPE.format("relabel_configs: [{action: labeldrop, regex: x, target_label: y}]"),
            "target_label: has no meaning with action labeldrop",
        ),
        (
            SCRAPE.format("relabel_configs: [{action: keepequal, regex: x, target_label: y}]"),
            "regex: has no meaning with action keepequal",
        ),
        (
            "metrics: {process: [{name: a}]}",
            "metrics.process[0]: one of pid, pid_file, process_name",
        ),
        (
            "metrics: {process: [{name: a, pid: 1, pid_file: f}]}",
            "metrics.process[0].pid_file: at most one of",
        ),
        (
            "metrics: {process: [{name: a, pid: 1}, {name: a, pid: 2}]}",
            'metrics.process[1].name: name "a" is already taken by item 0',
        ),
        ("storage: {state_url: a, state_url_file: b}", "storage.state_url_file: at most one of"),
        (
            "storage: {flush_interval: 1s, ack_interval: 2s}",
            "storage.ack_interval: must not be longer than flush_interval",
        ),
        (
            "remote_write: [{url: 'http://h', headers: {Host: x}}]",
            "remote_write[0].headers.Host: cannot be set here; it comes from the URL",
        ),
        (
            "remote_write: [{url: 'http://h', queue_config: {min_shards: 60}}]",
            "queue_config.min_shards: must not be more than max_shards",
        ),
        (
            "remote_write: [{url: 'http://h', queue_config: {min_backoff: 10s}}]",
            "queue_config.min_backoff: must not be longer than max_backoff",
        ),
    ],
)
def test_settings_that_do_not_go_together(text: str, line: str, tmp_path: Path) -> None:
    assert any(line in problem for problem in mistakes(text, tmp_path)), mistakes(text, tmp_path)


CHANNEL = "alerting: {{notification_channels: [{{type: {}}}]}}"


@pytest.mark.parametrize(
    ("channel", "line"),
    [
        ("email", "[0]: 'recipients' is required"),
        ("email, recipients: []", "recipients: needs at least one mail address"),
        ("email, recipients: [nobody]", 'recipients[0]: "nobody" is not a mail address'),
        ("email, recipients: [a@b], password: x", "username: is required with a password"),
        ("email, recipients: [a@b], smtp_port: 0", "smtp_port: 0 is too small; the least is 1"),
        ("slack", "[0]: one of webhook_url, webhook_url_file is required"),
        ("slack, webhook_url: nonsense", "webhook_url: is not a URL that starts with http"),
        (
            "slack, chanel: x, webhook_url: y",
            "chanel: unknown setting; did you mean 'channel'?",
        ),
        ("telegram, chat_id: -100", "one of bot_token, bot_token_file is required"),
        ("telegram, bot_token: x", "[0]: 'chat_id' is required"),
        ("telegram, bot_token: x, chat_id: my chat", "is not a chat id such as -1001234 or @name"),
        ("webhook", "one of url, url_file is required"),
        ("webhook, url: 'http://x', url_file: y", "url_file: at most one of url, url_file"),
        (
            "webhook, url: 'http://x', http_config: {proxy_url: y}",
            "'proxy_url' is not supported yet",
        ),
        ("alertmanager", "[0]: 'url' is required"),
        ("alertmanager, url: 'http://x', match: 'up{'", "match: 'up{' is not a selector"),
    ],
)
def test_channels_are_checked_in_shape(channel: str, line: str, tmp_path: Path) -> None:
    lines = mistakes(CHANNEL.format(channel), tmp_path)
    assert any(line in problem for problem in lines), lines


def test_channels_of_all_types_load(tmp_path: Path) -> None:
    text = """
alerting:
  notification_channels:
    - {type: email, recipients: ["Ops <ops@example.org>"], smtp_host: mail, tls: starttls,
       username: u, password_file: pw, match: '{severity="page"}'}
    - {type: slack, webhook_url: "https://hooks.example.org/x", channel: "#ops"}
    - {type: telegram, bot_token_file: bot, chat_id: -1001234}
    - {type: webhook, url: "http://127.0.0.1:9/x", http_config: {basic_auth: {username: u}}}
    - {type: alertmanager, url: "http://127.0.0.1:9093", name: am, send_resolved: false}
"""
    assert mistakes(text, tmp_path) == []


def test_rules_are_kept_where_other_settings_are_wrong(tmp_path: Path) -> None:
    lines = mistakes(
        "listen: 0.0.0.0:1\nnamespace: a-b\n"
        + SCRAPE.format("metrics_path: x, sample_limit: -1, http_headers: {Host: {}}"),
        tmp_path,
    )
    assert [line.partition(": ")[0] for line in lines] == [
        "listen",
        "namespace",
        "scrape_configs[0].metrics_path",
        "scrape_configs[0].sample_limit",
        "scrape_configs[0].http_headers.Host",
    ]


def test_a_wrong_value_draws_no_second_complaint(tmp_path: Path) -> None:
    assert len(mistakes("metrics: {process: [{name: a, pid: x}]}", tmp_path)) == 1
    assert len(mistakes("metrics: {process: [{name: a, pid_fil: x}]}", tmp_path)) == 1
    assert len(mistakes("listen: 0.0.0.0:1\ninsecure: maybe", tmp_path)) == 1


def test_a_config_built_in_python_can_be_checked() -> None:
    watch = ProcessWatch(name="a", pid=1)
    config = Config(
        listen="0.0.0.0:1",
        metrics=MetricsSettings(process=(watch, watch, ProcessWatch(name="b"))),
    )
    assert [line.partition(": ")[0] for line in validate(config)] == [
        "listen",
        "metrics.process[1]",
        "metrics.process[2]",
    ]
    assert validate(Config()) == []
