"""The queries of Prometheus' compliance tester against answers recorded from a real Prometheus."""

from __future__ import annotations

import functools
import gzip
import importlib
import json
import random
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from support.promql import MemoryQuerier
from tachograph.aggregation.promql.engine import Engine, EngineOptions
from tachograph.aggregation.promql.errors import PromqlError
from tachograph.aggregation.promql.literals import format_decimal
from tachograph.aggregation.promql.nodes import ValueType
from tachograph.aggregation.promql.result import Result

SHARED = Path(__file__).resolve().parents[4] / "shared"
GOLDEN = SHARED / "conformance" / "promql" / "compliance_golden.json.gz"
#: How the recording was made: ``tools/compliance.py`` with its defaults.
MINUTES, SEED, RANGE_S, STEP_S = 100, 7, 600, 10


def load_tools() -> ModuleType | None:
    """The generator of the data lies beside the recording, not in this project."""
    tools = SHARED / "tools"
    if not (tools / "compliance.py").is_file() or not GOLDEN.is_file():
        return None
    sys.path.insert(0, str(tools))
    try:
        return importlib.import_module("compliance")
    finally:
        sys.path.remove(str(tools))


COMPLIANCE: Any = load_tools()
pytestmark = pytest.mark.skipif(COMPLIANCE is None, reason="no ../shared/conformance here")
ENGINES = {
    "prometheus3": Engine(),
    "prometheus2": Engine(EngineOptions(compat="prometheus2")),
}


def read_golden() -> tuple[float, dict[str, Any]]:
    if COMPLIANCE is None:
        return 0.0, {}
    with gzip.open(GOLDEN, "rt") as file:
        document = json.load(file)
    return document["end"], document["answers"]


END_S, ANSWERS = read_golden()
TEXTS = [key[2:] for key in ANSWERS if key.startswith("r ")]
#: Label names that Prometheus 3 has come to allow.
NEWLY_ALLOWED = '"~invalid"'


@functools.cache
def querier() -> MemoryQuerier:
    """The generator's data, which it only offers as remote-write bodies."""
    rng = random.Random(SEED)
    series = COMPLIANCE.demo_series(rng)
    count = int(MINUTES * 60 / COMPLIANCE.STEP)
    start_s = END_S - count * COMPLIANCE.STEP
    offsets_s = {"0": 1.117, "1": 2.363, "2": 3.941}
    step_ms = int(COMPLIANCE.STEP * 1000)
    memory = MemoryQuerier(grouped=True)
    for labels, kind, parameters in series:
        first_ms = round((start_s + offsets_s[labels["instance"][-1]]) * 1000)
        values = COMPLIANCE.values(kind, parameters, count, start_s, rng)
        memory.add(
            labels,
            [(first_ms + i * step_ms, v) for i, v in enumerate(values) if v is not None],
        )
    return memory


def rendered(result: Result) -> dict[str, Any]:
    """The answer as the HTTP API would give it, but for the exact digits."""
    if result.type is ValueType.SCALAR:
        value = [float(result.times_ms[0]) / 1000, format_decimal(result.scalar)]
        return {"resultType": "scalar", "result": value}
    rows = []
    for labels, times_ms, values in result.series():
        points = [
            [t / 1000, format_decimal(v)]
            for t, v in zip(times_ms.tolist(), np.asarray(values).tolist(), strict=True)
        ]
        key, cell = ("values", points) if result.type is ValueType.MATRIX else ("value", points[0])
        rows.append({"metric": dict(labels), key: cell})
    return {"resultType": result.type.value, "result": rows}


@pytest.mark.parametrize("compat", list(ENGINES))
@pytest.mark.parametrize("text", TEXTS)
def test_answers_equal_prometheus(text: str, compat: str) -> None:
    end_ms = round((END_S - 720 + 3.5) * 1000)
    engine = ENGINES[compat]
    range_query = functools.partial(
        engine.range, querier(), text, end_ms - RANGE_S * 1000, end_ms, STEP_S * 1000
    )
    instant_query = functools.partial(engine.instant, querier(), text, end_ms)
    for kind, ask in (("r", range_query), ("i", instant_query)):
        succeeds, expected = ANSWERS[f"{kind} {text}"]
        if succeeds:
            assert COMPLIANCE.diff(expected, rendered(ask()), 1e-5) is None
        elif NEWLY_ALLOWED in text and compat == "prometheus3":
            assert ask().labels
        else:
            with pytest.raises(PromqlError):
                ask()
