"""What FaultProxy does to a connection, shown on both of its ends."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import gc
import os
import random
import socket
import sys
import threading
import time
from typing import TYPE_CHECKING, Literal

import pytest

from proxy_support import Stream, TcpServer, dialed, joined
from reliable_emit.testing import FaultProxy
from reliable_emit.testing.background import Background
from support import PATIENCE, Clock, settle, within

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from reliable_emit.testing import Direction, Ending

DIRECTIONS: tuple[Direction, ...] = ("to_server", "to_client")
BIG = 30_000_000
"""Bytes: more than all buffers on the way hold."""


@pytest.fixture
async def server() -> AsyncIterator[TcpServer]:
    async with TcpServer() as started:
        yield started


@pytest.fixture
async def proxy(server: TcpServer) -> AsyncIterator[FaultProxy]:
    async with FaultProxy("127.0.0.1", server.port) as started:
        yield started


def ends(direction: Direction, client: Stream, server: Stream) -> tuple[Stream, Stream]:
    """Who sends in that direction, and who gets it."""
    return (client, server) if direction == "to_server" else (server, client)


async def refused(proxy: FaultProxy) -> bool:
    try:
        async with dialed(proxy):
            return False
    except ConnectionRefusedError:
        return True


# Told nothing, it is as if it were not there.


async def test_it_passes_on_both_ways_and_counts(proxy: FaultProxy, server: TcpServer) -> None:
    async with joined(proxy, server) as (client, there):
        await client.send(b"hello")
        assert await there.get(5) == b"hello"
        await there.send(b"good day")
        assert await client.get(8) == b"good day"
        assert (proxy.to_server.bytes, proxy.to_client.bytes) == (5, 8)
        assert (proxy.connections, proxy.connected_total) == (1, 1)
    await proxy.disconnected()
    assert proxy.connected_total == 1
    assert proxy.to_server.frames == proxy.to_server.swallowed == 0


async def test_it_passes_on_much_unchanged(proxy: FaultProxy, server: TcpServer) -> None:
    data = os.urandom(1000) * 5000
    async with joined(proxy, server) as (client, there):
        client.writer.write(data)
        client.writer.write_eof()
        there.writer.write(data)
        there.writer.write_eof()
        arrived = await asyncio.gather(there.rest(), client.rest())
        assert arrived[0] == arrived[1] == data
        await proxy.disconnected()


async def test_the_end_of_one_direction_leaves_the_other_open(proxy: FaultProxy, server: TcpServer) -> None:
    async with joined(proxy, server) as (client, there):
        client.writer.write(b"that is all")
        client.writer.write_eof()
        assert await there.rest() == b"that is all"
        await there.send(b"thank you")
        assert await client.get(9) == b"thank you"
        assert proxy.connections == 1
        await there.close()
        assert await client.rest() == b""
        await proxy.disconnected()


@pytest.mark.parametrize("direction", DIRECTIONS)
async def test_a_reset_is_passed_on(proxy: FaultProxy, server: TcpServer, direction: Direction) -> None:
    async with joined(proxy, server) as (client, there):
        source, destination = ends(direction, client, there)
        source.writer.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0" if os.name != "nt" else b"\1\0\0\0"
        )
        source.writer.transport.abort()
        with pytest.raises(ConnectionResetError):
            await destination.rest()
        await proxy.disconnected()


async def send_on(stream: Stream) -> None:
    while True:
        await stream.send(b"anybody there?")
        await settle()


async def test_a_reset_after_the_end_is_passed_on_too(proxy: FaultProxy, server: TcpServer) -> None:
    async with joined(proxy, server) as (client, there):
        client.writer.write_eof()
        assert await there.rest() == b""
        client.writer.transport.abort()
        with pytest.raises(ConnectionError):
            await send_on(there)  # the client's system resets at the first byte that it gets
        await proxy.disconnected()


async def test_a_server_that_is_not_there_resets_the_client(proxy: FaultProxy) -> None:
    with socket.socket() as bound:  # not listening
        bound.bind(("127.0.0.1", 0))
        proxy.target = bound.getsockname()
        async with dialed(proxy) as client:
            with pytest.raises(ConnectionResetError):
                await client.rest()
    assert proxy.connected_total == 0


async def test_the_target_changes_for_new_connections(proxy: FaultProxy, server: TcpServer) -> None:
    async with joined(proxy, server) as (old, there), TcpServer() as other:
        proxy.target = ("localhost", other.port)
        async with dialed(proxy) as client:
            await other.streams.has(1)
            await client.send(b"new")
            assert await other.streams[0].get(3) == b"new"
            await old.send(b"old")
            assert await there.get(3) == b"old"


# Latency and bandwidth.


async def test_latency_holds_each_way_and_keeps_the_order(proxy: FaultProxy, server: TcpServer, clock: Clock) -> None:
    async with joined(proxy, server) as (client, there):
        proxy.latency(100, jitter=50)
        for number in range(5):
            await client.send(b"%d" % number)
            await proxy.until(lambda: proxy.to_server.under_way == number + 1)  # noqa: B023 - called in this round
        await clock.forward(99)
        assert proxy.to_server.bytes == 0
        assert there.silent()
        await clock.forward(52)
        assert await there.get(5) == b"01234"
        proxy.latency(100, direction="to_client")
        proxy.latency(0, direction="to_server")
        await client.send(b"5")
        assert await there.get(1) == b"5"
        await there.send(b"late")
        await proxy.until(lambda: proxy.to_client.under_way == 4)
        await clock.forward(99)
        assert client.silent()
        await clock.forward(2)
        assert await client.get(4) == b"late"


async def test_latency_takes_its_time(proxy: FaultProxy, server: TcpServer) -> None:
    loop = asyncio.get_running_loop()
    async with joined(proxy, server) as (client, there):
        proxy.latency(0.1)
        begun = loop.time()
        await client.send(b"ping")
        await there.send(await there.get(4))
        await client.get(4)
        assert loop.time() - begun >= 0.19


async def test_the_jitter_of_a_seed_is_the_same() -> None:
    draws = [FaultProxy("127.0.0.1", 1, seed=7)._network.draw.random() for _ in range(2)]
    assert draws[0] == draws[1]


async def test_jitter_is_drawn_anew_for_all_that_is_read_at_once(server: TcpServer, clock: Clock) -> None:
    async with (
        FaultProxy("127.0.0.1", server.port, seed=7) as proxy,
        joined(proxy, server) as (client, there),
        joined(proxy, server) as (other, there_too),
    ):
        expected = random.Random(7)
        proxy.latency(1000, jitter=100_000)
        for number, stream in enumerate((client, other)):
            await stream.send(b"x")
            await proxy.until(lambda: proxy.to_server.under_way == number + 1)  # noqa: B023 - called in this round
        delays = {there: 1000 + 100_000 * expected.random(), there_too: 1000 + 100_000 * expected.random()}
        passed = 0.0
        for stream, delay in sorted(delays.items(), key=lambda item: item[1]):
            await clock.forward(delay - passed - 100)
            assert stream.silent()
            await clock.forward(101)
            assert await stream.get(1) == b"x"
            passed = delay + 1


async def test_the_bandwidth_is_of_each_connection(proxy: FaultProxy, server: TcpServer, clock: Clock) -> None:
    async with joined(proxy, server) as (client, there), joined(proxy, server) as (other, there_too):
        proxy.bandwidth(1)
        for stream in (client, other):
            await stream.send(b"12345")
        await proxy.until(lambda: proxy.to_server.under_way + proxy.to_server.bytes == 10)
        for _ in range(4):
            await clock.forward(1.001)
        assert proxy.to_server.bytes == 10
        assert await there.get(5) == await there_too.get(5) == b"12345"


async def test_heal_delivers_at_once_what_was_delayed(proxy: FaultProxy, server: TcpServer) -> None:
    async with joined(proxy, server) as (client, there):
        proxy.latency(1000)
        await client.send(b"slow")
        await proxy.until(lambda: proxy.to_server.under_way == 4)
        proxy.heal()
        assert await there.get(4) == b"slow"


async def test_the_end_is_as_late_as_the_bytes_before_it(proxy: FaultProxy, server: TcpServer, clock: Clock) -> None:
    async with joined(proxy, server) as (client, there):
        proxy.latency(100)
        await client.send(b"bye")
        await client.close()
        await proxy.until(lambda: len(proxy._network.pipes("to_server")[0]._queue) == 2)
        await clock.forward(99)
        assert there.silent()
        assert proxy.connections == 1
        await clock.forward(2)
        assert await there.rest() == b"bye"


async def test_bandwidth_is_a_bound(proxy: FaultProxy, server: TcpServer) -> None:
    loop = asyncio.get_running_loop()
    async with joined(proxy, server) as (client, there):
        proxy.bandwidth(20_000, direction="to_server")
        begun = loop.time()
        await client.send(b"x" * 10_000)
        await there.send(b"y" * 1_000_000)
        await client.get(1_000_000)
        await there.get(10_000)
        assert loop.time() - begun >= 0.47  # the last chunk goes without waiting
        proxy.bandwidth(1)
        await client.send(b"x" * 100_000)
        proxy.bandwidth(None)
        await there.get(100_000)


# Freeze and thaw.


@pytest.mark.parametrize("direction", DIRECTIONS)
async def test_freeze_holds_the_sender_and_loses_nothing(
    proxy: FaultProxy, server: TcpServer, direction: Direction
) -> None:
    data = os.urandom(1000) * (BIG // 1000)
    async with joined(proxy, server) as (client, there):
        source, destination = ends(direction, client, there)
        proxy.freeze()
        source.writer.write(data)
        source.writer.write_eof()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(source.writer.drain(), 0.3)
        assert destination.silent()
        assert proxy.to_server.bytes == proxy.to_client.bytes == 0
        proxy.thaw()
        assert await destination.rest() == data


async def test_freeze_of_one_direction_leaves_the_other(proxy: FaultProxy, server: TcpServer) -> None:
    async with joined(proxy, server) as (client, there):
        proxy.freeze(direction="to_client")
        await there.send(b"waits")
        await client.send(b"goes")
        assert await there.get(4) == b"goes"
        assert client.silent()
        proxy.thaw(direction="to_client")
        assert await client.get(5) == b"waits"


async def test_a_connection_made_in_the_freeze_is_frozen(proxy: FaultProxy, server: TcpServer) -> None:
    proxy.freeze()
    async with joined(proxy, server) as (client, there):
        await client.send(b"early")
        async with joined(proxy, server) as (other, _):  # takes longer than a byte would
            assert there.silent()
            proxy.heal()
            assert await there.get(5) == b"early"
            assert other.silent()


# Cut and reset.


async def test_cut_is_the_end_of_the_stream_on_both_sides(proxy: FaultProxy, server: TcpServer) -> None:
    async with joined(proxy, server) as (client, there):
        await client.send(b"before")
        assert await there.get(6) == b"before"
        proxy.cut()
        assert proxy.connections == 0
        assert await client.rest() == b""
        assert await there.rest() == b""
        async with joined(proxy, server) as (again, there_again):
            await again.send(b"after")
            assert await there_again.get(5) == b"after"


async def test_cut_is_no_reset_although_something_is_unread(proxy: FaultProxy, server: TcpServer) -> None:
    async with joined(proxy, server) as (client, there):
        proxy.freeze()
        await client.send(b"x" * 100_000)
        await there.send(b"y" * 100_000)
        proxy.cut()
        assert await client.rest() == b""
        assert await there.rest() == b""
        assert proxy.to_server.bytes == 0


async def test_reset_is_a_reset_on_both_sides(proxy: FaultProxy, server: TcpServer) -> None:
    async with joined(proxy, server) as (client, there):
        proxy.reset()
        assert proxy.connections == 0
        for side in (client, there):
            with pytest.raises(ConnectionResetError):
                await side.rest()
        async with joined(proxy, server):
            assert proxy.connected_total == 2


async def ending_of(stream: Stream) -> str:
    try:
        return "fin" if await stream.rest() == b"" else "data"
    except ConnectionResetError:
        return "rst"


async def test_cut_and_reset_reach_a_connection_that_is_being_made(proxy: FaultProxy, server: TcpServer) -> None:
    calls: dict[str, Callable[[], None]] = {"fin": proxy.cut, "rst": proxy.reset}
    for rounds in range(12):
        for ending, call in calls.items():
            async with dialed(proxy) as client:
                await settle(rounds)
                call()
                assert proxy.connections == 0
                assert await ending_of(client) == ending
                await proxy.until(lambda: all(each._task and each._task.done() for each in proxy._network.connections))
                await settle()  # what has reached the server is accepted
                for there in server.streams:
                    assert await ending_of(there) == ending
                    there.writer.transport.abort()
            server.streams.clear()
            await proxy.until(lambda: not proxy._network.connections)
    assert proxy.to_server.bytes == 0


ENDINGS: tuple[Literal["cut", "reset"], ...] = ("cut", "reset")


def state(stream: socket.socket) -> str:
    try:
        return "cut" if stream.recv(1) == b"" else "data"
    except ConnectionResetError:
        return "reset"


async def test_a_cut_reaches_a_connection_that_the_client_has_already(proxy: FaultProxy) -> None:
    def elsewhere(server: socket.socket) -> None:
        for ending in ENDINGS:
            for _ in range(20):
                with socket.create_connection(("127.0.0.1", proxy.port), timeout=PATIENCE) as client:
                    getattr(proxy, ending)()
                    assert state(client) == ending

    with socket.create_server(("127.0.0.1", 0)) as server:
        proxy.target = server.getsockname()
        await within(asyncio.to_thread(elsewhere, server))


async def test_a_cut_reaches_a_connection_that_the_server_has_already(proxy: FaultProxy) -> None:
    def elsewhere(server: socket.socket) -> None:
        server.settimeout(PATIENCE)
        for ending in ENDINGS:
            for _ in range(20):
                with socket.create_connection(("127.0.0.1", proxy.port), timeout=PATIENCE) as client:
                    there, _ = server.accept()
                    with there:
                        getattr(proxy, ending)()
                        there.settimeout(PATIENCE)
                        assert state(client) == state(there) == ending

    with socket.create_server(("127.0.0.1", 0)) as server:
        proxy.target = server.getsockname()
        await within(asyncio.to_thread(elsewhere, server))


async def test_a_black_hole_reaches_a_connection_that_the_client_has_already(
    proxy: FaultProxy, server: TcpServer
) -> None:
    holes: list[Callable[[], None]] = [proxy.blackhole, lambda: proxy.half_open("to_server")]
    for number in range(20):
        with socket.create_connection(("127.0.0.1", proxy.port)) as client:
            holes[number % 2]()
            client.sendall(b"lost")
            await proxy.until(lambda: proxy.to_server.swallowed == 4 * number + 4)  # noqa: B023 - called in this round
    assert proxy.to_server.bytes == 0


async def test_refuse_leaves_alone_a_connection_that_the_client_has_already(
    proxy: FaultProxy, server: TcpServer
) -> None:
    for number in range(5):
        with socket.create_connection(("127.0.0.1", proxy.port)) as client:
            proxy.refuse()
            client.sendall(b"still")
            await server.streams.has(number + 1)
            assert await server.streams[number].get(5) == b"still"
            proxy.accept()


# Black holes.


async def test_a_black_hole_swallows_and_tells_nobody(proxy: FaultProxy, server: TcpServer) -> None:
    async with joined(proxy, server) as (client, there):
        proxy.blackhole()
        await client.send(b"x" * BIG)  # swallowed, or this would never end
        await there.send(b"y" * 1000)
        await proxy.until(lambda: (proxy.to_server.swallowed, proxy.to_client.swallowed) == (BIG, 1000))
        assert client.silent()
        assert there.silent()
        assert proxy.to_server.bytes == proxy.to_client.bytes == 0
        assert proxy.connections == 1
        async with joined(proxy, server) as (other, there_other):
            await other.send(b"new")
            assert await there_other.get(3) == b"new"
        proxy.heal()
        for side in (client, there):
            with pytest.raises(ConnectionResetError):
                await side.rest()


async def test_a_black_hole_swallows_the_end_and_goes_when_both_sides_have(
    proxy: FaultProxy, server: TcpServer
) -> None:
    async with joined(proxy, server) as (client, there):
        proxy.blackhole()
        await client.close()
        async with joined(proxy, server) as (other, there_other):  # takes longer than the end would
            await other.send(b"new")
            assert await there_other.get(3) == b"new"
            assert there.silent()
            assert proxy.connections == 2
            await there.close()
            await proxy.until(lambda: proxy.connections == 1)
    await proxy.until(lambda: not proxy._network.connections)


async def test_a_black_hole_for_new_connections(proxy: FaultProxy, server: TcpServer) -> None:
    proxy.blackhole(new=True)
    async with dialed(proxy) as client:
        await client.send(b"anybody?")
        await proxy.until(lambda: proxy.to_server.swallowed == 8)
        assert client.silent()
        assert not server.streams
        assert proxy.connections == 0
        proxy.calm()
        async with joined(proxy, server):
            assert client.silent()
        proxy.heal()
        with pytest.raises(ConnectionResetError):
            await client.rest()


@pytest.mark.parametrize("direction", DIRECTIONS)
async def test_half_open_swallows_one_way(proxy: FaultProxy, server: TcpServer, direction: Direction) -> None:
    async with joined(proxy, server) as (client, there):
        source, destination = ends(direction, client, there)
        proxy.half_open(direction)
        await source.send(b"lost")
        await proxy.until(lambda: proxy.to_server.swallowed + proxy.to_client.swallowed == 4)
        await destination.send(b"found")
        assert await source.get(5) == b"found"
        source.writer.write_eof()
        await destination.send(b"still")
        assert await source.get(5) == b"still"
        assert destination.silent()
        await destination.close()
        assert await source.rest() == b""
        await proxy.disconnected()


async def test_half_open_for_new_connections(proxy: FaultProxy, server: TcpServer) -> None:
    proxy.half_open("to_client", new=True)
    async with joined(proxy, server) as (client, there):
        await client.send(b"hello")
        assert await there.get(5) == b"hello"
        await there.send(b"lost")
        await proxy.until(lambda: proxy.to_client.swallowed == 4)
        assert client.silent()


# Cut at a byte. At a frame: test_proxy_frames.py.


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("ending", ["fin", "rst", "blackhole"])
async def test_cut_at_a_byte(proxy: FaultProxy, server: TcpServer, direction: Direction, ending: Ending) -> None:
    async with joined(proxy, server) as (client, there):
        source, destination = ends(direction, client, there)
        await source.send(b"before")
        assert await destination.get(6) == b"before"
        proxy.cut_at(direction, byte=8, ending=ending)
        await source.send(b"1234567")
        assert await destination.get(7) == b"1234567"
        assert proxy.connections == 1
        await source.send(b"89")
        if ending == "fin":
            assert await destination.rest() == await source.rest() == b""
        elif ending == "rst":
            for side in (destination, source):
                with pytest.raises(ConnectionResetError):
                    await side.rest()
        else:
            await proxy.until(lambda: proxy.to_server.swallowed + proxy.to_client.swallowed == 2)
            assert destination.silent()
        assert proxy.to_server.bytes + proxy.to_client.bytes == 13
        async with joined(proxy, server) as (again, there_again):
            await again.send(b"x" * 100)
            assert await there_again.get(100) == b"x" * 100


async def test_cut_as_soon_as_a_byte_has_passed(proxy: FaultProxy, server: TcpServer) -> None:
    proxy.cut_at("to_server", byte=1_000_000, passing="all")
    async with joined(proxy, server) as (client, there):
        client.writer.write(b"x" * 1_000_000)
        assert await there.rest() == b"x" * 1_000_000
        assert proxy.to_server.bytes == 1_000_000


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the kernel cannot be asked what has arrived")
async def test_what_passes_before_a_reset_arrives(proxy: FaultProxy) -> None:
    size = 1_000_000

    def send(client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            client.sendall(b"x" * size)

    def elsewhere(server: socket.socket) -> int:
        with socket.create_connection(("127.0.0.1", proxy.port), timeout=PATIENCE) as client:
            there, _ = server.accept()
            sending = threading.Thread(target=send, args=(client,))
            sending.start()
            arrived = 0
            with there, contextlib.suppress(ConnectionResetError):
                while piece := there.recv(65_536):
                    arrived += len(piece)
            sending.join()
            return arrived

    with socket.create_server(("127.0.0.1", 0)) as server:
        proxy.target = server.getsockname()
        for number in range(1, 6):
            proxy.cut_at("to_server", byte=size, passing="all", ending="rst")
            assert await within(asyncio.to_thread(elsewhere, server)) == size
            assert proxy.to_server.bytes == number * size


async def test_a_cut_that_is_reached_but_waits_can_be_called_off(
    proxy: FaultProxy, server: TcpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reliable_emit.testing.pipe._unsent", lambda _: True)
    monkeypatch.setattr("reliable_emit.testing.pipe._UNSENT", 1000.0)
    offs: list[Callable[[], None]] = [proxy.heal, proxy.calm, lambda: proxy.cut_at("to_server", byte=1_000_000)]
    for off in offs:
        async with joined(proxy, server) as (client, there):
            proxy.cut_at("to_server", byte=3, passing="all", ending="rst", each=True)
            await client.send(b"123456")
            assert await there.get(3) == b"123"
            await there.send(b"too late")
            await proxy.until(lambda: proxy.to_client.under_way == 8)
            assert there.silent()
            assert client.silent()
            assert proxy.connections == 1
            off()
            assert await client.get(8) == b"too late"
            assert await there.get(3) == b"456"
            await client.send(b"7")
            assert await there.get(1) == b"7"


async def test_cut_each_connection_until_healed(proxy: FaultProxy, server: TcpServer) -> None:
    proxy.cut_at("to_server", byte=3, each=True)
    for _ in range(3):
        async with joined(proxy, server) as (client, there):
            await client.send(b"1234")
            assert await there.rest() == b"12"
    proxy.heal()
    async with joined(proxy, server) as (client, there):
        await client.send(b"1234")
        assert await there.get(4) == b"1234"


async def test_only_the_first_that_gets_there_is_cut(proxy: FaultProxy, server: TcpServer) -> None:
    async with joined(proxy, server) as (one, there_one), joined(proxy, server) as (two, there_two):
        proxy.cut_at("to_server", byte=3)
        await one.send(b"12")
        await two.send(b"1234")
        assert await there_two.rest() == b"12"
        await one.send(b"34")
        assert await there_one.get(4) == b"1234"


# Refuse.


async def test_refuse_is_a_refusal_and_leaves_connections_alone(proxy: FaultProxy, server: TcpServer) -> None:
    async with joined(proxy, server) as (client, there):
        for _ in range(3):
            proxy.refuse()
            proxy.refuse()
            assert await refused(proxy)
            await client.send(b"still")
            assert await there.get(5) == b"still"
            with pytest.raises(OSError, match="in use"), socket.socket() as other:
                other.bind(("127.0.0.1", proxy.port))
            with pytest.raises(OSError, match="in use"):
                socket.create_server(("127.0.0.1", proxy.port))  # it shares, as all servers do
            proxy.accept()
            proxy.accept()
            assert not await refused(proxy)


async def test_refuse_and_accept_without_a_pause(proxy: FaultProxy, server: TcpServer) -> None:
    for _ in range(20):
        proxy.refuse()
        proxy.accept()
        proxy.refuse()
        assert await refused(proxy)
        proxy.accept()
        async with joined(proxy, server) as (client, there):
            await client.send(b"x")
            assert await there.get(1) == b"x"


async def test_refuse_can_end_what_there_is(proxy: FaultProxy, server: TcpServer) -> None:
    async with joined(proxy, server) as (client, _):
        proxy.refuse(ending="rst")
        with pytest.raises(ConnectionResetError):
            await client.rest()
        assert await refused(proxy)
        proxy.heal()
        assert not await refused(proxy)


async def test_it_accepts_again_after_an_error(
    proxy: FaultProxy, server: TcpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    accept, failed = socket.socket.accept, asyncio.Event()

    def fail(listening: socket.socket) -> tuple[socket.socket, object]:
        if listening.getsockname()[1] != proxy.port:
            return accept(listening)
        monkeypatch.setattr(socket.socket, "accept", accept)
        failed.set()
        raise OSError(errno.EMFILE, "too many open files")

    monkeypatch.setattr(socket.socket, "accept", fail)
    async with joined(proxy, server):
        assert failed.is_set()
        assert proxy.connected_total == 1


async def test_it_works_in_a_loop_that_knows_no_readers(server: TcpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    sock_accept, failed = loop.sock_accept, asyncio.Event()

    def unknown(*_: object) -> None:
        raise NotImplementedError

    async def fail(listening: socket.socket) -> tuple[socket.socket, object]:
        monkeypatch.setattr(loop, "sock_accept", sock_accept)
        failed.set()
        raise OSError(errno.EMFILE, "too many open files")

    monkeypatch.setattr(loop, "add_reader", unknown)
    monkeypatch.setattr(loop, "sock_accept", fail)
    async with FaultProxy("127.0.0.1", server.port) as proxy:
        await within(failed.wait())
        for _ in range(3):
            async with joined(proxy, server) as (client, there):
                await client.send(b"x")
                assert await there.get(1) == b"x"
                proxy.refuse()
                assert await refused(proxy)
                proxy.accept()
                proxy.reset()
                assert await ending_of(client) == await ending_of(there) == "rst"


async def test_a_connection_that_is_accepted_while_it_closes_is_closed(server: TcpServer) -> None:
    for rounds in range(8):
        proxy = FaultProxy("127.0.0.1", server.port)
        await proxy.start()
        async with dialed(proxy) as client:
            await settle(rounds)
            await proxy.close()
            with contextlib.suppress(ConnectionResetError):
                assert await client.rest() == b""
        assert not proxy._network.connections
        gc.collect()  # a socket that nobody has closed would be noticed here


async def test_it_can_start_refusing(server: TcpServer) -> None:
    proxy = FaultProxy("127.0.0.1", server.port)
    proxy.refuse()
    async with proxy:
        assert await refused(proxy)
        proxy.accept()
        assert not await refused(proxy)


# Waiting, and ending.


async def test_what_is_waited_for_in_vain_is_told(proxy: FaultProxy, server: TcpServer) -> None:
    async with joined(proxy, server) as (client, there):
        await client.send(b"abc")
        await proxy.passed("to_server", bytes=3)
        with pytest.raises(TimeoutError, match=r"not in 0.01 s; .*1 connections.*bytes=3"):
            await proxy.passed("to_server", bytes=4, timeout=0.01)
        assert await there.get(3) == b"abc"


async def test_closing_ends_connections_and_those_who_wait(proxy: FaultProxy, server: TcpServer) -> None:
    async with joined(proxy, server) as (client, there):
        waiting = asyncio.ensure_future(proxy.connected(2))
        await settle()
        await proxy.close()
        with pytest.raises(RuntimeError, match="closed"):
            await waiting
        assert await client.rest() == await there.rest() == b""
    assert await refused(proxy)
    await proxy.close()
    for call in (proxy.cut, proxy.reset, proxy.blackhole, proxy.heal, proxy.refuse, proxy.freeze):
        call()
    with pytest.raises(RuntimeError, match="not running"):
        await proxy.connected()
    with pytest.raises(RuntimeError, match="not running"):
        _ = proxy.url
    with pytest.raises(RuntimeError, match="once"):
        await proxy.start()


async def test_closing_is_quick_whatever_state_it_is_in(server: TcpServer) -> None:
    for prepare in ("freeze", "blackhole", "refuse", "cut"):
        proxy = FaultProxy("127.0.0.1", server.port)
        await proxy.start()
        async with joined(proxy, server) as (client, there):
            await there.close() if prepare == "blackhole" else None
            getattr(proxy, prepare)()
            client.writer.write(b"x" * BIG)
            await settle()
            async with asyncio.timeout(2.5):
                await proxy.close()
        server.streams.clear()


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts descriptors in /proc")
async def test_nothing_is_left_open(server: TcpServer) -> None:
    def descriptors() -> int:
        gc.collect()
        return len(os.listdir("/proc/self/fd"))

    async def once() -> None:
        async with FaultProxy("127.0.0.1", server.port) as proxy:
            for call in (proxy.cut, proxy.reset, proxy.blackhole, proxy.freeze, proxy.refuse):
                async with joined(proxy, server) as (client, _):
                    await client.send(b"x")
                    call()
                proxy.heal()
                server.streams[-1].writer.transport.abort()
                server.streams.clear()
                proxy._network.joined_total = 0
            await proxy.until(lambda: not proxy._network.connections)

    await once()
    await settle()
    before, tasks = descriptors(), asyncio.all_tasks()
    for _ in range(5):
        await once()
    await settle()
    assert descriptors() <= before
    assert asyncio.all_tasks() == tasks


async def test_a_taken_port_is_an_error_and_leaves_nothing(server: TcpServer) -> None:
    proxy = FaultProxy("127.0.0.2", server.port, port=server.port)
    with pytest.raises(OSError, match="in use"):
        await proxy.start()
    async with FaultProxy("127.0.0.1", server.port) as other:
        port = other.port
    async with FaultProxy("127.0.0.1", server.port, port=port) as given:
        assert given.port == port
        assert given.url == f"http://127.0.0.1:{port}"
        async with joined(given, server):
            pass


async def test_it_can_be_used_from_another_thread_and_another_loop(proxy: FaultProxy, server: TcpServer) -> None:
    def elsewhere() -> tuple[int, bool]:
        asyncio.run(proxy.connected(1))
        proxy.cut()
        with pytest.raises(ValueError, match="seconds"):
            proxy.latency(-1)
        asyncio.run(proxy.disconnected())
        with pytest.raises(TimeoutError):
            asyncio.run(proxy.connected(2, timeout=0.01))
        return proxy.connections, proxy.run(lambda: threading.current_thread() is threading.main_thread())

    async with joined(proxy, server) as (client, _):
        assert await within(asyncio.to_thread(elsewhere)) == (0, True)
        assert await client.rest() == b""


async def test_wrong_arguments_are_refused_where_they_are_given(proxy: FaultProxy, tmp_path: Path) -> None:
    wrong: list[tuple[type[Exception], str, Callable[[], object]]] = [
        (ValueError, "port", lambda: FaultProxy("127.0.0.1", 0)),
        (ValueError, "port", lambda: FaultProxy("127.0.0.1", 70_000)),
        (TypeError, "host", lambda: FaultProxy(tmp_path, 1)),  # type: ignore[arg-type]
        (TypeError, "host is 5", lambda: FaultProxy("127.0.0.1", 1, host=5)),  # type: ignore[arg-type]
        (TypeError, "host is None", lambda: FaultProxy("127.0.0.1", 1, host=None)),  # type: ignore[arg-type]
        (ValueError, "host is ''", lambda: FaultProxy("127.0.0.1", 1, host="")),
        (ValueError, "target's host is ''", lambda: FaultProxy("", 1)),
        (ValueError, "target's host", lambda: FaultProxy("http://localhost:3000", 1)),
        (ValueError, "target's host", lambda: FaultProxy("a..b", 1)),
        (ValueError, "target's host", lambda: FaultProxy("a\0b", 1)),
        (ValueError, "itself", lambda: FaultProxy("127.0.0.1", 9, port=9)),
        (ValueError, "itself", lambda: setattr(proxy, "target", ("127.0.0.1", proxy.port))),
        (TypeError, "target is None", lambda: setattr(proxy, "target", None)),
        (TypeError, "target is 'ab'", lambda: setattr(proxy, "target", "ab")),
        (TypeError, "target", lambda: setattr(proxy, "target", ("a", 1, 2))),
        (TypeError, "seed", lambda: FaultProxy("127.0.0.1", 1, seed="x")),  # type: ignore[arg-type]
        (TypeError, "port is '1'; give a whole number$", lambda: FaultProxy("127.0.0.1", "1")),  # type: ignore[arg-type]
        (ValueError, "bytes_per_second", lambda: proxy.bandwidth(10**400)),
        (ValueError, "direction", lambda: proxy.half_open(None)),  # type: ignore[arg-type]
        (TypeError, "port", lambda: FaultProxy("127.0.0.1", "1")),  # type: ignore[arg-type]
        (ValueError, "seconds", lambda: proxy.latency(-1)),
        (ValueError, "jitter", lambda: proxy.latency(1, float("nan"))),
        (ValueError, "direction", lambda: proxy.latency(1, direction="up")),  # type: ignore[arg-type]
        (ValueError, "direction", lambda: proxy.half_open("up")),  # type: ignore[arg-type]
        (ValueError, "bytes_per_second", lambda: proxy.bandwidth(0)),
        (ValueError, "byte or frame", lambda: proxy.cut_at("to_server")),
        (ValueError, "byte or frame", lambda: proxy.cut_at("to_server", byte=1, frame=1)),
        (ValueError, "frame", lambda: proxy.cut_at("to_server", frame=0)),
        (ValueError, "half", lambda: proxy.cut_at("to_server", byte=1, passing="half")),
        (ValueError, "ending", lambda: proxy.cut_at("to_server", byte=1, ending="bang")),  # type: ignore[arg-type]
        (ValueError, "passing", lambda: proxy.cut_at("to_server", byte=1, passing="some")),  # type: ignore[arg-type]
        (ValueError, "ending", lambda: proxy.refuse(ending="bang")),  # type: ignore[arg-type]
    ]
    for error, names, call in wrong:
        with pytest.raises(error, match=names):
            call()
    for waiting in (proxy.passed("up"), proxy.passed("to_server", bytes=-1), proxy.connected(-1)):  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=r"direction|bytes|total"):
            await waiting

    async def never() -> bool:
        return False

    for no_answer in (5, never, functools.partial(asyncio.sleep, 0)):
        with pytest.raises(TypeError, match="at once"):
            await proxy.until(no_answer, timeout=PATIENCE)  # type: ignore[arg-type]


async def test_a_name_that_is_none_resets_the_client(proxy: FaultProxy) -> None:
    proxy._network.target = ("a..b", 80)  # other errors than this one are known only to those who look the name up
    async with dialed(proxy) as client:
        assert await ending_of(client) == "rst"
    await proxy.until(lambda: not proxy._network.connections)


# In another thread than the proxy's.


async def test_connections_can_be_counted_while_they_come_and_go(proxy: FaultProxy, server: TcpServer) -> None:
    there = proxy._network.connections

    class Coming:
        """Where another thread may be let in, one more connection is made."""

        over = False

        @property
        def through(self) -> bool:
            there.add(Coming())  # type: ignore[arg-type]
            return True

    async with joined(proxy, server):
        there.add(Coming())  # type: ignore[arg-type]
        assert proxy.connections == 2
        assert "3 connections" in repr(proxy)
        there.difference_update([each for each in there if isinstance(each, Coming)])


async def test_what_is_raised_in_the_proxys_thread_is_raised_where_it_was_called(proxy: FaultProxy) -> None:
    def fail() -> None:
        pytest.fail("the reason")

    def elsewhere() -> None:
        with pytest.raises(pytest.fail.Exception, match="the reason"):
            proxy.run(fail)

    await within(asyncio.to_thread(elsewhere))


async def test_what_a_busy_loop_has_not_done_in_time_it_does_not_do_later(
    server: TcpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reliable_emit.testing.plain._PROMPT", 0.2)
    called, go_on = threading.Event(), threading.Event()
    with Background() as background:
        proxy = FaultProxy("127.0.0.1", server.port)
        background.run(proxy.start())

        def block() -> None:
            called.set()
            go_on.wait(PATIENCE)

        background._loop.call_soon_threadsafe(block)
        assert called.wait(PATIENCE)
        with pytest.raises(TimeoutError, match=r"busy.*refuse\(\) was not done"):
            proxy.refuse()
        with pytest.raises(TimeoutError, match="busy"):
            await proxy.close()
        go_on.set()
        await asyncio.to_thread(proxy.run, lambda: None)
        assert proxy._network._accept

        def slow() -> str:
            time.sleep(0.5)
            return "done"

        assert await within(asyncio.to_thread(proxy.run, slow)) == "done"


async def test_a_loop_that_stands_still_is_an_error_and_no_wait(server: TcpServer) -> None:
    def elsewhere() -> None:
        loop = asyncio.new_event_loop()
        proxy = FaultProxy("127.0.0.1", server.port)
        loop.run_until_complete(proxy.start())
        for call in (proxy.close, proxy.connected):
            with pytest.raises(RuntimeError, match="does not run"):
                asyncio.run(call())
        loop.run_until_complete(proxy.close())
        loop.close()
        asyncio.run(proxy.close())

    await within(asyncio.to_thread(elsewhere))
