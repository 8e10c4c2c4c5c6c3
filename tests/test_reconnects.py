"""Many reconnections in a row: each one succeeds, and nothing of them is left."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import logging
import os
import statistics
import sys
import threading
from typing import TYPE_CHECKING

import pytest
import socketio
import tenacity

from fault_server import ServerProcess
from reliable_emit import ReliableClient
from reliable_emit.server import ReferenceServer
from reliable_emit.testing import FaultProxy
from support import PATIENCE, Log, within

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from reliable_emit.testing import Ending

AT_ONCE = tenacity.wait_none()


@pytest.mark.parametrize("ending", ["rst", "fin"])
async def test_a_connection_that_is_lost_as_soon_as_it_is_made(ending: Ending) -> None:
    async with (
        ReferenceServer(":memory:") as server,
        FaultProxy("127.0.0.1", server.port) as proxy,
        ReliableClient(socketio.AsyncClient(), client_offset=True, max_losses=None) as client,
    ):
        await client.connect(proxy.url, transports="websocket", reconnect_backoff=AT_ONCE)
        # The second frame is the one that accepts the namespace.
        proxy.cut_at("to_client", frame=2, passing="all", ending=ending, each=True)
        proxy.reset()
        await proxy.connected(50)
        proxy.heal()
        await within(client.call("chat message", "at last"))


class Census:
    """What there is in this process."""

    def __init__(self, sio: socketio.AsyncClient) -> None:
        self._sio = sio

    def take(self) -> dict[str, int]:
        return {
            "tasks": len(asyncio.all_tasks()),
            "callbacks": sum(map(len, self._sio.callbacks.values())),
            "files": len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else 0,
            "threads": threading.active_count(),
        }

    async def when_quiet(self) -> dict[str, int]:
        """What there is when what has ended is gone."""
        async with asyncio.timeout(PATIENCE):
            before, same = self.take(), 0
            while same < 20:
                await asyncio.sleep(0.02)
                now = self.take()
                before, same = now, (same + 1 if now == before else 0)
        return before


def blocks() -> int:
    """How many blocks of memory are in use; nearly every object of Python's is at least one."""
    gc.collect()  # it empties the lists of objects that are kept to be used again, too
    return sys.getallocatedblocks()


@contextlib.asynccontextmanager
async def another_process() -> AsyncIterator[int]:
    """A server whose tasks and memory are its own; gives its port."""
    process = ServerProcess(":memory:", ping=20)
    try:
        await process.start()
        yield process.port
    finally:
        await process.kill()


# Over polling, requests are made again on another connection, and only the server can end a session in idle times.
# Fewer there: with the lowest version of aiohttp, each takes a tenth of a second.
@pytest.mark.parametrize(
    ("transport", "ways", "count"),
    [("websocket", ("reset", "cut", "kick"), 1000), ("polling", ("kick",), 250)],
    ids=["websocket", "polling"],
)
async def test_a_thousand_reconnections_leave_nothing(
    transport: str, ways: tuple[str, ...], count: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "reliable_emit")  # pytest would keep what is logged
    async with (
        another_process() as port,
        FaultProxy("127.0.0.1", port) as proxy,
        ReliableClient(sio := socketio.AsyncClient(), client_offset=True) as client,
    ):
        ups: Log[str] = Log()
        client.on("connected", ups.add)
        await client.connect(proxy.url, auth={"serverOffset": 2**62}, transports=transport, reconnect_backoff=AT_ONCE)

        await ups.has(1)
        ups.clear()

        async def reconnect(total: int) -> None:
            while (made := len(ups)) < total:
                way = ways[made % len(ways)]
                if way == "kick":
                    await sio.emit("kick me")
                else:
                    getattr(proxy, way)()
                await ups.has(made + 1)
                await within(client.call("chat message", "still there"))
            ups.clear()

        census = Census(sio)
        used = []
        await reconnect(10)
        first = await census.when_quiet()
        step = count // 5
        for more in (step - 10, step, step, step, step):
            await reconnect(more)
            await census.when_quiet()
            used.append(blocks())
        assert await census.when_quiet() == first
        assert client.stats.connected == count + 1
        # Of a connection that stays, there are dozens: more than a thousand in a step. What comes and goes, such as
        # timers that are not due yet, is as much, up or down.
        assert statistics.median(after - before for before, after in itertools.pairwise(used)) < 1000, used


async def test_a_client_that_is_disconnected_as_soon_as_it_is_connected() -> None:
    async with (
        ReferenceServer(":memory:") as server,
        ReliableClient(sio := socketio.AsyncClient(), client_offset=True, max_losses=None) as client,
    ):
        ups: Log[str] = Log()

        async def kick(socket_id: str) -> None:
            if len(ups) < 30:
                await server.sio.disconnect(socket_id)
            ups.add(socket_id)

        async def on_disconnect(_reason: str) -> None:
            await asyncio.sleep(0.001 * (len(ups) % 3))  # so that it is over sooner or later than the reconnection

        client.on("connected", kick)
        sio.on("disconnect", on_disconnect)
        await client.connect(server.url, transports="websocket", reconnect_backoff=AT_ONCE)
        await ups.has(31)
        await within(client.call("chat message", "at last"))
