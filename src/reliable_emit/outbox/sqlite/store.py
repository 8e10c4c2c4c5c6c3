"""The SQLite file, for the one thread that writes to it. Plain SQLite, and blocking."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, cast

from reliable_emit.delivery import Message
from reliable_emit.errors import OutboxCorrupt, OutboxLocked, OutboxUnavailable, ReliableEmitError
from reliable_emit.locking import Lock, Taken
from reliable_emit.outbox.sqlite import rows, schema
from reliable_emit.outbox.sqlite.files import ERRORS, explain, explain_os, file_size, identity, is_file
from reliable_emit.outbox.sqlite.rows import Clock, Column, Row
from reliable_emit.outbox.sqlite.schema import number
from reliable_emit.outbox.sqlite.window import size as snapshot_size

Synchronous = Literal["full", "normal"]

_INSERT = (
    f"INSERT OR IGNORE INTO message ({rows.MESSAGE}) SELECT ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ? "
    f"WHERE NOT EXISTS (SELECT 1 FROM dead_letter WHERE client_offset = ?2)"
)
_BURY = f"INSERT OR REPLACE INTO dead_letter ({rows.LETTER}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_BUSY = 5.0
"""Seconds that a statement waits for the lock of a program that is no outbox, such as a person with a shell."""
_VACUUM_STEP = 256


@dataclasses.dataclass(slots=True)
class Batch:
    """What is written together; in this order, each row as `rows` makes it.

    Attributes:
        removed: The sequences of messages that are pending no more.
        forgotten: The offsets of dead letters that are none any more.
        letters: New dead letters.
        attempts: ``(attempts, failures, losses, sequence)`` of messages.
        inserts: New messages.
    """

    removed: list[int] = dataclasses.field(default_factory=list)
    forgotten: list[Column] = dataclasses.field(default_factory=list)
    letters: list[Row] = dataclasses.field(default_factory=list)
    attempts: list[tuple[int, int, int, int]] = dataclasses.field(default_factory=list)
    inserts: list[Row] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True, slots=True)
class Loaded:
    """Messages that were read, all that are stored up to `end`; `complete` if there are no others behind them."""

    messages: list[Message]
    end: int
    complete: bool


class Store:
    """The file, open and owned.

    Args:
        path: The file; made if there is none.
        synchronous: ``"full"``: a commit is on the disk when it returns. ``"normal"``: it is with the operating system.
        clock: The clocks.

    Raises:
        OutboxLocked: Somebody else owns it.
        OutboxCorrupt: It is damaged, or no outbox.
        OutboxUnavailable: It cannot be opened or made, or is of a newer version.
    """

    def __init__(self, path: Path, synchronous: Synchronous, clock: Clock) -> None:
        self._path = path
        self._wal = Path(f"{os.path.realpath(path)}-wal")
        self._clock = clock
        is_file(path)  # or it raises: then there is nothing to lock
        try:
            self._lock = Lock(path)
        except Taken as taken:
            raise OutboxLocked(str(path), taken.process) from None
        except OSError as error:
            raise OutboxUnavailable(str(path), explain_os(path, error)) from None
        try:
            self._db = self._open(synchronous)
        except BaseException:
            self._lock.release()
            raise

    def _open(self, synchronous: Synchronous) -> sqlite3.Connection:
        if file_size(self._wal) and not file_size(self._path):
            # SQLite would take it for a new database, and throw the log away: all that is left of the messages.
            raise OutboxCorrupt(
                str(self._path), f"the file is empty or gone, but its write-ahead log {self._wal.name} is there"
            )
        try:
            # Used by the worker's thread, which may not be the one that closes it. Transactions are begun by hand.
            db = sqlite3.connect(self._path, timeout=_BUSY, isolation_level=None, check_same_thread=False)
            db.text_factory = rows.text_factory
        except ERRORS as error:
            raise self._explain(error) from None
        try:
            self._doubtful_to = schema.prepare(db, self._path)
            db.execute(f"PRAGMA synchronous = {synchronous}")
            self._files = {name: identity(name) for name in (str(self._path), str(self._wal))}
        except ERRORS as error:
            db.close()
            raise self._explain(error) from None
        except BaseException:
            db.close()
            raise
        return db

    def last(self) -> int:
        """Return the highest sequence there was, or one above it; raises as `load` does."""
        with self._explained():
            return max(schema.last(self._db), self._doubtful_to)

    def count(self) -> int:
        """Return how many messages are pending; raises as `load` does."""
        with self._explained():
            return number(self._db, "SELECT count(*) FROM message")

    def load(self, after: int, messages: int, size: int) -> Loaded:
        """Read the pending messages behind a sequence: up to that many, and no further once there are `size` bytes.

        Raises:
            OutboxCorrupt: The file is damaged.
            OutboxUnavailable: It cannot be read.
        """
        found: list[Message] = []
        end = after
        with self._explained():
            for row in self._db.execute(
                f"SELECT {rows.MESSAGE} FROM message WHERE sequence > ? ORDER BY sequence LIMIT ?", (after, messages)
            ):
                message = rows.message_of(row, self._doubtful_to, self._clock)
                if message.sequence <= end:
                    raise OutboxCorrupt(str(self._path), "its messages are out of order")
                end = message.sequence
                found.append(message)
                size -= snapshot_size(message.frames)
                if size <= 0:
                    break
            (more,) = self._db.execute("SELECT EXISTS (SELECT 1 FROM message WHERE sequence > ?)", (end,)).fetchone()
        return Loaded(found, end, complete=not more)

    def write(self, batches: Sequence[Batch]) -> list[set[int]]:
        """Write the batches in one transaction, and return for each the sequences whose offset was taken.

        Raises:
            OutboxCorrupt: The file is damaged.
            OutboxUnavailable: It cannot be written to. Either way, nothing at all was written.
        """
        try:
            self._db.execute("BEGIN IMMEDIATE")
            refused = [self._write(batch) for batch in batches]
            self._check_files()
            self._db.execute("COMMIT")
        except ERRORS as error:
            self._roll_back()
            raise self._explain(error) from None
        except BaseException:
            self._roll_back()
            raise
        return refused

    def _roll_back(self) -> None:
        with contextlib.suppress(*ERRORS):
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")

    def _write(self, batch: Batch) -> set[int]:
        many = self._db.executemany
        if batch.removed:
            many("DELETE FROM message WHERE sequence = ?", [(sequence,) for sequence in batch.removed])
        if batch.forgotten:
            many("DELETE FROM dead_letter WHERE client_offset = ?", [(offset,) for offset in batch.forgotten])
        if batch.letters:
            many(_BURY, batch.letters)
        if batch.attempts:
            many("UPDATE message SET attempts = ?, failures = ?, losses = ? WHERE sequence = ?", batch.attempts)
        if not batch.inserts or many(_INSERT, batch.inserts).rowcount == len(batch.inserts):
            return set()
        # Looked up one by one only now: an offset that is taken is a mistake, and rare.
        return {
            sequence
            for sequence in (cast("int", row[0]) for row in batch.inserts)
            if not number(self._db, "SELECT EXISTS (SELECT 1 FROM message WHERE sequence = ?)", sequence)
        }

    def _check_files(self) -> None:
        """Raise if somebody has taken the file away: SQLite would go on writing where nobody can find it again."""
        for name, known in self._files.items():
            if identity(name) != known:
                raise OutboxUnavailable(
                    str(self._path),
                    f"{name} was deleted or replaced while it was in use. What it had is still being delivered, as "
                    f"long as this process lives; then open the outbox anew",
                )

    def tidy(self) -> bool:
        """Do one small step of giving back space that is not used any more, and say whether there is more to do."""
        try:
            with self._waiting(0):  # messages would wait too: for as long as somebody reads, such as a backup
                if number(self._db, "PRAGMA freelist_count") > _VACUUM_STEP:
                    self._db.execute(f"PRAGMA incremental_vacuum({_VACUUM_STEP})").fetchall()
                    return True
                if file_size(self._wal):
                    self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        except (*ERRORS, OSError):
            pass  # somebody reads, or the disk is full: there is no hurry
        return False

    @contextlib.contextmanager
    def _waiting(self, seconds: float) -> Iterator[None]:
        """In here, statements wait that long at the most for another program's lock."""
        try:
            self._db.execute(f"PRAGMA busy_timeout = {int(seconds * 1000)}")
            yield
        finally:
            self._db.execute(f"PRAGMA busy_timeout = {int(_BUSY * 1000)}")

    def close(self, *, closed: bool) -> None:
        """Close the file and let go of it; `closed` if all that happened was written down."""
        try:
            with contextlib.suppress(*ERRORS, ReliableEmitError):
                if closed:
                    self._check_files()
                    self._db.execute("UPDATE state SET closed = 1")
            with contextlib.suppress(*ERRORS):
                self._db.execute("PRAGMA busy_timeout = 0")  # what is not moved into the file now is so another time
            with contextlib.suppress(*ERRORS):
                self._db.close()
        finally:
            self._lock.release()

    def _explain(self, error: sqlite3.Error | UnicodeDecodeError) -> ReliableEmitError:
        return explain(self._path, error)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except ERRORS as error:
            raise self._explain(error) from None
