"""
Prometheus' own test scripts, run in-process.

Core cases run as a user gets the engine, those behind upstream's feature flags with all flags on.
Cases about native histograms and start timestamps are left out.
"""

from __future__ import annotations

import functools
import importlib
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from support.promql import MemoryQuerier
from tachograph.aggregation.promql.engine import Engine, EngineOptions
from tachograph.aggregation.promql.errors import PromqlError
from tachograph.aggregation.promql.nodes import ValueType
from tachograph.aggregation.promql.result import Result
from tachograph.storage.model import Labels

SHARED = Path(__file__).resolve().parents[4] / "shared"
SCRIPTS = SHARED / "conformance" / "promql"

CORE = Engine()
EXPERIMENTAL = Engine(
    EngineOptions(experimental=True, delayed_name_removal=True, type_and_unit_labels=True)
)
#: Not ours to answer.
LEFT_OUT = {"native_histogram", "histogram_trim", "start_timestamp"}
#: In these the result of a range query differs from that of an instant query.
OF_THE_QUERY = re.compile(r"(start|end|range|step)\(\)")


def load_tools() -> ModuleType | None:
    """The reader of the script format lies beside the scripts, not in this project."""
    tools = SHARED / "tools"
    if not (tools / "promtest.py").is_file() or not SCRIPTS.is_dir():
        return None
    sys.path.insert(0, str(tools))
    try:
        return importlib.import_module("promtest")
    finally:
        sys.path.remove(str(tools))


PROMTEST = load_tools()
Case = Any  # promtest.Cmd, which has no types


class Loads:
    """The loads before a case, and the data they leave; cases of a block share its beginning."""

    def __init__(self, commands: list[Case]) -> None:
        self.commands = commands

    @functools.cached_property
    def queriers(self) -> list[MemoryQuerier]:
        assert PROMTEST is not None
        queriers = [MemoryQuerier(grouped=False), MemoryQuerier(grouped=True)]
        for command in self.commands:
            for labels, points in PROMTEST.load_points(command, 0):
                floats = [(t, v) for t, v in points if isinstance(v, float)]
                for querier in queriers:
                    if floats:
                        querier.add(labels, floats)
        return queriers


def read_cases() -> list[tuple[Loads, Case]]:
    cases: list[tuple[Loads, Case]] = []
    if PROMTEST is None:
        return cases
    for path in sorted(SCRIPTS.glob("*.test")):
        script = PROMTEST.parse_script(path.read_text(encoding="utf-8"), path.name)
        for block in script.blocks:
            loads = Loads([])
            for command in block.cmds:
                if command.kind == "load":
                    loads = Loads([*loads.commands, command])
                else:
                    cases.append((loads, command))
    return cases


CASES = read_cases()
CORE_CASES = [
    case for case in CASES if PROMTEST is not None and not case[1].tags & PROMTEST.NON_CORE
]
EXPERIMENTAL_CASES = [
    case for case in CASES if case not in CORE_CASES and not case[1].tags & LEFT_OUT
]
needs_scripts = pytest.mark.skipif(PROMTEST is None, reason="no ../shared/conformance here")


def case_id(case: object) -> str:
    return str(getattr(case, "id", ""))


def rows(result: Result) -> list[tuple[Labels, list[tuple[int, float]]]]:
    return [
        (labels, list(zip(times.tolist(), values.tolist(), strict=True)))
        for labels, times, values in result.series()
    ]


def assert_close(expected: float, got: float, what: object) -> None:
    assert PROMTEST is not None
    assert PROMTEST.almost_equal(expected, got), f"{what}: expected {expected}, got {got}"


def assert_vector(case: Case, got: list[tuple[Labels, list[tuple[int, float]]]]) -> None:
    expected = {Labels.of(labels): values[0] for labels, values in case.expected}
    assert [labels for labels, _ in got if labels not in expected] == []
    assert len({labels for labels, _ in got}) == len(got), "a series twice"
    for labels, points in got:
        assert_close(expected[labels], points[0][1], labels)
    assert expected.keys() - {labels for labels, _ in got} == set()
    if case.ordered:
        assert [labels for labels, _ in got] == list(expected)


