"""Turns the text of a query into tokens with positions, refusing hopeless input early."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, NamedTuple

from .errors import ParseError
from .literals import LiteralError, quote, quote_char, unquote


@dataclass(frozen=True, slots=True)
class ParseLimits:
    """
    How large a query may be. Real rules and dashboards stay far below: of 1,991 public ones the
    largest has 1,486 bytes, 59 nodes and a depth of 11.

    A chain like ``a + b + c`` has depth 1 however long it is.
    """

    text_bytes: int = 65_536
    depth: int = 64
    nodes: int = 500


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


AGGREGATORS: Final = _words(
    "sum avg count min max group stddev stdvar topk bottomk count_values quantile limitk "
    "limit_ratio"
)
WORD_OPERATORS: Final = _words("and or unless atan2")
KEYWORDS: Final = _words(
    "offset by without on ignoring group_left group_right bool start end step range fill "
    "fill_left fill_right anchored smoothed"
)


class Token(NamedTuple):
    """
    One token.

    Attributes:
        kind: ``number``, ``duration``, ``string``, ``ident``, ``metric`` (an identifier with a
            colon), ``aggr``, ``keyword``, ``op`` (a word), ``end``, ``error``, or the symbol.
        text: As written; for ``error`` what is wrong.
        start: Characters from 0.
        end: Behind the last character.
        value: What a ``string`` stands for; a word in lower case.
    """

    kind: str
    text: str
    start: int
    end: int
    value: str = ""

    def describe(self) -> str:
        """Name the token as Prometheus does in its "unexpected …" messages."""
        match self.kind:
            case "end":
                return "end of input"
            case "ident":
                return f"identifier {quote(self.text)}"
            case "metric":
                return f"metric identifier {quote(self.text)}"
            case "keyword" if self.value not in ("start", "end"):
                return f"<{self.text}>"
            case "aggr":
                return f"<aggr:{self.text}>"
            case "string" | "number" | "duration":
                short = quote(self.text[:10]) + "..." if len(self.text) > 10 else quote(self.text)
                return f"{self.kind} {short}"
        if self.kind == "op" or self.kind in _OPERATOR_SYMBOLS:
            return f"<op:{self.text}>"
        return quote(self.text)


_OPERATOR_SYMBOLS: Final = frozenset(
    ("+", "-", "*", "/", "%", "^", "==", "!=", "<", ">", "<=", ">=", "=~", "!~", "</", ">/")
)
_DIGITS: Final = frozenset("0123456789")
_BLANK: Final = re.compile(r"(?:[ \t\r\n]+|#[^\r\n]*)+")
_WORD: Final = re.compile(r"[A-Za-z_:][A-Za-z0-9_:]*")
_LABEL: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NUMBER: Final = re.compile(
    r"(?:0[xX]_?[0-9a-fA-F]+(?:_[0-9a-fA-F]+)*"
    r"|(?:[0-9]+(?:_[0-9]+)*\.?(?:[0-9]+(?:_[0-9]+)*)?|\.[0-9]+(?:_[0-9]+)*)"
    r"(?:[eE][+-]?[0-9]+(?:_[0-9]+)*)?)(?![A-Za-z0-9_.])"
)
_DURATION: Final = re.compile(r"(?:[0-9]+(?:ms|[smhdwy]))+(?![A-Za-z0-9_])")
# How far a reader gets that takes the text for a number, then for a duration, before it gives up.
_BAD_NUMBER: Final = re.compile(
    r"(?:0[xX][0-9a-fA-F]*|[0-9]*\.?[0-9]*(?:[eE][+-]?[0-9]*)?)"
    r"(?:[smhdwy]s?(?:[0-9]+[smhdw]s?)*(?:[0-9]+|[A-Za-z_])?)?"
)
_DOUBLE_QUOTED: Final = re.compile(r'"(?:[^"\\\n]|\\.)*"')
_SINGLE_QUOTED: Final = re.compile(r"'(?:[^'\\\n]|\\.)*'")
# Longer symbols stand first. "</" and ">/" trim native histograms.
_SYMBOL: Final = re.compile(r"==|=~|!=|</|<=|>/|>=|[-+*/%^(),=<>@]")
_BRACE_SYMBOL: Final = re.compile(r"=~|!~|!=|[=,]")


class _Lexer:
    def __init__(self, text: str, limits: ParseLimits) -> None:
        self.text, self.limits = text, limits
        self.tokens: list[Token] = []
        self.pos = 0
        self.depth = 0
        self.in_braces = False
        self.in_brackets = False
        self.got_colon = False

    def add(self, kind: str, end: int, value: str = "") -> None:
        self.tokens.append(Token(kind, self.text[self.pos : end], self.pos, end, value))
        self.pos = end

    def fail(self, message: str, start: int | None = None) -> None:
        start = self.pos if start is None else start
        self.tokens.append(Token("error", message, start, len(self.text)))

    def run(self) -> list[Token]:
        text, end = self.text, len(self.text)
        # Every expression node but one costs at least one token of its own, so that far more
        # tokens than nodes allowed can only end in a refusal; stop reading there.
        tokens_max = 16 * self.limits.nodes
        while True:
            blank = _BLANK.match(text, self.pos)
            if blank:
                self.pos = blank.end()
            if self.pos >= end:
                self._finish()
                return self.tokens
            if len(self.tokens) > tokens_max:
                self.fail(f"query is too long: more than {tokens_max} tokens")
                return self.tokens
            step = self._inside_braces if self.in_braces else self._statement
            step(text[self.pos])
            if self.tokens and self.tokens[-1].kind == "error":
                return self.tokens

    def _finish(self) -> None:
        if self.in_braces:
            self.fail("unexpected end of input inside braces")
        elif self.in_brackets:
            self.fail("unclosed left bracket")
        elif self.depth:
            self.fail("unclosed left parenthesis")
        else:
            self.add("end", self.pos)

    def _statement(self, char: str) -> None:
        text, pos = self.text, self.pos
        if char == ":" and self.in_brackets:
            if self.got_colon:
                return self.fail(f"unexpected colon {quote_char(':')}")
            self.got_colon = True
            return self.add(":", pos + 1)
        word = (_LABEL if self.in_brackets else _WORD).match(text, pos)
        if word:
            return self._word(word)
        if char in _DIGITS or (char == "." and text[pos + 1 : pos + 2] in _DIGITS):
            return self._number()
        symbol = _SYMBOL.match(text, pos)
        if symbol:
            return self._symbol(symbol.group(), symbol.end())
        match char:
            case '"' | "'" | "`":
                return self._string(char)
            case "{":
                self.in_braces = True
                return self.add("{", pos + 1)
            case "[":
                if self.in_brackets:
                    return self.fail(f"unexpected left bracket {quote_char('[')}")
                self.in_brackets, self.got_colon = True, False
                return self.add("[", pos + 1)
            case "]":
                if not self.in_brackets:
                    return self.fail(f"unexpected right bracket {quote_char(']')}")
                self.in_brackets = False
                return self.add("]", pos + 1)
            case "!":
                return self.fail(f"unexpected character after '!': {self._char_at(pos + 1)}")
        return self.fail(f"unexpected character: {quote_char(char)}")

    def _symbol(self, symbol: str, end: int) -> None:
        if symbol == "(":
            self.depth += 1
            if self.depth > self.limits.depth:
                return self.fail(f"query is nested deeper than {self.limits.depth} levels")
        elif symbol == ")":
            self.depth -= 1
            if self.depth < 0:
                return self.fail(f"unexpected right parenthesis {quote_char(')')}", end)
        elif symbol == "=~":
            return self.fail(f"unexpected character after '=': {quote_char('~')}")
        self.add(symbol, end)

    def _word(self, match: re.Match[str]) -> None:
        word = match.group()
        lowered = word.lower()
        if lowered in ("inf", "nan"):
            kind = "number"
        elif lowered in AGGREGATORS:
            kind = "aggr"
        elif lowered in WORD_OPERATORS:
            kind = "op"
        elif lowered in KEYWORDS:
            kind = "keyword"
        else:
            kind = "metric" if ":" in word else "ident"
        self.add(kind, match.end(), lowered)

    def _number(self) -> None:
        for kind, pattern in (("number", _NUMBER), ("duration", _DURATION)):
            match = pattern.match(self.text, self.pos)
            if match:
                return self.add(kind, match.end())
        bad = _BAD_NUMBER.match(self.text, self.pos)
        assert bad is not None
        return self.fail(f"bad number or duration syntax: {quote(bad.group())}")

    def _string(self, mark: str) -> None:
        text, pos = self.text, self.pos
        if mark == "`":
            end = text.find("`", pos + 1)
            if end < 0:
                return self.fail("unterminated raw string")
            return self.add("string", end + 1, text[pos + 1 : end])
        match = (_DOUBLE_QUOTED if mark == '"' else _SINGLE_QUOTED).match(text, pos)
        if match is None:
            return self.fail("unterminated quoted string")
        try:
            value = unquote(match.group()[1:-1], mark)
        except LiteralError as error:
            return self.fail(str(error))
        return self.add("string", match.end(), value)

    def _inside_braces(self, char: str) -> None:
        text, pos = self.text, self.pos
        label = _LABEL.match(text, pos)
        if label:
            return self.add("ident", label.end(), label.group())
        symbol = _BRACE_SYMBOL.match(text, pos)
        if symbol:
            return self.add(symbol.group(), symbol.end())
        match char:
            case '"' | "'" | "`":
                return self._string(char)
            case "}":
                self.in_braces = False
                return self.add("}", pos + 1)
            case "{":
                return self.fail(f"unexpected left brace {quote_char('{')}")
            case "!":
                after = self._char_at(pos + 1)
                return self.fail(f"unexpected character after '!' inside braces: {after}")
        return self.fail(f"unexpected character inside braces: {quote_char(char)}")

    def _char_at(self, pos: int) -> str:
        return quote_char(self.text[pos]) if pos < len(self.text) else quote_char("\ufffd")


def tokenize(text: str, limits: ParseLimits) -> list[Token]:
    """
    Split a query into tokens, the last of which is ``end`` or ``error``.

    Errors are tokens because the parser may find something wrong before it gets there, and the
    first mistake is the one to report.

    Raises:
        ParseError: The text is longer than the limit.
    """
    size = len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
    if size > limits.text_bytes:
        raise ParseError(f"query is longer than {limits.text_bytes} bytes", 0, text)
    return _Lexer(text, limits).run()
