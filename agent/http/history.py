"""
History in and out: ``POST /api/tachograph/v1/import``, ``GET /api/tachograph/v1/export``, and the
same under VictoriaMetrics' names, ``/api/v1/import`` and ``/api/v1/export``.
"""

from __future__ import annotations

import asyncio
import zlib
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from aiohttp import hdrs, web

from ...config.settings import HttpSettings
from ...storage.clock import Clock
from ...storage.store import Store
from ..ingest.history import Run
from ..ingest.history_export import CONTENT_TYPES, WRITERS, HistoryExport
from ..ingest.history_import import HistoryImporter, Imported
from ..ingest.history_jsonl import JsonLinesReader
from .body import too_large
from .errors import ApiError, ErrorType
from .forms import Form
from .params import bad
from .respond import get, respond

_IMPORT: Final = "/api/tachograph/v1/import"
_EXPORT: Final = "/api/tachograph/v1/export"
_VM_IMPORT: Final = "/api/v1/import"
_VM_EXPORT: Final = "/api/v1/export"

#: A batch is committed once so much text has come together; its samples take some ten times that.
_BATCH_BYTES: Final = 4 << 20
#: Inflated at a time, so that a small body of zeros never becomes a large one.
_INFLATE_BYTES: Final = 1 << 20
#: Long answers that are written at a time: each takes a share of the readers.
_EXPORTS_MAX: Final = 2
_BUSY_RETRY_S: Final = 5

_WBITS: Final = {
    "gzip": zlib.MAX_WBITS | 16,
    "x-gzip": zlib.MAX_WBITS | 16,
    "deflate": zlib.MAX_WBITS,
}


@dataclass(slots=True)
class HistoryStats:
    """
    Attributes:
        imports: Bodies of which a batch was read.
        imported: Samples stored.
        refused: Samples that weren't, by reason as in ``Imported``.
        bad_lines: Lines that can't be read.
        exports: Texts begun.
        exporting: Texts under way now.
        exported: Samples read for the texts that are over, cut off or not.
        exports_refused: Texts not begun, as so many others were under way.
    """

    imports: int = 0
    imported: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    bad_lines: int = 0
    exports: int = 0
    exporting: int = 0
    exported: int = 0
    exports_refused: int = 0


