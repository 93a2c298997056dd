"""Label matchers, and PromQL instant selectors such as ``up{job="api",instance=~"b.*"}``."""

from __future__ import annotations

import enum
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from .errors import SelectorError
from .regex import Test, compile_regex, literals

_NAME: Final = "__name__"
#: Selectors come by URL and body from anyone; longer ones are refused unread.
SELECTOR_CHARS_MAX: Final = 64 * 1024

_SPACE: Final = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_METRIC: Final = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL: Final = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_OPERATOR: Final = re.compile(r"=~|!~|!=|=")
# Words of PromQL that cannot stand for a metric outside of braces (others, like `sum`, can).
_KEYWORDS: Final = frozenset({"atan2", "bool", "group_left", "group_right", "ignoring", "on"})
_NUMBERS: Final = frozenset({"inf", "nan"})

_STRING_CHUNK: Final = {
    '"': re.compile(r'[^"\\\n]*'),
    "'": re.compile(r"[^'\\\n]*"),
}
_SIMPLE_ESCAPES: Final = {
    "a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "\\": "\\",
}  # fmt: skip
#: Digits and base of the numeric escapes, by their first character.
_NUMERIC_ESCAPES: Final = {"x": (2, 16), "u": (4, 16), "U": (8, 16)} | dict.fromkeys(
    "01234567", (3, 8)
)


class MatchOp(enum.StrEnum):
    """How a matcher compares."""

    EQUAL = "="
    NOT_EQUAL = "!="
    REGEX = "=~"
    NOT_REGEX = "!~"


@dataclass(frozen=True, slots=True)
class Matcher:
    """
    One condition on one label. A label that a series does not have is the empty string.

    Raises:
        ValueError: ``value`` is not a regular expression though ``op`` asks for one.
    """

    name: str
    op: MatchOp
    value: str
    _test: Test = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.op in (MatchOp.REGEX, MatchOp.NOT_REGEX):
            test = compile_regex(self.value)
        else:
            test = self.value.__eq__
        object.__setattr__(self, "_test", test)

    def matches(self, value: str) -> bool:
        """Whether a label with this value (empty: without the label) satisfies the matcher."""
        positive = self.op in (MatchOp.EQUAL, MatchOp.REGEX)
        return self._test(value) is positive

    def literals(self) -> frozenset[str] | None:
        """
        Return the values that this matcher compares with, if they are few and known.

        That is the value of ``=`` and ``!=``, and ``a|b|c`` of ``=~`` and ``!~``: an index can look
        these up instead of testing every value. ``None`` for any other expression.
        """
        if self.op in (MatchOp.EQUAL, MatchOp.NOT_EQUAL):
            return frozenset((self.value,))
        return literals(self.value)

    def __str__(self) -> str:
        name = self.name if _LABEL.fullmatch(self.name) else quote(self.name)
        return f"{name}{self.op}{quote(self.value)}"

    def __reduce__(self) -> tuple[type[Matcher], tuple[str, MatchOp, str]]:
        return Matcher, (self.name, self.op, self.value)  # a compiled pattern does not pickle


def parse_selector(text: str, *, allow_empty: bool = False) -> tuple[Matcher, ...]:
    """
    Parse an instant selector without offset or ``@``; the metric name becomes the first matcher.

    Args:
        text: At most 64 Ki characters.
        allow_empty: Also accept selectors that an empty label set matches, such as ``{}``.

    Raises:
        SelectorError: With position; messages read like Prometheus'.
    """
    if len(text) > SELECTOR_CHARS_MAX:
        raise SelectorError(f"selector is longer than {SELECTOR_CHARS_MAX} characters", 0)
    matchers = _Parser(text).parse()
    if not allow_empty and all(matcher.matches("") for matcher in matchers):
        raise SelectorError("vector selector must contain at least one non-empty matcher", 0)
    return matchers


