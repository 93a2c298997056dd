from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tachograph.agent.ingest.exposition import (
    BLOCK_BYTES,
    LINE_BYTES_MAX,
    NO_TIMESTAMP,
    ExpositionError,
    Page,
    Parser,
    Syntax,
)
from tachograph.storage.model import Kind, Metadata, MetricType

TEXT, OPENMETRICS = Syntax.TEXT, Syntax.OPENMETRICS


def read(text: str | bytes, syntax: Syntax = TEXT) -> Page:
    return Parser().parse(text if isinstance(text, bytes) else text.encode(), syntax)


def samples(page: Page) -> list[tuple[dict[str, str], float]]:
    """The samples of a parser's first page."""
    labels = {new.slot: new.labels for new in page.new}
    return [(labels[int(s)], float(v)) for s, v in zip(page.slots, page.values, strict=True)]


def refused(text: str | bytes, syntax: Syntax = TEXT) -> str:
    with pytest.raises(ExpositionError) as caught:
        read(text, syntax)
    return str(caught.value)


def test_page_becomes_columns_in_its_order() -> None:
    page = read('# a remark\n\nb{x="1"} 2\na 1.5e3\nb{x="2",} -3 \n')
    assert samples(page) == [
        ({"__name__": "b", "x": "1"}, 2.0),
        ({"__name__": "a"}, 1500.0),
        ({"__name__": "b", "x": "2"}, -3.0),
    ]
    assert page.ts_ms is None


def test_last_line_needs_no_line_feed_in_text() -> None:
    assert samples(read("a 1\nb 2")) == [({"__name__": "a"}, 1.0), ({"__name__": "b"}, 2.0)]


def test_empty_page_is_a_page() -> None:
    assert len(read("")) == 0
    assert len(read("# EOF\n", OPENMETRICS)) == 0
    assert len(read("# EOF", OPENMETRICS)) == 0


@pytest.mark.parametrize(
    ("token", "value"),
    [
        ("0", 0.0),
        ("+1", 1.0),
        ("-.5", -0.5),
        ("5.", 5.0),
        ("1e3", 1000.0),
        ("1E-3", 0.001),
        ("+Inf", math.inf),
        ("-inf", -math.inf),
        ("Infinity", math.inf),
        ("0.1234567890123456789", 0.1234567890123456789),
        ("5e-324", 5e-324),
        ("1e-400", 0.0),
    ],
)
def test_number_is_read_as_go_reads_it(token: str, value: float) -> None:
    for syntax, text in ((TEXT, f"a {token}\n"), (OPENMETRICS, f"a {token}\n# EOF\n")):
        parser = Parser()
        cold = parser.parse(text.encode(), syntax)
        warm = parser.parse(text.encode(), syntax)
        assert cold.values.tolist() == warm.values.tolist() == [value]


def test_nan_is_read_in_any_case() -> None:
    assert np.isnan(read("a NaN\nb nan\nc NAN\n").values).all()


@pytest.mark.parametrize(
    "token",
    [
        *("1_0", "0x10", "0x1p3", "1e999", "-1e999", "+NaN", "-nan", "1,5", "one", "1e", "."),
        *("\u0661", "--1", "infin", "\u00a01", "1\r", "1\x0b", "1\x00"),
    ],
)
def test_what_go_takes_for_no_number_is_refused_cold_and_warm(token: str) -> None:
    assert refused(f"ok 1\na {token}\n").startswith("line 2: invalid value")
    parser = Parser()
    parser.parse(b"ok 1\na 1\n", TEXT)
    with pytest.raises(ExpositionError, match="line 2: invalid value"):
        parser.parse(f"ok 1\na {token}\n".encode(), TEXT)
    parser.parse(b"ok 1\na 1\n# EOF\n", OPENMETRICS)
    with pytest.raises(ExpositionError, match="line 2: invalid value"):
        parser.parse(f"ok 1\na {token}\n# EOF\n".encode(), OPENMETRICS)


