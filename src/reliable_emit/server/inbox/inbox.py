"""The inbox: an idempotent receiver for a `socketio.AsyncServer`.

Theory of operation: a message is known by its key, that is who sent it and its client offset. `receive` looks at what
has come, finds the key, and has the store handle the message unless that key is recorded. Repetitions that arrive while
the first is still being handled wait for it here, in this process; those on another node wait in the database. Silence
(`not_handled`) is what python-socketio's servers have for "try again"; a rejection is an acknowledgement.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Self

import socketio

from reliable_emit import policy
from reliable_emit.delivery import rejection
from reliable_emit.server import checks
from reliable_emit.server.inbox import reply
from reliable_emit.server.inbox.calls import Calls
from reliable_emit.server.inbox.fingerprint import Incomparable, fingerprint
from reliable_emit.server.inbox.handling import Handling
from reliable_emit.server.inbox.lifetime import Lifetime
from reliable_emit.server.inbox.shape import Shape, registered
from reliable_emit.server.inbox.store import Key, Record
from reliable_emit.server.inbox.whereabouts import Place, Whereabouts

if TYPE_CHECKING:
    from types import TracebackType

    from reliable_emit.server.inbox.store import InboxStore

Principal = Callable[[str], str | Awaitable[str | None] | None]
"""Says who a connected client is, by its socket id; ``None``: nobody who may send."""

_ANYBODY = ""
_MONTH = 30 * 86_400.0


class Inbox:
    """Handles each message once, however often it is sent.

    Use it with ``async with``, or ``open`` and ``close``; otherwise the first message opens it.

    Args:
        sio: The server whose handlers it wraps.
        store: Where it records what was handled. One store has one inbox.
        principal: Called with the socket id for each message, gives who sent it, a non-empty string; may be async.
            Return what you made sure of when the client connected. ``None`` refuses the message; if it raises, the
            message is not acknowledged. Offsets of different principals are independent, so nobody can use up
            somebody else's. Without it everybody is the same principal, ``""``, and anybody who learns another's
            socket id can use up the offsets made from it: good for one trusted program, or a trusted network.
        retention: Seconds that a record is kept at least, ``None``: for ever. A repetition that comes later is handled
            again, like a new message.
        max_offset: The longest client offset accepted, in characters.
        max_waiting: Messages of one connection that are handled or wait at a time; one more is not acknowledged. Each
            may be as large as the server's ``max_http_buffer_size`` (1 MB), and is held in memory.
        logger: Where to log; the default is ``reliable_emit.server``.

    Raises:
        ValueError: An argument is out of range.
        TypeError: An argument is of the wrong kind.
    """

    def __init__(
        self,
        sio: socketio.AsyncServer,
        store: InboxStore[Any],
        *,
        principal: Principal | None = None,
        retention: float | None = _MONTH,
        max_offset: int = checks.MAX_OFFSET,
        max_waiting: int = 100,
        logger: logging.Logger | None = None,
    ) -> None:
        if not isinstance(sio, socketio.AsyncServer):
            raise TypeError(f"sio is {sio!r}; give a socketio.AsyncServer")
        if principal is not None and not callable(principal):
            raise TypeError(f"principal is {principal!r}; give a function of the socket id")
        self._sio = sio
        self._store = store
        self._principal = principal
        self._max_offset = policy.count("max_offset", max_offset, least=1)
        self._calls = Calls(policy.count("max_waiting", max_waiting, least=1))
        self._logger = logger if logger is not None else logging.getLogger("reliable_emit.server")
        self._lifetime = Lifetime(
            store, None if retention is None else policy.seconds("retention", retention), self._logger
        )
        self._handling: dict[Key, asyncio.Future[Record | None]] = {}
        self._told_at = float("-inf")  # when it was last logged that somebody sends too many

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def open(self) -> None:
        """Open the store, unless it is open.

        Raises:
            StoreError: The database cannot be opened. It is tried again at the next call, or the next message.
            RuntimeError: The inbox is closed, or another inbox has the store open.
        """
        await self._lifetime.open()

    async def close(self, *, timeout: float = 5.0) -> None:
        """Take no more messages, let handlers at work end, and close the store.

        Nothing is acknowledged that comes from now on: its sender repeats it, to whoever is there then. Handlers still
        at work when the time is over are cancelled, which undoes what they did in their transactions; it returns at
        most two seconds later.

        Args:
            timeout: Seconds that handlers get.
        """
        policy.seconds("timeout", timeout, zero=True)
        self._lifetime.closed = True
        await self._calls.end(timeout)
        await self._lifetime.close()

    def receive(self, handler: Callable[..., Any]) -> Callable[..., Awaitable[Any]]:
        """Have messages handled once; a decorator for handlers, below ``@sio.on(...)`` or ``@sio.event``.

        The handler is a function, or a method of a class-based namespace, async or plain. Its last argument on the wire
        is the client offset; in place of that it is given the store's transaction, in which the offset is recorded.
        What it returns is recorded as the reply, and acknowledged after the commit, to a repetition too. If it raises,
        the transaction is rolled back and nothing is acknowledged, so that the sender tries again; unless it raises
        :class:`Reject`. One that is cancelled is rolled back, too.

        Raises:
            ValueError: The function could never be called with all that it needs, or is a handler already: this
                decorator is above that of the event, or above ``@staticmethod``.
        """
        if isinstance(handler, staticmethod | classmethod):
            raise ValueError(  # noqa: TRY004 - it is the order that is wrong, as below
                f"{handler!r} is no function yet: put @inbox.receive below @{type(handler).__name__}"
            )
        if registered(self._sio, handler):
            raise ValueError(
                f"{handler!r} is an event's handler already, without the inbox: put @inbox.receive below the decorator "
                f"of the event"
            )
        shape = Shape(handler)

        @functools.wraps(handler)
        async def received(*arguments: Any) -> Any:
            if arguments and whereabouts.catches_all(arguments[0]):
                self._logger.error(
                    "%s is registered for any event or namespace, or in a class with a trigger_event of its own, and "
                    "the inbox cannot tell who sends: a message is not acknowledged. Register it for each event by its "
                    "name",
                    _name(handler),
                )
                return self._sio.not_handled
            before = 1 if isinstance(arguments[0], str) else 2  # a socket id, or the object of a method and that
            place = whereabouts.place(arguments[0] if before > 1 else None)
            return await self._receive(handler, shape, arguments, before, place)

        whereabouts = Whereabouts(self._sio, received)
        return received

    async def _receive(
        self, handler: Callable[..., Any], shape: Shape, arguments: tuple[Any, ...], before: int, place: Place
    ) -> Any:
        sid = arguments[before - 1]
        if self._lifetime.closed:
            return self._sio.not_handled
        if self._calls.too_many(sid):
            self._tell_too_many()
            return self._sio.not_handled
        with self._calls.one(sid) as outermost:
            try:
                return await self._look_at(handler, shape, arguments, before, place)
            except asyncio.CancelledError:
                if not outermost:  # it is the other handler that is cancelled
                    raise
                if (task := asyncio.current_task()) is not None:
                    task.uncancel()  # it may go on, and handle the connection's next message
                # python-socketio takes a cancelled handler for one that has returned nothing, and acknowledges.
                return self._sio.not_handled
            except Exception:  # whatever it is, python-socketio would end its task over it
                self._logger.exception("a message for %s is not acknowledged", _name(handler))
                return self._sio.not_handled

    async def _look_at(
        self, handler: Callable[..., Any], shape: Shape, arguments: tuple[Any, ...], before: int, place: Place
    ) -> Any:
        offset = arguments[-1]
        problem = shape.problem(len(arguments), before) or checks.offset_problem(offset, self._max_offset)
        if problem is not None:
            return self._rejected(handler, problem)
        principal = await self._who(arguments[before - 1])
        if principal is None:
            return self._rejected(handler, "not authenticated")
        try:
            looks = fingerprint(place, arguments[before:-1])
        except Incomparable as error:  # a repetition could not be told from another message
            return self._rejected(handler, str(error))
        key = Key(principal, offset)
        first = self._handling.get(key)
        record = (
            # Not to be cancelled with one of those who wait for it.
            await asyncio.shield(first) if first is not None else await self._first(handler, arguments[:-1], key, looks)
        )
        if record is None:
            return self._sio.not_handled
        if record.fingerprint != looks:
            # Not a repetition but another message: to acknowledge it as one would lose it in silence.
            return self._rejected(handler, f"the client offset {offset!r} belongs to another message")
        return reply.decode(record.reply, self._sio.packet_class.json)

    def _rejected(self, handler: Callable[..., Any], problem: str) -> dict[str, str]:
        self._logger.info("a message for %s is rejected: %s", _name(handler), problem)
        return rejection(problem)

    async def _who(self, sid: str) -> str | None:
        if self._principal is None:
            return _ANYBODY
        answer = self._principal(sid)
        principal = await answer if inspect.isawaitable(answer) else answer
        if principal is None:
            return None
        if not isinstance(principal, str) or not principal or not checks.encodable(principal):
            raise TypeError(f"principal must return a non-empty string or None, it gave a {type(principal).__name__}")
        return principal

    async def _first(
        self, handler: Callable[..., Any], arguments: tuple[Any, ...], key: Key, looks: bytes
    ) -> Record | None:
        """Have the store handle a message, and tell those who come meanwhile; ``None``: it failed."""
        handling: asyncio.Future[Record | None] = asyncio.get_running_loop().create_future()
        self._handling[key] = handling
        record: Record | None = None
        one = Handling(handler, arguments, self._sio.packet_class.json, functools.partial(self._rejected, handler))
        try:
            await self._lifetime.open()
            record = await self._store.once(key, looks, one.handle)
        except Exception as error:  # whatever it is, an acknowledgement would be a lie
            if one.failure is not None and (error is one.failure or error.__cause__ is one.failure):
                self._logger.exception("%s failed, so its message is not acknowledged", _name(handler))
            else:
                self._logger.warning(
                    "a message for %s is not acknowledged, it could not be recorded: %s", _name(handler), error
                )
        finally:
            del self._handling[key]
            handling.set_result(record)
        return record

    def _tell_too_many(self) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._told_at >= 1:
            self._told_at = now
            self._logger.warning("messages are not acknowledged: %d of one connection wait already", self._calls.most)


def _name(handler: Callable[..., Any]) -> str:
    return getattr(handler, "__qualname__", None) or repr(handler)
