"""One attempt to connect: bounded, and nothing is left of it when it fails."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import traceback
import types
from collections.abc import Callable
from typing import Any

from socketio import exceptions as socketio_exceptions

from reliable_emit.errors import ConnectionRejected
from reliable_emit.link.engine import STEP, Engine
from reliable_emit.link.reason import speaks_no_websocket


class Attempts:
    """Makes attempts to connect, one at a time.

    Args:
        sio: The wrapped client.
        engine: Ends what an attempt has begun.
    """

    def __init__(self, sio: Any, engine: Engine) -> None:
        self._sio = sio
        self._engine = engine
        self._connecting: asyncio.Task[None] | None = None
        self._bound: asyncio.Timeout | None = None
        self._longer = 0.0
        self._lost = asyncio.Event()
        self._rejected: dict[str, Any] = {}
        # Where the user has no say, websocket comes first. After no answer at all to that, polling does, once.
        self._polling_first = False
        self._fallback = ["polling", "websocket"]
        self.users_error: Exception | None = None
        self._extra_headers: Any = {}

    @property
    def is_current(self) -> bool:
        """Whether the caller runs as part of an attempt."""
        task = asyncio.current_task()
        return task is not None and (task is self._connecting or self._engine.is_ending(task))

    @property
    def under_way(self) -> bool:
        """Whether an attempt is being made."""
        return self._connecting is not None

    async def make(self, arguments: dict[str, Any]) -> None:
        """Connect.

        Args:
            arguments: Those of ``AsyncClient.connect``; without `transports`, websocket is tried, and polling if there
                is something else than a WebSocket server.

        Raises:
            ConnectionRejected: The server refused a namespace.
            Exception: What else ``AsyncClient.connect`` raises, or what a function of the user's raised.
        """
        if arguments["transports"] is not None:
            await self._make(arguments)
            return
        polling, self._polling_first = self._polling_first, False
        if not polling:
            try:
                await self._make(arguments | {"transports": ["websocket"]})
            except TimeoutError:
                self._polling_first = True
                raise
            except Exception as error:
                if self.users_error is not None or self._rejected or not speaks_no_websocket(error):
                    raise
            else:
                return
        upgrade = self._fallback
        try:
            await self._make(arguments | {"transports": upgrade})
        except TimeoutError:
            if self._longer == 0 and len(upgrade) > 1:  # polling works, but for the upgrade
                self._fallback, self._polling_first = ["polling"], True
            raise

    async def _make(self, arguments: dict[str, Any]) -> None:
        self._rejected.clear()
        self._lost.clear()
        # engineio takes them out at the first connection.
        self._extra_headers = self._sio.eio.websocket_extra_options.setdefault("headers", self._extra_headers)
        self.users_error = None
        patience: float = arguments["wait_timeout"]
        self._longer = patience * (1 + len(arguments["namespaces"]))
        connecting = self._connecting = asyncio.ensure_future(self._sio.connect(**arguments))
        lost = asyncio.ensure_future(self._lost.wait())
        succeeded = False
        try:
            # `AsyncClient.connect` bounds the wait for the namespaces alone.
            async with asyncio.timeout(patience) as self._bound:
                await asyncio.wait({connecting, lost}, return_when=asyncio.FIRST_COMPLETED)
            self._check(connecting)
            succeeded = True
        except TimeoutError as error:
            if self._bound is None or not self._bound.expired():
                raise
            raise TimeoutError(f"no answer within {patience:g} s") from error
        except Exception:
            if self.users_error is not None:
                raise self.users_error from None
            raise
        finally:
            lost.cancel()
            self._bound = None
            if not succeeded:
                await self._take_back(connecting)
            self._connecting = None

    def _check(self, connecting: asyncio.Task[None]) -> None:
        if self._rejected:
            raise ConnectionRejected(*next(iter(self._rejected.items())))
        if connecting.done():
            connecting.result()
        # Engine.IO calls itself connected until the disconnect handlers have returned.
        if not connecting.done() or self._lost.is_set() or self._sio.eio.state != "connected":
            raise socketio_exceptions.ConnectionError("the connection was lost while it was made")

    # What is heard meanwhile.

    def engine_up(self) -> None:
        """Engine.IO is connected: what remains is an upgrade, maybe, and the namespaces."""
        if self._bound is not None and self._longer:
            self._reschedule(self._bound, asyncio.get_running_loop().time() + self._longer)
            self._longer = 0.0

    def engine_lost(self) -> None:
        """The connection is gone."""
        if not self.is_current:
            self._lost.set()

    def rejected(self, namespace: str, said: Any) -> bool:
        """The server refuses a namespace; return whether an attempt is to blame."""
        if self._connecting is None:
            return False
        self._rejected[namespace] = said
        return True

    def guarded(self, given: Any, use: Callable[[Any], Any] = lambda value: value) -> Any:
        """Remember what a function of the user's raises: that is no failure of the network, and takes its own time.

        Args:
            given: The function, or the value itself.
            use: What is made of the value; if that raises, the user is to blame as well.
        """
        if not callable(given):
            return use(given)

        async def call() -> Any:
            bound, left = self._bound, None
            now = asyncio.get_running_loop().time
            if bound is not None and (when := bound.when()) is not None:
                left = when - now()
                self._reschedule(bound, None)
            try:
                result = given()
                result = use(await result if inspect.isawaitable(result) else result)
            except Exception as error:
                self.users_error = error
                self._lost.set()  # not every release of engineio ends it
                raise
            if bound is not None and left is not None:
                self._reschedule(bound, now() + left)
            return result

        return call

    def _reschedule(self, bound: asyncio.Timeout, when: float | None) -> None:
        if bound is self._bound and not bound.expired():
            bound.reschedule(when)

    # Ending.

    async def _take_back(self, connecting: asyncio.Task[None]) -> None:
        sio, eio = self._sio, self._sio.eio
        if not connecting.done():
            if eio.state == "disconnected" and eio.http is not None and not eio.external_http:
                # Cancelled in the middle of a handshake, engineio would leave the connection to the garbage collector.
                # It ends by itself when its session is closed.
                await eio.http.close()
                await asyncio.wait({connecting}, timeout=STEP)
            connecting.cancel()
            await asyncio.wait({connecting}, timeout=STEP)
        if connecting.done() and not connecting.cancelled():
            _let_go(connecting.exception())
        await self._engine.end()
        sio.connected = False
        sio.namespaces = {}


def _let_go(error: BaseException | None) -> None:
    """Have the connection go that an error holds: engineio leaves it in a local variable of what has failed."""
    while error is not None:
        for frame in _engineio_frames(error):
            with contextlib.suppress(RuntimeError):  # it is running
                frame.clear()
        error = error.__cause__ or error.__context__


def from_engineio(error: BaseException) -> bool:
    """Whether it has come through engineio."""
    return any(_engineio_frames(error))


def _engineio_frames(error: BaseException) -> list[types.FrameType]:
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return [frame for frame in frames if str(frame.f_globals.get("__name__")).startswith("engineio.")]
