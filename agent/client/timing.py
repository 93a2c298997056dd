"""Measuring a block or a function of any kind: plain, async, generator, async generator."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, Final, Protocol, TypeVar

F = TypeVar("F", bound=Callable[..., Any])

# Flags of code objects (inspect.CO_*); the module `inspect` would cost the backend 6 ms.
_GENERATOR: Final = 0x20
_COROUTINE: Final = 0x80
_ITERABLE_COROUTINE: Final = 0x100
_ASYNC_GENERATOR: Final = 0x200


class Watch(Protocol):
    """What is done around one call: entered before, left after with the exception or ``None``."""

    def __enter__(self) -> object: ...

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None: ...


class Timer:
    """
    Gives the seconds of a block to ``observe``; for one block at a time.

    As a decorator it measures each call by itself, of any kind of function.
    """

    __slots__ = ("_began", "_monotonic_s", "_observe", "seconds")

    def __init__(self, observe: Callable[[float], None], monotonic_s: Callable[[], float]) -> None:
        self._observe, self._monotonic_s = observe, monotonic_s
        self._began = self.seconds = 0.0

    def __enter__(self) -> Timer:
        self._began = self._monotonic_s()
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self.seconds = self._monotonic_s() - self._began
        self._observe(self.seconds)

    def __call__(self, function: F) -> F:
        return around(function, lambda: Timer(self._observe, self._monotonic_s))


def around(function: F, watch: Callable[[], Watch]) -> F:
    """
    Wrap a function so that each call runs within a watch of its own.

    A generator is watched from its first step to its end, also if it is given up half-way; what
    is sent or thrown into it arrives.
    """
    if isinstance(function, classmethod | staticmethod):
        # Decorated the other way round; what is within it is the function.
        return type(function)(around(function.__func__, watch))
    if isinstance(function, type) or not callable(function):
        raise TypeError(
            f"{getattr(function, '__name__', function)!r} is no function; decorate its functions, "
            "and those of a property below @property"
        )
    flags = _flags(function)
    inner: Callable[..., Any] = function
    wrapped: Callable[..., Any]
    if flags & _ASYNC_GENERATOR:

        @wraps(function)
        async def wrapped(*args: Any, **named: Any) -> Any:
            with watch():
                steps = inner(*args, **named)
                try:
                    item = await anext(steps)
                    while True:
                        try:
                            sent = yield item
                        except GeneratorExit:
                            await steps.aclose()
                            raise
                        except BaseException as error:
                            item = await steps.athrow(error)
                        else:
                            item = await (anext(steps) if sent is None else steps.asend(sent))
                except StopAsyncIteration:
                    return

    elif flags & (_COROUTINE | _ITERABLE_COROUTINE):

        @wraps(function)
        async def wrapped(*args: Any, **named: Any) -> Any:
            with watch():
                return await inner(*args, **named)

    elif flags & _GENERATOR:

        @wraps(function)
        def wrapped(*args: Any, **named: Any) -> Any:
            with watch():
                return (yield from inner(*args, **named))

    else:

        @wraps(function)
        def wrapped(*args: Any, **named: Any) -> Any:
            with watch():
                return inner(*args, **named)

    return wrapped  # type: ignore[return-value]  # it takes and gives the same


def _flags(function: Any) -> int:
    """Flags of the code behind a function, a method, a partial or an object with ``__call__``."""
    for _ in range(16):  # partials of partials, but not for ever
        code = getattr(function, "__code__", None)
        if code is not None:
            return int(code.co_flags)
        deeper = getattr(function, "func", None) or getattr(function, "__func__", None)
        function = deeper or type(function).__call__
    return 0
