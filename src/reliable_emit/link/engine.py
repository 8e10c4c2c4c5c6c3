"""Ends Engine.IO connections, in bounded time and so that nothing of them is left."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from typing import Any

from engineio import base_client

_logger = logging.getLogger("reliable_emit")

STEP = 0.25
"""Seconds that a step of ending may take, when the polite way has failed."""
_NOTICED = 1.0
"""Seconds within which Engine.IO should have noticed that a connection was shut down."""
_LOOKS = 50
"""How often to look whether it has."""


class Engine:
    """The Engine.IO client below a wrapped client.

    Args:
        eio: That client.
    """

    def __init__(self, eio: Any) -> None:
        self._eio = eio
        self._endings: set[asyncio.Future[None]] = set()
        self._mournings: set[asyncio.Future[None]] = set()
        self._watched: asyncio.Task[None] | None = None
        self._burial: asyncio.TimerHandle | None = None

    def is_ending(self, task: asyncio.Task[Any] | None) -> bool:
        """Whether that task is one in which a connection is ended from here."""
        return task in self._endings

    async def end(self) -> None:
        """Have the last connection over, so that nothing of it reaches the next one."""
        eio = self._eio
        if eio.state == "connected":
            # Closing politely waits for what was written before, which a frozen peer never reads.
            ending = asyncio.ensure_future(eio.disconnect(abort=True))
            self._endings.add(ending)
            ending.add_done_callback(self._endings.discard)
            await asyncio.wait({ending}, timeout=STEP)
            if not ending.done():
                shut_down(eio.ws)
                await asyncio.wait({ending}, timeout=STEP)
        elif eio.state == "disconnecting":
            # Whoever disconnects it has to be through, or she would do the rest of that to the next one.
            shut_down(eio.ws)
            for _ in range(_LOOKS):
                if eio.state == "disconnected":
                    break
                await asyncio.sleep(_NOTICED / _LOOKS)
        await self._end_loops()
        while not eio.queue.empty():  # the mark by which an old loop ends would end a new one
            eio.queue.get_nowait()
            eio.queue.task_done()
        if eio.state != "disconnected" or not (eio.http is None or eio.external_http or eio.http.closed):
            await asyncio.wait({asyncio.ensure_future(eio._reset())}, timeout=STEP)  # noqa: SLF001 - closes the session

    # When nobody notices.

    def bury(self) -> None:
        """Make sure that the connection, which was just shut down, is over soon."""
        self._burial = asyncio.get_running_loop().call_later(_NOTICED, self._cancel_loops)

    def noticed(self) -> None:
        """Engine.IO has noticed that the connection is over."""
        if self._burial is not None:
            self._burial.cancel()

    def watch(self) -> None:
        """Notice for Engine.IO when its read loop is cancelled, which takes the connection for alive ever after.

        It is the task that ``AsyncClient.wait`` awaits, so whoever cancels that cancels the loop.
        """
        loop = self._eio.read_loop_task
        if loop is not None and loop is not self._watched:
            self._watched = loop
            loop.add_done_callback(self._read_loop_over)

    def _cancel_loops(self) -> None:
        for loop in (self._eio.read_loop_task, self._eio.write_loop_task):
            if loop is not None:
                loop.cancel()

    def _read_loop_over(self, loop: asyncio.Task[None]) -> None:
        if loop.cancelled():
            # Later, because a program that ends cancels all its tasks, and wants no new ones.
            loop.get_loop().call_later(STEP, self._mourn, loop)

    def _mourn(self, loop: asyncio.Task[None]) -> None:
        if self._eio.read_loop_task is loop and self._eio.state != "disconnected":
            mourning = asyncio.ensure_future(self._finish())
            self._mournings.add(mourning)
            mourning.add_done_callback(self._mournings.discard)

    async def _finish(self) -> None:
        """Do what engineio does at the end of its read loop."""
        eio, connection = self._eio, self._eio.sid
        shut_down(eio.ws)
        await self._end_loops()
        if eio.sid != connection:
            return
        if eio.state == "connected":
            await eio._trigger_event("disconnect", eio.reason.TRANSPORT_ERROR, run_async=False)  # noqa: SLF001
        with contextlib.suppress(ValueError):
            base_client.connected_clients.remove(eio)
        await eio._reset()  # noqa: SLF001

    async def _end_loops(self) -> None:
        eio = self._eio
        for force in (False, True):
            loops = {each for each in (eio.read_loop_task, eio.write_loop_task) if each is not None and not each.done()}
            for loop in loops if force else ():
                loop.cancel()
            if loops:
                await asyncio.wait(loops, timeout=STEP)


def shut_down(ws: Any) -> None:
    """Shut a WebSocket's connection down: whoever reads or writes on it notices at once."""
    connection = None if ws is None else ws.get_extra_info("socket")
    if connection is None:
        return
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        _logger.debug("the socket was closed already")
    except (AttributeError, TypeError, NotImplementedError):
        # What uvloop gives is not quite a socket; a second handle on the same connection is.
        with (
            contextlib.suppress(OSError),
            socket.fromfd(connection.fileno(), socket.AF_INET, socket.SOCK_STREAM) as own,
        ):
            own.shutdown(socket.SHUT_RDWR)
