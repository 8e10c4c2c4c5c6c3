"""Hears what a wrapped client hears, and disturbs nobody."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from socketio import packet as socketio_packet

from reliable_emit.link.connecting import Connector

if TYPE_CHECKING:
    from reliable_emit.link.link import Link

_logger = logging.getLogger("reliable_emit")

_ATTRIBUTE = "_reliable_emit_tap"


class Tap:
    """What the links to the namespaces of one wrapped client share: its ear, and its connection.

    There is one handler for each Socket.IO event, so registering ours for ``connect`` would take the user's. The
    handlers of the Engine.IO client below are the wrapped client's own: we put ourselves before them and pass
    everything on.

    Attributes:
        connector: Makes the connection.
        links: By namespace.
    """

    def __init__(self, sio: Any) -> None:
        self._sio = sio
        self.links: dict[str, Link] = {}
        self.connector = Connector(sio, self.links)
        self._disconnecting: set[asyncio.Task[Any] | None] = set()
        self._message_handler = sio.eio.handlers["message"]
        self._disconnect_handler = sio.eio.handlers["disconnect"]
        sio.eio.on("message", self._on_message)
        sio.eio.on("disconnect", self._on_disconnect)

    @classmethod
    def attach(cls, sio: Any, link: Link) -> Tap:
        """Tell `link` of what happens to its namespace.

        Raises:
            ValueError: The namespace has a link already.
        """
        # Kept by the client itself, so that both are collected together when nobody has them any more.
        tap: Tap | None = getattr(sio, _ATTRIBUTE, None)
        if tap is None:
            tap = cls(sio)
            setattr(sio, _ATTRIBUTE, tap)
        if link.namespace in tap.links:
            raise ValueError(
                f"namespace {link.namespace!r} of this AsyncClient is wrapped already: two queues on one namespace "
                f"would have no common order. Use that ReliableClient, or close it first"
            )
        tap.links[link.namespace] = link
        return tap

    def detach(self, link: Link) -> None:
        """Stop telling `link`; with the last one, leave the wrapped client as it was."""
        self.links.pop(link.namespace, None)
        handlers = self._sio.eio.handlers
        if self.links or getattr(self._sio, _ATTRIBUTE, None) is not self:
            return
        if handlers["message"] == self._on_message and handlers["disconnect"] == self._on_disconnect:
            self._sio.eio.on("message", self._message_handler)
            self._sio.eio.on("disconnect", self._disconnect_handler)
            delattr(self._sio, _ATTRIBUTE)
        # Otherwise somebody has put handlers of her own before ours; this tap stays, and only passes on.

    @property
    def is_disconnecting(self) -> bool:
        """Whether a disconnect handler is at work."""
        return bool(self._disconnecting)

    def in_disconnect_handler(self) -> bool:
        """Whether the caller is the user's disconnect handler, upon whose return python-socketio waits to reconnect."""
        return bool(self._disconnecting) and asyncio.current_task() in self._disconnecting

    async def _on_message(self, data: Any) -> None:
        if self._is_kick(data):
            # The server closes a namespace. python-socketio forgets the socket id only after the user's disconnect
            # handler, which may take its time.
            self._each(lambda link: link.kicked(data))
        elif not all(link.is_up for link in self.links.values()):
            # A connect sets the socket id in the first step of the handler, before it waits for the user's: look right
            # after that step, so that a message emitted before connecting goes out before one from that handler.
            asyncio.get_running_loop().call_soon(self._look)
        try:
            await self._message_handler(data)
        finally:
            self._look()

    async def _on_disconnect(self, reason: str) -> None:
        # Before the user's handler, which then finds the truth if she asks, and which may raise.
        self._each(lambda link: link.lost(reason))
        task = asyncio.current_task()
        first = task not in self._disconnecting
        self._disconnecting.add(task)
        try:
            await self._disconnect_handler(reason)
        finally:
            if first:
                self._disconnecting.discard(task)

    def _is_kick(self, data: Any) -> bool:
        packet_class = self._sio.packet_class
        if packet_class.uses_binary_events:
            return isinstance(data, str) and data.startswith(str(socketio_packet.DISCONNECT))
        try:
            return bool(packet_class(encoded_packet=data).packet_type == socketio_packet.DISCONNECT)
        except Exception:
            return False

    def _look(self) -> None:
        self._each(lambda link: link.look())

    def _each(self, tell: Callable[[Link], None]) -> None:
        for link in tuple(self.links.values()):
            try:
                tell(link)
            except Exception:
                # The wrapped client's own handlers come after this, and have to run whatever happens here.
                _logger.exception("an error in reliable-emit; please report it")
