"""JMESPath expressions, checked further than the library does: functions that do not exist, too."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import jmespath
from jmespath.exceptions import (
    EmptyExpressionError,
    IncompleteExpressionError,
    JMESPathError,
    LexerError,
    ParseError,
)
from jmespath.functions import Functions
from jmespath.parser import ParsedResult

from .kinds import near

#: What the library parses by recursion must not be built to exhaust the stack.
_LENGTH_MAX: Final = 4096


def compile_path(text: str) -> ParsedResult:
    """
    Compile an expression.

    Raises:
        ValueError: It is none; the message says what and where.
    """
    if len(text) > _LENGTH_MAX:
        raise ValueError(f"a JMESPath has at most {_LENGTH_MAX} characters")
    try:
        compiled = jmespath.compile(text)
    except EmptyExpressionError:
        raise ValueError("must not be empty; @ is the whole") from None
    except IncompleteExpressionError:
        raise ValueError(f"{text!r} is not a JMESPath: it ends too early") from None
    except LexerError as error:
        place = error.lexer_position + 1
        raise ValueError(f"{text!r} is not a JMESPath: {error.message} at {place}") from None
    except ParseError as error:
        place = error.lex_position + 1
        found = f"unexpected {error.token_value!r}" if error.token_value else "it ends"
        raise ValueError(f"{text!r} is not a JMESPath: {found} at {place}") from None
    except (JMESPathError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        raise ValueError(f"{text!r} is not a JMESPath: {reason}") from None
    for name, arguments in _calls(compiled.parsed):
        _check_call(text, name, arguments)
    return compiled


def _check_call(text: str, name: str, arguments: int) -> None:
    table = Functions.FUNCTION_TABLE
    if name not in table:
        raise ValueError(f"{text!r}: there is no function {name!r}{near(name, tuple(table))}")
    signature = table[name]["signature"]
    variadic = bool(signature) and bool(signature[-1].get("variadic"))
    if arguments < len(signature) or (arguments > len(signature) and not variadic):
        least = "at least " if variadic else ""
        raise ValueError(f"{text!r}: {name}() takes {least}{len(signature)} arguments")


def _calls(tree: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """Yield name and number of arguments of every call in a syntax tree."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if node.get("type") == "function_expression":
            yield str(node["value"]), len(node["children"])
        waiting += [child for child in node.get("children", ()) if isinstance(child, Mapping)]
