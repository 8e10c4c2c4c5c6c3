"""An event loop in a thread of its own, so that a test need not be a coroutine, nor know whose loop it runs in."""

from __future__ import annotations

import asyncio
import inspect
import threading
from typing import TYPE_CHECKING, Any, Self, TypeVar

from reliable_emit.server import ReferenceServer

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from reliable_emit.server import Faults, StoredMessage

_T = TypeVar("_T")
# Seconds that anything may take to start or stop.
_PATIENCE = 30.0
_IN_MEMORY = ":memory:"


class Background:
    """Runs an event loop in a daemon thread, from entering to leaving the ``with`` block."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="reliable_emit.testing", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_PATIENCE)

    def _run(self) -> None:
        # As `asyncio.run` ends: what is left is cancelled, and the loop closed.
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.get_loop().run_forever()

    def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Run a coroutine there and return its result, in bounded time; not to be called from that thread."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_PATIENCE)

    async def carry(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Run a coroutine there, awaited in any loop."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))


class RunningServer:
    """A reference server in another thread, for a test; what is awaited may be awaited in any event loop.

    Args:
        background: Where it runs.
        options: The arguments of :class:`~reliable_emit.server.ReferenceServer`.
    """

    def __init__(self, background: Background, options: dict[str, Any]) -> None:
        self._background = background
        self._options = options
        self._server = background.run(self._started(options))

    @staticmethod
    async def _started(options: dict[str, Any]) -> ReferenceServer:
        server = ReferenceServer(**options)
        await server.start()
        return server

    @property
    def url(self) -> str:
        """Where clients connect to, past any proxy."""
        return self._server.url

    @property
    def port(self) -> int:
        """The port it listens on, the same after `restart`."""
        return self._server.port

    @property
    def faults(self) -> Faults | None:
        """As given in the options."""
        return self._server.faults

    async def messages(self) -> list[StoredMessage]:
        """Return all that is stored, in the order of the ids."""
        return await self._background.carry(self._server.messages())

    async def restart(self, between: Callable[[], object] | None = None) -> None:
        """Stop it, and start another on the same port and database.

        Args:
            between: Called while there is none, in the thread of the server.

        Raises:
            ValueError: The database is in memory, and would be lost.
            TypeError: `between` cannot be called, or is a coroutine function.
        """
        if str(self._options.get("db", _IN_MEMORY)) == _IN_MEMORY:
            raise ValueError(f"db is {_IN_MEMORY!r}, which ends with the server; give the path of a file to restart it")
        if between is not None and (not callable(between) or inspect.iscoroutinefunction(between)):
            raise TypeError(f"between is {between!r}; give a function that returns at once, no coroutine function")
        await self._background.carry(self._restart(between))

    async def _restart(self, between: Callable[[], object] | None) -> None:
        port = self._server.port
        await self._server.stop()
        if between is not None:
            between()
        self._server = await self._started(self._options | {"port": port})

    def stop(self) -> None:
        """Stop it; takes 2 seconds at the most."""
        self._background.run(self._server.stop())
