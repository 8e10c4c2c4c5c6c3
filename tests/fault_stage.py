"""Where a fault is tried: a server, a proxy before it, a client that sends all the time, and what became of that.

The client is one of two: ours, and a plain ``AsyncClient`` with the retries by hand of the Socket.IO tutorial.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import sqlite3
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, Self

import pytest
import socketio

from fault_server import ServerProcess
from reliable_emit import ReliableClient
from reliable_emit.server import ReferenceServer
from reliable_emit.testing import FaultProxy
from support import Clock

if TYPE_CHECKING:
    from collections.abc import Awaitable
    from pathlib import Path

    from reliable_emit import Delivery

EVENT = "chat message"
PING = 2.0
"""Seconds, both for the interval and for the timeout of the heartbeat."""
ACK_TIMEOUT = 1.0
EVERY = 0.1
"""Seconds from one message to the next."""
_BEFORE = _AFTER = 5
"""Messages that are acknowledged before the fault, and that are emitted when sending has resumed."""
_PATIENCE = 20.0
_LEAVING = 3.0
_ONLY_NEW = {"serverOffset": 2**62}  # nobody here reads what the others have said

Url = str | Callable[[], str]


class Side(Protocol):
    """A client.

    Attributes:
        sio: The ``AsyncClient``.
        acknowledged: When, by the event loop's clock, each text was.
        pausing: Whether it only waits for its next attempt to connect, as far as that is known.
    """

    sio: socketio.AsyncClient
    acknowledged: dict[str, float]

    @property
    def pausing(self) -> bool: ...

    async def connect(self, url: Url, transports: list[str]) -> None: ...

    async def emit(self, text: str) -> None:
        """Send a text, sooner or later."""

    async def close(self) -> None:
        """End in bounded time."""


class Ours:
    """A ``ReliableClient``, with the defaults but for the timeout that is scaled."""

    def __init__(self) -> None:
        self.sio = socketio.AsyncClient(handle_sigint=False)
        self.client = ReliableClient(self.sio, client_offset=True, ack_timeout=ACK_TIMEOUT)
        self.client.on("acknowledged", self._on_acknowledged)
        self.acknowledged: dict[str, float] = {}
        self._texts: dict[str, str] = {}

    @property
    def pausing(self) -> bool:
        return self.client.state.next_in is not None

    async def connect(self, url: Url, transports: list[str]) -> None:
        await self.client.connect(url, auth=_ONLY_NEW, transports=transports)

    async def emit(self, text: str) -> None:
        delivery = await self.client.emit(EVENT, text)
        self._texts[delivery.offset] = text

    def _on_acknowledged(self, delivery: Delivery) -> None:
        self.acknowledged[self._texts[delivery.offset]] = asyncio.get_running_loop().time()

    async def close(self) -> None:
        await self.client.close(timeout=0)


class Plain:
    """An ``AsyncClient`` with its defaults, and the tutorial's loop: emit, wait for the ack, and if none comes, again.

    It pauses between two attempts, without which it would be a busy loop while there is no connection.
    """

    def __init__(self) -> None:
        self.sio = socketio.AsyncClient(handle_sigint=False)
        self.acknowledged: dict[str, float] = {}
        self._waiting: asyncio.Queue[str] = asyncio.Queue()
        self._sending = asyncio.ensure_future(self._send_all())

    @property
    def pausing(self) -> bool:
        return False

    async def connect(self, url: Url, transports: list[str]) -> None:
        await self.sio.connect(url, auth=_ONLY_NEW, transports=transports)

    async def emit(self, text: str) -> None:
        self._waiting.put_nowait(text)

    async def _send_all(self) -> None:
        while True:
            text = await self._waiting.get()
            await self._send(text, offset=text)
            self.acknowledged[text] = asyncio.get_running_loop().time()

    async def _send(self, text: str, offset: str) -> None:
        while True:
            try:
                await self.sio.call(EVENT, (text, offset), timeout=ACK_TIMEOUT)
            except Exception:
                await asyncio.sleep(EVERY)
            else:
                return

    async def close(self) -> None:
        self._sending.cancel()
        # Either may hang: it waits for a write that is stuck.
        for end in (self.sio.shutdown, self.sio.disconnect):
            with contextlib.suppress(Exception):
                await asyncio.wait_for(end(), _LEAVING)
        if self.sio.eio.http is not None:
            await self.sio.eio.http.close()


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of the messages.

    Attributes:
        seconds: From when it was possible again until a message was acknowledged that was emitted after the fault;
            ``None``: never.
        emitted: The texts, in order.
        stored: Those that the server has, in its order.
    """

    seconds: float | None
    emitted: list[str]
    stored: list[str]

    @property
    def lost(self) -> int:
        return len(set(self.emitted) - set(self.stored))


