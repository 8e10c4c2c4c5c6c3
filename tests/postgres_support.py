"""What the tests on PostgreSQL share: a database of their own in a server that has to be there."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import secrets
import urllib.parse
from typing import TYPE_CHECKING

import asyncpg
import pytest

from crash_support import need

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from reliable_emit.server import PostgresTransaction

SERVER = os.environ.get("RELIABLE_EMIT_POSTGRES", "postgresql://root@127.0.0.1:5432/test")
"""The URL of a database whose user may make databases; the tests change nothing in it."""
LOST = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)
"""What asyncpg raises when a connection is lost, depending on what it had heard of it by then."""


def url_of(database: str, *, host: str | None = None) -> str:
    """The URL of another database of that server; `host`, with the port, for one that passes on to it."""
    parsed = urllib.parse.urlsplit(SERVER)
    user, at, there = parsed.netloc.rpartition("@")
    return parsed._replace(netloc=f"{user}{at}{host or there}", path=f"/{database}").geturl()


def address() -> tuple[str, int]:
    parsed = urllib.parse.urlsplit(SERVER)
    return parsed.hostname or "127.0.0.1", parsed.port or 5432


@functools.cache
def _reachable() -> str | None:
    async def ask() -> None:
        connection = await asyncpg.connect(SERVER, timeout=5)
        await connection.close()

    try:
        asyncio.run(ask())
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        return str(error) or type(error).__name__
    return None


def need_postgres() -> None:
    """Skip the test if there is no PostgreSQL; or fail, see `need`. Not to be called in an event loop."""
    error = _reachable()
    need("postgres", error is None, f"no PostgreSQL at RELIABLE_EMIT_POSTGRES ({error})")


async def _execute(statement: str) -> None:
    connection = await asyncpg.connect(SERVER)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


async def create(name: str) -> None:
    """Make a database, with a table ``effects (id, text)``."""
    await _execute(f'CREATE DATABASE "{name}"')
    async with connected(name) as connection:
        await connection.execute("CREATE TABLE effects (id bigserial PRIMARY KEY, text text NOT NULL)")


async def drop(name: str) -> None:
    await _execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


@contextlib.asynccontextmanager
async def database() -> AsyncIterator[str]:
    """A new database, as `create` makes it; its name."""
    name = f"reliable_emit_{secrets.token_hex(6)}"
    try:
        await create(name)
        yield name
    finally:
        await drop(name)


@contextlib.asynccontextmanager
async def connected(name: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(url_of(name))
    try:
        yield connection
    finally:
        await connection.close()


@pytest.fixture(scope="module")
def needs_postgres() -> None:
    need_postgres()


@pytest.fixture
async def name(needs_postgres: None) -> AsyncIterator[str]:
    """A new database; its name."""
    async with database() as made:
        yield made


async def effects(name: str) -> list[str]:
    async with connected(name) as connection:
        return [row["text"] for row in await connection.fetch("SELECT text FROM effects ORDER BY id")]


async def never(_: PostgresTransaction) -> bytes:
    """A handler of a message that has been handled."""
    raise AssertionError("it is recorded already")
