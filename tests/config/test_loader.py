"""Finding, reading and merging the configuration, and everything it says about mistakes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from tachograph.config.errors import ConfigError
from tachograph.config.loader import find_config, load_config, read_config
from tachograph.config.prometheus import GlobalSettings, ScrapeConfig
from tachograph.config.secret import Secret
from tachograph.config.settings import Config
from tachograph.config.units import DAY, GIB, SECOND, YEAR

ROOT = Path(__file__).resolve().parents[2]

Load = Callable[..., Config]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Load one text as ``tachograph.yml``; ``files`` are written beside it first."""

    def load(
        text: str,
        *overrides: str,
        env: Mapping[str, str] | None = None,
        files: Mapping[str, str] | None = None,
    ) -> Config:
        path = tmp_path / "tachograph.yml"
        path.write_text(text, encoding="utf-8")
        for name, content in (files or {}).items():
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(content, encoding="utf-8")
        return load_config(path, env=env or {}, overrides=overrides)

    return load


@pytest.fixture
def mistakes(load: Load, tmp_path: Path) -> Callable[..., Sequence[str]]:
    """Load a text that is wrong and return the lines, without the folder's name."""

    def mistakes(text: str, *overrides: str, **more: Mapping[str, str]) -> Sequence[str]:
        with pytest.raises(ConfigError) as caught:
            load(text, *overrides, **more)
        return [line.replace(f"{tmp_path}/", "") for line in caught.value.problems]

    return mistakes


Mistakes = Callable[..., Sequence[str]]


# --- what is right ---------------------------------------------------------------------------


def test_no_file_means_the_defaults() -> None:
    assert load_config(None, env={}) == Config()


def test_an_empty_file_means_the_defaults(load: Load) -> None:
    assert load("# nothing\n") == Config()


def test_empty_sections_mean_their_defaults(load: Load) -> None:
    text = "storage:\nmetrics:\n  collection:\nscrape_configs:\nlisten:\n"
    assert load(text) == Config()


def test_the_shipped_template_equals_the_defaults() -> None:
    assert load_config(ROOT / "config" / "default.yml", env={}) == Config()


def test_the_reference_deployment_loads() -> None:
    path = ROOT / "config" / "examples" / "oht50.yml"
    config = load_config(path, env={"VEHICLE_ID": "oht50-3"})
    assert config.namespace == "oht50"
    assert config.external_labels == {"site": "plant-7", "vehicle": "oht50-3"}
    assert config.metrics.collection.system_interval_ms == 30 * SECOND
    assert config.metrics.custom.buffer_size == 1000
    assert config.storage.retention.by_tier() == {
        "raw": 15 * DAY,
        "1m": 30 * DAY,
        "5m": 90 * DAY,
        "1h": YEAR,
        "1d": 5 * YEAR,
    }
    assert config.storage.retention_policies[0].over(config.storage.retention).tier_1d_ms == (
        100 * YEAR
    )
    assert config.storage.max_bytes == 2 * GIB
    assert config.rule_files == (str(path.parent / "rules" / "*.yml"),)
    assert [type(channel).__name__ for channel in config.alerting.notification_channels] == [
        "EmailChannel",
        "SlackChannel",
    ]


@pytest.mark.parametrize("path", sorted((ROOT / "config" / "examples").glob("*.yml")), ids=str)
def test_every_example_loads(path: Path) -> None:
    load_config(path, env={})


