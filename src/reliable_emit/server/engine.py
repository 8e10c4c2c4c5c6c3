"""What the reference server needs to know about the insides of python-socketio and python-engineio, in one place."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any

import socketio

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable

    from reliable_emit.server.database import StoredMessage

# Rows sent at once to a reader that polls. python-engineio's decoder refuses a response of more than 16 packets (the
# whole of it, and the connection with it); acknowledgements and pings need room as well.
_POLLING_ROWS = 8
_LOG_LENGTH = 300


class _OneLine(logging.Filter):
    """Makes one line of an error with a traceback: what a stranger sends must not fill the log."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info:
            record.msg = f"{record.getMessage()}: {record.exc_info[1]!r}"[:_LOG_LENGTH]
            record.args = ()
            record.exc_info = None
        return True


_ONE_LINE = _OneLine()


def transport_logger(logger: logging.Logger) -> logging.Logger:
    """Return what python-socketio and python-engineio log to.

    Given a logger, they add no handler of their own to the process. Below errors they talk about every packet.
    """
    child = logger.getChild("transport")
    if child.level == logging.NOTSET:
        child.setLevel(logging.ERROR)
    child.addFilter(_ONE_LINE)
    return child


def whole_seconds(ping_interval: float) -> tuple[float, float]:
    """Return the interval and the grace that Engine.IO needs to tell clients of it.

    It tells them whole seconds, rounded down: of half a second, none, and they would take each heartbeat for missing.
    """
    return ping_interval, math.ceil(ping_interval) - ping_interval + 1e-6


class QuietServer(socketio.AsyncServer):  # type: ignore[misc]  # socketio is untyped
    """An ``AsyncServer`` whose handlers' failures are logged.

    python-socketio runs each handler in a task that nobody looks at: one that raises (a packet whose event name is no
    string is enough) says so only when the task is garbage, as an "exception was never retrieved".
    """

    def start_background_task(
        self, target: Callable[..., Awaitable[object]], *args: Any, **kwargs: Any
    ) -> asyncio.Task[object]:
        """Run `target` in a task; what it raises is logged."""

        async def guarded() -> object:
            try:
                return await target(*args, **kwargs)
            except Exception:
                self.logger.exception("a handler failed, its sender gets no acknowledgement")
                return None

        task: asyncio.Task[object] = super().start_background_task(guarded)
        return task


class SocketOutlet:
    """The way to one reader: its namespace on its Engine.IO connection."""

    def __init__(self, sio: socketio.AsyncServer, sid: str, event: str) -> None:
        self._sio = sio
        self._sid = sid
        self._eio_sid: str = sio.manager.eio_sid_from_sid(sid, "/")
        self._event = event

    async def ready(self) -> int:
        """Wait until the connection has taken what it was given; say how many rows more, 0 if it is gone.

        Engine.IO puts packets into a queue without bounds: to wait here is all that keeps it short. It is for ever if
        the connection breaks meanwhile; the disconnect handler ends the task.
        """
        if (socket := self._sio.eio.sockets.get(self._eio_sid)) is None:
            return 0
        await socket.queue.join()
        if socket.closed or not self._sio.manager.is_connected(self._sid, "/"):
            return 0
        return 1_000_000 if socket.upgraded else _POLLING_ROWS

    async def send(self, row: StoredMessage) -> None:
        """Send one row."""
        await self._sio.emit(self._event, (row.text, row.id), to=self._sid)


async def cut(sio: socketio.AsyncServer, sid: str) -> None:
    """Cut a client's connection abruptly, as a network does: no farewell on any layer."""
    eio_sid = sio.manager.eio_sid_from_sid(sid, "/")
    environ = sio.environ.get(eio_sid)
    if environ is None:
        return
    abort(environ)
    socket = sio.eio.sockets.get(eio_sid)
    if socket is not None and not socket.upgraded:
        # A client that polls has as many connections as it likes, but one session. It finds that gone with its next
        # request, and the one that is waiting must not keep it from that.
        release_poll(sio, sid)
        await socket.close(wait=False, abort=True)


def abort(environ: dict[str, Any]) -> None:
    """Abort the TCP connection on which a client first came."""
    transport = environ["aiohttp.request"].transport
    if transport is not None:
        transport.abort()


def release_poll(sio: socketio.AsyncServer, sid: str) -> None:
    """Answer the request with which a client that polls waits for packets.

    Engine.IO leaves it open when the client says goodbye, and python-socketio's own client then waits half a minute.
    """
    socket = sio.eio.sockets.get(sio.manager.eio_sid_from_sid(sid, "/"))
    if socket is not None and not socket.upgraded:
        socket.queue.put_nowait(None)
