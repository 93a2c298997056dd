"""What ``tachograph check config`` says: the loader's mistakes, and what a look outside shows."""

from __future__ import annotations

import glob
import os
import shutil
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from .errors import ConfigError
from .fields import settings_of
from .kinds import FilePath, Kind, ListOf, MapOf, Scalar, Section, Tagged
from .loader import Loaded, problem_lines, read_config
from .secret import MASK, Secret, read_secret, resolve_secret
from .settings import Config
from .sources import CommandSource, SqlSource
from .sqlurl import check_database_url
from .tree import Origin, Problem, Source, join_path
from .units import format_duration

#: What a file with a secret may allow: everything to its owner, reading to its group.
_TOO_OPEN: Final = 0o037


@dataclass(frozen=True, slots=True)
class CheckReport:
    """
    The outcome of a check, a line per finding.

    Attributes:
        errors: The agent would not start, or would not do what was asked for.
        warnings: It would, but someone should look; ``file:line:column: warning: path: message``.
    """

    errors: tuple[str, ...]
    warnings: tuple[str, ...]

    def lines(self) -> list[str]:
        return [*self.errors, *self.warnings]


def check_config(
    path: Path | None, *, env: Mapping[str, str], overrides: Sequence[str] = ()
) -> list[str]:
    """Return the lines of :func:`inspect_config`: errors, then warnings; empty if all is well."""
    return inspect_config(path, env=env, overrides=overrides).lines()


def inspect_config(
    path: Path | None, *, env: Mapping[str, str], overrides: Sequence[str] = ()
) -> CheckReport:
    """
    Load a configuration and look at the files it names: secrets, certificates, rules, targets.

    Reads the disk, opens no connection. Rules inside of ``rule_files`` are another check's.
    """
    loaded = read_config(path, env=env, overrides=overrides)
    if loaded.config is None:
        return CheckReport(tuple(problem_lines(loaded.problems)), ())
    inspector = _Inspector(loaded)
    inspector.inspect(loaded.config)
    return CheckReport(
        tuple(problem_lines(_sorted(inspector.errors))),
        tuple(
            str(Problem(problem.origin, "warning", f"{problem.path}: {problem.message}"))
            for problem in _sorted(inspector.warnings)
        ),
    )


def _sorted(problems: list[Problem]) -> list[Problem]:
    return sorted(problems, key=lambda problem: problem.origin.sort_key())


