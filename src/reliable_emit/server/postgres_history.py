"""The reference server's messages in PostgreSQL, where any number of nodes store and read them.

The ids have to be in the order of the commits, or a reader that has seen 6 would never ask for a 5 that is committed
later. A sequence alone does not see to that: it numbers rows when they are inserted. So whoever inserts one takes a
lock first, and keeps it up to its commit, which follows at once; nodes commit their messages one after the other. Of a
node that is stopped in between (a suspended process, a paused machine), the database ends the transaction.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from reliable_emit.server.errors import StoreError
from reliable_emit.server.history import StoredMessage
from reliable_emit.server.inbox.postgres import PostgresStore
from reliable_emit.server.inbox.postgres.connections import Connections, driver

if TYPE_CHECKING:
    from collections.abc import Callable

    from reliable_emit.server.inbox.postgres import PostgresTransaction

TABLE = "reliable_emit_messages"
# One row: what tells this chat from any other.
_CHAT = "reliable_emit_chat"
_COLUMNS = ("id", "principal", "client_offset", "content")

# "REmi" and what for: the numbers of two locks that nobody else is likely to use.
_MAKING, _STORING = 0x52456D69_00000001, 0x52456D69_00000002
# Binary where strangers have a say: a PostgreSQL text cannot have a NUL in it, nor everything in any encoding.
# Read committed: of two nodes that begin at the same time, the second has to see what the first one has made.
_MAKE = f"""
BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE;
SELECT pg_advisory_xact_lock({_MAKING});
CREATE TABLE IF NOT EXISTS {TABLE} (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    principal bytea NOT NULL,
    client_offset bytea NOT NULL,
    content bytea NOT NULL
);
CREATE TABLE IF NOT EXISTS {_CHAT} (name uuid NOT NULL);
INSERT INTO {_CHAT} SELECT gen_random_uuid() WHERE NOT EXISTS (SELECT FROM {_CHAT});
COMMIT
"""  # noqa: S608 - constants of ours
_FIND = f"SELECT attname FROM pg_attribute WHERE attrelid = to_regclass('{TABLE}') AND attnum > 0"  # noqa: S608
# Milliseconds that the database waits for a commit: less than others wait for their turn, see _TIMEOUT. TCP notices
# nothing, because the machine of a node that is stopped answers all the same.
_PATIENCE = 3_000
# The row gets its number when it is inserted, and is inserted when there is a turn.
_INSERT = f"""
WITH turn AS MATERIALIZED (
    SELECT set_config('idle_in_transaction_session_timeout', '{_PATIENCE}', true), pg_advisory_xact_lock({_STORING})
)
INSERT INTO {TABLE} (principal, client_offset, content) SELECT $1, $2, $3 FROM turn RETURNING id
"""  # noqa: S608 - constants of ours
_AFTER = f"SELECT id, content, client_offset, principal FROM {TABLE} WHERE id > $1 ORDER BY id LIMIT $2"  # noqa: S608
_NAME = f"SELECT name FROM {_CHAT}"  # noqa: S608
_LAST = f"SELECT coalesce(max(id), 0) FROM {TABLE}"  # noqa: S608

# Connections for reading, and seconds that a node waits for one, and for the database.
_READERS, _TIMEOUT = 2, 5.0


class PostgresHistory:
    """The messages of a :class:`ReferenceServer`, in PostgreSQL; as `History`.

    Args:
        url: ``postgresql://user:password@host:port/name``.

    Raises:
        ImportError: asyncpg is not installed.
        ValueError: It is no such URL.
    """

    def __init__(self, url: str) -> None:
        self._driver = driver()
        self._connections = Connections(url, _READERS, _TIMEOUT, _TIMEOUT)
        self.inbox = PostgresStore(url, timeout=_TIMEOUT)
        self.name = self._connections.name
        self.chat = ""

    async def open(self) -> None:
        """As `History.open`."""
        try:
            await self._connections.open()
            if not (found := await self._fetch(_FIND)):
                await self._execute(_MAKE)
                found = await self._fetch(_FIND)
            self._check(found)
            ((name,),) = await self._fetch(_NAME)
        except StoreError:
            await self._connections.close()
            raise
        except (OSError, ValueError, self._driver.PostgresError, self._driver.InterfaceError) as error:
            await self._connections.close()
            raise StoreError(self.name, " ".join(str(error).split()) or "it does not answer") from error
        self.chat = str(name)

    def _check(self, columns: list[Any]) -> None:
        if {row["attname"] for row in columns} != set(_COLUMNS):
            raise StoreError(self.name, f"its table {TABLE} is not one of this server; use another database")

    async def close(self) -> None:
        """As `History.close`."""
        await self._connections.close()

    async def add(self, transaction: PostgresTransaction, text: str, told: Callable[[StoredMessage], object]) -> int:
        """As `History.add`."""
        principal, client_offset = transaction.principal, transaction.offset
        ((row,),) = await transaction.fetch(_INSERT, *(part.encode() for part in (principal, client_offset, text)))
        stored = StoredMessage(int(row), text, client_offset, principal)
        transaction.after_commit(lambda: told(stored))
        return stored.id

    async def after(self, row: int, *, rows: int, characters: int) -> list[StoredMessage]:
        """As `History.after`."""
        found: list[StoredMessage] = []
        size = 0
        for number, *parts in await self._fetch(_AFTER, row, rows):
            text, client_offset, principal = (part.decode() for part in parts)
            found.append(StoredMessage(number, text, client_offset, principal))
            size += len(text)
            if size >= characters:
                break
        return found

    async def last(self) -> int:
        """As `History.last`."""
        ((last,),) = await self._fetch(_LAST)
        return int(last)

    async def _fetch(self, sql: str, *arguments: object) -> list[Any]:
        connection = await self._connections.acquire()
        try:
            rows: list[Any] = await connection.fetch(sql, *arguments)
        except BaseException:
            await self._connections.lasting(self._connections.undo(connection))
            raise
        await self._connections.release(connection)
        return rows

    async def _execute(self, sql: str) -> None:
        connection = await self._connections.acquire()
        try:
            await connection.execute(sql)
        except BaseException:
            await self._connections.lasting(self._connections.undo(connection))
            raise
        await self._connections.release(connection)
