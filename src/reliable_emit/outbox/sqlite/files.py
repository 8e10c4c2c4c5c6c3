"""What the files of an outbox are asked, and what is said of their errors."""

from __future__ import annotations

import os
import sqlite3
import stat
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
    return OutboxUnavailable(str(path), str(error))


def explain_os(path: Path, error: OSError) -> str:
    """Return what is wrong, in words."""
    parent = path.parent
    if isinstance(error, FileNotFoundError) and not os.path.exists(parent):
        return f"the directory {parent} does not exist"
    return f"{error.strerror or error} ({error.filename or path})"


def checked_path(path: str | os.PathLike[str]) -> Path:
    """Return the path of an outbox's file, absolute.

    Raises:
        TypeError: It is no path.
        ValueError: It is the path of no file.
    """
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"path is {path!r}; give the path of a file, a str or a Path")
    name = os.fspath(path)
    if not isinstance(name, str):
        raise TypeError(f"path is {path!r}; give it as a str, not bytes")
    if not name or name.startswith(":") or "\0" in name:
        raise ValueError(f"path is {path!r}; give the path of a file. MemoryOutbox() is the one without a file")
    return Path(os.path.abspath(name))


def is_file(path: Path) -> bool:
    """Return whether there is a file, or nothing yet.

    Raises:
        OutboxUnavailable: There is something else, or it may not be looked at.
    """
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return False
    except OSError as error:
        raise OutboxUnavailable(str(path), explain_os(path, error)) from None
    if stat.S_ISDIR(mode):
        raise OutboxUnavailable(str(path), "it is a directory; give a file in it")
    if not stat.S_ISREG(mode):
        raise OutboxUnavailable(str(path), "it is no regular file")
    return True


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
