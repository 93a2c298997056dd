"""
The grammar of one line of a metrics page: Prometheus text 0.0.4 and OpenMetrics 1.0.

Both are read as Prometheus reads them. Text is the lenient one: blanks and tabs between tokens, a
comma too many or too few between labels. OpenMetrics allows single spaces only. Quoted names
(``{"my.metric",a="b"}``) are understood in both. A line feed inside a label value must be escaped,
as the formats say, although Prometheus' text lexer would let a raw one pass.
"""

from __future__ import annotations

import enum
import math
import re
from dataclasses import dataclass
from typing import Final

from ...config.errors import TachographError
from ...storage.model import METRIC_NAME, MetricType

_SHOWN_BYTES: Final = 80  # of an offending line, in an error text
_INT64_MAX: Final = 2**63 - 1

# Quantifiers are possessive throughout: nothing here can backtrack, so a line costs linear time.
_NAME: Final = rb"[a-zA-Z_:][a-zA-Z0-9_:]*+"
_LABEL: Final = rb"[a-zA-Z_][a-zA-Z0-9_]*+"
_QUOTED: Final = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_BRACES: Final = rb'\{[^"}]*+(?:' + _QUOTED + rb'[^"}]*+)*+\}'


class Syntax(enum.Enum):
    """Which of the two formats a page is written in."""

    TEXT = "text/plain; version=0.0.4"
    OPENMETRICS = "application/openmetrics-text; version=1.0.0"


class LineError(TachographError):
    """A line that cannot be read; the text says why, without the line's number."""


@dataclass(frozen=True, slots=True)
class SampleLine:
    """
    A sample, taken apart but for its labels.

    Attributes:
        key: ``name{labels}`` exactly as written; :func:`parse_labels` reads it.
        token: The value as written, proven to be one.
        ts_ms: The line's own timestamp.
        exemplar: What follows `` # ``, for :func:`parse_exemplar`.
    """

    key: bytes
    token: bytes
    ts_ms: int | None
    exemplar: tuple[bytes, bytes, bytes | None] | None


@dataclass(frozen=True, slots=True)
class MetaLine:
    """A ``HELP``, ``TYPE`` or ``UNIT`` line; ``EOF`` has neither family nor text."""

    keyword: str
    family: str = ""
    text: str = ""


@dataclass(frozen=True, slots=True)
class _Grammar:
    key: re.Pattern[bytes]
    tail: re.Pattern[bytes]
    pair: re.Pattern[bytes]
    meta: re.Pattern[bytes]


def _grammar(blank: bytes, tail: bytes, keywords: bytes) -> _Grammar:
    # A label: name, quoted name, quoted value, comma. A quoted name without value is the metric's.
    pair = b"%s(?:(%s)|(%s))%s(=%s(?:(%s))?+)?+%s(,?+)%s" % (
        (blank, _LABEL, _QUOTED, blank, blank, _QUOTED, blank, blank)
    )
    return _Grammar(
        key=re.compile(b"%s((?:%s)?+(?:%s%s)?+)" % (blank, _NAME, blank, _BRACES)),
        tail=re.compile(tail),
        pair=re.compile(pair),
        meta=re.compile(keywords + b"(%s|%s)(.*)" % (_NAME, _QUOTED)),
    )


_GRAMMARS: Final = {
    Syntax.TEXT: _grammar(
        blank=rb"[ \t]*+",
        tail=rb"[ \t]*+([^{ \t]++)(?:[ \t]++([0-9]++))?+[ \t]*+\Z()",
        keywords=rb"[ \t]*+#[ \t]++(HELP|TYPE)[ \t]++",
    ),
    Syntax.OPENMETRICS: _grammar(
        blank=b"",
        tail=rb" ([^ ]++)(?: (?!# \{)([^ ]++))?+(?: # (%s) ([^ ]++)(?: ([^ ]++))?+)?+\Z" % _BRACES,
        keywords=rb"# (HELP|TYPE|UNIT) ",
    ),
}

_NUMBER: Final = re.compile(
    rb"(?:[+-]?(?:[0-9]++\.?+[0-9]*+|\.[0-9]++)(?:[eE][+-]?[0-9]++)?+|[+-]?inf(?:inity)?+|nan)\Z",
    re.IGNORECASE,
)

