"""Functions of values, dates and labels, and the aggregations that look at whole groups."""

from __future__ import annotations

import math
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.promql import MemoryQuerier
from tachograph.aggregation.promql import Engine, EngineOptions, ExecutionError
from tachograph.aggregation.promql.label_functions import natural_key, replacer
from tachograph.aggregation.promql.math_functions import DATES
from tachograph.aggregation.promql.ranking import best, sampling_offset, xxhash64
from tachograph.storage.model import Labels

ENGINE = Engine(EngineOptions(experimental=True))


def answer(querier: MemoryQuerier, text: str) -> dict[str, float]:
    """Labels as text and values of an instant query at 0."""
    result = ENGINE.instant(querier, text, 0)
    return {str(labels): float(values[0]) for labels, _, values in result.series()}


def vector(**values: float) -> MemoryQuerier:
    """Series ``x`` with a label ``n``."""
    querier = MemoryQuerier()
    for name, value in values.items():
        querier.add({"__name__": "x", "n": name}, [(0, value)])
    return querier


# -- values and dates --------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(st.integers(-60_000_000_000, 250_000_000_000))
def test_parts_of_dates_are_those_of_the_calendar(seconds: int) -> None:
    date = datetime.fromtimestamp(seconds, UTC)
    next_month = datetime(date.year + date.month // 12, date.month % 12 + 1, 1, tzinfo=UTC)
    expected = {
        "year": date.year,
        "month": date.month,
        "day_of_month": date.day,
        "day_of_week": date.isoweekday() % 7,
        "day_of_year": date.timetuple().tm_yday,
        "days_in_month": (next_month - datetime(date.year, date.month, 1, tzinfo=UTC)).days,
        "hour": date.hour,
        "minute": date.minute,
    }
    values = np.array([float(seconds)])
    assert {name: int(part(values)[0]) for name, part in DATES.items()} == expected


def test_vmalert_is_answered_when_it_asks_for_its_alerts_of_before() -> None:
    querier = MemoryQuerier()
    querier.add({"__name__": "ALERTS_FOR_STATE", "alertname": "Down"}, [(-60_000, 1_767_571_200)])
    asked = 'default_rollup(ALERTS_FOR_STATE{alertname="Down"}[3600s])'
    assert answer(querier, asked) == {'ALERTS_FOR_STATE{alertname="Down"}': 1_767_571_200}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("clamp_max(x, -Inf)", -math.inf),
        ("clamp_min(x, Inf)", math.inf),
        ("clamp(x, -Inf, -Inf)", -math.inf),
        ("clamp_max(x, 1)", math.nan),
        ("clamp_min(x, NaN)", math.nan),
    ],
)
def test_only_the_very_smallest_and_largest_bounds_clamp_nan(text: str, expected: float) -> None:
    (value,) = answer(vector(a=math.nan), text).values()
    assert value == expected or (math.isnan(value) and math.isnan(expected))


@pytest.mark.parametrize("name", ["quantile(0.5, x{n='b'})", "quantile by (n) (2, x{n='b'})"])
def test_a_quantile_of_nothing_is_nothing(name: str) -> None:
    assert answer(vector(a=1.0), name) == {}
    assert answer(vector(a=1.0), f"quantile(0.5, x > 5) or {name}") == {}


@pytest.mark.parametrize("name", ["topk", "bottomk", "limitk"])
def test_taking_none_of_a_vector_that_fails_still_fails(name: str) -> None:
    with pytest.raises(ExecutionError, match="found duplicate series"):
        answer(vector(a=1.0, b=1.0), f"{name}(0, x + on () x)")
    assert answer(vector(a=1.0, b=1.0), f"{name}(0, x)") == {}


def test_count_values_tells_zeros_apart_and_counts_all_nans_as_one() -> None:
    other_nan = float(np.uint64(0x7FF8000000000123).view(np.float64))
    values = vector(a=0.0, b=-0.0, c=math.nan, d=other_nan, e=-1.5, f=0.0)
    assert answer(values, 'count_values("v", x)') == {
        '{v="-1.5"}': 1.0,
        '{v="-0"}': 1.0,
        '{v="0"}': 2.0,
        '{v="NaN"}': 2.0,
    }


