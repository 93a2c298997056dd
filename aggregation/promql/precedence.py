"""How tightly PromQL's operators bind, between expressions and between durations alike."""

from __future__ import annotations

from typing import Final

#: What follows a selector (a range, ``offset``, ``@``) binds tighter than all of these.
PRECEDENCE: Final = {
    "or": 1,
    "and": 2,
    "unless": 2,
    "==": 3,
    "!=": 3,
    "<": 3,
    ">": 3,
    "<=": 3,
    ">=": 3,
    "+": 4,
    "-": 4,
    "*": 5,
    "/": 5,
    "%": 5,
    "atan2": 5,
    "</": 5,
    ">/": 5,
    "^": 6,
}
#: A sign binds like ``*``: ``-2 ^ 2`` is -4, and ``-2 * 3`` is ``(-2) * 3``.
SIGN_PRECEDENCE: Final = 5
RIGHT_ASSOCIATIVE: Final = frozenset(("^",))
