"""``POST /api/v1/write``: Prometheus remote write 1.0 and 2.0, committed before the answer."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final

from aiohttp import hdrs, web

from ...config.settings import HttpSettings
from ...storage.store import Store
from ..ingest.remote_series import SeriesTable
from ..ingest.remote_store import RemoteWriter, Written
from ..ingest.remote_write import STEPS_MAX, WriteBatch, decode_1, decode_2
from ..wire import snappy
from ..wire.errors import TooLong, TooMany, WireError
from .body import Budget, Share, read_body, too_large
from .errors import ApiError, ErrorType

PATH: Final = "/api/v1/write"
#: Message of a 2.0 sender, as its Content-Type names it.
MESSAGE_2: Final = "io.prometheus.write.v2.Request"
_MESSAGE_1: Final = "prometheus.WriteRequest"
_PROTOBUF: Final = "application/x-protobuf"

# Longest bodies that all requests together may hold, packed and unpacked.
_BODIES_HELD: Final = 4
# Decoding that many bytes of known series takes some 4 ms; more is left to a thread, and so is what
# takes more steps, its series being new.
_INLINE_BYTES: Final = 1 << 20
_INLINE_STEPS: Final = 10_000
_SENDER_CHARS: Final = 64

Decode = Callable[[bytes, SeriesTable, int], WriteBatch]


class RemoteWriteEndpoint:
    """Takes remote write requests in; good samples are stored, whatever is wrong with others."""

    def __init__(self, store: Store, writer: RemoteWriter, http: HttpSettings) -> None:
        self._store, self._writer, self._http = store, writer, http
        self._decoding = asyncio.Lock()
        self.budget = Budget(_BODIES_HELD * http.max_body_bytes)

    def routes(self) -> list[web.AbstractRouteDef]:
        return [web.post(PATH, self.post)]

    async def post(self, request: web.Request) -> web.Response:
        """
        Store the samples of a request.

        204 says that all are committed; 400 that some never can be, the others being committed;
        503 and 429 that the sender shall try again.
        """
        version = _version(request)
        coding = request.headers.get(hdrs.CONTENT_ENCODING, "").strip().lower() or "snappy"
        if coding not in ("snappy", "zstd"):
            raise _unsupported(f"Content-Encoding {coding!r} is not snappy or zstd")
        with self.budget.share() as share:
            body = await read_body(
                request,
                self._http.max_body_bytes,
                share,
                passthrough=("snappy",),
                timeout_s=self._http.body_timeout_ms / 1000,
            )
            try:
                batch = await self._decode(body, version, coding, share)
            except TooLong as error:
                raise too_large(error.limit_bytes) from None
            except TooMany as error:
                return web.Response(status=413, text=f"{error}\n")
            except WireError as error:
                return web.Response(status=400, text=f"{error}\n")
            del body
            self._writer.stats.requests[version] += 1
            written = await self._writer.write(batch, _sender(request))
        await self._store.committed()
        return _answer(written, version)

    async def _decode(self, body: bytes, version: str, coding: str, share: Share) -> WriteBatch:
        decode: Decode = decode_1 if version == "1.0" else decode_2
        table = self._writer.table
        limit = self._http.max_body_bytes
        unpacked = len(body)
        if coding == "snappy":
            unpacked = snappy.unpacked_bytes(body, limit)
            share.take(unpacked)

        def raw() -> bytes:
            return snappy.decompress(body, limit) if coding == "snappy" else body

        if unpacked <= _INLINE_BYTES:
            with contextlib.suppress(TooMany):
                return decode(raw(), table, _INLINE_STEPS)
        # One at a time: more wouldn't be faster, and each takes several times its body.
        async with self._decoding:
            return await asyncio.to_thread(lambda: decode(raw(), table, STEPS_MAX))


def routes(store: Store, writer: RemoteWriter, http: HttpSettings) -> list[web.AbstractRouteDef]:
    return RemoteWriteEndpoint(store, writer, http).routes()


def _version(request: web.Request) -> str:
    """Tell the protocol's version by what the sender says of the body."""
    header = request.headers.get(hdrs.CONTENT_TYPE, "")
    if not header:
        return "1.0"  # old senders
    media_type, _, parameters = header.partition(";")
    message = _MESSAGE_1
    for parameter in parameters.split(";"):
        name, _, value = parameter.strip().partition("=")
        if name.lower() == "proto":
            message = value.strip('"')
    if media_type.strip().lower() == _PROTOBUF:
        if message == _MESSAGE_1:
            return "1.0"
        if message == MESSAGE_2:
            return "2.0"
    raise _unsupported(
        f"Content-Type {header[:200]!r} is not {_PROTOBUF} with {_MESSAGE_1} or {MESSAGE_2}"
    )


def _unsupported(message: str) -> ApiError:
    return ApiError(ErrorType.BAD_DATA, message, status=415)


def _sender(request: web.Request) -> str:
    """Name who sends: the address, and the program as far as it says."""
    program = request.headers.get(hdrs.USER_AGENT, "").partition("/")[0].strip()
    return f"{request.remote or 'local'} {program}".strip()[:_SENDER_CHARS]


def _answer(written: Written, version: str) -> web.Response:
    headers = {}
    if version == "2.0":
        headers = {
            "X-Prometheus-Remote-Write-Samples-Written": str(written.samples),
            "X-Prometheus-Remote-Write-Histograms-Written": "0",
            "X-Prometheus-Remote-Write-Exemplars-Written": str(written.exemplars),
        }
    if not written.refused:
        return web.Response(status=204, headers=headers)
    refused = written.refused.total()
    others = ", the others stored" if written.samples else ""
    faults = "; ".join(
        f"{written.refused[reason]} {reason}: {fault}" for reason, fault in written.faults.items()
    )
    text = f"{refused} of {refused + written.samples} samples refused{others}: {faults}\n"
    return web.Response(status=400, text=text, headers=headers)
