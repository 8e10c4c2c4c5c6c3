"""The inbox's connection to a SQLite file: the records, and the transaction that messages share. Plain and blocking.

Theory of operation: one transaction is for a group of messages, handled one after the other. What a handler does is in
a savepoint, so that it can be undone alone; the record of its offset is inserted before that is released. The lock is
taken when the transaction begins (`BEGIN IMMEDIATE`), so nobody comes between looking for a record and inserting it.
"""

from __future__ import annotations

import dataclasses
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

from reliable_emit.server.errors import StoreError
from reliable_emit.server.inbox.connection import SAVEPOINT, Connection, rolled_back
from reliable_emit.server.inbox.store import Ending, Key, Record, TakeBack
from reliable_emit.server.inbox.thread import bearable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_T = TypeVar("_T")
Synchronous = Literal["full", "normal"]

_NOW = "(julianday('now') - 2440587.5) * 86400.0"  # Unix time, by a function that old versions of SQLite have too
_SCHEMA = """
CREATE TABLE IF NOT EXISTS reliable_emit_inbox (
    principal TEXT NOT NULL,
    client_offset TEXT NOT NULL,
    fingerprint BLOB NOT NULL,
    reply BLOB NOT NULL,
    handled_at REAL NOT NULL,
    PRIMARY KEY (principal, client_offset)
) WITHOUT ROWID
"""
_INDEX = "CREATE INDEX IF NOT EXISTS reliable_emit_inbox_handled_at ON reliable_emit_inbox (handled_at)"
_FIND = "SELECT fingerprint, reply FROM reliable_emit_inbox WHERE principal = ? AND client_offset = ?"
_INSERT = (
    f"INSERT INTO reliable_emit_inbox (principal, client_offset, fingerprint, reply, handled_at) "  # noqa: S608
    f"VALUES (?, ?, ?, ?, {_NOW})"
)
_FORGET = (
    f"DELETE FROM reliable_emit_inbox WHERE (principal, client_offset) IN (SELECT principal, client_offset "  # noqa: S608
    f"FROM reliable_emit_inbox WHERE handled_at <= {_NOW} - ? ORDER BY handled_at LIMIT 500)"
)
# Not the plain words: a handler's own would be found compiled already, and nobody would be asked whether it may.
_BEGIN_MESSAGE, _KEEP_MESSAGE, _UNDO_MESSAGE, _COMMIT, _ROLLBACK = (
    f"{what} /* by the inbox */"
    for what in (f"SAVEPOINT {SAVEPOINT}", f"RELEASE {SAVEPOINT}", f"ROLLBACK TO {SAVEPOINT}", "COMMIT", "ROLLBACK")
)
# Seconds that a statement waits for another program's lock. Short: the sender repeats its message anyway, and closing
# has to wait for the statement.
_BUSY = 0.5


@dataclasses.dataclass(slots=True, eq=False)
class Work:
    """What the connection knows of a message.

    Attributes:
        found: What was recorded before it.
        begun: Whether its savepoint is open.
        reply: What was recorded of it.
        taken_back: Whether its effects were undone, and only the reply recorded.
        error: Why it could not be recorded.
    """

    key: Key
    fingerprint: bytes
    found: Record | None = None
    begun: bool = False
    reply: bytes = b""
    taken_back: bool = False
    error: Exception | None = None