def test_text_takes_blanks_and_tabs_between_tokens() -> None:
    text = ' \ta { x = "1" , y="2" ,\t} \t 4\t12 \n\tb\t5\nc   6\n{ } 7\n'
    parser = Parser()
    first = parser.parse(text.encode(), TEXT)
    assert samples(first) == [
        ({"__name__": "a", "x": "1", "y": "2"}, 4.0),
        ({"__name__": "b"}, 5.0),
        ({"__name__": "c"}, 6.0),
        ({}, 7.0),
    ]
    assert first.ts_ms is not None
    assert first.ts_ms.tolist() == [12, NO_TIMESTAMP, NO_TIMESTAMP, NO_TIMESTAMP]
    again = parser.parse(text.encode(), TEXT)
    assert again.slots.tolist() == first.slots.tolist()
    assert again.values.tolist() == first.values.tolist()
    assert again.ts_ms is not None
    assert again.ts_ms.tolist() == first.ts_ms.tolist()


def test_value_may_touch_the_brace_in_text_only() -> None:
    assert read('a{x="1"}2\n').values.tolist() == [2.0]
    assert "expected value after metric" in refused('a{x="1"}2\n# EOF\n', OPENMETRICS)


def test_escapes_are_undone_and_unknown_ones_stay() -> None:
    page = read(r'a{q="\"",b="\\",n="\n",u="\d\\d\\\n"} 1' + "\n")
    assert page.new[0].labels == {
        "__name__": "a",
        "q": '"',
        "b": "\\",
        "n": "\n",
        "u": "\\d\\d\\\n",
    }


def test_braces_blanks_and_hashes_in_values_are_values() -> None:
    page = read('a{x="} 7 # {y=\\"1\\"} 3"} 1\n')
    assert page.new[0].labels["x"] == '} 7 # {y="1"} 3'


@pytest.mark.parametrize("syntax", [TEXT, OPENMETRICS])
def test_quoted_names_may_hold_any_characters(syntax: Syntax) -> None:
    text = '{"my.metric",a="b"} 1\n{"the \\"best\\"","é.ü"="x"} 2\nfoo{"with space"="y"} 3\n'
    page = read(text + "# EOF\n", syntax)
    assert samples(page) == [
        ({"__name__": "my.metric", "a": "b"}, 1.0),
        ({"__name__": 'the "best"', "é.ü": "x"}, 2.0),
        ({"__name__": "foo", "with space": "y"}, 3.0),
    ]


def test_empty_label_values_are_kept_for_honor_labels() -> None:
    assert read('a{instance=""} 1\n').new[0].labels == {"__name__": "a", "instance": ""}


def test_timestamp_is_milliseconds_in_text_and_seconds_in_openmetrics() -> None:
    page = read("a 1 1700000000123\nb 2\n")
    assert page.ts_ms is not None
    assert page.ts_ms.tolist() == [1_700_000_000_123, NO_TIMESTAMP]
    page = read("a 1 1700000000.123\nb 2 -1.5\n# EOF\n", OPENMETRICS)
    assert page.ts_ms is not None
    assert page.ts_ms.tolist() == [1_700_000_000_123, -1500]


def test_known_series_with_a_timestamp_keeps_its_slot() -> None:
    parser = Parser()
    parser.parse(b'a{x="1"} 1\nb 2\n', TEXT)
    page = parser.parse(b'a{x="1"} 3 1700000000123\nb 4\n', TEXT)
    assert page.new == []
    assert page.slots.tolist() == [0, 1]
    assert page.values.tolist() == [3.0, 4.0]
    assert page.ts_ms is not None
    assert page.ts_ms.tolist() == [1_700_000_000_123, NO_TIMESTAMP]


@pytest.mark.parametrize("stamp", ["1.5", "-5", "x", "9223372036854775808", "1 2", "0x1"])
def test_wrong_timestamp_in_text_is_refused_cold_and_warm(stamp: str) -> None:
    assert refused(f"a 1 {stamp}\n").startswith("line 1: ")
    parser = Parser()
    parser.parse(b"a 1\n", TEXT)
    with pytest.raises(ExpositionError):
        parser.parse(f"a 1 {stamp}\n".encode(), TEXT)


@pytest.mark.parametrize("stamp", ["NaN", "+Inf", "1e300", "#", "1 2", "soon"])
def test_wrong_timestamp_in_openmetrics_is_refused(stamp: str) -> None:
    assert refused(f"a 1 {stamp}\n# EOF\n", OPENMETRICS).startswith("line 1: ")


