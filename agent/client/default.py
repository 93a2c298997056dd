"""The registry of a process that needs only one, and what is done with it in one line."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Final

from . import push
from .address import is_disabled
from .decorators import Counted, InProgress, Timed
from .push import Pusher
from .registry import Registry

#: What ``tachograph.counter()`` and its like define into, and what an embedded agent reads.
REGISTRY: Final = Registry()

counter: Final = REGISTRY.counter
gauge: Final = REGISTRY.gauge
histogram: Final = REGISTRY.histogram
ratio: Final = REGISTRY.ratio
rate: Final = REGISTRY.rate
info: Final = REGISTRY.info
timed: Final = Timed(REGISTRY)
counted: Final = Counted(REGISTRY)
in_progress: Final = InProgress(REGISTRY)


def _nothing(
    name: str, value: float, labels: Mapping[str, str] | None = None, type: str = "gauge"
) -> None:
    """Stand in for ``record`` when instrumentation is switched off."""


record: Final[Callable[..., None]] = _nothing if is_disabled() else REGISTRY.record


def connect(
    address: str | os.PathLike[str] | None = None,
    *,
    labels: Mapping[str, str] | None = None,
    interval_s: float = 1.0,
) -> Pusher:
    """
    Hand this process's metrics to the agent on this box, from now on, every ``interval_s``.

    Once in a process, before or after a fork; a second call is none, unless it names another agent
    or other labels. Nothing of it waits or raises later on, whether the agent is there or not.

    Args:
        address: The path of the agent's socket, or its URL. Without it ``TACHOGRAPH_AGENT`` counts,
            and without that http://127.0.0.1:19797.
        labels: Given to every series, such as ``{"service": "orders"}``: without them, two
            services that define the same metric add to the same totals. A metric that has such a
            label of its own keeps it.

    Raises:
        ValueError: The address or a label's name can't be one.
    """
    return push.connect(REGISTRY, address, labels=labels, interval_s=interval_s)


disconnect: Final = push.disconnect
flush: Final = push.flush
