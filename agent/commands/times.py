"""Times as people give them to commands."""

from __future__ import annotations

from datetime import UTC, datetime

from .errors import WrongUse


def unix_s(text: str, option: str) -> float:
    """
    Read Unix seconds, or a time as RFC 3339 has it (or only its date), in UTC unless it says so.

    Raises:
        WrongUse: It is neither.
    """
    try:
        return float(text)
    except ValueError:
        pass
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise WrongUse(
            f"{option}: {text!r} is neither Unix seconds nor a time such as 2026-01-31T12:00:00Z"
        ) from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
