"""What a setting may hold: how its text is read, written, described and put into JSON Schema."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import Any, Final, TypeVar

from .secret import MASK, Secret
from .units import (
    DURATION_MAX_MS,
    SIZE_MAX_BYTES,
    format_duration,
    format_size,
    parse_duration,
    parse_size,
)

T = TypeVar("T")

_TRUE: Final = frozenset({"true", "yes", "on"})
_FALSE: Final = frozenset({"false", "no", "off"})


class Kind:
    """
    One kind of value. ``word`` is what the documentation calls it.

    Kinds are heterogeneous by nature, hence the ``Any`` in their signatures.
    """

    word = "value"


class Scalar(Kind, ABC):
    """A kind read from one YAML scalar, whatever YAML itself takes its text for."""

    @abstractmethod
    def parse(self, text: str) -> Any:
        """Read ``text``; a ``ValueError`` carries the whole message for the user."""

    def plain(self, value: Any) -> Any:
        """Turn a parsed value back into what YAML writes: str, int or bool."""
        return value

    @abstractmethod
    def schema(self) -> dict[str, Any]:
        """The JSON Schema of what may be written in YAML."""


class Text(Scalar):
    """Any text, or text of one form; ``form`` says in words what ``pattern`` demands."""

    word = "text"

    def __init__(self, pattern: str = "", form: str = "", *, empty: bool = True) -> None:
        self.pattern, self.form, self.empty = pattern, form, empty

    def parse(self, text: str) -> str:
        if not text and not self.empty:
            raise ValueError("must not be empty")
        if self.pattern and not re.fullmatch(self.pattern, text, re.ASCII):
            raise ValueError(f'"{text}" is not {self.form}')
        return text

    def schema(self) -> dict[str, Any]:
        # A number in YAML is text to us, as it is to Prometheus: `labels: {shard: 1}`.
        schema: dict[str, Any] = {"type": ["string", "number", "boolean"]}
        if self.pattern:
            schema = {"type": "string", "pattern": f"^(?:{self.pattern})$"}
        if not self.empty:
            schema["minLength"] = 1
        return schema


class Flag(Scalar):
    word = "boolean"

    def parse(self, text: str) -> bool:
        lowered = text.lower()
        if lowered not in _TRUE | _FALSE:
            raise ValueError(f'"{text}" is not a boolean; write true or false')
        return lowered in _TRUE

    def schema(self) -> dict[str, Any]:
        return {"type": "boolean"}


class Integer(Scalar):
    word = "integer"

    def __init__(self, minimum: int = 0, maximum: int = 2**53 - 1) -> None:
        self.minimum, self.maximum = minimum, maximum

    def parse(self, text: str) -> int:
        if not re.fullmatch(r"[+-]?[0-9](?:_?[0-9]){0,18}", text, re.ASCII):
            raise ValueError(f'"{text}" is not a whole number')
        return _bounded(int(text), self.minimum, self.maximum, str)

    def schema(self) -> dict[str, Any]:
        return {"type": "integer", "minimum": self.minimum, "maximum": self.maximum}


class Duration(Scalar):
    """Milliseconds inside, ``1h30m`` outside. Unless ``minimum_ms`` is given, 0 is allowed."""

    word = "duration"

    def __init__(self, minimum_ms: int = 0, maximum_ms: int = DURATION_MAX_MS) -> None:
        self.minimum_ms, self.maximum_ms = minimum_ms, maximum_ms

    def parse(self, text: str) -> int:
        return _bounded(parse_duration(text), self.minimum_ms, self.maximum_ms, format_duration)

    def plain(self, value: Any) -> Any:
        return format_duration(value)

    def schema(self) -> dict[str, Any]:
        units = "".join(f"([0-9]+{unit})?" for unit in ("y", "w", "d", "h", "m", "s", "ms"))
        text = {"type": "string", "pattern": f"^(?=[0-9])(0|{units})$"}
        return text if self.minimum_ms else {"anyOf": [text, {"const": 0}]}


class Size(Scalar):
    """Bytes inside, ``2GiB`` outside."""

    word = "size"

    def __init__(self, minimum_bytes: int = 0, maximum_bytes: int = SIZE_MAX_BYTES) -> None:
        self.minimum_bytes, self.maximum_bytes = minimum_bytes, maximum_bytes

    def parse(self, text: str) -> int:
        return _bounded(parse_size(text), self.minimum_bytes, self.maximum_bytes, format_size)

    def plain(self, value: Any) -> Any:
        text = format_size(value)
        return value if text.isdigit() else text

    def schema(self) -> dict[str, Any]:
        text = {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)? ?([KMGTPE](iB|B)?|B)?$"}
        return {"anyOf": [text, {"type": "integer", "minimum": self.minimum_bytes}]}


class Choice(Scalar):
    word = "choice"

    def __init__(self, *choices: str) -> None:
        self.choices = choices

    def parse(self, text: str) -> str:
        if text in self.choices:
            return text
        raise ValueError(
            f'"{text}" is not one of {", ".join(self.choices)}{near(text, self.choices)}'
        )

    def schema(self) -> dict[str, Any]:
        return {"enum": list(self.choices)}


class SecretText(Scalar):
    """Text that is never shown again; always beside a ``*_file`` setting that names a file."""

    word = "secret"

    def parse(self, text: str) -> Secret:
        return Secret(text)

    def plain(self, value: Any) -> Any:
        return MASK

    def schema(self) -> dict[str, Any]:
        return {"type": ["string", "number"]}


class Url(Scalar):
    """An HTTP URL without user and password: those belong into a setting that is never shown."""

    word = "URL"

    def __init__(self, *, optional: bool = False) -> None:
        self.optional = optional

    def parse(self, text: str) -> str:
        if not text and self.optional:
            return text
        if not re.fullmatch(r"https?://[^\s/?#]+[^\s]*", text):
            raise ValueError(
                f'"{text.rpartition("@")[2]}" is not a URL; write http://host:port/path'
            )
        if "@" in re.split("[/?#]", text.partition("://")[2], maxsplit=1)[0]:
            raise ValueError("a URL must not hold a password; write it into basic_auth")
        return text

    def schema(self) -> dict[str, Any]:
        pattern = r"^https?://[^\s/?#@]+([/?#]\S*)?$"
        return {"type": "string", "pattern": f"^$|{pattern}" if self.optional else pattern}


class FilePath(Scalar):
    """
    The path of a file.

    A relative one is taken from the folder of the file it is written in, as Prometheus does, or
    ``from_cwd``. Inside it is a ``Path``, or with ``glob`` a ``str`` for :mod:`glob`.

    Attributes:
        secret: A check looks whether others can read the file.
        expected: Without the file, a check finds an error and not only something to mention.
    """

    word = "path"

    def __init__(
        self,
        *,
        secret: bool = False,
        glob: bool = False,
        from_cwd: bool = False,
        expected: bool = True,
    ) -> None:
        self.secret, self.glob, self.from_cwd = secret, glob, from_cwd
        self.expected = expected

    def parse(self, text: str) -> Path | str:
        if not text:
            raise ValueError("a path must not be empty")
        if "\0" in text:
            raise ValueError("a path has no NUL character")
        return text if self.glob else Path(text)

    def joined(self, directory: Path, value: Path | str) -> Path | str:
        """Take ``value`` from ``directory`` if it is relative."""
        if self.from_cwd:
            return value
        return str(directory / value) if self.glob else directory / value

    def plain(self, value: Any) -> Any:
        return str(value)

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "minLength": 1}


class Regex(Scalar):
    """A regular expression of RE2's syntax, as text; compiled by whoever uses it."""

    word = "regular expression"

    def parse(self, text: str) -> str:
        from .regex import compile_regex

        compile_regex(text)
        return text

    def schema(self) -> dict[str, Any]:
        return {"type": ["string", "number"]}


