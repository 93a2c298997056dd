"""
Regular expressions of label matchers: RE2's syntax, matched as a whole, `.` matching newlines too.

google-re2 does the work in linear time. Where it is not installed (no wheel for musl), a checked
subset runs on :mod:`re`; see :mod:`.regex_subset`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any, Final, Protocol, cast

#: Whether a value matches as a whole.
Test = Callable[[str], bool]

#: A pattern of 64 KiB is a list of hosts pasted by a program; RE2 bounds its memory by itself.
PATTERN_CHARS_MAX: Final = 64 * 1024

# Escapes of ASCII punctuation only, as in Go: `\d` is a class and an escaped umlaut an error.
_LITERAL: Final = re.compile(r"(?:[^\\.+*?()|\[\]{}^$]|\\[!-/:-@\[-`{-~])*")
# What `re` and RE2 read alike and match in linear time: plain text, and at its end a repetition of
# any character or of some ASCII letters and digits. That is most of what people write. `re` takes
# 0.13 µs for a value of a label and google-re2 2.2 µs, and it is not loaded for it: 1.6 MiB.
_SIMPLE: Final = re.compile(
    rf"{_LITERAL.pattern}(?:(?:\.|\[(?:[0-9A-Za-z](?:-[0-9A-Za-z])?)+\])[*+])?"
)
#: `re` tries one alternative after the other, RE2 all of them at once.
_SIMPLE_PARTS_MAX: Final = 32
_ESCAPED: Final = re.compile(r"\\(.)")

# RE2 in C++ and Go's regexp say the same things differently; users search the web for Go's.
_GO_WORDS: Final = {
    "missing ]": "missing closing ]",
    "missing )": "missing closing )",
    "trailing \\": "trailing backslash at end of expression",
    "no argument for repetition operator": "missing argument to repetition operator",
    "invalid repetition size": "invalid repeat count",
    "bad repetition operator": "invalid nested repetition operator",
    "invalid perl operator": "invalid or unsupported Perl syntax",
    "invalid named capture group": "invalid named capture",
}


class Match(Protocol):
    """What a match of google-re2 and one of :mod:`re` have in common."""

    def group(self, group: int | str = 0, /) -> str | None: ...


@functools.lru_cache(maxsize=1024)  # dashboards and rules repeat the same few hundred
def compile_regex(pattern: str) -> Test:
    """
    Return a function that says whether a value matches ``pattern`` as a whole.

    Raises:
        ValueError: Not RE2's syntax, too long, or, without google-re2, outside of the subset; the
            message reads like Prometheus'.
    """
    words = literals(pattern) if len(pattern) <= PATTERN_CHARS_MAX else None
    if words is not None:
        return words.__contains__
    if pattern in (".*", "(.*)"):
        return _always
    if pattern == ".+":
        return bool
    match = _compile_simple(pattern) or compile_groups(pattern)
    return lambda value: match(value) is not None


def compile_groups(pattern: str) -> Callable[[str], Match | None]:
    """
    Return a function that matches a value as a whole and gives its groups, for relabelling.

    Raises:
        ValueError: As :func:`compile_regex`.
    """
    if len(pattern) > PATTERN_CHARS_MAX:
        raise ValueError(
            f"error parsing regexp: expression is longer than {PATTERN_CHARS_MAX} characters"
        )
    engine = _load_re2()
    return _compile_subset(pattern) if engine is None else _compile_re2(engine, pattern)


def literals(pattern: str) -> frozenset[str] | None:
    """Return the values that ``pattern`` matches if it is plain text or ``a|b``, else ``None``."""
    parts = pattern.split("|")
    if not all(map(_LITERAL.fullmatch, parts)):
        return None
    return frozenset(_ESCAPED.sub(r"\1", part) for part in parts)


def re2_available() -> bool:
    """Whether google-re2 is installed."""
    return _load_re2() is not None


@functools.cache
def _load_re2() -> Any:  # the module is optional and without types
    try:
        import re2
    except ImportError:
        return None
    return re2


def _compile_re2(engine: Any, pattern: str) -> Callable[[str], Match | None]:
    options = engine.Options()
    options.dot_nl = True
    options.log_errors = False  # it would write to stderr of whoever embeds us
    try:
        pattern.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError("error parsing regexp: invalid UTF-8") from None
    if re.search(r"(?<!\\)(?:\\\\)*\\C", pattern):
        # RE2's "one byte"; Go has no such thing, and it would cut characters in two.
        raise ValueError(r"error parsing regexp: invalid escape sequence: `\C`")
    try:
        compiled = engine.compile(pattern, options)
    except engine.error as error:
        message = _go_message(engine, options, pattern, error)
        raise ValueError(f"error parsing regexp: {message}") from None
    match: Callable[[str], Match | None] = compiled.fullmatch
    return match


def _go_message(engine: Any, options: Any, pattern: str, error: Exception) -> str:
    # Prometheus compiles the pattern between `^(?s:` and `)$`, and its messages show that.
    try:
        engine.compile(f"^(?s:{pattern})$", options)
    except engine.error as wrapped:
        error = wrapped
    raw = error.args[0] if error.args else b""
    text = raw.decode("utf-8", "replace") if isinstance(raw, bytes) else str(raw)
    word, separator, culprit = text.partition(": ")
    word = _GO_WORDS.get(word, word)
    return f"{word}: `{culprit}`" if separator else word


def _compile_simple(pattern: str) -> Callable[[str], Match | None] | None:
    parts = pattern.split("|", _SIMPLE_PARTS_MAX)
    if len(parts) > _SIMPLE_PARTS_MAX or not all(map(_SIMPLE.fullmatch, parts)):
        return None
    try:
        return _compile_re(pattern, re.DOTALL)
    except re.error:
        return None  # a range the wrong way round: RE2 has the words for it


def _compile_subset(pattern: str) -> Callable[[str], Match | None]:
    from .regex_subset import translate

    try:
        translated = translate(pattern)
    except ValueError as error:
        raise ValueError(f"error parsing regexp: {error}") from None
    return _compile_re(translated, re.ASCII | re.DOTALL)


def _compile_re(pattern: str, flags: re.RegexFlag) -> Callable[[str], Match | None]:
    match: Any = re.compile(pattern, flags).fullmatch  # overloaded in typeshed
    return cast("Callable[[str], Match | None]", match)


def _always(_: str) -> bool:
    return True