_ESCAPE: Final = re.compile(rb"\\(.)", re.DOTALL)
_ESCAPED: Final = {b"n": b"\n", b"\\": b"\\", b'"': b'"'}

_TYPES: Final = {
    Syntax.TEXT: {
        "counter": MetricType.COUNTER,
        "gauge": MetricType.GAUGE,
        "histogram": MetricType.HISTOGRAM,
        "summary": MetricType.SUMMARY,
        "untyped": MetricType.UNKNOWN,
    },
    Syntax.OPENMETRICS: {
        **{str(t): t for t in MetricType},
        # We have no such type; its samples are gauges whose names end in _gsum, _gcount, _bucket.
        "gaugehistogram": MetricType.GAUGE,
    },
}


def split_sample(line: bytes, syntax: Syntax) -> SampleLine:
    """
    Find the parts of a sample's line without reading its labels.

    Raises:
        LineError: The line is not ``name{labels} value``, with what the format allows after it.
    """
    grammar = _GRAMMARS[syntax]
    head = grammar.key.match(line)
    assert head is not None  # every part of the pattern is optional
    key = head[1]
    if not key:
        raise LineError(f"expected a metric name, got {shown(line)}")
    tail = grammar.tail.match(line, head.end())
    if tail is None:
        raise LineError(_why_no_tail(line, head.end(), syntax))
    token, ts = tail[1], tail[2]
    parse_value(token)
    exemplar = (tail[3], tail[4], tail[5]) if tail[3] else None
    return SampleLine(key, token, None if ts is None else parse_timestamp(ts, syntax), exemplar)


def parse_value(token: bytes) -> float:
    """
    Return the number, as Go reads it: no underscores, no hex, no sign before ``NaN``, and what is
    too large for a float64 is an error, not infinity.
    """
    if _NUMBER.match(token):
        value = float(token)
        if not math.isinf(value) or b"n" in token.lower():
            return value
    raise LineError(f"invalid value {shown(token)}")


def parse_timestamp(token: bytes, syntax: Syntax) -> int:
    """Return milliseconds: text writes whole milliseconds, OpenMetrics seconds."""
    if syntax is Syntax.TEXT:
        # 19 digits hold every int64; int() of a long run of digits would be quadratic.
        if token.isdigit() and len(token) <= 19 and int(token) <= _INT64_MAX:
            return int(token)
    else:
        seconds = parse_value(token)
        if math.isfinite(seconds) and abs(seconds * 1000) < _INT64_MAX:
            # Prometheus cuts off instead, and 1.001 s is 1000 ms to it.
            return round(seconds * 1000)
    raise LineError(f"invalid timestamp {shown(token)}")


def parse_labels(key: bytes, syntax: Syntax) -> dict[str, str]:
    """
    Read ``name{labels}``; the name becomes ``__name__``. Empty values are kept: with
    ``honor_labels`` they take a target's label away.
    """
    brace = key.find(b"{")
    labels: dict[str, str] = {}
    name = key if brace < 0 else key[:brace].rstrip(b" \t")
    if name:
        labels[METRIC_NAME] = name.decode("ascii")
    if brace < 0:
        return labels
    pattern = _GRAMMARS[syntax].pair
    strict = syntax is Syntax.OPENMETRICS
    at, comma = brace + 1, not strict
    while (pair := pattern.match(key, at)) is not None:
        plain, quoted, equal, value, separator = pair.groups()
        if strict and at > brace + 1 and not comma:
            raise LineError(f"expected comma or closing brace, got {shown(key[at:])}")
        at, comma = pair.end(), bool(separator)
        if equal is None and quoted is not None:
            label, text = METRIC_NAME, _unquote(quoted, "metric name")
        elif equal is None:
            raise LineError(f"expected equal after label {shown(plain)}, got {shown(key[at:])}")
        elif value is None:
            raise LineError(f"expected label value, got {shown(key[at:])}")
        else:
            label = plain.decode("ascii") if quoted is None else _unquote(quoted, "label name")
            text = _unquote(value, "label value")
        if label in labels:
            raise LineError(f"label name {label!r} is not unique")
        if not label:
            raise LineError("a label name is empty")
        labels[label] = text
    end = key[at:] if strict else key[at:].lstrip(b" \t")
    if end != b"}" or (strict and comma):
        raise LineError(f"expected label name, got {shown(key[at:])}")
    return labels