def test_same_layout_gives_the_very_same_slots() -> None:
    parser = Parser()
    first = parser.parse(b'a{x="1"} 1\nb 2\n', TEXT)
    second = parser.parse(b'a{x="1"} 3\nb 4\n', TEXT)
    assert second.slots is first.slots
    assert second.values.tolist() == [3.0, 4.0]
    assert second.new == []
    third = parser.parse(b'b 4\na{x="1"} 3\n', TEXT)
    assert third.slots.tolist() == [1, 0]


def test_new_series_among_known_ones_gets_the_next_slot() -> None:
    parser = Parser()
    parser.parse(b"a 1\nb 2\n", TEXT)
    page = parser.parse(b"a 1\nc 3\nb 2\n", TEXT)
    assert [(new.slot, new.labels) for new in page.new] == [(2, {"__name__": "c"})]
    assert page.slots.tolist() == [0, 2, 1]


def test_one_series_in_two_spellings_has_two_slots() -> None:
    page = read('a{x="1",y="2"} 1\na{y="2",x="1"} 2\n')
    assert [new.labels for new in page.new] == [{"__name__": "a", "x": "1", "y": "2"}] * 2


def test_series_repeated_on_the_page_is_kept_twice() -> None:
    page = read("a 1\na 2\n")
    assert page.slots.tolist() == [0, 0]
    assert len(page.new) == 1


def test_page_longer_than_a_block_is_one_page() -> None:
    padding = "x" * 1000
    lines = [f'm{{i="{i}",padding="{padding}"}} {i}' for i in range(3000)]
    assert sum(map(len, lines)) > 2 * BLOCK_BYTES
    page = read("\n".join(lines))
    assert page.values.tolist() == [float(i) for i in range(3000)]
    assert refused("\n".join([*lines, "bad"])).startswith("line 3001: ")


def test_page_of_too_many_samples_is_refused_cold_and_warm() -> None:
    parser = Parser(samples_max=2)
    assert len(parser.parse(b"a 1\nb 2\n", TEXT)) == 2
    for body in (b"a 1\nb 2\nb 3\n", b"a 1\nb 2\nc 3\n"):
        with pytest.raises(ExpositionError, match=r"^line 3: more than 2 samples$"):
            parser.parse(body, TEXT)
        with pytest.raises(ExpositionError, match=r"^line 3: more than 2 samples$"):
            Parser(samples_max=2).parse(body, TEXT)


def test_page_of_too_many_lines_families_or_bytes_in_a_line_is_refused() -> None:
    with pytest.raises(ExpositionError, match=r"^line 9: more than 8 lines"):
        Parser(samples_max=2).parse(b"\n" * 100, TEXT)
    families = b"".join(b"# TYPE f%d gauge\n" % number for number in range(3))
    with pytest.raises(ExpositionError, match=r"^line 3: more than 2 metric families"):
        Parser(samples_max=2).parse(families, TEXT)
    for line in (b"a" * LINE_BYTES_MAX + b" 1", b'a{x="' + b'\\"' * LINE_BYTES_MAX + b'"} 1'):
        assert "line 2: longer than" in refused(b"b 1\n" + line)


def test_bytearray_is_as_good_as_bytes() -> None:
    assert samples(Parser().parse(bytearray(b"a 1\n# EOF"), OPENMETRICS)) == [
        ({"__name__": "a"}, 1.0)
    ]


# --- what the comments say --------------------------------------------------------------------


def test_kind_comes_from_the_type_wherever_it_stands() -> None:
    page = read(
        "early_total 1\n"
        "# TYPE early_total counter\n"
        "# TYPE g gauge\ng 1\n"
        "# TYPE h histogram\n"
        'h_bucket{le="1"} 1\nh_sum 2\nh_count 1\n'
        "# TYPE s summary\n"
        's{quantile="0.5"} 1\ns_sum 2\ns_count 1\n'
        "# TYPE u untyped\nu 1\nnone 1\nnone_count 1\n"
    )
    kinds = {new.labels["__name__"]: new.kind for new in page.new}
    assert kinds == {
        "early_total": Kind.COUNTER,
        "g": Kind.GAUGE,
        "h_bucket": Kind.BUCKET,
        "h_sum": Kind.COUNTER,
        "h_count": Kind.COUNTER,
        "s": Kind.GAUGE,
        "s_sum": Kind.COUNTER,
        "s_count": Kind.COUNTER,
        "u": Kind.UNKNOWN,
        "none": Kind.UNKNOWN,
        "none_count": Kind.UNKNOWN,
    }


