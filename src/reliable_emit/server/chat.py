"""What the reference server does with clients and their messages: the handlers of its Socket.IO events."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, cast

from socketio.exceptions import ConnectionRefusedError as Refused

from reliable_emit.delivery import CHAT_EVENT, rejection
from reliable_emit.server import checks, engine, lines
from reliable_emit.server.burst import RowEncoder
from reliable_emit.server.inbox.inbox import Inbox

if TYPE_CHECKING:
    import logging

    import socketio

    from reliable_emit.server.faults import Faults
    from reliable_emit.server.feed import Feed
    from reliable_emit.server.history import History, StoredMessage
    from reliable_emit.server.inbox.store import Transaction

Authenticate = Callable[[Any, dict[str, Any]], str | Awaitable[str | None] | None]
"""Says who a connecting client is, from its ``auth`` and the request's environ; ``None``: nobody we let in."""

_ANYBODY = ""
# Seconds that closing gives to handlers at work.
_FINISH = 0.3


class _Client:
    """A connected client: who it is, and the task that sends it rows."""

    def __init__(self, principal: str, feeding: asyncio.Task[None]) -> None:
        self.principal = principal
        self.feeding = feeding


class Chat:
    """The handlers, registered with `sio`; the arguments are :class:`ReferenceServer`'s."""

    def __init__(
        self,
        sio: socketio.AsyncServer,
        history: History,
        feed: Feed,
        *,
        told: Callable[[StoredMessage], None],
        authenticate: Authenticate | None,
        faults: Faults | None,
        max_text: int,
        logger: logging.Logger,
    ) -> None:
        self._sio = sio
        self._history = history
        self._feed = feed
        self._told = told
        # Kept as long as the messages themselves.
        self.inbox = Inbox(
            sio,
            history.inbox,
            principal=None if authenticate is None else lambda sid: self._clients[sid].principal,
            retention=None,
            max_waiting=1000,  # the intake lets no connection have as many
            logger=lines.inbox_logger(logger),
        )
        self._keep = self.inbox.receive(self._store)
        self._authenticate = authenticate
        self._faults = faults
        self._max_text = max_text
        self._logger = logger
        self._encoder = RowEncoder(CHAT_EVENT)
        self._clients: dict[str, _Client] = {}
        self._handling: set[asyncio.Task[Any]] = set()
        self._closed = False
        sio.on("connect", self._on_connect)
        sio.on("disconnect", self._on_disconnect)

        @functools.wraps(self._keep)  # so the inbox sees for which event it is
        async def receive(sid: str, *arguments: object) -> Any:
            return await self._on_chat_message(sid, *arguments)

        sio.on(CHAT_EVENT, receive)
        sio.on("*", self._on_unknown_event)

    def close(self) -> None:
        """Take no more clients and no more messages."""
        self._closed = True

    async def finish(self) -> None:
        """Let the handlers at work end, in bounded time, and feed the readers no more."""
        if self._handling:
            _, late = await asyncio.wait(self._handling, timeout=_FINISH)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late, timeout=_FINISH)
        for client in self._clients.values():
            client.feeding.cancel()

    async def _on_connect(self, sid: str, environ: object = None, auth: object = None, *_: object) -> Any:
        # A client can send an *event* of this name, with arguments of its choice; python-socketio would call this
        # handler with it, and whoever reads the environ would believe what the client has made up.
        eio_sid = self._sio.manager.eio_sid_from_sid(sid, "/")
        true_environ: dict[str, Any] | None = self._sio.environ.get(eio_sid)
        if sid in self._clients or true_environ is None or environ is not cast("object", true_environ):
            return rejection("the event name 'connect' is reserved")
        if self._closed:
            raise Refused("the server is stopping")
        principal = await self._principal(auth, true_environ)
        try:
            cursor = checks.server_offset(auth)
        except ValueError as error:
            raise Refused(str(error)) from None
        if eio_sid not in self._sio.environ or self._sio.manager.eio_sid_from_sid(sid, "/") != eio_sid:
            # Gone while we asked who it is. To accept it now would keep a client that never disconnects.
            return False
        outlet = engine.SocketOutlet(self._sio, sid, self._encoder)
        # A task begins when this one waits next, and between here and the packet that tells the client that it is
        # connected nothing waits: no row goes out before that packet.
        feeding = asyncio.create_task(self._follow(cursor, outlet, sid))
        self._clients[sid] = _Client(principal, feeding)
        return None

    async def _principal(self, auth: object, environ: dict[str, Any]) -> str:
        if self._authenticate is None:
            return _ANYBODY
        try:
            answer = self._authenticate(auth, environ)
            principal = await answer if inspect.isawaitable(answer) else answer
        except Exception as error:  # whatever it is, it is not a yes
            self._logger.info("a connection is refused, authenticate raised %s", type(error).__name__)
            self._logger.debug("what authenticate raised", exc_info=True)
            principal = None
        if principal is not None and (not isinstance(principal, str) or not principal):
            self._logger.error("authenticate must return a non-empty string or None, it gave %r", type(principal))
            principal = None
        if principal is None:
            raise Refused("authentication failed")
        return principal

    async def _follow(self, cursor: int, outlet: engine.SocketOutlet, sid: str) -> None:
        try:
            await self._feed.follow(cursor, outlet)
        except Exception:  # a reader that is fed no more must not look connected: it comes back with its offset
            self._logger.exception("feeding a reader failed, its connection is cut")
            await engine.cut(self._sio, sid)

    async def _on_disconnect(self, sid: str, reason: str | None = None, *_: object) -> Any:
        if self._sio.manager.is_connected(sid, "/"):  # an event of this name, as above
            return rejection("the event name 'disconnect' is reserved")
        client = self._clients.pop(sid, None)
        if client is not None:
            client.feeding.cancel()
        if reason == self._sio.reason.PING_TIMEOUT:
            # Engine.IO would wait for its blocked writer for ever, and keep the frozen client's connection open.
            engine.abort(self._sio, sid)
        elif reason == self._sio.reason.CLIENT_DISCONNECT:
            engine.release_poll(self._sio, sid)
        return None

    async def _on_chat_message(self, sid: str, *arguments: object) -> Any:
        task = asyncio.current_task()
        if task is not None:
            self._handling.add(task)
        try:
            return await self._receive(sid, arguments)
        except asyncio.CancelledError:
            # python-socketio takes a cancelled handler for one that has returned nothing, and acknowledges. The client
            # would believe that a message is stored which may not be.
            return self._sio.not_handled
        finally:
            if task is not None:
                self._handling.discard(task)

    async def _receive(self, sid: str, arguments: tuple[object, ...]) -> Any:
        # Up to the insert nothing waits: handlers run concurrently, and start in the order in which the messages came.
        client = self._clients.get(sid)
        if client is None or self._closed:
            return self._sio.not_handled
        if (problem := checks.chat_problem(arguments, self._max_text)) is not None:
            self._logger.info("a message is rejected: %s", problem)
            return rejection(problem)
        return await self._misbehaving(sid, *arguments)

    async def _misbehaving(self, sid: str, *arguments: object) -> Any:
        fault = self._faults.choose() if self._faults is not None else None
        if fault == "drop_before_commit":
            await engine.cut(self._sio, sid)
            return self._sio.not_handled
        if fault == "fail_database":
            self._logger.info("a message is not acknowledged, on purpose, as if it could not be stored")
            return self._sio.not_handled
        reply = await self._keep(sid, *arguments)
        if fault == "drop_after_commit":
            await engine.cut(self._sio, sid)
        if fault in {"drop_after_commit", "swallow_ack"}:
            return self._sio.not_handled
        if fault == "answer_late" and self._faults is not None:
            await asyncio.sleep(self._faults.late)
        return reply

    def _store(self, _: str, text: str, transaction: Transaction) -> Awaitable[int]:
        return self._history.add(transaction, text, self._told)

    async def _on_unknown_event(self, event: str, *_: object) -> Any:
        # Silence would make a client repeat for nothing what will never be handled.
        return rejection(f"this server does not know the event {event[:80]!r}, only {CHAT_EVENT!r}")
