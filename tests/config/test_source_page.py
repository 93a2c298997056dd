"""The page about business sources shows a configuration that is one."""

from __future__ import annotations

import re
from pathlib import Path

from tachograph.config import load_config

PAGE = Path(__file__).resolve().parents[2] / "docs" / "business-sources.md"


def test_the_examples_together_are_a_configuration(tmp_path: Path) -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    file = tmp_path / "tachograph.yml"
    file.write_text("".join(blocks))
    names = [source.name for source in load_config(file, env={}).sources]
    assert names == ["missions", "fleet", "raid", "room"]
