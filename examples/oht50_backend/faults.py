"""Switches that make the backend misbehave, to see it in the metrics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields


@dataclass(slots=True)
class Faults:
    """
    Attributes:
        slow_database: Seconds that every query takes longer.
        failing_missions: Share of the missions that fail, 0 to 1.
        safety_events: Safety events a second that the vehicles report by themselves.
        slow_requests: Seconds that every request takes longer.
    """

    slow_database: float = 0.0
    failing_missions: float = 0.05
    safety_events: float = 0.0
    slow_requests: float = 0.0

    def change(self, wanted: Mapping[str, object]) -> None:
        """Raises ValueError for a switch that there isn't, or a value that is none."""
        names = [field.name for field in fields(self)]
        for name, value in wanted.items():
            if name not in names:
                raise ValueError(f"there is no switch {name!r}; there are {', '.join(names)}")
            most = 1 if name == "failing_missions" else 60
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise ValueError(f"{name}: {value!r} is not a number")
            if not 0 <= value <= most:
                raise ValueError(f"{name}: {value!r} is not from 0 to {most}")
        for name, value in wanted.items():
            setattr(self, name, float(value))  # type: ignore[arg-type]  # checked above

    def shown(self) -> dict[str, float]:
        return asdict(self)
