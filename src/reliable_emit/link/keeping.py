"""Keeps a wrapped client connected.

python-socketio reconnects by itself, in a task that ``AsyncClient.wait`` awaits and that ``AsyncClient.shutdown`` and
Ctrl-C end. The keeper runs in the place of that task, so all of that goes on working, and starts it also where
python-socketio would not: after the server has disconnected the client, and after a disconnect handler that raised. On
a connection that was not made through it, it leaves everything to python-socketio.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import aiohttp
from socketio import base_client
from socketio import exceptions as socketio_exceptions

from reliable_emit.errors import ConnectionRejected
from reliable_emit.link.attempt import Attempts, why
from reliable_emit.link.engine import STEP, Engine
from reliable_emit.link.kicks import Kicks
from reliable_emit.link.rejoining import Rejoining

if TYPE_CHECKING:
    from reliable_emit.link.link import Link
    from reliable_emit.link.options import ConnectOptions
    from reliable_emit.link.tap import Tap

_logger = logging.getLogger("reliable_emit")

_LASTED = 2.0
"""Seconds after which a connection counts as made; the pauses go on growing while it is lost sooner."""


class Keeper:
    """Makes the connection of a wrapped client again whenever it is lost.

    Args:
        sio: The wrapped client.
        tap: Hears what happens to it.
        engine: Ends its connections.

    Attributes:
        attempts: Makes the attempts.
        kicks: Knows what to do when the server disconnects the client.
        owns: Whether the connection was made here, and closing may end it.
    """

    def __init__(self, sio: Any, tap: Tap, engine: Engine) -> None:
        self._sio = sio
        self._tap = tap
        self._engine = engine
        self.attempts = Attempts(sio, engine)
        self.owns = False
        self.keeps = False
        self._ending = self._once_more = False
        self.options: ConnectOptions  # from `first` on, before which nothing is kept
        self.arguments: dict[str, Any] = {}
        self._attempt_number = self._pauses = 0
        self._made_at = 0.0
        self._why_lost: Exception | None = None
        self._rejoining = Rejoining(sio, self)
        self.kicks = Kicks(sio, self, self._rejoining)

    # Beginning and ending.

    async def first(self, options: ConnectOptions, arguments: dict[str, Any]) -> None:
        """Make the first connection, and keep it from then on.

        Args:
            options: How.
            arguments: Those of ``AsyncClient.connect``.

        Raises:
            ConnectionRejected: The server refused a namespace, and that is final.
            Exception: No connection, and the next attempt would not help or is not wanted.
        """
        await self._take_over()
        self.options, self.arguments = options, arguments
        self._attempt_number = self._pauses = 0
        self._ending = False
        self.keeps = bool(self._sio.reconnection)
        if self.keeps:
            self._sio._handle_reconnect = self._reconnect  # noqa: SLF001
        try:
            while True:
                try:
                    await self._attempt()
                except Exception as error:
                    if not options.retry or not self._may_pass(error):
                        raise
                    await self._pause(error)
                    await self.see_off()
                else:
                    break
        except BaseException:
            self.release()
            raise
        # Here and not where it is awaited: that may be cancelled before it hears of it.
        self.owns = True

    def release(self) -> None:
        """Keep the connection no longer, and leave the wrapped client as it was."""
        self.keeps = False
        if self._sio.__dict__.get("_handle_reconnect") == self._reconnect:
            del self._sio._handle_reconnect  # noqa: SLF001

    async def stop(self) -> None:
        """End what goes on, for good, in bounded time."""
        self._ending = True
        self.keeps = False
        self._rejoining.stop()
        task = self._sio._reconnect_task  # noqa: SLF001
        if self.reconnects and task is not asyncio.current_task():
            self._abort()
            await asyncio.wait({task}, timeout=4 * STEP)

    @property
    def reconnects(self) -> bool:
        """Whether python-socketio's own reconnection, or ours in its place, is at work."""
        task = self._sio._reconnect_task  # noqa: SLF001 - nothing public tells
        return task is not None and not task.done()

    def is_connected(self) -> bool:
        """Whether the wrapped client is connected, and not only believes so."""
        if self._sio.connected and self._sio.eio.state == "disconnected":
            # Lost while it was made (during the user's connect handler, say): python-socketio would believe for ever
            # that it is there, and refuse to connect.
            self._sio.connected = False
        return bool(self._sio.connected)

    async def _take_over(self) -> None:
        sio = self._sio
        task = sio._reconnect_task  # noqa: SLF001
        if self.reconnects:
            await asyncio.sleep(0)  # one that has just been begun does not hear of its end before its first pause
            self._abort()
            await asyncio.wait({task}, timeout=2 * STEP)
            task.cancel()
            await asyncio.wait({task}, timeout=4 * STEP)
            while sio in base_client.reconnecting_clients:
                base_client.reconnecting_clients.remove(sio)
            if not self.is_connected():
                await self._engine.end()
        sio._reconnect_task = None  # noqa: SLF001 - one that has ended would keep the next from beginning
        if sio._reconnect_abort is None:  # noqa: SLF001
            sio._reconnect_abort = sio.eio.create_event()  # noqa: SLF001
        sio._reconnect_abort.clear()  # noqa: SLF001

    def _abort(self) -> None:
        if self._sio._reconnect_abort is not None:  # noqa: SLF001
            self._sio._reconnect_abort.set()  # noqa: SLF001

    # Reconnecting.

    async def _reconnect(self) -> None:
        """Do what ``AsyncClient._handle_reconnect`` does, whose place it takes."""
        sio = self._sio
        if sio.connection_headers is not self.arguments["headers"]:
            # The user has called `sio.connect` meanwhile: it is her connection.
            self.release()
            await sio._handle_reconnect()  # noqa: SLF001
            return
        try:
            if self.keeps and not self.attempts.under_way:  # an attempt that is under way sees to it
                base_client.reconnecting_clients.append(sio)
                try:
                    await self._unless_aborted(self._again())
                finally:
                    base_client.reconnecting_clients.remove(sio)
        finally:
            aborted = sio._reconnect_abort.is_set()  # noqa: SLF001
            sio._reconnect_abort.clear()  # noqa: SLF001
            if sio._reconnect_task is asyncio.current_task():  # noqa: SLF001
                sio._reconnect_task = None  # noqa: SLF001
                if self._once_more and self.keeps and not aborted:
                    self.start_over()

    async def _unless_aborted(self, work: Any) -> None:
        working = asyncio.ensure_future(work)
        aborted = asyncio.ensure_future(self._sio._reconnect_abort.wait())  # noqa: SLF001
        try:
            await asyncio.wait({working, aborted}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            aborted.cancel()
            if not working.done():
                self.keeps = False
                working.cancel()
                await asyncio.wait({working}, timeout=8 * STEP)
        if not working.cancelled() and working.done():
            working.result()
        if not self.keeps:
            for namespace in self.arguments["namespaces"]:
                await self._sio._trigger_event("__disconnect_final", namespace=namespace)  # noqa: SLF001

    async def _again(self) -> None:
        if time.monotonic() - self._made_at > _LASTED:
            self._pauses = 0
        self._attempt_number = 0
        error, self._why_lost = self._why_lost or socketio_exceptions.ConnectionError("the connection was lost"), None
        while self.keeps:
            await self._pause(error)
            await self.see_off()
            if self._sio.connection_headers is not self.arguments["headers"]:
                self.release()
                return
            try:
                await self._attempt()
            except Exception as caught:
                error = caught
                if self.options.is_final(caught):
                    self.give_up(caught, self._tap.links.values())
                elif caught is self.attempts.users_error:
                    self.complain(caught)
            else:
                return

    async def _attempt(self) -> None:
        if self.is_connected():
            return  # the user was faster
        self._attempt_number += 1
        self._once_more = False
        for link in tuple(self._tap.links.values()):
            link.connecting(self._attempt_number)
        await self.attempts.make(self.arguments)
        self._made_at = time.monotonic()
        # After the first one, as python-socketio's own reconnection does.
        self.arguments["wait"] = True
        await self.kicks.catch_up()

    def complain(self, error: Exception) -> None:
        """Say that a function of the user's failed; it is asked again at the next attempt."""
        _logger.error("a function given to connect failed; trying again", exc_info=error)

    async def _pause(self, error: Exception) -> None:
        self._pauses += 1
        await self.pause(error, self._tap.links.values(), self._pauses)

    async def pause(self, error: Exception, links: Iterable[Link], number: int) -> None:
        """Wait before the next attempt; the more often in a row, the longer."""
        seconds = self.options.pause(number, error)
        reason = why(error)
        _logger.warning("not connected: %s; trying again in %.1f s", reason, seconds)
        for link in tuple(links):
            link.waiting(reason, asyncio.get_running_loop().time() + seconds)
        await asyncio.sleep(seconds)

    def _may_pass(self, error: Exception) -> bool:
        """Whether the first connection may succeed after that."""
        if error is self.attempts.users_error:
            return False
        if isinstance(error, ConnectionRejected):
            return self.options.final is not None and not self.options.final(error.said)
        # What engineio lets through when something answers that is no Socket.IO server, or half of one.
        return isinstance(error, socketio_exceptions.ConnectionError | OSError | aiohttp.ClientError | RuntimeError)

    def give_up(self, error: Exception, links: Iterable[Link]) -> None:
        """Make no attempt any more."""
        links = tuple(links)
        if len(links) == len(self._tap.links):
            self.keeps = False
        _logger.error("not connecting again: %s", error)
        for link in links:
            link.gave_up(error)

    # What is heard of the connection.

    def engine_lost(self, reason: str) -> None:
        """The connection has ended; told before the user's handlers are called."""
        self._rejoining.stop()
        self.attempts.engine_lost()
        if self._ending or self.attempts.is_current:
            return
        if reason == self._sio.reason.CLIENT_DISCONNECT:
            if self._tap.is_kicked(asyncio.current_task()) and not self._sio.connected:
                return  # python-socketio's way of ending it after the last namespace
            # By hand: the next connection is the user's.
            self.owns = False
            self.release()
            if self.reconnects:
                self._abort()
        elif reason == self._sio.reason.SERVER_DISCONNECT and not self.attempts.under_way:
            self.kicks.all()
        elif self.reconnects:
            self._once_more = True  # python-socketio begins no second reconnection, and this one is almost over

    def handlers_raised(self) -> None:
        """A disconnect handler of the user's raised, and python-socketio has left everything as it was."""
        if not self.keeps or self.attempts.under_way:
            return
        sio = self._sio
        sio.connected, sio.sid = False, None
        sio.namespaces, sio.callbacks = {}, {}
        sio._binary_packet = None  # noqa: SLF001
        self.start_over()

    async def see_off(self) -> None:
        """Have the last connection over: what the user's disconnect handlers do must not reach the next one."""
        await self._tap.quiet()
        if not self.is_connected():
            await self._engine.end()

    def link(self, namespace: str) -> Link | None:
        """Return the link to a namespace."""
        return self._tap.links.get(namespace)

    def accepted(self, namespace: str) -> None:
        """The server accepts a namespace."""
        self._rejoining.answered(namespace, None)

    def rejected(self, namespace: str, said: Any) -> None:
        """The server refuses a namespace."""
        if self.attempts.rejected(namespace, said) or not self.keeps:
            return
        error = ConnectionRejected(namespace, said)
        if not self._rejoining.answered(namespace, error):
            self._rejoining.start(self.link(namespace), error)

    def start_over(self, error: Exception | None = None) -> None:
        """Connect again, because of that error."""
        self._why_lost = error or self._why_lost
        if self.reconnects:
            self._once_more = True
        else:
            self._sio._reconnect_task = self._sio.start_background_task(  # noqa: SLF001
                self._sio._handle_reconnect  # noqa: SLF001
            )
