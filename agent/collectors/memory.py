"""Memory and swap."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import psutil

from .tick import Block, counter, gauge

USAGE: Final = gauge(
    "memory_usage_bytes",
    "Memory by type. available is what programs can still get; used, free, buffers and cached are"
    " the parts that `free` shows; others are as the kernel gives them and overlap.",
)
TOTAL: Final = gauge("memory_total_bytes", "Physical memory.")
SWAP_USAGE: Final = gauge("swap_usage_bytes", "Swap space by type: used, free.")
SWAP_TOTAL: Final = gauge("swap_total_bytes", "Swap space.")
SWAPPED_IN: Final = counter("swap_in_bytes_total", "Read back from swap since boot.")
SWAPPED_OUT: Final = counter("swap_out_bytes_total", "Written to swap since boot.")

_DERIVED: Final = frozenset({"total", "percent"})

# psutil's named tuples have other fields on other systems, so nothing narrower can be said.
ReadTuple = Callable[[], Any]


class MemoryReader:
    """Reports every field of psutil's ``virtual_memory`` that is an amount of memory."""

    name = "memory"

    def __init__(
        self,
        virtual_memory: ReadTuple = psutil.virtual_memory,
        swap_memory: ReadTuple = psutil.swap_memory,
    ) -> None:
        self._virtual_memory, self._swap_memory = virtual_memory, swap_memory

    async def read(self) -> list[Block]:
        memory, swap = self._virtual_memory(), self._swap_memory()
        types = tuple(field for field in memory._fields if field not in _DERIVED)
        return [
            Block(
                ("memory", types),
                [memory.total, *(getattr(memory, type_) for type_ in types)],
                lambda: [(TOTAL, {}), *((USAGE, {"type": type_}) for type_ in types)],
            ),
            Block(
                "swap",
                [swap.total, swap.used, swap.free, swap.sin, swap.sout],
                lambda: [
                    (SWAP_TOTAL, {}),
                    (SWAP_USAGE, {"type": "used"}),
                    (SWAP_USAGE, {"type": "free"}),
                    (SWAPPED_IN, {}),
                    (SWAPPED_OUT, {}),
                ],
            ),
        ]