def test_openmetrics_kinds_follow_the_suffix() -> None:
    page = read(
        "# TYPE c counter\nc_total 1\nc_created 2\n"
        "# TYPE i info\ni_info 1\n"
        '# TYPE s stateset\ns{s="a"} 1\n'
        '# TYPE gh gaugehistogram\ngh_bucket{le="+Inf"} 1\ngh_gsum 1\ngh_gcount 1\n'
        '# TYPE h histogram\nh_bucket{le="+Inf"} 1\nh_created 1\n'
        "# TYPE q unknown\nq 1\n# EOF\n",
        OPENMETRICS,
    )
    kinds = {new.labels["__name__"]: new.kind for new in page.new}
    assert kinds == {
        "c_total": Kind.COUNTER,
        "c_created": Kind.GAUGE,
        "i_info": Kind.GAUGE,
        "s": Kind.GAUGE,
        "gh_bucket": Kind.GAUGE,
        "gh_gsum": Kind.GAUGE,
        "gh_gcount": Kind.GAUGE,
        "h_bucket": Kind.BUCKET,
        "h_created": Kind.GAUGE,
        "q": Kind.UNKNOWN,
    }


def test_metadata_is_told_once_and_when_it_changes() -> None:
    parser = Parser()
    text = b'# HELP a_total Says "a\\\\b\\nc".\n# TYPE a_total counter\na_total 1\n'
    told = Metadata(MetricType.COUNTER, 'Says "a\\b\nc".')
    assert parser.parse(text, TEXT).metadata == {"a_total": told}
    assert parser.parse(text, TEXT).metadata == {}
    changed = parser.parse(text.replace(b"Says", b"Shows"), TEXT).metadata
    assert changed == {"a_total": Metadata(MetricType.COUNTER, 'Shows "a\\b\nc".')}
    assert parser.parse(text, TEXT).metadata == {"a_total": told}


def test_openmetrics_metadata_stands_under_the_names_of_the_samples() -> None:
    page = read(
        "# TYPE wait_seconds counter\n# UNIT wait_seconds seconds\n"
        '# HELP wait_seconds \\"How\\" long.\nwait_seconds_total 1\n'
        "# TYPE build info\n# TYPE g gauge\n# EOF\n",
        OPENMETRICS,
    )
    assert page.metadata == {
        "wait_seconds_total": Metadata(MetricType.COUNTER, '"How" long.', "seconds"),
        "build_info": Metadata(MetricType.INFO),
        "g": Metadata(MetricType.GAUGE),
    }


def test_exemplars_are_kept_beside_their_series() -> None:
    page = read(
        "# TYPE h histogram\n"
        'h_bucket{le="1"} 3 # {trace_id="ab\\"c"} 0.5 1700000000.25\n'
        'h_bucket{le="+Inf"} 4 1700000001 # {} 7\n'
        f'h_count 4 # {{x="{"y" * 128}"}} 1\n# EOF\n',
        OPENMETRICS,
    )
    assert page.values.tolist() == [3.0, 4.0, 4.0]
    assert page.ts_ms is not None
    assert page.ts_ms.tolist() == [NO_TIMESTAMP, 1_700_000_001_000, NO_TIMESTAMP]
    assert [(e.slot, e.labels, e.value, e.ts_ms) for e in page.exemplars] == [
        (0, {"trace_id": 'ab"c'}, 0.5, 1_700_000_000_250),
        (1, {}, 7.0, None),
    ]


def test_exemplar_on_a_known_series_is_still_seen() -> None:
    parser = Parser()
    parser.parse(b"a_total 1\n# EOF\n", OPENMETRICS)
    page = parser.parse(b'a_total 2 # {t="1"} 1\n# EOF\n', OPENMETRICS)
    assert page.new == []
    assert page.values.tolist() == [2.0]
    assert [e.slot for e in page.exemplars] == [0]


