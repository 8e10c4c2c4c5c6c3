"""What a handler is given: the transaction, and the connection that it is on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from reliable_emit.server.inbox.store import Key, Transaction

if TYPE_CHECKING:
    import asyncpg


class PostgresTransaction(Transaction):
    """The transaction of a message in PostgreSQL, at the isolation level "read committed".

    A statement that fails undoes the whole transaction: a handler that catches its error and goes on is not
    acknowledged. To survive an error on purpose, have a savepoint: ``async with transaction.connection.transaction():``
    around the statement.

    Attributes:
        principal: Who sent the message.
        offset: The message's client offset.
    """

    def __init__(self, key: Key, connection: asyncpg.Connection, timeout: float) -> None:
        super().__init__(key)
        self._connection: asyncpg.Connection | None = connection
        self._timeout = timeout
        self._noted = _note(connection)

    @property
    def connection(self) -> asyncpg.Connection:
        """The asyncpg connection, in the transaction. Neither commit nor roll back on it: the message would fail.

        Raises:
            RuntimeError: The handler has ended.
        """
        if self._connection is None:
            raise RuntimeError(
                f"the transaction of the message with the client offset {self.offset!r} has ended with its handler; "
                "use it in the handler only, and await what does"
            )
        return self._connection

    async def execute(self, sql: str, *arguments: object) -> str:
        """Execute a statement, with ``$1``, ``$2``... for the arguments, and return its status, like ``INSERT 0 1``.

        Without arguments it may be several statements. It takes no longer than the store's `timeout`.

        Raises:
            asyncpg.PostgresError: It failed, and with it the transaction.
            RuntimeError: The handler has ended.
        """
        status: str = await self.connection.execute(sql, *arguments, timeout=self._timeout)
        return status

    async def fetch(self, sql: str, *arguments: object) -> list[asyncpg.Record]:
        """Execute a statement as `execute` does, and return its rows."""
        rows: list[asyncpg.Record] = await self.connection.fetch(sql, *arguments, timeout=self._timeout)
        return rows

    def end(self) -> None:
        """Be of no use from now on. For the store."""
        self._connection = None
        self._noted._top_xact = None  # noqa: SLF001 - see _note


def _note(connection: asyncpg.Connection) -> Any:
    """Tell asyncpg of the transaction that was begun in one round trip with more, as if it had begun it itself.

    Otherwise its own transactions (inside of ours: savepoints) and its cursors refuse to work. Returns where it is
    noted, until the handler has ended.
    """
    transaction = connection.transaction()
    noted = transaction._connection  # noqa: SLF001 - what a pool gives out is a wrapper around it
    noted._top_xact = transaction  # noqa: SLF001 - there is no public way; it is this one attribute since 2016
    return noted
