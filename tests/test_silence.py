"""A connection that is dead without having said so is found out, and one that is only slow is left alone."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import signal
import socket
import sys
import time
from typing import TYPE_CHECKING, Any

import aiohttp
import engineio.packet
import pytest
import socketio
import tenacity

from reliable_emit import DeliveryFailed, ReliableClient
from reliable_emit.link import pulse
from reliable_emit.testing import FaultProxy
from support import NO_ACK, Clock, Log, Server, rig, settle, within

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

pytestmark = pytest.mark.alone
ACK = 1.0
"""Seconds of real silence that a test waits for."""
BOUND = 4.0
"""Seconds within which what is dead is found out and replaced; it takes a good second, and machines are busy."""


class Way:
    """A client, connected through a proxy, and what it says of its connections."""

    def __init__(self, client: ReliableClient, sio: socketio.AsyncClient, proxy: FaultProxy) -> None:
        self.client, self.sio, self.proxy = client, sio, proxy
        self.recycled: Log[str] = Log()
        self.lost: Log[str] = Log()
        client.on("recycled", self.recycled.add)
        client.on("disconnected", self.lost.add)


@contextlib.asynccontextmanager
async def through(server: Server, transports: str = "websocket", **options: Any) -> AsyncIterator[Way]:
    async with FaultProxy("127.0.0.1", server.port) as proxy:
        sio = socketio.AsyncClient(handle_sigint=False)
        given: dict[str, Any] = {
            "ack_timeout": ACK,
            "retries": 0,
            "client_offset": True,
            "backoff": tenacity.wait_none(),
        } | options
        client = ReliableClient(sio, **given)
        try:
            await client.connect(proxy.url, transports=transports, reconnect_backoff=tenacity.wait_fixed(0.02))
            await within(client.call("sink", "fine", ack_timeout=10))
            yield Way(client, sio, proxy)
        finally:
            await client.close(timeout=0)


DEAD: dict[str, Callable[[FaultProxy], None]] = {
    "frozen": FaultProxy.freeze,
    "blackhole": FaultProxy.blackhole,
    "half open: nothing arrives there": lambda proxy: proxy.half_open("to_server"),
    "half open: nothing comes back": lambda proxy: proxy.half_open("to_client"),
}


def thaw_when_recycled(it: Way) -> None:
    """Have the next connection pass: freezing is for all there are."""
    it.client.on("recycled", lambda _: it.proxy.thaw())


@pytest.mark.parametrize("how", DEAD)
@pytest.mark.parametrize("transport", ["websocket", "polling"])
async def test_a_dead_connection_is_recycled_within_about_one_ack_timeout(
    server: Server, how: str, transport: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with through(server, transport) as it:
        DEAD[how](it.proxy)
        thaw_when_recycled(it)
        started = time.perf_counter()
        delivery = await it.client.emit("echo", "x")
        await within(delivery)
        took = time.perf_counter() - started
        assert ACK < took < BOUND
        assert delivery.attempts == 2
        stats = it.client.stats
        assert (stats.recycled, stats.timed_out, stats.lost, stats.disconnected) == (1, 0, 1, 1)
        assert it.lost == ["no sign of life"]
        assert len(it.recycled) == 1
        assert ("no request was answered" if transport == "polling" else "not even the answer to a ping") in (
            it.recycled[0]
        )
        assert f"recycled: {it.recycled[0]}" in caplog.text
    # What a frozen connection holds back is not delivered when it ends.
    assert [item.arguments[0] for item in server.received if item.event == "echo"].count("x") in {1, 2}
    assert len({item.arguments for item in server.received if item.event == "echo"}) == 1


@pytest.mark.filterwarnings("ignore:Sending a large body directly")  # aiohttp's, over polling
@pytest.mark.parametrize("transport", ["websocket", "polling"])
async def test_a_write_that_is_stuck_with_megabytes_queued_is_found_out(server: Server, transport: str) -> None:
    """python-socketio does not notice at all, and disconnecting hangs."""
    server._options["max_http_buffer_size"] = 100_000_000
    await server.restart()
    async with through(server, transport) as it:
        it.proxy.freeze()
        thaw_when_recycled(it)
        it.sio.eio.request_timeout = 3600
        await it.sio.emit("sink", b"x" * 10_000_000)
        delivery = await it.client.emit("echo", "behind")
        assert await within(delivery) == ("behind", delivery.offset)
        assert (it.client.stats.recycled, it.client.stats.timed_out) == (1, 0)


_SERVER = """
import asyncio, sys, socketio
from aiohttp import web

