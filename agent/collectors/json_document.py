"""A JSON document at an HTTP address as business figures, read by JMESPath."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import aiohttp
import msgspec
from yarl import URL

from ...config.errors import ConfigError
from ...config.prometheus import HttpHeader
from ...config.secret import Secret, read_secret
from ...config.sources import HttpJsonSource, JsonMetric
from ...storage.model import MetricType
from .figures import Figure, SourceError, as_label, as_number, masked
from .offload import CallHung, Offload
from .scrape_http import Answer, Fetcher, ScrapeError, basic_authorization, unpacked
from .tick import Family

if TYPE_CHECKING:
    from jmespath.parser import ParsedResult

LOG = logging.getLogger(__name__)

#: A document up to this long is read in some ms, and so on the event loop.
_INLINE_BYTES: Final = 16 * 1024
_PASS: Final = "document"


@dataclass(slots=True)
class JsonStats:
    """
    Attributes:
        unmatched: Documents in which the expressions of a metric led nowhere, by metric.
    """

    unmatched: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class _Paths:
    """A metric with its expressions, compiled."""

    settings: JsonMetric
    family: Family
    items: ParsedResult | None
    value: ParsedResult
    labels: Mapping[str, ParsedResult]


class JsonReader:
    """
    Reads one document.

    Args:
        session: From :func:`.scrape_http.open_session`; it belongs to the caller.
    """

    def __init__(
        self, settings: HttpJsonSource, session: aiohttp.ClientSession, timeout_s: float
    ) -> None:
        self.stats = JsonStats()
        #: Which expressions led nowhere in the last document.
        self.note = ""
        self._settings, self._timeout_s = settings, timeout_s
        client = settings.http_config
        headers = dict(client.http_headers)
        if not any(name.lower() == "accept" for name in headers):
            headers["Accept"] = HttpHeader(values=("application/json",))
        self._fetcher = Fetcher(session, replace(client, http_headers=headers), settings.max_bytes)
        self._offload = Offload(f"tachograph-json/{settings.name}")
        self._paths: list[_Paths] | None = None

    async def read(self) -> Sequence[Figure]:
        try:
            return await self._read()
        except SourceError as error:
            # What a server answers may be what it was sent.
            secrets = await asyncio.to_thread(_secrets, self._settings)
            raise SourceError(masked(str(error), secrets)) from None

    async def _read(self) -> Sequence[Figure]:
        params = {name: value.reveal() for name, value in self._settings.params.items()}
        url = URL(self._settings.url).update_query(params)
        try:
            answer = await self._fetcher.fetch(url, self._timeout_s)
        except ScrapeError as error:
            raise SourceError(str(error)) from None
        if len(answer.raw) <= _INLINE_BYTES and not answer.is_gzip:
            return self._figures(answer)
        results = await self._offload.run({_PASS: lambda: self._figures(answer)}, self._timeout_s)
        result = results[_PASS]
        if isinstance(result, CallHung):
            raise SourceError("the document takes too long to read")
        if isinstance(result, Exception):
            raise result
        return result

    async def close(self) -> None:
        self._offload.close()

    def _figures(self, answer: Answer) -> list[Figure]:
        from jmespath.exceptions import JMESPathError

        try:
            document = msgspec.json.decode(bytes(unpacked(answer, self._settings.max_bytes)))
        except ScrapeError as error:
            raise SourceError(str(error)) from None
        except (msgspec.DecodeError, RecursionError) as error:
            kind = answer.content_type.partition(";")[0]
            hint = "" if "json" in kind else f" (Content-Type is {kind[:80]!r})"
            raise SourceError(f"not JSON: {error}{hint}") from None
        if self._paths is None:
            self._paths = [_compiled(metric) for metric in self._settings.metrics]
        figures: list[Figure] = []
        notes: list[str] = []
        for paths in self._paths:
            name = paths.family.name
            try:
                found, fault = self._of_metric(paths, document)
            except (JMESPathError, RecursionError) as error:
                raise SourceError(f"{name}: {_first_line(error)}") from None
            figures += found
            if fault:
                notes.append(f"{name}: {fault}")
                if not self.stats.unmatched[name]:
                    LOG.warning("source http_json/%s: %s: %s", self._settings.name, name, fault)
                self.stats.unmatched[name] += 1
        self.note = "; ".join(notes)
        return figures

    def _of_metric(self, paths: _Paths, document: Any) -> tuple[list[Figure], str]:
        """Return the series of a metric, and what led nowhere: an empty list is none of that."""
        name = paths.family.name
        items = [document]
        if paths.items is not None:
            found = paths.items.search(document)
            if found is None:
                return [], f"items: {paths.settings.items!r} matches nothing in the document"
            if not isinstance(found, list):
                raise SourceError(f"{name}: items lead to no list")
            items = found
        if len(items) > self._settings.max_series:
            raise SourceError(
                f"{name}: {len(items)} items, more than max_series ({self._settings.max_series})"
            )
        figures = []
        for item in items:
            value = as_number(paths.value.search(item), name)
            if value is not None:
                labels = {
                    label: as_label(path.search(item), f"{name}, label {label}")
                    for label, path in paths.labels.items()
                }
                figures.append(Figure.of(paths.family, labels, value))
        if figures or not items:
            return figures, ""
        where = "any item" if paths.items is not None else "the document"
        return [], f"value: {paths.settings.value!r} matches nothing in {where}"


def _compiled(metric: JsonMetric) -> _Paths:
    import jmespath

    return _Paths(
        metric,
        Family(metric.name, MetricType(metric.type), metric.help),
        jmespath.compile(metric.items) if metric.items else None,
        jmespath.compile(metric.value),
        {label: jmespath.compile(path) for label, path in metric.labels.items()},
    )


def _secrets(settings: HttpJsonSource) -> list[str]:
    """What must not appear in a message. Blocks: some of it lies in files."""
    client = settings.http_config
    found: list[Secret | None] = list(settings.params.values())
    files: list[Path | None] = []
    for header in client.http_headers.values():
        found += header.secrets
        files += header.files
    if client.bearer is not None:
        found.append(client.bearer.credentials)
        files.append(client.bearer.credentials_file)
    if client.basic_auth is not None:
        found.append(client.basic_auth.password)
        files.append(client.basic_auth.password_file)
    for file in filter(None, files):
        with contextlib.suppress(ConfigError):  # gone meanwhile: then it was not sent either
            found.append(read_secret(file))
    texts = [secret.reveal() for secret in found if secret is not None]
    if client.basic_auth is not None:
        with contextlib.suppress(ConfigError):
            texts.append(basic_authorization(client.basic_auth))
    return texts


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
