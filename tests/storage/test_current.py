"""The newest sample of every series."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tachograph.storage.current import NEVER_MS, Current
from tachograph.storage.frame import STALE_NAN, is_absent, is_stale


def refs(*numbers: int) -> np.ndarray:
    return np.array(numbers, dtype=np.uint32)


def floats(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float64)


def held(current: Current, ref: int) -> tuple[int, float]:
    ts_ms, values = current.get(refs(ref))
    return int(ts_ms[0]), float(values[0])


def test_unknown_series_have_no_sample() -> None:
    current = Current()
    current.update(refs(3), 5, floats(1.0))
    ts_ms, values = current.get(refs(1, 200, 4_000_000_000))
    assert ts_ms.tolist() == [NEVER_MS] * 3
    assert is_absent(values).all()


def test_nothing_in_nothing_out() -> None:
    current = Current()
    current.update(refs(), 5, floats())
    current.forget(refs())
    assert [len(part) for part in current.get(refs())] == [0, 0]


def test_older_sample_never_replaces_a_newer_one() -> None:
    current = Current()
    current.update(refs(1, 2), 2000, floats(1.0, 2.0))
    current.update(refs(1, 2), np.array([1999, 2001]), floats(8.0, 9.0))
    assert held(current, 1) == (2000, 1.0)
    assert held(current, 2) == (2001, 9.0)


def test_last_write_wins_at_the_same_time() -> None:
    current = Current()
    current.update(refs(1), 2000, floats(1.0))
    current.update(refs(1, 1), 2000, floats(2.0, 3.0))
    assert held(current, 1) == (2000, 3.0)


def test_newest_of_a_repeated_series_wins_whatever_the_order() -> None:
    current = Current()
    current.update(refs(1, 2, 1, 1), np.array([30, 10, 40, 20]), floats(1, 2, 3, 4))
    assert held(current, 1) == (40, 3.0)
    assert held(current, 2) == (10, 2.0)


def test_stale_marker_ends_a_series_until_a_newer_sample() -> None:
    current = Current()
    current.update(refs(1), 1000, floats(1.0))
    current.update(refs(1), 2000, floats(STALE_NAN))
    current.update(refs(1), 1500, floats(7.0))
    ts_ms, values = current.get(refs(1))
    assert ts_ms.tolist() == [2000]
    assert is_stale(values).all()
    current.update(refs(1), 3000, floats(7.0))
    assert held(current, 1) == (3000, 7.0)


def test_what_get_returns_is_not_changed_by_later_updates() -> None:
    current = Current()
    current.update(refs(1), 1000, floats(1.0))
    ts_ms, values = current.get(refs(1))
    current.update(refs(1), 2000, floats(2.0))
    assert (ts_ms.tolist(), values.tolist()) == ([1000], [1.0])


def test_memory_follows_the_living_series_not_the_numbers_given_out() -> None:
    current = Current()
    for cohort in range(500):
        numbers = np.arange(1 + cohort * 1000, 1001 + cohort * 1000, dtype=np.uint32)
        current.update(numbers, cohort, np.ones(1000))
        current.forget(numbers)
    assert current._values.nbytes < 64 * 1024
    assert held(current, 1000)[0] == NEVER_MS


def test_page_that_was_given_back_comes_back_empty() -> None:
    current = Current()
    current.update(refs(1, 2), 1000, floats(1.0, 2.0))
    current.forget(refs(1, 2))
    current.update(refs(1000), 10, floats(5.0))
    assert held(current, 1000) == (10, 5.0)
    assert held(current, 1001)[0] == NEVER_MS
    assert held(current, 1)[0] == NEVER_MS


_SAMPLE = st.tuples(st.integers(0, 700), st.integers(0, 6), st.floats(allow_nan=False))


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.lists(_SAMPLE, max_size=12),
            st.frozensets(st.integers(0, 700), min_size=1, max_size=5),
        ),
        max_size=12,
    )
)
def test_behaves_like_a_dict_of_newest_samples(
    steps: list[list[tuple[int, int, float]] | frozenset[int]],
) -> None:
    current, model = Current(), dict[int, tuple[int, float]]()
    for step in steps:
        if isinstance(step, frozenset):
            current.forget(refs(*step))
            for ref in step:
                model.pop(ref, None)
            continue
        current.update(
            refs(*(ref for ref, _, _ in step)),
            np.array([ts for _, ts, _ in step], dtype=np.int64),
            floats(*(value for _, _, value in step)),
        )
        for ref, ts, value in step:
            if ref not in model or model[ref][0] <= ts:
                model[ref] = (ts, value)
    everything = np.arange(0, 702, dtype=np.uint32)
    ts_ms, values = current.get(everything)
    seen = {
        int(r): (int(t), float(v))
        for r, t, v in zip(everything, ts_ms, values, strict=True)
        if t != NEVER_MS
    }
    assert seen == model
    for now_ms in (0, 3, 7):
        ended = [ref for ref, (ts, _) in sorted(model.items()) if ts < now_ms]
        assert current.ended_before(now_ms).tolist() == ended
