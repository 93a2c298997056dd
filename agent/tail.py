"""``tachograph tail``: follow a live stream and print its samples."""

from __future__ import annotations

import contextlib
import json
import math
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final, Literal, TextIO

from ..config.errors import TachographError
from ..storage.clock import Clock, SystemClock
from .broken_pipe import discard
from .stream.replica import Replica, Sample, ServerMessage, StreamGap, read_message

GOOD: Final = 0
PROBLEMS: Final = 1
USAGE: Final = 2
UNREACHABLE: Final = 3

#: Before connecting again, so that an agent that turns us away is not asked in a tight loop.
_RETRY_S: Final = 1.0
_OPEN_S: Final = 10.0
_CLOSE_S: Final = 1.0
#: An agent sends 4 MiB at most unless told otherwise.
_MESSAGE_BYTES_MAX: Final = 64 << 20
#: Close codes after which asking again is of no use: bad message, no login, not allowed.
_FINAL_CODES: Final = frozenset({4400, 4401, 4403})
#: Errors that end a subscription after it began.
_FINAL_ERRORS: Final = frozenset({"too_large"})


class Refused(TachographError):
    """The agent turned the request down; it would do so again."""


async def tail(
    url: str,
    selectors: Sequence[str],
    *,
    mode: Literal["latest", "all"] = "all",
    output: Literal["text", "json"] = "text",
    count: int | None = None,
    out: TextIO,
    err: TextIO | None = None,
    clock: Clock | None = None,
) -> int:
    """
    Print the current values of some series, then every change, one sample a line.

    A lost connection is opened again, for as long as it takes; what was missed meanwhile is printed
    if the agent still has it, and said to be missing if not.

    Args:
        url: The WebSocket's, such as ``ws://127.0.0.1:19797/ws/metrics``.
        selectors: A series is followed if any of them matches.
        count: Stop after so many samples.
        err: Where notices go; standard error by default.

    Returns:
        0 when ``count`` is reached or the reader of ``out`` has gone, 1 if the agent refuses, 2 if
        ``url`` is not one, 3 if it cannot be reached in the first place.
    """
    # Loaded here: 40 ms that no other command should pay.
    from websockets.asyncio.client import connect
    from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidURI

    follower = _Follower(selectors, mode, output, count, out, err or sys.stderr)
    clock = clock or SystemClock()
    was_connected = False

    def decide(error: Exception) -> Exception | None:
        """Retry whatever may pass, but only if there was an agent once."""
        return None if was_connected and isinstance(error, OSError) else error

    try:
        async for socket in connect(
            url,
            compression=None,
            process_exception=decide,
            proxy=None,
            open_timeout=_OPEN_S,
            close_timeout=_CLOSE_S,
            max_size=_MESSAGE_BYTES_MAX,
        ):
            was_connected = True
            try:
                await socket.send(follower.request())
                async for data in socket:
                    if follower.take(read_message(data)):
                        return GOOD
                closed = f"{socket.close_code} {socket.close_reason or ''}"
            except ConnectionClosed as error:
                closed = str(error)
            except StreamGap as error:
                closed = str(error)
                follower.forget()
            finally:
                await socket.close()  # on every way out: the loop closes it only to go on
            if socket.close_code in _FINAL_CODES:
                raise Refused(f"the agent closed the connection: {closed}")
            follower.notice(f"connection lost ({closed.strip()}); connecting again")
            await clock.sleep(_RETRY_S)
    except BrokenPipeError:
        discard(out)
        return GOOD
    except Refused as error:
        follower.notice(str(error))
        return PROBLEMS
    except InvalidURI as error:
        follower.notice(str(error))
        return USAGE
    except (OSError, InvalidHandshake) as error:
        follower.notice(f"no agent answers at {url}: {error}")
        return UNREACHABLE
    raise AssertionError("connect() goes on for ever")


class _Follower:
    """What is printed, and where the stream is to go on after a lost connection."""

    def __init__(
        self,
        selectors: Sequence[str],
        mode: str,
        output: str,
        count: int | None,
        out: TextIO,
        err: TextIO,
    ) -> None:
        self._selectors, self._mode = list(selectors), mode
        self._line = _as_json if output == "json" else _as_text
        self._left = math.inf if count is None else count
        self._out, self._err = out, err
        self._replica = Replica()
        self._is_accepted = False

    def request(self) -> str:
        """The subscription to send on a new connection."""
        self._is_accepted = False
        message: dict[str, object] = {
            "op": "sub",
            "id": 1,
            "match": self._selectors,
            "mode": self._mode,
        }
        if self._replica.epoch:
            message["since"] = {"epoch": self._replica.epoch, "seq": self._replica.seq}
        return json.dumps(message)

    def take(self, message: ServerMessage) -> bool:
        """
        Print what a message tells; return whether enough is printed.

        Raises:
            Refused: There will be nothing more.
            StreamGap: There is something missing that nobody told.
        """
        if message.op == "ok":
            self._is_accepted = True
        elif message.op == "err":
            if not self._is_accepted or message.code in _FINAL_ERRORS:
                raise Refused(message.msg)
            self.notice(message.msg)
        elif message.op == "lag":
            self.notice(f"too slow: {message.dropped} samples were left out")
        elif message.reset:
            self.notice("the agent could not go on where we were; samples may be missing")
        known = self._replica.newest() if message.op == "snap" else {}
        samples = self._replica.apply(message)
        fresh = [s for s in samples if s.ts_ms > known.get(s.labels, -math.inf)]
        for sample in fresh:
            if self._left > 0:
                self._out.write(self._line(sample) + "\n")
                self._left -= 1
        if fresh:
            self._out.flush()
        return self._left <= 0

    def forget(self) -> None:
        """Begin with a snapshot next time."""
        self._replica = Replica()

    def notice(self, text: str) -> None:
        with contextlib.suppress(OSError):
            print(f"tachograph: {_printable(text)}", file=self._err, flush=True)


def _as_text(sample: Sample) -> str:
    return f"{_time(sample.ts_ms)} {_printable(str(sample.labels))} {_number(sample.value)}"


def _as_json(sample: Sample) -> str:
    value = sample.value if math.isfinite(sample.value) else _number(sample.value)
    labels = dict(sample.labels)
    fields = {"timestamp": _time(sample.ts_ms), "name": labels.pop("__name__", "")}
    return json.dumps(fields | {"labels": labels, "value": value}, ensure_ascii=False)


def _time(ts_ms: int) -> str:
    try:
        time = datetime.fromtimestamp(ts_ms / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return f"{ts_ms}ms"  # beyond the year 9999
    return time.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _number(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return repr(value).removesuffix(".0")


def _printable(text: str) -> str:
    """Keep a label from moving the cursor or colouring the terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)
