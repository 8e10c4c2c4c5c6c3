"""How many times in a row a connection was lost soon."""

from __future__ import annotations

import time

_LASTED = 2.0
"""Seconds after which a connection counts as made; the pauses go on growing while it is lost sooner."""


class Streak:
    """Counts the pauses since a connection has lasted."""

    def __init__(self) -> None:
        self._pauses = 0
        self._made_at = 0.0

    def made(self) -> None:
        """There is a connection."""
        self._made_at = time.monotonic()

    def lost(self) -> None:
        """It is lost; if it had lasted, that is the first time."""
        if time.monotonic() - self._made_at > _LASTED:
            self._pauses = 0

    def next(self) -> int:
        """Return the number of the pause that begins, the first being 1."""
        self._pauses += 1
        return self._pauses
