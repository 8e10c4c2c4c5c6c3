"""What tests over a real socket share: a server, a record of what is sent, and a clock that can be turned forward."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self, TypeVar

import engineio.packet
import socketio
import tenacity
from aiohttp import web

from reliable_emit import ReliableClient

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    import pytest

PATIENCE = 20.0
"""Seconds after which a test that waits for something has failed; nothing that works takes anywhere near as long."""

NO_ACK: Final = object()
"""What a handler of `Server` returns to send no acknowledgement."""

T = TypeVar("T")
Frame = str | bytes


async def within(awaitable: Awaitable[T]) -> T:
    """Await with a bound."""
    async with asyncio.timeout(PATIENCE):
        return await awaitable


async def settle(rounds: int = 10) -> None:
    """Let everything run that could run now, timers that are due included; nothing comes from a socket meanwhile."""
    for _ in range(rounds):
        await asyncio.sleep(0)


class Log(list[T]):
    """A list that can be waited for."""

    def __init__(self) -> None:
        super().__init__()
        self._news = asyncio.Event()

    def add(self, item: T) -> None:
        self.append(item)
        self._news.set()

    async def until(self, true: Callable[[Sequence[T]], object]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not true(self):
                self._news.clear()
                await self._news.wait()

    async def has(self, count: int) -> None:
        await self.until(lambda items: len(items) >= count)


class Clock:
    """The event loop's clock, which can be turned forward.

    A test gives timeouts of many seconds, which are never over by accident on a busy machine, and then ends them at
    once. Turning moves every timer of the loop, those of the server in the test included.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch) -> None:
        self._true_time = loop.time
        self._ahead = 0.0
        monkeypatch.setattr(loop, "time", self._time)

    def _time(self) -> float:
        return self._true_time() + self._ahead

    async def forward(self, seconds: float) -> None:
        self._ahead += seconds
        await settle()


class Received(NamedTuple):
    namespace: str
    event: str
    arguments: tuple[Any, ...]


class Server:
    """A ``socketio.AsyncServer`` on aiohttp that can be stopped, started again on the same port, and told to misbehave.

    Every start makes a new ``AsyncServer``, as a new process would; what was received and the handlers stay.

    Attributes:
        handlers: By event: called with the socket id and the arguments; what they return is acknowledged, unless it is
            `NO_ACK`. An event without one is not acknowledged.
        swallow: How many of the next events are handled but not acknowledged.
        received: The events that arrived, in order.
        frames: What Engine.IO delivered, as it came from the wire.
        connections: The socket ids, with their namespaces.
    """

    def __init__(self, *namespaces: str, **options: Any) -> None:
        self._namespaces = namespaces or ("/",)
        self._options = options
        self._runner: web.AppRunner | None = None
        self.port = 0
        self.swallow = 0
        self.received: Log[Received] = Log()
        self.frames: Log[Frame] = Log()
        self.connections: Log[tuple[str, str]] = Log()
        self.handlers: dict[str, Callable[..., Any]] = {
            "echo": lambda _sid, *arguments: arguments[0] if len(arguments) == 1 else arguments,
            "sink": lambda _sid, *_arguments: None,
            "getId": lambda sid: sid,
        }

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def arguments(self, event: str = "echo", namespace: str = "/") -> list[Any]:
        """The first argument of each event of that name, in the order of arrival."""
        return [item.arguments[0] for item in self.received if item.event == event and item.namespace == namespace]

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        # A long ping interval, so that turning the clock does not end the connection; aiohttp would be asked to wait
        # for connections that are open when it stops.
        options = {"async_mode": "aiohttp", "ping_interval": 3600, "ping_timeout": 3600, "monitor_clients": False}
        self.sio = socketio.AsyncServer(**(options | self._options))
        for namespace in self._namespaces:
            self._register(namespace)
        deliver = self.sio.eio.handlers["message"]

        async def on_frame(eio_sid: str, data: Frame) -> None:
            self.frames.add(data)
            await deliver(eio_sid, data)

        self.sio.eio.on("message", on_frame)
        app = web.Application()
        self.sio.attach(app)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await site.start()
        self.port = self._runner.addresses[0][1]

    def _register(self, namespace: str) -> None:
        async def on_connect(sid: str, _environ: object, _auth: object = None) -> None:
            self.connections.add((namespace, sid))

        async def on_event(event: str, sid: str, *arguments: Any) -> Any:
            self.received.add(Received(namespace, event, arguments))
            handler = self.handlers.get(event)
            if handler is None:
                return self.sio.not_handled
            silent = self.swallow > 0
            self.swallow -= silent
            reply = handler(sid, *arguments)
            if asyncio.iscoroutine(reply):
                reply = await reply
            return self.sio.not_handled if silent or reply is NO_ACK else reply

        self.sio.on("connect", on_connect, namespace=namespace)
        self.sio.on("*", on_event, namespace=namespace)

    def cut(self) -> None:
        """Cut all connections, as a network does: nobody says goodbye. New ones are accepted."""
        assert self._runner is not None
        assert self._runner.server is not None
        for connection in self._runner.server.connections:
            if connection.transport is not None:
                connection.transport.abort()

    async def stop(self) -> None:
        """End as a killed process does; does nothing if it has ended."""
        if self._runner is not None:
            self.cut()
            await self._runner.cleanup()
            self._runner = None

    async def restart(self) -> None:
        await self.stop()
        await self.start()


