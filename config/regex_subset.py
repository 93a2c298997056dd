"""
The part of RE2's syntax that is safe and means the same on Python's :mod:`re`, for machines without
google-re2.

:mod:`re` backtracks, so a pattern may take exponential time. Refused is what could: a repetition
around a repetition or an alternative, and more than so many ways to match in all.
"""

from __future__ import annotations

import re
from typing import Final

SUBSET_CHARS_MAX: Final = 1024
#: A repetition can end in as many places as the longest label value has characters.
REPETITION_WAYS: Final = 4096
#: Backtracking tries every way; 2**26 of them took 0.25 s on a value of 4 KiB that nearly matches.
#: That is two repetitions and a few alternatives, or one and some thousand.
WAYS_MAX: Final = 2**26
#: A count is written out by `re`; more than this is no label matcher.
COUNT_MAX: Final = 100

_MISSING: Final = "is only possible with google-re2, which is not installed here"

# Go's \s has no vertical tab, and \d and \w are ASCII in both once re.ASCII is set.
_CLASSES: Final = {
    "d": "0-9",
    "w": "0-9A-Za-z_",
    "s": r"\t\n\f\r ",
}
_CONTROLS: Final = {"a": "\a", "f": "\f", "t": "\t", "n": "\n", "r": "\r", "v": "\v"}
_NAMED_GROUP: Final = re.compile(r"\(\?P?<([A-Za-z_][A-Za-z0-9_]*)>")
_COUNT: Final = re.compile(r"\{([0-9]{1,4})(?:(,)([0-9]{0,4}))?\}")


def translate(pattern: str) -> str:
    """
    Return ``pattern`` for :mod:`re` with ``ASCII`` and ``DOTALL``, to be used with ``fullmatch``;
    its groups keep their numbers and names.

    Raises:
        ValueError: The pattern is wrong, or outside of the subset.
    """
    if len(pattern) > SUBSET_CHARS_MAX:
        raise ValueError(f"an expression of more than {SUBSET_CHARS_MAX} characters {_MISSING}")
    return _Translator(pattern).run()


