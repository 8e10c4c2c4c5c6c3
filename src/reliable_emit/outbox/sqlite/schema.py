"""What is in the file besides messages: the tables, in each version, and a note of how its last owner left it."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from reliable_emit.errors import OutboxCorrupt, OutboxUnavailable
from reliable_emit.outbox.sqlite.files import file_size
from reliable_emit.outbox.sqlite.rows import Column

APPLICATION_ID = 0x52456D4F  # "REmO", in the file's header: how an outbox is told from any other database
SCHEMA = [
    """
    CREATE TABLE message (
        sequence INTEGER PRIMARY KEY,
        client_offset TEXT NOT NULL UNIQUE,
        event TEXT NOT NULL,
        frames BLOB NOT NULL,
        ack_timeout REAL NOT NULL,
        retries INTEGER,
        accepted_at REAL NOT NULL,
        expires_at REAL,
        attempts INTEGER NOT NULL,
        failures INTEGER NOT NULL,
        losses INTEGER NOT NULL,
        doubtful INTEGER NOT NULL -- whether it may have been sent once more than that says
    );
    CREATE TABLE dead_letter (
        number INTEGER PRIMARY KEY,
        client_offset TEXT NOT NULL UNIQUE,
        event TEXT NOT NULL,
        frames BLOB NOT NULL,
        ack_timeout REAL NOT NULL,
        retries INTEGER,
        accepted_at REAL NOT NULL,
        attempts INTEGER NOT NULL,
        doubtful INTEGER NOT NULL,
        reason TEXT NOT NULL,
        detail TEXT NOT NULL,
        died_at REAL NOT NULL
    );
    CREATE TABLE state (
        closed INTEGER NOT NULL, -- whether the last owner said goodbye
        doubtful_to INTEGER NOT NULL -- the messages up to this sequence may have been sent without a note of it
    );
    INSERT INTO state VALUES (1, 0);
    """,
]
"""What makes each version of the schema out of the one before; the file's ``user_version`` says which ones it has."""

_WAL_LIMIT = 4_000_000


def prepare(db: sqlite3.Connection, path: Path) -> int:
    """Have the file be an outbox of this version, and note that it has an owner.

    Returns:
        Up to which sequence messages may have been sent without a note of it.

    Raises:
        OutboxCorrupt: It is no outbox.
        OutboxUnavailable: It is of a newer version, or on a file system that will not do.
        sqlite3.Error: It cannot be used.
    """
    db.execute("PRAGMA synchronous = full")  # for the note that somebody was here
    application, version, tables = (
        number(db, "PRAGMA application_id"),
        number(db, "PRAGMA user_version"),
        number(db, "SELECT count(*) FROM sqlite_master"),
    )
    if file_size(path) and not number(db, "PRAGMA page_count"):
        raise OutboxCorrupt(str(path), "it is cut short")  # to SQLite it is empty, and to be written over
    if application != APPLICATION_ID and (application or version or tables):
        raise OutboxCorrupt(str(path), "it is another program's database")
    if version > len(SCHEMA):
        raise OutboxUnavailable(
            str(path),
            f"a newer reliable-emit has written it (schema {version}, this one knows {len(SCHEMA)}); "
            f"use that one, or another file",
        )
    if not tables:
        db.execute("PRAGMA auto_vacuum = incremental")  # possible only before there is anything
    (mode,) = db.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise OutboxUnavailable(str(path), "its file system cannot have a write-ahead log; use a local disk")
    db.execute(f"PRAGMA journal_size_limit = {_WAL_LIMIT}")
    # In one transaction: whoever is killed in here leaves the file as it was, never half prepared.
    db.execute("BEGIN IMMEDIATE")
    for made, script in enumerate(SCHEMA[version:], version + 1):
        for statement in filter(str.strip, script.split(";")):
            db.execute(statement)
        db.execute(f"PRAGMA user_version = {made}")
    db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    match db.execute("SELECT closed, doubtful_to FROM state").fetchall():
        case [(int(closed), int(doubtful_to))]:
            doubtful = doubtful_to if closed else max(doubtful_to, last(db))
        case _:  # damaged: then nobody knows how it ended
            doubtful = last(db)
    db.execute("DELETE FROM state")
    db.execute("INSERT INTO state VALUES (0, ?)", (doubtful,))
    db.execute("COMMIT")
    return doubtful


def last(db: sqlite3.Connection) -> int:
    """Return the highest sequence of a pending message, 0 if there is none."""
    return number(db, "SELECT coalesce(max(sequence), 0) FROM message")


def number(db: sqlite3.Connection, query: str, *arguments: Column) -> int:
    """Return the one number that a query finds."""
    (value,) = db.execute(query, arguments).fetchone()
    return int(value)
