"""The reference server: the chat server of the Socket.IO tutorial, made to keep what it promises."""

from __future__ import annotations

import asyncio
import logging
import os
import re
from typing import TYPE_CHECKING, Self

from aiohttp import web

from reliable_emit import policy
from reliable_emit.server import engine, lines
from reliable_emit.server.chat import Chat
from reliable_emit.server.errors import AddressError
from reliable_emit.server.feed import Feed
from reliable_emit.server.nodes import RedisManager
from reliable_emit.server.page import Page
from reliable_emit.server.postgres_history import PostgresHistory
from reliable_emit.server.sqlite_history import SQLiteHistory

if TYPE_CHECKING:
    from reliable_emit.server.chat import Authenticate
    from reliable_emit.server.faults import Faults
    from reliable_emit.server.history import History, StoredMessage
    from reliable_emit.server.inbox.session import Synchronous

_MAX_PORT = 65_535
# What is no path of a file, or is meant to be none.
_URL = re.compile(r"\s*[A-Za-z][A-Za-z0-9+.-]*:/{2}|postgres(ql)?:")
# Bytes that one character takes at the most in a packet, as JSON spells it: a surrogate pair, escaped.
_ESCAPED = 12
# Seconds that stopping gives to packets on their way out, and to requests to end.
_DRAIN, _END = 0.2, 0.2
# Seconds that a connection may be without a request; by default it is an hour in newer versions of aiohttp.
_IDLE = 75.0