# --- what is refused --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("foo", "expected value after metric"),
        ("foo ", "expected value after metric"),
        ("1foo 2", "expected a metric name"),
        ("foo-bar 2", "expected value after metric|invalid value"),
        ("foo 1 2 3", "nothing but a timestamp"),
        ("foo{a=1} 1", "expected label value"),
        ('foo{a="1} 1', "expected label value"),
        ('foo{a="1" 1', "expected label name"),
        ("foo{a} 1", "expected equal"),
        ('foo{1="a"} 1', "expected label name"),
        ('foo{a="1",,} 1', "expected label name"),
        ("foo{,} 1", "expected label name"),
        ('foo{a="1",a="2"} 1', "label name 'a' is not unique"),
        ('foo{"bar"} 1', "not unique"),
        ('foo{""="x"} 1', "label name is empty"),
        ("foo{}} 1", "nothing but a timestamp|invalid value"),
        ("# TYPE foo thing", "invalid metric type 'thing'"),
        ("# TYPE foo", "invalid metric type ''"),
        ("# TYPE 1foo gauge", "expected metric name"),
        ("\ufefffoo 1", "expected a metric name"),
        ("\x00", "expected a metric name"),
    ],
)
def test_bad_line_of_text_is_named_with_its_number(line: str, reason: str) -> None:
    with pytest.raises(ExpositionError, match=f"^line 3: .*({reason})"):
        read(f"a 1\n# remark\n{line}\nb 2\n")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("", "expected a metric name"),
        (" foo 1", "expected a metric name"),
        ("foo  1", "expected a value"),
        ("foo\t1", "expected a value"),
        ("foo 1 ", "expected a value"),
        ('foo {a="1"} 1', "invalid value"),
        ('foo{ a="1"} 1', "expected label name"),
        ('foo{a="1" } 1', "expected label name"),
        ('foo{a="1",} 1', "expected label name"),
        ('foo{a="1"b="2"} 1', "expected comma"),
        ("# remark", "expected HELP, TYPE, UNIT or EOF"),
        ("#", "expected HELP, TYPE, UNIT or EOF"),
        ("# TYPE foo untyped", "invalid metric type"),
        ("# UNIT foo bars", "not a suffix"),
        ("# EOF", "unexpected data after # EOF"),
        ('foo 1 # {a="b"}', "nothing but a timestamp"),
        ('foo 1 #{a="b"} 1', "nothing but a timestamp"),
        ('foo 1 # {a="b"} x', "invalid value"),
        ("foo 1 # {a=b} 1", "expected label value"),
        ('foo 1 # {a="b"} 1 x', "invalid value"),
    ],
)
def test_bad_line_of_openmetrics_is_named_with_its_number(line: str, reason: str) -> None:
    with pytest.raises(ExpositionError, match=f"^line 2: .*({reason})"):
        read(f"a 1\n{line}\nb 2\n# EOF\n", OPENMETRICS)


@pytest.mark.parametrize("text", ["", "a 1\n", "a 1", "# EO", "a 1\n#EOF\n", "a 1# EOF\n"])
def test_openmetrics_must_end_with_eof(text: str) -> None:
    assert "line" in refused(text, OPENMETRICS)


def test_truncated_openmetrics_says_what_is_missing() -> None:
    assert refused("a 1\nb 2\n", OPENMETRICS) == "line 3: data does not end with # EOF"


def test_bytes_that_are_no_utf8_are_refused_in_labels_and_help() -> None:
    assert "invalid UTF-8 label value" in refused(b'a{x="\xff"} 1\n')
    assert "invalid UTF-8 metric name" in refused(b'{"\xff"} 1\n')
    assert "invalid UTF-8 label value" in refused(b'a{x="\xed\xa0\x80"} 1\n')
    assert "is not valid UTF-8" in refused(b"# HELP a \xff\n")


def test_error_tells_what_was_read_before_it() -> None:
    with pytest.raises(ExpositionError) as caught:
        read("a 1\nb 2\nbad\nc 3\n")
    error = caught.value
    assert (error.line, len(error.page)) == (3, 2)
    assert samples(error.page) == [({"__name__": "a"}, 1.0), ({"__name__": "b"}, 2.0)]


