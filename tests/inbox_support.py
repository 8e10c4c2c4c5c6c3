"""A server with an inbox, and plain clients that repeat what they like, for the tests of the inbox."""

# mypy: disallow-untyped-decorators=False

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from typing import TYPE_CHECKING, Any, Self

import socketio
from aiohttp import web

from reliable_emit.server import Inbox, SQLiteStore
from support import PATIENCE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from reliable_emit.server import SQLiteTransaction
    from reliable_emit.testing.inbox_contract.bench import AnyStore

EFFECTS = "CREATE TABLE IF NOT EXISTS effects (id INTEGER PRIMARY KEY, text TEXT UNIQUE)"


class App:
    """A program with a Socket.IO server, an inbox, and a table in which its handlers have effects.

    Attributes:
        sio: The server; register handlers with it.
        calls: What handlers have noted.
    """

    def __init__(self, path: Path, store: AnyStore | None = None, *, server: Any = None, **options: Any) -> None:
        self.path = path
        self.sio = socketio.AsyncServer(
            async_mode="aiohttp", ping_interval=3600, ping_timeout=3600, monitor_clients=False, **(server or {})
        )
        self.store = store if store is not None else SQLiteStore(path)
        self.inbox = Inbox(self.sio, self.store, **options)
        self.calls: list[Any] = []
        with contextlib.closing(sqlite3.connect(path)) as db:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute(EFFECTS)
            db.commit()

    async def __aenter__(self) -> Self:
        app = web.Application()
        self.sio.attach(app)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.inbox.close(timeout=0)
        await self.sio.shutdown()
        await self._runner.cleanup()

    @property
    def url(self) -> str:
        host, port = self._runner.addresses[0][:2]
        return f"http://{host}:{port}"

    def stores(self, event: str = "store") -> None:
        """Register a handler that stores a text and replies with the row's id."""

        @self.sio.on(event)
        @self.inbox.receive
        async def store(sid: str, text: str, transaction: SQLiteTransaction) -> int:
            self.calls.append(text)
            return await insert(transaction, text)

    def holds(self, event: str) -> tuple[asyncio.Event, asyncio.Event]:
        """As `stores`, but each message is kept waiting first.

        Returns:
            An event that tells that one has come, and one that lets them all go on.
        """
        there, go_on = asyncio.Event(), asyncio.Event()

        @self.sio.on(event)
        @self.inbox.receive
        async def hold(sid: str, text: str, transaction: SQLiteTransaction) -> int:
            there.set()
            await go_on.wait()
            return await insert(transaction, text)

        return there, go_on

    def read(self, query: str) -> list[Any]:
        """What anybody else sees in the database: the first column."""
        with contextlib.closing(sqlite3.connect(self.path)) as db:
            return [row[0] for row in db.execute(query)]

    def effects(self) -> list[str]:
        return self.read("SELECT text FROM effects ORDER BY id")

    def records(self) -> list[str]:
        return self.read("SELECT client_offset FROM reliable_emit_inbox ORDER BY handled_at")


async def insert(transaction: SQLiteTransaction, text: str) -> int:
    ((row,),) = await transaction.execute("INSERT INTO effects (text) VALUES (?) RETURNING id", (text,))
    return int(row)


class Client:
    """A plain Socket.IO client."""

    def __init__(self, namespace: str = "/") -> None:
        self.sio = socketio.AsyncClient(reconnection=False)
        self._namespace = namespace

    @property
    def sid(self) -> str:
        sid = self.sio.get_sid(self._namespace)
        assert sid is not None
        return str(sid)

    async def call(self, event: str, *arguments: Any) -> Any:
        return await self.sio.call(event, arguments, namespace=self._namespace, timeout=PATIENCE)

    async def emit(self, event: str, *arguments: Any) -> None:
        await self.sio.emit(event, arguments, namespace=self._namespace)

    async def no_ack(self, event: str, *arguments: Any) -> None:
        """Send something that is not acknowledged, on a connection that lives."""
        acknowledged: list[Any] = []
        await self.sio.emit(
            event, arguments, namespace=self._namespace, callback=lambda *reply: acknowledged.append(reply)
        )
        await self.quiet()
        assert acknowledged == []
        assert self.sio.connected

    async def quiet(self) -> None:
        """Wait until all handlers on the server are through."""
        assert await self.call("quiet") == "quiet"


@contextlib.asynccontextmanager
async def client(app: App, namespace: str = "/", auth: Any = None) -> AsyncIterator[Client]:
    """A client, connected; the server answers `quiet` when no handler is at work."""

    async def quiet(*_: Any) -> str:
        async with asyncio.timeout(PATIENCE):
            while app.inbox._calls:
                app.inbox._calls.ended.clear()
                await app.inbox._calls.ended.wait()
        return "quiet"

    app.sio.on("quiet", quiet, namespace=namespace)
    one = Client(namespace)
    await one.sio.connect(
        app.url, auth=auth, namespaces=[namespace], transports=["websocket"], wait_timeout=int(PATIENCE)
    )
    try:
        yield one
    finally:
        await one.sio.disconnect()
        await one.sio.shutdown()
