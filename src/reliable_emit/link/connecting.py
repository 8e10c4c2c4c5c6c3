"""Connects a wrapped client when asked to, and ends the connection that it made."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from socketio import exceptions as socketio_exceptions
from socketio import packet as socketio_packet

from reliable_emit.errors import ClientClosed
from reliable_emit.link.engine import STEP, shut_down
from reliable_emit.policy import check_url

if TYPE_CHECKING:
    from reliable_emit.link.keeping import Keeper
    from reliable_emit.link.link import Link
    from reliable_emit.link.options import ConnectOptions

_logger = logging.getLogger("reliable_emit")
_TRANSPORTS = ("websocket", "polling")
# How often a connection is ended that comes back meanwhile.
_ROUNDS = 5
_endings: set[asyncio.Task[None]] = set()


class Connector:
    """Connects a wrapped client, and disconnects it when it is needed no more.

    Args:
        sio: The wrapped client.
        links: The links to its namespaces.
        keeper: Makes the connection, and keeps it.
    """

    def __init__(self, sio: Any, links: Mapping[str, Link], keeper: Keeper) -> None:
        self._sio = sio
        self._links = links
        self._keeper = keeper
        self._connecting: asyncio.Task[None] | None = None
        self._connecting_for: Link | None = None

    async def connect(self, link: Link, options: ConnectOptions) -> None:
        """Connect, and stay connected; with `retry`, try again and again with backoff while nobody answers.

        Raises:
            ValueError: The URL, the transports or the namespaces cannot work.
            socketio.exceptions.ConnectionError: The server refused a namespace, or without `retry`: no connection.
            RuntimeError: It is called in a disconnect handler.
            ClientClosed: :meth:`leave` was called for that link, before or meanwhile.
            Exception: What a function given for the url, the headers or the auth raised.
        """
        if link.is_closed:
            raise ClientClosed
        if self._connecting is not None:
            raise socketio_exceptions.ConnectionError("the client is connecting already; wait for that call of connect")
        if link.in_disconnect_handler():
            raise RuntimeError(
                "this connects inside a disconnect handler, and python-socketio ends the connection when that has "
                "returned. Start a task that connects, and return"
            )
        arguments = self._arguments(link, options)
        self._connecting_for = link
        # A task of its own, so that closing can end it without cancelling the caller's.
        connecting = self._connecting = asyncio.ensure_future(self._keeper.first(options, arguments))
        connecting.add_done_callback(_retrieve)
        try:
            await asyncio.shield(connecting)
        except asyncio.CancelledError:
            if not link.is_closed:
                await _stop(connecting)
                raise
        except Exception:
            if not link.is_closed:  # otherwise it is the stopping that made it fail
                raise
        finally:
            self._connecting = self._connecting_for = None
        if link.is_closed:  # also if it was connected just so
            raise ClientClosed

    async def leave(self, link: Link, timeout: float, *, others: bool, busy: bool) -> None:
        """End what was begun for a link: a connect that still tries and, with the last link, the connection.

        Takes `timeout` seconds and one more at the most. What is not done by then goes on, for nothing of it may be
        cancelled: it runs the user's own disconnect handlers.

        Args:
            link: The link.
            timeout: Seconds.
            others: Whether other links still need the connection.
            busy: Whether a disconnect handler is at work, maybe the caller's own, so that waiting long is in vain.
        """
        connecting = self._connecting if self._connecting_for is link else None
        if connecting is not None:
            await _stop(connecting)
        if others:
            return
        if not self._keeper.owns and connecting is None:
            if self._keeper.keeps:  # until it notices that the user has connected by hand
                await self._keeper.stop()
            self._keeper.release()
            return
        ending = asyncio.ensure_future(self._end())
        _endings.add(ending)
        ending.add_done_callback(_endings.discard)
        _, pending = await asyncio.wait({ending}, timeout=STEP if busy else timeout)
        if pending and not busy:
            # Closing politely waits for what was written before, which a frozen peer never reads; over polling it waits
            # for the answer to a request that the server keeps for the next ping.
            self._abort()
            await asyncio.wait({ending}, timeout=STEP)

    async def _end(self) -> None:
        await self._keeper.stop()
        for _ in range(_ROUNDS):
            # A reconnection that has just been begun has to reach its first pause, or it does not hear of its end.
            await asyncio.sleep(0)
            try:
                await self._sio.shutdown()
            except asyncio.CancelledError:
                loop = self._sio.eio.read_loop_task
                if loop is None or not loop.cancelled():  # which disconnecting awaits
                    raise
            except Exception as error:
                _logger.warning("while disconnecting: %s", error)
            # A disconnect handler that was at work may have begun a new one on its return.
            if not self._sio.connected and not self._keeper.reconnects:
                break
        if self._sio.eio.state != "connected":
            await self._sio.eio.disconnect(abort=True)  # closes the HTTP session
        self._keeper.release()

    def _abort(self) -> None:
        eio = self._sio.eio
        if eio.transport() == "websocket":
            shut_down(eio.ws)
        elif eio.read_loop_task is not None:
            eio.read_loop_task.cancel()

    def _arguments(self, link: Link, options: ConnectOptions) -> dict[str, Any]:
        if not callable(options.url):
            check_url(options.url)
        if self._keeper.is_connected():
            if link.namespace not in self._sio.connection_namespaces:
                raise socketio_exceptions.ConnectionError(
                    f"the AsyncClient is connected already, and without {link.namespace!r}: wrap all namespaces before "
                    f"connecting, or disconnect it before"
                )
            raise socketio_exceptions.ConnectionError(
                "the AsyncClient is connected already; a connection made with AsyncClient.connect serves as it is"
            )
        for transport in [options.transports] if isinstance(options.transports, str) else options.transports or ():
            if transport not in _TRANSPORTS:
                raise ValueError(f"transports={options.transports!r} has {transport!r}; there are {_TRANSPORTS}")
        guarded = self._keeper.attempts.guarded
        headers = options.headers
        if not callable(headers):
            given = dict(headers or {})
            headers = given.copy
        return {
            "url": guarded(options.url),
            # A copy for each attempt: engineio takes a Cookie header out of the dict it is given, so that the second
            # connection went without.
            "headers": guarded(headers, lambda value: dict(value or {})),
            "auth": guarded(options.auth, self._check_auth),
            "transports": options.transports,
            "namespaces": self._namespaces(options.namespaces),
            "socketio_path": options.socketio_path,
            "wait": options.wait,
            "wait_timeout": options.wait_timeout,
        }

    def _check_auth(self, auth: Any) -> Any:
        try:
            self._sio.packet_class(socketio_packet.CONNECT, data=auth or {}, namespace="/").encode()
        except (TypeError, ValueError) as error:
            raise TypeError(f"auth cannot be encoded: {error}") from error
        return auth

    def _namespaces(self, given: str | Sequence[str] | None) -> list[str]:
        if given is None:
            # Those with handlers, as AsyncClient chooses them, and all that are wrapped.
            return sorted({*self._sio.handlers, *self._sio.namespace_handlers, *self._links} - {"*"})
        chosen = [given] if isinstance(given, str) else list(given)
        for wrapped in self._links:
            if wrapped not in chosen:
                raise ValueError(
                    f"namespaces={chosen!r} leaves out {wrapped!r}, which is wrapped: its messages would wait for "
                    f"ever. Add it, or close that ReliableClient first"
                )
        return chosen


async def _stop(connecting: asyncio.Task[None]) -> None:
    connecting.cancel()
    await asyncio.wait({connecting}, timeout=4 * STEP)


def _retrieve(task: asyncio.Task[None]) -> None:
    if not task.cancelled():
        task.exception()  # whoever was cancelled does not ask for it, and asyncio would complain
