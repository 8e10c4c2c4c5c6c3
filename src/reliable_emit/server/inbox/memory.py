"""A store that remembers as long as its process lives; for tests."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import time
import weakref
from typing import TYPE_CHECKING

from reliable_emit.server.inbox.afterwards import call_back
from reliable_emit.server.inbox.store import Key, Record, TakeBack, Transaction

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

# Records that are forgotten at a time.
_STEP = 1000


class MemoryStore:
    """Records in memory, for tests: the next process has none of them, and handles each repetition once more.

    The effects of its transactions are what their handlers have queued with
    :meth:`~reliable_emit.server.Transaction.after_commit`; what a handler does by itself is not undone.
    """

    def __init__(self) -> None:
        self._records: dict[Key, tuple[float, Record]] = {}  # in the order of their times
        self._open = False
        # Whoever handles a key, or waits to, keeps its lock alive.
        self._locks: weakref.WeakValueDictionary[Key, asyncio.Lock] = weakref.WeakValueDictionary()

    async def open(self) -> None:
        """As in `InboxStore`; there is nothing to open.

        Raises:
            RuntimeError: It is open already: a store is for one inbox.
        """
        if self._open:
            raise RuntimeError("the store is open already; give each inbox a store of its own")
        self._open = True

    async def close(self) -> None:
        """As in `InboxStore`; the records stay as long as the object."""
        self._open = False

    async def once(self, key: Key, fingerprint: bytes, handle: Callable[[Transaction], Awaitable[bytes]]) -> Record:
        """As in `InboxStore`; messages with different keys are handled at the same time."""
        lock = self._locks.setdefault(key, asyncio.Lock())
        async with lock:
            if (found := self._records.get(key)) is not None:
                return found[1]
            transaction = Transaction(key)
            try:
                reply = await handle(transaction)
            except TakeBack as rejection:
                transaction.take_callbacks()
                reply = rejection.reply
            record = Record(fingerprint, reply, new=True)
            self._records[key] = (time.monotonic(), dataclasses.replace(record, new=False))
            call_back(transaction)
            return record

    async def forget(self, age: float) -> int:
        """As in `InboxStore`."""
        oldest = time.monotonic() - age
        step = itertools.islice(self._records.items(), _STEP)
        old = [key for key, (handled_at, _) in step if handled_at <= oldest]
        for key in old:
            del self._records[key]
        return len(old)
