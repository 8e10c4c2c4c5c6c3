"""The reference server's messages in a SQLite file.

They are written by the inbox's store, in its thread and its transactions, and read here, by a connection and a thread
of their own, so that a reader that is far behind holds up no sender.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from reliable_emit.server.database import INSERT, Database
from reliable_emit.server.history import StoredMessage
from reliable_emit.server.inbox.sqlite import SQLiteStore
from reliable_emit.server.inbox.thread import Thread

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable
    from typing import TypeVar

    from reliable_emit.server.inbox.session import Synchronous
    from reliable_emit.server.inbox.sqlite import SQLiteTransaction
    from reliable_emit.server.inbox.store import Statement

    _T = TypeVar("_T")

MEMORY = ":memory:"
# Seconds that closing waits for what is being read.
_CLOSING = 0.4


class SQLiteHistory:
    """The messages of a :class:`ReferenceServer`, in a SQLite file; as `History`.

    Args:
        path: The file, made if missing; ``":memory:"`` for one that is deleted at the end.
        synchronous: ``"full"`` survives power loss; ``"normal"`` only the end of the process.

    Raises:
        ValueError: An argument is out of range.
    """

    def __init__(self, path: str | os.PathLike[str], synchronous: Synchronous) -> None:
        path = os.fsdecode(path)
        if not path:
            raise ValueError(f"db is {path!r}; give the path of a file, or {MEMORY!r}")
        self._temporary: Path | None = None
        if path == MEMORY:  # two connections cannot share a database that is in memory alone
            self._temporary = Path(tempfile.gettempdir()) / f"reliable-emit-{secrets.token_hex(16)}"
            path = str(self._temporary / "messages.db")
        path = str(Path(path).absolute())  # or SQLite may take one that begins with "file:" for a URI
        self._path = path
        self.name = "in memory" if self._temporary is not None else path
        self.chat = ""
        self.inbox = SQLiteStore(path, synchronous=synchronous)
        self._thread: Thread | None = None
        self._database: Database | None = None

    async def open(self) -> None:
        """As `History.open`."""
        if self._temporary is not None:
            self._temporary.mkdir(mode=0o700)
        self._thread = Thread("reliable-emit messages")
        self._database = await self._thread.run(lambda: Database(self._path))
        self.chat = self._database.chat

    async def close(self) -> None:
        """As `History.close`."""
        if self._thread is not None:
            thread, self._thread = self._thread, None
            database, self._database = self._database, None
            if database is not None:
                closing = thread.run(database.close)
                await asyncio.wait([closing], timeout=_CLOSING)
            thread.stop()
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)

    def add(self, transaction: SQLiteTransaction, text: str, told: Callable[[StoredMessage], object]) -> Statement[int]:
        """As `History.add`."""
        principal, client_offset = transaction.principal, transaction.offset
        stored: list[StoredMessage] = []

        def insert(connection: sqlite3.Connection) -> int:
            row = connection.execute(INSERT, (principal, client_offset, text)).lastrowid or 0
            stored.append(StoredMessage(row, text, client_offset, principal))
            return row

        transaction.after_commit(lambda: told(*stored))
        return transaction.run(insert)

    async def after(self, row: int, *, rows: int, characters: int) -> list[StoredMessage]:
        """As `History.after`."""
        return await self._run(lambda database: database.after(row, rows, characters))

    async def last(self) -> int:
        """As `History.last`."""
        return await self._run(Database.last)

    async def _run(self, work: Callable[[Database], _T]) -> _T:
        thread, database = self._thread, self._database
        if thread is None or database is None:
            raise RuntimeError("the database is not open")
        return await thread.run(lambda: work(database))
