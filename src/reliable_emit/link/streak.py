"""How many times in a row a connection was lost soon."""

from __future__ import annotations

import time

_LASTED = 2.0
"""Seconds after which a connection counts as made; the pauses go on growing while it is lost sooner."""


class Streak:
    """Counts the pauses since a connection was worth something: has lasted, or brought an acknowledgement."""

    def __init__(self) -> None:
        self._pauses = 0
        self._made_at = 0.0
        self._acknowledged = 0

    def made(self, acknowledged: int = 0) -> None:
        """There is a connection; so many messages were acknowledged before it."""
        self._made_at = time.monotonic()
        self._acknowledged = acknowledged

    def lost(self, acknowledged: int = 0) -> None:
        """It is lost, when so many messages are acknowledged; if it was worth something, that is the first time."""
        if acknowledged > self._acknowledged or time.monotonic() - self._made_at > _LASTED:
            self._pauses = 0

    def next(self) -> int:
        """Return the number of the pause that begins, the first being 1."""
        self._pauses += 1
        return self._pauses
