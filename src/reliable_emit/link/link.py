"""Watches the connection of one namespace, and sends on it."""

from __future__ import annotations

import select
from collections.abc import Callable
from typing import Any, Protocol

import engineio.packet

from reliable_emit.delivery import Frames
from reliable_emit.link.codec import codec_for
from reliable_emit.link.connecting import ConnectOptions
from reliable_emit.link.tap import Tap

_POLLING_LIMIT = 16
"""Engine.IO's ``max_decode_packets``: a request of more is dropped whole, and answered as if it were fine."""


class Listener(Protocol):
    """Whom a link tells; always from the event loop, never concurrently."""

    def link_up(self, socket_id: str) -> None:
        """The namespace is connected."""

    def link_down(self, reason: str) -> None:
        """The connection is lost."""


class Link:
    """One namespace of one wrapped client.

    Args:
        sio: The ``socketio.AsyncClient``.
        namespace: The namespace.
        listener: Who is told that the namespace is connected, or lost.

    Raises:
        ValueError: The namespace has a link already.
    """

    def __init__(self, sio: Any, namespace: str, listener: Listener) -> None:
        self.sio = sio
        self.namespace = namespace
        self.codec = codec_for(sio.packet_class, namespace)
        self._listener = listener
        self._socket_id: str | None = None
        # python-socketio can keep the socket id of a connection that is lost (when it is lost during a connect
        # handler), so an id that was seen lost never counts again.
        self._lost_id: str | None = None
        self._ack_ids: list[int] = []
        self._closed = False
        self._tap = Tap.attach(sio, self)

    @property
    def is_up(self) -> bool:
        """Whether the namespace is connected, as told last."""
        return self._socket_id is not None

    @property
    def is_closed(self) -> bool:
        """Whether it was closed; it then sends nothing, and tells nothing but a loss."""
        return self._closed

    @property
    def socket_id(self) -> str | None:
        """The socket id, ``None`` while the namespace is not connected."""
        return self._socket_id

    async def connect(self, options: ConnectOptions, *, retry: bool) -> None:
        """Connect the wrapped client; raises as :meth:`Connector.connect`."""
        await self._tap.connector.connect(self, options, retry=retry)
        self.look()

    async def close(self, timeout: float) -> None:
        """Leave the wrapped client alone from now on.

        If it was connected from here, and no other namespace of it is wrapped any more, it is disconnected: within
        `timeout` seconds and one more.
        """
        self._closed = True
        others = any(link is not self and not link.is_closed for link in self._tap.links.values())
        try:
            await self._tap.connector.leave(self, timeout, others=others, busy=self._tap.is_disconnecting)
        finally:
            self.detach()

    def detach(self) -> None:
        """Stop listening, at once."""
        self._closed = True
        self.forget()
        self._tap.detach(self)
        self._socket_id = None

    def in_disconnect_handler(self) -> bool:
        """Whether the caller is the user's disconnect handler."""
        return self._tap.in_disconnect_handler(self.namespace)

    def look(self) -> None:
        """Compare with the wrapped client's own knowledge, and tell the listener what is new."""
        socket_id = self.sio.get_sid(self.namespace) if self.sio.eio.state == "connected" else None
        if socket_id == self._lost_id:
            socket_id = None
        if socket_id == self._socket_id:
            return
        if self._socket_id is not None:
            self._down("the namespace was closed")
        if socket_id is not None and not self._closed:
            self._socket_id = socket_id
            self._listener.link_up(socket_id)

    def lost(self, reason: str) -> None:
        """The connection is gone, whatever the wrapped client still believes."""
        self._lost_id = self.sio.get_sid(self.namespace)
        if self._socket_id is not None:
            self._down(reason)

    def _down(self, reason: str) -> None:
        self._socket_id = None
        self.forget()
        self._listener.link_down(reason)

    def request(self, frames: Frames, on_ack: Callable[[tuple[Any, ...]], None]) -> None:
        """Send a message and ask for its acknowledgement.

        Args:
            frames: The snapshot.
            on_ack: Called with the arguments of the acknowledgement, until `forget`.

        Raises:
            ValueError: It can never arrive by the transport that the connection has.
        """
        self._check_transport(frames)

        def acknowledged(*reply: Any) -> None:
            on_ack(reply)

        ack_id = self.sio._generate_ack_id(self.namespace, acknowledged)  # noqa: SLF001 - the public way encodes again
        self._ack_ids.append(ack_id)
        self._put(self.codec.with_id(frames, ack_id))

    def forget(self) -> None:
        """Take back the callbacks of all requests; python-socketio would keep those that are never called."""
        callbacks = self.sio.callbacks.get(self.namespace, {})
        for ack_id in self._ack_ids:
            callbacks.pop(ack_id, None)
        self._ack_ids.clear()

    def send_volatile(self, frames: Frames) -> bool:
        """Send a message if it can leave now, without asking for an acknowledgement.

        Returns:
            Whether it was sent.
        """
        self.look()
        if not self.is_up or not self._is_writable():
            return False
        self._put(self.codec.with_id(frames, None))
        return True

    def _check_transport(self, frames: Frames) -> None:
        if isinstance(frames, tuple) and len(frames) > _POLLING_LIMIT and self.sio.eio.transport() == "polling":
            raise ValueError(
                f"with {len(frames) - 1} attachments it does not pass over polling, where python-socketio's servers "
                f"drop requests of more than {_POLLING_LIMIT} packets without a word; connect with websocket"
            )

    def _put(self, frames: list[str | bytes]) -> None:
        # What `eio.send` does, a put on an unbounded queue, but at once: as a coroutine it would have to become a task
        # of its own in a timer or in an acknowledgement, where the frames of two messages could then mix.
        eio = self.sio.eio
        if eio.state != "connected":
            return
        for frame in frames:
            eio.queue.put_nowait(engineio.packet.Packet(engineio.packet.MESSAGE, data=frame))
            eio.logger.info("Sending packet MESSAGE data %s", frame if isinstance(frame, str) else "<binary>")

    def _is_writable(self) -> bool:
        eio = self.sio.eio
        if not eio.queue.empty():
            return False
        if eio.transport() != "websocket" or eio.ws is None:
            return True
        # The writer takes a packet off the queue before it writes; if it is stuck in that, the socket is full.
        socket = eio.ws.get_extra_info("socket")
        if socket is None or socket.fileno() < 0:
            return False
        if not hasattr(select, "poll"):  # Windows
            return bool(select.select([], [socket], [], 0)[1])
        poll = select.poll()
        poll.register(socket.fileno(), select.POLLOUT)
        return any(event & select.POLLOUT for _, event in poll.poll(0))
