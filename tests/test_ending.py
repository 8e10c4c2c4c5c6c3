"""Flushing and closing end in bounded time and say what remains, whatever the network does."""

from __future__ import annotations

import asyncio
import gc
import socket
import threading
import time
from collections.abc import AsyncIterator

import pytest
import socketio

from reliable_emit import ClientClosed, DeliveryFailed, FlushTimeout, MemoryOutbox, ReliableClient
from support import NO_ACK, PATIENCE, Clock, Server, rig, settle, within

BOUND = 5.0
"""Seconds; what ends in bounded time here is given one second or less, and the machine may be busy."""


def wrap(**options: object) -> ReliableClient:
    return ReliableClient(socketio.AsyncClient(handle_sigint=False), **options)  # type: ignore[arg-type]


@pytest.fixture
async def frozen() -> AsyncIterator[str]:
    """A server that accepts websockets and then neither reads nor writes, as one stopped with SIGSTOP."""
    async with Server() as server:
        transports = []

        async def freeze(_sid: str) -> object:
            assert server._runner is not None
            assert server._runner.server is not None
            for connection in server._runner.server.connections:
                assert connection.transport is not None
                connection.transport.pause_reading()
                transports.append(connection.transport)
            return NO_ACK

        server.handlers["freeze"] = freeze
        yield server.url
        for transport in transports:
            transport.abort()


async def test_flush_waits_for_what_was_accepted_before_it_only(server: Server) -> None:
    server.handlers["slow"] = lambda _sid: NO_ACK
    async with rig(server) as it:
        await it.client.emit("echo", 1)
        await it.client.emit("echo", 2)
        flush = asyncio.ensure_future(it.client.flush())
        await settle(1)
        after = await it.client.emit("slow")
        await within(flush)
        assert not after.done()


async def test_flush_counts_what_is_given_up_as_settled(server: Server) -> None:
    async with rig(server, connect=False) as it:
        first, second = [await it.client.emit("echo", n) for n in range(2)]
        flush = asyncio.ensure_future(it.client.flush())
        await settle(1)
        second.cancel()
        await settle()
        assert not flush.done()
        first.cancel()
        await within(flush)


async def test_flush_says_what_remains(server: Server) -> None:
    async with rig(server, connect=False) as it:
        await it.client.emit("echo")
        with pytest.raises(FlushTimeout, match="1 message is still pending: in the memory of this process") as caught:
            await it.client.flush(timeout=0)
        assert caught.value.pending == 1
        assert isinstance(caught.value, TimeoutError)
        await it.client.emit("echo")
        with pytest.raises(FlushTimeout, match="2 messages are"):
            await it.client.flush(timeout=0.01)


async def test_cancelling_flush_leaves_nothing_behind(server: Server) -> None:
    async with rig(server, connect=False) as it:
        await it.client.emit("echo", 1)
        flush = asyncio.ensure_future(it.client.flush())
        await settle()
        flush.cancel()
        await asyncio.wait({flush})
        await it.connect()
        await within(it.client.flush())


async def test_close_gives_up_what_only_memory_holds() -> None:
    client = wrap()
    delivery = await client.emit("echo", "x")
    assert await client.close(timeout=0.01) == 1
    with pytest.raises(DeliveryFailed, match="the client was closed") as caught:
        await delivery
    assert (caught.value.reason, caught.value.possibly_delivered) == ("dropped", False)
    assert [letter.offset for letter in client.dead_letters()] == [delivery.offset]
    assert client.pending == 0
    assert await client.close() == 1, "closing again gives the same answer"


async def test_a_closed_client_says_so() -> None:
    client = wrap(max_pending=1, overflow="wait")
    await client.emit("echo")
    waiting = asyncio.ensure_future(client.emit("echo"))
    await settle()
    await client.close(timeout=0)
    with pytest.raises(ClientClosed, match="nothing was queued"):
        await within(waiting)
    for use in (
        lambda: client.emit("echo"),
        lambda: client.call("echo"),
        lambda: client.emit_volatile("echo"),
        lambda: client.connect("http://127.0.0.1:1"),
    ):
        with pytest.raises(ClientClosed):
            await use()
    with pytest.raises(ClientClosed):
        client.redeliver("x")
    await client.flush()


async def test_the_context_manager_flushes_and_disconnects(server: Server) -> None:
    sio = socketio.AsyncClient(handle_sigint=False)
    async with ReliableClient(sio) as client:
        await client.connect(server.url, transports="websocket")
        deliveries = [await client.emit("echo", number) for number in range(10)]
    assert [await delivery for delivery in deliveries] == list(range(10))
    assert not sio.connected


