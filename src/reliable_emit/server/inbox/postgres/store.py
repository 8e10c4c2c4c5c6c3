"""The store: which statements a message takes, and what their failures mean."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

from reliable_emit import policy
from reliable_emit.server.errors import StoreError
from reliable_emit.server.inbox.afterwards import call_back
from reliable_emit.server.inbox.postgres.connections import Connections, driver
from reliable_emit.server.inbox.postgres.statements import Statements
from reliable_emit.server.inbox.postgres.transaction import PostgresTransaction
from reliable_emit.server.inbox.store import Key, Record, TakeBack

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import asyncpg

# Seconds by which we wait longer than the database is told to: what it says itself is more to the point.
_LONGER = 1.0


class PostgresStore:
    """Records in a PostgreSQL database (13 or newer), in a table next to yours, for as many nodes as you like.

    Args:
        database: ``postgresql://user:password@host:port/name``: the store makes a pool of connections of its own, and
            closes it. Or a pool made by ``asyncpg.create_pool``, which stays yours.
        table: The table of the records, also ``schema.table``; made if it is missing. The same for all nodes.
        max_connections: The size of the store's own pool, 10 by default. Each message that is being handled takes one,
            and so does a repetition of one that another node is handling; more messages wait for their turn.
        timeout: Seconds that a message waits for a connection, and that the database may take for each statement, the
            waiting for locks and for another node that handles the same message included. If it has not answered one
            second later, it is not waited for any more. In each case the message fails, unacknowledged, and its sender
            sends it again. It is no bound on a handler that waits for something else.

    Raises:
        ImportError: asyncpg is not installed.
        TypeError: An argument is of the wrong type.
        ValueError: An argument is out of range, or not the URL of a PostgreSQL database.
    """

    def __init__(
        self,
        database: str | asyncpg.Pool,
        *,
        table: str = "reliable_emit_inbox",
        max_connections: int | None = None,
        timeout: float = 10.0,
    ) -> None:
        self._driver = driver()
        timeout = policy.seconds("timeout", timeout)
        self._longest = timeout + _LONGER
        self._sql = Statements(table, timeout)
        self._connections = Connections(database, max_connections, timeout, self._longest)
        self._open = False

    async def open(self) -> None:
        """Connect, and make the table if it is missing.

        Raises:
            StoreError: The database cannot be reached, refuses us, or has another table of that name.
            RuntimeError: It is open already: a store is for one inbox.
        """
        if self._open:
            raise RuntimeError(
                "the store is open already; give each inbox a store of its own, on the same table or not"
            )
        try:
            await self._connections.open()
            connection = await self._connections.acquire()
            try:
                await self._make_table(connection)
            except BaseException:
                await self._connections.lasting(self._connections.undo(connection))
                raise
            await self._connections.release(connection)
        except BaseException as error:
            await self._connections.close()
            if isinstance(error, (OSError, self._driver.PostgresError, self._driver.InterfaceError)):
                words = " ".join(str(error).split()) or "it does not answer"
                raise StoreError(self._connections.name, words) from error
            raise
        self._open = True

    async def _make_table(self, connection: asyncpg.Connection) -> None:
        limit: dict[str, Any] = {"timeout": self._longest}
        # Not made again if it is there: then no user is needed who may do that.
        if (schema := await connection.fetchval(self._sql.find(), **limit)) is None:
            await connection.execute(self._sql.make(), **limit)
            schema = await connection.fetchval(self._sql.find(), **limit)
        self._sql.found(schema)
        columns = await connection.fetch(self._sql.look(), **limit)
        if {column["attname"]: column["typname"] for column in columns} != self._sql.TYPES:
            detail = f"its table {self._sql.table} is not one of an inbox; choose another name with table="
            raise StoreError(self._connections.name, detail)

    async def close(self) -> None:
        """End what is being committed, and close the pool if it is the store's own; takes a second at the most.

        Handlers that are still at work lose their connection then, and with it what they did.
        """
        self._open = False
        await self._connections.close()

    async def once(
        self, key: Key, fingerprint: bytes, handle: Callable[[PostgresTransaction], Awaitable[bytes]]
    ) -> Record:
        """As in `InboxStore`. Cancelled while the handler is at work, it undoes that; a commit that has begun goes on.

        Raises:
            TimeoutError: No connection was free in time, or the database did not answer in time.
            RuntimeError: The handler did with the transaction what it must not; nothing is recorded.
            asyncpg.PostgresError: The database refused something, took too long for it, or is shutting down.
            asyncpg.InterfaceError: The connection is in use by something else, or closed.
            asyncpg.InternalClientError: The connection was lost while nothing was asked of it.
            OSError: The connection was lost, or there was none.
        """
        self._check_open()
        connection = await self._connections.acquire()
        nonce = secrets.token_hex(8)
        try:
            if (record := await self._begin(connection, key, nonce)) is None:
                transaction = PostgresTransaction(key, connection, self._longest)
                try:
                    reply = await handle(transaction)
                except TakeBack as rejection:
                    transaction.take_callbacks()
                    transaction.end()
                    self._check_going_on(connection, key)
                    await connection.execute("ROLLBACK", timeout=self._longest)
                    # Others may have come in between; if so, what they recorded counts.
                    record, reply = await self._begin(connection, key, nonce), rejection.reply
                finally:
                    transaction.end()
                if record is None:
                    self._check_going_on(connection, key)
        except BaseException:
            await self._connections.lasting(self._connections.undo(connection))
            raise
        if record is not None:
            await self._connections.lasting(self._connections.undo(connection))
            return record
        record = Record(fingerprint, reply, new=True)
        return await self._connections.lasting(self._commit(connection, transaction, key, nonce, record))

    async def _begin(self, connection: asyncpg.Connection, key: Key, nonce: str) -> Record | None:
        """Begin the message's transaction; return its record if it has been handled before."""
        if await connection.execute(self._sql.begin(key, nonce), timeout=self._longest) == "SELECT 0":
            return None
        row = await connection.fetchrow(self._sql.read(key), timeout=self._longest)
        if row is None:  # it was there a moment ago; when its sender repeats it, it is a new message
            raise RuntimeError(f"the record of the client offset {key.offset!r} was forgotten while it was being read")
        return Record(row["fingerprint"], row["reply"], new=False)

    async def _commit(
        self, connection: asyncpg.Connection, transaction: PostgresTransaction, key: Key, nonce: str, record: Record
    ) -> Record:
        """Record the message and commit, whoever waits for it."""
        try:
            await connection.execute(self._sql.commit(key, nonce, record), timeout=self._longest)
        except BaseException as error:
            await self._connections.undo(connection)
            if (words := self._words(error, key)) is not None:
                raise words from error
            raise
        try:
            call_back(transaction)
        finally:
            await self._connections.release(connection)
        return record

    async def forget(self, age: float) -> int:
        """As in `InboxStore`; nodes that do it at the same time do not wait for each other."""
        self._check_open()
        connection = await self._connections.acquire()
        try:
            status: str = await connection.execute(self._sql.forget(), age, timeout=self._longest)
        except BaseException:
            await self._connections.lasting(self._connections.undo(connection))
            raise
        await self._connections.release(connection)
        return int(status.removeprefix("DELETE "))

    def _check_open(self) -> None:
        if not self._open:
            raise RuntimeError("the store is not open; open() it first")

    def _check_going_on(self, connection: asyncpg.Connection, key: Key) -> None:
        if not connection.is_closed() and not connection.is_in_transaction():
            raise _ended_by_itself(key)

    def _words(self, error: BaseException, key: Key) -> RuntimeError | None:
        """Say what a handler has done that makes the commit fail, if that is its reason."""
        if isinstance(error, self._driver.InFailedSQLTransactionError):
            return RuntimeError(
                f"a statement of the handler of the client offset {key.offset!r} failed, and with it the whole "
                "transaction, although the handler went on: nothing is recorded. For an error that it can do without, "
                "have a savepoint: async with transaction.connection.transaction(): around the statement"
            )
        if isinstance(error, self._driver.NotNullViolationError) and error.column_name == "fingerprint":
            return _ended_by_itself(key)
        return None


def _ended_by_itself(key: Key) -> RuntimeError:
    return RuntimeError(
        f"the handler of the client offset {key.offset!r} committed or rolled back by itself: nothing is recorded, a "
        "repetition is handled again, and what was committed stays. Leave the end of the transaction to the inbox"
    )
