"""A SQLite connection that handlers may use, but whose transaction they cannot end, nor outlive.

Two things guard it while a handler's function has it. SQLite's authorizer is asked when a statement is compiled, and
refuses what begins or ends a transaction, and what sets something for all messages that come after. And the cursors
look, each time they execute something, whether there still is a transaction: SQLite rolls one back by itself at some
errors, and what a function that goes on did after that would be committed at once, without the record of its message.
(The authorizer would not do for that: nobody is asked about statements that have been compiled before.)

And what it leaves open is closed after it. SQLite neither releases a savepoint nor commits while a statement that
writes is half done, and one that reads keeps the connection at the state of the file that it began with.
"""

from __future__ import annotations

import contextlib
import sqlite3
import weakref
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

SAVEPOINT: Final = "reliable_emit_message"
"""The savepoint of a message; no handler may touch it."""

# PRAGMAs that set nothing that lasts longer than the transaction, although they are given a value.
_HARMLESS: Final = {
    *("table_info", "table_xinfo", "table_list", "index_list", "index_info", "index_xinfo", "foreign_key_list"),
    *("foreign_key_check", "integrity_check", "quick_check", "defer_foreign_keys"),
}
_TRANSACTION_REFUSED: Final = (
    "the transaction is the inbox's: it commits when the handler has returned, and rolls back if it raises. Begin, "
    "commit or roll back nothing by yourself, with no 'with connection:' and no executescript() either"
)
_SETTING_REFUSED: Final = (
    "PRAGMA {} would be set for all messages that come after, too: have it set once, when the store is opened, by the "
    "function that you give it as setup="
)


class _Cursor(sqlite3.Cursor):
    def execute(self, *arguments: Any) -> Any:
        self._check()
        return super().execute(*arguments)

    def executemany(self, sql: str, parameters: Any, /) -> Any:
        self._check()
        if not isinstance(parameters, list | tuple):  # a generator may execute something itself
            parameters = self._checked(iter(parameters))
        return super().executemany(sql, parameters)

    def _checked(self, parameters: Iterator[Any]) -> Iterator[Any]:
        for each in parameters:
            self._check()
            yield each

    def executescript(self, sql_script: str, /) -> Any:
        self._check()
        return super().executescript(sql_script)

    def _check(self) -> None:
        if isinstance(self.connection, Connection):
            self.connection.check()


class _Fixed:
    """An attribute that says when transactions begin or end: no handler may set it."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._theirs: Any = getattr(sqlite3.Connection, name)

    def __get__(self, connection: Any, owner: type) -> Any:
        return self._theirs.__get__(connection, owner)

    def __set__(self, connection: Connection, value: object) -> None:
        connection.refuse_if_guarded()
        self._theirs.__set__(connection, value)


class Connection(sqlite3.Connection):
    """What a handler is given; guarded only while it has it."""

    isolation_level: Any = _Fixed()
    if hasattr(sqlite3.Connection, "autocommit"):  # since Python 3.12
        autocommit: Any = _Fixed()

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._guarded = False
        self._refused = ""  # why a statement could not be compiled
        # Only what somebody still has; what nobody has is closed already.
        self._opened: set[weakref.ref[sqlite3.Cursor | sqlite3.Blob]] = set()

    def cursor(self, factory: Any = _Cursor) -> Any:
        """As sqlite3's, but guarded.

        Raises:
            TypeError: A handler wants one of a class that is not.
        """
        cursor = super().cursor(factory)
        if self._guarded:
            if not isinstance(cursor, _Cursor):
                raise TypeError(
                    "a cursor of a class of your own would not be guarded: derive that from type(connection.cursor()), "
                    "or set connection.row_factory"
                )
            self._opened.add(weakref.ref(cursor, self._opened.discard))
        return cursor

    def blobopen(self, *arguments: Any, **options: Any) -> sqlite3.Blob:
        """As sqlite3's, but guarded."""
        self.check()
        blob = super().blobopen(*arguments, **options)
        if self._guarded:
            self._opened.add(weakref.ref(blob, self._opened.discard))
        return blob

    def execute(self, *arguments: Any) -> Any:
        """As sqlite3's, but guarded."""
        return self.cursor().execute(*arguments)

    def executemany(self, *arguments: Any) -> Any:
        """As sqlite3's, but guarded."""
        return self.cursor().executemany(*arguments)

    def executescript(self, sql_script: str, /) -> Any:
        """As sqlite3's, but guarded."""
        return self.cursor().executescript(sql_script)

    def close(self) -> None:
        """Close it; not from a handler.

        Raises:
            sqlite3.ProgrammingError: A handler has done it.
        """
        if self._guarded:
            raise sqlite3.ProgrammingError("the connection is the store's, which others use after you: leave it open")
        super().close()

    def refuse_if_guarded(self) -> None:
        """Refuse what would begin or end a transaction.

        Raises:
            sqlite3.ProgrammingError: It is in a handler.
        """
        if self._guarded:
            raise sqlite3.ProgrammingError(_TRANSACTION_REFUSED)

    def check(self) -> None:
        """Refuse to execute anything in a handler whose transaction is gone.

        Raises:
            sqlite3.OperationalError: It is.
        """
        if self._guarded and not self.in_transaction:
            raise rolled_back()

    @contextlib.contextmanager
    def guarded(self) -> Iterator[None]:
        """Guard it while a handler has it; what that sets for its rows ends with it, and so do its cursors.

        Raises:
            sqlite3.ProgrammingError: It tried to begin or end a transaction, or to set something for all others.
        """
        row_factory, text_factory = self.row_factory, self.text_factory
        self._guarded, self._refused = True, ""
        try:
            yield
        except sqlite3.DatabaseError as error:
            if self._refused and getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_AUTH:
                raise sqlite3.ProgrammingError(self._refused) from None
            raise
        finally:
            self._guarded = False
            self.row_factory, self.text_factory = row_factory, text_factory
            self._close_opened()

    def _close_opened(self) -> None:
        for reference in tuple(self._opened):
            if (opened := reference()) is not None:
                opened.close()
        self._opened.clear()

    def authorize(self, action: int, name: str | None, detail: str | None, *_: Any) -> int:
        """Say whether a statement may be compiled; for `set_authorizer`."""
        if not self._guarded:
            return sqlite3.SQLITE_OK
        if action == sqlite3.SQLITE_TRANSACTION or (
            action == sqlite3.SQLITE_SAVEPOINT and (detail or "").lower() == SAVEPOINT  # as SQLite compares them
        ):
            # A commit in the middle would make an effect last without its record, and those of the group's other
            # messages; no message would be worth its acknowledgement then.
            self._refused = _TRANSACTION_REFUSED
            return sqlite3.SQLITE_DENY
        if action == sqlite3.SQLITE_PRAGMA and detail is not None and (name or "").lower() not in _HARMLESS:
            # No rollback takes it back; with "synchronous = OFF", nobody's acknowledgement would be worth much.
            self._refused = _SETTING_REFUSED.format(name)
            return sqlite3.SQLITE_DENY
        return sqlite3.SQLITE_OK


def rolled_back() -> sqlite3.OperationalError:
    """Say that SQLite has ended the transaction by itself."""
    return sqlite3.OperationalError("the transaction that the message shared was rolled back")
