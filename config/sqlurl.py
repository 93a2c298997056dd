"""Database URLs, which hold passwords: what is wrong with one is told without showing it."""

from __future__ import annotations

import re
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

from .secret import Secret

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

_INSTALL: Final = "pip install 'tachograph[sql]'"
_DEFAULT_DRIVERS: Final = {"postgresql": "postgresql+psycopg", "postgres": "postgresql+psycopg"}
_SHAPE: Final = re.compile(r"[a-z][a-z0-9+_]*://\S*", re.IGNORECASE)


def has_url_shape(secret: Secret) -> bool:
    """Tell whether a secret looks like a database URL; loads nothing."""
    return _SHAPE.fullmatch(secret.reveal().strip()) is not None


def parse_database_url(secret: Secret) -> URL:
    """
    Return SQLAlchemy's URL, with a driver that exists; ``postgresql://`` means psycopg.

    Raises:
        ValueError: It is no URL, or what it needs is not installed; the message holds nothing of
            the URL but its scheme.
    """
    text = secret.reveal().strip()
    if not has_url_shape(secret):
        raise ValueError(
            "is not a database URL such as postgresql://user:password@host/database"
            " (not shown: it is a secret)"
        )
    if find_spec("sqlalchemy") is None:
        raise ValueError(f"needs SQLAlchemy; {_INSTALL}")
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import SQLAlchemyError

    try:
        url = make_url(text)
    except (SQLAlchemyError, ValueError):
        raise ValueError("cannot be read as a URL (not shown: it is a secret)") from None
    try:
        url = url.set(drivername=_DEFAULT_DRIVERS.get(url.drivername, url.drivername))
        dialect = url.get_dialect()
    except (SQLAlchemyError, ValueError):
        scheme = text.partition("://")[0]
        raise ValueError(f"{scheme}:// is no database that SQLAlchemy knows") from None
    if dialect.is_async:
        plain = _DEFAULT_DRIVERS.get(url.get_backend_name(), url.get_backend_name())
        raise ValueError(f"{url.drivername} is a driver for asyncio; write {plain}://")
    try:
        dialect.import_dbapi()
    except ImportError as error:
        missing = error.name or url.get_driver_name()
        hint = _INSTALL if missing.partition(".")[0] == "psycopg" else "install its driver"
        raise ValueError(f"{url.drivername} needs the module {missing}; {hint}") from None
    return url


def check_database_url(secret: Secret) -> str:
    """Return what is wrong with a URL, or an empty string."""
    try:
        parse_database_url(secret)
    except ValueError as error:
        return str(error)
    return ""
