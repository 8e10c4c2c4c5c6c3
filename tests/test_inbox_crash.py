# mypy: disallow-untyped-decorators=False
"""A server with an inbox that is killed at every step: effect and record are there together, and once."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import os
import pathlib
import random
import signal
import sqlite3
from typing import TYPE_CHECKING, Any

import pytest
import socketio
import tenacity

from cli_support import fast_dir
from crash_support import Zygote, say
from inbox_support import App, insert
from reliable_emit import ReliableClient
from support import within

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from crash_support import Life
    from reliable_emit import Delivery
    from reliable_emit.server import SQLiteTransaction

__all__ = ["fast_dir"]

STEPS = [
    "SELECT",
    "BEGIN",
    "SAVEPOINT",
    "INSERT INTO effects",
    "returned",
    "INSERT INTO reliable_emit_inbox",
    "RELEASE",
    "COMMIT",
    "committed",
    "acknowledging",
]
"""What is about to happen, in its order: statements, and what is between them."""


# The server's side.


async def serve(path: str, step: str | None = None, count: int = 0) -> None:
    """Serve, and be killed before that step is taken for the `count`-th time, if one is given."""
    counts: collections.Counter[str] = collections.Counter()
    opened = False

    def about_to(what: str) -> None:
        kind = next((kind for kind in STEPS if what.startswith(kind)), None)
        if kind is None or not opened:
            return
        counts[kind] += 1
        if kind == step and counts[kind] == count:
            os.kill(os.getpid(), signal.SIGKILL)

    connect = sqlite3.connect

    def watched(*arguments: Any, **options: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = connect(*arguments, **options)
        connection.set_trace_callback(about_to)
        return connection

    sqlite3.connect = watched  # type: ignore[assignment]  # in a process that is killed anyway
    app = App(pathlib.Path(path))

    @app.inbox.receive
    async def store(sid: str, text: str, transaction: SQLiteTransaction) -> int:
        transaction.after_commit(lambda: about_to("committed"))
        row = await insert(transaction, text)
        about_to("returned")
        return row

    async def acknowledge(*arguments: Any) -> Any:
        reply = await store(*arguments)
        about_to("acknowledging")
        return reply

    app.sio.on("store", acknowledge)
    await app.inbox.open()
    async with app:
        opened = True
        say(f"url {app.url}")
        await asyncio.Event().wait()


# The test's side.


class Senders:
    """Clients that send numbered texts to whichever server there is."""

    def __init__(self, count: int) -> None:
        self.url = ""
        self._there = asyncio.Event()
        self.deliveries: dict[str, Delivery] = {}
        self._clients = [
            ReliableClient(
                socketio.AsyncClient(reconnection_delay=0.01, reconnection_delay_max=0.02, randomization_factor=0),
                client_offset=True,
                retries=None,
                max_losses=None,
                ack_timeout=5,
                backoff=tenacity.wait_none(),
            )
            for _ in range(count)
        ]

    async def _address(self) -> str:
        await self._there.wait()
        return self.url

    async def connect(self) -> None:
        for client in self._clients:
            await client.connect(self._address, transports=["websocket"], reconnect_backoff=tenacity.wait_fixed(0.01))

    async def found(self, life: Life) -> None:
        """Wait for the server, and tell the clients where it is."""
        await life.lines.until(lambda lines: any(line.startswith("url ") for line in lines))
        self.url = next(line for line in life.lines if line.startswith("url ")).removeprefix("url ")
        self._there.set()

    def gone(self) -> None:
        self._there.clear()

    async def keep_busy(self) -> None:
        """See to it that each client has something to send, for ever."""
        while True:
            for number, client in enumerate(self._clients):
                while client.pending < 3:
                    text = f"{number} {len(self.deliveries)}"
                    self.deliveries[text] = await client.emit("store", text)
            await asyncio.sleep(0.002)

    async def finish(self) -> dict[str, int]:
        """Wait until all is acknowledged, and return the replies."""
        replies = await within(asyncio.gather(*self.deliveries.values()))
        return dict(zip(self.deliveries, replies, strict=True))

    async def close(self) -> None:
        for client in self._clients:
            await client.close(timeout=0)


@contextlib.asynccontextmanager
async def senders(count: int) -> AsyncIterator[Senders]:
    some = Senders(count)
    try:
        yield some
    finally:
        await some.close()


def check_together(path: Path) -> int:
    """Effects and records are there together; return how many."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        effects = {row for (row,) in db.execute("SELECT id FROM effects")}
        replies = [bytes(reply) for (reply,) in db.execute("SELECT reply FROM reliable_emit_inbox")]
    assert sorted(replies) == sorted(b"[%d]" % row for row in effects)
    return len(effects)


def check_once(path: Path, replies: dict[str, int]) -> None:
    with contextlib.closing(sqlite3.connect(path)) as db:
        stored = dict(db.execute("SELECT text, id FROM effects"))
        assert db.execute("SELECT count(*) FROM effects").fetchone() == (len(replies),)
    assert stored == replies
    for sender in {text.split()[0] for text in stored}:
        mine = [text for text in stored if text.split()[0] == sender]
        assert mine == sorted(mine, key=stored.__getitem__)
        assert mine == [text for text in replies if text.split()[0] == sender]


async def test_killed_at_every_step_effect_and_record_are_together_and_once(fast_dir: Path) -> None:
    path = fast_dir / "app.db"
    async with Zygote("test_inbox_crash") as zygote, senders(1) as some:
        connecting = asyncio.create_task(some.connect())
        busy = asyncio.create_task(some.keep_busy())
        stored = 0
        for count in (1, 2, 3):
            for step in STEPS:
                async with zygote.life(serve, path=str(path), step=step, count=count) as life:
                    await some.found(life)
                    assert await life.ended() == -signal.SIGKILL, step
                some.gone()
                now = check_together(path)
                # Of the message at which it died all is there, or nothing. A repetition is looked for and acknowledged.
                fresh = {"SELECT": {0, 1}, "committed": {count}, "acknowledging": {count, count - 1}}
                assert now - stored in fresh.get(step, {count - 1}), step
                stored = now
        busy.cancel()
        async with zygote.life(serve, path=str(path)) as life:
            await some.found(life)
            await within(connecting)
            check_once(path, await some.finish())
        check_together(path)
    assert stored >= 25


@pytest.mark.parametrize("seed", range(2))
async def test_killed_at_random_moments_with_many_senders(fast_dir: Path, seed: int) -> None:
    path = fast_dir / "app.db"
    moments = random.Random(seed)
    async with Zygote("test_inbox_crash") as zygote, senders(6) as some:
        connecting = asyncio.create_task(some.connect())
        busy = asyncio.create_task(some.keep_busy())
        for _ in range(10):
            async with zygote.life(serve, path=str(path)) as life:
                await some.found(life)
                await asyncio.sleep(moments.uniform(0.02, 0.3))
            some.gone()
            check_together(path)
        busy.cancel()
        async with zygote.life(serve, path=str(path)) as life:
            await some.found(life)
            await within(connecting)
            check_once(path, await some.finish())
        assert check_together(path) > 20
