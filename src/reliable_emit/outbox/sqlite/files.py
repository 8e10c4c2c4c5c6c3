"""What the files of an outbox are asked, and what is said of their errors."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from reliable_emit.errors import OutboxCorrupt, OutboxUnavailable, ReliableEmitError

_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR}
"""The last one: what was asked does not fit the tables, and they are ours."""

ERRORS = (sqlite3.Error, UnicodeDecodeError)
"""What is raised for an error of SQLite's; the other one if there are bytes of a damaged file in its words."""


def explain(path: Path, error: sqlite3.Error | UnicodeDecodeError) -> ReliableEmitError:
    """Return the error to raise for one of `ERRORS`."""
    if isinstance(error, UnicodeDecodeError):
        return OutboxCorrupt(str(path), error.object.decode("utf-8", "backslashreplace"))
    # The extended codes have the plain one in their lowest byte.
    if (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF in _DAMAGED:
        return OutboxCorrupt(str(path), str(error))
    if path.is_dir():
        return OutboxUnavailable(str(path), "it is a directory; give a file in it")
    return OutboxUnavailable(str(path), str(error))


def explain_os(path: Path, error: OSError) -> str:
    """Return what is wrong, in words."""
    parent = path.parent
    if not parent.exists():
        return f"the directory {parent} does not exist"
    return f"{error.strerror or error} ({error.filename or path})"


def file_size(path: Path) -> int:
    """Return how many bytes a file has, 0 if it is not there."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def identity(name: str) -> tuple[int, int]:
    """Return what tells whether it is still the same file that has that name."""
    try:
        found = os.stat(name)
    except OSError:
        return 0, 0
    return found.st_dev, found.st_ino