class SelectorText(Scalar):
    """A PromQL instant selector, as text; ``everything`` allows ``{}``."""

    word = "selector"

    def __init__(self, *, everything: bool = False) -> None:
        self.everything = everything

    def parse(self, text: str) -> str:
        from .errors import SelectorError
        from .selector import parse_selector

        try:
            parse_selector(text, allow_empty=self.everything)
        except SelectorError as error:
            raise ValueError(f"{text!r} is not a selector: {error.message}") from None
        return text

    def schema(self) -> dict[str, Any]:
        return {"type": "string"}


class JmesPath(Scalar):
    """A JMESPath expression, as text; compiled by whoever uses it."""

    word = "JMESPath"

    def __init__(self, *, optional: bool = False) -> None:
        self.optional = optional

    def parse(self, text: str) -> str:
        if not text and self.optional:
            return text
        from .jmes import compile_path

        compile_path(text)
        return text

    def schema(self) -> dict[str, Any]:
        return {"type": "string", **({} if self.optional else {"minLength": 1})}


class ListOf(Kind):
    """A YAML sequence; a tuple inside. In no two items may the field ``unique`` be the same."""

    def __init__(self, item: Kind, *, unique: str = "") -> None:
        self.item, self.unique = item, unique
        self.word = f"list of {item.word}"


