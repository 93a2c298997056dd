"""Frames, and what they are made with."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from tachograph.storage.frame import distinct


@given(st.lists(st.integers(0, 30)), st.sampled_from([np.uint32, np.int64]))
@example([], np.uint32)
@example([7], np.int64)
def test_distinct_is_what_numpy_calls_unique(numbers: list[int], kind: type) -> None:
    given_ = np.array(numbers, kind)
    found, expected = distinct(given_), np.unique(given_)
    assert found.dtype == expected.dtype
    assert found.tolist() == expected.tolist()
    assert given_.tolist() == numbers  # untouched


def test_distinct_numbers_that_rise_are_not_copied() -> None:
    refs = np.array([3, 4, 9], np.uint32)
    assert distinct(refs) is refs


def test_distinct_does_not_load_masked_arrays() -> None:
    code = (
        "import sys, numpy as np; from tachograph.storage.frame import distinct; "
        "distinct(np.array([2, 1, 2])); sys.exit('numpy.ma' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