PROMETHEUS = """
global:
  scrape_interval: 15s
  scrape_timeout: 12s
  evaluation_interval: 30s
  external_labels: {cluster: lab, replica: 0}
rule_files: [alerts.yml, rules/*.yml]
scrape_configs:
  - job_name: prometheus
    static_configs:
      - targets: ["localhost:9090"]
  - job_name: node
    scrape_interval: 5s
    metrics_path: /probe
    scheme: https
    params: {module: [http_2xx], target: ["a", "b"]}
    honor_labels: true
    honor_timestamps: false
    basic_auth: {username: u, password: p}
    tls_config: {ca_file: ca.pem, insecure_skip_verify: true}
    follow_redirects: false
    file_sd_configs:
      - files: [targets/*.json]
        refresh_interval: 1m
    relabel_configs:
      - source_labels: [__address__]
        regex: "([^:]+):.*"
        target_label: instance
        replacement: $1
      - {action: labeldrop, regex: "__meta_.*"}
    metric_relabel_configs:
      - {source_labels: [__name__], regex: "go_.*", action: drop}
    sample_limit: 1000
    body_size_limit: 10MB
  - job_name: token
    bearer_token_file: token
    scrape_timeout: 3s
    http_headers: {X-Org: {values: [a], files: [org]}}
remote_write:
  - url: http://127.0.0.1:8428/api/v1/write
    name: vm
    queue_config: {max_shards: 4}
    authorization: {credentials: t0ken}
"""


def test_a_prometheus_configuration_loads_as_it_is(load: Load, tmp_path: Path) -> None:
    config = load(PROMETHEUS)
    first, node, token = config.scrape_configs
    assert (first.scrape_interval_ms, first.scrape_timeout_ms) == (15_000, 12_000)
    assert (node.scrape_interval_ms, node.scrape_timeout_ms) == (5_000, 5_000)
    assert token.scrape_timeout_ms == 3_000
    assert config.external_labels == {"cluster": "lab", "replica": "0"}
    assert config.rule_files == (str(tmp_path / "alerts.yml"), str(tmp_path / "rules/*.yml"))
    assert node.params == {"module": ("http_2xx",), "target": ("a", "b")}
    assert node.tls_config.ca_file == tmp_path / "ca.pem"
    assert node.file_sd_configs[0].files == (str(tmp_path / "targets/*.json"),)
    assert node.relabel_configs[0].replacement == "$1"
    assert node.body_size_limit_bytes == 10 * 1024 * 1024
    assert node.basic_auth is not None
    assert node.basic_auth.password == Secret("p")
    assert token.bearer is not None
    assert token.bearer.type == "Bearer"
    assert token.bearer.credentials_file == tmp_path / "token"
    assert token.http_headers["X-Org"].files == (tmp_path / "org",)
    assert config.remote_write[0].queue_config.max_shards == 4


def test_scrape_defaults_are_prometheus(load: Load) -> None:
    (job,) = load("scrape_configs: [{job_name: x}]").scrape_configs
    assert (job.scrape_interval_ms, job.scrape_timeout_ms) == (60_000, 10_000)
    assert (job.metrics_path, job.scheme) == ("/metrics", "http")
    assert (job.honor_labels, job.honor_timestamps, job.follow_redirects) == (False, True, True)


def test_a_config_built_in_python_is_normalised_too() -> None:
    config = Config(
        global_=GlobalSettings(scrape_interval_ms=5000, external_labels={"a": "1"}),
        scrape_configs=(ScrapeConfig(job_name="x"),),
    )
    assert config.scrape_configs[0].scrape_interval_ms == 5000
    assert config.scrape_configs[0].scrape_timeout_ms == 5000
    assert config.external_labels == {"a": "1"}


def test_a_retention_of_a_hundred_years_is_legal(load: Load) -> None:
    config = load("storage: {retention: {raw: 100y, 1d: 100y}}")
    assert config.storage.retention.raw_ms == 100 * YEAR


def test_variables_stand_in_for_any_value(load: Load) -> None:
    config = load(
        "listen: 127.0.0.1:${PORT:-19797}\nstorage: {max_bytes: '${MAX}', path: '${DIR:-data}'}\n"
        "stream: {max_connections: '${CONNECTIONS}', max_series: '${UNSET:-7}'}\n"
        "http:\n  lifecycle: ${L:-}\n",
        env={"PORT": "1234", "MAX": "1GiB", "CONNECTIONS": "5"},
    )
    assert config.listen_port == 1234
    assert config.storage.max_bytes == GIB
    assert (config.stream.max_connections, config.stream.max_series) == (5, 7)
    assert config.http.lifecycle is True


