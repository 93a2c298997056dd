"""What is remembered of the series that senders write: by the bytes of their labels."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np

from ...storage.frame import IntArray, RefArray
from ...storage.model import Labels, MetricType
from .naming import family_of
from .remote_columns import Body, Template
from .remote_guide import Guide

#: Label bytes that one table holds before it is thrown away and learnt anew: 100,000 series of
#: common size are some 20 MB.
_KEY_BYTES_MAX: Final = 64 << 20
#: Series that are remembered as refused; each further one is looked at anew in each request.
_REFUSED_MAX: Final = 20_000
# Symbol tables of remote write 2.0: a sender makes one for each request, but those of the same
# series in the same order are equal.
_SYMBOL_TABLES_MAX: Final = 64
_SYMBOL_BYTES_MAX: Final = 4 << 20
# Templates of whole bodies, each twice its body in memory.
_TEMPLATES_MAX: Final = 64
_TEMPLATE_BYTES_MAX: Final = 4 << 20
_KIND_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class Fresh:
    """
    A series that is not in the table yet.

    Attributes:
        key: Its label bytes.
        labels: Empty if ``fault`` says why it can't be stored.
        type: As far as the request tells.
    """

    key: bytes
    labels: Labels
    fault: str = ""
    type: MetricType = MetricType.UNKNOWN

    @property
    def family(self) -> str:
        return family_of(self.type, self.labels.name)


@dataclass(slots=True)
class SymbolTable:
    """The strings of a 2.0 request, and the slots of series by the bytes that refer to them."""

    symbols: tuple[bytes, ...]
    slots: dict[bytes, int] = field(default_factory=dict)


class Refused(NamedTuple):
    """Why the series of a slot is not stored: ``reason`` is what it is counted under."""

    key: bytes
    reason: str
    fault: str


class SeriesTable:
    """
    Slots of series by label bytes, and for each slot the series and its group in the store.

    Two slots may be one series, its labels having been sent in two orders. Bodies are read with it
    in any thread; only the event loop's adds series. Slots stay what they are for as long as the
    table lives.
    """

    def __init__(self) -> None:
        self.slots: dict[bytes, int] = {}
        self.guide = Guide(self.slots)
        #: Slots of series that are not stored; a sender goes on sending them.
        self.refused: dict[int, Refused] = {}
        self._lock = threading.Lock()
        self._refs: RefArray = np.zeros(256, np.uint32)
        self._groups: IntArray = np.zeros(256, np.int64)
        self._key_bytes = 0
        self._symbol_tables: OrderedDict[tuple[bytes, ...], SymbolTable] = OrderedDict()
        self._symbol_bytes = 0
        self._templates: OrderedDict[tuple[int, bytes], Template | None] = OrderedDict()
        self._template_bytes = 0

    @property
    def is_full(self) -> bool:
        return self._key_bytes > _KEY_BYTES_MAX

    def add(self, key: bytes, ref: int, group: int) -> int:
        """
        Give a series a slot; ``group`` is 0 for one that is stored as points, ``ref`` for one that
        is not stored.
        """
        known = self.slots.get(key)
        if known is not None:
            return known
        slot = len(self.slots)
        if slot == len(self._refs):
            self._refs = np.concatenate([self._refs, np.zeros_like(self._refs)])
            self._groups = np.concatenate([self._groups, np.zeros_like(self._groups)])
        self._refs[slot], self._groups[slot] = ref, group
        self.slots[key] = slot
        self._key_bytes += len(key) + 100  # an entry's overhead
        return slot

    def refuse(self, refused: Refused) -> int:
        """Give a series that is not stored a slot; -1 if there are too many such already."""
        if len(self.refused) >= _REFUSED_MAX:
            return -1
        slot = self.add(refused.key, 0, 0)
        self.refused[slot] = refused
        return slot

    def accept(self, slot: int, ref: int, group: int) -> None:
        """A series that was refused is stored from now on."""
        self._refs[slot], self._groups[slot] = ref, group
        del self.refused[slot]

    def refs(self, slots: IntArray) -> RefArray:
        """Return the series of some slots, 0 for those that are not stored."""
        return self._refs[slots]

    def groups(self, slots: IntArray) -> IntArray:
        return self._groups[slots]

    def symbol_table(self, symbols: tuple[bytes, ...]) -> SymbolTable:
        """Return what is known of a list of symbols."""
        with self._lock:
            return self._symbol_table(symbols)

    def _symbol_table(self, symbols: tuple[bytes, ...]) -> SymbolTable:
        table = self._symbol_tables.get(symbols)
        if table is not None:
            return table
        table = SymbolTable(symbols)
        size = sum(map(len, symbols)) + 64 * len(symbols)
        if size > _SYMBOL_BYTES_MAX // 4:
            return table
        self._symbol_bytes += size
        self._symbol_tables[symbols] = table
        while (
            self._symbol_bytes > _SYMBOL_BYTES_MAX or len(self._symbol_tables) > _SYMBOL_TABLES_MAX
        ):
            gone, _ = self._symbol_tables.popitem(last=False)
            self._symbol_bytes -= sum(map(len, gone)) + 64 * len(gone)
        return table

    def template(self, raw: bytes) -> Template | None:
        """Return the template that a body may fit."""
        return self._templates.get(_kind(raw))

    def learn_template(self, body: Body, at: IntArray, series: IntArray) -> None:
        """Make a template of a body, if it is the second of its kind: most never come again."""
        with self._lock:
            self._learn_template(body, at, series)

    def _learn_template(self, body: Body, at: IntArray, series: IntArray) -> None:
        kind = _kind(body.raw)
        if kind not in self._templates:
            self._templates[kind] = None
        elif self._templates[kind] is None and len(body) <= _TEMPLATE_BYTES_MAX // 4:
            self._templates[kind] = Template(body, at, series)
            self._template_bytes += len(body)
        self._templates.move_to_end(kind)
        while self._template_bytes > _TEMPLATE_BYTES_MAX or len(self._templates) > _TEMPLATES_MAX:
            (size, _), gone = self._templates.popitem(last=False)
            self._template_bytes -= size if gone is not None else 0


def _kind(raw: bytes) -> tuple[int, bytes]:
    # The length and some of the first series' labels tell most bodies apart.
    return len(raw), raw[:_KIND_BYTES]
