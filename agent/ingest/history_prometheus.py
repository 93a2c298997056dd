"""
History as Prometheus' own text, every sample with a timestamp in milliseconds: the text format
0.0.4 (a saved ``/federate``), and what ``promtool tsdb dump`` prints.

The latter writes names and values of labels as Go quotes them, all labels in braces, and the name
among them. A marker that ends a series comes out of it as plain NaN, and nothing tells the two
apart any more.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import ClassVar, Final

import numpy as np

from ...storage.frame import IntArray
from .exposition_lines import Syntax
from .history_openmetrics import OpenMetricsReader

_DUMPED: Final = b"{__name__="
#: What Go writes beyond the format's own three escapes; those are matched first, and kept.
_GO_ESCAPE: Final = re.compile(
    rb"\\(?:[\\\"n]|([abfrtv])|x([0-9a-f]{2})|u([0-9a-f]{4})|U([0-9a-f]{8}))"
)
_CONTROLS: Final = dict(zip(b"abfrtv", b"\a\b\f\r\t\v", strict=True))
_STAMP_BYTES_MAX: Final = 18  # of an int64 that cannot overflow


class PrometheusTextReader(OpenMetricsReader):
    """Reads Prometheus' text; see :class:`.history.Reader`."""

    syntax: ClassVar = Syntax.TEXT

    def _times_ms(self, stamps: Sequence[bytes]) -> IntArray:
        if not b"".join(stamps).isdigit() or max(map(len, stamps)) > _STAMP_BYTES_MAX:
            raise ValueError
        return np.array(list(map(int, stamps)), np.int64)

    def _labels(self, key: bytes) -> dict[str, str]:
        if key.startswith(_DUMPED) and b"\\" in key:
            key = _GO_ESCAPE.sub(_unescaped, key)
        return super()._labels(key)


def _unescaped(match: re.Match[bytes]) -> bytes:
    control, byte, short, long = match.groups()
    if control:
        return bytes([_CONTROLS[control[0]]])
    if byte:
        return bytes([int(byte, 16)])
    if code := short or long:
        number = int(code, 16)
        # UTF-8 has no bytes for halves of surrogate pairs, and Go writes none.
        is_character = number <= 0x10FFFF and not 0xD800 <= number <= 0xDFFF
        return chr(number).encode() if is_character else match[0]
    return match[0]
