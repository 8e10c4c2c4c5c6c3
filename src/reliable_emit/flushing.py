"""Who waits until everything accepted so far is settled."""

from __future__ import annotations

import asyncio
from collections import deque

from reliable_emit.errors import FlushTimeout
from reliable_emit.outbox import Outbox


class Flushes:
    """The outbox is in the order of acceptance, so its head alone tells how far everything is settled.

    Args:
        outbox: What is watched.
    """

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()  # by sequence, since later ones are higher
        self._remaining = 0

    def add(self, sequence: int) -> asyncio.Future[None]:
        """Return a future that is done when all messages up to that one are settled."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((sequence, done))
        if self._remaining:
            self.end(self._remaining)
        else:
            self.look()
        return done

    def end(self, remaining: int) -> None:
        """Nothing is settled any more; whoever waits, or will, is told how many messages remain in the outbox."""
        self._remaining = remaining
        while remaining and self._waiting:
            _, done = self._waiting.popleft()
            if not done.done():
                done.set_exception(FlushTimeout(remaining, self._outbox.where))
        self.look()

    def look(self) -> None:
        """A message has left the outbox."""
        if not self._waiting:
            return
        head = self._outbox.head()
        is_empty = len(self._outbox) == 0
        while self._waiting:
            sequence, done = self._waiting[0]
            if not done.done():
                if not is_empty and (head is None or head.sequence <= sequence):
                    return
                done.set_result(None)
            self._waiting.popleft()
