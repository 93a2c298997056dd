"""Strings, numbers and durations as PromQL writes them: read and written, with nothing around."""

from __future__ import annotations

import math
import re
from typing import Final

MS_PER_UNIT: Final = {
    "ms": 1,
    "s": 1_000,
    "m": 60_000,
    "h": 3_600_000,
    "d": 86_400_000,
    "w": 604_800_000,
    "y": 31_536_000_000,
}
#: Largest duration Prometheus can hold: an int64 of nanoseconds, about 292 years.
DURATION_MS_MAX: Final = (2**63 - 1) // 1_000_000

_DURATION: Final = re.compile(
    r"(?:([0-9]+)y)?(?:([0-9]+)w)?(?:([0-9]+)d)?(?:([0-9]+)h)?(?:([0-9]+)m)?(?:([0-9]+)s)?"
    r"(?:([0-9]+)ms)?"
)
_DURATION_UNITS: Final = ("y", "w", "d", "h", "m", "s", "ms")
_LEGACY_METRIC_NAME: Final = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LEGACY_LABEL_NAME: Final = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_INTEGER: Final = re.compile(r"0[xX]_?[0-9a-fA-F]+(?:_[0-9a-fA-F]+)*|[0-9]+(?:_[0-9]+)*")

_SIMPLE_ESCAPES: Final = {
    "a": 7,
    "b": 8,
    "f": 12,
    "n": 10,
    "r": 13,
    "t": 9,
    "v": 11,
    "\\": 92,
}
_ESCAPED: Final = {7: "\\a", 8: "\\b", 12: "\\f", 10: "\\n", 13: "\\r", 9: "\\t", 11: "\\v"}


class LiteralError(ValueError):
    """A literal that cannot be read; the text is one for users."""


def is_legacy_metric_name(name: str) -> bool:
    """Tell whether a metric name may stand without quotes."""
    return _LEGACY_METRIC_NAME.fullmatch(name) is not None


def is_legacy_label_name(name: str) -> bool:
    """Tell whether a label name may stand without quotes."""
    return _LEGACY_LABEL_NAME.fullmatch(name) is not None


def is_utf8(text: str) -> bool:
    """Tell whether text is valid UTF-8; bytes that are not arrive as lone surrogates."""
    return not any("\ud800" <= char <= "\udfff" for char in text)


# -- durations ---------------------------------------------------------------------------------


def parse_duration(text: str) -> int:
    """
    Return the milliseconds of ``1h30m``; units may be left out but must fall in size.

    Raises:
        LiteralError: Not a duration, or longer than 292 years.
    """
    if text == "0":
        return 0
    if not text:
        raise LiteralError("empty duration string")
    match = _DURATION.fullmatch(text)
    if match is None:
        raise LiteralError(f"not a valid duration string: {quote(text)}")
    total = 0
    for unit, digits in zip(_DURATION_UNITS, match.groups(), strict=True):
        if digits is not None:
            total += (int(digits) if len(digits) < 20 else DURATION_MS_MAX + 1) * MS_PER_UNIT[unit]
    if total > DURATION_MS_MAX:
        raise LiteralError("duration out of range")
    return total


def format_duration(ms: int) -> str:
    """Write a duration in the largest units that fit, years and weeks only if nothing is left."""
    if ms == 0:
        return "0s"
    sign, rest, parts = ("-" if ms < 0 else ""), abs(ms), []
    for unit in _DURATION_UNITS:
        width = MS_PER_UNIT[unit]
        if unit in ("y", "w") and rest % width:
            continue
        count, rest = divmod(rest, width)
        if count:
            parts.append(f"{count}{unit}")
    return sign + "".join(parts)


# -- numbers -----------------------------------------------------------------------------------


def parse_number(text: str) -> float:
    """
    Read a number literal: integers in base 8, 10 and 16 as Go reads them, else a decimal float.

    Raises:
        LiteralError: The digits make no number.
    """
    lowered = text.lower()
    if lowered in ("inf", "+inf"):
        return math.inf
    if lowered == "nan":
        return math.nan
    if _INTEGER.fullmatch(text):
        digits = lowered.replace("_", "")
        if digits.startswith("0x"):
            value = int(digits, 16)
            if value < 2**63:
                return float(value)
            raise LiteralError(f"error parsing number: {quote(text)} is out of range")
        # A leading zero means octal where all digits allow it: 010 is 8, 09 is 9.
        if digits.startswith("0") and all(digit in "01234567" for digit in digits):
            return float(int(digits, 8))
    try:
        return float(text)
    except ValueError:
        raise LiteralError(
            f"error parsing number: strconv.ParseFloat: parsing {quote(text)}: invalid syntax"
        ) from None


