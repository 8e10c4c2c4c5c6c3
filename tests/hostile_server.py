"""The process that is attacked: a server, of which the test can see how much memory it takes and what it logs.

``python hostile_server.py {reference|inbox} DATABASE``; says its port, ends at the end of its input, and says how long
that has taken.
"""

# mypy: disallow-untyped-decorators=False

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import sys
import time
from typing import TYPE_CHECKING, Any

import socketio
from aiohttp import web

from reliable_emit.server import Inbox, ReferenceServer, SQLiteStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from reliable_emit.server import SQLiteTransaction

EVENT = "chat message"
PASSWORD = "s3cret"


def authenticate(auth: Any, environ: dict[str, Any]) -> str | None:
    """As many would write it: it raises all kinds of errors at what it has not thought of."""
    return str(auth["user"]) if auth["password"] == PASSWORD else None


@contextlib.asynccontextmanager
async def plain_server(path: str) -> AsyncIterator[int]:
    """A server of somebody else, with an inbox and nothing more."""
    sio = socketio.AsyncServer(async_mode="aiohttp", logger=False, engineio_logger=False)
    users: dict[str, str] = {}

    @sio.event
    async def connect(sid: str, environ: dict[str, Any], auth: Any) -> bool:
        if not isinstance(environ, dict) or "aiohttp.request" not in environ:
            return False
        user = authenticate(auth, environ)
        if user is not None:
            users[sid] = user
        return user is not None

    async with Inbox(sio, SQLiteStore(path), principal=users.get, retention=None) as inbox:

        @sio.on(EVENT)
        @inbox.receive
        async def chat_message(sid: str, text: str, transaction: SQLiteTransaction) -> int:
            def insert(db: Any) -> int:
                db.execute("CREATE TABLE IF NOT EXISTS messages (id INTEGER PRIMARY KEY, content TEXT NOT NULL)")
                return int(db.execute("INSERT INTO messages (content) VALUES (?)", (text,)).lastrowid)

            row = await transaction.run(insert)
            if text.startswith("slow"):
                await asyncio.sleep(1)
            transaction.after_commit(lambda: sio.start_background_task(sio.emit, EVENT, (text, row)))
            return row

        app = web.Application()
        sio.attach(app)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield runner.addresses[0][1]
    await sio.shutdown()
    await runner.cleanup()


async def main(kind: str, database: str) -> None:
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin.fileno(), ended.set)
    async with contextlib.AsyncExitStack() as stack:
        if kind == "inbox":
            port = await stack.enter_async_context(plain_server(database))
        else:
            options = json.loads(kind.partition(":")[2] or "{}")
            server = ReferenceServer(database, authenticate=authenticate, **options)
            port = (await stack.enter_async_context(server)).port
        print(port, flush=True)
        await ended.wait()
        started = time.monotonic()
    print(time.monotonic() - started, flush=True)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="LOG %(levelname)s %(name)s %(message)s", stream=sys.stderr)
    logging.getLogger("aiohttp.access").setLevel(logging.ERROR)
    asyncio.run(main(*sys.argv[1:]))
