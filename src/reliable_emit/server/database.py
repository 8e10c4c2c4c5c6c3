"""The reference server's SQLite file: made, told from others, and read. Plain SQLite, and blocking.

The rows are written by the inbox's store, in the transactions in which it records the messages.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from reliable_emit.server.errors import StoreError
from reliable_emit.server.history import StoredMessage

INSERT = "INSERT INTO messages (principal, client_offset, content) VALUES (?, ?, ?)"
"""Stores a message. One inserts at a time, so the ids are in the order of the commits."""

_APPLICATION_ID = 0x52456D69  # "REmi", in the file's header: how a database of this server is told from any other
_SCHEMA_VERSION = 3
_SCHEMA = """
CREATE TABLE messages (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    principal TEXT NOT NULL,
    client_offset TEXT NOT NULL,
    content TEXT NOT NULL
)
"""
# One row: what tells this chat from any other.
_CHAT = "CREATE TABLE chat AS SELECT lower(hex(randomblob(16))) AS name"
# Seconds that a statement waits for another program's lock.
_BUSY = 0.5


class Database:
    """The SQLite file, to be read. Blocking, and to be used from one thread alone.

    Attributes:
        chat: As `History.chat`.
    """

    chat: str

    def __init__(self, path: str) -> None:
        """Open the file, or make it.

        Raises:
            StoreError: It cannot be opened, is damaged, or belongs to another program or another version.
        """
        self._path = path
        try:
            # Transactions are begun by hand: the module's own would commit behind our back.
            self._db = sqlite3.connect(path, timeout=_BUSY, isolation_level=None)
        except sqlite3.Error as error:
            raise StoreError(path, self._explain(error)) from None
        try:
            self._prepare()
        except sqlite3.Error as error:
            self._db.close()
            raise StoreError(path, self._explain(error)) from None
        except BaseException:
            self._db.close()
            raise

    def _prepare(self) -> None:
        self._db.execute("PRAGMA journal_mode = WAL")
        # In one transaction: a server killed in here leaves the file as it was, never half prepared.
        self._db.execute("BEGIN IMMEDIATE")
        application, version, tables = (
            self._number("PRAGMA application_id"),
            self._number("PRAGMA user_version"),
            self._number("SELECT count(*) FROM sqlite_master"),
        )
        if application == _APPLICATION_ID and version != _SCHEMA_VERSION:
            age = "a newer" if version > _SCHEMA_VERSION else "an older"
            raise StoreError(
                self._path,
                f"{age} reliable-emit has written it (schema {version}, this one knows {_SCHEMA_VERSION}); "
                f"use that one, or another file",
            )
        if application != _APPLICATION_ID and (application or version or tables):
            raise StoreError(self._path, "it is another program's database; give a file of its own to this server")
        if application != _APPLICATION_ID:
            self._db.execute(_SCHEMA)
            self._db.execute(_CHAT)
            self._db.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
            self._db.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")
        self._db.execute("COMMIT")
        self._db.execute("PRAGMA query_only = ON")
        (self.chat,) = self._db.execute("SELECT name FROM chat").fetchone()

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

    def close(self) -> None:
        """Close the file."""
        self._db.close()
