"""Durations and sizes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tachograph.config.units import (
    DAY,
    DURATION_MAX_MS,
    GIB,
    HOUR,
    KIB,
    MIB,
    MINUTE,
    SECOND,
    SIZE_MAX_BYTES,
    WEEK,
    YEAR,
    format_duration,
    format_size,
    parse_duration,
    parse_size,
)


@pytest.mark.parametrize(
    ("text", "expected_ms"),
    [
        ("0", 0),
        ("0s", 0),
        ("250ms", 250),
        ("90s", 90 * SECOND),
        ("5m", 5 * MINUTE),
        ("1h30m", HOUR + 30 * MINUTE),
        ("15d", 15 * DAY),
        ("2w", 2 * WEEK),
        ("100y", 100 * YEAR),
        ("1y2w3d4h5m6s7ms", YEAR + 2 * WEEK + 3 * DAY + 4 * HOUR + 5 * MINUTE + 6 * SECOND + 7),
        ("292y", 292 * YEAR),
    ],
)
def test_durations_read_as_in_prometheus(text: str, expected_ms: int) -> None:
    assert parse_duration(text) == expected_ms


@pytest.mark.parametrize(
    ("text", "suggestion"),
    [
        ("5min", "write 5m, 90s or 1h30m"),
        ("90 s", "write 90s, 1h30m or 5m"),
        ("1.5h", "write 5m, 90s or 1h30m"),
        ("2hours 5mins", "write 2h5m, 90s or 1h30m"),
        ("5M", "write 5m, 90s or 1h30m"),
        ("30m1h", "write 5m, 90s or 1h30m"),
        ("60", "write 60s or 60m"),
        ("1month", "write 5m, 90s or 1h30m"),
        ("", "write 5m, 90s or 1h30m"),
        ("-5m", "write 5m, 90s or 1h30m"),
        ("5m\n", "write 5m, 90s or 1h30m"),
        ("٣m", "write 5m, 90s or 1h30m"),
    ],
)
def test_wrong_durations_are_refused_with_a_suggestion(text: str, suggestion: str) -> None:
    with pytest.raises(ValueError, match="is not a duration") as caught:
        parse_duration(text)
    assert str(caught.value) == f'"{text}" is not a duration; {suggestion}'


@pytest.mark.parametrize("text", ["293y", "9999999999999999999y"])
def test_durations_beyond_prometheus_range_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="the most is 292y"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (0, "0s"),
        (1, "1ms"),
        (60_000, "1m"),
        (90 * MINUTE, "1h30m"),
        (WEEK, "1w"),
        (15 * DAY, "15d"),
        (400 * DAY, "400d"),
        (5 * YEAR, "5y"),
    ],
)
def test_durations_are_written_short(ms: int, text: str) -> None:
    assert format_duration(ms) == text


@given(st.integers(0, DURATION_MAX_MS))
def test_a_written_duration_reads_back(ms: int) -> None:
    assert parse_duration(format_duration(ms)) == ms


@given(st.text(alphabet="0123456789yhmsdw ", max_size=12))
def test_any_text_is_a_duration_or_a_plain_refusal(text: str) -> None:
    try:
        ms = parse_duration(text)
    except ValueError:
        return
    assert parse_duration(format_duration(ms)) == ms


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0),
        ("1500", 1500),
        ("512B", 512),
        ("1KiB", KIB),
        ("512MB", 512 * MIB),
        ("2GiB", 2 * GIB),
        ("2G", 2 * GIB),
        ("1.5GiB", 3 * GIB // 2),
        ("2 GiB", 2 * GIB),
    ],
)
def test_sizes_read_by_powers_of_1024(text: str, expected: int) -> None:
    assert parse_size(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("2gb", '"2gb" is not a size; write 2GiB'),
        ("512mib", '"512mib" is not a size; write 512MiB'),
        ("10bytes", '"10bytes" is not a size; write 10'),
        ("big", '"big" is not a size; write 2GiB, 512MiB or plain bytes'),
        ("-1", '"-1" is not a size; write 2GiB, 512MiB or plain bytes'),
        ("1.5", '"1.5" is not a whole number of bytes'),
        ("9EiB", '"9EiB" is too large; the most is 8EiB less one byte'),
    ],
)
def test_wrong_sizes_are_refused_with_a_suggestion(text: str, message: str) -> None:
    with pytest.raises(ValueError, match="is") as caught:
        parse_size(text)
    assert str(caught.value) == message


@given(st.integers(0, SIZE_MAX_BYTES))
def test_a_written_size_reads_back(size: int) -> None:
    assert parse_size(format_size(size)) == size


@pytest.mark.parametrize("write", [format_duration, format_size])
def test_negative_numbers_are_never_written(write: object) -> None:
    assert callable(write)
    with pytest.raises(ValueError, match="never negative"):
        write(-1)
