"""One connection through the proxy: two sockets, and a pipe between them in each direction."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import struct
from typing import TYPE_CHECKING

from reliable_emit.testing.frames import Handshake
from reliable_emit.testing.pipe import End, Pipe
from reliable_emit.testing.weather import DIRECTIONS, Direction, Ending

if TYPE_CHECKING:
    from reliable_emit.testing.network import Network

_logger = logging.getLogger("reliable_emit.testing")

# Seconds that the two ends have, after they were told of the end, to close and to take what is under way.
_LINGER = 1.0
_NO_LINGER = struct.pack("hh" if os.name == "nt" else "ii", 1, 0)


class _Side(asyncio.Protocol):
    """One of the two ends, as the proxy sees it.

    Attributes:
        gone: Whether nothing more comes from there.
        lost: Whether nothing can be sent there either.
    """

    def __init__(self, connection: Connection, incoming: Pipe, outgoing: Pipe) -> None:
        self._connection = connection
        self._incoming = incoming
        self._outgoing = outgoing
        self._farewell: asyncio.TimerHandle | None = None
        self.transport: asyncio.Transport | None = None
        self.gone = False
        self.lost = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport
        if self._connection.over:
            self._connection.part(self)
            return
        # So that `writable` means that everything has left this process.
        transport.set_write_buffer_limits(high=0)
        self._incoming.source = self._outgoing.destination = transport
        self._incoming.regulate()
        self._outgoing.pump()
        self._connection.joined(self)

    def data_received(self, data: bytes) -> None:
        if not self._connection.over:
            self._incoming.feed(data)

    def eof_received(self) -> bool:
        if not self.gone:
            self.gone = True
            if not self._connection.over:
                self._incoming.feed("fin")
                self._connection.check()
        # The other way may go on.
        return not self._connection.over

    def connection_lost(self, exc: Exception | None) -> None:
        self.gone = self.lost = True
        self.transport = self._incoming.source = self._outgoing.destination = None
        if self._farewell is not None:
            self._farewell.cancel()
        if not self._connection.over:
            self._outgoing.close()
            self._incoming.feed("fin" if exc is None else "rst")
        self._connection.check()

    def pause_writing(self) -> None:
        self._outgoing.writable = False

    def resume_writing(self) -> None:
        self._outgoing.writable = True
        self._outgoing.pump()

    def finish(self) -> None:
        """Send FIN, and close when the other end has closed too, or in a second.

        What still comes is thrown away: closing with something unread would send RST.
        """
        if self.transport is not None:
            self.write_eof()
            self._farewell = self._connection.loop.call_later(_LINGER, self.transport.abort)
            if self.gone:
                self.transport.close()

    def write_eof(self) -> None:
        """Send FIN."""
        if self.transport is not None and not self.transport.is_closing():
            with contextlib.suppress(OSError):
                self.transport.write_eof()

    def reset(self) -> None:
        """Send RST."""
        transport = self.transport
        if transport is not None:
            with contextlib.suppress(OSError):
                transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
            transport.abort()


class Connection:
    """A connection that a client has made, and the one to the server that belongs to it.

    What one end does is passed on to the other as it was done: the end of a stream, and a reset.

    Args:
        network: What all connections share.

    Attributes:
        handshake: What both directions know of HTTP.
        pipes: The two directions.
        over: Whether it has ended; the sockets are closed a little later.
        through: Whether it has reached the server.
    """

    def __init__(self, network: Network) -> None:
        self._network = network
        self.loop = network.loop
        self.handshake = Handshake()
        self.over = False
        self.through = False
        self.pipes: dict[Direction, Pipe] = {direction: Pipe(direction, self, network) for direction in DIRECTIONS}
        to_server, to_client = self.pipes["to_server"], self.pipes["to_client"]
        self._client = _Side(self, to_server, to_client)
        self._server = _Side(self, to_client, to_server)
        self._task: asyncio.Task[None] | None = None
        self._ending: Ending | None = None

    @property
    def swallowing(self) -> bool:
        """Whether it has swallowed something, or will: then the two ends can never agree again."""
        return any(pipe.swallowing for pipe in self.pipes.values())

    @property
    def cutting(self) -> bool:
        """Whether it is to be cut as soon as what passes before that has been taken."""
        return any(pipe.cutting for pipe in self.pipes.values())

    def start(self, accepted: socket.socket, target: tuple[str, int]) -> None:
        """Connect the client, on that socket, with the server."""
        self._task = self.loop.create_task(self._join(accepted, target))
        self._task.add_done_callback(lambda _: self._note())

    async def _join(self, accepted: socket.socket, target: tuple[str, int]) -> None:
        await self.loop.connect_accepted_socket(lambda: self._client, accepted)
        if self.over or all(pipe.swallowing for pipe in self.pipes.values()):
            return
        try:
            await self.loop.create_connection(lambda: self._server, *target)
        except (OSError, ValueError) as error:  # a name that is none is a `ValueError`
            _logger.info("cannot connect to %s:%s: %s", *target, error)
            self.end("rst")

    def joined(self, side: _Side) -> None:
        """Take note that this side has a socket."""
        if side is self._server:
            self.through = True
            self._network.joined_total += 1
            self._note()

    def end(self, ending: Ending) -> None:
        """Cut it."""
        if self.over:
            return
        if ending == "blackhole":
            for pipe in self.pipes.values():
                pipe.swallow()
            return
        # The server may have accepted already although nobody here knows, and is to see the same end: so what is on
        # its way is not cancelled, but ended when it is there.
        self._ending = ending
        self._leave()
        for side in (self._client, self._server):
            self.part(side)

    def part(self, side: _Side) -> None:
        """End one side, as it was decided that this connection ends."""
        if self._ending == "fin":
            side.finish()
        elif self._ending == "rst":
            side.reset()
        elif side.transport is not None:
            side.transport.abort()

    def abort(self) -> None:
        """Close both sockets now, whatever is under way."""
        self._ending = None
        self._leave()
        for side in (self._client, self._server):
            self.part(side)
        # Not before the client's socket belongs to a transport: nobody would close it.
        if self._task is not None and self._client.transport is not None:
            self._task.cancel()

    def check(self) -> None:
        """End it if both ends are gone, and neither is to be told of the other, or can be."""
        sides = (self._client, self._server)
        if not self.over and all(side.lost or (side.gone and self.swallowing) for side in sides):
            self.abort()
        self._note()

    def _leave(self) -> None:
        self.over = True
        for pipe in self.pipes.values():
            pipe.close()
        self._note()

    def _note(self) -> None:
        sockets = any(side.transport is not None for side in (self._client, self._server))
        if self.over and not sockets and (self._task is None or self._task.done()):
            self._network.connections.discard(self)
        self._network.changed()

    def passed_end(self, pipe: Pipe, end: End) -> None:
        """Take note that the end of the stream has come out of that pipe."""
        if end == "rst":
            self.end("rst")
            return
        (self._server if pipe is self.pipes["to_server"] else self._client).write_eof()
        if all(pipe.finished for pipe in self.pipes.values()):
            self._leave()
            for side in (self._client, self._server):
                if side.transport is not None:
                    side.transport.close()
