from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tachograph.agent.collectors.file_discovery import FileDiscovery
from tachograph.agent.collectors.targets import TargetGroup
from tachograph.config.prometheus import FileSdConfig
from tachograph.config.tree import FILE_BYTES_MAX


def discovery(*files: Path | str) -> FileDiscovery:
    return FileDiscovery(FileSdConfig(files=tuple(map(str, files))))


def addresses(groups: list[TargetGroup]) -> list[str]:
    return [address for group in groups for address in group.addresses]


def rewrite(path: Path, text: str) -> None:
    """Replace a file so that its time stamp changes for sure."""
    before = path.stat().st_mtime_ns if path.exists() else 0
    path.write_text(text)
    os.utime(path, ns=(before + 1_000_000, before + 1_000_000))


def test_json_and_yaml_are_read_alike(tmp_path: Path) -> None:
    groups = [
        {"targets": ["a:1", "b:2"], "labels": {"zone": "x", "path": "${HOME}$1"}},
        {"targets": [], "labels": {}},
    ]
    (tmp_path / "t.json").write_text(json.dumps(groups, indent="\t"))
    (tmp_path / "t.yml").write_text(
        "- targets: ['a:1', b:2]\n  labels: {zone: x, path: '${HOME}$1'}\n- targets: []\n"
    )
    for name in ("t.json", "t.yml"):
        files = discovery(tmp_path / name)
        found = files.read()
        assert files.problems == {}
        assert found[0].addresses == ("a:1", "b:2")
        assert found[0].labels == {
            "zone": "x",
            "path": "${HOME}$1",
            "__meta_filepath": str(tmp_path / name),
        }
        assert found[1].addresses == ()


def test_yaml_numbers_are_text(tmp_path: Path) -> None:
    (tmp_path / "t.yml").write_text("- targets: [a:1]\n  labels: {shard: 1, on: yes}\n")
    assert discovery(tmp_path / "t.yml").read()[0].labels["shard"] == "1"


def test_pattern_finds_files_that_come_and_go(tmp_path: Path) -> None:
    files = discovery(tmp_path / "*.yml")
    assert files.read() == []
    (tmp_path / "b.yml").write_text("- targets: [b:1]\n")
    (tmp_path / "a.yml").write_text("- targets: [a:1]\n")
    assert addresses(files.read()) == ["a:1", "b:1"]
    (tmp_path / "b.yml").unlink()
    assert addresses(files.read()) == ["a:1"]
    assert files.problems == {}


def test_changed_file_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "t.yml"
    rewrite(path, "- targets: [a:1]\n")
    files = discovery(path)
    assert addresses(files.read()) == ["a:1"]
    rewrite(path, "- targets: [b:1]\n")
    assert addresses(files.read()) == ["b:1"]


def test_missing_file_is_a_problem_but_an_empty_pattern_is_not(tmp_path: Path) -> None:
    files = discovery(tmp_path / "none.yml", tmp_path / "none*.yml")
    assert files.read() == []
    assert files.problems == {str(tmp_path / "none.yml"): "no such file"}


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("t.json", "[", "truncated"),
        ("t.json", '{"targets": []}', "Expected `array`"),
        ("t.json", '[{"target": ["a:1"]}]', "unknown field `target`"),
        ("t.json", '[{"targets": [1]}]', "Expected `str`"),
        ("t.json", "[" * 100_000, ""),
        ("t.yml", "- targets: [", "t.yml:"),
        ("t.yml", "- target: [a:1]\n", "unknown field `target`"),
        ("t.yml", "targets: [a:1]\n", "Expected `array`"),
        ("t.yml", "[" * 100_000, ""),
        ("t.yml", "- targets: [a:1]\n  targets: [b:1]\n", "t.yml:2"),
        ("t.yml", "#" * (FILE_BYTES_MAX + 1), "larger than"),
    ],
)
def test_bad_file_keeps_the_targets_it_had(
    name: str, text: str, problem: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    rewrite(path, '[{"targets": ["good:1"]}]')
    files = discovery(path)
    assert addresses(files.read()) == ["good:1"]
    rewrite(path, text)
    for _ in range(2):
        assert addresses(files.read()) == ["good:1"]
        assert problem in files.problems[str(path)]
    rewrite(path, '[{"targets": ["better:1"]}]')
    assert addresses(files.read()) == ["better:1"]
    assert files.problems == {}


def test_unreadable_path_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "t.yml").mkdir()
    files = discovery(tmp_path / "t.yml")
    assert files.read() == []
    assert "directory" in files.problems[str(tmp_path / "t.yml")]