async def main():
    sio = socketio.AsyncServer(async_mode="aiohttp")
    sio.on("echo", lambda sid, value: value)
    app = web.Application()
    sio.attach(app)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", int(sys.argv[1])).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_a_server_that_is_stopped_is_given_up_and_its_successor_found() -> None:
    """Its kernel goes on taking what is sent, so nothing but the silence tells."""

    async def start() -> tuple[asyncio.subprocess.Process, str]:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", _SERVER, "0", stdout=asyncio.subprocess.PIPE
        )
        assert process.stdout is not None
        return process, f"http://127.0.0.1:{int(await within(process.stdout.readline()))}"

    (first, url), (second, other) = await start(), await start()
    try:
        urls = [url]
        sio = socketio.AsyncClient(handle_sigint=False)
        async with ReliableClient(sio, ack_timeout=ACK) as client:
            await client.connect(
                lambda: urls[-1], transports="websocket", reconnect_backoff=tenacity.wait_none(), wait_timeout=5
            )
            await within(client.call("echo", 1, ack_timeout=10))
            os.kill(first.pid, signal.SIGSTOP)
            urls.append(other)
            started = time.perf_counter()
            assert await within(client.call("echo", 2)) == 2
            assert time.perf_counter() - started < BOUND
            assert client.stats.recycled == 1
    finally:
        for process in (first, second):
            process.kill()
            await process.communicate()


# What is slow is not dead.


@pytest.mark.parametrize("transport", ["websocket", "polling"])
@pytest.mark.parametrize("event", ["slow", "unknown"])
async def test_a_handler_that_is_slow_or_missing_is_no_dead_connection(
    server: Server, event: str, transport: str
) -> None:
    answer = asyncio.Event()

    async def slow(_sid: str, *_: Any) -> str:
        await answer.wait()
        return "done"

    server.handlers["slow"] = slow
    async with through(server, transport) as it:
        delivery = await it.client.emit(event)
        with pytest.raises(DeliveryFailed, match="exhausted after 1 attempt"):
            await within(delivery)
        stats = it.client.stats
        assert (stats.recycled, stats.timed_out, stats.disconnected) == (0, 1, 0)
        answer.set()


async def test_a_slow_upload_is_no_dead_connection(server: Server) -> None:
    server._options["max_http_buffer_size"] = 100_000_000
    await server.restart()
    async with through(server, retries=None, backoff=tenacity.wait_fixed(60)) as it:
        # On a slow line nothing in between takes megabytes at once, as the kernel of the proxy would.
        for pipe in it.proxy._network.pipes("to_server"):
            assert pipe.source is not None
            pipe.source.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        it.proxy.bandwidth(3_000_000, direction="to_server")
        delivery = await it.client.emit("sink", b"x" * 10_000_000)
        await within(delivery)
        stats = it.client.stats
        assert stats.recycled == 0
        assert stats.timed_out == 1
        assert stats.disconnected == 0
        assert delivery.attempts == 1


async def test_a_clock_that_jumps_is_no_silence(server: Server, clock: Clock) -> None:
    """A laptop that was asleep, or an event loop that was blocked, has not listened."""
    server.handlers["slow"] = lambda _sid: NO_ACK
    async with rig(server, retries=2, ack_timeout=10) as it:
        delivery = await it.client.emit("slow")
        for attempt in (1, 2, 3):
            await server.received.has(attempt)
            await clock.forward(11)
        with pytest.raises(DeliveryFailed, match="exhausted after 3 attempts"):
            await within(delivery)
        assert it.client.stats.recycled == 0


async def test_an_event_loop_that_was_blocked_has_not_listened(server: Server) -> None:
    async with rig(server, retries=1, ack_timeout=ACK) as it:
        await within(it.client.call("echo", 1))
        delivery = await it.client.emit("echo", 2)
        await settle(1)
        time.sleep(1.5 * ACK)  # noqa: ASYNC251 - that is the point
        assert await within(delivery) == 2
        assert it.client.stats.recycled == 0


# How often.


async def test_with_a_short_ack_timeout_a_later_attempt_finds_out(server: Server) -> None:
    async with through(server, ack_timeout=0.3, retries=9) as it:
        it.proxy.blackhole()
        delivery = await it.client.emit("echo", "x")
        await within(delivery)
        stats = it.client.stats
        assert stats.recycled == 1
        assert 2 <= stats.timed_out <= 5


