"""Keeps a wrapped client connected.

The keeper works in the place of python-socketio's own reconnection, and also where that would not: after the server has
disconnected the client, and after a disconnect handler that raised. On a connection that was not made through it, it
leaves everything to python-socketio.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from socketio import exceptions as socketio_exceptions

from reliable_emit.errors import ConnectionRejected
from reliable_emit.link.attempt import Attempts, from_engineio
from reliable_emit.link.engine import Engine
from reliable_emit.link.kicks import Kicked, Kicks
from reliable_emit.link.reason import why
from reliable_emit.link.reconnection import Reconnection
from reliable_emit.link.rejoining import Rejoining
from reliable_emit.link.streak import Streak

if TYPE_CHECKING:
    from reliable_emit.link.link import Link
    from reliable_emit.link.options import ConnectOptions
    from reliable_emit.link.tap import Tap

_logger = logging.getLogger("reliable_emit")


class Keeper:
    """Makes the connection of a wrapped client again whenever it is lost.

    Args:
        sio: The wrapped client.
        tap: Hears what happens to it.
        engine: Ends its connections.

    Attributes:
        attempts: Makes the attempts.
        kicks: Knows what to do when the server disconnects the client.
    """

    def __init__(self, sio: Any, tap: Tap, engine: Engine) -> None:
        self._sio = sio
        self._tap = tap
        self._engine = engine
        self.attempts = Attempts(sio, engine)
        self.keeps = self._made = False
        self._ending = False
        self.options: ConnectOptions  # from `first` on, before which nothing is kept
        self.arguments: dict[str, Any] = {}
        self._attempt_number = 0
        self._streak = Streak()
        self._why_lost: Exception | None = None
        self._reconnection = Reconnection(sio, self)
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
        self._attempt_number, self._streak = 0, Streak()
        self._ending = False
        self.keeps = bool(self._sio.reconnection)
        if self.keeps:
            self._reconnection.install()
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
        self._made = True

    def release(self) -> None:
        """Keep the connection no longer, and leave the wrapped client as it was."""
        self.rest()
        self._reconnection.remove()

    def rest(self) -> None:
        """Make no attempt any more."""
        self.keeps = False
        for link in self._kept:
            link.resting()

    async def stop(self) -> None:
        """End what goes on, for good, in bounded time."""
        self._ending = True
        self.rest()
        self._rejoining.stop()
        await self._reconnection.stop()

    @property
    def reconnects(self) -> bool:
        """Whether python-socketio's own reconnection, or ours in its place, is at work."""
        return self._reconnection.is_at_work

    @property
    def is_users(self) -> bool:
        """Whether the user has called ``AsyncClient.connect`` after us."""
        return self._sio.connection_headers is not self.arguments["headers"]

    @property
    def _kept(self) -> list[Link]:
        """The links that are connected here; others were made too late for that."""
        asked_for = self.arguments.get("namespaces", ())
        return [link for link in self._tap.links.values() if link.namespace in asked_for]

    @property
    def owns(self) -> bool:
        """Whether the connection was made here, or is about to be, and closing may end it."""
        return self._made and (not self.is_users or (self.keeps and not self.is_connected()))

    def is_connected(self) -> bool:
        """Whether the wrapped client is connected, and not only believes so."""
        if self._sio.connected and self._sio.eio.state == "disconnected":
            # Lost while it was made (during the user's connect handler, say): python-socketio would believe for ever
            # that it is there, and refuse to connect.
            self._sio.connected = False
        return bool(self._sio.connected)

    async def _take_over(self) -> None:
        await self._reconnection.clear()
        if not self.is_connected():
            await self._engine.end()

    # Reconnecting.

    async def again(self) -> None:
        """Connect again, with a pause before each attempt."""
        self._streak.lost(self._tap.pulse.acknowledgements)
        self._attempt_number = 0
        error, self._why_lost = self._why_lost or socketio_exceptions.ConnectionError("the connection was lost"), None
        patient = True
        while self.keeps:
            if self.options.is_final(error):
                self.give_up(error, self._kept)
                await self.see_off()
                return
            await self._pause(error)
            await self._tap.quiet()
            if self.is_users and self.is_connected():
                self.release()
                return
            if self.is_users and (patient or self._sio.eio.state != "disconnected"):
                patient = False  # whether her call is under way nobody tells before the handshake; leave it a pause
                continue
            await self.see_off()
            try:
                await self._attempt()
            except Exception as caught:
                error = caught
                if caught is self.attempts.users_error:
                    self.complain(caught)
            else:
                return

    async def _attempt(self) -> None:
        if self.is_connected():
            return  # the user was faster
        self._attempt_number += 1
        self._reconnection.once_more = False
        self.kicks.forget()
        for link in self._kept:
            link.connecting(self._attempt_number)
        await self.attempts.make(self.arguments)
        self._streak.made(self._tap.pulse.acknowledgements)
        # After the first one, as python-socketio's own reconnection does.
        self.arguments["wait"] = True
        await self.kicks.catch_up()

    def complain(self, error: Exception) -> None:
        """Say that a function of the user's failed; it is asked again at the next attempt."""
        _logger.error("a function given to connect failed; trying again", exc_info=error)

    async def _pause(self, error: Exception) -> None:
        await self.pause(error, self._kept, self._streak.next())

    async def pause(self, error: Exception, links: Iterable[Link], number: int) -> None:
        """Wait before the next attempt; the more often in a row, the longer."""
        seconds = self.options.pause(number, error)
        reason = why(error).words
        _logger.warning("not connected: %s; trying again in %.1f s", reason, seconds)
        for link in tuple(links):
            link.waiting(reason, time.monotonic() + seconds)
        await asyncio.sleep(seconds)

    def _may_pass(self, error: Exception) -> bool:
        """Whether the first connection may succeed after that."""
        if error is self.attempts.users_error:
            return False
        if isinstance(error, Kicked):
            return self.options.reconnect_after_kick
        if isinstance(error, ConnectionRejected):
            return self.options.final is not None and not self.options.final(error.said)
        # engineio raises whatever it happens to, when what answers is no Socket.IO server, or half of one.
        return isinstance(error, socketio_exceptions.ConnectionError | OSError) or from_engineio(error)

    def give_up(self, error: Exception, links: Iterable[Link]) -> None:
        """Make no attempt any more."""
        links = tuple(links)
        if len(links) == len(self._kept):
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
            if self.keeps and self.is_users and not self._sio.connected:
                return  # python-socketio's way of ending what the user has tried by hand, and what was refused
            if self._tap.is_kicked(asyncio.current_task()) and not self._sio.connected:
                return  # python-socketio's way of ending it after the last namespace
            # By hand: the next connection is the user's.
            self.release()
            if self.reconnects:
                self._reconnection.abort()
        elif reason == self._sio.reason.SERVER_DISCONNECT and not self.attempts.under_way:
            self.kicks.all()
        elif self.reconnects:
            self._reconnection.once_more = (
                True  # python-socketio begins no second reconnection, and this one is almost over
            )

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
        """The server has refused a namespace on a connection that stands."""
        if not self.keeps:
            return
        error = ConnectionRejected(namespace, said)
        if namespace == "/":
            # python-socketio takes that for the end of all of them, but for that of the connection.
            self._sio.connected, self._sio.namespaces = False, {}
            self._rejoining.stop()
            self.start_over(error)
        elif not self._rejoining.answered(namespace, error):
            self._rejoining.start(self.link(namespace), error)

    def start_over(self, error: Exception | None = None) -> None:
        """Connect again, because of that error."""
        self._why_lost = error or self._why_lost
        self._reconnection.start()
