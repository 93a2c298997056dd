from __future__ import annotations

from typing import Any

import pytest

from support.exporter import OPENMETRICS, TEXT
from tachograph.agent.collectors.relabel import compile_steps
from tachograph.agent.collectors.scrape_http import Answer
from tachograph.agent.collectors.scrape_page import (
    PageReader,
    PageRules,
    Reading,
    with_target_labels,
)
from tachograph.config.prometheus import RelabelConfig
from tachograph.storage.model import Labels

TARGET = Labels.of({"job": "j", "instance": "i:1"})


def reader(*steps: RelabelConfig, limit_bytes: int = 1 << 20, **rules: Any) -> PageReader:
    return PageReader(TARGET, PageRules(steps=compile_steps(steps), **rules), limit_bytes)


def page(text: str, content_type: str = TEXT) -> Answer:
    return Answer(text.encode(), is_gzip=False, content_type=content_type)


def named(reading: Reading) -> list[str | None]:
    assert reading.error is None
    return [None if one.labels is None else str(one.labels) for one in reading.named]


def test_series_carry_the_targets_labels() -> None:
    reading = reader().read(page('a{x="1"} 1\nb 2\n'))
    assert named(reading) == [
        'a{instance="i:1",job="j",x="1"}',
        'b{instance="i:1",job="j"}',
    ]
    assert (reading.scraped, reading.kept, reading.body_bytes) == (2, 2, 15)


def test_clashing_labels_are_renamed_until_they_are_free() -> None:
    exposed = {"job": "x", "exported_job": "y", "instance": "", "a": "b"}
    assert with_target_labels(exposed, TARGET) == {
        "job": "j",
        "exported_job": "y",
        "exported_exported_job": "x",
        "instance": "i:1",
        "a": "b",
    }


def test_shorter_names_are_renamed_first() -> None:
    target = Labels.of({"foo": "t", "exported_foo": "t"})
    assert with_target_labels({"foo": "1", "exported_foo": "2"}, target) == {
        "foo": "t",
        "exported_foo": "t",
        "exported_exported_foo": "1",
        "exported_exported_exported_foo": "2",
    }


def test_honored_labels_stay_and_empty_ones_take_ours_away() -> None:
    reading = reader(honor_labels=True).read(page('a{job="x"} 1\nb{instance=""} 2\n'))
    assert named(reading) == ['a{instance="i:1",job="x"}', 'b{job="j"}']


def test_relabelling_drops_and_renames_with_the_targets_labels_in_place() -> None:
    steps = (
        RelabelConfig(source_labels=("__name__",), regex="drop_.*", action="drop"),
        RelabelConfig(source_labels=("job", "__name__"), regex="j;b", action="labeldrop"),
        RelabelConfig(source_labels=("__name__",), regex="b", target_label="__name__",
                      replacement="c"),
    )  # fmt: skip
    reading = reader(*steps).read(page("a 1\ndrop_x 2\nb 3\n"))
    assert named(reading) == [
        'a{instance="i:1",job="j"}',
        None,
        'c{instance="i:1",job="j"}',
    ]
    assert (reading.scraped, reading.kept) == (3, 2)


def test_dropping_all_labels_drops_the_sample() -> None:
    drop = RelabelConfig(regex=".*", action="labeldrop")
    assert named(reader(drop).read(page("a 1\n"))) == [None]


def test_kept_counts_known_and_new_series_alike() -> None:
    drop = RelabelConfig(source_labels=("__name__",), regex="x.*", action="drop")
    under_test = reader(drop)
    under_test.read(page("a 1\nx1 1\n"))
    reading = under_test.read(page("a 1\nx1 1\nx2 1\nb 1\n"))
    assert (reading.scraped, reading.kept, len(reading.named)) == (4, 2, 2)


