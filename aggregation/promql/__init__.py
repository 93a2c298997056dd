"""
PromQL: parser, type checker and a vectorised engine.

Names load on first use, so that whoever only parses does not pay for numpy (PEP 562).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...config.lazy import lazy_names

if TYPE_CHECKING:
    from .ast_json import expr_to_json
    from .budget import Check, Deadline, QueryStats
    from .engine import Engine, EngineOptions
    from .errors import (
        BadQuery,
        ExecutionError,
        ParseError,
        PromqlError,
        QueryCanceled,
        QueryTimeout,
        TooManySamples,
    )
    from .lexer import ParseLimits
    from .nodes import Expr, ValueType
    from .parser import parse
    from .printer import format_expr, to_text
    from .result import Result
    from .selection import Querier

_HOME = {
    "BadQuery": "errors",
    "Check": "budget",
    "Deadline": "budget",
    "Engine": "engine",
    "EngineOptions": "engine",
    "ExecutionError": "errors",
    "Expr": "nodes",
    "ParseError": "errors",
    "ParseLimits": "lexer",
    "PromqlError": "errors",
    "Querier": "selection",
    "QueryCanceled": "errors",
    "QueryStats": "budget",
    "QueryTimeout": "errors",
    "Result": "result",
    "TooManySamples": "errors",
    "ValueType": "nodes",
    "expr_to_json": "ast_json",
    "format_expr": "printer",
    "parse": "parser",
    "to_text": "printer",
}

__all__ = [
    "BadQuery",
    "Check",
    "Deadline",
    "Engine",
    "EngineOptions",
    "ExecutionError",
    "Expr",
    "ParseError",
    "ParseLimits",
    "PromqlError",
    "Querier",
    "QueryCanceled",
    "QueryStats",
    "QueryTimeout",
    "Result",
    "TooManySamples",
    "ValueType",
    "expr_to_json",
    "format_expr",
    "parse",
    "to_text",
]

__getattr__, __dir__ = lazy_names(__name__, _HOME)