def test_drop_ins_are_merged_in_the_order_of_their_names(load: Load, tmp_path: Path) -> None:
    config = load(
        "namespace: main\nscrape_configs: [{job_name: a}]\nrule_files: [main.yml]",
        files={
            "conf.d/20-late.yml": "namespace: late\nrule_files: [late.yml]",
            "conf.d/10-early.yaml": "namespace: early\nscrape_configs: [{job_name: b}]\n"
            "storage: {retention: {raw: 3d}}",
            "conf.d/.hidden.yml": "namespace: hidden",
            "conf.d/README.txt": "not: [yaml",
        },
    )
    assert config.namespace == "late"
    assert [job.job_name for job in config.scrape_configs] == ["a", "b"]
    assert config.storage.retention.raw_ms == 3 * DAY
    # Each path is relative to the folder of the file it stands in.
    assert config.rule_files == (str(tmp_path / "main.yml"), str(tmp_path / "conf.d" / "late.yml"))


def test_overrides_come_last(load: Load) -> None:
    config = load(
        "storage: {retention: {raw: 3d}}\nrule_files: [a.yml]",
        "storage.retention.raw=100y",
        "namespace=x",
        "namespace=y",
        "rule_files=[]",
        "stream.allowed_origins=['http://a', \"http://b\"]",
        "external_labels.note=a # b: c",
        "storage.path=${HOME}/t",
        "storage.state_url=",
        env={"HOME": "/root"},
    )
    assert config.storage.retention.raw_ms == 100 * YEAR
    assert config.namespace == "y"
    assert config.rule_files == ()
    assert config.stream.allowed_origins == ("http://a", "http://b")
    assert config.external_labels == {"note": "a # b: c"}
    assert config.storage.path == Path("/root/t")
    assert config.storage.state_url is None


def test_an_override_changes_no_alias(load: Load) -> None:
    text = "storage: {limits: &l {series: 5}}\nmetrics: {limits: *l}"
    config = load(text, "storage.limits.series=9")
    assert (config.storage.limits.series, config.metrics.limits.series) == (9, 5)


# --- what is wrong ---------------------------------------------------------------------------


FIVE_MISTAKES = """\
namespace: oht50
storage:
  path: ${DATA}
  retention:
    raw: 5min
  max_byte: 2GiB
scrape_configs:
  - job_name: api
    kubernetes_sd_configs: []
listen: 0.0.0.0:19797
"""


def test_five_mistakes_give_five_lines(mistakes: Mistakes) -> None:
    assert mistakes(FIVE_MISTAKES) == [
        "tachograph.yml:3:9: storage.path: environment variable DATA is not set; "
        "set it or write ${DATA:-default}",
        'tachograph.yml:5:10: storage.retention.raw: "5min" is not a duration; '
        "write 5m, 90s or 1h30m",
        "tachograph.yml:6:3: storage.max_byte: unknown setting; did you mean 'max_bytes'?",
        "tachograph.yml:9:5: scrape_configs[0].kubernetes_sd_configs: Prometheus' "
        "'kubernetes_sd_configs' is not supported yet; use static_configs or file_sd_configs",
        "tachograph.yml:10:9: listen: 0.0.0.0 is not a loopback address, and there is no login "
        "yet; write 127.0.0.1:19797, or set insecure: true if everyone who reaches it may read "
        "and write",
    ]


