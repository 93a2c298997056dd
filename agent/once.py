"""One collection without a store: what would be collected, printed as an exposition."""

from __future__ import annotations

import asyncio
from typing import Final, TextIO

from ..config import Config
from ..storage.clock import SystemClock
from ..storage.current import Current
from ..storage.frame import FloatArray, IntArray, RefArray
from ..storage.labels import Index
from ..storage.metadata import Families
from ..storage.model import Kind, Labels, Metadata
from .collectors.business import business_sources
from .collectors.host import HostSource
from .collectors.process import ProcessSource, own_process
from .collectors.scrape_http import open_session
from .collectors.scrape_pool import ScrapePool
from .collectors.source import Source
from .http.exposition import ExpositionRenderer
from .http.negotiation import choose

#: CPU in percent is a difference between two passes.
_BETWEEN_PASSES_S: Final = 1.0


class _CurrentOnly:
    """A sink that keeps the newest value of each series; all groups are one."""

    def __init__(self, config: Config) -> None:
        self.index = Index(config.storage.limits)
        self.current = Current()
        self.families = Families()

    def group(self, name: str) -> _CurrentOnly:
        return self

    def ref(self, labels: Labels, kind: Kind = Kind.UNKNOWN) -> int:
        series = self.index.find(labels) or self.index.add(labels, kind, 0)
        return series.ref

    def describe(self, family: str, metadata: Metadata) -> None:
        self.families.set(family, metadata)

    def append(self, ts_ms: int, refs: RefArray, values: FloatArray) -> None:
        self.current.update(refs, ts_ms, values)

    def append_points(self, refs: RefArray, ts_ms: IntArray, values: FloatArray) -> None:
        self.current.update(refs, ts_ms, values)

    async def committed(self) -> None:
        return None


async def print_once(config: Config, out: TextIO) -> int:
    """
    Collect from every source, twice where rates need it, and print what came of it.

    Returns:
        1 if a source failed (the reason goes before the exposition as a comment), else 0.
    """
    clock, sink = SystemClock(), _CurrentOnly(config)
    async with open_session() as session:
        pool = ScrapePool(sink, clock, session)
        await pool.apply(config.scrape_configs)
        timeout_s = config.metrics.collection.timeout_ms / 1000
        host: list[Source] = [
            ProcessSource(sink, watch, namespace=config.namespace, timeout_s=timeout_s)
            for watch in (own_process(), *config.metrics.process)
        ]
        if config.metrics.system.enabled:
            system = config.metrics.system
            host.append(HostSource(sink, system, namespace=config.namespace, timeout_s=timeout_s))
        business = business_sources(config, sink, session)
        sources: list[Source] = [*host, *business, *pool.sources]
        await asyncio.gather(*(_pass(each, clock) for each in host))
        await clock.sleep(_BETWEEN_PASSES_S)
        failures = await asyncio.gather(*(_pass(each, clock) for each in sources))
        failures += [
            f"{target.labels}: {status.last_error}"
            for target, status in pool.active()
            if status.last_error
        ]
        for source in sources:
            await source.close()
    failed = [failure for failure in failures if failure]
    for failure in failed:
        print(f"# failed: {failure}", file=out)
    renderer = ExpositionRenderer(sink.index, sink.current, sink.families)
    out.write(renderer.render(choose("").style, clock.now_ms()).decode())
    return 1 if failed else 0


async def _pass(source: Source, clock: SystemClock) -> str:
    try:
        async with asyncio.timeout(source.timeout_s):
            await source.collect(clock.now_ms())
    except Exception as error:  # one source's failure is part of what is shown
        return f"{source.name}: {error or type(error).__name__}"
    return ""
