"""What is said once, and not at every event."""

from __future__ import annotations

import logging

_logger = logging.getLogger("reliable_emit")


class Complaints:
    """Says each thing once in the log, until it is over."""

    def __init__(self) -> None:
        self._said: set[str] = set()

    def say(self, what: str, level: int, words: str, *about: object, exc_info: bool = False) -> None:
        """Log it, unless `what` was said already."""
        if what not in self._said:
            self._said.add(what)
            _logger.log(level, words, *about, exc_info=exc_info)

    def over(self, what: str) -> None:
        """If it happens again, it is said again."""
        self._said.discard(what)
