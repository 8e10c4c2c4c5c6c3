"""A node that dies: the reference server in a process of its own, killed at a step between a message and its ack.

Nothing of this is in the server. The process takes what it is made of, and puts itself in between.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sqlite3
from typing import TYPE_CHECKING, Any

import redis.asyncio  # noqa: F401 - python-socketio would import it in each life anew
from socketio.packet import ACK

from crash_support import EVENT, say
from reliable_emit.server import ReferenceServer
from reliable_emit.server.engine import SocketOutlet
from reliable_emit.server.errors import AddressError
from reliable_emit.server.inbox.store import Statement

if TYPE_CHECKING:
    from collections.abc import Sequence

    from reliable_emit.server import StoredMessage

BEFORE_COMMIT = ["before the insert", "after the insert", "before the commit"]
"""Nothing of the message is stored if it happens here."""

AFTER_COMMIT = [
    "after the commit",  # and nobody knows of it
    "after it was told",
    "before the broadcast",  # the rows were read
    "in the middle of the broadcast",  # one reader has it
    "before the ack",
    "after the broadcast, before the ack",
    "after the ack",
    "after the ack, before the broadcast",
]
"""The message is stored."""

SQLITE_STEPS = [*BEFORE_COMMIT, "before the record", *AFTER_COMMIT]
POSTGRES_STEPS = [
    *BEFORE_COMMIT,
    "while it commits",
    *AFTER_COMMIT,
    "after the other node was told",
    "before the other node's news are read",
]

_STATEMENTS = {"INSERT INTO reliable_emit_inbox": "before the record", "COMMIT": "before the commit"}


class _Death:
    """When to die.

    Attributes:
        step: Where; ``None``: wherever somebody else kills us.
    """

    def __init__(self, step: str | None, count: int) -> None:
        self.step = step
        self._count = count

    def at(self, step: str, offset: str) -> None:
        """Die if this is the step, and it was reached often enough; say with which message."""
        if step != self.step:
            return
        self._count -= 1
        if self._count == 0:
            say(f"dies {offset}")
            os.kill(os.getpid(), signal.SIGKILL)


class _Watch:
    """Stands between the parts of a server, tells what comes, and dies at the step."""

    def __init__(self, server: ReferenceServer, death: _Death) -> None:
        self._server = server
        self._death = death
        self._offsets: dict[int, str] = {}  # by the id of the row, those that were stored in this life
        self._inserted = self._committed = ""  # the offset of the last one
        self._first: dict[int, SocketOutlet] = {}  # who was the first to be sent a row, by its id
        self._sent: dict[str, int] = {}  # the last row, by the reader's socket id
        self._reached: dict[str, int] = {}  # the last row that has left
        self._handle = server.sio.handlers["/"][EVENT]
        self._add, self._told = server._history.add, server._chat._told
        self._take, self._follow = server._feed._take, server._feed.follow
        self._send_packet = server.sio._send_packet
        self._send, self._ready = SocketOutlet.send, SocketOutlet.ready
        self._telling = False
        self._blind = death.step == "after the ack, before the broadcast"
        server.sio.on(EVENT, self._on_message)
        replace: dict[tuple[Any, str], Any] = {
            (server._history, "add"): self._on_add,
            (server._chat, "_told"): self._on_told,
            (server._feed, "_take"): self._on_take,
            (server._feed, "follow"): self._on_follow,
            (server.sio, "_send_packet"): self._on_packet,
            (SocketOutlet, "send"): lambda outlet, rows: self._on_send(outlet, rows),  # noqa: PLW0108 - to be methods
            (SocketOutlet, "ready"): lambda outlet: self._on_ready(outlet),  # noqa: PLW0108
        }
        if server._nodes is not None:
            self._emit, self._news = server._nodes.emit, server._nodes.told
            self._commit = server._history.inbox._commit  # type: ignore[attr-defined]
            replace[server._nodes, "emit"] = self._on_emit
            replace[server._nodes, "told"] = self._on_news
            replace[server._history.inbox, "_commit"] = self._on_commit
        for (thing, name), by in replace.items():
            setattr(thing, name, by)

    async def _on_message(self, sid: str, text: str, offset: str) -> Any:
        say(f"came {offset}")
        return await self._handle(sid, text, offset)

    def _on_add(self, transaction: Any, text: str, told: Any) -> Any:
        def committed() -> None:
            self._committed = offset
            self._death.at("after the commit", offset)

        def inserted(row: int) -> int:
            self._offsets[row] = self._inserted = offset
            self._death.at("after the insert", offset)
            return row

        async def wait() -> int:
            return inserted(await adding)

        offset = transaction.offset
        transaction.after_commit(committed)  # the first one: the server is not told yet
        adding = self._add(transaction, text, told)
        if not isinstance(adding, Statement):
            self._death.at("before the insert", offset)
            return wait()
        insert = adding.function

        def insert_in_thread(connection: Any) -> int:
            self._death.at("before the insert", offset)
            return inserted(insert(connection))

        adding.function = insert_in_thread
        return adding

    def about_to(self, statement: str) -> None:
        """Called by SQLite, in its thread."""
        for words, step in _STATEMENTS.items():
            if statement.startswith(words) and self._inserted:
                self._death.at(step, self._inserted)

    async def _on_commit(self, connection: Any, transaction: Any, *arguments: Any) -> Any:
        self._death.at("before the commit", transaction.offset)
        committing = asyncio.ensure_future(self._commit(connection, transaction, *arguments))
        await asyncio.sleep(0)  # now it is on its way to the database
        self._death.at("while it commits", transaction.offset)
        return await committing

    def _on_told(self, row: StoredMessage) -> None:
        if not self._blind:
            self._told(row)
        self._death.at("after it was told", self._committed)

    async def _on_emit(self, *arguments: Any, **options: Any) -> None:
        self._telling = True  # it tells itself, too
        try:
            await self._emit(*arguments, **options)
        finally:
            self._telling = False
        self._death.at("after the other node was told", self._committed)

    def _on_news(self) -> None:
        if not self._telling:
            self._death.at("before the other node's news are read", "")
        self._news()

    def _on_take(self, rows: list[StoredMessage]) -> None:
        self._death.at("before the broadcast", rows[-1].client_offset)
        if not self._blind:
            self._take(rows)

    async def _on_follow(self, cursor: int, outlet: Any) -> None:
        if cursor < self._server._feed._last:
            say(f"replays {self._server._feed._last - cursor}")
        if self._blind:
            await asyncio.Event().wait()
        await self._follow(cursor, outlet)

    async def _on_send(self, outlet: SocketOutlet, rows: Sequence[StoredMessage]) -> None:
        step, row = "in the middle of the broadcast", rows[-1]
        first = self._first.setdefault(row.id, outlet)
        if self._death.step == step and first is not outlet:
            with contextlib.suppress(TimeoutError):  # for ever, if it has just gone
                await asyncio.wait_for(self._ready(first), 1)
                self._death.at(step, row.client_offset)
        await self._send(outlet, rows)
        self._sent[outlet._sid] = row.id

    async def _on_ready(self, outlet: SocketOutlet) -> int:
        limit = await self._ready(outlet)
        self._reached[outlet._sid] = self._sent.get(outlet._sid, 0)
        return limit

    async def _on_packet(self, eio_sid: str, packet: Any) -> None:
        row: int = packet.data[0] if packet.packet_type == ACK and packet.data else 0
        offset = self._offsets.get(row)
        if offset is None:  # no ack, or that of a repetition
            await self._send_packet(eio_sid, packet)
            return
        self._death.at("before the ack", offset)
        if self._death.step == "after the broadcast, before the ack":
            while any(self._reached.get(sid, 0) < row for sid in self._server._chat._clients):  # noqa: ASYNC110
                await asyncio.sleep(0.001)
            self._death.at("after the broadcast, before the ack", offset)
        await self._send_packet(eio_sid, packet)
        if self._death.step is not None and self._death.step.startswith("after the ack"):
            await self._server.sio.eio.sockets[eio_sid].queue.join()
            self._death.at(self._death.step, offset)


async def serve(db: str, port: int, queue: str | None, step: str | None = None, count: int = 1) -> None:
    """Serve, and be killed at that step when it is reached for the `count`-th time, if one is given."""
    watch: _Watch | None = None

    def about_to(statement: str) -> None:
        if watch is not None:
            watch.about_to(statement)

    def watched(*arguments: Any, **options: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = connect(*arguments, **options)
        connection.set_trace_callback(about_to)
        return connection

    connect, sqlite3.connect = sqlite3.connect, watched  # type: ignore[assignment]  # this process is killed anyway
    while True:
        server = ReferenceServer(db, port=port, message_queue=queue)
        watch = _Watch(server, _Death(step, count))
        try:
            await server.start()
        except AddressError:  # a client that was connecting has got this very port for its own end
            await asyncio.sleep(0.01)
        else:
            break
    say(f"port {server.port}")
    await asyncio.Event().wait()
