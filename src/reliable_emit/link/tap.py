"""Hears what a wrapped client hears, and disturbs nobody."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from socketio import packet as socketio_packet

from reliable_emit.link.connecting import Connector
from reliable_emit.link.engine import Engine
from reliable_emit.link.keeping import Keeper
from reliable_emit.link.pulse import Pulse
from reliable_emit.link.requests import Requests

if TYPE_CHECKING:
    from reliable_emit.link.link import Link

_logger = logging.getLogger("reliable_emit")

_TRAFFIC = {
    str(kind)
    for kind in (socketio_packet.EVENT, socketio_packet.ACK, socketio_packet.BINARY_EVENT, socketio_packet.BINARY_ACK)
}
_ATTRIBUTE = "_reliable_emit_tap"


class Tap:
    """What the links to the namespaces of one wrapped client share: its ear, and its connection.

    There is one handler for each Socket.IO event, so registering ours for ``connect`` would take the user's. The
    handlers of the Engine.IO client below are the wrapped client's own: we put ourselves before them and pass
    everything on.

    Attributes:
        keeper: Keeps the connection.
        connector: Makes and ends it.
        pulse: Tells whether it is alive.
        links: By namespace.
    """

    def __init__(self, sio: Any) -> None:
        self._sio = sio
        self.links: dict[str, Link] = {}
        self._engine = Engine(sio.eio)
        self.keeper = Keeper(sio, self, self._engine)
        self.connector = Connector(sio, self.links, self.keeper)
        self._requests = Requests(sio.eio)
        self.pulse = Pulse(sio, self._requests)
        # The tasks in which disconnect handlers of the user's run, and for which namespace; `None`: for all.
        self._disconnecting: dict[asyncio.Task[Any] | None, str | None] = {}
        self._quiet: asyncio.Event | None = None
        # The default protocol tells its kind of packet by the first character.
        self._is_text = sio.packet_class.decode is socketio_packet.Packet.decode
        self._connect_handler = sio.eio.handlers["connect"]
        self._message_handler = sio.eio.handlers["message"]
        self._disconnect_handler = sio.eio.handlers["disconnect"]
        sio.eio.on("connect", self._on_connect)
        sio.eio.on("message", self._on_message)
        sio.eio.on("disconnect", self._on_disconnect)
        self._engine.watch()

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
        if self.links or getattr(self._sio, _ATTRIBUTE, None) is not self:
            return
        ours = {"connect": self._on_connect, "message": self._on_message, "disconnect": self._on_disconnect}
        if all(self._sio.eio.handlers[event] == handler for event, handler in ours.items()):
            self._sio.eio.on("connect", self._connect_handler)
            self._sio.eio.on("message", self._message_handler)
            self._sio.eio.on("disconnect", self._disconnect_handler)
            self._requests.detach()
            self.pulse.detach()
            delattr(self._sio, _ATTRIBUTE)
        # Otherwise somebody has put handlers of her own before ours; this tap stays, and only passes on.

    @property
    def is_disconnecting(self) -> bool:
        """Whether a disconnect handler is at work."""
        return bool(self._disconnecting)

    def in_disconnect_handler(self, namespace: str) -> bool:
        """Whether the caller is the user's disconnect handler, and nothing arrives there before it has returned."""
        if not self._disconnecting:
            return False
        return self._disconnecting.get(asyncio.current_task(), "") in {None, namespace}

    def is_kicked(self, task: asyncio.Task[Any] | None) -> bool:
        """Whether the task is the one in which python-socketio closes a namespace because the server has."""
        return self._disconnecting.get(task) is not None

    async def quiet(self) -> None:
        """Wait until no disconnect handler is at work."""
        while self._disconnecting:
            if self._quiet is None or self._quiet.is_set():
                self._quiet = asyncio.Event()
            await self._quiet.wait()

    def recycle(self, evidence: str) -> None:
        """The connection is dead: end it, and tell everybody at once."""
        _logger.warning("the connection is recycled: %s", evidence)
        self._each(lambda link: link.recycled(evidence))
        self._engine.bury()
        self.pulse.end()

    async def _on_connect(self) -> None:
        self.keeper.attempts.engine_up()
        await self._connect_handler()

    async def _on_message(self, data: Any) -> None:
        if self._is_text and isinstance(data, str) and data[:1] in _TRAFFIC:
            # Most packets are events and acknowledgements, and none of these connects or disconnects.
            await self._message_handler(data)
            return
        kind, namespace, said = self._read(data)
        if kind == socketio_packet.DISCONNECT:
            # The server closes a namespace. python-socketio forgets the socket id only after the user's disconnect
            # handler, which may take its time.
            self._each(lambda link: link.lost("server disconnect"), namespace)
            self.keeper.kicks.one(namespace)
            await self._handle_disconnect(namespace, self._message_handler, data)
            return
        refused = kind == socketio_packet.CONNECT_ERROR and not self.keeper.attempts.rejected(namespace, said)
        connection = self._sio.eio.sid
        if kind == socketio_packet.CONNECT:
            self._engine.watch()
            self.keeper.accepted(namespace)
        if not all(link.is_up for link in self.links.values()):
            # A connect sets the socket id in the first step of the handler, before it waits for the user's: look right
            # after that step, so that a message emitted before connecting goes out before one from that handler.
            asyncio.get_running_loop().call_soon(self._look)
        try:
            await self._message_handler(data)
        finally:
            if refused and self._sio.eio.sid == connection:
                self.keeper.rejected(namespace, said)
            self._look()

    async def _on_disconnect(self, reason: str) -> None:
        # Before the user's handler, which then finds the truth if she asks, and which may raise.
        self._engine.noticed()
        if reason == self._sio.reason.CLIENT_DISCONNECT:
            self.pulse.see_out()
        self._each(lambda link: link.lost(reason))
        self.keeper.engine_lost(reason)
        await self._handle_disconnect(None, self._disconnect_handler, reason)

    async def _handle_disconnect(self, namespace: str | None, handler: Callable[[Any], Any], what: Any) -> None:
        task = asyncio.current_task()
        outer = task in self._disconnecting
        self._disconnecting.setdefault(task, namespace)
        try:
            try:
                await handler(what)
            except BaseException:
                if namespace is None:
                    self.keeper.handlers_raised()
                raise
            finally:
                if namespace is not None:
                    await self.keeper.kicks.handled(namespace)
        finally:
            if not outer:
                del self._disconnecting[task]
                if not self._disconnecting and self._quiet is not None:
                    self._quiet.set()
            self._look()

    def _read(self, data: Any) -> tuple[int | None, str, Any]:
        """Return kind, namespace and data of a packet that says something of the connection."""
        if self._is_text and not isinstance(data, str):
            return None, "/", None
        try:
            packet = self._sio.packet_class(encoded_packet=data)
        except Exception:
            return None, "/", None  # an attachment, or for python-socketio to complain about
        return packet.packet_type, packet.namespace or "/", packet.data

    def _look(self) -> None:
        self._each(lambda link: link.look())

    def _each(self, tell: Callable[[Link], None], namespace: str | None = None) -> None:
        for link in tuple(self.links.values()):
            if namespace not in {None, link.namespace}:
                continue
            try:
                tell(link)
            except Exception:
                # The wrapped client's own handlers come after this, and have to run whatever happens here.
                _logger.exception("an error in reliable-emit; please report it")
