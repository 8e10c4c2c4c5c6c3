"""Connects one namespace again on a connection that stands, because others are connected on it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from socketio import exceptions as socketio_exceptions
from socketio import packet as socketio_packet

from reliable_emit.link.streak import Streak

if TYPE_CHECKING:
    from reliable_emit.errors import ConnectionRejected
    from reliable_emit.link.keeping import Keeper
    from reliable_emit.link.link import Link


class Rejoining:
    """Asks the server for single namespaces, until it gives them.

    Args:
        sio: The wrapped client.
        keeper: Knows how.
    """

    def __init__(self, sio: Any, keeper: Keeper) -> None:
        self._sio = sio
        self._keeper = keeper
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._streaks: dict[str, Streak] = {}
        self._answers: dict[str, asyncio.Future[ConnectionRejected | None]] = {}

    def start(self, link: Link | None, error: Exception) -> None:
        """Connect the namespace of a link again, which is not connected because of that error."""
        if link is None or link.namespace in self._tasks:
            return
        task = self._tasks[link.namespace] = asyncio.ensure_future(self._join(link, error))

        def over(_: object) -> None:
            if self._tasks.get(link.namespace) is task:
                del self._tasks[link.namespace]

        task.add_done_callback(over)

    def stop(self) -> None:
        """Stop asking: the connection is lost, or not wanted any more."""
        for task in self._tasks.values():
            task.cancel()
        self._tasks.clear()

    def answered(self, namespace: str, rejected: ConnectionRejected | None) -> bool:
        """Note the server's answer, and return whether anybody waits for it."""
        answer = self._answers.get(namespace)
        if answer is not None and not answer.done():
            answer.set_result(rejected)
        return answer is not None

    async def _join(self, link: Link, error: Exception) -> None:
        sio, keeper, attempt = self._sio, self._keeper, 0
        streak = self._streaks.setdefault(link.namespace, Streak())
        streak.lost()
        while not keeper.options.is_final(error):
            attempt += 1
            await keeper.pause(error, [link], streak.next())
            if link.is_closed or not keeper.keeps or link.namespace in sio.namespaces:
                return
            link.connecting(attempt)
            try:
                rejected = await self._ask(link.namespace)
            except TimeoutError:
                error = socketio_exceptions.ConnectionError("no answer to the request for the namespace")
            except Exception as caught:
                keeper.complain(caught)
                error = caught
            else:
                if rejected is None:
                    streak.made()
                    return
                error = rejected
        keeper.give_up(error, [link])

    async def _ask(self, namespace: str) -> ConnectionRejected | None:
        sio, arguments = self._sio, self._keeper.arguments
        auth = await sio._get_real_value(arguments["auth"])  # noqa: SLF001 - as for the first request
        packet = sio.packet_class(socketio_packet.CONNECT, data=auth or {}, namespace=namespace)
        answer = self._answers[namespace] = asyncio.get_running_loop().create_future()
        try:
            await sio._send_packet(packet)  # noqa: SLF001
            return await asyncio.wait_for(answer, arguments["wait_timeout"])
        finally:
            del self._answers[namespace]
