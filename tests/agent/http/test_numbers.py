"""Numbers and times of the JSON API, spelled as Prometheus spells them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tachograph.agent.http.numbers import format_scalar, format_time, format_value, format_values

VALUES = {
    1.0: "1",
    -0.0: "-0",
    0.5: "0.5",
    1e21: "1e+21",
    1e20: "100000000000000000000",
    123456789012345680000.0: "123456789012345680000",
    1e-7: "1e-07",
    1e-6: "0.000001",
    1.5e-6: "0.0000015",
    1e16: "10000000000000000",
    5e-324: "5e-324",
    1.7976931348623157e308: "1.7976931348623157e+308",
    float("inf"): "+Inf",
    float("-inf"): "-Inf",
    1 / 3: "0.3333333333333333",
    -2.5: "-2.5",
}


@pytest.mark.parametrize(("value", "text"), VALUES.items())
def test_value_is_spelled_as_prometheus_does(value: float, text: str) -> None:
    assert format_value(value) == text
    assert format_values(np.array([value, 1.5, value])) == [text, "1.5", text]


def test_nan_is_a_value() -> None:
    assert format_value(float("nan")) == "NaN"
    assert format_values(np.array([np.nan])) == ["NaN"]
    assert format_values(np.empty(0)) == []


@given(st.lists(st.floats(), max_size=20))
@example([1e15, 1e-4, 9.99e-5, 999999999999999.9, 0.0, 10.0, 1.0])
def test_many_values_are_spelled_as_one(values: list[float]) -> None:
    assert format_values(np.array(values, np.float64)) == [format_value(v) for v in values]


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_value_comes_back_and_a_scalar_has_no_exponent(value: float) -> None:
    assert float(format_value(value)) == value
    assert float(format_scalar(value)) == value
    assert "e" not in format_scalar(value)


@pytest.mark.parametrize(
    ("ts_ms", "text"),
    [
        (1_767_573_000_000, "1767573000"),
        (1_767_573_000_100, "1767573000.100"),
        (7, "0.007"),
        (-1500, "-1.500"),
        (-62_135_596_800_000, "-62135596800"),
        (0, "0"),
    ],
)
def test_time_is_whole_seconds_or_three_decimals(ts_ms: int, text: str) -> None:
    assert format_time(ts_ms) == text
