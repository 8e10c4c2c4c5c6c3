"""A connection that is dead without having said so is found out, and one that is only slow is left alone."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import time
from typing import TYPE_CHECKING, Any

import engineio.packet
import pytest
import socketio
import tenacity

from network import Pair, Proxy
from reliable_emit import DeliveryFailed, ReliableClient
from reliable_emit.link import pulse
from support import NO_ACK, Clock, Log, Server, rig, settle, within

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

ACK = 1.0
"""Seconds of real silence that a test waits for."""
BOUND = 4.0
"""Seconds within which what is dead is found out and replaced; it takes a good second, and machines are busy."""


class Way:
    """A client, connected through a proxy, and what it says of its connections."""

    def __init__(self, client: ReliableClient, sio: socketio.AsyncClient, proxy: Proxy) -> None:
        self.client, self.sio, self.proxy = client, sio, proxy
        self.recycled: Log[str] = Log()
        self.lost: Log[str] = Log()
        client.on("recycled", self.recycled.add)
        client.on("disconnected", self.lost.add)


@contextlib.asynccontextmanager
async def through(server: Server, transports: str = "websocket", **options: Any) -> AsyncIterator[Way]:
    async with Proxy(server.port) as proxy:
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


def half(direction: str) -> Callable[[Pair], None]:
    def spoil(pair: Pair) -> None:
        getattr(pair, direction).swallowing = True

    return spoil


DEAD = {
    "frozen": Pair.freeze,
    "blackhole": Pair.blackhole,
    "half open: nothing arrives there": half("there"),
    "half open: nothing comes back": half("back"),
}


@pytest.mark.parametrize("how", DEAD)
@pytest.mark.parametrize("transport", ["websocket", "polling"])
async def test_a_dead_connection_is_recycled_within_about_one_ack_timeout(
    server: Server, how: str, transport: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with through(server, transport) as it:
        for pair in it.proxy.pairs:
            DEAD[how](pair)
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
        for pair in it.proxy.pairs:
            pair.freeze()
        it.proxy.prepare = Pair.freeze  # over polling a request may have a connection of its own
        it.sio.eio.request_timeout = 3600
        await it.sio.emit("sink", b"x" * 10_000_000)
        delivery = await it.client.emit("echo", "behind")
        await asyncio.sleep(0.5 * ACK)
        it.proxy.prepare = lambda _: None
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
    async with through(server, transport, retries=1) as it:
        delivery = await it.client.emit(event)
        with pytest.raises(DeliveryFailed, match="exhausted after 2 attempts"):
            await within(delivery)
        stats = it.client.stats
        assert (stats.recycled, stats.timed_out, stats.disconnected) == (0, 2, 0)
        answer.set()


async def test_a_slow_upload_is_no_dead_connection(server: Server) -> None:
    server._options["max_http_buffer_size"] = 100_000_000
    await server.restart()
    async with through(server, ack_timeout=2 * ACK, retries=None, backoff=tenacity.wait_fixed(60)) as it:
        for pair in it.proxy.pairs:
            pair.there.pause = 0.02  # 3 MB/s, so that 20 MB take about 7 s, of which most are in the kernel at once
        delivery = await it.client.emit("sink", b"x" * 20_000_000)
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
        for pair in it.proxy.pairs:
            pair.blackhole()
        delivery = await it.client.emit("echo", "x")
        await within(delivery)
        stats = it.client.stats
        assert stats.recycled == 1
        assert 2 <= stats.timed_out <= 5


async def test_a_server_that_only_looks_dead_is_recycled_ever_more_rarely(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as one with ``async_handlers=False``, which answers no ping while a handler runs."""
    monkeypatch.setattr(pulse, "_LEAST", 0.2)
    async with through(server, ack_timeout=0.5, retries=2) as it:

        def deaf(*_: object) -> None:
            it.proxy.pairs[-1].there.swallowing = True

        it.client.on("connected", deaf)
        deaf()
        delivery = await it.client.emit("slow")
        with pytest.raises(DeliveryFailed, match="exhausted after 5 attempts: no acknowledgement within"):
            await within(delivery)
        assert (it.client.stats.recycled, it.client.stats.timed_out) == (2, 3)


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
    async with Proxy(server.port) as proxy, rig(proxy.url, ack_timeout=ACK, retries=0) as it:
        for pair in proxy.pairs:
            pair.blackhole()
        assert await within(it.client.call("echo", "x")) == "x"
        assert it.client.stats.recycled == 1
        assert it.client.stats.connect_attempts == 0


async def test_all_namespaces_of_a_dead_connection_are_told(caplog: pytest.LogCaptureFixture) -> None:
    async with Server("/", "/b") as server, Proxy(server.port) as proxy:
        caplog.set_level(logging.WARNING, "reliable_emit")
        async with rig(proxy.url, namespaces=["/", "/b"], ack_timeout=ACK, retries=0) as it:
            other = it.clients["/b"]
            for pair in proxy.pairs:
                pair.blackhole()
            waiting = await other.emit("echo", "b", ack_timeout=3600)
            assert await within(it.client.call("echo", "a")) == "a"
            assert await within(waiting) == "b"
            assert [client.stats.recycled for client in it.clients.values()] == [1, 1]
        assert caplog.text.count("recycled") == 1


async def test_a_connection_that_cannot_be_shut_down_is_buried(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    async with through(server) as it:
        monkeypatch.setattr(it.client._driver.link._tap.pulse, "end", lambda: None)
        for pair in it.proxy.pairs:
            pair.blackhole()
        delivery = await it.client.emit("echo", "x")
        await within(delivery)
        assert it.client.stats.disconnected == 1


# Polling.


async def test_a_request_that_is_lost_over_polling_ends_the_connection_at_once(server: Server) -> None:
    """Engine.IO would notice when the server next answers a poll: at its next ping, an hour later here."""
    async with through(server, "polling", ack_timeout=3600) as it:

        async def cut() -> None:
            await it.proxy.pairs.has(count + 1)
            it.proxy.pairs[-1].abort()

        count = len(it.proxy.pairs)
        it.proxy.prepare = lambda pair: setattr(pair.back, "swallowing", True)
        original = it.sio.eio.http.post

        async def post(*arguments: Any, **options: Any) -> Any:
            it.sio.eio.http.post = original
            raise ConnectionResetError("by the network")

        it.proxy.prepare = lambda _: None
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
