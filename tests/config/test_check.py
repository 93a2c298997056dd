"""``check config``: what a look at the files around the configuration shows."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tachograph.config.check import check_config, inspect_config

POSIX = pytest.mark.skipif(os.name != "posix", reason="file modes as POSIX has them")


def write(path: Path, text: str = "x", mode: int = 0o600) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)
    return path


def lines(path: Path) -> list[str]:
    """Return the findings without the folder's name."""
    return [line.replace(f"{path.parent}/", "") for line in check_config(path, env={})]


def test_a_good_configuration_has_no_findings(tmp_path: Path) -> None:
    write(tmp_path / "rules" / "a.yml")
    write(tmp_path / "slack")
    write(tmp_path / "targets.json", "[]")
    config = write(
        tmp_path / "t.yml",
        "rule_files: [rules/*.yml]\n"
        "scrape_configs: [{job_name: a, file_sd_configs: [{files: [targets.json]}]}]\n"
        "alerting: {notification_channels: [{type: slack, webhook_url_file: slack}]}\n",
        mode=0o644,
    )
    assert lines(config) == []
    assert check_config(None, env={}) == []


def test_mistakes_of_the_loader_come_alone(tmp_path: Path) -> None:
    config = write(tmp_path / "t.yml", "rule_files: [missing.yml]\nlisten: x\n")
    report = inspect_config(config, env={})
    assert len(report.errors) == 1
    assert report.warnings == ()


def test_files_that_cannot_be_read_are_errors(tmp_path: Path) -> None:
    write(tmp_path / "empty", "")
    write(tmp_path / "binary").write_bytes(b"\xff")
    config = write(
        tmp_path / "t.yml",
        "rule_files: [missing.yml]\n"
        "scrape_configs:\n"
        "  - job_name: a\n"
        "    basic_auth: {username: u, password_file: missing}\n"
        "    tls_config: {ca_file: ca.pem}\n"
        "    file_sd_configs: [{files: [missing.json]}]\n"
        "  - {job_name: b, bearer_token_file: empty, static_configs: []}\n"
        "  - {job_name: c, bearer_token_file: binary, static_configs: [{}]}\n",
    )
    assert [line for line in lines(config) if "warning" not in line] == [
        "t.yml:1:14: rule_files[0]: missing.yml does not exist",
        "t.yml:4:46: scrape_configs[0].basic_auth.password_file: missing cannot be read: "
        "No such file or directory",
        "t.yml:5:27: scrape_configs[0].tls_config.ca_file: ca.pem cannot be read: "
        "No such file or directory",
        "t.yml:6:32: scrape_configs[0].file_sd_configs[0].files[0]: missing.json does not exist",
        "t.yml:7:38: scrape_configs[1].bearer_token_file: empty is empty",
        "t.yml:8:38: scrape_configs[2].bearer_token_file: binary: secret file is not UTF-8 text",
    ]


def test_what_someone_should_look_at_is_a_warning(tmp_path: Path) -> None:
    config = write(
        tmp_path / "t.yml",
        "insecure: true\n"
        "rule_files: [rules/*.yml]\n"
        "scrape_configs: [{job_name: a}]\n"
        "metrics: {process: [{name: b, pid_file: b.pid}]}\n"
        "storage:\n"
        "  retention: {raw: 60d, 1m: 30d}\n"
        "  retention_policies: [{match: up, 1h: 1d}]\n",
    )
    assert lines(config) == [
        "t.yml:1:11: warning: insecure: whoever reaches 127.0.0.1:19797 may read and write",
        "t.yml:2:14: warning: rule_files[0]: rules/*.yml matches no file",
        "t.yml:3:18: warning: scrape_configs[0]: has neither static_configs nor file_sd_configs: "
        "nothing to do",
        "t.yml:4:41: warning: metrics.process[0].pid_file: b.pid cannot be read: "
        "No such file or directory",
        "t.yml:6:29: warning: storage.retention.1m: 30d is shorter than raw's 60d; "
        "a coarser tier should be kept longer",
        "t.yml:7:24: warning: storage.retention_policies[0].1m: 30d is shorter than raw's 60d; "
        "a coarser tier should be kept longer",
        "t.yml:7:40: warning: storage.retention_policies[0].1h: 1d is shorter than 5m's 90d; "
        "a coarser tier should be kept longer",
    ]


@POSIX
@pytest.mark.parametrize(("mode", "is_told"), [(0o600, False), (0o640, False), (0o644, True)])
def test_secret_files_that_others_can_read_are_told(
    tmp_path: Path, mode: int, is_told: bool
) -> None:
    secret = write(tmp_path / "slack", mode=mode)
    config = write(
        tmp_path / "t.yml",
        "alerting: {notification_channels: [{type: slack, webhook_url_file: slack}]}\n",
    )
    assert (
        any(f"run chmod 600 {secret}" in line for line in check_config(config, env={})) is is_told
    )


@POSIX
@pytest.mark.parametrize(("mode", "is_told"), [(0o600, False), (0o644, True)])
def test_secrets_in_a_file_that_others_can_read_are_told_once(
    tmp_path: Path, mode: int, is_told: bool
) -> None:
    config = write(
        tmp_path / "t.yml",
        "scrape_configs:\n"
        "  - {job_name: a, bearer_token: x, static_configs: [{}]}\n"
        "  - {job_name: b, bearer_token: x, static_configs: [{}]}\n",
        mode=mode,
    )
    found = lines(config)
    assert len(found) == int(is_told)
    if is_told:
        assert found[0].startswith("t.yml:2:33: warning: scrape_configs[0].bearer_token: a secret")


@POSIX
def test_a_database_that_is_a_file_has_no_secret_in_its_url(tmp_path: Path) -> None:
    config = write(
        tmp_path / "t.yml",
        "sources:\n"
        "  - {type: sql, name: a, url: 'sqlite:///a.db', query: q, metrics: [{name: x}]}\n",
        mode=0o644,
    )
    assert lines(config) == []


def test_a_data_directory_that_is_a_file_is_an_error(tmp_path: Path) -> None:
    file = write(tmp_path / "data")
    (line,) = check_config(None, env={}, overrides=[f"storage.path={file}"])
    assert line == f"--set: storage.path: {file} is not a directory"