def assert_matrix(case: Case, result: Result, start_ms: int, step_ms: int) -> None:
    assert PROMTEST is not None
    expected = {
        Labels.of(labels): [
            (start_ms + index * step_ms, value)
            for index, value in enumerate(values)
            if value is not PROMTEST.OMIT
        ]
        for labels, values in case.expected
    }
    expected = {labels: points for labels, points in expected.items() if points}
    got = rows(result)
    assert [labels for labels, _ in got] == sorted(expected)
    for labels, points in got:
        assert [t for t, _ in points] == [t for t, _ in expected[labels]], labels
        for (t, want), (_, have) in zip(expected[labels], points, strict=True):
            assert_close(want, have, (labels, t))


def assert_annotations(case: Case, result: Result) -> None:
    for kind, have in (("warn", result.warnings), ("info", result.infos)):
        for how, text in case.expects.get(kind) or []:
            assert have, f"expected {kind} {text}"
            if how == "msg":
                assert text in have
            elif how == "regex":
                assert any(re.search(text, line) for line in have), have
        if case.expects.get("no_" + kind):
            assert not have


def assert_error(case: Case, error: PromqlError) -> None:
    for how, text in case.expects.get("fail") or []:
        if how == "msg":
            message = str(error)
            # Upstream finds some mistakes later than we do, and without a position then.
            assert message == text or message.endswith(f"parse error: {text}")
        elif how == "regex":
            assert re.search(text, str(error))


def run(engine: Engine, querier: MemoryQuerier, case: Case) -> None:
    text, start_ms, end_ms = case.expr, case.start_ms, case.end_ms
    if case.fail:
        ask = functools.partial(engine.instant, querier, text, start_ms)
        if case.is_range:
            ask = functools.partial(engine.range, querier, text, start_ms, end_ms, case.step_ms)
        with pytest.raises(PromqlError) as caught:
            ask()
        assert_error(case, caught.value)
        return
    if case.is_range:
        result = engine.range(querier, text, start_ms, end_ms, case.step_ms)
        assert_matrix(case, result, start_ms, case.step_ms)
        assert_annotations(case, result)
        return
    at_ms = start_ms if case.matrix is None else case.matrix[1]
    result = engine.instant(querier, text, at_ms)
    assert_annotations(case, result)
    if case.string is not None:
        assert result.type is ValueType.STRING
        assert result.text == case.string
    elif case.scalar is not None:
        assert result.type is ValueType.SCALAR
        assert_close(case.scalar, result.scalar, text)
    elif case.matrix is not None:
        assert result.type is ValueType.MATRIX
        assert_matrix(case, result, case.matrix[0], case.matrix[2])
    else:
        assert result.type is ValueType.VECTOR
        assert_vector(case, rows(result))
        run_as_range(engine, querier, case)


def run_as_range(engine: Engine, querier: MemoryQuerier, case: Case) -> None:
    """An instant query gives what a range query around it gives at its middle step."""
    if case.ordered or OF_THE_QUERY.search(case.expr):
        return
    at_ms = case.start_ms
    result = engine.range(querier, case.expr, at_ms - 60_000, at_ms + 60_000, 60_000)
    middle = [
        (labels, [point for point in points if point[0] == at_ms])
        for labels, points in rows(result)
    ]
    assert_vector(case, [row for row in middle if row[1]])


@needs_scripts
@pytest.mark.parametrize(("loads", "case"), CORE_CASES, ids=case_id)
def test_core(loads: Loads, case: Case) -> None:
    for querier in loads.queriers:
        run(CORE, querier, case)


@needs_scripts
@pytest.mark.parametrize(("loads", "case"), EXPERIMENTAL_CASES, ids=case_id)
def test_experimental(loads: Loads, case: Case) -> None:
    for querier in loads.queriers:
        run(EXPERIMENTAL, querier, case)


@needs_scripts
def test_all_core_cases_are_there() -> None:
    assert len(CORE_CASES) == 541
