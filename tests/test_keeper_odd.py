"""Servers and middleboxes that answer oddly, and arguments that cannot work."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import struct
import warnings
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
import socketio
from aiohttp import web

from keeper_support import QUICK, kept, works
from support import Log, Server, within

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@contextlib.asynccontextmanager
async def middlebox(port: int) -> AsyncIterator[str]:
    """What resets every connection on which a WebSocket is asked for, and lets the others pass."""
    tasks: set[asyncio.Task[Any]] = set()

    async def there(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, back: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            if b"upgrade: websocket" in data.lower():
                back.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                back.transport.abort()
                break
            writer.write(data)
        writer.close()

    async def here(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
        writer.close()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        upstream, downstream = await asyncio.open_connection("127.0.0.1", port)
        with contextlib.suppress(OSError, asyncio.CancelledError):
            await asyncio.gather(there(reader, downstream, writer), here(upstream, writer))
        tasks.discard(task)
        for each in (writer, downstream):
            each.transport.abort()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in tuple(tasks):
            task.cancel()


async def test_polling_is_the_way_where_websockets_are_reset(server: Server) -> None:
    async with middlebox(server.port) as url, kept(url, connect={"transports": None}) as it:
        assert it.sio.transport() == "polling"
        assert len(it.attempts) == 1
        await works(it)


@contextlib.asynccontextmanager
async def half_a_server(answer: str) -> AsyncIterator[str]:
    """What speaks HTTP, and maybe WebSocket, and then says nothing that makes sense."""

    async def handle(request: web.Request) -> web.StreamResponse:
        if answer == "websocket closed at once" and "upgrade" in request.headers:
            response = web.WebSocketResponse()
            await response.prepare(request)
            await response.close()
            return response
        return web.Response(body={"empty": b"", "a digit": b"0", "no session": b"0{}"}.get(answer, b"<html>"))

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@pytest.mark.parametrize("transports", [None, "polling", "websocket"])
@pytest.mark.parametrize("answer", ["empty", "a digit", "no session", "a page", "websocket closed at once"])
async def test_the_first_connect_waits_for_a_server_that_is_half_up(
    server: Server, answer: str, transports: str | None
) -> None:
    async with half_a_server(answer) as wrong, kept(None) as it:
        urls = [wrong, wrong]

        def url() -> str:
            return urls.pop(0) if urls else server.url

        await within(it.client.connect(url, **(QUICK | {"transports": transports})))
        await works(it)


@pytest.mark.parametrize("transport", ["websocket", "polling"])
async def test_an_auth_that_cannot_be_encoded_raises_at_the_call(server: Server, transport: str) -> None:
    options = QUICK | {"transports": transport}
    async with kept(None) as it:
        with pytest.raises(TypeError, match="auth cannot be encoded: Object of type object"):
            await within(it.client.connect(server.url, auth={"token": object()}, **options))
        assert len(it.attempts) == 0
        with pytest.raises(TypeError, match="auth cannot be encoded"):
            await within(it.client.connect(server.url, auth=lambda: {"token": object()}, **options))
        assert len(it.attempts) == 1
        await within(it.client.connect(server.url, auth=lambda: {"token": "fine"}, **options))
        await works(it)


@pytest.mark.parametrize("transports", ["pigeon", ["websocket", "pigeon"]])
async def test_a_transport_that_does_not_exist_raises_at_the_call(server: Server, transports: Any) -> None:
    async with kept(None) as it:
        with pytest.raises(ValueError, match="'pigeon'; there are"):
            await within(it.client.connect(server.url, transports=transports))
        assert len(it.attempts) == 0


@pytest.mark.parametrize("how", ["a dict", "a function with the same dict each time", "the options of WebSockets"])
async def test_headers_are_sent_at_every_connection(server: Server, how: str) -> None:
    """Engine.IO takes what it needs out of the dict it is given."""
    sent: Log[Any] = Log()

    async def on_connect(_sid: str, environ: dict[str, Any], _auth: object = None) -> None:
        sent.add((environ.get("HTTP_COOKIE"), environ.get("HTTP_X_TOKEN")))

    server.sio.on("connect", on_connect)
    headers = {"Cookie": "a=1", "X-Token": "secret"}
    given: Any = {"a dict": headers, "a function with the same dict each time": lambda: headers}.get(how)
    sio = socketio.AsyncClient(
        handle_sigint=False, websocket_extra_options={"headers": headers} if given is None else None
    )
    async with kept(server, sio=sio, connect={"headers": given}) as it:
        for times in (2, 3):
            server.cut()
            await it.ups.has(times)
        assert list(sent) == [("a=1", "secret")] * 3


@pytest.mark.filterwarnings("ignore:Exception ignored in")  # the oldest aiohttp fails in a destructor of its own
async def test_an_attempt_that_failed_leaves_no_connection_in_a_session_of_the_users(server: Server) -> None:
    """engineio leaves it in a local variable of what has failed, and the error that holds it is kept for a while."""
    opened = 0

    async def handle(request: web.Request) -> web.StreamResponse:
        nonlocal opened
        opened += 1
        response = web.WebSocketResponse()
        await response.prepare(request)
        await response.send_str("4nonsense")
        await response.receive()
        return response

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    gc.disable()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        wrong = f"http://127.0.0.1:{runner.addresses[0][1]}"
        async with aiohttp.ClientSession() as session:
            sio = socketio.AsyncClient(handle_sigint=False, http_session=session)
            async with kept(None, sio=sio) as it:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", ResourceWarning)  # aiohttp's, when it goes
                    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
                    with pytest.raises(socketio.exceptions.ConnectionError, match="no OPEN packet"):
                        await within(it.client.connect(wrong, retry=False, **QUICK))
                assert opened == 1
                assert session.connector is not None
                assert not session.connector._acquired
    finally:
        gc.enable()
        await runner.cleanup()
