"""The database's asynchronous face: runs it in one thread of its own.

A thread, because a commit waits for the disk and the event loop must not; and only one, because then the order in which
messages are handed over is the order in which they are stored.
"""

from __future__ import annotations

import asyncio
import collections
import functools
import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar, get_args

from reliable_emit.server.database import Added, Database, StoredMessage, Synchronous

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_T = TypeVar("_T")
_P = ParamSpec("_P")

# Inserts that share one commit at the most, so that no sender waits for an endless group of others.
_GROUP = 500
# Seconds that closing waits for what is being written.
_CLOSING = 0.4


class MessageStore:
    """The database, for the event loop.

    Args:
        path: The file; ``":memory:"`` for none.
        committed: Called in the event loop with the new rows, in the order of their ids, after each commit. It is the
            commit that calls it and not whoever asked for the insert: a sender whose handler dies between the two
            still has its message broadcast.
        synchronous: ``"full"`` survives power loss; ``"normal"`` only the end of the process.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        committed: Callable[[list[StoredMessage]], None],
        *,
        synchronous: Synchronous = "full",
    ) -> None:
        self._path = os.fsdecode(path)
        if not self._path:
            raise ValueError(f"db is {path!r}; give the path of a file, or ':memory:'")
        if synchronous not in get_args(Synchronous):
            raise ValueError(f"synchronous is {synchronous!r}; choose one of {', '.join(get_args(Synchronous))}")
        self._synchronous: Synchronous = synchronous
        self._committed = committed
        self._database: Database | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="reliable-emit-server-db")
        self._waiting: collections.deque[tuple[tuple[str, str, str], asyncio.Future[Added]]] = collections.deque()
        self._writer: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Open the file, or make it.

        Raises:
            StoreError: It cannot be opened, is damaged, or belongs to another program or a newer version.
        """
        loop = asyncio.get_running_loop()
        self._database = await loop.run_in_executor(self._thread, Database, self._path, self._synchronous)

    async def add(self, principal: str, client_offset: str, text: str) -> Added:
        """Store a message, unless its offset is taken already; returns after the commit.

        Cancelling it does not take the message back: it may be stored all the same.

        Raises:
            sqlite3.Error: The message is not stored.
        """
        future: asyncio.Future[Added] = asyncio.get_running_loop().create_future()
        self._waiting.append(((principal, client_offset, text), future))
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write())
        return await future

    async def _write(self) -> None:
        # What has come in while one commit waited for the disk shares the next one: many senders do not queue up for
        # one disk access each.
        while self._waiting:
            group = [self._waiting.popleft() for _ in range(min(len(self._waiting), _GROUP))]
            results: Sequence[Added | Exception]
            try:
                results = await self._run(Database.add, [row for row, _ in group])
            except Exception as error:  # whatever it is, the senders wait for an answer
                results = [error] * len(group)
            if new := [result.message for result in results if isinstance(result, Added) and result.new]:
                self._committed(new)
            for (_, future), result in zip(group, results, strict=True):
                if future.done():  # its sender's handler was cancelled
                    continue
                if isinstance(result, Added):
                    future.set_result(result)
                else:
                    future.set_exception(result)

    async def after(self, row: int, *, rows: int, characters: int) -> list[StoredMessage]:
        """Read what follows a row, in order: at most that many rows, and no further once there is that much text."""
        return await self._run(Database.after, row, rows, characters)

    async def last(self) -> int:
        """Return the highest id, 0 if there is no row."""
        return await self._run(Database.last)

    async def count(self) -> int:
        """Return the number of rows."""
        return await self._run(Database.count)

    async def close(self) -> None:
        """Finish what is being written, and close the file; returns within a second, also if the disk hangs.

        A disk that hangs holds up the end of the process all the same: no thread can be ended in the middle of a write.
        """
        if self._writer is not None:
            await asyncio.wait([self._writer], timeout=_CLOSING)
            self._writer.cancel()
        if self._database is not None:
            closing = asyncio.ensure_future(self._run(Database.close))
            await asyncio.wait([closing], timeout=_CLOSING)
            self._database = None
        self._thread.shutdown(wait=False)

    async def _run(self, work: Callable[Concatenate[Database, _P], _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        if self._database is None:
            raise RuntimeError("the database is not open")
        call = functools.partial(work, self._database, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)