def test_dates_of_no_time_are_no_crash() -> None:
    values = np.array([math.nan, math.inf, -math.inf, 1e300])
    for part in DATES.values():
        assert part(values).shape == (4,)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("round(x)", [-2.0, 3.0]),
        ("round(x, 0.1)", [-2.5, 2.5]),
        ("clamp(x, -1, 1)", [-1.0, 1.0]),
        ("clamp(x, 1, -1)", []),
        ("clamp_min(x, 0)", [0.0, 2.5]),
        ("clamp_max(x, 0)", [-2.5, 0.0]),
        ("sgn(x)", [-1.0, 1.0]),
        ("x % 2", [-0.5, 0.5]),
        ("x ^ 2", [6.25, 6.25]),
        ("2 < x", [2.5]),
        ("2 < bool x", [0.0, 1.0]),
        ("x atan2 0", [-math.pi / 2, math.pi / 2]),
        ("scalar(x) + x * 0", [math.nan, math.nan]),
        ('scalar(x{n="a"}) + x * 0', [-2.5, -2.5]),
        ("vector(2)", [2.0]),
        ("timestamp(x)", [0.0, 0.0]),
        ("deg(rad(x))", [-2.5, 2.5]),
        ("pi() * (x > 0)", [2.5 * math.pi]),
        ("day_of_week() + 0 * x", []),
        ("absent(x)", []),
    ],
)
def test_functions_of_values(text: str, expected: list[float]) -> None:
    got = sorted(answer(vector(a=-2.5, b=2.5), text).values())
    assert got == pytest.approx(sorted(expected), nan_ok=True)


def test_absence_has_the_labels_that_were_asked_for() -> None:
    querier = MemoryQuerier()
    text = 'absent(up{job="a", instance=~"b.*", env="x", env="y"})'
    assert answer(querier, text) == {'{job="a"}': 1.0}
    assert answer(querier, 'absent_over_time(up{job="a"}[5m])') == {'{job="a"}': 1.0}
    assert answer(querier, 'absent(sum(up{job="a"}))') == {"{}": 1.0}


# -- labels ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "replacement", "value", "expected"),
    [
        ("(.*)-(.*)", "$2/$1", "a-b", "b/a"),
        ("(.*)-(.*)", "${1}x$$", "a-b", "ax$"),
        ("(?P<host>[^:]+):.*", "$host", "h:80", "h"),
        ("a", "$1", "a", ""),
        ("a", "$nothing.", "a", "."),
        ("a", "x", "ab", None),
        ("a.b", "x", "a\nb", "x"),
        (".*", "$", "a", "$"),
        ("()", "$1", "", ""),
    ],
)
def test_label_replace_matches_wholes_and_expands_groups(
    pattern: str, replacement: str, value: str, expected: str | None
) -> None:
    assert replacer(pattern, replacement)(value) == expected


def test_label_replace_and_join_set_and_remove_labels() -> None:
    querier = vector(a=1, b=2)
    assert answer(querier, 'label_replace(x, "m", "<$1>", "n", "(a)")') == {
        'x{m="<a>",n="a"}': 1.0,
        'x{n="b"}': 2.0,
    }
    assert answer(querier, 'label_replace(x{n="a"}, "n", "", "n", ".*")') == {"x": 1.0}
    assert answer(querier, 'label_replace(x, "__name__", "y", "n", "a")') == {
        'y{n="a"}': 1.0,
        'x{n="b"}': 2.0,
    }
    assert answer(querier, 'label_join(x, "m", "-", "n", "none", "__name__")') == {
        'x{m="a--x",n="a"}': 1.0,
        'x{m="b--x",n="b"}': 2.0,
    }


@pytest.mark.parametrize(("compat", "allowed"), [("prometheus3", True), ("prometheus2", False)])
def test_label_names_may_be_any_utf8_but_not_in_prometheus_2(compat: str, allowed: bool) -> None:
    old = compat == "prometheus2"
    engine = Engine(EngineOptions(compat="prometheus2" if old else "prometheus3"))
    text = 'label_replace(x, "1bad", "y", "n", "a")'
    if allowed:
        (labels,) = engine.instant(vector(a=1), text, 0).labels
        assert labels.get("1bad") == "y"
    else:
        with pytest.raises(ExecutionError, match=r"invalid destination label name .*: 1bad"):
            engine.instant(vector(a=1), text, 0)