def test_the_documentation_shows_real_messages(mistakes: Mistakes) -> None:
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    shown = page.partition("```text\n")[2].partition("\n```")[0].splitlines()
    assert shown == list(mistakes(FIVE_MISTAKES))


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("storge: {}", "1:1: storge: unknown setting; did you mean 'storage'?"),
        ("xyzzy: 1", "1:1: xyzzy: unknown setting"),
        ("storage: [1]", "1:10: storage: must be a mapping, not a list"),
        ("storage: x", "1:10: storage: must be a mapping, not a single value"),
        ("- a", "1:1: must be a mapping, not a list"),
        ("scrape_configs: {}", "1:17: scrape_configs: must be a list, not a mapping; write [a, b]"),
        ("scrape_configs: [x]", "1:18: scrape_configs[0]: must be a mapping, not a single value"),
        ("scrape_configs: [~]", "1:18: scrape_configs[0]: is empty"),
        ("scrape_configs: [{}]", "1:18: scrape_configs[0]: 'job_name' is required"),
        (
            "scrape_configs: [{job_name: }]",
            "1:29: scrape_configs[0].job_name: must not be empty",
        ),
        (
            "scrape_configs: [{job_name: a}, {job_name: a}]",
            '1:44: scrape_configs[1].job_name: job_name "a" is already taken by item 0',
        ),
        ("namespace: a-b", '1:12: namespace: "a-b" is not a metric name: letters, digits and _'),
        ("namespace: {a: b}", "1:12: namespace: must be text, not a mapping"),
        ("insecure: maybe", '1:11: insecure: "maybe" is not a boolean; write true or false'),
        ("stream: {max_series: 1.5}", '1:22: stream.max_series: "1.5" is not a whole number'),
        ("stream: {max_series: 0}", "1:22: stream.max_series: 0 is too small; the least is 1"),
        (
            "storage: {engine: sqlit}",
            "\"sqlit\" is not one of sqlite, remote; did you mean 'sqlite'?",
        ),
        (
            "storage: {max_bytes: 1MiB}",
            "1:22: storage.max_bytes: 1MiB is too small; the least is 16MiB",
        ),
        (
            "storage: {retention: {raw: 0}}",
            "storage.retention.raw: 0s is too small; the least is 1h",
        ),
        ("storage: {path: ''}", "1:17: storage.path: a path must not be empty"),
        (
            "storage: {retention_policies: [{match: 'up{', raw: 1d}]}",
            "storage.retention_policies[0].match: 'up{' is not a selector: unexpected end of input",
        ),
        (
            "storage: {retention_policies: [{match: '{}'}]}",
            "vector selector must contain at least one non-empty matcher",
        ),
        (
            "scrape_configs: [{job_name: a, relabel_configs: [{action: drop, regex: '('}]}]",
            "scrape_configs[0].relabel_configs[0].regex: error parsing regexp: missing closing ):",
        ),
        ("external_labels: {a: [1]}", "1:22: external_labels.a: must be text, not a list"),
        ("external_labels: {'': x}", "1:19: external_labels.: the key must not be empty"),
        (
            "alerting: {notification_channels: [{type: slak}]}",
            '"slak" is not one of email, slack, telegram, webhook, alertmanager; did you mean ',
        ),
        (
            "alerting: {notification_channels: [{name: x}]}",
            "1:36: alerting.notification_channels[0]: 'type' is required: one of email,",
        ),
        (
            "alerting: {alertmanagers: []}",
            "Prometheus' 'alertmanagers' is not supported yet; use a notification channel",
        ),
        (
            "global: {query_log_file: x}",
            "global.query_log_file: Prometheus' 'query_log_file' is not",
        ),
        ("remote_write: [{}]", "1:16: remote_write[0]: 'url' is required"),
        (
            "remote_write: [{url: 'localhost:1'}]",
            '"localhost:1" is not a URL; write http://host:port',
        ),
        (
            "remote_write: [{url: 'http://u:hunter2@h/'}]",
            "1:22: remote_write[0].url: a URL must not hold a password; write it into basic_auth",
        ),
        ("a: 1\na: 2", "tachograph.yml:2:1: a: already given in line 1; remove one of them"),
        ("a: [", "tachograph.yml:2:1: not YAML: did not find expected node content"),
        ("a: [b\nc: d\n", "while parsing a flow sequence that begins in line 1"),
    ],
)
def test_each_mistake_is_told_with_its_place(mistakes: Mistakes, text: str, line: str) -> None:
    assert any(line in problem for problem in mistakes(text)), mistakes(text)


