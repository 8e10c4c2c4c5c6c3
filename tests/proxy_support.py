"""What the tests of the proxy share: servers on real sockets, and streams through the proxy."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import aiohttp
from aiohttp import web

from support import Log, within

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from reliable_emit.testing import FaultProxy


class Stream(NamedTuple):
    """One end of a connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await within(self.writer.drain())

    async def get(self, size: int) -> bytes:
        return await within(self.reader.readexactly(size))

    async def rest(self) -> bytes:
        """What comes until the end of the stream."""
        return await within(self.reader.read(-1))

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(OSError):
            await within(self.writer.wait_closed())

    def silent(self) -> bool:
        """Whether nothing has come, no end either. Ask when whatever could have come has."""
        return not self.reader.at_eof() and self.reader.exception() is None and not self.reader._buffer  # type: ignore[attr-defined]


class TcpServer:
    """Keeps its ends of connections, for the test to use.

    Attributes:
        streams: In the order of the connections.
    """

    def __init__(self) -> None:
        self.streams: Log[Stream] = Log()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(lambda *ends: self.streams.add(Stream(*ends)), "127.0.0.1", 0)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for stream in self.streams:
            stream.writer.transport.abort()
        await within(self._server.wait_closed())


@contextlib.asynccontextmanager
async def dialed(proxy: FaultProxy) -> AsyncIterator[Stream]:
    """The client's end of a connection to the proxy."""
    stream = Stream(*await within(asyncio.open_connection("127.0.0.1", proxy.port)))
    try:
        yield stream
    finally:
        stream.writer.transport.abort()
        with contextlib.suppress(OSError):
            await within(stream.writer.wait_closed())


@contextlib.asynccontextmanager
async def joined(proxy: FaultProxy, server: TcpServer) -> AsyncIterator[tuple[Stream, Stream]]:
    """Both ends of a connection through the proxy, the client's first."""
    before = len(server.streams)
    async with dialed(proxy) as client:
        await server.streams.has(before + 1)
        await proxy.connected(before + 1)
        there = server.streams[before]
        try:
            yield client, there
        finally:
            there.writer.transport.abort()


class WebSocketServer:
    """Remembers the messages it gets at ``/ws``, and answers each with as many bytes; ``/`` is plain HTTP.

    Attributes:
        messages: What came.
    """

    def __init__(self) -> None:
        self.messages: Log[bytes] = Log()

    async def _on_websocket(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(compress=False, max_msg_size=0)
        await socket.prepare(request)
        async for message in socket:
            self.messages.add(message.data)
            await socket.send_bytes(b"r" * len(message.data))
        return socket

    async def _on_request(self, request: web.Request) -> web.Response:
        # A body that looks like the beginning of a WebSocket is none.
        body = await request.read()
        return web.Response(body=body or b"HTTP/1.1 101 Switching Protocols\r\n\r\n\x81\x01a")

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_get("/ws", self._on_websocket)
        app.router.add_route("*", "/", self._on_request)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.port: int = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._runner.server is not None
        for connection in self._runner.server.connections:
            if connection.transport is not None:
                connection.transport.abort()
        await self._runner.cleanup()


@contextlib.asynccontextmanager
async def websocket(url: str, **options: Any) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(f"{url}/ws", max_msg_size=0, timeout=aiohttp.ClientWSTimeout(ws_close=0.1), **options) as ws,
    ):
        yield ws