def test_nothing_new_on_a_bad_page_is_remembered() -> None:
    parser = Parser()
    parser.parse(b"a 1\n", TEXT)
    with pytest.raises(ExpositionError):
        parser.parse(b"# TYPE b gauge\nb 2\na 1\nbad\n", TEXT)
    page = parser.parse(b"# TYPE b gauge\nb 2\na 1\n", TEXT)
    assert [(new.slot, new.labels, new.kind) for new in page.new] == [
        (1, {"__name__": "b"}, Kind.GAUGE)
    ]
    assert page.metadata == {"b": Metadata(MetricType.GAUGE)}
    assert page.slots.tolist() == [1, 0]


def test_format_changing_between_pages_starts_anew() -> None:
    parser = Parser()
    parser.parse(b"a  1\n", TEXT)
    with pytest.raises(ExpositionError):
        parser.parse(b"a  1\n# EOF\n", OPENMETRICS)
    assert [new.slot for new in parser.parse(b"a 1\n# EOF\n", OPENMETRICS).new] == [0]


def test_forget_counts_slots_from_zero_again() -> None:
    parser = Parser()
    parser.parse(b"a 1\nb 1\n", TEXT)
    assert parser.size == 2
    parser.forget()
    assert parser.size == 0
    assert [new.slot for new in parser.parse(b"b 1\n", TEXT).new] == [0]


def test_long_error_text_is_cut() -> None:
    assert len(refused("x" * 100_000)) < 300


# --- properties -------------------------------------------------------------------------------

PAGES = (
    b'# HELP a_total "Help"\n# TYPE a_total counter\na_total{x="1",y="\\"2\\\\"} 1.5\n'
    b'b 2 1700000000000\n# TYPE h histogram\nh_bucket{le="+Inf"} NaN\n{"c.d",e="f"} -Inf\n',
    b'# TYPE a counter\n# UNIT a a\n# HELP a b\na_total{x="1"} 1 # {t="u"} 0.5 1.25\n'
    b'h_bucket{le="+Inf"} 3 1700000000.5\n{"c.d","e.f"="g"} 1e5\n# EOF\n',
)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    page = bytearray(draw(st.sampled_from(PAGES)))
    for _ in range(draw(st.integers(0, 6))):
        at = draw(st.integers(0, len(page)))
        piece = draw(
            st.one_of(
                st.binary(max_size=4),
                st.sampled_from([b'"', b"\\", b"{", b"}", b" ", b"\n", b"\t", b"#", b",", b"\0"]),
                st.sampled_from([b"# EOF\n", b"# TYPE ", b"1e999", b"a_total", b"\xff", b"="]),
            )
        )
        page[at : at + draw(st.integers(0, 5))] = piece
    return bytes(page)


@settings(max_examples=400, deadline=None)
@given(body=mutated(), syntax=st.sampled_from([TEXT, OPENMETRICS]), before=st.booleans())
def test_mutated_page_is_read_or_refused_and_warm_like_cold(
    body: bytes, syntax: Syntax, before: bool
) -> None:
    parser = Parser()
    if before:
        for page in PAGES:
            try:
                parser.parse(page, syntax)
            except ExpositionError:
                continue
    assert outcome(parser, body, syntax) == outcome(Parser(), body, syntax)
    assert outcome(parser, body, syntax) == outcome(Parser(), body, syntax)


def outcome(parser: Parser, body: bytes, syntax: Syntax) -> object:
    try:
        page = parser.parse(body, syntax)
    except ExpositionError as error:
        return str(error), len(error.page)
    stamps = None if page.ts_ms is None else page.ts_ms.tolist()
    exemplars = [(e.labels, repr(e.value), e.ts_ms) for e in page.exemplars]
    return list(map(repr, page.values.tolist())), stamps, exemplars


@settings(max_examples=200, deadline=None)
@given(body=st.binary(max_size=300), syntax=st.sampled_from([TEXT, OPENMETRICS]))
def test_any_bytes_are_read_or_refused(body: bytes, syntax: Syntax) -> None:
    outcome(Parser(), body, syntax)