async def test_the_context_manager_says_what_was_not_delivered(clock: Clock) -> None:
    async def program() -> None:
        async with wrap() as client:
            await client.emit("echo")

    running = asyncio.ensure_future(program())
    await settle()
    await clock.forward(11)
    with pytest.raises(FlushTimeout, match=r"1 message is still pending.*dead letters"):
        await within(running)


async def test_the_context_manager_does_not_hide_the_error_of_its_block(clock: Clock) -> None:
    async def program() -> None:
        async with wrap() as client:
            await client.emit("echo")
            raise LookupError("mine")

    running = asyncio.ensure_future(program())
    await settle()
    await clock.forward(11)
    with pytest.raises(LookupError, match="mine"):
        await within(running)


async def test_cancelling_the_context_manager_waits_for_nothing() -> None:
    entered = asyncio.Event()

    async def program() -> None:
        async with wrap() as client:
            await client.emit("echo")
            entered.set()
            await asyncio.Event().wait()

    running = asyncio.ensure_future(program())
    await within(entered.wait())
    running.cancel()
    started = time.perf_counter()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert time.perf_counter() - started < BOUND


async def test_close_is_bounded_with_a_frozen_peer_and_a_full_socket(frozen: str) -> None:
    sio = socketio.AsyncClient(handle_sigint=False)
    client = ReliableClient(sio, ack_timeout=3600, max_pending=None)
    await client.connect(frozen, transports="websocket")
    await client.emit("freeze")
    await client.emit("big", b"x" * 20_000_000)
    client.queue()[0].cancel()  # so that the big one is written, and gets stuck
    await settle()
    started = time.perf_counter()
    remaining = await client.close(timeout=0.1)
    assert time.perf_counter() - started < BOUND
    assert remaining == 1
    assert not sio.connected


async def test_close_leaves_a_connection_that_is_not_ours_alone(server: Server) -> None:
    async with rig(server) as it:
        await within(it.client.call("echo", 1))
        await it.client.close()
        assert it.sio.connected
        assert await within(it.sio.call("echo", "raw")) == "raw"


