"""A program as business figures: its exit code and what it prints."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from ...config.errors import ConfigError
from ...config.secret import read_secret
from ...config.sources import CommandSource
from ...storage.model import METRIC_NAME, Kind, Metadata, MetricType
from ..ingest.exposition import ExpositionError, Parser, Syntax
from .figures import Figure, SourceError, as_number, masked
from .tick import Family, gauge

EXIT_CODE: Final = gauge(
    "command_exit_code", "Exit code of a business source's program; 128 and more: a signal."
)

# What a program gets of our environment. It has no business with the agent's own secrets.
_PASSED_ON: Final = ("PATH", "HOME", "USER", "LOGNAME", "SHELL", "TZ", "TMPDIR", "LANG")
_PAIR: Final = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)\s*=\s*(\S+)")
_STDERR_BYTES: Final = 4096
_CHUNK_BYTES: Final = 64 * 1024
#: A program that was told to end (SIGTERM) is killed after so long.
_END_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class _Exposed(Family):
    """A family as a program exposes it; its series may be of any kind."""

    exposed_kind: Kind = Kind.UNKNOWN

    @property
    def kind(self) -> Kind:
        return self.exposed_kind


@dataclass(frozen=True, slots=True)
class _Ended:
    code: int
    output: bytes
    complaint: str


class CommandReader:
    """
    Runs one program each pass, without a shell, in a session of its own, with nothing to read. When
    the pass ends before it does, it and all that it started are ended.
    """

    def __init__(self, settings: CommandSource) -> None:
        self._settings = settings

    async def read(self) -> Sequence[Figure]:
        settings = self._settings
        secrets = {name: value.reveal() for name, value in settings.environment.items()}
        try:
            for name, path in settings.environment_files.items():
                secrets[name] = (await asyncio.to_thread(read_secret, path)).reveal()
        except ConfigError as error:
            raise SourceError(str(error)) from None
        ended = await self._run(secrets)
        exit_code = Figure.of(EXIT_CODE, {"command": settings.name}, ended.code)
        if settings.output == "none":
            return [exit_code]
        if ended.code:
            said = masked(ended.complaint, secrets.values())
            raise SourceError(
                f"exit code {ended.code}" + (f": {said}" if said else ""), [exit_code]
            )
        try:
            return [exit_code, *_figures(settings, ended.output)]
        except SourceError as error:
            raise SourceError(masked(str(error), secrets.values()), [exit_code]) from None

    async def close(self) -> None:
        return None

    async def _run(self, secrets: Mapping[str, str]) -> _Ended:
        settings = self._settings
        try:
            process = await asyncio.create_subprocess_exec(
                *settings.command,
                stdin=DEVNULL,
                stdout=PIPE,
                stderr=PIPE,
                cwd=settings.working_directory,
                env={**_environment(), **secrets},
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise SourceError(f"cannot run {settings.command[0]}: {reason}") from None
        try:
            output, complaint, code = await asyncio.gather(
                self._output(process), _complaint(process), process.wait()
            )
        finally:
            await _end(process)
        # A signal's number is negative here and, in shells and so in people's heads, above 128.
        return _Ended(code if code >= 0 else 128 - code, output, complaint)

    async def _output(self, process: Process) -> bytes:
        assert process.stdout is not None
        limit, output = self._settings.max_bytes, bytearray()
        while chunk := await process.stdout.read(_CHUNK_BYTES):
            if self._settings.output == "none":
                continue
            output += chunk
            if len(output) > limit:
                raise SourceError(f"it prints more than max_bytes allows ({limit})")
        return bytes(output)


async def _complaint(process: Process) -> str:
    """Return the last line of stderr, reading all of it."""
    assert process.stderr is not None
    tail = b""
    while chunk := await process.stderr.read(_CHUNK_BYTES):
        tail = (tail + chunk)[-_STDERR_BYTES:]
    lines = tail.decode("utf-8", "replace").strip().splitlines()
    return lines[-1] if lines else ""


async def _end(process: Process) -> None:
    """End a program with all that it started; none is left when the pass is over."""
    if process.returncode is None:
        _signal_group(process, signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_END_S):
                await process.wait()
    # Also what it left in the background: it would hold the pipes, and pile up pass by pass.
    _signal_group(process, signal.SIGKILL)
    await process.wait()
    # A reader that was cancelled leaves its pipe open, and its descriptor with it.
    process._transport.close()  # type: ignore[attr-defined]  # asyncio has no other way


def _signal_group(process: Process, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def _environment() -> dict[str, str]:
    return {
        name: value
        for name, value in os.environ.items()
        if name in _PASSED_ON or name.startswith("LC_")
    }


def _figures(settings: CommandSource, output: bytes) -> list[Figure]:
    if settings.output == "exposition":
        return _exposed(output)
    try:
        text = output.decode()
    except UnicodeDecodeError:
        raise SourceError("it prints something that is not UTF-8") from None
    if settings.output == "value":
        value = as_number(text.strip(), "its output")
        assert value is not None
        return [Figure.of(gauge(settings.metric, settings.help), {}, value)]
    return _pairs(text)


def _pairs(text: str) -> list[Figure]:
    figures = []
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        match = _PAIR.fullmatch(line)
        if match is None:
            raise SourceError(f"line {number} is not name=value: {line[:60]!r}")
        value = as_number(match[2], f"line {number}")
        assert value is not None
        figures.append(Figure.of(gauge(match[1], ""), {}, value))
    return figures


def _exposed(output: bytes) -> list[Figure]:
    is_open = output.rstrip().endswith(b"# EOF")
    try:
        page = Parser().parse(output, Syntax.OPENMETRICS if is_open else Syntax.TEXT)
    except ExpositionError as error:
        raise SourceError(str(error)) from None
    known: dict[int, tuple[Family, dict[str, str]]] = {}
    for series in page.new:
        labels = dict(series.labels)
        name = labels.pop(METRIC_NAME, "")
        if not name:
            raise SourceError("a sample has no metric name")
        known[series.slot] = _family(name, series.kind, page.metadata), labels
    return [
        Figure.of(*known[slot], value)
        for slot, value in zip(page.slots.tolist(), page.values.tolist(), strict=True)
    ]


def _family(name: str, kind: Kind, metadata: Mapping[str, Metadata]) -> Family:
    """Return the family of a sample: its own name, or that without what a histogram adds."""
    for suffix in ("", "_bucket", "_sum", "_count"):
        known = metadata.get(name.removesuffix(suffix)) if name.endswith(suffix) else None
        if known is not None and (
            not suffix or known.type in (MetricType.HISTOGRAM, MetricType.SUMMARY)
        ):
            base = name.removesuffix(suffix)
            return _Exposed(base, known.type, known.help, suffix, exposed_kind=kind)
    return _Exposed(name, MetricType.UNKNOWN, "", exposed_kind=kind)
