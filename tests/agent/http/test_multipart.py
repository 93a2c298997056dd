"""Forms in parts: what curl and aiohttp send is read, and what is none is refused."""

from __future__ import annotations

import contextlib
from pathlib import Path

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.api import serving
from tachograph.agent.http.forms import FORM_BYTES_MAX
from tachograph.agent.http.multipart import parse_multipart

TYPE = 'multipart/form-data; boundary="b"'


def parts(*texts: str, end: str = "--b--\r\n") -> bytes:
    heads = [f"--b\r\nContent-Disposition: form-data; {text}\r\n" for text in texts]
    return ("".join(heads) + end).encode()


def test_fields_are_read_in_their_order_and_files_are_not() -> None:
    body = parts(
        'name="query"\r\n\r\nup{job="a"}\r\n+ 1',
        'name="f"; filename="x"\r\nContent-Type: text/plain\r\n\r\nfile',
        'name="match[]"\r\n\r\n',
        'name="match[]"\r\nContent-Type: text/plain; charset=utf-8\r\n\r\nhöhe',
    )
    assert parse_multipart(body, TYPE, 10) == [
        ("query", 'up{job="a"}\r\n+ 1'),
        ("match[]", ""),
        ("match[]", "höhe"),
    ]


@pytest.mark.parametrize(
    ("body", "type_", "said"),
    [
        (parts('name="a"\r\n\r\n1'), "multipart/form-data", "no boundary"),
        (b"", TYPE, "no end"),
        (parts('name="a"\r\n\r\n1', end=""), TYPE, "no end"),
        (parts('name="a"\r\n\r\n1').replace(b"\r\n\r\n", b"\r\n"), TYPE, "no headers"),
        (parts(f'x="{"x" * 5000}"; name="a"\r\n\r\n1'), TYPE, "no headers"),
        (parts(*['name="a"\r\n\r\n1'] * 4), TYPE, "more than 3 parts"),
    ],
)
def test_what_is_no_such_form_is_refused(body: bytes, type_: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_multipart(body, type_, 3)


def test_as_many_parts_as_there_may_be_are_read() -> None:
    assert len(parse_multipart(parts(*['name="a"\r\n\r\n1'] * 3), TYPE, 3)) == 3


@given(st.binary(max_size=300))
def test_any_bytes_are_a_form_or_refused(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        parse_multipart(parts('name="a"\r\n\r\n1', end="") + data, TYPE, 5)


async def test_a_query_may_be_posted_in_parts(tmp_path: Path) -> None:
    async with serving(tmp_path / "data") as api:
        form = aiohttp.FormData({"query": "1 + 1", "time": "5"}, default_to_multipart=True)
        assert (await api.ask("POST", "/api/v1/query", data=form)).data["result"] == [5, "2"]
        broken = await api.ask(
            "POST", "/api/v1/query", data=b"--b\r\n", headers={"Content-Type": TYPE}
        )
        assert broken.status == 400
        assert "the form cannot be read: its last part has no end" in broken.text
        long = aiohttp.FormData({"query": "1" * FORM_BYTES_MAX}, default_to_multipart=True)
        assert (await api.ask("POST", "/api/v1/query", data=long)).status == 413
