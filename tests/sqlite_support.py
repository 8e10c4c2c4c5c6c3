"""What tests of the outbox in a file share: making one, looking into it from outside, and a client without a server."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import socketio
import tenacity

from reliable_emit import ReliableClient, SQLiteOutbox
from reliable_emit.outbox.sqlite import rows
from support import Rig

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncIterator, Callable

    from reliable_emit.outbox import Outbox
    from reliable_emit.outbox.sqlite.store import Store
    from support import Server


T = TypeVar("T")


def sio(**options: Any) -> socketio.AsyncClient:
    return socketio.AsyncClient(handle_sigint=False, **options)


@contextlib.asynccontextmanager
async def offline(outbox: Outbox | Path, *, wrapped: Any = None, **options: Any) -> AsyncIterator[ReliableClient]:
    """A client that is never connected, on an outbox or on that in a file; its outbox is open."""
    made = SQLiteOutbox(outbox, synchronous="normal") if isinstance(outbox, Path) else outbox
    client = ReliableClient(sio() if wrapped is None else wrapped, outbox=made, **options)
    try:
        await client._lifetime.opened()
        yield client
    finally:
        await client.close(timeout=0)


def store(client: ReliableClient, job: Callable[[Store], T]) -> asyncio.Future[T]:
    """Have the thread that owns the file do something with it."""
    outbox = client._outbox
    assert isinstance(outbox, SQLiteOutbox)
    assert outbox._opened is not None
    return outbox._opened.worker.ask(job)


def written(client: ReliableClient) -> asyncio.Future[None]:
    """Have everything written down that has happened, and return a future for that."""
    outbox = client._outbox
    assert isinstance(outbox, SQLiteOutbox)
    assert outbox._opened is not None
    outbox._opened.writer.submit()
    return store(client, lambda _: None)


def query(path: Path, statement: str, *arguments: Any) -> list[Any]:
    """Ask the file, or change it, as a person with a shell would."""
    with contextlib.closing(sqlite3.connect(path, timeout=10, isolation_level=None)) as db:
        db.text_factory = rows.text_factory
        return db.execute(statement, arguments).fetchall()


def damage(path: Path, column: str, value: str, sequence: int) -> None:
    """Put the value of an SQL expression into a column of a message."""
    query(path, f"UPDATE message SET {column} = {value} WHERE sequence = {sequence}")


@contextlib.asynccontextmanager
async def rig(
    server: Server, path: Path, *, connect: bool = True, sio_options: dict[str, Any] | None = None, **options: Any
) -> AsyncIterator[Rig]:
    """As `support.rig` on the outbox in a file, where messages may wait already."""
    given = {"backoff": tenacity.wait_none(), "outbox": SQLiteOutbox(path, synchronous="normal")} | options
    made = Rig(server.url, ["/"], sio_options or {}, given)
    try:
        await made.client._lifetime.opened()
        if connect:
            await made.connect()
        yield made
    finally:
        await made.client.close(timeout=0)
        await made.sio.shutdown()
        await made.sio.disconnect()