@pytest.mark.parametrize(
    ("rules", "text", "reason", "message"),
    [
        ({"sample_limit": 1}, "a 1\nb 2\n", "sample_limit", "sample limit exceeded: 2"),
        ({"label_limit": 3}, 'a{x="1"} 1\n', "label_limit",
         "label_limit exceeded (metric: a, number of labels: 4, limit: 3)"),
        ({"label_name_bytes": 8}, 'a{ninechars="1"} 1\n', "label_limit",
         "label_name_length_limit exceeded (metric: a, label: ninechars, length: 9, limit: 8)"),
        ({"label_value_bytes": 3}, 'a{x="éé"} 1\n', "label_limit",
         "label_value_length_limit exceeded (metric: a, label: x, length: 4, limit: 3)"),
        ({}, '{x="1"} 1\n', "labels", "missing metric name (__name__ label)"),
        ({}, "a 1\nb x\n", "parse", 'line 2: invalid value "x"'),
    ],
)  # fmt: skip
def test_page_that_breaks_a_rule_fails_as_a_whole(
    rules: dict[str, Any], text: str, reason: str, message: str
) -> None:
    if "label_name_bytes" in rules:
        target = Labels.of({"job": "j"})
        under_test = PageReader(target, PageRules(**rules), 1 << 20)
    else:
        under_test = reader(**rules)
    reading = under_test.read(page(text))
    assert reading.error is not None
    assert (reading.error.reason, message in str(reading.error)) == (reason, True)
    assert reading.page is None
    assert reading.starts_anew


def test_limits_hold_after_relabelling() -> None:
    drop = RelabelConfig(source_labels=("__name__",), regex="b", action="drop")
    assert reader(drop, sample_limit=1).read(page("a 1\nb 2\n")).error is None
    cut = RelabelConfig(regex="x", action="labeldrop")
    assert reader(cut, label_limit=3).read(page('a{x="1"} 1\n')).error is None


def test_failed_page_tells_how_far_it_was_read() -> None:
    drop = RelabelConfig(source_labels=("__name__",), regex="x.*", action="drop")
    under_test = reader(drop)
    under_test.read(page("a 1\nx1 1\n"))
    reading = under_test.read(page("a 1\nx1 1\nx2 2\nb 1\nbad\nc 1\n"))
    assert (reading.scraped, reading.kept) == (4, 2)


def test_page_after_a_failed_one_is_read_from_the_start() -> None:
    under_test = reader()
    under_test.read(page("a 1\nb 1\n"))
    under_test.read(page("bad\n"))
    reading = under_test.read(page("b 1\na 1\n"))
    assert [(one.slot, str(one.labels)[0]) for one in reading.named] == [(0, "b"), (1, "a")]


@pytest.mark.parametrize("content_type", ["", "text/html; charset=utf-8", "application/json"])
def test_other_content_types_are_tried_as_text(content_type: str) -> None:
    assert named(reader().read(page("a 1\n", content_type))) == ['a{instance="i:1",job="j"}']
    reading = reader().read(page("<html>\n", content_type))
    assert f"(Content-Type is {content_type!r}; is this a metrics page?)" in str(reading.error)


def test_protobuf_is_refused() -> None:
    reading = reader().read(page("", "application/vnd.google.protobuf; encoding=delimited"))
    assert "unsupported Content-Type" in str(reading.error)


def test_openmetrics_is_read_by_its_content_type() -> None:
    assert named(reader().read(page("a 1\n# EOF\n", OPENMETRICS)))
    assert "does not end with # EOF" in str(reader().read(page("a 1\n", OPENMETRICS)).error)


def test_changed_format_starts_anew() -> None:
    under_test = reader()
    under_test.read(page("a 1\nb 1\n"))
    reading = under_test.read(page("b 1\n# EOF\n", OPENMETRICS))
    assert reading.starts_anew
    assert [one.slot for one in reading.named] == [0]


def test_labels_that_vary_for_ever_are_forgotten() -> None:
    under_test = reader()
    forgotten = 0
    for number in range(30):
        lines = (f'a{{request="{number}-{i}"}} 1' for i in range(100))
        forgotten += under_test.read(page("\n".join(lines))).starts_anew
    # 100 of the first page, then up to twice that and 1,000 more.
    assert forgotten == 2
