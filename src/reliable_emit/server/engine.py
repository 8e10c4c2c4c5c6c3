"""What the reference server needs to know about the insides of python-socketio and python-engineio, in one place."""

from __future__ import annotations

import asyncio
import math
import time
from typing import TYPE_CHECKING, Any

import socketio

from reliable_emit.server.burst import REQUEST, BurstSocket
from reliable_emit.server.intake import Intake
from reliable_emit.server.posts import Posts, translate

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from reliable_emit.server.burst import RowEncoder
    from reliable_emit.server.history import StoredMessage

# Rows sent at once to a reader that polls. python-engineio's decoder refuses a response of more than 16 packets (the
# whole of it, and the connection with it); acknowledgements and pings need room as well.
_POLLING_ROWS = 8
# The longest name of a namespace.
_NAMESPACE = 200


def whole_seconds(ping_interval: float) -> tuple[float, float]:
    """Return the interval and the grace that Engine.IO needs to tell clients of it.

    It tells them whole seconds, rounded down: of half a second, none, and they would take each heartbeat for missing.
    """
    return ping_interval, math.ceil(ping_interval) - ping_interval + 1e-6


class QuietServer(socketio.AsyncServer):  # type: ignore[misc]  # socketio is untyped
    """An ``AsyncServer`` for aiohttp that strangers can talk to.

    It takes from each connection no more than it can handle, see :class:`Intake`, and from those that poll only what it
    understands, see :class:`Posts`. Who joins no namespace is not kept. It takes bursts. And it logs what handlers
    raise: python-socketio runs each in a task that nobody looks at, and one that raises says so only when the task is
    garbage, as an "exception was never retrieved".
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(async_mode="aiohttp", **options)
        # There is no other way in.
        self.eio._async = {**self.eio._async, "websocket": BurstSocket, "translate_request": translate}  # noqa: SLF001
        self._intakes: dict[str, Intake] = {}
        self._pings: set[asyncio.Task[object]] = set()
        self._start_engine_task = self.eio.start_background_task
        self.eio.start_background_task = self._start_ping
        # A client has as long as one that has fallen silent.
        self._patience: float = self.eio.ping_interval + self.eio.ping_timeout
        Posts(self.eio, self._patience, self._end)

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

        task: asyncio.Task[object] = asyncio.create_task(guarded())
        if target == self._handle_event_internal and (intake := self._intakes.get(args[2])) is not None:
            size = intake.begins()
            task.add_done_callback(lambda _: intake.ends(size))
        return task

    def _start_ping(self, target: Callable[..., Awaitable[object]], *args: Any, **kwargs: Any) -> asyncio.Task[object]:
        task: asyncio.Task[object] = self._start_engine_task(target, *args, **kwargs)
        if getattr(target, "__name__", "") == "_send_ping":
            self._pings.add(task)
            task.add_done_callback(self._pings.discard)
        return task

    async def end_waits(self) -> None:
        """End what waits for the next heartbeat or for packets, which would outlive the server by an interval."""
        for socket in self.eio.sockets.values():
            if not socket.upgraded:
                socket.queue.put_nowait(None)
        if pings := list(self._pings):
            for task in pings:
                task.cancel()
            await asyncio.wait(pings)

    async def _handle_eio_connect(self, eio_sid: str, environ: dict[str, Any]) -> None:
        await super()._handle_eio_connect(eio_sid, environ)
        socket = self.eio.sockets[eio_sid]
        self._intakes[eio_sid] = Intake(socket.queue, self.eio.max_http_buffer_size)
        self._expect(eio_sid)

    def _expect(self, eio_sid: str) -> None:
        asyncio.get_running_loop().call_later(self._patience, self._look_for, eio_sid)

    def _look_for(self, eio_sid: str) -> None:
        if eio_sid not in self._intakes:
            return
        if any(self.manager.sid_from_eio_sid(eio_sid, namespace) for namespace in self.manager.get_namespaces()):
            self._expect(eio_sid)  # it may leave
        else:
            self.start_background_task(self._end, eio_sid)

    async def _end(self, eio_sid: str) -> None:
        socket = self.eio.sockets.get(eio_sid)
        if socket is not None and socket.upgraded:
            _abort(self, eio_sid)
        elif socket is not None:
            await _end_polling(socket)

    async def _handle_eio_disconnect(self, eio_sid: str, reason: str) -> None:
        if (intake := self._intakes.pop(eio_sid, None)) is not None:
            intake.gone()
        await super()._handle_eio_disconnect(eio_sid, reason)
        self._binary_packet.pop(eio_sid, None)

    async def _handle_eio_message(self, eio_sid: str, data: str | bytes) -> None:
        intake, socket = self._intakes.get(eio_sid), self.eio.sockets.get(eio_sid)
        if intake is None or socket is None or not await intake.room():
            return
        if socket.last_ping:
            # It lives, although the answer to the heartbeat may be behind much else that was not taken until now.
            socket.last_ping = time.time()
        packet = self._binary_packet.get(eio_sid)
        try:
            intake.comes(data, attachment=packet is not None, announced=packet.attachment_count if packet else 0)
            await super()._handle_eio_message(eio_sid, data)
        except BaseException:
            self._binary_packet.pop(eio_sid, None)  # or all that follows would be taken for its attachments
            raise

    async def _handle_connect(self, eio_sid: str, namespace: str | None, data: object) -> None:
        if namespace is not None and len(namespace) > _NAMESPACE:  # the answer repeats it
            raise ValueError("the name of a namespace is too long")
        await super()._handle_connect(eio_sid, namespace, data)

    async def _handle_event(self, eio_sid: str, namespace: str | None, number: int | None, data: Any) -> None:
        if not isinstance(data, list) or not data or not isinstance(data[0], str):
            raise ValueError("an event without a name")
        await super()._handle_event(eio_sid, namespace, number, data)


class SocketOutlet:
    """The way to one reader: its namespace on its Engine.IO connection."""

    def __init__(self, sio: socketio.AsyncServer, sid: str, encoder: RowEncoder) -> None:
        self._sio = sio
        self._sid = sid
        self._eio_sid: str = sio.manager.eio_sid_from_sid(sid, "/")
        self._encoder = encoder

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

    async def send(self, rows: Sequence[StoredMessage]) -> None:
        """Send rows that follow each other."""
        socket = self._sio.eio.sockets.get(self._eio_sid)
        if socket is None or socket.closed:
            return
        if socket.upgraded:
            await socket.send(self._encoder.burst(rows))
            return
        for row in rows:
            # Here, and not by way of the other nodes, whose message queue may hang.
            await self._sio.emit(self._encoder.event, (row.text, row.id), to=self._sid, ignore_queue=True)


async def cut(sio: socketio.AsyncServer, sid: str) -> None:
    """Cut a client's connection abruptly, as a network does: no farewell on any layer."""
    await _cut(sio, sio.manager.eio_sid_from_sid(sid, "/"))


