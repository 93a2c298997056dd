"""
The protobuf wire format by hand: enough to read and write Prometheus' messages.

A message is a row of fields, each a tag (number and wire type) and a payload. A field may come more
than once, and unknown ones are passed over. Groups, given up long ago, are refused.

Source: Protocol Buffers documentation, "Encoding".
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

from .errors import WireError

VARINT: Final = 0
I64: Final = 1
LEN: Final = 2
I32: Final = 5

_VARINT_BYTES_MAX: Final = 10
_UINT64: Final = 1 << 64
_FIELD_MAX: Final = (1 << 29) - 1
_DOUBLE: Final = struct.Struct("<d")


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    """
    Return an unsigned number and the place behind it.

    Raises:
        WireError: It has no end, or more than 64 bits.
    """
    value = shift = 0
    for place in range(at, min(at + _VARINT_BYTES_MAX, len(data))):
        byte = data[place]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value >= _UINT64:
                raise WireError(f"a number at byte {at} has more than 64 bits")
            return value, place + 1
        shift += 7
    raise WireError(f"a number at byte {at} has no end")


def read_field(data: bytes, at: int, end: int) -> tuple[int, int, int, int]:
    """
    Read one field of a message that ends at ``end``.

    Returns:
        Its number, wire type, value and the place behind it. The value of ``LEN`` is the place
        where the payload begins, that of ``I64`` and ``I32`` the place of the bytes.
    """
    tag, at = read_varint(data, at)
    number, kind = tag >> 3, tag & 7
    if not 0 < number <= _FIELD_MAX:
        raise WireError(f"there is no field {number}")
    value = at
    if kind == VARINT:
        value, at = read_varint(data, at)
    elif kind == LEN:
        length, value = read_varint(data, at)
        at = value + length
    elif kind == I64:
        at += 8
    elif kind == I32:
        at += 4
    else:
        raise WireError(f"field {number} has the wire type {kind}")
    if at > end:
        raise WireError(f"field {number} is cut short")
    return number, kind, value, at


def fields(data: bytes, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield the fields of the message in ``data[start:end]`` as :func:`read_field` does."""
    at = start
    while at < end:
        field = read_field(data, at, end)
        yield field
        at = field[3]


def read_double(data: bytes, at: int) -> float:
    """Return the double whose eight bytes begin at ``at``."""
    return float(_DOUBLE.unpack_from(data, at)[0])


def signed(value: int) -> int:
    """Return the ``int64`` that a varint stands for."""
    return value - _UINT64 if value >> 63 else value


def read_text(data: bytes, start: int, end: int) -> str:
    """
    Return a string.

    Raises:
        UnicodeDecodeError: It is not UTF-8. No error of the wire format: what is around is good.
    """
    return data[start:end].decode()


def varint(value: int) -> bytes:
    """Write a number of up to 64 bits; a negative one as ``int64`` does."""
    value &= _UINT64 - 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def length_delimited(number: int, payload: bytes) -> bytes:
    """Write a string, bytes or message field."""
    return varint(number << 3 | LEN) + varint(len(payload)) + payload


def double_field(number: int, value: float) -> bytes:
    """Write a double, also if it is 0."""
    return varint(number << 3 | I64) + _DOUBLE.pack(value)


def varint_field(number: int, value: int) -> bytes:
    return varint(number << 3 | VARINT) + varint(value)