def format_number(value: float) -> str:
    """Write the fewest digits that read back equal; with an exponent below 1e-04 and from 1e+06."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    if value == 0:
        return "-0" if math.copysign(1.0, value) < 0 else "0"
    digits, exponent = _shortest(value)
    sign = "-" if value < 0 else ""
    if -4 <= exponent < 6:
        return sign + _positional(digits, exponent)
    mantissa = digits[0] + ("." + digits[1:] if len(digits) > 1 else "")
    return f"{sign}{mantissa}e{'-' if exponent < 0 else '+'}{abs(exponent):02d}"


def format_decimal(value: float) -> str:
    """Write a number with the fewest digits and never an exponent."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    if value == 0:
        return "-0" if math.copysign(1.0, value) < 0 else "0"
    digits, exponent = _shortest(value)
    return ("-" if value < 0 else "") + _positional(digits, exponent)


def _shortest(value: float) -> tuple[str, int]:
    """Split into the shortest significant digits and the decimal exponent of the first one."""
    mantissa, exponent = f"{abs(value)!r}e0".split("e")[:2]
    whole, _, fraction = mantissa.partition(".")
    digits = (whole + fraction).lstrip("0")
    leading_zeros = len(whole + fraction) - len(digits)
    return digits.rstrip("0"), int(exponent) + len(whole) - 1 - leading_zeros


def _positional(digits: str, exponent: int) -> str:
    if exponent < 0:
        return "0." + "0" * (-exponent - 1) + digits
    if len(digits) <= exponent + 1:
        return digits + "0" * (exponent + 1 - len(digits))
    return digits[: exponent + 1] + "." + digits[exponent + 1 :]


# -- strings -----------------------------------------------------------------------------------


def quote(text: str) -> str:
    """Write a string in double quotes with Go's escapes; printable Unicode stays as it is."""
    out = ['"']
    for char in text:
        code = ord(char)
        if char in '"\\':
            out.append("\\" + char)
        elif code in _ESCAPED:
            out.append(_ESCAPED[code])
        elif 0xDC80 <= code <= 0xDCFF:
            out.append(f"\\x{code - 0xDC00:02x}")
        elif char == " " or char.isprintable():
            out.append(char)
        elif code < 0x80:
            out.append(f"\\x{code:02x}")
        elif code < 0x10000:
            out.append(f"\\u{code:04x}")
        else:
            out.append(f"\\U{code:08x}")
    out.append('"')
    return "".join(out)


def quote_char(char: str) -> str:
    """Write one character in single quotes with Go's escapes."""
    if char == "'":
        return r"'\''"
    if char == '"':
        return "'\"'"
    return "'" + quote(char)[1:-1] + "'"


def unquote(body: str, mark: str) -> str:
    """
    Resolve the escapes between two quotation marks ``mark`` (``"`` or ``'``).

    Bytes that make no UTF-8 become lone surrogates, as ``surrogateescape`` has it.

    Raises:
        LiteralError: An escape PromQL doesn't know.
    """
    if "\\" not in body:
        return body
    out = bytearray()
    i, end = 0, len(body)
    while i < end:
        char = body[i]
        if char != "\\":
            out += char.encode("utf-8", "surrogatepass")
            i += 1
            continue
        if i + 1 >= end:
            raise LiteralError("escape sequence not terminated")
        kind = body[i + 1]
        i += 2
        if kind in _SIMPLE_ESCAPES:
            out.append(_SIMPLE_ESCAPES[kind])
        elif kind == mark:
            out += kind.encode()
        elif kind in "01234567xuU":
            i = _numeric_escape(body, i, kind, out)
        else:
            raise LiteralError(f"unknown escape sequence {_code_point(kind)}")
    return out.decode("utf-8", "surrogateescape")


def _numeric_escape(body: str, i: int, kind: str, out: bytearray) -> int:
    """Append the value of an escape in digits, which begin at ``i``; return where they end."""
    base, length, limit = {
        "x": (16, 2, 255),
        "u": (16, 4, 0x10FFFF),
        "U": (16, 8, 0x10FFFF),
    }.get(kind, (8, 3, 255))
    if base == 8:
        i -= 1
    value = 0
    for _ in range(length):
        if i >= len(body):
            raise LiteralError("escape sequence not terminated")
        char = body[i]
        digit = "0123456789abcdef".find(char.lower()) if char else -1
        if digit < 0 or digit >= base:
            raise LiteralError(f"illegal character {_code_point(char)} in escape sequence")
        value = value * base + digit
        i += 1
    if value > limit or 0xD800 <= value < 0xE000:
        raise LiteralError("escape sequence is an invalid Unicode code point")
    if kind in "uU":
        out += chr(value).encode()
    else:
        out.append(value)
    return i


def _code_point(char: str) -> str:
    return f"U+{ord(char):04X} {quote_char(char)}"
