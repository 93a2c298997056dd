"""Which format and coding a scraper gets."""

from __future__ import annotations

import pytest

from tachograph.agent.http.negotiation import accepts_gzip, choose

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"

PROMETHEUS_2 = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,"
    "application/openmetrics-text;version=0.0.1;q=0.4,"
    "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,text/plain;version=0.0.4;q=0.2,*/*;q=0.1"
)
NATIVE_HISTOGRAMS = (
    "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited,"
    "application/openmetrics-text;version=1.0.0;q=0.8,text/plain;version=0.0.4;q=0.5"
)


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        (PROMETHEUS_2, OPENMETRICS),
        (PROMETHEUS_3, f"{OPENMETRICS}; escaping=allow-utf-8"),
        (NATIVE_HISTOGRAMS, OPENMETRICS),
        ("text/plain;version=0.0.4;q=1,*/*;q=0.1", TEXT),
        ("", TEXT),
        ("*/*", TEXT),
        ("text/*;q=0.5, application/openmetrics-text;q=0.4", TEXT),
        ("text/html,application/xhtml+xml,*/*;q=0.8", TEXT),
        ("application/openmetrics-text", OPENMETRICS),
        ("application/openmetrics-text;version=2.0.0", TEXT),
        (
            "application/openmetrics-text; version=0.0.1",
            "application/openmetrics-text; version=0.0.1; charset=utf-8",
        ),
        ("application/openmetrics-text;q=0, text/plain", TEXT),
        ("application/openmetrics-text;q=0.2, text/plain;q=0.3", TEXT),
        ("application/openmetrics-text;q=nan", TEXT),
        ("application/openmetrics-text;q=high", TEXT),
        (
            "text/plain;version=1.0.0;escaping=allow-utf-8",
            "text/plain; version=1.0.0; charset=utf-8; escaping=allow-utf-8",
        ),
        ("text/plain;version=0.0.4;escaping=allow-utf-8", f"{TEXT}; escaping=underscores"),
        (
            'application/openmetrics-text; version="1.0.0"; escaping=dots',
            f"{OPENMETRICS}; escaping=underscores",
        ),
        (";;,=,;q=1,text/plain;=;q", TEXT),
    ],
)
def test_format_follows_the_accept_header(accept: str, content_type: str) -> None:
    answer = choose(accept)
    assert answer.content_type == content_type
    assert answer.style.openmetrics == content_type.startswith("application/openmetrics-text")
    assert answer.style.utf8 == content_type.endswith("allow-utf-8")


@pytest.mark.parametrize(
    ("accept_encoding", "gzip"),
    [
        ("gzip", True),
        ("deflate, gzip;q=0.5", True),
        ("GZIP", True),
        ("*", True),
        ("gzip;q=0", False),
        ("gzip;q=0, *", False),
        ("*;q=0", False),
        ("br", False),
        ("", False),
        ("gzip;q=x", False),
    ],
)
def test_gzip_only_if_the_reader_takes_it(accept_encoding: str, gzip: bool) -> None:
    assert accepts_gzip(accept_encoding) is gzip