class Stage:
    """See above; ``async with`` ends everything.

    Attributes:
        side: The client.
        proxy: Through which it is connected, unless `begin` was given another URL.
        server: What it talks to; see `serve` for another one.
        process: Likewise, if it is a process.
        admit: Asked about each new connection.
        clock: Turns the time of the loop, once `turn` was called.
        evidence: Whether the fault has happened, asked at the end; every scenario says how it shows.
    """

    proxy: FaultProxy
    server: ReferenceServer

    def __init__(self, side: Callable[[], Side], directory: Path, ping: tuple[float, float] = (PING, PING)) -> None:
        self.side = side()
        self.evidence: Callable[[], bool] = lambda: False
        self._ping_interval, self._ping_timeout = ping
        self.process: ServerProcess | None = None
        self.clock: Clock | None = None
        self.admit: Callable[[], Awaitable[bool]] = self._admit_all
        self._db = directory / "chat.db"
        self._ends = contextlib.AsyncExitStack()
        self._emitted: list[str] = []
        self._enough = asyncio.Event()
        self._emitting: asyncio.Task[None] | None = None
        self._first = 0
        self._well_at: float | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._enough.set()
        if self._emitting is not None:
            await self._emitting
        if hasattr(self, "proxy"):
            self.proxy.heal()
            self.proxy.reset()
        await self.side.close()
        await self._ends.aclose()

    # Setting up.

    @staticmethod
    async def _admit_all() -> bool:
        return True

    async def _authenticate(self, _auth: object, _environ: object) -> str | None:
        return "somebody" if await self.admit() else None

    async def serve(self, port: int = 0, prepare: Callable[[ReferenceServer], object] = lambda _: None) -> None:
        """Start a server; all of them have the same database."""
        self.server = ReferenceServer(
            self._db,
            port=port,
            ping_interval=self._ping_interval,
            ping_timeout=self._ping_timeout,
            synchronous="normal",
            authenticate=self._authenticate,
        )
        prepare(self.server)
        await self._ends.enter_async_context(self.server)

    async def serve_in_process(self) -> ServerProcess:
        """Start a server that can be killed."""
        process = ServerProcess(self._db, PING)
        self._ends.push_async_callback(process.kill)
        await process.start()
        return process

    async def begin(self, url: Url | None = None, transports: str = "websocket") -> None:
        """Connect, and send; returns when some messages have been acknowledged."""
        if url is None:
            await self.through_proxy()
            url = self.proxy.url
        await self.side.connect(url, [transports])
        self._emitting = asyncio.create_task(self._emit())
        if not await self._until(lambda: len(self.side.acknowledged) >= _BEFORE, self._now + _PATIENCE):
            raise AssertionError("nothing was acknowledged, and there is no fault yet")

    async def through_proxy(self) -> None:
        """Start the proxy, and the server, if there is none."""
        if not hasattr(self, "server"):
            await self.serve()
        self.proxy = await self._ends.enter_async_context(FaultProxy("127.0.0.1", self.server.port))

    def turn(self) -> Clock:
        """Let the loop's clock be turned until the end."""
        patch = self._ends.enter_context(pytest.MonkeyPatch.context())
        self.clock = Clock(asyncio.get_running_loop(), patch)
        return self.clock

    # Playing.

    def broken(self) -> None:
        """The fault begins; what was emitted before does not show that sending has resumed."""
        self._first = len(self._emitted)
        self._well_at = None

    def well(self) -> None:
        """From now on it is possible to send; if this is never called, from when the fault has been played."""
        self._well_at = self._now

    async def outcome(self, watch: float) -> Outcome:
        """Watch for so many seconds, and on while messages come through, or until all are acknowledged."""
        if self._well_at is None:
            self.well()
        assert self._well_at is not None
        deadline = self._well_at + watch
        acknowledged = self.side.acknowledged
        seconds = None
        if await self._until(lambda: self._resumed() is not None, deadline):
            seconds = max(0.0, (self._resumed() or 0.0) - self._well_at)
            self.clock = None
            enough = len(self._emitted) + _AFTER
            await self._until(lambda: len(self._emitted) >= enough, deadline)
        self._enough.set()
        while (through := len(acknowledged)) < len(self._emitted):
            # Hours of messages take their time on a busy machine.
            if not await self._until(lambda: len(acknowledged) > through, max(deadline, self._now + 2 * ACK_TIMEOUT)):
                break
        with contextlib.closing(sqlite3.connect(self._db)) as db:
            stored = [text for (text,) in db.execute("SELECT content FROM messages ORDER BY id")]
        return Outcome(seconds, list(self._emitted), stored)

    def _resumed(self) -> float | None:
        times = self.side.acknowledged
        return next((times[text] for text in self._emitted[self._first :] if text in times), None)

    @property
    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    async def _emit(self) -> None:
        while not self._enough.is_set():
            text = f"message {len(self._emitted)}"
            self._emitted.append(text)
            await self.side.emit(text)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._enough.wait(), EVERY)

    async def _until(self, true: Callable[[], Any], deadline: float) -> bool:
        while not true():
            if self._now > deadline:
                return False
            # What takes real time, such as an attempt to connect, takes as much of the clock.
            if self.clock is not None and self.side.pausing:
                await self.clock.forward(0.05)
            await asyncio.sleep(0.01)
        return True