def record_wire(sio: socketio.AsyncClient) -> Log[Frame]:
    """Record what Engine.IO is given to send from now on, by whomever: each message without its leading ``4``.

    Everything passes through one queue, which lasts as long as the client.
    """
    wire: Log[Frame] = Log()
    put_nowait = sio.eio.queue.put_nowait  # `put` ends in it too

    def record(packet: engineio.packet.Packet | None) -> None:
        if packet is not None and packet.packet_type == engineio.packet.MESSAGE:
            data = packet.data
            wire.add(bytes(data) if isinstance(data, bytearray) else data)
        put_nowait(packet)

    sio.eio.queue.put_nowait = record
    return wire


class Rig:
    """A wrapped client, what it sends, and what its hooks were told.

    Attributes:
        sio: The wrapped client.
        client: The wrapper of the first namespace.
        clients: The wrappers, by namespace.
        wire: What Engine.IO was given to send.
        ups: The socket ids that the hook ``connected`` was called with.
        downs: The reasons that the hook ``disconnected`` was called with.
    """

    def __init__(
        self, url: str, namespaces: Sequence[str], sio_options: dict[str, Any], options: dict[str, Any]
    ) -> None:
        # The deviation of the pauses before reconnecting is in seconds, not a share.
        defaults = {"reconnection_delay": 0.02, "reconnection_delay_max": 0.05, "randomization_factor": 0}
        self.url = url
        self.namespaces = list(namespaces)
        self.sio = socketio.AsyncClient(**({"handle_sigint": False} | defaults | sio_options))
        self.wire = record_wire(self.sio)
        self.clients = {name: ReliableClient(self.sio, namespace=name, **options) for name in namespaces}
        self.client = self.clients[namespaces[0]]
        self.ups: Log[str] = Log()
        self.downs: Log[str] = Log()
        self.client.on("connected", self.ups.add)
        self.client.on("disconnected", self.downs.add)

    async def connect(self, **options: Any) -> None:
        """Connect as a program does that knows nothing of the wrapper."""
        given = {"namespaces": self.namespaces, "transports": ["websocket"], "wait_timeout": PATIENCE}
        await self.sio.connect(self.url, **(given | options))

    async def leave(self) -> None:
        """Disconnect by hand."""
        await self.sio.disconnect()

    @property
    def events(self) -> list[Frame]:
        """The wire without the packets that open and close namespaces."""
        return [frame for frame in self.wire if isinstance(frame, bytes) or frame[0] not in "01"]


@contextlib.asynccontextmanager
async def rig(
    server: Server | str,
    *,
    connect: bool = True,
    namespaces: Sequence[str] = ("/",),
    sio_options: dict[str, Any] | None = None,
    **options: Any,
) -> AsyncIterator[Rig]:
    """Wrap an ``AsyncClient``, without backoff unless the options of ``ReliableClient`` say otherwise."""
    url = server if isinstance(server, str) else server.url
    made = Rig(url, namespaces, sio_options or {}, {"backoff": tenacity.wait_none()} | options)
    try:
        for client in made.clients.values():
            await client.flush()  # opens the outbox: the first `emit` need not
        if connect:
            await made.connect()
        yield made
    finally:
        for client in made.clients.values():
            await client.close(timeout=0)
        await made.sio.shutdown()
        await made.sio.disconnect()
