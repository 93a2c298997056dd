"""What can go wrong with a query; every error knows its Prometheus ``errorType``."""

from __future__ import annotations

from typing import ClassVar

from ...config.errors import TachographError


class PromqlError(TachographError):
    """
    Root of the errors of parsing and evaluating PromQL.

    Attributes:
        error_type: ``bad_data``, ``execution``, ``timeout`` or ``canceled``, as the HTTP API names
            them.
    """

    error_type: ClassVar[str] = "execution"


def line_and_column(text: str, position: int) -> tuple[int, int]:
    """
    Turn a character position into a line and a column, both from 1.

    Columns count UTF-8 bytes, as Prometheus does, so that editors which mark errors by them agree.
    """
    line_start = text.rfind("\n", 0, position) + 1
    line = text.count("\n", 0, position) + 1
    return line, len(text[line_start:position].encode("utf-8", "surrogatepass")) + 1


class ParseError(PromqlError):
    """
    The text is no PromQL expression, or one whose types do not fit.

    Attributes:
        message: What is wrong, without the position.
        position: Characters from 0 into ``text``.
        text: The whole query.
    """

    error_type: ClassVar[str] = "bad_data"

    def __init__(self, message: str, position: int, text: str) -> None:
        line, column = line_and_column(text, position)
        super().__init__(f"{line}:{column}: parse error: {message}")
        self.message, self.position, self.text = message, position, text


class BadQuery(PromqlError):
    """The query is well-formed but cannot be asked in this way (its type, its time range)."""

    error_type: ClassVar[str] = "bad_data"


class ExecutionError(PromqlError):
    """The query cannot be answered from the data it met."""


class TooManySamples(ExecutionError):
    """The query would hold more samples in memory than it may."""

    def __init__(self, limit: int) -> None:
        super().__init__(
            "query processing would load too many samples into memory in query execution"
        )
        self.limit = limit


class QueryTimeout(PromqlError):
    """The query ran out of time."""

    error_type: ClassVar[str] = "timeout"

    def __init__(self, stage: str = "expression evaluation") -> None:
        super().__init__(f"query timed out in {stage}")
        self.stage = stage


class QueryCanceled(PromqlError):
    """Nobody waits for the query any more."""

    error_type: ClassVar[str] = "canceled"

    def __init__(self, stage: str = "expression evaluation") -> None:
        super().__init__(f"query was canceled in {stage}")
        self.stage = stage
