"""The last messages of a feed that tells every sample, for those who have not got them yet."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from .messages import Body


@dataclass(frozen=True, slots=True)
class Recorded:
    """
    One message of a ring.

    Attributes:
        sent_s: Monotonic time at which it was first sent.
        samples_before: Samples of all messages before it, since the feed began.
        samples: Samples it tells itself.
    """

    seq: int
    sent_s: float
    samples_before: int
    samples: int
    body: Body


class Ring:
    """
    Messages without a gap between their seqs, bounded by age and bytes.

    Attributes:
        seq: The newest seq; 0 before the first message.
        samples: Samples told up to it.
        bytes: Size of the messages held.
    """

    def __init__(self) -> None:
        self.seq = 0
        self.samples = 0
        self.bytes = 0
        self._messages: deque[Recorded] = deque()

    @property
    def first(self) -> int:
        """The oldest seq held, or one past the newest."""
        return self.seq + 1 - len(self._messages)

    @property
    def samples_before(self) -> int:
        """Samples told before the oldest message held."""
        return self._messages[0].samples_before if self._messages else self.samples

    def __getitem__(self, seq: int) -> Recorded:
        """Return the message of ``seq``, which must be held."""
        return self._messages[seq - self.first]

    def samples_until(self, seq: int) -> int:
        """Samples told up to and including ``seq``; the message after it must be held, if any."""
        return self.samples if seq == self.seq else self[seq + 1].samples_before

    def append(self, body: Body, samples: int, now_s: float) -> None:
        if self._messages:
            self._messages[-1].body.forget()  # the few who still need it can build their own
        self.seq += 1
        self._messages.append(Recorded(self.seq, now_s, self.samples, samples, body))
        self.samples += samples
        self.bytes += len(body)

    def skip(self) -> None:
        """Count a seq that has no message, and forget all before it."""
        self.seq += 1
        self._messages.clear()
        self.bytes = 0

    def expire(self, before_s: float, bytes_max: int) -> None:
        """Forget what was sent before ``before_s``, and the oldest beyond ``bytes_max``."""
        while self._messages and (self._messages[0].sent_s < before_s or self.bytes > bytes_max):
            self.bytes -= len(self._messages.popleft().body)
