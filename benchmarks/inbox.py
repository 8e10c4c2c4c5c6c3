"""What the inbox costs: a handler that inserts a row and commits, without the inbox and with it, both synced to disk.

Over SQLite, in the directory for temporary files (TMPDIR says which; one in memory measures no disk), and over
PostgreSQL if RELIABLE_EMIT_POSTGRES is the URL of a database that may be used. The server is a process of its own. One
run alternates the sides, with one sender and with 64; what counts is the ratio of the medians.
``python benchmarks/inbox.py [messages [rounds [senders]]]``
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import statistics
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import socketio
from aiohttp import web

from load import Load, new_run, send, serving
from reliable_emit.server import Inbox, PostgresStore, PostgresTransaction, SQLiteStore, SQLiteTransaction

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

POSTGRES = os.environ.get("RELIABLE_EMIT_POSTGRES")
TABLE = "reliable_emit_benchmark"
WITHOUT, WITH, AGAIN = "without the inbox", "with the inbox", "the same once more"


def sqlite_handlers(directory: str) -> tuple[Callable[..., Awaitable[str]], SQLiteStore, Callable[..., Any]]:
    """Return a handler that commits by itself, a store, and the handler that goes with it."""
    create = f"CREATE TABLE {TABLE} (id INTEGER PRIMARY KEY, content TEXT)"
    insert = f"INSERT INTO {TABLE} (content) VALUES (?)"
    for name in ("plain.db", "inbox.db"):
        db = sqlite3.connect(Path(directory) / name)
        db.execute("PRAGMA journal_mode = WAL")
        db.execute(create)
        db.close()
    plain = sqlite3.connect(Path(directory) / "plain.db")
    plain.execute("PRAGMA synchronous = FULL")

    async def without(_sid: str, content: str, _offset: str) -> str:
        with plain:
            plain.execute(insert, (content,))
        return "stored"

    async def stored(_sid: str, content: str, transaction: SQLiteTransaction) -> str:
        await transaction.execute(insert, (content,))
        return "stored"

    return without, SQLiteStore(Path(directory) / "inbox.db"), stored


async def postgres_handlers(url: str) -> tuple[Callable[..., Awaitable[str]], PostgresStore, Callable[..., Any]]:
    """Return the same for PostgreSQL."""
    import asyncpg  # noqa: PLC0415 - an extra

    pool = await asyncpg.create_pool(url, min_size=10, max_size=10)
    await pool.execute(f"DROP TABLE IF EXISTS {TABLE}, {TABLE}_inbox")
    await pool.execute(f"CREATE TABLE {TABLE} (id bigserial PRIMARY KEY, content text)")
    insert = f"INSERT INTO {TABLE} (content) VALUES ($1)"

    async def without(_sid: str, content: str, _offset: str) -> str:
        await pool.execute(insert, content)
        return "stored"

    async def stored(_sid: str, content: str, transaction: PostgresTransaction) -> str:
        await transaction.execute(insert, content)
        return "stored"

    return without, PostgresStore(url, table=f"{TABLE}_inbox"), stored


async def serve() -> None:
    """Serve all sides."""
    sio = socketio.AsyncServer(async_mode="aiohttp")
    with tempfile.TemporaryDirectory(prefix="reliable-emit-") as directory:
        sides: dict[str, Any] = {"SQLite": sqlite_handlers(directory)}
        if POSTGRES:
            sides["PostgreSQL"] = await postgres_handlers(POSTGRES)
        for name, (without, store, stored) in sides.items():
            inbox = Inbox(sio, store)
            await inbox.open()
            sio.on(f"{name} {WITHOUT}", without)
            sio.on(f"{name} {WITH}", inbox.receive(stored))
        app = web.Application()
        sio.attach(app)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        print(f"http://127.0.0.1:{runner.addresses[0][1]}", flush=True)
        await asyncio.Event().wait()


async def measure(messages: int, rounds: int, many: int) -> None:
    """Alternate the sides, and print the medians and their ratios."""
    print(f"{messages} messages of 100 characters, {rounds} rounds, websocket, loopback, all synced to disk")
    print(f"{'':40}{'messages/s':>12}{'to without':>12}{'one takes':>12}")
    async with serving(sys.executable, __file__, "--serve") as url:
        for database in ("SQLite", "PostgreSQL") if POSTGRES else ("SQLite",):
            for senders in (1, many):
                found: dict[str, list[Load]] = {WITHOUT: [], WITH: [], AGAIN: []}
                for round_number in range(rounds + 1):
                    run = new_run()
                    for name, loads in found.items():
                        event = f"{database} {WITHOUT if name == WITHOUT else WITH}"
                        load = await send(url, event, senders, messages, run)
                        if round_number:  # the first one warms up
                            loads.append(load)
                rates = {
                    name: messages / statistics.median(load.acknowledged for load in loads)
                    for name, loads in found.items()
                }
                for name, rate in rates.items():
                    took = statistics.median(load.median for load in found[name]) * 1000
                    side = f"{database}, {senders} x {name}"
                    print(f"{side:40}{rate:12.0f}{rate / rates[WITHOUT]:12.2f}{took:9.1f} ms")


def main() -> None:
    """Start the server and measure."""
    if sys.argv[1:] == ["--serve"]:
        asyncio.run(serve())
        return
    messages, rounds, many, *_ = [*map(int, sys.argv[1:]), *[1000, 5, 64][len(sys.argv) - 1 :]]
    asyncio.run(measure(messages, rounds, many))


if __name__ == "__main__":
    main()