def test_no_message_shows_a_secret(mistakes: Mistakes) -> None:
    lines = mistakes(
        "remote_write:\n"
        "- url: htp://u:hunter2@h/\n"
        "  basic_auth: {password: hunter2, pasword: hunter2}\n"
        "  bearer_token: hunter2\n"
        "  authorization: {type: Basic, credentials: hunter2}\n"
        "storage: {state_url: {a: hunter2}}\n"
        "alerting: {notification_channels: [{type: slack, webhook_url: hunter2}]}"
    )
    assert len(lines) == 5
    assert "hunter2" not in "\n".join(lines)


def test_mistakes_of_all_files_come_in_their_order(mistakes: Mistakes) -> None:
    lines = mistakes(
        "a: 1",
        "b=2",
        files={"conf.d/2.yml": "\nc: [", "conf.d/1.yml": "namespace: 1x\nd: 1"},
    )
    assert [line.partition(": ")[0] for line in lines] == [
        "tachograph.yml:1:1",
        "conf.d/1.yml:1:12",
        "conf.d/1.yml:2:1",
        "conf.d/2.yml:3:1",
        "--set",
    ]


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("storage.retention.raw=5min", '--set: storage.retention.raw: "5min" is not a duration'),
        ("storge.path=x", "--set: storge: unknown setting; did you mean 'storage'?"),
        ("storage.path", '--set: "storage.path" is not a setting; write --set storage.path=data'),
        (".=x", '--set: ".=x" is not a setting'),
        ("rule_files=[a", "--set: rule_files: not YAML: did not find expected ',' or ']'"),
        ("listen=${NO}", "--set: listen: environment variable NO is not set"),
        ("listen=0.0.0.0:1", "--set: listen: 0.0.0.0 is not a loopback address"),
        ("namespace={a: 1}", "--set: namespace: must be text, not a mapping"),
    ],
)
def test_mistakes_on_the_command_line_say_so(mistakes: Mistakes, override: str, line: str) -> None:
    (problem,) = mistakes("", override)
    assert problem.startswith(line)


def test_a_file_that_cannot_be_read_is_a_mistake(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.yml", tmp_path):
        with pytest.raises(ConfigError, match="cannot be read: ") as caught:
            load_config(path, env={})
        assert len(caught.value.problems) == 1


def test_a_file_full_of_mistakes_ends_after_a_hundred_lines(mistakes: Mistakes) -> None:
    lines = mistakes("".join(f"key{n}: 1\n" for n in range(250)))
    assert len(lines) == 101
    assert lines[-1] == "... and 150 more"


def test_a_bomb_in_the_file_is_one_line(mistakes: Mistakes) -> None:
    (line,) = mistakes("[" * 100_000)
    assert "nested more than 64 levels deep" in line


def test_positions_of_given_values_are_remembered(tmp_path: Path) -> None:
    path = tmp_path / "t.yml"
    path.write_text("storage:\n  retention: {raw: 1d}\n", encoding="utf-8")
    loaded = read_config(path, env={})
    assert str(loaded.origins["storage.retention.raw"]) == f"{path}:2:20"
    assert loaded.files == (path,)


# --- where the file is looked for ------------------------------------------------------------


def test_the_first_file_that_exists_is_found(tmp_path: Path) -> None:
    cwd, xdg, home = tmp_path / "cwd", tmp_path / "xdg", tmp_path / "home"
    candidates = [
        cwd / "tachograph.yml",
        cwd / "tachograph.yaml",
        xdg / "tachograph" / "tachograph.yml",
    ]
    env = {"XDG_CONFIG_HOME": str(xdg), "HOME": str(home)}
    for path in candidates:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    for path in candidates:
        assert find_config(None, env=env, cwd=cwd) == path
        path.unlink()
    home_file = home / ".config" / "tachograph" / "tachograph.yml"
    home_file.parent.mkdir(parents=True)
    home_file.touch()
    assert find_config(None, env=env, cwd=cwd) != home_file
    assert find_config(None, env={"HOME": str(home)}, cwd=cwd) == home_file


def test_a_file_that_was_asked_for_is_returned_even_if_missing(tmp_path: Path) -> None:
    missing = tmp_path / "missing.yml"
    assert find_config(missing, env={}) == missing
    assert find_config(None, env={"TACHOGRAPH_CONFIG": str(missing)}) == missing
