"""Numbers and times as Prometheus' JSON writes them."""

from __future__ import annotations

import math

import msgspec
import numpy as np

from ...storage.frame import FloatArray

_encode = msgspec.json.Encoder().encode


def format_value(value: float) -> str:
    """
    Write a sample's value with the fewest digits that give it back, without an exponent unless it
    is below 1e-6 or from 1e21 on: ``1``, ``0.5``, ``1e+21``, ``1e-07``, ``NaN``, ``+Inf``.
    """
    if value != value:
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    text = repr(value)
    size = abs(value)
    if value == 0 or 1e-6 <= size < 1e21:
        if "e" in text:
            # repr turns to exponents at 1e16 and below 1e-4.
            digits, _, exponent = text.lstrip("-").partition("e")
            text = ("-" if value < 0 else "") + _without_exponent(digits, int(exponent))
        return text.removesuffix(".0")
    digits, _, exponent = text.partition("e")
    if not exponent:
        # Only numbers between 1e-4 and 1e16 come without one, and those are dealt with.
        return text
    sign = exponent[0] if exponent[0] in "+-" else "+"
    return f"{digits.removesuffix('.0')}e{sign}{exponent.lstrip('+-').zfill(2)}"


def format_values(values: FloatArray) -> list[str]:
    """Write many values as :func:`format_value` does, ten times as fast."""
    size = np.abs(values)
    # In between, JSON writes a number as it shall be; but for the fraction of a whole one.
    plain = ((size >= 1e-4) & (size < 1e15)) | (values == 0)
    if not plain.all():
        texts = format_values(np.where(plain, values, 1.5)) if plain.any() else [""] * len(values)
        for place in np.flatnonzero(~plain).tolist():
            texts[place] = format_value(float(values[place]))
        return texts
    if not len(values):
        return []
    if (values == np.trunc(values)).all() and not np.signbit(values[values == 0]).any():
        return _encode(values.astype(np.int64).tolist()).decode()[1:-1].split(",")
    text = _encode(values.tolist()).decode()[1:-1] + ","
    return text.replace(".0,", ",")[:-1].split(",")


def format_scalar(value: float) -> str:
    """Write the value of a scalar: as :func:`format_value`, but never with an exponent."""
    text = format_value(value)
    if "e" not in text:
        return text
    digits, _, exponent = text.lstrip("-").partition("e")
    return ("-" if value < 0 else "") + _without_exponent(digits, int(exponent))


def format_time(ts_ms: int) -> str:
    """Write a time in seconds: a whole number, or one with exactly three decimals."""
    sign, size = ("-", -ts_ms) if ts_ms < 0 else ("", ts_ms)
    seconds, rest = divmod(size, 1000)
    return f"{sign}{seconds}.{rest:03}" if rest else f"{sign}{seconds}"


def format_seconds(ts_ms: int) -> int | float:
    """Return a time for JSON: whole seconds as an integer, else three decimals."""
    return ts_ms // 1000 if ts_ms % 1000 == 0 else ts_ms / 1000


def _without_exponent(digits: str, exponent: int) -> str:
    whole, _, fraction = digits.partition(".")
    if exponent >= 0:
        fraction = fraction.ljust(exponent, "0")
        rest = fraction[exponent:].rstrip("0")
        return whole + fraction[:exponent] + (f".{rest}" if rest else "")
    return "0." + "0" * (-exponent - 1) + whole + fraction.rstrip("0")