def test_digits_in_labels_sort_as_numbers() -> None:
    texts = ["cpu10", "cpu9", "cpu", "1.11.3", "1.2.3", "cpu010", ""]
    assert sorted(texts, key=natural_key) == [
        "",
        "1.2.3",
        "1.11.3",
        "cpu",
        "cpu9",
        "cpu010",
        "cpu10",
    ]


# -- groups ------------------------------------------------------------------------------------


def test_topk_prefers_numbers_to_nan_and_earlier_to_later() -> None:
    querier = vector(a=1, b=math.nan, c=3, d=3, e=-math.inf)
    order = ENGINE.instant(querier, "topk(4, x)", 0)
    assert [labels.get("n") for labels in order.labels] == ["c", "d", "a", "e"]
    order = ENGINE.instant(querier, "bottomk(5, x)", 0)
    assert [labels.get("n") for labels in order.labels] == ["e", "a", "c", "d", "b"]


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.one_of(st.none(), st.floats(-5, 5).map(round).map(float), st.just(math.nan)),
        min_size=1,
        max_size=12,
    ),
    st.integers(0, 14),
    st.booleans(),
)
def test_the_best_are_those_that_sorting_finds(
    column: list[float | None], limit: int, down: bool
) -> None:
    mask = np.array([[value is not None] for value in column])
    values = np.array([[0.0 if value is None else value] for value in column])
    chosen = np.flatnonzero(best(values, mask, np.array([limit]), down=down)).tolist()
    present = [row for row, value in enumerate(column) if value is not None]

    def rank(row: int) -> tuple[bool, float]:
        value = values[row, 0]
        return (math.isnan(value), 0.0 if math.isnan(value) else (-value if down else value))

    assert chosen == sorted(sorted(present, key=rank)[:limit])


def test_count_values_counts_and_may_overwrite_its_label() -> None:
    querier = vector(a=1.5, b=1.5, c=math.inf)
    assert answer(querier, 'count_values("v", x)') == {'{v="1.5"}': 2.0, '{v="+Inf"}': 1.0}
    assert answer(querier, 'count_values without (n) ("n", x)') == {"{}": 3.0}
    assert answer(querier, 'count_values by (n) ("n", x)') == {'{n="1.5"}': 2.0, '{n="+Inf"}': 1.0}
    assert answer(querier, 'count_values without (m) ("n", x)') == {
        '{n="1.5"}': 2.0,
        '{n="+Inf"}': 1.0,
    }


@pytest.mark.parametrize(
    ("text", "digest"),
    [
        # Published test vectors of XXH64 with seed 0.
        ("", 0xEF46DB3751D8E999),
        ("a", 0xD24EC4F1A98C6E5B),
        ("abc", 0x44BC2CF5AD770999),
        ("Nobody inspects the spammish repetition", 0xFBCEA83C8A378BF1),
    ],
)
def test_the_hash_is_xxhash(text: str, digest: int) -> None:
    assert xxhash64(text.encode()) == digest


def test_a_ratio_and_its_complement_share_all_series() -> None:
    querier = vector(**{f"s{number}": float(number) for number in range(200)})
    some = answer(querier, "limit_ratio(0.3, x)")
    rest = answer(querier, "limit_ratio(-0.7, x)")
    assert len(some) + len(rest) == 200
    assert not some.keys() & rest.keys()
    assert 30 < len(some) < 90
    offsets = [sampling_offset(Labels.of({"n": f"s{number}"}, "x")) for number in range(200)]
    assert len(some) == sum(offset < 0.3 for offset in offsets)


def test_limitk_takes_as_many_as_it_may_from_each_group() -> None:
    querier = vector(a=1, b=2, c=3)
    assert len(answer(querier, "limitk(2, x)")) == 2
    assert len(answer(querier, "limitk by (n) (2, x)")) == 3
    assert answer(querier, "limitk(0, x)") == {}


# -- histograms --------------------------------------------------------------------------------


