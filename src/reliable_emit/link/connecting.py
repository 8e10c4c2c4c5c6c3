"""Makes the first connection of a wrapped client, and ends the one it made."""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import logging
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import aiohttp
import tenacity
from socketio import exceptions as socketio_exceptions

from reliable_emit.errors import ClientClosed
from reliable_emit.policy import check_url

if TYPE_CHECKING:
    from reliable_emit.link.link import Link

_logger = logging.getLogger("reliable_emit")
# Seconds that a step of ending may take, when the polite way has failed.
_STEP = 0.25
# How often a connection is ended that comes back meanwhile.
_ROUNDS = 5
_endings: set[asyncio.Task[None]] = set()
_FIRST_CONNECTION = tenacity.wait_random_exponential(multiplier=0.5, max=10)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ConnectOptions:
    """What ``AsyncClient.connect`` takes."""

    url: str | Callable[[], Any]
    headers: Mapping[str, str] | Callable[[], Any] | None
    auth: Any
    transports: str | Sequence[str] | None
    namespaces: str | Sequence[str] | None
    socketio_path: str
    wait: bool
    wait_timeout: float


class Connector:
    """Connects a wrapped client, and remembers that it did.

    Args:
        sio: The wrapped client.
        links: The links to its namespaces.
    """

    def __init__(self, sio: Any, links: Mapping[str, Link]) -> None:
        self._sio = sio
        self._links = links
        self._connecting: asyncio.Task[None] | None = None
        self._connecting_for: Link | None = None
        self._connected_by_us = False
        self._aborted = False
        self._attempting = False
        self._stopping = False
        self._users_error: Exception | None = None

    async def connect(self, link: Link, options: ConnectOptions, *, retry: bool) -> None:
        """Connect; with `retry`, again and again with backoff while nobody answers.

        Raises:
            ValueError: The URL, the transports or the namespaces cannot work.
            socketio.exceptions.ConnectionError: The server refused a namespace, or without `retry`: no connection.
            ClientClosed: :meth:`leave` was called for that link, before or meanwhile.
            Exception: What a function given for the url, the headers or the auth raised.
        """
        if link.is_closed:
            raise ClientClosed
        if self._connecting is not None:
            raise socketio_exceptions.ConnectionError("the client is connecting already; wait for that call of connect")
        arguments = self._arguments(options)
        self._connecting_for = link
        # A task of its own, so that closing can end it without cancelling the caller's.
        connecting = self._connecting = asyncio.ensure_future(self._try(arguments, retry=retry))
        connecting.add_done_callback(_retrieve)
        try:
            await asyncio.shield(connecting)
        except asyncio.CancelledError:
            if not link.is_closed:
                await self._stop(connecting)
                raise
        except Exception:
            if not link.is_closed:  # otherwise it is the stopping that made it fail
                raise
        finally:
            self._connecting = self._connecting_for = None
            self._stopping = False
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
            await self._stop(connecting)
        if others or not (self._connected_by_us or connecting is not None):
            return
        ending = asyncio.ensure_future(self._end())
        _endings.add(ending)
        ending.add_done_callback(_endings.discard)
        _, pending = await asyncio.wait({ending}, timeout=_STEP if busy else timeout)
        if pending and not busy:
            # Closing politely waits for what was written before, which a frozen peer never reads; over polling it waits
            # for the answer to a request that the server keeps for the next ping.
            self._abort()
            await asyncio.wait({ending}, timeout=_STEP)

    async def _stop(self, connecting: asyncio.Task[None]) -> None:
        self._stopping = True
        eio = self._sio.eio
        if self._attempting and eio.http is not None and not eio.external_http:
            # Cancelled in the middle of a handshake, engineio would leave the connection to the garbage collector. It
            # ends by itself when its session is closed.
            await eio.http.close()
            await asyncio.wait({connecting}, timeout=_STEP)
        connecting.cancel()
        await asyncio.wait({connecting}, timeout=_STEP)

    async def _end(self) -> None:
        for _ in range(_ROUNDS):
            # A reconnection that has just been begun has to reach its first pause, or it does not hear of its end.
            await asyncio.sleep(0)
            try:
                await self._sio.shutdown()
            except asyncio.CancelledError:
                if not self._aborted:
                    raise
            except Exception as error:
                _logger.warning("while disconnecting: %s", error)
            # An attempt to reconnect that was under way may have succeeded in the meantime, and a disconnect handler
            # that was at work may have begun a new one on its return.
            if not self._sio.connected and not self._reconnects():
                break
        if self._sio.eio.state != "connected":
            await self._sio.eio.disconnect(abort=True)  # closes the HTTP session
        self._connected_by_us = False

    def _abort(self) -> None:
        eio = self._sio.eio
        if eio.transport() == "websocket":
            _shut_down(eio.ws)
        elif eio.read_loop_task is not None:
            self._aborted = True
            eio.read_loop_task.cancel()

    async def _try(self, arguments: dict[str, Any], *, retry: bool) -> None:
        attempts = tenacity.AsyncRetrying(
            wait=_FIRST_CONNECTION,
            retry=tenacity.retry_if_exception(self._is_passing) if retry else tenacity.retry_never,
            before_sleep=_log_failure,
            reraise=True,
        )
        async for attempt in attempts:
            with attempt:
                await self._attempt(arguments)
        # Here and not in `connect`, whose caller may be cancelled before she hears of it.
        self._connected_by_us = True

    async def _attempt(self, arguments: dict[str, Any]) -> None:
        if self._is_connected():
            return  # python-socketio's own reconnection was faster
        self._attempting = True
        self._users_error = None
        try:
            await self._sio.connect(**arguments)
        except BaseException:
            # A failed attempt leaves the HTTP session open, a cancelled one maybe the connection too.
            if not self._reconnects():
                await self._clean_up()
            if self._users_error is not None:
                raise self._users_error from None
            raise
        finally:
            self._attempting = False

    def _is_connected(self) -> bool:
        if self._sio.connected and self._sio.eio.state == "disconnected":
            # Lost while it was made (during the user's connect handler, say): python-socketio would believe for ever
            # that it is there, and refuse to connect.
            self._sio.connected = False
        return bool(self._sio.connected)

    async def _clean_up(self) -> None:
        await asyncio.wait({asyncio.ensure_future(self._sio.eio.disconnect(abort=True))}, timeout=_STEP)

    def _reconnects(self) -> bool:
        task = self._sio._reconnect_task  # noqa: SLF001 - nothing public tells
        return task is not None and not task.done()

    def _is_passing(self, error: BaseException) -> bool:
        if self._stopping or error is self._users_error:
            return False
        match error:
            case socketio_exceptions.ConnectionError():
                return not self._sio.failed_namespaces
            case OSError() | aiohttp.ClientError() | RuntimeError():
                # What engineio lets through when something answers that is no Socket.IO server, or half of one.
                return True
            case ValueError():
                # "Client is not in a disconnected state": python-socketio is connecting by itself.
                return self._reconnects()
        return False

    def disconnected(self, reason: str) -> None:
        """The connection has ended; if the user ended it by hand, the next one is hers."""
        by_hand = reason == self._sio.reason.CLIENT_DISCONNECT
        if by_hand and not self._reconnects() and not self._attempting:
            self._connected_by_us = False

    def _guarded(self, given: Any) -> Any:
        """Remember what a function of the user's raises: that is no failure of the network."""
        if not callable(given):
            return given

        async def call() -> Any:
            try:
                result = given()
                return await result if inspect.isawaitable(result) else result
            except Exception as error:
                self._users_error = error
                raise

        return call

    def _arguments(self, options: ConnectOptions) -> dict[str, Any]:
        if not callable(options.url):
            check_url(options.url)
        if self._is_connected():
            raise socketio_exceptions.ConnectionError(
                "the AsyncClient is connected already; a connection made with AsyncClient.connect serves as it is"
            )
        headers = options.headers
        if not callable(headers):
            # A copy for each attempt: engineio takes a Cookie header out of the dict it is given, so that the second
            # connection went without.
            given = dict(headers or {})
            headers = given.copy
        return {
            "url": self._guarded(options.url),
            "headers": self._guarded(headers),
            "auth": self._guarded(options.auth),
            "transports": options.transports,
            "namespaces": self._namespaces(options.namespaces),
            "socketio_path": options.socketio_path,
            "wait": options.wait,
            "wait_timeout": options.wait_timeout,
        }

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


def _log_failure(state: tenacity.RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome is not None else None
    pause = 0.0 if state.next_action is None else state.next_action.sleep
    _logger.warning("not connected: %s; trying again in %.1f s", error, pause)


def _retrieve(task: asyncio.Task[None]) -> None:
    if not task.cancelled():
        task.exception()  # whoever was cancelled does not ask for it, and asyncio would complain


def _shut_down(ws: Any) -> None:
    connection = None if ws is None else ws.get_extra_info("socket")
    if connection is not None:
        try:
            connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            _logger.debug("the socket was closed already")
