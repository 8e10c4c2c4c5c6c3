"""What to do when the server disconnects the client, which python-socketio takes for the end."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from socketio import exceptions as socketio_exceptions

if TYPE_CHECKING:
    from reliable_emit.link.keeping import Keeper
    from reliable_emit.link.rejoining import Rejoining

_logger = logging.getLogger("reliable_emit")


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
            keeper.start_over(_kicked())
        else:
            _logger.info("the server disconnected the client; not connecting again, as asked for")
            keeper.keeps = False

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
        elif keeper.options.reconnect_after_kick:
            self._rejoining.start(keeper.link(namespace), _kicked())

    async def catch_up(self) -> None:
        """See to the namespaces that were closed while others were being connected.

        python-socketio has not noticed.

        Raises:
            socketio.exceptions.ConnectionError: None is left.
        """
        sio, keeper = self._sio, self._keeper
        kicked, self._meanwhile = self._meanwhile, set()
        left = set(sio.namespaces) - kicked
        if not kicked or not keeper.keeps:
            return
        if not keeper.options.reconnect_after_kick:
            if not left:
                self.all()
            return
        for namespace in kicked:
            sio.namespaces.pop(namespace, None)
        if not left:
            sio.connected = False
            await keeper.see_off()
            raise _kicked()
        for namespace in kicked:
            self._rejoining.start(keeper.link(namespace), _kicked())


def _kicked() -> Any:
    return socketio_exceptions.ConnectionError("the server disconnected the client")