def histogram(**counts: float) -> MemoryQuerier:
    querier = MemoryQuerier()
    for le, count in counts.items():
        querier.add({"__name__": "h_bucket", "le": le.lstrip("_").replace("_", ".")}, [(0, count)])
    return querier


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("histogram_quantile(0.5, h_bucket)", 1.5),
        ("histogram_quantile(0, h_bucket)", 0.0),
        ("histogram_quantile(1, h_bucket)", 2.0),
        ("histogram_quantile(-1, h_bucket)", -math.inf),
        ("histogram_quantile(2, h_bucket)", math.inf),
        ("histogram_quantile(NaN, h_bucket)", math.nan),
        ("histogram_fraction(0, 1, h_bucket)", 0.25),
        ("histogram_fraction(0.5, 1.5, h_bucket)", 0.375),
        ("histogram_fraction(-Inf, +Inf, h_bucket)", 1.0),
        ("histogram_fraction(2, +Inf, h_bucket)", 0.25),
        ("histogram_fraction(1, 1, h_bucket)", 0.0),
        ("histogram_fraction(NaN, 1, h_bucket)", math.nan),
        ("histogram_quantile(0.5, h_bucket * NaN)", 2.0),
        ("histogram_quantile(0, h_bucket * Inf)", 2.0),
        ('histogram_quantile(0.5, h_bucket{le!="2"} * 1 or h_bucket * NaN)', 2.0),
        ('histogram_quantile(0.5, h_bucket{le!="+Inf"})', math.nan),
        ('histogram_quantile(0.5, h_bucket{le="+Inf"})', math.nan),
        ("histogram_quantile(0.5, h_bucket * 0)", math.nan),
    ],
)
def test_quantiles_and_fractions_interpolate(text: str, expected: float) -> None:
    # Four observations: one up to 1, two up to 2, one above.
    querier = histogram(_1=1, _2=3)
    querier.add({"__name__": "h_bucket", "le": "+Inf"}, [(0, 4.0)])
    assert list(answer(querier, text).values()) == [pytest.approx(expected, nan_ok=True)]


def test_buckets_may_come_and_go_from_step_to_step() -> None:
    querier = MemoryQuerier()
    minute = 60_000
    for le, points in (
        ("1", [(0, 1.0), (10 * minute, 1.0)]),
        ("2", [(10 * minute, 2.0)]),
        ("+Inf", [(0, 2.0), (10 * minute, 2.0)]),
    ):
        querier.add({"__name__": "h_bucket", "le": le}, points)
    result = ENGINE.range(
        querier, "histogram_quantile(0.75, h_bucket)", 0, 10 * minute, 10 * minute
    )
    # First the second observation is somewhere above 1, later between 1 and 2.
    assert result.values.tolist() == [[1.0, 1.5]]


def test_equal_bounds_in_other_digits_are_one_bucket() -> None:
    querier = MemoryQuerier()
    for le, count in (("1", 1.0), ("1.0", 1.0), ("+Inf", 4.0), ("2e0", 4.0)):
        querier.add({"__name__": "h_bucket", "le": le}, [(0, count)])
    assert list(answer(querier, "histogram_quantile(0.25, h_bucket)").values()) == [0.5]


def test_rounding_noise_in_buckets_neither_warns_nor_moves_the_quantile() -> None:
    querier = MemoryQuerier()
    for le, count in (("1", 3.0), ("2", 3.0 + 1e-15), ("4", 3.0 - 4e-16), ("+Inf", 3.0)):
        querier.add({"__name__": "h_bucket", "le": le}, [(0, count)])
    result = ENGINE.instant(querier, "histogram_quantile(1, h_bucket)", 0)
    assert (result.values.tolist(), result.infos) == ([[1.0]], ())


# -- one block or many -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "aggregation",
    ["sum", "avg", "min", "max", "count", "group", "stddev", "stdvar"],
)
@pytest.mark.parametrize("clause", ["", "by (g)", "without (n)"])
def test_aggregations_do_not_depend_on_how_series_arrive(aggregation: str, clause: str) -> None:
    rng = np.random.default_rng(3)
    queriers = [MemoryQuerier(grouped=False), MemoryQuerier(grouped=True)]
    for number in range(60):
        values = rng.normal(10, 3, 20)
        points = [(1_000 * i, float(value)) for i, value in enumerate(values) if rng.random() < 0.9]
        for querier in queriers:
            querier.add({"__name__": "x", "n": str(number), "g": str(number % 7)}, points)
    text = f"{aggregation} {clause} (x)"

    def plain(querier: MemoryQuerier) -> dict[str, list[float]]:
        result = ENGINE.range(querier, text, 0, 19_000, 1_000)
        return {str(labels): values.tolist() for labels, _, values in result.series()}

    alone, together = (plain(querier) for querier in queriers)
    assert alone.keys() == together.keys()
    for labels, values in alone.items():
        assert values == pytest.approx(together[labels], rel=1e-13)
