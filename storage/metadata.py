"""What is known of metric families: type, help, unit."""

from __future__ import annotations

from collections.abc import Mapping

from .model import Metadata


class Families:
    """Metadata by family name; ``version`` grows when an answer changes."""

    def __init__(self) -> None:
        self.version = 0
        self._known: dict[str, Metadata] = {}

    def __len__(self) -> int:
        return len(self._known)

    def load(self, known: Mapping[str, Metadata]) -> None:
        self._known.update(known)
        self.version += 1

    def set(self, family: str, metadata: Metadata) -> bool:
        """Remember; return whether it is news."""
        if self._known.get(family) == metadata:
            return False
        self._known[family] = metadata
        self.version += 1
        return True

    def metadata(self, family: str) -> Metadata | None:
        return self._known.get(family)

    def items(self) -> list[tuple[str, Metadata]]:
        return sorted(self._known.items())
