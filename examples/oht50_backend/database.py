"""What the backend remembers, in SQLite through SQLAlchemy; every call blocks."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, String, create_engine, delete, event, func, select, update
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from .faults import Faults

#: Finished missions and safety events that are kept: the example may run for days.
KEPT_ROWS = 20_000
_POOL_SIZE = 5

VEHICLES = ("oht-1", "oht-2", "oht-3", "oht-4")


class Base(DeclarativeBase):
    pass


class Vehicle(Base):
    __tablename__ = "vehicle"
    id: Mapped[str] = mapped_column(String(20), primary_key=True)
    battery: Mapped[float] = mapped_column(default=1.0)
    state: Mapped[str] = mapped_column(String(20), default="idle")


class Mission(Base):
    __tablename__ = "mission"
    id: Mapped[int] = mapped_column(primary_key=True)
    type: Mapped[str] = mapped_column(String(20))
    priority: Mapped[str] = mapped_column(String(10))
    status: Mapped[str] = mapped_column(String(20), default="queued", index=True)
    vehicle: Mapped[str | None] = mapped_column(String(20))


class SafetyEvent(Base):
    __tablename__ = "safety_event"
    id: Mapped[int] = mapped_column(primary_key=True)
    type: Mapped[str] = mapped_column(String(20))
    severity: Mapped[str] = mapped_column(String(10))


class Setting(Base):
    __tablename__ = "setting"
    type: Mapped[str] = mapped_column(String(20), primary_key=True)
    value: Mapped[float]


class Database:
    """The tables; begins empty."""

    def __init__(self, path: Path, faults: Faults) -> None:
        self.engine: Engine = create_engine(
            f"sqlite:///{path}", pool_size=_POOL_SIZE, max_overflow=5, connect_args={"timeout": 20}
        )
        self._faults = faults
        event.listen(self.engine, "connect", _set_up)
        # Before the cursor is used, so that the time counts as the query's.
        event.listen(self.engine, "before_cursor_execute", self._delay)

    def create(self) -> None:
        Base.metadata.drop_all(self.engine)
        Base.metadata.create_all(self.engine)
        with Session(self.engine) as session, session.begin():
            session.add_all(Vehicle(id=name) for name in VEHICLES)

    def close(self) -> None:
        self.engine.dispose()

    # --- Vehicles -----------------------------------------------------------------------------

    def vehicles(self) -> list[dict[str, Any]]:
        with Session(self.engine) as session:
            return [_vehicle(each) for each in session.scalars(select(Vehicle))]

    def vehicle(self, name: str) -> dict[str, Any] | None:
        with Session(self.engine) as session:
            found = session.get(Vehicle, name)
            return _vehicle(found) if found is not None else None

    def move(self, name: str, state: str, battery: float) -> None:
        with Session(self.engine) as session, session.begin():
            session.execute(
                update(Vehicle).where(Vehicle.id == name).values(state=state, battery=battery)
            )

    # --- Missions -----------------------------------------------------------------------------

    def add_mission(self, type_: str, priority: str) -> int:
        with Session(self.engine) as session, session.begin():
            mission = Mission(type=type_, priority=priority)
            session.add(mission)
            session.flush()
            return mission.id

    def mission(self, number: int) -> dict[str, Any] | None:
        with Session(self.engine) as session:
            found = session.get(Mission, number)
            return _mission(found) if found is not None else None

    def set_status(self, number: int, status: str, vehicle: str | None) -> None:
        with Session(self.engine) as session, session.begin():
            session.execute(
                update(Mission).where(Mission.id == number).values(status=status, vehicle=vehicle)
            )

    def count_missions(self) -> dict[str, int]:
        with Session(self.engine) as session:
            query = select(Mission.status, func.count()).group_by(Mission.status)
            return {status: count for status, count in session.execute(query)}

    def trim(self) -> None:
        """Forget what is old."""
        with Session(self.engine) as session, session.begin():
            for table in (Mission, SafetyEvent):
                newest = session.scalar(select(func.max(table.id))) or 0
                session.execute(delete(table).where(table.id <= newest - KEPT_ROWS))

    # --- Safety and settings ------------------------------------------------------------------

    def add_safety_event(self, type_: str, severity: str) -> int:
        with Session(self.engine) as session, session.begin():
            found = SafetyEvent(type=type_, severity=severity)
            session.add(found)
            session.flush()
            return found.id

    def settings(self) -> dict[str, float]:
        with Session(self.engine) as session:
            return {each.type: each.value for each in session.scalars(select(Setting))}

    def set_setting(self, type_: str, value: float) -> None:
        with Session(self.engine) as session, session.begin():
            session.merge(Setting(type=type_, value=value))

    def _delay(self, *_: object) -> None:
        if self._faults.slow_database:
            time.sleep(self._faults.slow_database)


def _set_up(connection: Any, _: object) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.close()


def _vehicle(found: Vehicle) -> dict[str, Any]:
    return {"id": found.id, "battery": found.battery, "state": found.state}


def _mission(found: Mission) -> dict[str, Any]:
    names: Sequence[str] = ("id", "type", "priority", "status", "vehicle")
    return {name: getattr(found, name) for name in names}