class Session:
    """The open connection. To be used from one thread alone.

    Raises:
        StoreError: The file cannot be opened, or is no database.
    """

    def __init__(
        self, path: str, synchronous: Synchronous, setup: Callable[[sqlite3.Connection], object] | None = None
    ) -> None:
        self._broken: Exception | None = None  # why the group's transaction is no more, if it ended by itself
        self._stopped = False
        try:
            # Transactions are begun by hand: the module's own would commit behind our back.
            self._db = sqlite3.connect(path, timeout=_BUSY, isolation_level=None, factory=Connection)
        except sqlite3.Error as error:
            raise StoreError(path, _explain(path, error)) from None
        try:
            if setup is not None:
                self._set_up(path, setup)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute(f"PRAGMA synchronous = {synchronous}")
            self._db.execute(_SCHEMA)
            self._db.execute(_INDEX)
            self._db.execute(_FIND, ("", "")).fetchall()
            self._db.set_authorizer(self._db.authorize)
        except sqlite3.Error as error:
            self._db.close()
            raise StoreError(path, _explain(path, error)) from None
        except BaseException:
            self._db.close()
            raise

    def _set_up(self, path: str, setup: Callable[[sqlite3.Connection], object]) -> None:
        setup(self._db)
        if self._db.in_transaction:
            raise StoreError(path, "setup has left a transaction open; let it commit")
        self._db.isolation_level = None

    def admit(self, messages: Sequence[Work]) -> None:
        """Look for their records, and begin the group's transaction, unless it has begun or there is nothing new.

        If it cannot begin, because the file is locked, say, the new messages have that as their `error`.

        Raises:
            sqlite3.Error: The file is damaged; nothing has begun.
        """
        if self._broken is not None:
            raise self._broken
        # A repetition needs no lock, and is answered also while another program has it.
        for message in messages:
            message.found, message.error = self._find(message.key), None
        if self._db.in_transaction or all(message.found for message in messages):
            return
        try:
            self._db.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as error:
            for message in messages:
                message.error = None if message.found else error
            return
        try:
            for message in messages:  # before the lock was ours, another process may have handled them
                message.found = message.found or self._find(message.key)
        except BaseException:
            self._end(_ROLLBACK)
            raise

    def _find(self, key: Key) -> Record | None:
        cursor = self._db.cursor()
        cursor.row_factory = None  # whatever `setup` has set for its own rows
        row = cursor.execute(_FIND, (key.principal, key.offset)).fetchone()
        return None if row is None else Record(row[0], row[1], new=False)

    def perform(self, message: Work, function: Callable[[sqlite3.Connection], _T]) -> _T:
        """Do for a message's handler what it wants done."""
        if self._stopped:
            raise RuntimeError("the store is closed")
        if self._broken is not None:
            raise self._broken
        if not message.begun:
            self._db.execute(_BEGIN_MESSAGE)
            message.begun = True
        try:
            with self._db.guarded():
                result = function(self._db)
                if isinstance(result, sqlite3.Cursor):  # it is closed, like all that the function leaves open
                    raise TypeError("the function returned a cursor; return its rows: fetchall()")
                return result
        finally:
            self._look_after()

    def record(self, message: Work, ending: bytes | Ending) -> None:
        """Record a message that was handled; if that cannot be, undo what its handler did and say so in its `error`."""
        if self._broken is not None:
            return
        try:
            message.reply = ending if isinstance(ending, bytes) else self._finish(message, ending)
            if self._db.in_transaction:  # otherwise the record would be committed at once, without the effect
                key = message.key
                self._db.execute(_INSERT, (key.principal, key.offset, message.fingerprint, message.reply))
                if message.begun:
                    self._db.execute(_KEEP_MESSAGE)
                    message.begun = False
        except BaseException as error:  # a handler's function may raise anything, and other messages share the job
            message.error = bearable(error)
            self.undo(message)
        self._look_after()

    def _finish(self, message: Work, ending: Ending) -> bytes:
        try:
            return ending.reply(lambda: self.perform(message, ending.function))
        except TakeBack as rejection:
            self.undo(message)
            message.taken_back = True
            return rejection.reply

    def undo(self, message: Work) -> None:
        """Undo what a message's handler did."""
        if self._broken is None and message.begun:
            try:
                self._db.execute(_UNDO_MESSAGE)
                self._db.execute(_KEEP_MESSAGE)
            except sqlite3.Error as error:
                self._broken = error
        message.begun = False
        self._look_after()

    def _look_after(self) -> None:
        # SQLite itself rolls a whole transaction back at some errors (a full disk, say), and so does a trigger that
        # says so: with the effects and the records of all messages in the group.
        if self._broken is None and not self._db.in_transaction:
            self._broken = rolled_back()

    def commit(self) -> None:
        """End the group: commit what was recorded.

        Raises:
            sqlite3.Error: Nothing of the whole group is certain to be recorded.
        """
        broken, self._broken = self._broken, None
        if broken is not None:
            self._end(_ROLLBACK)
            raise broken
        try:
            self._end(_COMMIT)
        except BaseException:
            self._end(_ROLLBACK)
            raise

    def _end(self, how: str) -> None:
        if self._db.in_transaction:
            self._db.execute(how)

    def forget(self, age: float) -> int:
        """Forget some records older than `age` seconds, and return how many. Not while a group is on its way."""
        return int(self._db.execute(_FORGET, (age,)).rowcount)

    def stop(self) -> None:
        """Do nothing more for handlers; from any thread. What one of them has begun goes on to its end."""
        self._stopped = True

    def close(self) -> None:
        """Close the file; what is not committed is gone."""
        self._db.close()


def _explain(path: str, error: sqlite3.Error) -> str:
    if not Path(path).parent.exists():
        return f"the directory {Path(path).parent} does not exist"
    if Path(path).is_dir():
        return "it is a directory"
    return str(error)
