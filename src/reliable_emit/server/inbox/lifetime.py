"""The time in which an inbox has its store open: opened once, tidied up now and then, closed."""

from __future__ import annotations

import asyncio
import weakref
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import logging

    from reliable_emit.server.inbox.store import InboxStore

# Seconds: between two looks for old records at the most, between two steps, and for what is cancelled to end.
_OFTEN, _STEP, _END = 600.0, 0.02, 0.5

# By the id of its store, who has it open. A second inbox would put another connection in the place of the first's.
_holders: weakref.WeakValueDictionary[int, Lifetime] = weakref.WeakValueDictionary()


class Lifetime:
    """Opens a store, and closes it.

    Args:
        store: The store.
        retention: Seconds that records are kept at least; ``None``: for ever.
        logger: Where to log.
    """

    def __init__(self, store: InboxStore[Any], retention: float | None, logger: logging.Logger) -> None:
        self._store = store
        self._retention = retention
        self._logger = logger
        self._opening: asyncio.Task[None] | None = None  # shared by all who wait for it
        self._forgetting: asyncio.Task[None] | None = None
        self._closing = asyncio.Lock()
        self.is_open, self.closed = False, False

    async def open(self) -> None:
        """Open the store, unless it is open; see `Inbox.open`. Cancelling it stops the waiting, and not the opening."""
        if self.closed:
            raise RuntimeError("the inbox is closed; make another one")
        if self.is_open:
            return
        if self._opening is None:
            self._opening = asyncio.create_task(self._open())
        opening = self._opening
        try:
            await asyncio.shield(opening)
        except asyncio.CancelledError:
            if opening.cancelled():
                raise RuntimeError("the inbox was closed while it was being opened") from None
            raise

    async def _open(self) -> None:
        try:
            if _holders.setdefault(id(self._store), self) is not self:
                raise RuntimeError("the store is open in another inbox already; give each inbox a store of its own")
            await self._store.open()
            self.is_open = True
            if self._retention is not None:
                self._forgetting = asyncio.create_task(self._forget(self._retention))
        finally:
            self._opening = None
            if not self.is_open:
                self._let_go()

    async def close(self) -> None:
        """Close the store, or stop opening it; after `closed` is set and nobody uses it any more."""
        async with self._closing:
            for task in (self._opening, self._forgetting):
                if task is not None:
                    task.cancel()
                    await asyncio.wait([task], timeout=_END)
            if self.is_open:
                self.is_open = False
                try:
                    await self._store.close()
                finally:
                    self._let_go()

    def _let_go(self) -> None:
        if _holders.get(id(self._store)) is self:
            del _holders[id(self._store)]

    async def _forget(self, retention: float) -> None:
        while True:
            forgotten = 0
            try:
                forgotten = await self._store.forget(retention)
            except Exception as error:  # a database that fails for a moment; it is only housekeeping
                self._logger.warning("old records of the inbox could not be forgotten: %s", error)
            await asyncio.sleep(_STEP if forgotten else min(_OFTEN, retention / 4))
