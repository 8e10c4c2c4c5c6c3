"""The SQL: what it says, not who executes it and when."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from reliable_emit.server.inbox.store import Key, Record

# Records that are forgotten at a time.
_STEP = 1000
_LONGEST = 2**31 - 1
"""Milliseconds, the longest that PostgreSQL can be told."""

RESET: Final = (
    "SELECT pg_advisory_unlock_all(); CLOSE ALL; UNLISTEN *; RESET SESSION AUTHORIZATION; RESET ROLE; RESET ALL; "
    "DISCARD TEMP; DISCARD SEQUENCES"
)
"""Undoes what a handler may have left on the connection that outlives its transaction.

The role is not among the ALL: with row-level security, the next user would read and write as the last one.
The last statements of each transaction end with it, so that the pool need not spend a round trip on it.
"""

ROLLBACK: Final = f"ROLLBACK; {RESET}"


class Statements:
    """The statements for one table.

    Where they say something of a message they carry the values in them, as hexadecimal digits, which can be nothing
    else whatever they are: several statements in one round trip take no arguments.

    Args:
        table: The table's name, or ``schema.name``.
        timeout: Seconds that the database may take for one statement.

    Raises:
        TypeError: The table is of the wrong type.
        ValueError: It cannot be the name of a table.
    """

    TYPES: Final = {
        "principal": "bytea",  # not text, which cannot have a NUL in it, nor everything in any encoding
        "client_offset": "bytea",
        "fingerprint": "bytea",
        "reply": "bytea",
        "handled_at": "timestamptz",
    }
    """The columns, as they have to be."""

    def __init__(self, table: str, timeout: float) -> None:
        if not isinstance(table, str):
            raise TypeError(f"table is a {type(table).__name__}; give the name of a table")
        if not re.fullmatch(r"([A-Za-z_]\w{0,49}\.)?[A-Za-z_]\w{0,49}", table, re.ASCII):
            raise ValueError(
                f"table is {table!r}; give a name of letters, digits and underscores, at most 50 long, or schema.name"
            )
        self.table = ".".join(f'"{part}"' for part in table.split("."))
        """The table, quoted; upper case stays upper case."""
        self._name = table.rpartition(".")[2]
        self._timeout = min(max(1, round(timeout * 1000)), _LONGEST)
        self._begin = (
            # Whatever the database's own default is: a message that has waited for another has to see its record.
            f"BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SET LOCAL statement_timeout = {self._timeout}; "
        )

    def find(self) -> str:
        """Find the table's schema, quoted; none if there is no such table."""
        return (
            "SELECT quote_ident(nspname) FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace "
            f"WHERE pg_class.oid = to_regclass('{self.table}')"
        )

    def found(self, schema: str) -> None:
        """Name the table with its schema from now on: a handler may set another ``search_path``."""
        self.table = f'{schema}."{self._name}"'

    def look(self) -> str:
        """Say the types of the table's columns."""
        return (
            "SELECT attname, typname FROM pg_attribute JOIN pg_type ON pg_type.oid = atttypid "
            f"WHERE attrelid = to_regclass('{self.table}') AND attname = ANY('{{{','.join(self.TYPES)}}}')"
        )

    def make(self) -> str:
        """Make the table, unless another node has just done so; a whole transaction."""
        # Two nodes that start at the same time both find it missing, and IF NOT EXISTS does not keep the second one
        # from failing: so one waits for the other.
        return f"""
            {self._begin}
            SELECT pg_advisory_xact_lock({_lock("the table", self.table)});
            CREATE TABLE IF NOT EXISTS {self.table} (
                principal bytea NOT NULL,
                client_offset bytea NOT NULL,
                fingerprint bytea NOT NULL,
                reply bytea NOT NULL,
                handled_at timestamptz NOT NULL DEFAULT now(),
                PRIMARY KEY (principal, client_offset)
            );
            CREATE INDEX IF NOT EXISTS "{self._name}_handled_at" ON {self.table} (handled_at);
            COMMIT
        """

    def begin(self, key: Key, nonce: str) -> str:
        """Begin a message's transaction, wait for those who handle it, and count its records.

        Args:
            key: What the message is known by.
            nonce: Marks the transaction until its end: so it is told from another one that a handler has begun after
                ending this one.
        """
        return (
            f"{self._begin} SET LOCAL reliable_emit.message = '{nonce}'; "
            f"SELECT pg_advisory_xact_lock({_lock(self.table, key.principal, key.offset)}); "
            # A statement of its own, to see what was committed while the one before waited.
            f"SELECT FROM {self.table} WHERE {_where(key)}"
        )

    def read(self, key: Key) -> str:
        """Read what is recorded of a message."""
        return f"SELECT fingerprint, reply FROM {self.table} WHERE {_where(key)}"

    def commit(self, key: Key, nonce: str, record: Record) -> str:
        """Record the message and commit.

        The COMMIT of a transaction in which something has failed would be a ROLLBACK, and no error. It does not come to
        that: the INSERT fails then, and nothing after it is executed. It fails as well, for want of a fingerprint, in
        any other transaction than the one that was begun.
        """
        fingerprint = (
            f"CASE WHEN current_setting('reliable_emit.message', true) = '{nonce}' "
            f"THEN {_literal(record.fingerprint)} END"
        )
        return (
            f"INSERT INTO {self.table} (principal, client_offset, fingerprint, reply) VALUES "
            f"({_literal(key.principal)}, {_literal(key.offset)}, {fingerprint}, {_literal(record.reply)}); "
            f"COMMIT; {RESET}"
        )

    def forget(self) -> str:
        """Delete some records that are older than so many seconds, but for those that somebody else is deleting."""
        return (
            f"DELETE FROM {self.table} WHERE ctid = ANY(ARRAY("
            f"SELECT ctid FROM {self.table} WHERE handled_at < now() - make_interval(secs => $1) "
            f"ORDER BY handled_at LIMIT {_STEP} FOR UPDATE SKIP LOCKED))"
        )


def _where(key: Key) -> str:
    return f"principal = {_literal(key.principal)} AND client_offset = {_literal(key.offset)}"


def _literal(value: str | bytes) -> str:
    digits = (value.encode() if isinstance(value, str) else value).hex()
    return f"decode('{digits}', 'hex')"


def _lock(*parts: str) -> int:
    """Return the number of an advisory lock; if two things should ever have the same, they wait for each other."""
    name = repr(parts).encode()
    return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "big", signed=True)