async def test_a_server_that_only_looks_dead_is_recycled_more_rarely_and_its_message_given_up(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as one with ``async_handlers=False``, which answers no ping while a handler runs."""
    monkeypatch.setattr(pulse, "_LEAST", 0.2)
    async with through(server, ack_timeout=0.5, retries=2) as it:

        def deaf(*_: object) -> None:
            it.proxy.half_open("to_server")

        it.client.on("connected", deaf)
        deaf()
        delivery = await it.client.emit("slow")
        with pytest.raises(DeliveryFailed, match="exhausted after 6 attempts: no acknowledgement within"):
            await within(delivery)
        assert (it.client.stats.recycled, it.client.stats.timed_out) == (3, 3)


async def test_where_the_kernel_does_not_count_a_message_recycles_once(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pulse, "_traffic", lambda _socket: None)
    server.handlers["slow"] = lambda *_: NO_ACK
    async with through(server, retries=1) as it:
        with pytest.raises(DeliveryFailed, match="exhausted"):
            await within(it.client.call("slow"))
        assert it.client.stats.recycled == 1
        assert it.client.stats.timed_out == 2
        assert await within(it.client.call("echo", "x", ack_timeout=10))


async def test_a_connection_made_by_the_user_is_recycled_too_and_python_socketio_reconnects(server: Server) -> None:
    async with FaultProxy("127.0.0.1", server.port) as proxy, rig(proxy.url, ack_timeout=ACK, retries=0) as it:
        proxy.blackhole()
        assert await within(it.client.call("echo", "x")) == "x"
        assert it.client.stats.recycled == 1
        assert it.client.stats.connect_attempts == 0


async def test_all_namespaces_of_a_dead_connection_are_told(caplog: pytest.LogCaptureFixture) -> None:
    async with Server("/", "/b") as server, FaultProxy("127.0.0.1", server.port) as proxy:
        caplog.set_level(logging.WARNING, "reliable_emit")
        async with rig(proxy.url, namespaces=["/", "/b"], ack_timeout=ACK, retries=0) as it:
            other = it.clients["/b"]
            proxy.blackhole()
            waiting = await other.emit("echo", "b", ack_timeout=3600)
            assert await within(it.client.call("echo", "a")) == "a"
            assert await within(waiting) == "b"
            assert [client.stats.recycled for client in it.clients.values()] == [1, 1]
        assert caplog.text.count("recycled") == 1


async def test_a_connection_that_cannot_be_shut_down_is_buried(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    async with through(server) as it:
        monkeypatch.setattr(it.client._driver.link._tap.pulse, "end", lambda: None)
        it.proxy.blackhole()
        delivery = await it.client.emit("echo", "x")
        await within(delivery)
        assert it.client.stats.disconnected == 1


# Polling.


async def test_a_request_that_is_lost_over_polling_ends_the_connection_at_once(server: Server) -> None:
    """Engine.IO would notice when the server next answers a poll: at its next ping, an hour later here."""
    async with through(server, "polling", ack_timeout=3600) as it:
        original = it.sio.eio.http.post

        async def post(*arguments: Any, **options: Any) -> Any:
            it.sio.eio.http.post = original
            raise aiohttp.ClientOSError(errno.ECONNRESET, "by the network")

        it.sio.eio.http.post = post
        started = time.perf_counter()
        assert (await within(it.client.call("echo", "x")))[0] == "x"
        assert time.perf_counter() - started < BOUND
        assert it.client.stats.lost == 1


async def test_more_than_16_packets_at_once_pass_over_polling_both_ways(server: Server) -> None:
    async with through(server, "polling", ack_timeout=10) as it:
        heard: Log[int] = Log()
        it.sio.on("news", heard.add)
        for number in range(100):
            await it.sio.emit("echo", number)
        assert (await within(it.client.call("echo", "last")))[0] == "last"
        assert server.arguments() == [*range(100), "last"]
        outgoing = server.sio.eio._get_socket(it.sio.sid)
        for number in range(100):
            await outgoing.send(engineio.packet.Packet(engineio.packet.MESSAGE, f'2["news",{number}]'))
        await heard.has(100)
        assert sorted(heard) == list(range(100))
        assert it.client.stats.disconnected == 0


async def test_an_answer_that_breaks_off_over_polling_is_a_lost_connection(server: Server) -> None:
    """Engine.IO lets the error through, and believes for ever that it is connected."""
    async with through(server, "polling", ack_timeout=3600) as it:
        answered = asyncio.Event()

        class Broken:
            status = 200

            async def read(self) -> bytes:
                answered.set()
                raise ConnectionResetError("in the middle")

        requests = it.client._driver.link._tap._requests
        original = requests._original

        async def send(method: str, *arguments: Any, **options: Any) -> Any:
            if method == "GET" and it.sio.eio.state == "connected" and not answered.is_set():
                return Broken()
            return await original(method, *arguments, **options)

        requests._original = send
        await it.sio.emit("echo", "so that a poll is answered", callback=lambda *_: None)
        await within(answered.wait())
        assert (await within(it.client.call("echo", "x")))[0] == "x"


async def test_a_queue_goes_over_to_websocket_by_an_upgrade(server: Server) -> None:
    sio = socketio.AsyncClient(handle_sigint=False)
    async with ReliableClient(sio) as client:
        deliveries = [await client.emit("echo", number) for number in range(50)]
        await client.connect(server.url, transports=["polling", "websocket"])
        assert await within(asyncio.gather(*deliveries)) == list(range(50))
        assert sio.transport() == "websocket"
    assert server.arguments() == list(range(50))
