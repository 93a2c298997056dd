"""Tables for a terminal: columns line up, and fit where they have to."""

from __future__ import annotations

from contextlib import redirect_stdout
from io import StringIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tachograph.agent.commands.table import print_table, terminal_columns

HEADER = ("METRIC", "SERIES", "LABELS BY VALUES")
ROWS = [
    ("a" * 70, "12", ", ".join(f"label_{number} {number}" for number in range(20))),
    ("http_requests_total", "7", "path 3"),
]


def test_the_longest_cells_are_cut_to_the_width(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(ROWS, HEADER, width=60)
    assert capsys.readouterr().out.splitlines() == [
        "METRIC                     SERIES  LABELS BY VALUES",
        f"{'a' * 24}…  12      label_0 0, label_1 1, la…",
        "http_requests_total        7       path 3",
    ]


def test_without_a_width_all_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(ROWS, HEADER)
    out = capsys.readouterr().out
    assert ROWS[0][0] in out
    assert ROWS[0][2] in out


@given(
    rows=st.lists(st.lists(st.text("ab", max_size=60), min_size=3, max_size=3), min_size=1),
    width=st.integers(30, 120),
)
def test_a_table_fits_and_what_is_short_enough_is_whole(rows: list[list[str]], width: int) -> None:
    with redirect_stdout(StringIO()) as out:
        print_table(rows, width=width)
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    if sum(max(map(len, column)) for column in zip(*rows, strict=True)) + 4 <= width:
        assert not any("…" in line for line in lines)


def test_the_width_is_that_of_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "72")
    assert terminal_columns() == 72