class MapOf(Kind):
    """A YAML mapping of free keys to one kind of value; a dict inside."""

    def __init__(self, item: Kind, keys: Scalar | None = None) -> None:
        self.item, self.keys = item, keys or Text(empty=False)
        self.word = f"map to {item.word}"


class Section(Kind):
    """A mapping with known keys: one of the dataclasses of :mod:`.settings`."""

    word = "section"

    def __init__(self, model: type[Any]) -> None:
        self.model = model


class Tagged(Kind):
    """A section whose ``tag`` key says which of several dataclasses it is."""

    word = "section"

    def __init__(self, tag: str, models: Mapping[str, type[Any]]) -> None:
        self.tag, self.models = tag, models


class Setting:
    """What a field of a settings dataclass carries in its metadata beside type and default."""

    __slots__ = ("about", "key", "kind")

    def __init__(self, kind: Kind, about: str, key: str | None) -> None:
        self.kind, self.about, self.key = kind, about, key


def setting(default: T, kind: Kind, about: str, *, key: str | None = None) -> T:
    """
    Declare an optional setting of a dataclass.

    Args:
        default: The value inside (milliseconds, bytes, a tuple, a section).
        about: The sentence that the documentation, the template and the JSON Schema show.
        key: The YAML key; by default the field's name, for durations without its ``_ms``.
    """
    metadata = {"setting": Setting(kind, about, key)}
    if isinstance(default, dict):
        return field(default_factory=default.copy, metadata=metadata)  # type: ignore[return-value]
    return field(default=default, metadata=metadata)


def required(kind: Kind, about: str, *, key: str | None = None) -> dict[str, Setting]:
    """The metadata of a setting that must be given: ``x: str = field(metadata=required(...))``."""
    return {"setting": Setting(kind, about, key)}


def near(word: str, known: Sequence[str]) -> str:
    """Return ``; did you mean 'x'?`` if one of ``known`` is close to ``word``, else nothing."""
    import difflib

    lowered = {name.lower(): name for name in known}
    # 0.6 finds one or two wrong letters in a short key, and not words that only share an ending.
    found = difflib.get_close_matches(word.lower()[:100], list(lowered), n=1, cutoff=0.6)
    return f"; did you mean '{lowered[found[0]]}'?" if found else ""


def _bounded(value: int, minimum: int, maximum: int, show: Callable[[int], str]) -> int:
    if value < minimum:
        raise ValueError(f"{show(value)} is too small; the least is {show(minimum)}")
    if value > maximum:
        raise ValueError(f"{show(value)} is too large; the most is {show(maximum)}")
    return value
