"""The arithmetic of durations, as it stands in ranges, steps and offsets."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Final

from .cursor import Cursor
from .errors import ParseError
from .lexer import Token
from .literals import DURATION_MS_MAX, LiteralError, parse_duration, parse_number
from .nodes import (
    Duration,
    DurationBinary,
    DurationCall,
    DurationLiteral,
    DurationUnary,
    Span,
)
from .precedence import PRECEDENCE, RIGHT_ASSOCIATIVE, SIGN_PRECEDENCE

DURATION_EXPECTED: Final = "number, duration, step(), or range()"
_PRECEDENCE: Final = {op: PRECEDENCE[op] for op in ("+", "-", "*", "/", "%", "^")}
_FUNCTIONS: Final = {
    "min": "min_of",
    "max": "max_of",
    "min_of": "min_of",
    "max_of": "max_of",
}


def literal(token: Token, text: str) -> DurationLiteral:
    """Read a ``number`` (seconds) or a ``duration``."""
    span = Span(token.start, token.end)
    try:
        if token.kind == "duration":
            return DurationLiteral(parse_duration(token.text) / 1000, True, span)
        return DurationLiteral(parse_number(token.text), False, span)
    except LiteralError as error:
        raise ParseError(str(error), token.start, text) from None


def is_constant(duration: Duration) -> bool:
    """Tell whether a duration is the same for every query: without ``step()`` and ``range()``."""
    match duration:
        case DurationLiteral():
            return True
        case DurationUnary():
            return is_constant(duration.operand)
        case DurationBinary():
            return is_constant(duration.lhs) and is_constant(duration.rhs)
        case DurationCall():
            return bool(duration.args) and all(is_constant(arg) for arg in duration.args)


def to_ms(
    duration: Duration, text: str, *, positive: bool, step_ms: int = 0, range_ms: int = 0
) -> int:
    """
    Evaluate a duration to milliseconds.

    Args:
        text: The query, for the position of errors.
        positive: Refuse zero and less, as ranges and steps do.
        step_ms: What ``step()`` is; ``range_ms`` likewise.

    Raises:
        ParseError: Division by zero, out of range, or not positive.
    """
    seconds = _seconds(duration, text, step_ms / 1000, range_ms / 1000)
    if not abs(seconds) * 1000 <= DURATION_MS_MAX:  # neither too long nor NaN
        raise ParseError("duration out of range", duration.span.start, text)
    ms = round(seconds * 1000)
    if positive and ms <= 0:
        raise ParseError("duration must be greater than 0", duration.span.start, text)
    return ms


def _seconds(duration: Duration, text: str, step_s: float, range_s: float) -> float:
    match duration:
        case DurationLiteral():
            return duration.seconds
        case DurationUnary():
            value = _seconds(duration.operand, text, step_s, range_s)
            return -value if duration.op == "-" else value
        case DurationCall(name="step"):
            return step_s
        case DurationCall(name="range"):
            return range_s
        case DurationCall():
            values = [_seconds(arg, text, step_s, range_s) for arg in duration.args]
            return min(values) if duration.name == "min_of" else max(values)
        case DurationBinary():
            lhs = _seconds(duration.lhs, text, step_s, range_s)
            rhs = _seconds(duration.rhs, text, step_s, range_s)
            return _calculate(duration, lhs, rhs, text)


def _calculate(duration: DurationBinary, lhs: float, rhs: float, text: str) -> float:
    match duration.op:
        case "+":
            return lhs + rhs
        case "-":
            return lhs - rhs
        case "*":
            return lhs * rhs
        case "/" if rhs == 0:
            raise ParseError("division by zero", duration.span.start, text)
        case "/":
            return lhs / rhs
        case "%" if rhs == 0:
            raise ParseError("modulo by zero", duration.span.start, text)
        case "%":
            return math.fmod(lhs, rhs)
        case _:
            try:
                result = lhs**rhs
            except (OverflowError, ZeroDivisionError):
                return math.inf
            # A negative base with a broken exponent gives a complex number.
            return result if isinstance(result, float) else math.nan


# -- reading -----------------------------------------------------------------------------------


def read_window(cursor: Cursor, context: str, expected: str) -> Duration:
    """Parse a range or a step: duration arithmetic whose result is positive."""
    return _settled(cursor, _arithmetic(cursor, 0, context, expected), positive=True)


def read_offset(cursor: Cursor) -> Duration:
    """Parse what follows ``offset``: one operand with or without a sign."""
    duration = _operand(cursor, "offset", DURATION_EXPECTED, lone=True)
    return _settled(cursor, duration, positive=False)


def _settled(cursor: Cursor, duration: Duration, *, positive: bool) -> Duration:
    """Check a duration that is known already; plain seconds become a duration with units."""
    if not is_constant(duration):
        return duration
    ms = to_ms(duration, cursor.text, positive=positive)
    plain = duration
    if isinstance(plain, DurationUnary) and not plain.wrapped:
        plain = plain.operand
    if isinstance(plain, DurationLiteral):
        return DurationLiteral(ms / 1000, True, duration.span)
    return duration


def _arithmetic(cursor: Cursor, minimum: int, context: str, expected: str) -> Duration:
    lhs = _operand(cursor, context, expected)
    while True:
        operator = cursor.token
        precedence = _PRECEDENCE.get(operator.kind, 0)
        if precedence <= minimum:
            return lhs
        cursor.advance()
        cursor.count(operator.start)
        with cursor.nested():
            right = operator.kind in RIGHT_ASSOCIATIVE
            rhs = _arithmetic(cursor, precedence - right, context, expected)
        span = Span(lhs.span.start, rhs.span.end)
        lhs = DurationBinary(operator.kind, lhs, rhs, False, span)


def _operand(cursor: Cursor, context: str, expected: str, *, lone: bool = False) -> Duration:
    """Parse one operand; in a ``lone`` one a sign takes in the next operand and nothing more."""
    token = cursor.token
    cursor.count(token.start)
    if token.kind in ("+", "-"):
        cursor.advance()
        with cursor.nested():
            if lone:
                operand = _operand(cursor, context, expected)
            else:
                operand = _arithmetic(cursor, SIGN_PRECEDENCE, context, expected)
        return DurationUnary(token.kind, operand, False, Span(token.start, operand.span.end))
    if token.kind in ("number", "duration"):
        return literal(cursor.advance(), cursor.text)
    if token.kind == "(":
        cursor.advance()
        with cursor.nested():
            inner = _arithmetic(cursor, 0, context, expected)
            end = cursor.expect(")", context, '")"').end
        if isinstance(inner, DurationBinary | DurationUnary):
            return replace(inner, wrapped=True, span=Span(token.start, end))
        return inner
    if token.value in ("step", "range") and cursor.peek() == "(":
        cursor.advance()
        cursor.advance()
        end = cursor.expect(")", context, '")"').end
        return DurationCall(token.value, (), Span(token.start, end))
    if token.value in _FUNCTIONS and cursor.peek() == "(":
        cursor.advance()
        cursor.advance()
        with cursor.nested():
            first = _arithmetic(cursor, 0, context, expected)
            cursor.expect(",", context, '","')
            second = _arithmetic(cursor, 0, context, expected)
            end = cursor.expect(")", context, '")"').end
        return DurationCall(_FUNCTIONS[token.value], (first, second), Span(token.start, end))
    cursor.unexpected(context, expected)
