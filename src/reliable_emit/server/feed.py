"""What the readers are sent: the rows after their own server offset, in the order of the ids, each row once.

Each reader has a cursor, the id of the last row it was sent, and a task that sends it what follows the cursor. There is
no difference between replaying old rows and broadcasting new ones, so a new row cannot overtake an old one (which would
move the reader's server offset past rows that it never got), and none is sent twice where the two meet. A commit only
says that there is news: whether the handler that asked for the insert is still alive does not matter.

Recent rows are kept in memory, so that a new row costs no query for each reader. A reader that is far behind gets its
rows from the database, a batch at a time, and the next batch only when the last one is on its way: neither a long
replay nor a reader that is slower than the senders can fill the server's memory.
"""

from __future__ import annotations

import asyncio
import collections
import logging
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from reliable_emit.server.database import StoredMessage
    from reliable_emit.server.store import MessageStore

# A batch ends when either is reached.
_BATCH_ROWS = 100
_BATCH_CHARACTERS = 256 * 1024
# Recent rows kept in memory, bounded by both.
_RECENT_ROWS = 1_000
_RECENT_CHARACTERS = 4 * 1024 * 1024
# Seconds between two attempts to read from a failing database.
_PAUSE = 0.5


class Outlet(Protocol):
    """The way to one reader."""

    async def ready(self) -> int:
        """Wait until the rows sent before are on their way; say how many more may be sent at once, 0 if it is gone."""

    async def send(self, row: StoredMessage) -> None:
        """Send one row."""


class Feed:
    """The rows on their way to the readers. Belongs to one event loop; nothing here is for threads."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._recent: collections.deque[StoredMessage] = collections.deque()
        self._recent_characters = 0
        self._floor = 0  # every row above it is among the recent ones
        self._last = 0  # the last row that is known here
        self._news = asyncio.Event()

    def start(self, last: int) -> None:
        """Begin: `last` is the id of the last row that is stored now."""
        self._floor = self._last = last

    def committed(self, rows: list[StoredMessage]) -> None:
        """Take in rows that have just been committed, in the order of their ids."""
        for row in rows:
            if row.id != self._last + 1:
                # Somebody else writes to this file as well, and the rows between are not known here: who has not seen
                # them yet has to ask the database.
                self._recent.clear()
                self._recent_characters = 0
                self._floor = row.id - 1
            self._recent.append(row)
            self._recent_characters += len(row.text)
            self._last = row.id
        while len(self._recent) > _RECENT_ROWS or self._recent_characters > _RECENT_CHARACTERS:
            oldest = self._recent.popleft()
            self._recent_characters -= len(oldest.text)
            self._floor = oldest.id
        self._news.set()
        self._news = asyncio.Event()

    async def follow(self, store: MessageStore, cursor: int, outlet: Outlet) -> None:
        """Send a reader every row after `cursor`, those stored and those to come; ends when the reader has gone.

        Cancel it at any time: what was sent was sent, and the reader knows its own offset.
        """
        while limit := await outlet.ready():
            # Taken before looking: a row committed while the query runs, too late for it, has set this one.
            news = self._news
            try:
                rows = await self._after(store, cursor, min(limit, _BATCH_ROWS))
            except Exception as error:  # any failure of the database; the reader waits and loses nothing
                self._logger.warning("a reader at row %d waits, the database failed: %s", cursor, error)
                await asyncio.sleep(_PAUSE)
                continue
            for row in rows:
                await outlet.send(row)
                cursor = row.id
            if not rows:
                await news.wait()

    async def _after(self, store: MessageStore, cursor: int, limit: int) -> list[StoredMessage]:
        if cursor < self._floor:
            return await store.after(cursor, rows=limit, characters=_BATCH_CHARACTERS)
        rows: list[StoredMessage] = []
        # From the end, because a reader is nearly always close to it.
        for row in reversed(self._recent):
            if row.id <= cursor:
                break
            rows.append(row)
        rows.reverse()
        batch: list[StoredMessage] = []
        size = 0
        for row in rows[:limit]:
            batch.append(row)
            size += len(row.text)
            if size >= _BATCH_CHARACTERS:
                break
        return batch
