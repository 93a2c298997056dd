"""What the live stream counts about itself."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class StreamStats:
    """
    Counts since the start, but for the first three, which are as of now.

    Attributes:
        feeds: Distinct things subscribed to, those kept for clients that may come back included.
        messages: WebSocket messages given to connections.
        bytes: Bytes of them on the wire.
        coalesced: Updates that a slow client in mode ``latest`` got together with later ones.
        dropped: Samples not told: ``lag`` (left the ring before a slow client in mode ``all`` got
            to them), ``old`` (older than the lookback when they came, counted once for all
            clients); and series left out: ``series_limit``.
        refused: Connections and subscriptions turned down, by reason.
        closed: Connections closed by us, by close code.
        failures: Batches of samples not told for a mistake of ours; the log has the first.
    """

    connections: int = 0
    subscriptions: int = 0
    feeds: int = 0
    messages: int = 0
    bytes: int = 0
    coalesced: int = 0
    failures: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    closed: Counter[int] = field(default_factory=Counter)