async def _cut(sio: socketio.AsyncServer, eio_sid: str | None) -> None:
    if eio_sid not in sio.environ:
        return
    _abort(sio, eio_sid)
    socket = sio.eio.sockets.get(eio_sid)
    if socket is not None and not socket.upgraded:
        await _end_polling(socket)


async def _end_polling(socket: Any) -> None:
    # A client that polls has as many connections as it likes, but one session. It finds that gone with its next
    # request, and the one that is waiting must not keep it from that.
    socket.queue.put_nowait(None)
    await socket.close(wait=False, abort=True)


def abort(sio: socketio.AsyncServer, sid: str) -> None:
    """Abort the TCP connection of a client; of one that polls, that on which it first came."""
    _abort(sio, sio.manager.eio_sid_from_sid(sid, "/"))


def _abort(sio: socketio.AsyncServer, eio_sid: str | None) -> None:
    socket, environ = sio.eio.sockets.get(eio_sid), sio.environ.get(eio_sid)
    # A client that began to poll may have a WebSocket by now.
    request = getattr(socket, REQUEST, None) or (environ and environ["aiohttp.request"])
    if request is not None and request.transport is not None:
        request.transport.abort()


def release_poll(sio: socketio.AsyncServer, sid: str) -> None:
    """Answer the request with which a client that polls waits for packets.

    Engine.IO leaves it open when the client says goodbye, and python-socketio's own client then waits half a minute.
    """
    socket = sio.eio.sockets.get(sio.manager.eio_sid_from_sid(sid, "/"))
    if socket is not None and not socket.upgraded:
        socket.queue.put_nowait(None)
