"""Answers in JSON: the envelope of Prometheus' API, packed for those who take it."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import msgspec
from aiohttp import hdrs, web

from .errors import Handler
from .negotiation import accepts_gzip

#: Shorter answers are not worth packing.
_GZIP_BYTES_MIN: Final = 1_400
# Level 1 packs 100 MB/s of JSON to a tenth; 6 takes three times as long for another tenth of that.
_GZIP_LEVEL: Final = 1
_PACKED_HEADERS: Final = {"Content-Encoding": "gzip", "Vary": "Accept-Encoding"}

_encode = msgspec.json.Encoder().encode


def to_json(value: object) -> str:
    return _encode(value).decode()


def envelope(data: str, warnings: Sequence[str] = (), infos: Sequence[str] = ()) -> str:
    """Wrap a JSON value into the answer of a request that worked."""
    return f'{{"status":"success","data":{data}{_notes(warnings, infos)}}}'


def enveloped(
    members: Iterable[str], warnings: Sequence[str] = (), infos: Sequence[str] = ()
) -> Iterator[str]:
    """As :func:`envelope`, in pieces; ``members`` are those of the object that is the data."""
    yield '{"status":"success","data":{'
    yield from members
    yield f"}}{_notes(warnings, infos)}}}"


def _notes(warnings: Sequence[str], infos: Sequence[str]) -> str:
    return "".join(
        f',"{name}":{to_json(list(texts))}'
        for name, texts in (("warnings", warnings), ("infos", infos))
        if texts
    )


def takes_gzip(request: web.Request) -> bool:
    return accepts_gzip(request.headers.get(hdrs.ACCEPT_ENCODING, ""))


def packed(text: str, *, gzip: bool) -> tuple[bytes, dict[str, str]]:
    """Return the body of a JSON text and the headers that go with it; packed if it is worth it."""
    return packed_pieces((text,), gzip=gzip)


def packed_pieces(pieces: Iterable[str], *, gzip: bool) -> tuple[bytes, dict[str, str]]:
    """As :func:`packed`, of a text in pieces; each is gone once it is packed."""
    # A query is quoted as it came, and may have had what is no UTF-8 in it.
    body, headers = pack((piece.encode("utf-8", "replace") for piece in pieces), gzip=gzip)
    return body, {"Content-Type": "application/json", **headers}


def pack(pieces: Iterable[bytes], *, gzip: bool) -> tuple[bytes, dict[str, str]]:
    """Return the body of some pieces, packed if it is worth it, and the headers that say so."""
    if not gzip:
        return b"".join(pieces), {}
    rest, begin = iter(pieces), b""
    for piece in rest:
        begin += piece
        if len(begin) >= _GZIP_BYTES_MIN:
            break
    else:
        return begin, {}
    packer = zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, zlib.MAX_WBITS | 16)
    parts = [packer.compress(begin), *map(packer.compress, rest), packer.flush()]
    return b"".join(parts), dict(_PACKED_HEADERS)


def respond(request: web.Request, data: object) -> web.Response:
    """Answer with some data, not too much: it is encoded here and now."""
    return respond_json(request, to_json(data))


def respond_json(request: web.Request, data: str) -> web.Response:
    """As :func:`respond`, with data that are JSON already."""
    body, headers = packed(envelope(data), gzip=takes_gzip(request))
    return web.Response(body=body, headers=headers)


def both(path: str, handler: Handler) -> list[web.AbstractRouteDef]:
    """Serve a path by GET and POST. HEAD is no question: it would cost as much as the answer."""
    return [*get(path, handler), web.post(path, handler)]


def get(path: str, handler: Handler) -> list[web.AbstractRouteDef]:
    """Serve a path by GET only: clients repeat a POST as GET when they see 405."""
    return [web.get(path, handler, allow_head=False)]