class _Inspector:
    """Collects what it finds, with the places that the loader remembers."""

    def __init__(self, loaded: Loaded) -> None:
        self._origins = loaded.origins
        name = str(loaded.files[0]) if loaded.files else "defaults"
        self._nowhere = Origin(Source(name, Path()))
        self.errors: list[Problem] = []
        self.warnings: list[Problem] = []

    def inspect(self, config: Config) -> None:
        self._secrets_in_place(config)
        for kind, value, path in _scalars(config, ""):
            if isinstance(kind, FilePath) and kind.glob:
                self._glob(str(value), path)
            elif isinstance(kind, FilePath):
                self._file(kind, value, path)
        self._listen(config)
        self._retention(config)
        for index, source in enumerate(config.sources):
            if isinstance(source, SqlSource):
                self._database(source, f"sources[{index}]")
            elif isinstance(source, CommandSource):
                self._program(source, f"sources[{index}]")
        for index, scrape in enumerate(config.scrape_configs):
            if not scrape.static_configs and not scrape.file_sd_configs:
                path = f"scrape_configs[{index}]"
                self._warn(path, "has neither static_configs nor file_sd_configs: nothing to do")

    def _file(self, kind: FilePath, value: Path, path: str) -> None:
        if path == "storage.path":
            if value.exists() and not value.is_dir():
                self._error(path, f"{value} is not a directory")
            return
        if path.endswith(".working_directory"):
            return  # looked at with the command that runs there
        try:
            mode = value.stat().st_mode
            if kind.secret:
                empty = not read_secret(value)
            else:
                with open(value, "rb") as file:
                    empty = not file.read(1)
        except OSError as error:
            tell = self._error if kind.expected else self._warn
            tell(path, f"{value} cannot be read: {error.strerror}")
            return
        except ConfigError as error:
            self._error(path, str(error))
            return
        if empty:
            self._error(path, f"{value} is empty")
        if kind.secret and os.name == "posix" and mode & _TOO_OPEN:
            rights = stat.filemode(mode)
            self._warn(path, f"{value} holds a secret and is {rights}; run chmod 600 {value}")

    def _glob(self, pattern: str, path: str) -> None:
        found = glob.glob(pattern)
        if not found and glob.has_magic(pattern):
            self._warn(path, f"{pattern} matches no file")
        elif not found:
            self._error(path, f"{pattern} does not exist")
        for name in found:
            if not os.access(name, os.R_OK) or os.path.isdir(name):
                self._error(path, f"{name} cannot be read")

    def _secrets_in_place(self, config: Config) -> None:
        """Warn once per configuration file that others can read and that holds a secret."""
        told: set[str] = set()
        for _, value, path in _scalars(config, ""):
            origin = self._origins.get(path)
            if not isinstance(value, Secret) or origin is None or os.name != "posix":
                continue
            if value.reveal().startswith("sqlite"):
                continue  # the URL of a file, which has no password in it
            name = origin.source.name
            if name in told or not origin.source.has_lines:
                continue
            told.add(name)
            mode = os.stat(name).st_mode
            if mode & _TOO_OPEN:
                rights = stat.filemode(mode)
                self._warn(path, f"a secret stands in {name}, which is {rights}; use a *_file")

    def _listen(self, config: Config) -> None:
        if config.insecure:
            self._warn("insecure", f"whoever reaches {config.listen} may read and write")

    def _retention(self, config: Config) -> None:
        """A tier that ends before a finer one only costs space: queries take the finer one."""
        retentions = [("storage.retention", config.storage.retention)]
        for index, policy in enumerate(config.storage.retention_policies):
            path = f"storage.retention_policies[{index}]"
            retentions.append((path, policy.over(config.storage.retention)))
        for path, retention in retentions:
            tiers = list(retention.by_tier().items())
            for (finer, finer_ms), (coarser, coarser_ms) in pairwise(tiers):
                if coarser_ms < finer_ms:
                    self._warn(
                        join_path(path, coarser),
                        f"{format_duration(coarser_ms)} is shorter than {finer}'s "
                        f"{format_duration(finer_ms)}; a coarser tier should be kept longer",
                    )

    def _database(self, source: SqlSource, path: str) -> None:
        """What its URL needs must be installed; nobody is connected to."""
        try:
            url = resolve_secret(source.url, source.url_file)
        except ConfigError:
            return  # told as a file that cannot be read
        if not url or url.reveal() == MASK:
            return
        problem = check_database_url(url)
        if problem:
            self._error(f"{path}.{'url' if source.url else 'url_file'}", problem)

    def _program(self, source: CommandSource, path: str) -> None:
        name, folder = source.command[0], source.working_directory
        if folder is not None and not folder.is_dir():
            self._error(f"{path}.working_directory", f"{folder} is not a directory")
            return
        # With a slash it is taken from where it runs, else looked for in PATH.
        where = os.path.join(folder or "", name) if "/" in name else name
        if shutil.which(where) is None:
            self._warn(f"{path}.command[0]", f"there is no program {name!r} here")

    def _error(self, path: str, message: str) -> None:
        self.errors.append(Problem(self._origin(path), path, message))

    def _warn(self, path: str, message: str) -> None:
        self.warnings.append(Problem(self._origin(path), path, message))

    def _origin(self, path: str) -> Origin:
        """Where ``path`` or the nearest section around it stands."""
        while path:
            if path in self._origins:
                return self._origins[path]
            path = path[: max(path.rfind("."), path.rfind("["), 0)]
        return self._nowhere


def _scalars(section: Any, path: str) -> Iterator[tuple[Scalar, Any, str]]:
    """Yield every single value that is set, with its kind and path."""
    for known in settings_of(type(section)):
        value = getattr(section, known.name)
        if value is not None:
            yield from _values(known.setting.kind, value, join_path(path, known.key))


def _values(kind: Kind, value: Any, path: str) -> Iterator[tuple[Scalar, Any, str]]:
    if isinstance(kind, (Section, Tagged)):
        yield from _scalars(value, path)
    elif isinstance(kind, ListOf):
        for index, item in enumerate(value):
            yield from _values(kind.item, item, join_path(path, index))
    elif isinstance(kind, MapOf):
        for key, item in value.items():
            yield from _values(kind.item, item, join_path(path, key))
    elif isinstance(kind, Scalar):
        yield kind, value, path
