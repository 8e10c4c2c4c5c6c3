"""The reference server's SQLite file: each message once, in the order of its id. Plain SQLite, and blocking.

A row is visible to readers only after its commit, and a sender is acknowledged only after it, so that a server killed
at any instant has promised nothing that it does not have.
"""

from __future__ import annotations

import dataclasses
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from reliable_emit.server.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Sequence

Synchronous = Literal["full", "normal"]

_APPLICATION_ID = 0x52456D69  # "REmi", in the file's header: how a database of this server is told from any other
_SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE messages (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    principal TEXT NOT NULL,
    client_offset TEXT NOT NULL,
    content TEXT NOT NULL,
    UNIQUE (principal, client_offset)
)
"""
# Seconds that a statement waits for another program's lock. Short: the sender repeats its message anyway, and stopping
# the server has to wait for the statement.
_BUSY = 0.5


@dataclasses.dataclass(frozen=True, slots=True)
class StoredMessage:
    """A message as the server has stored it. `principal` is who sent it, empty where nobody has to log in."""

    id: int
    text: str
    client_offset: str
    principal: str


@dataclasses.dataclass(frozen=True, slots=True)
class Added:
    """What became of an insert.

    `message` is the row that now holds the offset. `new` is true if this very insert made it; otherwise the row was
    there before, and its text may even be another one: `message.text` tells.
    """

    message: StoredMessage
    new: bool


class Database:
    """The SQLite file. Blocking, and to be used from one thread alone."""

    def __init__(self, path: str, synchronous: Synchronous) -> None:
        """Open the file, or make it.

        Raises:
            StoreError: It cannot be opened, is damaged, or belongs to another program or a newer version.
        """
        self._path = path
        try:
            # Transactions are begun by hand: the module's own would commit behind our back.
            self._db = sqlite3.connect(path, timeout=_BUSY, isolation_level=None)
        except sqlite3.Error as error:
            raise StoreError(path, self._explain(error)) from None
        try:
            self._prepare(synchronous)
        except sqlite3.Error as error:
            self._db.close()
            raise StoreError(path, self._explain(error)) from None
        except BaseException:
            self._db.close()
            raise

    def _prepare(self, synchronous: Synchronous) -> None:
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute(f"PRAGMA synchronous = {synchronous}")
        # In one transaction: a server killed in here leaves the file as it was, never half prepared.
        self._db.execute("BEGIN IMMEDIATE")
        application, version, tables = (
            self._number("PRAGMA application_id"),
            self._number("PRAGMA user_version"),
            self._number("SELECT count(*) FROM sqlite_master"),
        )
        if application == _APPLICATION_ID and version > _SCHEMA_VERSION:
            raise StoreError(
                self._path,
                f"a newer reliable-emit has written it (schema {version}, this one knows {_SCHEMA_VERSION}); "
                f"use that one, or another file",
            )
        if application != _APPLICATION_ID and (application or version or tables):
            raise StoreError(self._path, "it is another program's database; give a file of its own to this server")
        if application != _APPLICATION_ID:
            self._db.execute(_SCHEMA)
            self._db.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
            self._db.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")
        self._db.execute("COMMIT")

    def _explain(self, error: sqlite3.Error) -> str:
        parent = Path(self._path).parent
        if not parent.exists():
            return f"the directory {parent} does not exist"
        if Path(self._path).is_dir():
            return "it is a directory"
        return str(error)

    def _number(self, query: str) -> int:
        (value,) = self._db.execute(query).fetchone()
        return int(value)

    def add(self, rows: Sequence[tuple[str, str, str]]) -> list[Added | sqlite3.Error]:
        """Insert (principal, client offset, text) rows in one transaction and say what became of each.

        Raises:
            sqlite3.Error: Nothing at all was stored.
        """
        self._db.execute("BEGIN IMMEDIATE")
        try:
            results = [self._add(*row) for row in rows]
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise
        return results

    def _add(self, principal: str, offset: str, text: str) -> Added | sqlite3.Error:
        try:
            # Looked up, not told from the failure of the insert: to take any failure for a repetition and acknowledge
            # it would lose the message. The transaction has the write lock already, nobody comes between.
            first = self._db.execute(
                "SELECT id, content FROM messages WHERE principal = ? AND client_offset = ?", (principal, offset)
            ).fetchone()
            if first is not None:
                return Added(StoredMessage(first[0], first[1], offset, principal), new=False)
            self._db.execute(
                "INSERT INTO messages (principal, client_offset, content) VALUES (?, ?, ?)", (principal, offset, text)
            )
            (row,) = self._db.execute("SELECT last_insert_rowid()").fetchone()
        except sqlite3.Error as error:
            if not self._db.in_transaction:  # SQLite has taken everything back, the rows before this one as well
                raise
            return error  # this row alone is out
        return Added(StoredMessage(row, text, offset, principal), new=True)

    def after(self, row: int, rows: int, characters: int) -> list[StoredMessage]:
        """Read what follows a row, in order: at most that many rows, and no further once there is that much text."""
        found: list[StoredMessage] = []
        size = 0
        for one in self._db.execute(
            "SELECT id, content, client_offset, principal FROM messages WHERE id > ? ORDER BY id LIMIT ?", (row, rows)
        ):
            found.append(StoredMessage(*one))
            size += len(one[1])
            if size >= characters:
                break
        return found

    def last(self) -> int:
        """Return the highest id, 0 if there is no row."""
        return self._number("SELECT coalesce(max(id), 0) FROM messages")

    def count(self) -> int:
        """Return the number of rows."""
        return self._number("SELECT count(*) FROM messages")

    def close(self) -> None:
        """Close the file."""
        self._db.close()
