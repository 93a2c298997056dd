"""setup.cfg names every package, the links are right, and no layer imports upwards."""

from __future__ import annotations

import ast
import configparser
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
#: Lowest first; a package may import itself and what stands before it.
LAYERS = ["config", "storage", "aggregation", "rules", "dashboards", "agent"]
#: What the parts of the agent may import of it, beside themselves; app and commands know all.
AGENT_PARTS: dict[str, set[str]] = {
    "wire": set(),
    "ingest": {"wire"},
    "collectors": {"wire", "ingest"},
    "http": {"wire", "ingest"},
    "stream": {"wire", "ingest"},
    "listeners": {"wire", "ingest"},
    "client": set(),
}


def _declared() -> set[str]:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return set(parser["options"]["packages"].split())


def _on_disk() -> set[str]:
    found = {"tachograph"}
    for layer in LAYERS:
        for init in (ROOT / layer).rglob("__init__.py"):
            found.add(".".join(["tachograph", *init.parent.relative_to(ROOT).parts]))
    return found


def test_every_package_is_declared() -> None:
    assert _declared() == _on_disk()


@pytest.mark.parametrize("layer", LAYERS)
def test_link_beside_the_root_package(layer: str) -> None:
    link = ROOT / "tachograph" / layer
    if link.is_file() or not (ROOT / ".git").exists():
        pytest.skip("no symbolic links here; only type checkers miss them")
    assert link.is_symlink()
    assert link.resolve() == ROOT / layer


def _imports(path: Path) -> set[tuple[str, ...]]:
    """What a module imports of us, as path parts below the root package."""
    package = path.relative_to(ROOT).parts[:-1]
    found: set[tuple[str, ...]] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.ImportFrom) and node.level:
            base = ("tachograph", *package)[: len(package) + 2 - node.level]
            prefix = ".".join([*base, *([node.module] if node.module else [])])
            names = [f"{prefix}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            parts = name.split(".")
            assert parts[0] not in LAYERS, f"{path}: import {name} relatively, or from tachograph"
            if parts[0] == "tachograph":
                found.add(tuple(parts[1:]))
    return found


@pytest.mark.parametrize("layer", LAYERS)
def test_imports_point_downwards(layer: str) -> None:
    allowed = set(LAYERS[: LAYERS.index(layer) + 1])
    if layer == "dashboards":
        allowed -= {"rules", "aggregation", "storage"}
    for path in (ROOT / layer).rglob("*.py"):
        for parts in _imports(path):
            # Facts of the root package itself, such as its version, are for everyone.
            if parts != ("__version__",):
                assert (parts or ("the root",))[0] in allowed, f"{path} imports {'.'.join(parts)}"


@pytest.mark.parametrize("part", AGENT_PARTS)
def test_parts_of_the_agent_do_not_know_each_other(part: str) -> None:
    shared = {"access", "loop_lag"}
    for path in (ROOT / "agent" / part).rglob("*.py"):
        for parts in _imports(path):
            if parts[:1] == ("agent",) and len(parts) > 1:
                allowed = AGENT_PARTS[part] | {part} | shared
                assert parts[1] in allowed, f"{path} imports {'.'.join(parts)}"


def test_the_root_package_loads_nothing() -> None:
    code = (
        "import sys, tachograph; "
        "heavy = {'aiohttp', 'numpy', 'sqlite3', 'yaml', 'asyncio'} & set(sys.modules); "
        "sys.exit(', '.join(sorted(heavy)) or 0)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr


def test_the_wheel_adds_only_one_name(tmp_path: Path) -> None:
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "--quiet",
            "--no-deps",
            "--wheel-dir",
            tmp_path,
            ROOT,
        ],
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert tops == {"tachograph", f"tachograph-{wheel.name.split('-')[1]}.dist-info"}
    for data in ("py.typed", "storage/schema/0001_samples.sql", "config/examples/oht50.yml"):
        assert f"tachograph/{data}" in names
