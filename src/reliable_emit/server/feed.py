"""What the readers are sent: the rows after their own server offset, in the order of the ids, each row once.

Each reader has a cursor, the id of the last row it was sent, and a task that sends it what follows the cursor. There is
no difference between replaying old rows and broadcasting new ones, so a new row cannot overtake an old one (which would
move the reader's server offset past rows that it never got), and none is sent twice where the two meet.

A commit, here or on another node, only says that there is news; what the news is, the database says, unless it is just
the next row. So it does not matter whether whoever committed is still alive, or in what order two nodes tell of it, and
news that is never told is found by looking once a second.

Recent rows are kept in memory, so that a new row costs no query for each reader. A reader that is far behind gets its
rows from the database, a batch at a time, and the next batch only when the last one is on its way: neither a long
replay nor a reader that is slower than the senders can fill the server's memory.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import logging
    from collections.abc import Sequence

    from reliable_emit.server.history import History, StoredMessage

# A batch ends when either is reached.
_BATCH_ROWS = 100
_BATCH_CHARACTERS = 256 * 1024
# Recent rows kept in memory, bounded by both.
_RECENT_ROWS = 1_000
_RECENT_CHARACTERS = 4 * 1024 * 1024
# Seconds between two attempts to read from a failing database, and between two looks for news that nobody told of.
_PAUSE, _POLL = 0.5, 1.0


class Outlet(Protocol):
    """The way to one reader."""

    async def ready(self) -> int:
        """Wait until the rows sent before are on their way; say how many more may be sent at once, 0 if it is gone."""

    async def send(self, rows: Sequence[StoredMessage]) -> None:
        """Send rows that follow each other."""


class Feed:
    """The rows on their way to the readers. Belongs to one event loop; nothing here is for threads."""

    def __init__(self, history: History, logger: logging.Logger) -> None:
        self._history = history
        self._logger = logger
        self._recent: collections.deque[StoredMessage] = collections.deque()
        self._recent_characters = 0
        self._floor = 0  # every row above it that is known here is among the recent ones
        self._last = 0  # the last row that is known here
        self._told = asyncio.Event()  # there may be rows that are not known here
        self._news = asyncio.Event()  # there are more rows; each has an event of its own
        self._looking: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin with what is stored now."""
        self._floor = self._last = await self._history.last()
        self._looking = asyncio.create_task(self._look())

    async def stop(self) -> None:
        """Look for news no more."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait([self._looking])

    def tell(self, row: StoredMessage | None = None) -> None:
        """Say that something was committed, here or elsewhere; the row, if it is known."""
        if row is not None and row.id == self._last + 1:
            self._take([row])  # nothing can be in between, and the database need not be asked
        else:
            self._told.set()

    async def _look(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_POLL):
                    await self._told.wait()
            # Before looking: what is committed while the query runs, too late for it, is told of once more.
            self._told.clear()
            try:
                rows = await self._history.after(self._last, rows=_BATCH_ROWS, characters=_BATCH_CHARACTERS)
            except Exception as error:  # any failure of the database; the readers wait and lose nothing
                words = "readers wait for what follows row %d, the database failed: %s"
                self._logger.warning(words, self._last, _words(error))
                await asyncio.sleep(_PAUSE)
                self._told.set()
                continue
            # Those told of while the query ran are known already.
            if news := [row for row in rows if row.id > self._last]:
                self._take(news)
            if len(rows) == _BATCH_ROWS or sum(len(row.text) for row in rows) >= _BATCH_CHARACTERS:
                self._told.set()

    def _take(self, rows: list[StoredMessage]) -> None:
        for row in rows:
            self._recent.append(row)
            self._recent_characters += len(row.text)
            self._last = row.id
        while len(self._recent) > _RECENT_ROWS or self._recent_characters > _RECENT_CHARACTERS:
            oldest = self._recent.popleft()
            self._recent_characters -= len(oldest.text)
            self._floor = oldest.id
        self._news.set()
        self._news = asyncio.Event()

    async def follow(self, cursor: int, outlet: Outlet) -> None:
        """Send a reader every row after `cursor`, those stored and those to come; ends when the reader has gone.

        Cancel it at any time: what was sent was sent, and the reader knows its own offset.
        """
        while limit := await outlet.ready():
            # Taken before looking: a row that comes while the query runs, too late for it, has set this one.
            news = self._news
            try:
                rows = await self._after(cursor, min(limit, _BATCH_ROWS))
            except Exception as error:  # any failure of the database; the reader waits and loses nothing
                self._logger.warning("a reader at row %d waits, the database failed: %s", cursor, _words(error))
                await asyncio.sleep(_PAUSE)
                continue
            if rows:
                await outlet.send(rows)
                cursor = rows[-1].id
            else:
                await news.wait()

    async def _after(self, cursor: int, limit: int) -> list[StoredMessage]:
        if cursor < self._floor:
            return await self._history.after(cursor, rows=limit, characters=_BATCH_CHARACTERS)
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


def _words(error: Exception) -> str:
    return str(error) or ("it does not answer" if isinstance(error, TimeoutError) else repr(error))