def render_selector(matchers: Sequence[Matcher]) -> str:
    """Return a selector that :func:`parse_selector` reads as the same ``matchers``."""
    name, rest = "", tuple(matchers)
    if rest and rest[0].name == _NAME and rest[0].op is MatchOp.EQUAL:
        bare = rest[0].value
        usable = _METRIC.fullmatch(bare) and bare.lower() not in _KEYWORDS | _NUMBERS
        if usable and all(matcher.name != _NAME for matcher in rest[1:]):
            name, rest = bare, rest[1:]
    return f"{name}{{{','.join(map(str, rest))}}}" if rest or not name else name


def quote(text: str) -> str:
    """Return ``text`` as a PromQL string in double quotes."""
    return '"' + text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n") + '"'


class _Parser:
    """Reads one selector from left to right; ``_at`` is where the next token starts."""

    def __init__(self, text: str) -> None:
        self._text, self._at = text, 0

    def parse(self) -> tuple[Matcher, ...]:
        self._skip_space()
        if self._at == len(self._text):
            raise SelectorError("no expression found in input", 0)
        start, name = self._at, self._metric_name()
        self._skip_space()
        matchers: list[Matcher] = []
        if self._text.startswith("{", self._at):
            self._at += 1
            name = self._braces(name, start, matchers)
            self._skip_space()
        elif name is None:
            raise self._unexpected()
        if self._at < len(self._text):
            raise self._unexpected()
        if name is not None:
            matchers.insert(0, Matcher(_NAME, MatchOp.EQUAL, name))
        return tuple(matchers)

    def _metric_name(self) -> str | None:
        match = _METRIC.match(self._text, self._at)
        if match is None:
            return None
        if match[0].lower() in _KEYWORDS:
            raise SelectorError(f"unexpected <{match[0]}>", self._at)
        if match[0].lower() in _NUMBERS:
            raise SelectorError(f'unexpected number "{match[0]}"', self._at)
        self._at = match.end()
        return match[0]

    def _braces(self, name: str | None, start: int, matchers: list[Matcher]) -> str | None:
        """Read up to and including ``}``; return the metric name, which may be quoted inside."""
        expected = 'identifier or "}"'
        while True:
            self._skip_space()
            if self._text.startswith("}", self._at):
                self._at += 1
                break
            position, label = self._at, self._label(expected)
            self._skip_space()
            operator = _OPERATOR.match(self._text, self._at)
            if operator:
                self._at = operator.end()
                matchers.append(self._matcher(position, label, MatchOp(operator[0])))
            elif self._text[position] in "\"'`" and self._text[self._at : self._at + 1] in (
                ",",
                "}",
            ):
                if name is not None:
                    raise _name_twice(name, label, position)
                name = label
            elif self._text.startswith("!", self._at):
                raise self._after_bang()
            else:
                raise self._unexpected("label matching operator")
            self._skip_space()
            if self._text.startswith(",", self._at):
                self._at += 1
            elif not self._text.startswith("}", self._at):
                raise self._unexpected('"," or "}"')
        if name is not None:
            for matcher in matchers:
                if matcher.name == _NAME:
                    raise _name_twice(name, matcher.value, start)
        return name

    def _label(self, expected: str) -> str:
        match = _LABEL.match(self._text, self._at)
        if match:
            self._at = match.end()
            return match[0]
        if self._text[self._at : self._at + 1] in ('"', "'", "`"):
            return self._string()
        raise self._unexpected(expected)

    def _matcher(self, position: int, name: str, op: MatchOp) -> Matcher:
        self._skip_space()
        if self._text[self._at : self._at + 1] not in ('"', "'", "`"):
            raise self._unexpected("string")
        value = self._string()
        try:
            return Matcher(name, op, value)
        except ValueError as error:
            raise SelectorError(str(error), position) from None

    def _string(self) -> str:
        start, mark = self._at, self._text[self._at]
        self._at += 1
        if mark == "`":
            end = self._text.find("`", self._at)
            if end < 0:
                raise SelectorError("unterminated raw string", start)
            self._at = end + 1
            return self._text[start + 1 : end]
        parts: list[bytes] = []
        while True:
            chunk = _STRING_CHUNK[mark].match(self._text, self._at)
            assert chunk is not None, "the pattern matches the empty string"
            parts.append(chunk[0].encode("utf-8", "surrogatepass"))
            self._at = chunk.end()
            char = self._text[self._at : self._at + 1]
            if char == mark:
                self._at += 1
                break
            if char != "\\":
                raise SelectorError("unterminated quoted string", start)
            parts.append(self._escape(mark, start))
        try:
            return b"".join(parts).decode("utf-8")
        except UnicodeDecodeError:
            raise SelectorError("string is not valid UTF-8", start) from None

    def _escape(self, mark: str, start: int) -> bytes:
        letter = self._text[self._at + 1 : self._at + 2]
        self._at += 2
        if letter == mark:
            return mark.encode()
        if letter in _SIMPLE_ESCAPES:
            return _SIMPLE_ESCAPES[letter].encode()
        if letter not in _NUMERIC_ESCAPES:
            if not letter:
                raise SelectorError("escape sequence not terminated", start)
            raise SelectorError(f"unknown escape sequence U+{ord(letter):04X} {letter!r}", start)
        count, base = _NUMERIC_ESCAPES[letter]
        begin = self._at - 1 if base == 8 else self._at
        digits = self._text[begin : begin + count]
        self._at = begin + count
        if len(digits) < count:
            raise SelectorError("escape sequence not terminated", start)
        wrong = re.search("[^0-7]" if base == 8 else "[^0-9a-fA-F]", digits)
        if wrong:
            shown = f"U+{ord(wrong[0]):04X} {wrong[0]!r}"
            raise SelectorError(f"illegal character {shown} in escape sequence", start)
        code = int(digits, base)
        if letter not in "uU":
            if code > 0xFF:
                raise SelectorError("escape sequence is an invalid Unicode code point", start)
            return bytes((code,))
        if code > 0x10FFFF or 0xD800 <= code < 0xE000:
            raise SelectorError("escape sequence is an invalid Unicode code point", start)
        return chr(code).encode()

    def _skip_space(self) -> None:
        match = _SPACE.match(self._text, self._at)
        assert match is not None, "the pattern matches the empty string"
        self._at = match.end()

    def _after_bang(self) -> SelectorError:
        follow = self._text[self._at + 1 : self._at + 2]
        if not follow:
            return SelectorError("unexpected end of input inside braces", self._at + 1)
        return SelectorError(f"unexpected character after '!' inside braces: {follow!r}", self._at)

    def _unexpected(self, expected: str = "") -> SelectorError:
        """Describe what stands at ``_at``; with ``expected`` we are inside of braces."""
        text, at = self._text, self._at
        where = f" in label matching, expected {expected}" if expected else ""
        if at == len(text):
            return SelectorError("unexpected end of input inside braces", at)
        word = (_LABEL if expected else _METRIC).match(text, at)
        if word:
            return SelectorError(f'unexpected identifier "{word[0]}"{where}', at)
        char = text[at]
        if char in "\"'`":
            string = self._string()
            return SelectorError(f"unexpected string {quote(quote(string))}{where}", at)
        operator = _OPERATOR.match(text, at)
        if expected and operator:
            # Prometheus' lexer has a token of its own for `=`, and `<op:...>` for the others.
            shown = '"="' if operator[0] == "=" else f"<op:{operator[0]}>"
            return SelectorError(f"unexpected {shown}{where}", at)
        if expected and char == "!":
            return self._after_bang()
        if expected and char not in ",}":
            return SelectorError(f"unexpected character inside braces: {char!r}", at)
        if not expected and not (char.isascii() and char in "{[(,"):
            return SelectorError(f"unexpected character: {char!r}", at)
        return SelectorError(f'unexpected "{char}"{where}', at)


def _name_twice(first: str, second: str, position: int) -> SelectorError:
    return SelectorError(f'metric name must not be set twice: "{first}" or "{second}"', position)
