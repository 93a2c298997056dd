"""
From text to a syntax tree: a Pratt parser with limits, whose errors read like Prometheus'.

Types are checked by :mod:`.checker`; :func:`parse` does both.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Final

from ...config.selector import Matcher, MatchOp
from .checker import check
from .cursor import Cursor
from .durations import DURATION_EXPECTED, literal, read_offset, read_window
from .lexer import ParseLimits, Token
from .literals import is_utf8, quote
from .nodes import (
    PARAMETER_AGGREGATORS,
    Aggregate,
    At,
    Binary,
    Call,
    Cardinality,
    Duration,
    Expr,
    MatrixSelector,
    NumberLiteral,
    Paren,
    Span,
    StringLiteral,
    Subquery,
    Unary,
    VectorMatching,
    VectorSelector,
)
from .precedence import PRECEDENCE, RIGHT_ASSOCIATIVE, SIGN_PRECEDENCE
from .signatures import FUNCTIONS

_EXPERIMENTAL_AGGREGATORS: Final = frozenset(("limitk", "limit_ratio"))
_WORDS: Final = frozenset(("ident", "metric", "aggr", "keyword", "op"))
# Words with a meaning only between or after operands; a metric of that name needs braces.
_NOT_A_METRIC: Final = frozenset(
    ("atan2", "bool", "group_left", "group_right", "ignoring", "on", "anchored", "smoothed")
)
# A lexical error is an operand here, so that it is reported and not what stands before it.
_OPERAND_STARTS: Final = frozenset(("number", "duration", "string", "(", "{", "+", "-", "error"))
_MATCH_OPS: Final = {op.value: op for op in MatchOp}
#: ``@`` takes seconds; beyond these an int64 of milliseconds overflows.
_AT_SECONDS_MAX: Final = float(2**63 // 1000)

DEFAULT_LIMITS: Final = ParseLimits()


def parse(text: str, *, experimental: bool = False, limits: ParseLimits = DEFAULT_LIMITS) -> Expr:
    """
    Parse and type-check an expression.

    Args:
        experimental: Also allow what Prometheus hides behind feature flags: functions and
            aggregators marked so, ``anchored`` and ``smoothed``, ``fill`` modifiers.

    Raises:
        ParseError: With position; also when a limit is exceeded, which costs little however large
            the input would have become.
    """
    parser = _Parser(text, experimental, limits)
    return check(parser.parse(), text)


class _Parser(Cursor):
    def __init__(self, text: str, experimental: bool, limits: ParseLimits) -> None:
        super().__init__(text, limits)
        self.experimental = experimental

    def parse(self) -> Expr:
        if self.token.kind == "end":
            self.fail("no expression found in input", 0)
        expr = self.expression(0)
        if self.token.kind != "end":
            self.unexpected()
        return expr

    def expression(self, minimum: int) -> Expr:
        """Parse operands joined by operators that bind tighter than ``minimum``."""
        lhs = self.operand()
        while True:
            operator = self.token
            op = operator.value if operator.kind == "op" else operator.kind
            precedence = PRECEDENCE.get(op, 0)
            if precedence <= minimum:
                return lhs
            self.advance()
            self.count(operator.start)
            return_bool = self.keyword("bool") is not None
            matching = self.matching()
            span = Span(operator.start, self.tokens[self.index - 1].end)
            if op in RIGHT_ASSOCIATIVE:
                with self.nested():
                    rhs = self.expression(precedence - 1)
            else:
                rhs = self.expression(precedence)
            lhs = Binary(op, lhs, rhs, return_bool, matching, span)

    def operand(self) -> Expr:
        token = self.token
        self.count(token.start)
        if token.kind in ("+", "-"):
            self.advance()
            with self.nested():
                expr = self.expression(SIGN_PRECEDENCE)
            span = Span(token.start, expr.span.end)
            if isinstance(expr, NumberLiteral):
                value = -expr.value if token.kind == "-" else expr.value
                return NumberLiteral(value, expr.is_duration, span)
            return Unary(token.kind, expr, span)
        return self.postfix(self.primary())

    def primary(self) -> Expr:
        token = self.token
        match token.kind:
            case "number" | "duration":
                number = literal(self.advance(), self.text)
                return NumberLiteral(number.seconds, number.has_unit, number.span)
            case "string":
                self.advance()
                return StringLiteral(token.value, Span(token.start, token.end))
            case "(":
                self.advance()
                with self.nested():
                    expr = self.expression(0)
                    end = self.expect(")").end
                return Paren(expr, Span(token.start, end))
            case "aggr" if self.peek() == "(" or self.grouping_follows():
                return self.aggregate()
            case "{":
                return self.selector(None)
            case kind if kind in _WORDS and token.value not in _NOT_A_METRIC:
                if self.peek() == "(" and (kind == "ident" or token.value in FUNCTIONS):
                    return self.call()
                return self.selector(self.advance())
        self.unexpected()

    def grouping_follows(self) -> bool:
        index = self.index + 1
        return index < len(self.tokens) and self.tokens[index].value in ("by", "without")

    def call(self) -> Expr:
        name = self.advance()
        args, end = self.arguments(None)
        func = FUNCTIONS.get(name.text if name.kind == "ident" else name.value)
        if func is None:
            self.fail(f"unknown function with name {quote(name.text)}", name.start)
        if func.experimental and not self.experimental:
            self.fail(f"function {quote(name.text)} is not enabled", name.start)
        return Call(func, tuple(args), Span(name.start, end))

    def arguments(self, context: str | None) -> tuple[list[Expr], int]:
        """Parse arguments in parentheses; return them and where they end."""
        self.expect("(", context)
        args: list[Expr] = []
        with self.nested(context):
            closing = self.accept(")")
            while closing is None:
                args.append(self.expression(0))
                comma = self.accept(",")
                if comma is None:
                    closing = self.expect(")")
                elif not self.operand_follows():
                    self.fail("trailing commas not allowed in function call args", comma.start)
        return args, closing.end

    def operand_follows(self) -> bool:
        token = self.token
        if token.kind in _WORDS:
            return token.value not in _NOT_A_METRIC
        return token.kind in _OPERAND_STARTS

    def aggregate(self) -> Expr:
        op = self.advance()
        clause = self.grouping_clause()
        args, end = self.arguments("aggregation")
        if clause is None:
            clause = self.grouping_clause()
            if clause is not None:
                end = self.tokens[self.index - 1].end
        labels, without = clause or ((), False)
        name, span = op.value, Span(op.start, end)
        if name in _EXPERIMENTAL_AGGREGATORS and not self.experimental:
            self.fail(f"{name}() is experimental and is not enabled", op.start)
        if not args:
            self.fail("no arguments for aggregate expression provided", op.start)
        wanted = 2 if name in PARAMETER_AGGREGATORS else 1
        if len(args) != wanted:
            self.fail(
                "wrong number of arguments for aggregate expression provided, "
                f"expected {wanted}, got {len(args)}",
                op.start,
            )
        return Aggregate(name, args[-1], args[0] if wanted == 2 else None, labels, without, span)

    def grouping_clause(self) -> tuple[tuple[str, ...], bool] | None:
        word = self.keyword("by", "without")
        return None if word is None else (self.grouping_labels(), word.value == "without")

    def grouping_labels(self) -> tuple[str, ...]:
        context = "grouping opts"
        self.expect("(", context, '"("')
        labels: list[str] = []
        while self.accept(")") is None:
            token = self.token
            if token.kind == "string" and is_utf8(token.value) and token.value:
                labels.append(token.value)
            elif token.kind == "string":
                message = f"invalid label name for grouping opts: {quote(token.value)}"
                self.fail(message, token.start)
            elif token.kind in _WORDS - {"metric"} or token.value in ("inf", "nan"):
                labels.append(token.text)
            else:
                self.unexpected(context, "label")
            self.advance()
            if self.token.kind != ")" and self.accept(",") is None:
                self.unexpected(context, '"," or ")"')
        return tuple(labels)

    def matching(self) -> VectorMatching:
        cardinality = Cardinality.ONE_TO_ONE
        labels: tuple[str, ...] = ()
        include: tuple[str, ...] = ()
        side = self.keyword("on", "ignoring")
        if side is not None:
            labels = self.grouping_labels()
            group = self.keyword("group_left", "group_right")
            if group is not None:
                left = group.value == "group_left"
                cardinality = Cardinality.MANY_TO_ONE if left else Cardinality.ONE_TO_MANY
                if self.token.kind == "(" or not self.operand_follows():
                    include = self.grouping_labels()
        fills: dict[str, float] = {}
        while self.token.value in ("fill", "fill_left", "fill_right") and self.peek() == "(":
            word = self.advance()
            if not self.experimental:
                self.fail("fill modifiers are experimental and not enabled", word.start)
            value = self.fill_value()
            for name in ("fill_left", "fill_right") if word.value == "fill" else (word.value,):
                if name in fills:
                    self.fail(f"{name} may not be set multiple times", word.start)
                fills[name] = value
        on = side is not None and side.value == "on"
        return VectorMatching(
            cardinality, labels, on, include, fills.get("fill_left"), fills.get("fill_right")
        )

    def fill_value(self) -> float:
        self.expect("(", "fill modifier", '"("')
        sign = self.advance().kind if self.token.kind in ("+", "-") else "+"
        if self.token.kind not in ("number", "duration"):
            self.unexpected("fill modifier", "number")
        value = literal(self.advance(), self.text).seconds
        self.expect(")", "fill modifier", '")"')
        return -value if sign == "-" else value

    # -- selectors -----------------------------------------------------------------------------

    def selector(self, name: Token | None) -> VectorSelector:
        start = self.token.start if name is None else name.start
        end = self.token.end if name is None else name.end
        matchers: list[Matcher] = []
        if self.token.kind == "{":
            matchers, end = self.label_matchers()
        if name is not None:
            matchers.append(Matcher("__name__", MatchOp.EQUAL, name.text))
        text = "" if name is None else name.text
        return VectorSelector(text, tuple(matchers), None, None, "", Span(start, end))

    def label_matchers(self) -> tuple[list[Matcher], int]:
        context = "label matching"
        self.advance()
        matchers: list[Matcher] = []
        quoted_name: str | None = None
        while True:
            closing = self.accept("}")
            if closing is not None:
                return matchers, closing.end
            label = self.token
            if label.kind not in ("ident", "string"):
                self.unexpected(context, 'identifier or "}"')
            self.advance()
            if label.kind == "string" and self.token.kind in (",", "}"):
                if quoted_name is not None:
                    self.fail(
                        "metric name must not be set twice: "
                        f"{quote(quoted_name)} or {quote(label.value)}",
                        label.start,
                    )
                quoted_name = label.value
                matchers.append(self.matcher(label, "__name__", MatchOp.EQUAL, label.value))
            else:
                op = _MATCH_OPS.get(self.token.kind)
                if op is None:
                    self.unexpected(context, "label matching operator")
                self.advance()
                value = self.expect("string", context, "string").value
                matchers.append(self.matcher(label, label.value, op, value))
            if self.token.kind != "}" and self.accept(",") is None:
                self.unexpected(context, '"," or "}"')

    def matcher(self, label: Token, name: str, op: MatchOp, value: str) -> Matcher:
        if not is_utf8(name) or not name:
            self.fail(f"invalid label name {quote(name)}", label.start)
        try:
            return Matcher(name, op, value)
        except ValueError as error:
            self.fail(str(error), label.start)

    # -- what may follow an operand ------------------------------------------------------------

    def postfix(self, expr: Expr) -> Expr:
        levels = 0
        while True:
            token = self.token
            if token.kind == "[":
                levels += 1
                if self.depth + levels > self.limits.depth:
                    self.fail(
                        f"query is nested deeper than {self.limits.depth} levels", token.start
                    )
                expr = self.brackets(expr)
            elif token.kind == "@":
                expr = self.at(expr)
            elif token.kind == "keyword" and token.value == "offset":
                expr = self.offset(expr)
            elif token.kind == "keyword" and token.value in ("anchored", "smoothed"):
                expr = self.extension(expr)
            else:
                return expr

    def brackets(self, expr: Expr) -> Expr:
        opening = self.advance()
        self.count(opening.start)
        window = read_window(self, "subquery selector", DURATION_EXPECTED)
        if self.accept(":") is not None:
            step: Duration | None = None
            if self.token.kind != "]":
                step = read_window(self, "subquery selector", DURATION_EXPECTED + ' or "]"')
            end = self.expect("]", "subquery selector", '"]"').end
            return Subquery(expr, window, step, None, None, Span(expr.span.start, end))
        end = self.expect("]", "subquery or range", '":" or "]"').end
        message = ""
        if not isinstance(expr, VectorSelector):
            message = "ranges only allowed for vector selectors"
        elif expr.offset is not None:
            message = "no offset modifiers allowed before range"
        elif expr.at is not None:
            message = "no @ modifiers allowed before range"
        elif expr.extension:
            message = f"no {expr.extension} modifiers allowed before range"
        if message or not isinstance(expr, VectorSelector):
            self.fail(message, opening.start)
        return MatrixSelector(expr, window, Span(expr.span.start, end))

    def offset(self, expr: Expr) -> Expr:
        self.advance()
        return self.modified(expr, read_offset(self), None)

    def at(self, expr: Expr) -> Expr:
        self.advance()
        edge: str | None = None
        seconds = 0.0
        if self.token.kind == "keyword" and self.token.value in ("start", "end"):
            edge = self.advance().value
            self.expect("(", "@", "timestamp")
            self.expect(")", "@", "timestamp")
        else:
            negative = False
            if self.token.kind in ("+", "-"):
                negative = self.advance().kind == "-"
            if self.token.kind not in ("number", "duration"):
                self.unexpected("@", "timestamp")
            seconds = literal(self.advance(), self.text).seconds
            seconds = -seconds if negative else seconds
        if edge is not None:
            return self.modified(expr, None, At(None, edge))
        if not abs(seconds) < _AT_SECONDS_MAX:
            self.fail(f"timestamp out of bounds for @ modifier: {seconds:f}", expr.span.start)
        return self.modified(expr, None, At(math.floor(seconds * 1000 + 0.5), None))

    def modified(self, expr: Expr, offset: Duration | None, at: At | None) -> Expr:
        """Put an offset or an ``@`` on what it follows."""
        target = expr.vector if isinstance(expr, MatrixSelector) else expr
        if not isinstance(target, VectorSelector | Subquery):
            self.fail(
                f"{'@' if offset is None else 'offset'} modifier must be preceded by an instant "
                "vector selector or range vector selector or a subquery",
                expr.span.start,
            )
        span = Span(expr.span.start, self.tokens[self.index - 1].end)
        if offset is not None:
            if target.offset is not None:
                self.fail("offset may not be set multiple times", expr.span.start)
            target = replace(target, offset=offset, span=span)
        else:
            if target.at is not None:
                self.fail("@ <timestamp> may not be set multiple times", expr.span.start)
            target = replace(target, at=at, span=span)
        if isinstance(expr, MatrixSelector):
            assert isinstance(target, VectorSelector)
            return replace(expr, vector=target, span=span)
        return target

    def extension(self, expr: Expr) -> Expr:
        word = self.advance()
        if not self.experimental:
            self.fail(f"{word.value} modifier is experimental and not enabled", word.start)
        vector = expr.vector if isinstance(expr, MatrixSelector) else expr
        if not isinstance(vector, VectorSelector):
            self.fail(
                f"{word.value} modifier must be preceded by an instant vector selector "
                "or range vector selector",
                expr.span.start,
            )
        if vector.extension:
            self.fail("anchored and smoothed may not be set multiple times", expr.span.start)
        span = Span(vector.span.start, word.end)
        vector = replace(vector, extension=word.value, span=span)
        return replace(expr, vector=vector) if isinstance(expr, MatrixSelector) else vector
