"""Many rows to many readers: encoded once for all of them, and given to each reader's connection in one write.

A row that goes the ordinary way is encoded for each reader, waits in its queue, is compressed for it, and is a system
call of its own. With 64 readers that is most of what a busy chat server does. What a server writes into a WebSocket is
not masked, so the bytes of a row are the same for everybody.
"""

from __future__ import annotations

import asyncio
import struct
from typing import TYPE_CHECKING, Any

from aiohttp.web import Response, StreamResponse, WebSocketResponse
from engineio.async_drivers.aiohttp import WebSocket
from engineio.packet import MESSAGE
from engineio.packet import Packet as EnginePacket
from socketio.packet import EVENT
from socketio.packet import Packet as SocketPacket

from reliable_emit.server.posts import SEPARATOR, is_packet

if TYPE_CHECKING:
    from collections.abc import Sequence

    from reliable_emit.server.history import StoredMessage

REQUEST = "reliable_emit_request"
"""The attribute of an Engine.IO connection with the request that its WebSocket is; of one that polls, there is none."""

# A text frame that is whole, and the lengths from which a length takes two and eight bytes more (RFC 6455, 5.2).
_TEXT = 0x81
_TWO_BYTES, _EIGHT_BYTES = 126, 1 << 16


class _Frames(bytes):
    """WebSocket frames, one after the other."""


class Burst(EnginePacket):  # type: ignore[misc]  # engineio is untyped
    """Several messages that take one place in an Engine.IO queue, so that they keep theirs among all other packets.

    Only for connections whose WebSocket is a :class:`BurstSocket`.

    Args:
        event: The name of the event.
        rows: What the messages say.
        frames: The frames that they are on a WebSocket.
    """

    def __init__(self, event: str, rows: Sequence[StoredMessage], frames: bytes) -> None:
        super().__init__(MESSAGE, f"({len(frames)} bytes of rows)")
        self._event, self._rows = event, rows
        self._frames = _Frames(frames)

    def encode(self, b64: bool = False) -> str | bytes:
        """Return the frames, or as many packets for a response to a client that polls.

        It may still do so when its WebSocket is there: a request that it has left open takes what is in the queue.
        """
        # Those may be more than python-engineio decodes, but its client has no request open when it changes to a
        # WebSocket. Others decode any number, and have one, which the change answers before there are bursts.
        if b64:
            return SEPARATOR.join(_packet(self._event, row) for row in self._rows)
        return self._frames


class BurstSocket(WebSocket):  # type: ignore[misc]  # engineio is untyped
    """Engine.IO's WebSocket, which takes bursts too.

    And which does not compress, as the JavaScript server does not: each connection would need some 300 kB for it, and
    each message would be compressed for each reader.
    """

    async def __call__(self, environ: dict[str, Any]) -> StreamResponse:
        """Serve one connection to its end."""
        request = environ["aiohttp.request"]
        self._request = request
        self._sock = WebSocketResponse(max_msg_size=self.server.max_http_buffer_size, compress=False)
        try:
            await self._sock.prepare(request)
        except ConnectionResetError:
            # The client has gone already. Nothing else would end its session, and the log would get a traceback.
            await self.handler.__self__.close(wait=False, abort=True)
            return Response()
        self.environ = environ
        setattr(self.handler.__self__, REQUEST, request)
        await self.handler(self)
        return self._sock

    async def wait(self) -> str | bytes:
        """Return the next packet.

        Raises:
            OSError: There is none: the connection is closed or silent, or what came is no packet.
        """
        data: str | bytes
        if self.handler.__self__.upgraded:
            data = await super().wait()
        else:  # Engine.IO has no limit of its own while a client changes from polling to a WebSocket
            async with asyncio.timeout(self.server.ping_interval + self.server.ping_timeout):
                data = await super().wait()
        if isinstance(data, str) and not is_packet(data):
            raise OSError("what came is no packet")
        return data

    async def send(self, message: str | bytes) -> None:
        """Send a packet, or a burst; wait while the connection has more than it can take."""
        if not isinstance(message, _Frames):
            await super().send(message)
            return
        transport = self._request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the connection is closed")
        transport.write(message)
        await self._request.protocol._drain_helper()  # noqa: SLF001 - aiohttp's own writer waits here, too


class RowEncoder:
    """Makes bursts of rows; the last one is kept, because most readers want the same rows at the same time.

    Attributes:
        event: The name of the event.
    """

    def __init__(self, event: str) -> None:
        self.event = event
        self._made: tuple[int, int, bytes] = (0, 0, b"")

    def burst(self, rows: Sequence[StoredMessage]) -> Burst:
        """Return rows that follow each other, as one burst."""
        first, last, frames = self._made
        if (first, last) != (rows[0].id, rows[-1].id):
            frames = b"".join(self._frame(row) for row in rows)
            self._made = (rows[0].id, rows[-1].id, frames)
        return Burst(self.event, rows, frames)

    def _frame(self, row: StoredMessage) -> bytes:
        payload = _packet(self.event, row).encode()
        if len(payload) < _TWO_BYTES:
            header = struct.pack("!BB", _TEXT, len(payload))
        elif len(payload) < _EIGHT_BYTES:
            header = struct.pack("!BBH", _TEXT, _TWO_BYTES, len(payload))
        else:
            header = struct.pack("!BBQ", _TEXT, _TWO_BYTES + 1, len(payload))
        return header + payload


def _packet(event: str, row: StoredMessage) -> str:
    packet: str = SocketPacket(EVENT, namespace="/", data=[event, row.text, row.id]).encode()
    return f"{MESSAGE}{packet}"
