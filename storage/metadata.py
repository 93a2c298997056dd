"""What is known of metric families: type, help, unit."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Final

from .model import Metadata

#: Families at a time, of any source: some 10 MB with the usual help texts, 160 MB at the very most.
FAMILIES_MAX: Final = 20_000
#: Longer texts are cut; nobody reads them, and somebody may send them by the megabyte.
TEXT_CHARS_MAX: Final = 4_096
#: A family of a longer name is not kept: no metric is called so.
_NAME_CHARS_MAX: Final = 4_096
#: Families looked at to find one that may go; a look at some names costs 1 us.
_LOOKS: Final = 64

_SUFFIXES: Final = (
    *("", "_total", "_bucket", "_count", "_sum", "_info"),
    *("_created", "_gcount", "_gsum"),
)

#: A family with what is known of it now, ``None`` if that was forgotten.
Change = tuple[str, Metadata | None]


class Families:
    """
    Metadata by family name; ``version`` grows when an answer changes.

    At most ``most`` of them: a new one then takes the place of one that has no series, the one
    that was described first. While all have series, it is refused and counted; its series are
    stored all the same, with a type taken from their names.

    Args:
        has_series: Tells whether there are series of a metric name.
    """

    def __init__(
        self,
        has_series: Callable[[str], bool] = lambda name: True,
        *,
        most: int = FAMILIES_MAX,
    ) -> None:
        self.version = 0
        self.refused = 0
        self._has_series, self._most = has_series, most
        # In the order in which they are looked at when one has to go.
        self._known: OrderedDict[str, Metadata] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def load(self, known: Mapping[str, Metadata]) -> None:
        self._known.update(known)
        self.version += 1

    def set(self, family: str, metadata: Metadata) -> list[Change]:
        """Remember; return what has changed, nothing if it is no news."""
        metadata = Metadata(
            metadata.type, metadata.help[:TEXT_CHARS_MAX], metadata.unit[:TEXT_CHARS_MAX]
        )
        before = self._known.get(family)
        if before == metadata:
            return []
        changes: list[Change] = []
        if before is None:
            if len(family) > _NAME_CHARS_MAX:
                self.refused += 1
                return []
            if len(self._known) >= self._most:
                gone = self._make_room()
                if gone is None:
                    self.refused += 1
                    return []
                changes.append((gone, None))
        self._known[family] = metadata
        self.version += 1
        return [*changes, (family, metadata)]

    def metadata(self, family: str) -> Metadata | None:
        return self._known.get(family)

    def items(self) -> list[tuple[str, Metadata]]:
        return sorted(self._known.items())

    def _make_room(self) -> str | None:
        """Forget a family without series. Those with some go to the end of the line."""
        for _ in range(min(_LOOKS, len(self._known))):
            family = next(iter(self._known))
            if not any(self._has_series(family + suffix) for suffix in _SUFFIXES):
                del self._known[family]
                return family
            self._known.move_to_end(family)
        return None
