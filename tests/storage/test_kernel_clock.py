"""What the kernel says of its clock."""

from __future__ import annotations

import pytest

from tachograph.storage.clock import SystemClock
from tachograph.storage.kernel_clock import adjtimex, is_synchronised


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ((0, 0x2001), True),
        ((1, 0x2011), True),  # a leap second will be inserted
        ((5, 0x40), False),
        ((0, 0x41), False),
        ((5, 0x2001), False),
        (None, None),
    ],
)
def test_state_and_status_tell_whether_it_is_kept_right(
    answer: tuple[int, int] | None, expected: bool | None
) -> None:
    assert is_synchronised(lambda: answer) is expected


def test_this_kernel_can_be_asked_or_says_so() -> None:
    answer = adjtimex()
    assert answer is None or 0 <= answer[0] <= 5
    assert SystemClock().is_synchronised() is is_synchronised()
