"""Takes the place of python-socketio's own reconnection.

That is a task which ``AsyncClient.wait`` awaits, and which ``AsyncClient.shutdown`` and Ctrl-C end. What runs here in
its stead is the same to all of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from socketio import base_client

from reliable_emit.link.engine import STEP

if TYPE_CHECKING:
    from reliable_emit.link.keeping import Keeper


class Reconnection:
    """The task in which a wrapped client reconnects.

    Args:
        sio: The wrapped client.
        keeper: Does the work.

    Attributes:
        once_more: Whether the work has to be done again when it is over, because of a loss that came in between.
    """

    def __init__(self, sio: Any, keeper: Keeper) -> None:
        self._sio = sio
        self._keeper = keeper
        self.once_more = False

    def install(self) -> None:
        """Have python-socketio begin ours from now on."""
        self._sio._handle_reconnect = self._run  # noqa: SLF001 - nothing public stands between a loss and that

    def remove(self) -> None:
        """Leave the wrapped client as it was."""
        if self._sio.__dict__.get("_handle_reconnect") == self._run:
            del self._sio._handle_reconnect  # noqa: SLF001

    @property
    def is_at_work(self) -> bool:
        """Whether python-socketio's own reconnection, or ours in its place, is at work."""
        task = self._sio._reconnect_task  # noqa: SLF001 - nothing public tells
        return task is not None and not task.done()

    def start(self) -> None:
        """Begin; if it is at work, it begins anew when it is over."""
        if self.is_at_work:
            self.once_more = True
        else:
            self._sio._reconnect_task = self._sio.start_background_task(  # noqa: SLF001
                self._sio._handle_reconnect  # noqa: SLF001
            )

    def abort(self) -> None:
        """End it, as ``AsyncClient.shutdown`` does."""
        if self._sio._reconnect_abort is not None:  # noqa: SLF001
            self._sio._reconnect_abort.set()  # noqa: SLF001

    async def stop(self) -> None:
        """End it, in bounded time."""
        task = self._sio._reconnect_task  # noqa: SLF001
        if self.is_at_work and task is not asyncio.current_task():
            self.abort()
            await asyncio.wait({task}, timeout=4 * STEP)

    async def clear(self) -> None:
        """Make room for a connection that is made otherwise: end what is at work, whoever has begun it."""
        sio = self._sio
        task = sio._reconnect_task  # noqa: SLF001
        if self.is_at_work:
            await asyncio.sleep(0)  # one that has just been begun does not hear of its end before its first pause
            self.abort()
            await asyncio.wait({task}, timeout=2 * STEP)
            task.cancel()
            await asyncio.wait({task}, timeout=4 * STEP)
            while sio in base_client.reconnecting_clients:
                base_client.reconnecting_clients.remove(sio)
        sio._reconnect_task = None  # noqa: SLF001 - one that has ended would keep the next from beginning
        if sio._reconnect_abort is None:  # noqa: SLF001
            sio._reconnect_abort = sio.eio.create_event()  # noqa: SLF001
        sio._reconnect_abort.clear()  # noqa: SLF001

    async def _run(self) -> None:
        """Do what ``AsyncClient._handle_reconnect`` does, whose place it takes."""
        sio, keeper = self._sio, self._keeper
        if keeper.is_users:
            keeper.release()
            await sio._handle_reconnect()  # noqa: SLF001
            return
        try:
            if keeper.keeps and not keeper.attempts.under_way:  # an attempt that is under way sees to it
                base_client.reconnecting_clients.append(sio)
                try:
                    await self._unless_aborted(keeper.again())
                finally:
                    base_client.reconnecting_clients.remove(sio)
        except asyncio.CancelledError:
            # `AsyncClient.wait` awaits this task, so whoever cancels that cancels it. Not at once, because a program
            # that ends cancels all its tasks, and wants no new ones.
            if not sio._reconnect_abort.is_set():  # noqa: SLF001
                asyncio.get_running_loop().call_later(STEP, self._resume)
            raise
        finally:
            aborted = sio._reconnect_abort.is_set()  # noqa: SLF001
            sio._reconnect_abort.clear()  # noqa: SLF001
            if sio._reconnect_task is asyncio.current_task():  # noqa: SLF001
                sio._reconnect_task = None  # noqa: SLF001
                if self.once_more and keeper.keeps and not aborted:
                    self.start()

    def _resume(self) -> None:
        keeper = self._keeper
        if keeper.keeps and not self.is_at_work and not keeper.attempts.under_way and not keeper.is_connected():
            self.start()

    async def _unless_aborted(self, work: Coroutine[Any, Any, None]) -> None:
        keeper = self._keeper
        working = asyncio.ensure_future(work)
        aborted = asyncio.ensure_future(self._sio._reconnect_abort.wait())  # noqa: SLF001
        try:
            await asyncio.wait({working, aborted}, return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                keeper.rest()
        finally:
            aborted.cancel()
            if not working.done():
                working.cancel()
                await asyncio.wait({working}, timeout=8 * STEP)
        if not working.cancelled() and working.done():
            working.result()
        if not keeper.keeps:
            for namespace in keeper.arguments["namespaces"]:
                await self._sio._trigger_event("__disconnect_final", namespace=namespace)  # noqa: SLF001
