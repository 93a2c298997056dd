"""What a scraper's ``Accept`` and ``Accept-Encoding`` headers ask for, and the answer we choose."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

TEXT = "text/plain"
OPENMETRICS = "application/openmetrics-text"


@dataclass(frozen=True, slots=True)
class Style:
    """
    How an exposition is written.

    Attributes:
        openmetrics: OpenMetrics 1.0 instead of Prometheus' text format.
        utf8: Any UTF-8 name, in quotes. Otherwise what a classic name can't hold becomes ``_``.
    """

    openmetrics: bool
    utf8: bool


@dataclass(frozen=True, slots=True)
class Answer:
    """The style that serves a request best, and how its ``Content-Type`` spells it."""

    style: Style
    content_type: str


def choose(accept: str) -> Answer:
    """
    Pick the format of highest ``q``; of equals, the first one named.

    Text 0.0.4 serves everybody else, as it does at every exporter: a scraper that asks for
    something unknown (protobuf, a browser's HTML) is never refused.
    """
    for media_type, params in _ranked(accept):
        version = params.get("version", "")
        if media_type == OPENMETRICS and version in ("", "0.0.1", "1.0.0"):
            return _answer(OPENMETRICS, version or "1.0.0", params.get("escaping", ""))
        if media_type == TEXT and version in ("", "0.0.4", "1.0.0"):
            return _answer(TEXT, version or "0.0.4", params.get("escaping", ""))
        if media_type in ("*/*", "text/*"):
            break
    return _answer(TEXT, "0.0.4", "")


def accepts_gzip(accept_encoding: str) -> bool:
    """Tell whether the reader takes gzip, by name or by ``*``, and not with ``q=0``."""
    ranges = {coding: _quality(params) for coding, params in _ranges(accept_encoding)}
    return ranges.get("gzip", ranges.get("*", 0.0)) > 0.0


def _answer(media_type: str, version: str, escaping: str) -> Answer:
    # Quoted names came with version 1.0.0 of both formats.
    utf8 = escaping == "allow-utf-8" and version == "1.0.0"
    content_type = f"{media_type}; version={version}; charset=utf-8"
    if escaping:
        # Another scheme was asked for: the reader learns which one it got.
        content_type += f"; escaping={'allow-utf-8' if utf8 else 'underscores'}"
    return Answer(Style(openmetrics=media_type == OPENMETRICS, utf8=utf8), content_type)


def _ranked(header: str) -> list[tuple[str, dict[str, str]]]:
    rated = [(-_quality(params), media, params) for media, params in _ranges(header)]
    rated.sort(key=lambda item: item[0])
    return [(media, params) for quality, media, params in rated if quality]


def _ranges(header: str) -> Iterator[tuple[str, dict[str, str]]]:
    for item in header.split(","):
        value, *rest = item.split(";")
        if value.strip():
            pairs = (param.partition("=") for param in rest)
            yield (
                value.strip().lower(),
                {name.strip().lower(): text.strip().strip('"') for name, _, text in pairs},
            )


def _quality(params: dict[str, str]) -> float:
    """Return ``q``; 1 if there is none, 0 if it can't be read (also for ``nan``)."""
    try:
        quality = float(params.get("q", "1"))
    except ValueError:
        return 0.0
    return quality if 0.0 <= quality <= 1.0 else 0.0
