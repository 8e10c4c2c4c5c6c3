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


class Engine:
    """The Engine.IO client below a wrapped client.

    Args:
        eio: That client.
    """

    def __init__(self, eio: Any) -> None:
        self._eio = eio
        self._endings: set[asyncio.Future[None]] = set()

    def is_ending(self, task: asyncio.Task[Any] | None) -> bool:
        """Whether that task is one in which a connection is ended from here."""
        return task in self._endings

    async def end(self) -> None:
        """Have the last connection over, so that nothing of it reaches the next one."""
        eio = self._eio
        if eio.state == "connected":
            # Closing politely waits for what was written before, which a frozen peer never reads.
            ending = asyncio.ensure_future(eio.disconnect(abort=True))
            self._keep(ending)
            await asyncio.wait({ending}, timeout=STEP)
            if not ending.done():
                shut_down(eio.ws)
                await asyncio.wait({ending}, timeout=STEP)
        await self._end_loops()
        while not eio.queue.empty():  # the mark by which an old loop ends would end a new one
            eio.queue.get_nowait()
            eio.queue.task_done()
        if eio.state != "disconnected" or not (eio.http is None or eio.external_http or eio.http.closed):
            await asyncio.wait({asyncio.ensure_future(eio._reset())}, timeout=STEP)  # noqa: SLF001 - closes the session

    def bury(self) -> None:
        """Make sure that the connection, which was just shut down, is over soon."""
        self._keep(asyncio.ensure_future(self._bury(self._eio.sid)))

    async def _bury(self, connection: str) -> None:
        eio = self._eio

        def is_over() -> bool:
            return bool(eio.state != "connected" or eio.sid != connection)

        await asyncio.sleep(_NOTICED)
        if is_over():
            return
        await self._end_loops()
        if not is_over():
            # What engineio does at the end of its read loop.
            await eio._trigger_event("disconnect", eio.reason.TRANSPORT_ERROR, run_async=False)  # noqa: SLF001
            with contextlib.suppress(ValueError):
                base_client.connected_clients.remove(eio)
            await self.end()

    async def _end_loops(self) -> None:
        eio = self._eio
        for force in (False, True):
            loops = {each for each in (eio.read_loop_task, eio.write_loop_task) if each is not None and not each.done()}
            for loop in loops if force else ():
                loop.cancel()
            if loops:
                await asyncio.wait(loops, timeout=STEP)

    def _keep(self, task: asyncio.Future[None]) -> None:
        self._endings.add(task)
        task.add_done_callback(self._endings.discard)


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