class _Translator:
    """
    One pass from left to right.

    ``_complex`` says of each open group whether it holds a repetition or an alternative,
    ``_branches`` how many alternatives it has. ``_ways`` multiplies everything that backtracking
    could try; alternatives at the top are tried one after the other, so each starts anew.
    """

    def __init__(self, pattern: str) -> None:
        self._pattern, self._at = pattern, 0
        self._out: list[str] = []
        self._complex = [False]
        self._branches = [1]
        self._ways = 1

    def run(self) -> str:
        if self._pattern.startswith("(?i)"):
            self._out.append("(?i)")
            self._at = 4
        atom: str | None = None  # the last thing a repetition could follow: "plain" or "complex"
        while self._at < len(self._pattern):
            char = self._pattern[self._at]
            if char in "*+?" or (char == "{" and _COUNT.match(self._pattern, self._at)):
                self._repetition(atom)
                atom = None
            elif char == "(":
                self._open()
                atom = None
            elif char == ")":
                atom = self._close()
            elif char == "|":
                self._take("|")
                self._complex[-1] = True
                self._branches[-1] += 1
                if len(self._complex) == 1:
                    self._ways = 1
                atom = None
            elif char in "^$":
                # The very start and the very end, as in Go; `$` of re also stops before a newline.
                self._take(r"\A" if char == "^" else r"\Z")
                atom = None
            else:
                self._out.append(self._one())
                atom = "plain"
        if len(self._complex) > 1:
            raise ValueError(f"missing closing ): `^(?s:{self._pattern})$`")
        translated = "".join(self._out)
        try:
            re.compile(translated)
        except re.error as error:  # two groups of one name
            raise ValueError(f"{error.msg}: `{self._pattern}`") from None
        return translated

    def _take(self, text: str) -> None:
        self._out.append(text)
        self._at += 1

    def _open(self) -> None:
        named = _NAMED_GROUP.match(self._pattern, self._at)
        if named:
            self._at = named.end()
            self._out.append(f"(?P<{named[1]}>")
        elif self._pattern.startswith("(?:", self._at):
            self._at += 3
            self._out.append("(?:")
        elif self._pattern.startswith("(?", self._at):
            raise ValueError(f"`{self._pattern[self._at : self._at + 4]}` {_MISSING}")
        else:
            self._take("(")
        self._complex.append(False)
        self._branches.append(1)

    def _close(self) -> str:
        if len(self._complex) == 1:
            raise ValueError(f"unexpected ): `^(?s:{self._pattern})$`")
        self._multiply(self._branches.pop())
        is_complex = self._complex.pop()
        self._complex[-1] |= is_complex
        self._take(")")
        return "complex" if is_complex else "plain"

    def _repetition(self, atom: str | None) -> None:
        start = self._at
        count = _COUNT.match(self._pattern, start)
        self._at = count.end() if count else start + 1
        operator = self._pattern[start : self._at]
        if atom is None:
            raise ValueError(f"missing argument to repetition operator: `{operator}`")
        low, high = _bounds(operator, count)
        if self._pattern.startswith("?", self._at):
            self._at += 1
            operator += "?"
        if low != high:
            self._complex[-1] = True
            self._multiply(2 if (low, high) == (0, 1) else REPETITION_WAYS)
        if atom == "complex" and (low, high) != (0, 1):
            raise ValueError(f"a repetition around a repetition or an alternative {_MISSING}")
        self._out.append(operator)

    def _multiply(self, ways: int) -> None:
        self._ways *= ways
        if self._ways > WAYS_MAX:
            raise ValueError(f"an expression with so many ways to match {_MISSING}")

    def _one(self) -> str:
        """Translate one character, escape or class."""
        char = self._pattern[self._at]
        self._at += 1
        if char == ".":
            return "."
        if char == "[":
            return self._class()
        if char != "\\":
            return re.escape(char)
        escape = self._escape()
        if escape in _CLASSES:
            return f"[{_CLASSES[escape]}]"
        if escape.lower() in _CLASSES:
            return f"[^{_CLASSES[escape.lower()]}]"
        return self._character(escape)

    def _class(self) -> str:
        out = ["["]
        if self._pattern.startswith("^", self._at):
            self._take_into(out, "^")
        first = True
        while first or not self._pattern.startswith("]", self._at):
            if self._at >= len(self._pattern):
                raise ValueError(f"missing closing ]: `{self._pattern}`")
            first = False
            low = self._class_item()
            out.append(low)
            if (
                self._pattern.startswith("-", self._at)
                and not self._pattern.startswith("-]", self._at)
                and low not in _CLASSES.values()
            ):
                self._take_into(out, "-")
                out.append(self._class_item())
        self._take_into(out, "]")
        try:
            re.compile("".join(out))
        except re.error:
            raise ValueError(f"invalid character class range: `{''.join(out)}`") from None
        return "".join(out)

    def _take_into(self, out: list[str], text: str) -> None:
        out.append(text)
        self._at += 1

    def _class_item(self) -> str:
        if self._at >= len(self._pattern):
            raise ValueError(f"missing closing ]: `{self._pattern}`")
        if self._pattern.startswith("[:", self._at):
            raise ValueError(f"`[:` {_MISSING}")
        char = self._pattern[self._at]
        self._at += 1
        if char != "\\":
            return re.escape(char)
        escape = self._escape()
        if escape in _CLASSES:
            return _CLASSES[escape]
        return self._character(escape)

    def _escape(self) -> str:
        if self._at >= len(self._pattern):
            raise ValueError("trailing backslash at end of expression")
        self._at += 1
        return self._pattern[self._at - 1]

    def _character(self, escape: str) -> str:
        if escape in _CONTROLS:
            return re.escape(_CONTROLS[escape])
        if escape == "_" or not (escape.isalnum() or ord(escape) > 127):
            return re.escape(escape)
        raise ValueError(rf"`\{escape}` {_MISSING}")


def _bounds(operator: str, count: re.Match[str] | None) -> tuple[int, int | None]:
    """Return the fewest and the most repetitions of ``operator``; ``None`` is no upper bound."""
    if count is None:
        return {"*": (0, None), "+": (1, None), "?": (0, 1)}[operator]
    low = int(count[1])
    high = low if count[2] is None else int(count[3]) if count[3] else None
    if low > COUNT_MAX or (high is not None and (high < low or high > COUNT_MAX)):
        raise ValueError(f"invalid repeat count: `{operator}`")
    return low, high
