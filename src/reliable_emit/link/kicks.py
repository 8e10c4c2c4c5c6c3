"""What to do when the server disconnects the client, which python-socketio takes for the end."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from socketio import exceptions as socketio_exceptions

if TYPE_CHECKING:
    from reliable_emit.link.keeping import Keeper
    from reliable_emit.link.rejoining import Rejoining

_logger = logging.getLogger("reliable_emit")


class Kicked(socketio_exceptions.ConnectionError):  # type: ignore[misc]  # socketio is untyped
    """The server has disconnected the client."""

    def __init__(self) -> None:
        super().__init__("the server disconnected the client")


class Kicks:
    """Has the client connect again after the server has disconnected it, if that is wanted.

    Args:
        sio: The wrapped client.
        keeper: Connects all of it again.
        rejoining: Connects one namespace again.
    """

    def __init__(self, sio: Any, keeper: Keeper, rejoining: Rejoining) -> None:
        self._sio = sio
        self._keeper = keeper
        self._rejoining = rejoining
        self._meanwhile: set[str] = set()

    def all(self) -> None:
        """The server has ended all of it."""
        keeper = self._keeper
        if not keeper.keeps:
            return
        if keeper.options.reconnect_after_kick:
            keeper.start_over(Kicked())
        else:
            _logger.info("the server disconnected the client; not connecting again, as asked for")
            keeper.rest()

    def one(self, namespace: str) -> None:
        """The server closes a namespace; told before the user's handlers are called."""
        if self._keeper.attempts.under_way:
            self._meanwhile.add(namespace)
        elif not set(self._sio.namespaces) - {namespace}:
            self.all()

    async def handled(self, namespace: str) -> None:
        """The user's handlers are through, or have raised, which keeps python-socketio from what it does then."""
        sio, keeper = self._sio, self._keeper
        if not keeper.keeps or keeper.attempts.under_way:
            return
        sio.namespaces.pop(namespace, None)
        if not sio.namespaces:
            sio.connected = False
            await sio.eio.disconnect()
            if not keeper.reconnects:
                self.all()  # a connection that was made meanwhile has just been ended with the last namespace
        elif keeper.options.reconnect_after_kick:
            self._rejoining.start(keeper.link(namespace), Kicked())

    def forget(self) -> None:
        """Another attempt is made: what became of the last one is of no interest any more."""
        self._meanwhile.clear()

    async def catch_up(self) -> None:
        """See to the namespaces that were closed while others were being connected.

        python-socketio has not noticed.

        Raises:
            Kicked: None is left.
        """
        sio, keeper = self._sio, self._keeper
        kicked, self._meanwhile = self._meanwhile, set()
        for namespace in kicked:
            sio.namespaces.pop(namespace, None)
        if kicked and not sio.namespaces:
            if not keeper.options.reconnect_after_kick:
                self.all()
            sio.connected = False
            await keeper.see_off()
            raise Kicked
        if keeper.keeps and keeper.options.reconnect_after_kick:
            for namespace in kicked:
                self._rejoining.start(keeper.link(namespace), Kicked())
