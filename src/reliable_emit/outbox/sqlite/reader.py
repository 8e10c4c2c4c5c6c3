"""Looks at an outbox without owning it: for what has to be answered at once, and for people.

It opens the file anew each time: it is asked rarely, and a connection that is left open would have to be closed by
somebody. What the owner has not written yet is not seen.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from reliable_emit.delivery import DeadLetter, Frames, Message
from reliable_emit.errors import OutboxCorrupt, OutboxUnavailable, ReliableEmitError
from reliable_emit.outbox.sqlite import rows
from reliable_emit.outbox.sqlite.files import ERRORS, explain, is_file
from reliable_emit.outbox.sqlite.rows import Clock
from reliable_emit.outbox.sqlite.schema import APPLICATION_ID, SCHEMA

_CHUNK = 256
_BUSY = 1.0
_LAST = 2**63 - 1


class Reader:
    """Reads the outbox in a file.

    All methods raise `OutboxCorrupt` if the file is damaged or no outbox, and `OutboxUnavailable` if it is not there or
    cannot be read.

    Args:
        path: The file.
        clock: The clocks.
        decode: Returns the arguments in a snapshot.
    """

    def __init__(self, path: Path, clock: Clock, decode: Callable[[Frames], tuple[Any, ...]]) -> None:
        self._path = path
        self._clock = clock
        self._decode = decode

    def count(self) -> int:
        """Return how many messages are pending."""
        with self._open() as db:
            (number,) = db.execute("SELECT count(*) FROM message").fetchone()
        return int(number)

    def pending(self, after: int = 0) -> Iterator[Message]:
        """Iterate over the pending messages behind a sequence, oldest first; a piece of the file at a time."""
        while True:
            with self._open() as db:
                doubtful_to = _doubtful_to(db)
                found = db.execute(
                    f"SELECT {rows.MESSAGE} FROM message WHERE sequence > ? ORDER BY sequence LIMIT {_CHUNK}", (after,)
                ).fetchall()
            for row in found:
                if row[0] <= after:
                    raise OutboxCorrupt(str(self._path), "its messages are out of order")
                after = row[0]
                yield rows.message_of(row, doubtful_to, self._clock)
            if len(found) < _CHUNK:
                return

    def message(self, offset: str) -> Message | None:
        """Return the pending message with that offset, if any."""
        with self._open() as db:
            doubtful_to = _doubtful_to(db)
            row = db.execute(
                f"SELECT {rows.MESSAGE} FROM message WHERE client_offset = ?", (rows.offset_column(offset),)
            ).fetchone()
        return None if row is None else rows.message_of(row, doubtful_to, self._clock)

    def letters(self) -> list[DeadLetter]:
        """Return the dead letters, oldest first."""
        with self._open() as db:
            found = db.execute(f"SELECT {rows.LETTER} FROM dead_letter ORDER BY number").fetchall()
        return [rows.letter_of(row, self._decode) for row in found]

    def letter(self, offset: str) -> DeadLetter | None:
        """Return the dead letter with that offset, if any."""
        with self._open() as db:
            row = db.execute(
                f"SELECT {rows.LETTER} FROM dead_letter WHERE client_offset = ?", (rows.offset_column(offset),)
            ).fetchone()
        return None if row is None else rows.letter_of(row, self._decode)

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        if not is_file(self._path):
            raise OutboxUnavailable(str(self._path), "there is no such file")
        try:
            address = f"file:{urllib.parse.quote(os.fsencode(self._path))}?mode=ro"
            with contextlib.closing(sqlite3.connect(address, uri=True, timeout=_BUSY, isolation_level=None)) as db:
                db.text_factory = rows.text_factory
                self._check(db)
                db.execute("BEGIN")  # one view of the file for all that is asked of it
                yield db
        except ERRORS as error:
            raise self._explain(error) from None

    def _explain(self, error: sqlite3.Error | UnicodeDecodeError) -> ReliableEmitError:
        code = getattr(error, "sqlite_errorcode", None) or 0
        if code & 0xFF in {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN} and os.access(self._path, os.R_OK):
            return OutboxUnavailable(
                str(self._path),
                f"this user may not write to the directory {self._path.parent}, which SQLite has to even for reading; "
                f"read a copy elsewhere, made while nobody uses it",
            )
        return explain(self._path, error)

    def _check(self, db: sqlite3.Connection) -> None:
        (application,) = db.execute("PRAGMA application_id").fetchone()
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if application != APPLICATION_ID:
            raise OutboxCorrupt(str(self._path), "it is no outbox")
        if version != len(SCHEMA):
            raise OutboxUnavailable(
                str(self._path), f"its schema is version {version}, and this reliable-emit reads {len(SCHEMA)}"
            )


def _doubtful_to(db: sqlite3.Connection) -> int:
    match db.execute("SELECT doubtful_to FROM state").fetchall():
        case [(int(sequence),)]:
            return sequence
    return _LAST  # nobody knows how it ended
