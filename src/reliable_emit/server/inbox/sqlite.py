"""The store in a SQLite file: the program's own, next to its tables."""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
from typing import TYPE_CHECKING, Any, TypeVar, get_args

from reliable_emit.server.inbox.groups import Groups, Perform, over
from reliable_emit.server.inbox.session import Session, Synchronous
from reliable_emit.server.inbox.store import Ending, Key, Record, Statement, Transaction
from reliable_emit.server.inbox.thread import Thread

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Awaitable, Callable, Mapping, Sequence

_T = TypeVar("_T")

# Seconds that closing waits for what is being committed, and again for the file.
_CLOSING = 0.4


class SQLiteTransaction(Transaction):
    """The transaction of a :class:`SQLiteStore`: statements are awaited, and run in the store's thread."""

    def __init__(self, key: Key, perform: Perform) -> None:
        super().__init__(key)
        self._perform = perform

    def execute(self, sql: str, parameters: Sequence[Any] | Mapping[str, Any] = ()) -> Statement[list[tuple[Any, ...]]]:
        """Execute a statement and give all its rows; those of an ``INSERT`` are what follows its ``RETURNING``.

        Await it, or let it be what the handler returns: then it is executed on the way to the commit, which is faster.
        Cancelling it does not stop the statement; but a handler that ends with that is rolled back.

        Raises:
            sqlite3.Error: As the statement says; the handler may go on, or raise, and is rolled back then. Also if it
                is one that begins or ends a transaction.
            RuntimeError: The handler has ended.
        """
        return self.run(lambda connection: connection.execute(sql, parameters).fetchall())

    def run(self, function: Callable[[sqlite3.Connection], _T]) -> Statement[_T]:
        """Call a plain function with the ``sqlite3.Connection``, in the store's thread, and give what it returns.

        To be awaited or returned, as :meth:`execute`. For what that cannot do: several statements at once,
        ``executemany``, ``lastrowid``. It must not begin or end a transaction, set a ``PRAGMA`` for all that come
        after, nor keep the connection; its cursors are closed after it. Savepoints of its own are fine.

        Raises:
            Exception: What the function raised.
            TypeError: It returned a cursor; return the rows.
            RuntimeError: The handler has ended.
        """
        if self._over:
            raise over(self.offset)
        return Statement(self, function, self._perform)


class SQLiteStore:
    """Records in a table of a SQLite file (``reliable_emit_inbox``), next to the tables of your program.

    Messages are handled one after the other, each in a savepoint, and those that have come meanwhile share a commit. So
    a handler should do what it has to with the database and return: what it waits for, all others wait for too. The
    file is set to write-ahead logging, which is a property of the file and stays.

    Args:
        path: The file, made if missing; ``":memory:"`` for none.
        synchronous: ``"full"``: what is acknowledged survives a loss of power. ``"normal"``: only the end of the
            process.
        setup: A plain function that is called with the new connection, in the store's thread, before anything else is
            done with it. For what cannot be set in a transaction, or is for all messages: ``PRAGMA foreign_keys = ON``,
            ``ATTACH``, ``create_function``.

    Raises:
        TypeError: An argument is of the wrong type.
        ValueError: An argument is out of range.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        synchronous: Synchronous = "full",
        setup: Callable[[sqlite3.Connection], object] | None = None,
    ) -> None:
        self._path = os.fsdecode(path)
        if not self._path:
            raise ValueError(f"path is {path!r}; give the path of a file, or ':memory:'")
        if synchronous not in get_args(Synchronous):
            raise ValueError(f"synchronous is {synchronous!r}; choose one of {', '.join(get_args(Synchronous))}")
        if setup is not None and (not callable(setup) or inspect.iscoroutinefunction(setup)):
            raise TypeError("setup must be a plain function that takes the connection")
        self._synchronous: Synchronous = synchronous
        self._setup = setup
        self._open = False
        self._opened: tuple[Thread, Session, Groups] | None = None

    async def open(self) -> None:
        """As `InboxStore.open`.

        Raises:
            StoreError: The file cannot be opened, or is no database.
            RuntimeError: It is open already: a store is for one inbox.
            Exception: What `setup` raised.
        """
        if self._open:
            raise RuntimeError("the store is open already; give each inbox a store of its own, on the same file or not")
        self._open = True
        thread = Thread(f"reliable-emit inbox {os.path.basename(self._path)}")
        opened: list[Session] = []
        try:
            await thread.run(lambda: opened.append(Session(self._path, self._synchronous, self._setup)))
        except BaseException:
            self._open = False
            thread.run(lambda: opened[0].close() if opened else None)  # cancelled, and opened all the same
            thread.stop()
            raise
        (session,) = opened
        self._opened = thread, session, Groups(thread, session)

    async def close(self) -> None:
        """As `InboxStore.close`.

        A handler that is still at work then is rolled back, whatever it returns. A function that the thread has begun
        goes on to its end; if the handler had returned it, its message may be committed with it, unacknowledged.
        """
        if self._opened is None:
            return
        thread, session, groups = self._opened
        self._opened, self._open = None, False
        await groups.close(_CLOSING)
        closing = thread.run(session.close)
        thread.stop()
        await asyncio.wait([closing], timeout=_CLOSING)

    async def once(
        self, key: Key, fingerprint: bytes, handle: Callable[[SQLiteTransaction], Awaitable[bytes]]
    ) -> Record:
        """As `InboxStore.once`."""

        async def handled(transaction: SQLiteTransaction) -> bytes | Ending:
            reply = await handle(transaction)
            if transaction.unused:
                raise RuntimeError(
                    f"the handler of the message with the client offset {key.offset!r} has made a statement, and "
                    f"neither awaited nor returned it"
                )
            return transaction.ending or reply

        return await self._groups().once(key, fingerprint, functools.partial(SQLiteTransaction, key), handled)

    async def forget(self, age: float) -> int:
        """As `InboxStore.forget`."""
        return await self._groups().forget(age)

    def _groups(self) -> Groups:
        if self._opened is None:
            raise RuntimeError("the store is not open")
        return self._opened[2]
