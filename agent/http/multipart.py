"""Forms as ``multipart/form-data``, which is what ``curl -F`` sends."""

from __future__ import annotations

import re
from email.message import Message
from typing import Final

TYPE: Final = "multipart/form-data"

#: The headers of a part; real ones have 60 bytes.
_HEAD_BYTES_MAX: Final = 4096
_NAME: Final = re.compile(rb';[ \t]*name="([^"\r\n]*)"', re.IGNORECASE)
_FILE: Final = re.compile(rb";[ \t]*filename\*?=", re.IGNORECASE)


def parse_multipart(body: bytes, content_type: str, fields_max: int) -> list[tuple[str, str]]:
    """
    Return names and values, in their order; files are left out, as Prometheus does.

    Args:
        content_type: The whole header, as it says where one part ends and the next begins.

    Raises:
        ValueError: The body is no such form, is incomplete, or has more than ``fields_max`` parts.

    Source: RFC 7578 and RFC 2046, section 5.1.
    """
    header = Message()
    header["Content-Type"] = content_type
    boundary = header.get_boundary()
    if not boundary:
        raise ValueError("Content-Type has no boundary")
    delimiter = b"\r\n--" + boundary.encode("utf-8", "surrogateescape")
    _, *parts = (b"\r\n" + body).split(delimiter, fields_max + 2)
    if len(parts) > fields_max + 1:
        raise ValueError(f"more than {fields_max} parts")
    if not parts or not parts[-1].startswith(b"--"):
        raise ValueError("its last part has no end")
    pairs: list[tuple[str, str]] = []
    for part in parts[:-1]:
        head, blank, value = part.partition(b"\r\n\r\n")
        if not blank or len(head) > _HEAD_BYTES_MAX:
            raise ValueError("a part of it has no headers")
        name = _NAME.search(head)
        if name is not None and not _FILE.search(head):
            pairs.append((name[1].decode("utf-8", "replace"), value.decode("utf-8", "replace")))
    return pairs