class HistoryEndpoint:
    """Takes history in batch by batch, each committed before the next is read, and gives it out."""

    def __init__(self, store: Store, clock: Clock, http: HttpSettings) -> None:
        self.stats = HistoryStats()
        self._store, self._http = store, http
        self._importer = HistoryImporter(store, clock)
        # One at a time: more wouldn't be faster, and each takes its batch's memory.
        self._importing = asyncio.Lock()

    def routes(self) -> list[web.AbstractRouteDef]:
        return [
            web.post(_IMPORT, self.post),
            web.post(_VM_IMPORT, self.post_as_vm),
            *get(_EXPORT, self.export),
            *get(_VM_EXPORT, self.export_as_vm),
        ]

    # --- In -----------------------------------------------------------------------------------

    async def post(self, request: web.Request) -> web.Response:
        """Store JSON lines. 200 tells what became of them, refused samples and bad lines too."""
        imported, reader = await self._import(request)
        data = {
            "samples": imported.samples,
            "refused": dict(imported.refused),
            "faults": imported.faults,
            "badLines": reader.bad.count,
            "firstBadLines": [{"line": line, "reason": why} for line, why in reader.bad.first],
            "days": [str(np.datetime64(day, "D")) for day in sorted(imported.days)],
        }
        return respond(request, data)

    async def post_as_vm(self, request: web.Request) -> web.Response:
        """Store JSON lines. 204 says that all are committed; 400 that some never can be."""
        imported, reader = await self._import(request)
        if not imported.refused and not reader.bad.count:
            return web.Response(status=204)
        reasons = [
            f"{count} samples: {imported.faults[r]}" for r, count in imported.refused.items()
        ]
        reasons += [f"line {line}: {reason}" for line, reason in reader.bad.first]
        raise ApiError(
            ErrorType.BAD_DATA,
            f"{imported.samples} samples are stored, but not all: {'; '.join(reasons)}",
        )

    async def _import(self, request: web.Request) -> tuple[Imported, JsonLinesReader]:
        imported, reader, stats = Imported(), JsonLinesReader(), self.stats
        is_first = True
        async for text in self._batches(request):
            stats.imports += is_first
            is_first = False
            async with self._importing:
                bad_lines = reader.bad.count
                runs = await asyncio.to_thread(_decode, reader, text)
                stats.bad_lines += reader.bad.count - bad_lines
                written = await self._importer.write(runs)
                # Batch by batch: what was stored stays, whatever becomes of the rest.
                stats.imported += written.samples
                stats.refused.update(written.refused)
                imported.add(written)
        return imported, reader

    async def _batches(self, request: web.Request) -> AsyncIterator[bytes]:
        """Yield the body, inflated, in batches of whole lines."""
        limit = self._http.max_body_bytes
        pieces: list[bytes] = []
        size = 0
        async for piece in _inflated(request, self._http.body_timeout_ms / 1000):
            pieces.append(piece)
            size += len(piece)
            if size < _BATCH_BYTES:
                continue
            text = b"".join(pieces)
            whole, line_feed, rest = text.rpartition(b"\n")
            if line_feed:
                yield whole
            elif size > limit:
                raise too_large(limit)
            pieces, size = [rest], len(rest)
        if size:
            yield b"".join(pieces)

    # --- Out ----------------------------------------------------------------------------------

    async def export(self, request: web.Request) -> web.StreamResponse:
        form = await Form.of(request, self._http)
        format_ = form.get("format", "vm-jsonl")
        if format_ not in WRITERS:
            raise bad("format", f'"{format_}" is not one of {", ".join(WRITERS)}')
        return await self._export(request, form, format_)

    async def export_as_vm(self, request: web.Request) -> web.StreamResponse:
        return await self._export(request, await Form.of(request, self._http), "vm-jsonl")

    async def _export(self, request: web.Request, form: Form, format_: str) -> web.StreamResponse:
        wanted = await form.selectors(required=False)
        min_ms, max_ms = form.range_ms()
        stats = self.stats
        if stats.exporting >= _EXPORTS_MAX:
            stats.exports_refused += 1
            raise ApiError(
                ErrorType.UNAVAILABLE,
                f"{stats.exporting} exports are under way; try again",
                status=429,
                retry_after_s=_BUSY_RETRY_S,
            )
        found = HistoryExport(
            WRITERS[format_](), self._store.families, wanted or [()], min_ms, max_ms
        )
        stats.exports += 1
        stats.exporting += 1
        try:
            response = web.StreamResponse(headers={hdrs.CONTENT_TYPE: CONTENT_TYPES[format_]})
            # The first piece comes before the headers: what fails then is an error like any other.
            first = await self._store.read(found.step)
            await response.prepare(request)
            await response.write(first)
            while not found.is_over:
                await response.write(await self._store.read(found.step))
            await response.write_eof()
            return response
        finally:
            stats.exporting -= 1
            stats.exported += found.samples


def _decode(reader: JsonLinesReader, text: bytes) -> list[Run]:
    reader.feed(text.split(b"\n"))
    return reader.take()


async def _inflated(request: web.Request, timeout_s: float) -> AsyncIterator[bytes]:
    """
    Yield a body of any length in pieces, unpacked.

    Raises:
        ApiError: 415 unknown coding, 400 damaged or cut off, 408 nothing comes any more.
    """
    coding = request.headers.get(hdrs.CONTENT_ENCODING, "").strip().lower()
    if coding not in ("", "identity", "gzip", "x-gzip", "deflate"):
        raise ApiError(
            ErrorType.BAD_DATA, f"Content-Encoding {coding!r} is not gzip or deflate", status=415
        )
    stream = None if coding in ("", "identity") else zlib.decompressobj(_WBITS[coding])
    chunks = request.content.iter_any()
    try:
        while True:
            try:
                async with asyncio.timeout(timeout_s):
                    chunk = await anext(chunks)
            except StopAsyncIteration:
                break
            except TimeoutError:
                message = f"nothing more of the body came for {timeout_s:g} s"
                raise ApiError(ErrorType.TIMEOUT, message, status=408) from None
            if stream is None:
                yield chunk
                continue
            while chunk:
                if stream.eof:  # packed in parallel, it may be several streams
                    stream = zlib.decompressobj(_WBITS[coding])
                yield stream.decompress(chunk, _INFLATE_BYTES)
                chunk = stream.unused_data if stream.eof else stream.unconsumed_tail
    except (web.RequestPayloadError, asyncio.IncompleteReadError, zlib.error) as error:
        raise ApiError(ErrorType.BAD_DATA, "the body is damaged or incomplete") from error
    if stream is not None and not stream.eof:
        raise ApiError(ErrorType.BAD_DATA, "the packed body is incomplete")
