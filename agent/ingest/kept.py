"""A point that is to be kept current after it was pushed, on its way from an edge to the keeper."""

from __future__ import annotations

from dataclasses import dataclass

from ...storage.model import Kind, Labels


@dataclass(frozen=True, slots=True)
class PushedPoint:
    """A stored point; ``ttl_ms`` counts from ``ts_ms``, 0 says that it isn't to be kept."""

    labels: Labels
    kind: Kind
    ref: int
    ts_ms: int
    value: float
    ttl_ms: int
