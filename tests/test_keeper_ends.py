"""Connections that end in unusual ways: a goodbye that gets stuck, a wait that is cancelled, a handler that is slow."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from typing import TYPE_CHECKING

import pytest
import tenacity

from keeper_support import BOUND, QUICK, Kept, kept, until, works
from reliable_emit.testing import FaultProxy
from support import Server, within

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

MEGABYTES = 10_000_000
"""More than the kernels' buffers take."""


@pytest.fixture
async def proxy() -> AsyncIterator[FaultProxy]:
    async with Server(max_http_buffer_size=100_000_000) as server, FaultProxy("127.0.0.1", server.port) as proxy:
        yield proxy


def read_no_more(proxy: FaultProxy) -> None:
    """Take nothing more from the clients that are connected now; freezing would concern the next ones, too."""
    for pipe in proxy._network.pipes("to_server"):
        assert pipe.source is not None
        pipe.source.pause_reading()


async def stuck(it: Kept, proxy: FaultProxy) -> asyncio.Task[None]:
    """Disconnect by hand while a peer that reads no more has megabytes to read."""
    read_no_more(proxy)
    await it.sio.emit("sink", b"x" * MEGABYTES)
    await until(it.sio.eio.queue.empty)
    leaving: asyncio.Task[None] = asyncio.ensure_future(it.sio.disconnect())
    await until(lambda: it.sio.eio.state == "disconnecting")
    return leaving


@pytest.mark.parametrize("kept_here", [True, False])
async def test_a_goodbye_that_is_stuck_ends_all_the_same(proxy: FaultProxy, kept_here: bool) -> None:
    async with kept(proxy.url if kept_here else None) as it:
        if not kept_here:
            await it.sio.connect(proxy.url, transports=["websocket"])
        started = time.perf_counter()
        await within(await stuck(it, proxy))
        assert time.perf_counter() - started < BOUND
        assert it.sio.eio.state == "disconnected"


async def test_a_goodbye_takes_the_time_it_needs() -> None:
    """What was written before is not cut off."""
    async with Server(max_http_buffer_size=100_000_000) as server, FaultProxy("127.0.0.1", server.port) as slow:
        await a_slow_goodbye(server, slow)


async def a_slow_goodbye(server: Server, slow: FaultProxy) -> None:
    async with kept(slow.url) as it:
        # On a slow line nothing in between takes megabytes at once, as the kernel of the proxy would.
        for pipe in slow._network.pipes("to_server"):
            assert pipe.source is not None
            pipe.source.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        slow.bandwidth(3_000_000, direction="to_server")
        await it.sio.emit("sink", b"x" * MEGABYTES)
        await until(it.sio.eio.queue.empty)  # python-socketio may close the WebSocket before it has begun to write
        await within(it.sio.disconnect())
        await server.received.has(1)
        assert len(server.received[0].arguments[0]) == MEGABYTES


async def test_connect_gets_past_a_goodbye_that_is_stuck(proxy: FaultProxy) -> None:
    async with kept(proxy.url) as it:
        leaving = await stuck(it, proxy)
        await within(it.client.connect(proxy.url, **QUICK))
        await works(it)
        await within(leaving)
        await works(it)


_PROGRAM = """
import asyncio, sys, socketio
from reliable_emit import ReliableClient

async def main(url):
    sio = socketio.AsyncClient()
    async with ReliableClient(sio) as client:
        await client.connect(url, transports="websocket")
        print("connected", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        await client.emit("sink", b"x" * 10_000_000)
        while sio.eio.queue.empty():
            await asyncio.sleep(0)
        while not sio.eio.queue.empty():
            await asyncio.sleep(0.01)
        print("queued", flush=True)
        await asyncio.sleep(3600)

asyncio.run(main(sys.argv[1]))
"""


async def test_ctrl_c_while_a_write_is_stuck_ends_a_program(proxy: FaultProxy) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        _PROGRAM,
        proxy.url,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        assert await within(process.stdout.readline()) == b"connected\n"
        proxy.freeze()
        process.stdin.write(b"go\n")
        assert await within(process.stdout.readline()) == b"queued\n"
        started = time.perf_counter()
        process.send_signal(signal.SIGINT)
        await within(process.wait())
        assert time.perf_counter() - started < 2 * BOUND
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


@pytest.mark.parametrize("transport", ["websocket", "polling"])
async def test_a_wait_that_is_cancelled_costs_the_connection_and_nothing_else(server: Server, transport: str) -> None:
    """``AsyncClient.wait`` awaits Engine.IO's read loop itself, so that cancelling the one cancels the other."""
    async with kept(server, connect={"transports": transport}) as it:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(it.sio.wait(), 0.05)
        await it.ups.has(2)
        assert it.downs == ["transport error"]
        await works(it)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(it.sio.wait(), 0.05)
        await within(it.client.close(timeout=0))
        assert it.sio.eio.state == "disconnected"


async def test_a_wait_that_is_cancelled_while_reconnecting_does_not_end_that(server: Server) -> None:
    async with kept(server, connect={"reconnect_backoff": tenacity.wait_fixed(0.2)}) as it:
        await server.stop()
        await until(lambda: it.sio._reconnect_task is not None)
        waiting = asyncio.ensure_future(it.sio.wait())
        reconnecting = it.sio._reconnect_task
        await until(lambda: waiting._fut_waiter is reconnecting)
        waiting.cancel()
        await until(reconnecting.done)
        await server.start()
        await it.ups.has(2)
        await works(it)


_TIDY = """
import asyncio, sys, socketio
from reliable_emit import ReliableClient

async def main(url):
    sio = socketio.AsyncClient(handle_sigint=False)
    client = ReliableClient(sio)
    await client.connect(url, transports="websocket")
    print("connected", flush=True)
    if sys.argv[2] == "reconnecting":
        while client.state.next_in is None:
            await asyncio.sleep(0.01)
    print("leaving", flush=True)
    return sio, client

asyncio.run(main(sys.argv[1]))
"""


@pytest.mark.parametrize("phase", ["connected", "reconnecting"])
async def test_a_program_that_ends_without_closing_leaves_no_task_pending(server: Server, phase: str) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _TIDY, server.url, phase, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    assert await within(process.stdout.readline()) == b"connected\n"
    if phase == "reconnecting":
        await server.stop()
    said, complained = await within(process.communicate())
    assert said == b"leaving\n"
    assert b"pending" not in complained, complained.decode()
    assert process.returncode == os.EX_OK


@pytest.mark.parametrize("stubborn", [False, True])
async def test_a_disconnect_handler_that_is_slow_is_left_alone_after_a_recycling(
    proxy: FaultProxy, stubborn: bool
) -> None:
    async with kept(proxy.url, ack_timeout=1.0) as it:

        async def on_disconnect(_reason: str) -> None:
            it.seen.add("begun")
            try:
                await asyncio.sleep(2)
                it.seen.add("over")
            except asyncio.CancelledError:
                it.seen.add("cancelled")
                if stubborn:
                    await asyncio.sleep(1)
                raise

        it.sio.on("disconnect", on_disconnect)
        await works(it)
        proxy.blackhole()
        await works(it, "again")
        assert it.seen == ["begun", "over"]
        assert it.client.stats.recycled == 1
        it.sio.on("disconnect", lambda _reason: None)
