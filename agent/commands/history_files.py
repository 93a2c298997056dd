"""Files of history: which format one has, and its lines a block at a time, unpacked."""

from __future__ import annotations

import gzip
import io
import os
import re
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Final, cast

from ...config.errors import TachographError

STDIN: Final = "-"
#: Lines are read so many bytes at a time; a line is never longer than that.
BLOCK_BYTES: Final = 1 << 20
_LINE_BYTES_MAX: Final = 64 << 20
_GZIP_MAGIC: Final = b"\x1f\x8b"
_PEEK_BYTES: Final = 64 << 10

FORMATS: Final = ("openmetrics", "csv", "vm-jsonl")
READ_FORMATS: Final = (*FORMATS, "prometheus")
_SUFFIXES: Final = {
    ".csv": "csv",
    ".json": "vm-jsonl",
    ".jsonl": "vm-jsonl",
    ".ndjson": "vm-jsonl",
    ".om": "openmetrics",
    ".openmetrics": "openmetrics",
}
_JSON: Final = re.compile(rb"\s*\{\s*\"(metric|values|timestamps)\"\s*:")
# A sample with a time of so many digits: they are milliseconds, as no file is from the year 2286.
_MILLIS: Final = re.compile(
    rb"^(?:[a-zA-Z_:][a-zA-Z0-9_:]*+[ \t]*+(?:\{.*\})?|\{.*\})[ \t]*+"
    rb"[^ \t\n{}]++[ \t]++\d{11,19}[ \t]*+\r?$",
    re.MULTILINE,
)
_CSV: Final = re.compile(rb"(\xef\xbb\xbf)?[^#{\n]*\bvalue\b[^{\n]*(\n|\Z)")


class HistoryFile:
    """
    One file to import, or standard input.

    Raises:
        TachographError: It cannot be opened.
    """

    def __init__(self, name: str) -> None:
        self.name = "standard input" if name == STDIN else name
        self._suffixes = [] if name == STDIN else [each.lower() for each in Path(name).suffixes]
        try:
            self._raw = _opened(name)
            self.size_bytes = 0 if name == STDIN else os.fstat(self._raw.fileno()).st_size
        except OSError as error:
            raise TachographError(f"cannot read {name}: {error.strerror}") from error
        self._counted = _Counted(self._raw)
        self._stream: io.BufferedReader | gzip.GzipFile = io.BufferedReader(
            self._counted, _PEEK_BYTES
        )

    @property
    def read_bytes(self) -> int:
        """How much was read, as it lies on the disk."""
        return self._counted.count

    def __enter__(self) -> HistoryFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._raw is not sys.stdin.buffer:
            self._raw.close()

    def format(self) -> str:
        """
        Tell the format, by the name or else by how it begins; call it before :meth:`blocks`.

        Raises:
            TachographError: It cannot be read.
        """
        suffixes = [each for each in self._suffixes if each != ".gz"]
        head = self._head()
        if suffixes and suffixes[-1] in _SUFFIXES:
            return _SUFFIXES[suffixes[-1]]
        if _JSON.match(head):
            return "vm-jsonl"
        if _CSV.match(head):
            return "csv"
        return "prometheus" if _MILLIS.search(head) else "openmetrics"

    def blocks(self) -> Iterator[bytes]:
        """
        Yield the text in blocks of whole lines, without the last line feed of each.

        Raises:
            TachographError: It cannot be read to its end, or has a line beyond all bounds.
        """
        self._head()
        rest = b""
        try:
            while block := self._stream.read(BLOCK_BYTES):
                whole, line_feed, tail = block.rpartition(b"\n")
                if line_feed:
                    yield rest + whole
                    rest = tail
                elif len(rest) > _LINE_BYTES_MAX:
                    raise TachographError(
                        f"{self.name}: a line is longer than {_LINE_BYTES_MAX} bytes"
                    )
                else:
                    rest += block
        except (OSError, EOFError, zlib.error) as error:
            raise TachographError(f"{self.name} cannot be read to its end: {error}") from error
        if rest:
            yield rest

    def _head(self) -> bytes:
        """Return how the text begins, and unpack it from now on if need be."""
        try:
            head = self._stream.peek(_PEEK_BYTES)
            if head.startswith(_GZIP_MAGIC) and not isinstance(self._stream, gzip.GzipFile):
                self._stream = gzip.GzipFile(fileobj=self._stream)
                head = self._stream.peek(_PEEK_BYTES)
            return head
        except (OSError, EOFError, zlib.error) as error:
            raise TachographError(f"{self.name} cannot be read: {error}") from error


def _opened(name: str) -> io.BufferedReader:
    # Standard input is one, too, though its type doesn't say so.
    return cast(io.BufferedReader, sys.stdin.buffer) if name == STDIN else Path(name).open("rb")


def format_named(path: Path | None) -> str | None:
    """Tell a format by a file's name; ``None`` if it says nothing."""
    return None if path is None else _SUFFIXES.get(_suffix(path))


def is_name_unknown(path: Path) -> bool:
    """Whether a file's name ends in something that means another format, or none."""
    return bool(_suffix(path)) and _suffix(path) not in _SUFFIXES


def _suffix(path: Path) -> str:
    """Return what tells the format; empty if a name ends without."""
    suffixes = [each.lower() for each in path.suffixes if each.lower() != ".gz"]
    return suffixes[-1] if suffixes else ""


class _Counted(io.RawIOBase):
    """Counts what is read of a file."""

    def __init__(self, file: io.BufferedReader) -> None:
        self._file = file
        self.count = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:  # a buffer, which Python 3.11 has no type for
        # One read of the system at a time: a signal that comes in between is looked at only when
        # Python has its turn again, and the next read of a pipe may take for ever.
        data = self._file.read1(len(buffer))
        buffer[: len(data)] = data
        self.count += len(data)
        return len(data)
