"""When each source is collected: phases, deadlines, back-off, and what is known of every pass."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import zlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from ...storage.clock import Clock
from ...storage.errors import StoreUnavailable
from ...storage.sink import Sink
from .source import Ending, Noting, Source
from .tick import Block, Family, TickWriter, counter, gauge

LOG = logging.getLogger(__name__)

# A pass is stamped with its scheduled time if it starts this near to it, so that timestamps stay
# exactly one interval apart and compress. Prometheus allows 2 ms; an event loop that also answers
# queries is often 5 to 20 ms late, which is 0.2 % of a 10 s interval. Never more than 1 % of it.
TOLERANCE_MIN_MS: Final = 2
TOLERANCE_MAX_MS: Final = 20
# Wall minus monotonic time moves by less than this unless somebody set the clock or the machine
# slept: NTP slews both alike.
CLOCK_STEP_MS: Final = 1_000
BACKOFF_MAX_S: Final = 300.0
# The prompt first pass is left to the first tick if that comes within this time: differences over
# a shorter span (CPU in percent) would be noise.
NEAR_MS: Final = 1_000
SKIP_REASONS: Final = ("late", "overrun", "backoff")

UP = gauge("tachograph_source_up", "1 if the last pass of the source succeeded, else 0.")
DURATION = gauge("tachograph_source_duration_seconds", "How long the last pass took.")
ERRORS = counter("tachograph_source_errors_total", "Passes that failed or timed out.")
INTERVAL = gauge(
    "tachograph_source_interval_seconds",
    "Time from this pass to the next one that is planned; longer than configured in back-off.",
)
SKIPPED = counter(
    "tachograph_source_skipped_ticks_total",
    "Passes left out. late: the agent or the machine slept, or the clock was set forward;"
    " overrun: the pass before took too long; backoff: the source failed repeatedly.",
)


@dataclass(slots=True)
class SourceStatus:
    """
    What is known of one source.

    Attributes:
        failures: Failed passes in a row; 0 while it works.
        last_error: Text of the newest failure; stays after the source recovers.
        note: What the newest pass lacked although it worked.
        last_pass_ms, next_pass_ms: Stamp of the last pass and wall time of the next planned one;
            0 for none yet.
    """

    name: str
    interval_s: float
    passes: int = 0
    errors: int = 0
    failures: int = 0
    last_error: str = ""
    note: str = ""
    last_pass_ms: int = 0
    next_pass_ms: int = 0
    duration_s: float = 0.0
    skipped: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True)
class ScheduleStats:
    """
    Totals over all sources since the start.

    Attributes:
        clock_step_s: Sum of the absolute wall clock steps.
        unwritten: Passes whose ``tachograph_source_*`` the store could not take.
        abandoned: Removed sources whose pass would not end.
    """

    passes: int = 0
    errors: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    clock_steps: int = 0
    clock_step_s: float = 0.0
    unwritten: int = 0
    abandoned: int = 0


def phase_of(name: str, interval_ms: int, seed: str = "") -> int:
    """
    Return where in its interval a source is collected, 0 up to ``interval_ms``, exclusive.

    It depends on the name only, so ticks fall on the same times after a restart; ``seed`` (the
    host's name) keeps many agents from asking one target at the same moment.
    """
    return zlib.crc32(f"{seed}\0{name}".encode()) % interval_ms


def aligned_after(after_ms: int, interval_ms: int, phase_ms: int) -> int:
    """Return the first tick after ``after_ms``: ticks are ``phase_ms`` modulo ``interval_ms``."""
    return after_ms - (after_ms - phase_ms) % interval_ms + interval_ms


def backoff_ticks(failures: int, interval_s: float) -> int:
    """
    Return how many ticks to leave out after so many failures in a row: 0, 1, 3, 7, ….

    One failure costs nothing more; then the pause doubles up to ``BACKOFF_MAX_S``, or the interval
    if that is longer.
    """
    cap = max(1, int(BACKOFF_MAX_S // interval_s))
    return min(1 << min(max(failures - 1, 0), 32), cap) - 1


class _Entry:
    """A source on the schedule, with its place in time."""

    def __init__(self, source: Source, sink: Sink, seed: str) -> None:
        self.source = source
        self.interval_ms = max(1, round(source.interval_s * 1000))
        self.phase_ms = phase_of(source.name, self.interval_ms, seed)
        one_percent = self.interval_ms // 100
        self.tolerance_ms = min(max(one_percent, TOLERANCE_MIN_MS), TOLERANCE_MAX_MS)
        self.status = SourceStatus(source.name, source.interval_s)
        self.task: asyncio.Task[None] | None = None
        self.writer: TickWriter | None = None
        if not source.reports_itself:
            self.writer = TickWriter(sink, f"source/{source.name}", labels={"source": source.name})

    def blocks(self) -> list[Block]:
        status = self.status
        values = [
            float(status.failures == 0),
            status.duration_s,
            status.errors,
            max(0, status.next_pass_ms - status.last_pass_ms) / 1000,
            *(status.skipped[reason] for reason in SKIP_REASONS),
        ]
        return [Block("source", values, _own_series)]


def _own_series() -> list[tuple[Family, dict[str, str]]]:
    plain: list[tuple[Family, dict[str, str]]] = [
        (family, {}) for family in (UP, DURATION, ERRORS, INTERVAL)
    ]
    return plain + [(SKIPPED, {"reason": reason}) for reason in SKIP_REASONS]


class Schedule:
    """
    Runs each source at its own interval and phase; one that breaks or hangs disturbs no other.

    A new source makes its first pass within about ``startup_spread_s``, then on ticks that are
    aligned to the Unix epoch plus its phase. Missed ticks are counted and never made up for. The
    time to wait is monotonic and recomputed from the wall clock for each tick, so after a step of
    the clock the ticks are aligned again at once.

    Args:
        seed: Moves all phases of this agent, see :func:`phase_of`.
        startup_spread_s: The first passes are spread over so many seconds.
        stop_timeout_s: How long the removal of a source waits for a pass that doesn't let itself
            be cancelled, before it goes on without.
    """

    def __init__(
        self,
        clock: Clock,
        sink: Sink,
        *,
        seed: str = "",
        startup_spread_s: float = 1.0,
        stop_timeout_s: float = 5.0,
    ) -> None:
        self.stats = ScheduleStats()
        self._clock, self._sink, self._seed = clock, sink, seed
        self._stop_timeout_s = stop_timeout_s
        self._startup_spread_ms = round(startup_spread_s * 1000)
        self._entries: dict[str, _Entry] = {}
        self._tasks: asyncio.TaskGroup | None = None
        self._clock_offset_ms: int | None = None

    def add(self, source: Source) -> None:
        """
        Put a source on the schedule; it starts at once if :meth:`run` is active.

        Raises:
            ValueError: The name is taken.
        """
        self._add(source, prompt=True)

    async def remove(self, name: str) -> None:
        """
        Stop a source, end its own series and close it.

        Raises:
            KeyError: There is no such source.
        """
        entry = self._entries.pop(name)
        await self._stop(entry)
        await self._close(entry.source)
        with contextlib.suppress(StoreUnavailable):
            if isinstance(entry.source, Ending):
                entry.source.end_series(self._clock.now_ms())
            if entry.writer is not None:
                entry.writer.end(self._clock.now_ms())

    async def replace(self, sources: Iterable[Source]) -> None:
        """
        Make ``sources`` the whole schedule. One that equals the running one of its name leaves that
        one undisturbed (and is closed itself, if it is another object); a changed one keeps the
        phase and begins with the next tick.

        Raises:
            ValueError: Two sources have the same name; nothing was changed.
        """
        wanted: dict[str, Source] = {}
        for source in sources:
            if source.name in wanted:
                raise ValueError(f"two sources are called {source.name!r}")
            wanted[source.name] = source
        old = dict(self._entries)
        changed = [name for name in old if name in wanted and old[name].source != wanted[name]]
        gone = [name for name in old if name not in wanted]
        # Together: one that ignores its cancellation must not hold up the others.
        await asyncio.gather(*(self.remove(name) for name in (*changed, *gone)))
        for name, source in wanted.items():
            if name in self._entries:
                if source is not self._entries[name].source:
                    await self._close(source)
            else:
                self._add(source, prompt=name not in changed)

    def status(self) -> list[SourceStatus]:
        """What is known of each source now, in order of being added; live objects, read only."""
        return [entry.status for entry in self._entries.values()]

    async def run(self) -> None:
        """Collect until cancelled, then close every source."""
        self._watch_clock()
        try:
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                for entry in self._entries.values():
                    self._start(entry, prompt=True)
                await asyncio.Event().wait()
        except asyncio.CancelledError:
            for entry in self._entries.values():
                await self._close(entry.source)
            raise
        finally:
            self._tasks = None

    def _add(self, source: Source, prompt: bool) -> None:
        if source.name in self._entries:
            raise ValueError(f"there is a source called {source.name!r} already")
        entry = self._entries[source.name] = _Entry(source, self._sink, self._seed)
        if self._tasks is not None:
            self._start(entry, prompt)

    def _start(self, entry: _Entry, prompt: bool) -> None:
        assert self._tasks is not None
        entry.task = self._tasks.create_task(
            self._loop(entry, prompt), name=f"collect:{entry.source.name}"
        )

    async def _stop(self, entry: _Entry) -> None:
        if entry.task is None:
            return
        entry.task.cancel()
        _, pending = await asyncio.wait({entry.task}, timeout=self._stop_timeout_s)
        if pending:
            self.stats.abandoned += 1
            LOG.error("source %s does not stop; it is left behind", entry.source.name)

    async def _close(self, source: Source) -> None:
        try:
            await source.close()
        except Exception:  # a source that can't close must not keep the others open
            LOG.exception("source %s failed to close", source.name)

    async def _loop(self, entry: _Entry, prompt: bool) -> None:
        status, interval_ms = entry.status, entry.interval_ms
        due_ms = self._first_due_ms(entry, prompt)
        while True:
            status.next_pass_ms = due_ms
            await self._clock.sleep((due_ms - self._clock.now_ms()) / 1000)
            self._watch_clock()
            now_ms = self._clock.now_ms()
            late = max(0, now_ms - due_ms) // interval_ms
            self._skip(status, "late", late)
            due_ms += late * interval_ms
            is_punctual = abs(now_ms - due_ms) <= entry.tolerance_ms
            error = await self._pass(entry, due_ms if is_punctual else now_ms)
            # Woken just before its time (the clock was set back a little), a tick is not due again.
            base_ms = due_ms if 0 <= due_ms - now_ms < interval_ms // 2 else now_ms
            due_ms = aligned_after(base_ms, interval_ms, entry.phase_ms)
            overrun = (self._clock.now_ms() - due_ms) // interval_ms + 1
            if overrun > 0:
                self._skip(status, "overrun", overrun)
                due_ms += overrun * interval_ms
            # A store that can't take samples is no reason to leave the source alone.
            if entry.source.backs_off and error and not isinstance(error, StoreUnavailable):
                pause = backoff_ticks(status.failures, entry.source.interval_s)
                self._skip(status, "backoff", pause)
                due_ms += pause * interval_ms
            self._report(entry, due_ms)

    def _first_due_ms(self, entry: _Entry, prompt: bool) -> int:
        """Return when to begin: soon if ``prompt``, unless the first tick is near anyway."""
        now_ms = self._clock.now_ms()
        tick_ms = aligned_after(now_ms, entry.interval_ms, entry.phase_ms)
        soon_ms = now_ms + self._startup_spread_ms * entry.phase_ms // entry.interval_ms
        is_near = tick_ms - soon_ms <= min(entry.interval_ms // 10, NEAR_MS)
        return soon_ms if prompt and not is_near else tick_ms

    async def _pass(self, entry: _Entry, ts_ms: int) -> Exception | None:
        """Collect once and return what the source raised."""
        source, status = entry.source, entry.status
        began_s = self._clock.monotonic_s()
        error: Exception | None = None
        try:
            async with asyncio.timeout(source.timeout_s) as deadline:
                await source.collect(ts_ms)
        except TimeoutError as raised:
            error = raised
            if deadline.expired():
                error = TimeoutError(f"no answer within {source.timeout_s:g} s")
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            # Not we were cancelled but a task within the source: its pass has merely failed.
            error = RuntimeError("cancelled from within")
        except Exception as raised:
            error = raised
        status.duration_s = self._clock.monotonic_s() - began_s
        status.last_pass_ms = ts_ms
        status.note = source.note if error is None and isinstance(source, Noting) else ""
        status.passes += 1
        self.stats.passes += 1
        self._note(status, error)
        return error

    def _note(self, status: SourceStatus, error: Exception | None) -> None:
        """Count a pass, and log it if the source's state changed with it."""
        if error is None:
            if status.failures:
                failures = f"{status.failures} failure{'s' if status.failures > 1 else ''}"
                LOG.info("source %s works again after %s", status.name, failures)
            status.failures = 0
            return
        status.last_error = str(error) or type(error).__name__
        if not status.failures:
            LOG.warning("source %s failed: %s", status.name, status.last_error)
        status.failures += 1
        status.errors += 1
        self.stats.errors += 1

    def _skip(self, status: SourceStatus, reason: str, ticks: int) -> None:
        if ticks > 0:
            status.skipped[reason] += ticks
            self.stats.skipped[reason] += ticks

    def _report(self, entry: _Entry, next_ms: int) -> None:
        entry.status.next_pass_ms = next_ms
        if entry.writer is None:
            return
        try:
            entry.writer.write(entry.status.last_pass_ms, entry.blocks())
        except StoreUnavailable:  # the store says so itself; there is nowhere else to write it
            self.stats.unwritten += 1

    def _watch_clock(self) -> None:
        offset_ms = self._clock.now_ms() - round(self._clock.monotonic_s() * 1000)
        before_ms, self._clock_offset_ms = self._clock_offset_ms, offset_ms
        if before_ms is None or abs(step_ms := offset_ms - before_ms) <= CLOCK_STEP_MS:
            return
        self.stats.clock_steps += 1
        self.stats.clock_step_s += abs(step_ms) / 1000
        LOG.warning("the clock was set by %+.3f s, or the machine slept", step_ms / 1000)
