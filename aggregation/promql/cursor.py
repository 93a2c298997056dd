"""A place in a query's tokens, with the limits and messages all parts of the parser share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from .errors import ParseError
from .lexer import ParseLimits, Token, tokenize


class Cursor:
    """
    Reads tokens from left to right.

    Attributes:
        depth: How many levels of nesting are open; ``nodes`` counts the parts read so far.
        contexts: What to say an unexpected token is in; the last one counts, and that of an
            aggregation reaches down into everything between its parentheses, as upstream.
    """

    def __init__(self, text: str, limits: ParseLimits) -> None:
        self.text, self.limits = text, limits
        self.tokens = tokenize(text, limits)
        self.index = 0
        self.depth = 0
        self.nodes = 0
        self.contexts = [""]

    @property
    def token(self) -> Token:
        return self.tokens[self.index]

    def peek(self, ahead: int = 1) -> str:
        """Return the kind of a token further on; ``end`` behind the last."""
        index = self.index + ahead
        return self.tokens[index].kind if index < len(self.tokens) else "end"

    def advance(self) -> Token:
        token = self.tokens[self.index]
        if token.kind == "error":
            self.fail(token.text, token.start)
        self.index += 1
        return token

    def accept(self, kind: str) -> Token | None:
        return self.advance() if self.token.kind == kind else None

    def keyword(self, *words: str) -> Token | None:
        token = self.token
        if token.kind in ("keyword", "ident") and token.value in words:
            return self.advance()
        return None

    def expect(self, kind: str, context: str | None = None, expected: str = "") -> Token:
        if self.token.kind != kind:
            self.unexpected(context, expected)
        return self.advance()

    def fail(self, message: str, position: int) -> NoReturn:
        raise ParseError(message, position, self.text)

    def unexpected(self, context: str | None = None, expected: str = "") -> NoReturn:
        """Complain about the current token, in the innermost context unless another is given."""
        token = self.token
        if token.kind == "error":
            self.fail(token.text, token.start)
        context = self.contexts[-1] if context is None else context
        message = f"unexpected {token.describe()}"
        if context:
            message += f" in {context}"
        if expected:
            message += f", expected {expected}"
        self.fail(message, token.start)

    @contextmanager
    def nested(self, context: str | None = None) -> Iterator[None]:
        """Go one level deeper, which is counted so that nothing that recurses can run away."""
        self.depth += 1
        if self.depth > self.limits.depth:
            self.fail(f"query is nested deeper than {self.limits.depth} levels", self.token.start)
        self.contexts.append(self.contexts[-1] if context is None else context)
        yield
        self.contexts.pop()
        self.depth -= 1

    def count(self, position: int) -> None:
        self.nodes += 1
        if self.nodes > self.limits.nodes:
            self.fail(f"query has more than {self.limits.nodes} parts", position)
