"""Processes of the system: finding those that a watch means, and reading one of them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Final

import psutil

from ...config.settings import ProcessWatch

# The kernel keeps 15 characters of a name; psutil gives more where the command line shows them.
_COMM_CHARS: Final = 15


class ProcessGone(Exception):
    """The process has ended; its number may belong to another one by now."""


class PidFileError(Exception):
    """A pid file that is there and holds no number of a process."""


def find_pids(watch: ProcessWatch) -> list[int]:
    """
    Return the processes that ``watch`` means: one, none, or for a name all that bear it.

    Scanning for a name takes milliseconds, as it looks at every process.

    Raises:
        OSError: The pid file can't be read, other than for not being there.
        PidFileError: It can't be understood.
    """
    if watch.pid is not None:
        return [watch.pid]
    if watch.pid_file is not None:
        try:
            words = watch.pid_file.read_text("utf-8", "replace").split()
        except FileNotFoundError:
            return []
        if not words or not words[0].isascii() or not words[0].isdigit() or int(words[0]) < 1:
            raise PidFileError(f"{watch.pid_file} holds no process number")
        return [int(words[0])]
    wanted = watch.process_name
    found: list[int] = []
    for process in psutil.process_iter():
        try:
            name = process.name()
        except psutil.Error:
            continue
        if wanted in (name, name[:_COMM_CHARS]):
            found.append(process.pid)
    return sorted(found)


class Process:
    """
    One process, from the first look at it to its end.

    Raises:
        ProcessGone: There is none with this number.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        try:
            self._process = psutil.Process(pid)
        except psutil.NoSuchProcess as error:
            raise ProcessGone(f"no process {pid}") from error

    def read(self) -> dict[str, float]:
        """
        Return what can be read, by the names used in :mod:`.process`. Of another user's process
        some things can't.

        Raises:
            ProcessGone: It has ended, or is a zombie, or the number is another process' now.
        """
        try:
            if not self._process.is_running():
                raise ProcessGone(f"process {self.pid} has ended")
            with self._process.oneshot():
                if self._process.status() == psutil.STATUS_ZOMBIE:
                    raise ProcessGone(f"process {self.pid} is a zombie")
                fields: dict[str, float] = {}
                for part in _PARTS:
                    try:
                        fields |= part(self._process)
                    except psutil.AccessDenied:
                        continue
                return fields
        except psutil.NoSuchProcess as error:
            raise ProcessGone(f"process {self.pid} has ended") from error


def _cpu(process: psutil.Process) -> dict[str, float]:
    times = process.cpu_times()
    return {"cpu_user": times.user, "cpu_system": times.system}


def _memory(process: psutil.Process) -> dict[str, float]:
    memory = process.memory_info()
    return {"resident": memory.rss, "virtual": memory.vms}


def _threads(process: psutil.Process) -> dict[str, float]:
    switches = process.num_ctx_switches()
    return {
        "threads": process.num_threads(),
        "voluntary": switches.voluntary,
        "involuntary": switches.involuntary,
        # psutil adds the boot time to it, in floats; the kernel has hundredths.
        "start_time": round(process.create_time(), 2),
    }


def _open_files(process: psutil.Process) -> dict[str, float]:
    return {"open_fds": process.num_fds()}


def _max_files(process: psutil.Process) -> dict[str, float]:
    if sys.platform != "linux":
        return {}
    limit, _ = process.rlimit(psutil.RLIMIT_NOFILE)
    return {} if limit == psutil.RLIM_INFINITY else {"max_fds": limit}


def _disk(process: psutil.Process) -> dict[str, float]:
    if sys.platform == "darwin":  # psutil has no io_counters there
        return {}
    io = process.io_counters()
    return {"read_bytes": io.read_bytes, "written_bytes": io.write_bytes}


def _faults(process: psutil.Process) -> dict[str, float]:
    """Page faults, which psutil leaves out on Linux."""
    if sys.platform != "linux":
        return {}
    try:
        with open(f"/proc/{process.pid}/stat", "rb", buffering=0) as file:
            # The name, second and in parentheses, may hold blanks and parentheses itself.
            fields = file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError) as error:
        raise psutil.NoSuchProcess(process.pid) from error
    return {"minor": int(fields[7]), "major": int(fields[9])}


# Apart, so that one that is denied takes only its own fields with it.
_PARTS: Final[tuple[Callable[[psutil.Process], dict[str, float]], ...]] = (
    _cpu,
    _memory,
    _threads,
    _open_files,
    _max_files,
    _disk,
    _faults,
)
