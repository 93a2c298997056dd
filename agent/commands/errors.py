"""What goes wrong in commands by the way they are called."""

from __future__ import annotations

from ...config.errors import TachographError


class WrongUse(TachographError):
    """An option or argument that cannot be used as given; the message begins with its name."""
