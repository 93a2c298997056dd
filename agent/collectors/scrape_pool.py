"""All scrape targets: which there are, which came and went, and what is known of each."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import aiohttp

from ...config.prometheus import FileSdConfig, ScrapeConfig
from ...storage.clock import Clock
from ...storage.errors import StoreUnavailable
from ...storage.model import Labels
from ...storage.sink import Sink
from ..ingest.exposition import SAMPLES_MAX
from .file_discovery import FileDiscovery
from .relabel import Step, compile_steps
from .scrape import OnExemplars, ScrapeSource, ScrapeStats, ScrapeTools, TargetStatus
from .scrape_http import Fetcher
from .scrape_page import PageRules
from .targets import Discovery, Target, TargetGroup, discover, static_groups

LOG = logging.getLogger(__name__)

# Looking at the time stamp of a few files costs nothing, and a new target need not wait for
# `refresh_interval`, which is how long it takes at most in Prometheus, too.
FILES_CHECK_S: Final = 5.0
#: Of one job. Each target is a task and a connection; the list of a wrong job ends somewhere.
TARGETS_MAX: Final = 10_000
#: Dropped targets of one job that are kept to be shown.
DROPPED_MAX: Final = 1_000
PROBLEMS_MAX: Final = 100


@dataclass(slots=True)
class _Job:
    """
    A scrape config, made ready.

    Attributes:
        how: The settings without what only decides which targets there are.
    """

    config: ScrapeConfig
    how: ScrapeConfig
    target_steps: tuple[Step, ...]
    rules: PageRules
    fetcher: Fetcher
    files: list[FileDiscovery]
    found: Discovery = field(default_factory=lambda: Discovery([], [], []))

    @property
    def forced_error(self) -> str:
        number, limit = len(self.found.targets), self.config.target_limit
        if not limit or number <= limit:
            return ""
        return f"target_limit exceeded (number of targets: {number}, limit: {limit})"


class ScrapePool:
    """
    Holds a source per target.

    Sources of targets that stay as they are stay themselves, so that a schedule that is given all
    of them leaves these alone. The sequence for the owner is always: new sources, onto the
    schedule (which stops the old ones), :meth:`end_removed`.

    Args:
        session: From :func:`.scrape_http.open_session`; its owner closes it.
        extra_report: Also write ``scrape_timeout_seconds`` and the like for each scrape.
        samples_max: A page of more fails; not below what the store takes.
    """

    def __init__(
        self,
        sink: Sink,
        clock: Clock,
        session: aiohttp.ClientSession,
        *,
        extra_report: bool = False,
        on_exemplars: OnExemplars | None = None,
        samples_max: int = SAMPLES_MAX,
    ) -> None:
        self.stats = ScrapeStats()
        self._clock, self._session, self._samples_max = clock, session, samples_max
        self._tools = ScrapeTools(sink, clock, self.stats, extra_report, on_exemplars)
        self._jobs: list[_Job] = []
        self._sources: dict[str, ScrapeSource] = {}
        self._how: dict[str, ScrapeConfig] = {}
        self._removed: dict[str, ScrapeSource] = {}
        self._told: set[str] = set()
        self._changing = asyncio.Lock()

    @property
    def sources(self) -> list[ScrapeSource]:
        """One per target."""
        return list(self._sources.values())

    async def apply(self, configs: Sequence[ScrapeConfig]) -> list[ScrapeSource]:
        """
        Take new settings, with interval and timeout filled in, and return all sources.

        Raises:
            ConfigError: A relabelling step is wrong; nothing has changed.
        """
        async with self._changing:
            known = {file.config: file for job in self._jobs for file in job.files}
            self._jobs = [self._job(config, known) for config in configs]
            await self._discover()
        return self.sources

    async def refresh(self) -> bool:
        """Look for changes in the files of targets; True if the sources are others now."""
        if not any(job.files for job in self._jobs):
            return False
        async with self._changing:
            before = self.sources
            await self._discover()
        return self.sources != before

    async def run(self, on_change: Callable[[list[ScrapeSource]], Awaitable[None]]) -> None:
        """
        Watch the files of targets until cancelled.

        Args:
            on_change: Puts all sources onto the schedule. It must not return before those that are
                missing now have stopped.
        """
        while True:
            await self._clock.sleep(FILES_CHECK_S)
            if await self.refresh():
                await on_change(self.sources)
                self.end_removed()

    def end_removed(self) -> None:
        """End the series of targets that are gone; their sources must have stopped."""
        removed, self._removed = self._removed, {}
        for source in removed.values():
            try:
                source.end(self._clock.now_ms())
            except StoreUnavailable:
                # The series then end by lookback, five minutes later. Not worth a queue.
                LOG.warning("%s: could not write the end of its series", source.name)

    def active(self) -> list[tuple[Target, TargetStatus]]:
        """All targets that are scraped, job by job, and how they fare; live objects."""
        return [(source.target, source.status) for source in self._sources.values()]

    def dropped(self) -> list[tuple[str, Labels]]:
        """Job and discovered labels of targets that relabelling dropped, the first of each job."""
        return [
            (job.config.job_name, labels)
            for job in self._jobs
            for labels in job.found.dropped[:DROPPED_MAX]
        ]

    def dropped_count(self) -> dict[str, int]:
        """How many targets relabelling dropped, by job."""
        return {job.config.job_name: len(job.found.dropped) for job in self._jobs}

    def problems(self) -> list[str]:
        """What is wrong with the targets' files and addresses now."""
        found: list[str] = []
        for job in self._jobs:
            for discovery in job.files:
                found += (f"{path}: {text}" for path, text in discovery.problems.items())
            found += job.found.problems
            if len(job.found.targets) > TARGETS_MAX:
                found.append(
                    f"{job.config.job_name}: only the first {TARGETS_MAX}"
                    f" of {len(job.found.targets)} targets are scraped"
                )
        return found[:PROBLEMS_MAX]

    def _job(self, config: ScrapeConfig, known: dict[FileSdConfig, FileDiscovery]) -> _Job:
        return _Job(
            config=config,
            how=_how(config),
            target_steps=compile_steps(config.relabel_configs),
            rules=PageRules.of(
                config, compile_steps(config.metric_relabel_configs), self._samples_max
            ),
            fetcher=Fetcher(self._session, config, config.body_size_limit_bytes),
            files=[known.get(file) or FileDiscovery(file) for file in config.file_sd_configs],
        )

    async def _discover(self) -> None:
        for job in self._jobs:
            groups = static_groups(job.config)
            if job.files:
                groups += await asyncio.to_thread(_read_files, job.files)
            job.found = discover(job.config, job.target_steps, groups)
        self._match()
        problems = self.problems()
        for problem in problems:
            if problem not in self._told:
                LOG.warning("scrape targets: %s", problem)
        self._told = set(problems)

    def _match(self) -> None:
        """Bring the sources in line with the targets."""
        wanted = [(job, target) for job in self._jobs for target in job.found.targets[:TARGETS_MAX]]
        # Removed and back before anybody noticed: its series go on.
        old = {**self._removed, **self._sources}
        names = self._names([target for _, target in wanted])
        self._sources, how = {}, {}
        for (job, target), name in zip(wanted, names, strict=True):
            how[name] = job.how
            source = old.get(name)
            if source is None or how[name] != self._how.get(name) or not _is_same(source, target):
                source = self._new_source(job, target, name, source)
            source.target = target  # found differently, perhaps
            source.forced_error = job.forced_error
            self._sources[name] = source
        self._how = how
        self._removed = {n: source for n, source in old.items() if n not in self._sources}

    def _new_source(
        self, job: _Job, target: Target, name: str, old: ScrapeSource | None
    ) -> ScrapeSource:
        source = ScrapeSource(
            name,
            target,
            job.fetcher,
            job.rules,
            self._tools,
            honor_timestamps=job.config.honor_timestamps,
        )
        if old is not None:
            source.succeed(old)
        return source

    def _names(self, targets: Sequence[Target]) -> list[str]:
        """
        Name each target after its job and instance. Of several with the same two, the others get
        a digest; a target that is there already keeps the name it has.
        """
        kept = {
            (source.target.job, *source.target.identity): name
            for name, source in self._sources.items()
        }
        names = [kept.get((target.job, *target.identity), "") for target in targets]
        taken = set(names)
        for place, target in enumerate(targets):
            if not names[place]:
                name = target.group
                if name in taken:
                    name = f"{name}/{target.digest}"
                while name in taken:  # the same target in two jobs
                    name += "+"
                taken.add(name)
                names[place] = name
        return names


def _how(config: ScrapeConfig) -> ScrapeConfig:
    return replace(
        config,
        static_configs=(),
        file_sd_configs=(),
        relabel_configs=(),
        target_limit=0,
        scrape_interval_ms=0,
        scrape_timeout_ms=0,
        metrics_path="/",
        params={},
        scheme="http",
    )


def _is_same(source: ScrapeSource, target: Target) -> bool:
    old = source.target
    same_time = (old.interval_ms, old.timeout_ms) == (target.interval_ms, target.timeout_ms)
    return same_time and (old.job, old.identity) == (target.job, target.identity)


def _read_files(files: Sequence[FileDiscovery]) -> list[TargetGroup]:
    return [group for file in files for group in file.read()]