class ReferenceServer:
    """A chat server that stores each message exactly once and sends each reader each row once, in order.

    It handles the event ``chat message`` with two arguments, the text and the client offset. A message is stored in
    the database under its sender's principal and its offset; then everybody connected is sent ``chat message`` with the
    text and the row's id, and the sender's acknowledgement is the row's id. A repetition is acknowledged with the id of
    the first time, and neither stored nor sent to anybody again. A message that can never be accepted is acknowledged
    with an explicit rejection; one that could not be stored now is not acknowledged, so that its sender tries again.

    A client that connects is sent the rows after its ``auth["serverOffset"]`` (without one: all), then those to come.

    Use it with ``async with``, or ``start`` and ``stop``, once.

    Args:
        db: The SQLite file, made if missing; ``":memory:"`` for one that is deleted at the end. Or the URL of a
            PostgreSQL database, ``postgresql://user:password@host:port/name``, for one or several nodes.
        message_queue: The URL of a Redis server, ``redis://host:port``, by which several nodes tell each other what to
            broadcast: their messages, and what you emit with `sio` yourself. Without it a message gets to the readers
            on other nodes within a second, and what you emit stays on this one.
        host: The address to listen on.
        port: The port to listen on, 0 for a free one (then see `port`).
        authenticate: Called with the client's ``auth`` and the request's environ (a dict) for each connection, gives
            the principal, a non-empty string; may be async. If it raises or returns ``None`` the connection is refused.
            Offsets of different principals are independent, so nobody can take an offset from somebody else. Without
            it everybody is the same principal, ``""``, and anybody who learns or guesses another's socket id can use
            up its offsets: good for tests and a trusted network.
        faults: Ways to misbehave on purpose, for tests and the demo.
        ping_interval: Seconds between two heartbeats.
        ping_timeout: Seconds without an answer after which a client is given up.
        synchronous: ``"full"``: a message acknowledged survives power loss. ``"normal"``: only the end of the process.
        max_text: The longest text accepted, in characters.
        client_script: The file ``dist/socket.io.min.js`` of the npm package ``socket.io-client``, which the chat page
            runs on. ``None``: the one in this package, if it was built with one; else the page says how to get it.
        cors_allowed_origins: As in ``socketio.AsyncServer``; by default only pages from this server.
        logger: Where to log; the default is ``reliable_emit.server``.

    Attributes:
        sio: The ``socketio.AsyncServer``, for handlers of your own.
        app: The aiohttp application.
        faults: As given.

    Raises:
        ValueError: An argument is out of range, or no such URL.
        ImportError: The driver for PostgreSQL or Redis is not installed.
        ScriptError: `client_script` cannot be read.
    """

    def __init__(
        self,
        db: str | os.PathLike[str] = ":memory:",
        *,
        message_queue: str | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        authenticate: Authenticate | None = None,
        faults: Faults | None = None,
        ping_interval: float = 25.0,
        ping_timeout: float = 20.0,
        synchronous: Synchronous = "full",
        max_text: int = 65_536,
        client_script: str | os.PathLike[str] | None = None,
        cors_allowed_origins: str | list[str] | None = None,
        logger: logging.Logger | None = None,
    ) -> None:
        if policy.count("port", port, least=0) > _MAX_PORT:
            raise ValueError(f"port is {port!r}; give 0 (a free one) to {_MAX_PORT}")
        self.faults = faults
        self._host = host
        self._port = port
        max_text = policy.count("max_text", max_text, least=1)
        logger = logger if logger is not None else logging.getLogger("reliable_emit.server")
        self._history = _history(db, synchronous)
        self._feed = Feed(self._history, logger)
        self._runner: web.AppRunner | None = None
        self._over = False
        self._transport_logger = transport_logger = lines.transport_logger(logger)
        self._nodes = None if message_queue is None else RedisManager(message_queue, transport_logger)
        self.sio = engine.QuietServer(
            client_manager=self._nodes,
            cors_allowed_origins=cors_allowed_origins,
            # A text too long is rejected by name; a packet too long would break the connection at every attempt.
            max_http_buffer_size=max(1_000_000, _ESCAPED * max_text + 10_000),
            ping_interval=engine.whole_seconds(policy.seconds("ping_interval", ping_interval)),
            ping_timeout=policy.seconds("ping_timeout", ping_timeout),
            logger=transport_logger,
            engineio_logger=transport_logger,
        )
        if self._nodes is not None:
            self._nodes.told = self._feed.tell
        self._chat = Chat(
            self.sio,
            self._history,
            self._feed,
            told=self._tell,
            authenticate=authenticate,
            faults=faults,
            max_text=max_text,
            logger=logger,
        )
        self.app = web.Application()
        Page(client_script).attach(self.app)
        self.sio.attach(self.app)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @property
    def database(self) -> str:
        """What the database is called: the path of a file, or a URL without user and password."""
        return self._history.name

    @property
    def port(self) -> int:
        """The port it listens on; before it has started the one it was given."""
        return int(self._runner.addresses[0][1]) if self._runner is not None and self._runner.addresses else self._port

    @property
    def url(self) -> str:
        """Where clients connect to.

        Raises:
            RuntimeError: It has not started, or it has stopped.
        """
        if self._runner is None or not self._runner.addresses:
            raise RuntimeError("the server is not running")
        host: str = self._runner.addresses[0][0]
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared with, not listened on
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    async def start(self) -> None:
        """Open the database and listen; returns when clients can connect. Cancelled or failed, it leaves nothing open.

        Raises:
            StoreError: The database cannot be opened.
            AddressError: The port is taken, or there is no such host.
            RuntimeError: It was started before.
        """
        if self._runner is not None or self._over:
            raise RuntimeError("a server starts once; make another")
        self._runner = web.AppRunner(
            self.app,
            handle_signals=False,
            access_log=None,
            shutdown_timeout=_END,
            keepalive_timeout=_IDLE,
            logger=self._transport_logger,
        )
        try:
            await self._history.open()
            if self._nodes is not None:
                self._nodes.serve(self._history.chat)
            await self._chat.inbox.open()
            await self._feed.start()
            await self._runner.setup()
            await web.TCPSite(self._runner, self._host, self._port).start()
        except OSError as error:
            await self.stop()
            # asyncio puts an address and a whole sentence into `strerror`.
            detail = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror or str(error)
            raise AddressError(self._host, self._port, detail) from None
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Let go of the port, finish what is being written, and end all connections; takes 4 seconds at the most.

        Clients see the connection close, not a farewell, and connect again elsewhere: told that the server disconnects
        them, they would stay away. Messages not acknowledged by then are sent again by their senders. Does nothing if
        the server is not running.
        """
        self._over = True
        self._chat.close()
        if self._runner is None:
            return
        runner = self._runner
        for site in list(runner.sites):
            await site.stop()
        await self._chat.finish()
        queues = [asyncio.ensure_future(socket.queue.join()) for socket in self.sio.eio.sockets.values()]
        if queues:
            _, blocked = await asyncio.wait(queues, timeout=_DRAIN)
            for task in blocked:
                task.cancel()
        # Closed here rather than by aiohttp: a WebSocket closes by a handshake, which a frozen client never answers.
        connections = [] if runner.server is None else list(runner.server.connections)
        for connection in connections:
            if connection.transport is not None:
                connection.transport.close()
        await runner.cleanup()
        for connection in connections:
            if connection.transport is not None:
                connection.transport.abort()
        await self.sio.shutdown()
        await self.sio.end_waits()
        if self._nodes is not None:
            await self._nodes.close()
        await self._chat.inbox.close(timeout=0)
        await self._feed.stop()
        await self._history.close()
        self._runner = None

    async def messages(self) -> list[StoredMessage]:
        """Return all that is stored, in the order of the ids, as the database has it now.

        Raises:
            RuntimeError: The server is not running.
        """
        found: list[StoredMessage] = []
        while batch := await self._history.after(found[-1].id if found else 0, rows=10_000, characters=10_000_000):
            found += batch
        return found

    def _tell(self, stored: StoredMessage) -> None:
        self._feed.tell(stored)
        if self._nodes is not None:
            self._nodes.tell()


def _history(db: str | os.PathLike[str], synchronous: Synchronous) -> History:
    if not isinstance(db, str) or _URL.match(db) is None:
        return SQLiteHistory(db, synchronous)
    try:
        return PostgresHistory(db)
    except ValueError as error:
        raise ValueError(f"db: {error}") from None