def parse_exemplar(
    parts: tuple[bytes, bytes, bytes | None],
) -> tuple[dict[str, str], float, int | None]:
    """Return an exemplar's labels, value and timestamp in ms."""
    braces, token, ts = parts
    ts_ms = None if ts is None else parse_timestamp(ts, Syntax.OPENMETRICS)
    return parse_labels(braces, Syntax.OPENMETRICS), parse_value(token), ts_ms


def parse_comment(line: bytes, syntax: Syntax) -> MetaLine | None:
    """Read a line that begins with ``#``; ``None`` for a remark, which only text allows."""
    match = _GRAMMARS[syntax].meta.match(line)
    if match is None:
        return _other_comment(line, syntax)
    keyword, raw_name, rest = match[1].decode("ascii"), match[2], match[3]
    if raw_name.startswith(b'"'):
        family = _unquote(raw_name, "metric name")
    else:
        family = raw_name.decode("ascii")
    try:
        text = rest[1:].decode()
    except UnicodeDecodeError:
        raise LineError(f"{keyword} of {family} is not valid UTF-8") from None
    if keyword == "HELP":
        return MetaLine(keyword, family, _unescape_help(text, syntax))
    text = text.strip(" \t") if syntax is Syntax.TEXT else text
    if keyword == "TYPE" and (text not in _TYPES[syntax] or rest[:1] not in (b" ", b"\t")):
        raise LineError(f"invalid metric type {text!r} of {family}")
    if keyword == "UNIT" and text and not family.endswith("_" + text):
        raise LineError(f"unit {text!r} is not a suffix of metric {family!r}")
    return MetaLine(keyword, family, text)


def type_named(text: str, syntax: Syntax) -> MetricType:
    """Return the type that a ``TYPE`` line's text stands for."""
    return _TYPES[syntax][text]


def shown(raw: bytes) -> str:
    """Quote some bytes for an error text, cut to a bearable length."""
    text = raw[:_SHOWN_BYTES].decode("utf-8", "backslashreplace")
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    readable = "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode() for c in escaped
    )
    return f'"{readable}"' + ("..." if len(raw) > _SHOWN_BYTES else "")


def _why_no_tail(line: bytes, at: int, syntax: Syntax) -> str:
    rest = line[at:]
    if rest.lstrip(b" \t").startswith(b"{"):
        # The braces never close; reading the labels names the first thing that is wrong in them.
        try:
            parse_labels(line, syntax)
        except LineError as error:
            return str(error)
    if not rest.strip(b" \t"):
        return f"expected value after metric, got end of line: {shown(line)}"
    if rest[:1] not in (b" ", b"\t", b""):
        return f"expected value after metric, got {shown(rest)}"
    return f"expected a value and nothing but a timestamp after it, got {shown(rest)}"


def _other_comment(line: bytes, syntax: Syntax) -> MetaLine | None:
    if syntax is Syntax.OPENMETRICS:
        if line == b"# EOF":
            return MetaLine("EOF")
        raise LineError(f"expected HELP, TYPE, UNIT or EOF, got {shown(line)}")
    if re.match(rb"[ \t]*+#[ \t]++(?:HELP|TYPE)[ \t]", line):
        raise LineError(f"expected metric name after HELP or TYPE, got {shown(line)}")
    return None


def _unquote(quoted: bytes, what: str) -> str:
    raw = quoted[1:-1]
    if b"\\" in raw:
        # An escape that the formats don't know stays as it is, backslash and all.
        raw = _ESCAPE.sub(lambda m: _ESCAPED.get(m[1], m[0]), raw)
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise LineError(f"invalid UTF-8 {what} {shown(raw)}") from None


def _unescape_help(text: str, syntax: Syntax) -> str:
    if "\\" not in text:
        return text
    known = {"n": "\n", "\\": "\\"}
    if syntax is Syntax.OPENMETRICS:
        known['"'] = '"'
    return re.sub(r"\\(.)", lambda m: known.get(m[1], m[0]), text)