@pytest.fixture
def nobody() -> str:
    """Where nobody listens: the first connection is tried again and again."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{unused.getsockname()[1]}"


async def test_closing_ends_a_connect_that_still_tries(nobody: str) -> None:
    client = wrap()
    connecting = asyncio.ensure_future(client.connect(nobody))
    await settle()
    with pytest.raises(socketio.exceptions.ConnectionError, match="connecting already"):
        await client.connect(nobody)
    started = time.perf_counter()
    await client.close()
    with pytest.raises(ClientClosed):
        await within(connecting)
    assert time.perf_counter() - started < BOUND


async def test_the_first_connection_outlasts_an_answer_that_is_no_socketio(server: Server) -> None:
    """Something else answers at first, as a load balancer may whose server is still starting."""
    answered = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"220 this is another protocol\r\n")
        writer.close()
        answered.set()

    await server.stop()
    other = await asyncio.start_server(answer, "127.0.0.1", server.port)
    async with wrap() as client:
        connecting = asyncio.ensure_future(client.connect(server.url, transports="websocket"))
        await within(answered.wait())
        other.close()
        await other.wait_closed()
        await server.start()
        await within(connecting)
        assert await within(client.call("echo", "x")) == "x"


async def test_headers_are_the_same_at_every_connection(server: Server) -> None:
    """engineio takes a Cookie header out of the dict that it is given."""
    cookies: list[str | None] = []
    handle = server.sio.eio.handlers["connect"]

    async def note(eio_sid: str, environ: dict[str, str]) -> None:
        cookies.append(environ.get("HTTP_COOKIE"))
        await handle(eio_sid, environ)

    server.sio.eio.on("connect", note)
    sio = socketio.AsyncClient(
        handle_sigint=False, reconnection_delay=0.02, reconnection_delay_max=0.05, randomization_factor=0
    )
    headers = {"Cookie": "token=abc"}
    async with ReliableClient(sio) as client:
        await client.connect(server.url, headers=headers, transports="websocket")
        server.cut()
        await server.connections.has(2)
        await within(client.call("echo", 1))
        assert not sio.eio.external_http
        sio.eio.http.cookie_jar.clear()
    assert cookies == ["token=abc"] * 2
    assert headers == {"Cookie": "token=abc"}


@pytest.mark.parametrize("which", ["url", "headers", "auth"])
@pytest.mark.parametrize("error", [KeyError, ValueError, RuntimeError, OSError, socketio.exceptions.ConnectionError])
async def test_what_a_function_of_the_users_raises_ends_connect(
    server: Server, which: str, error: type[Exception]
) -> None:
    def broken() -> object:
        raise error("mine")

    async with wrap() as client:
        options: dict[str, object] = {"url": server.url, which: broken}
        with pytest.raises(error, match="mine"):
            await within(client.connect(**options, wait_timeout=0.3))  # type: ignore[arg-type]
        await client.connect(server.url, transports="websocket")


async def test_functions_are_asked_again_at_every_connection(server: Server) -> None:
    asked: list[str] = []

    async def url() -> str:
        asked.append("url")
        return server.url

    sio = socketio.AsyncClient(
        handle_sigint=False, reconnection_delay=0.02, reconnection_delay_max=0.05, randomization_factor=0
    )
    async with ReliableClient(sio) as client:
        await client.connect(url, auth=lambda: asked.append("auth"), transports="websocket")
        server.cut()
        await server.connections.has(2)
        await within(client.call("echo", 1))
    assert asked == ["url", "auth"] * 2


async def test_connecting_again_after_a_loss_that_python_socketio_has_missed(server: Server) -> None:
    """A connection that is lost during the connect handler of a reconnection leaves ``connected`` set for ever."""
    sio = socketio.AsyncClient(
        handle_sigint=False, reconnection_delay=0.02, reconnection_delay_max=0.05, randomization_factor=0
    )
    async with ReliableClient(sio) as client:
        await sio.connect(server.url, transports=["websocket"])
        handling, release = asyncio.Event(), asyncio.Event()

        async def on_connect() -> None:
            handling.set()
            await release.wait()

        sio.on("connect", on_connect)
        server.cut()
        await within(handling.wait())
        lost = asyncio.Event()
        client.on("disconnected", lambda _: lost.set())
        server.cut()
        await within(lost.wait())
        release.set()
        async with asyncio.timeout(PATIENCE):
            while not sio.connected:  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.01)
        assert sio.eio.state == "disconnected"
        await client.connect(server.url, transports="websocket")
        assert await within(client.call("echo", "x")) == "x"


async def test_a_connect_that_is_cancelled_leaves_no_connection(nobody: str, server: Server) -> None:
    client = wrap()
    connecting = asyncio.ensure_future(client.connect(nobody))
    await settle()
    connecting.cancel()
    await asyncio.wait({connecting})
    assert connecting.cancelled()
    await client.connect(server.url, transports="websocket")
    assert await within(client.call("echo", "x")) == "x"
    await client.close()


async def test_the_first_connection_waits_for_the_server(server: Server) -> None:
    await server.stop()
    async with wrap() as client:
        delivery = await client.emit("echo", "patient")
        connecting = asyncio.ensure_future(client.connect(server.url, transports="websocket"))
        await settle()
        await server.start()
        async with asyncio.timeout(PATIENCE):
            await connecting
        assert await within(delivery) == "patient"


async def test_closing_makes_the_wrapped_client_as_it_was(server: Server) -> None:
    sio = socketio.AsyncClient(handle_sigint=False)
    before = dict(sio.eio.handlers)
    first = ReliableClient(sio)
    second = ReliableClient(sio, namespace="/other")
    assert dict(sio.eio.handlers) != before
    await first.close()
    assert dict(sio.eio.handlers) != before, "the other namespace still listens"
    await second.close()
    assert dict(sio.eio.handlers) == before
    third = ReliableClient(sio)
    await third.close()


async def test_nothing_is_left_running(server: Server) -> None:
    threads = threading.active_count()
    for _ in range(5):
        async with wrap(outbox=MemoryOutbox()) as client:
            await client.connect(server.url, transports="websocket")
            await client.call("echo", 1)
    await server.stop()
    await settle(100)
    gc.collect()
    assert threading.active_count() == threads
    # The server's own, which wait for the next ping, are not ours to end.
    left = [str(task.get_coro()) for task in asyncio.all_tasks()]
    assert [task for task in left if "async_socket" not in task and "AsyncSocket" not in task] == [
        str(asyncio.current_task().get_coro())  # type: ignore[union-attr]
    ]
