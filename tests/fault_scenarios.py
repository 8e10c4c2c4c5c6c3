"""The faults: what is done to a connection while messages are sent on it."""

from __future__ import annotations

import asyncio
import dataclasses
import signal
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from aiohttp import web

from fault_stage import PING, Outcome, Stage

if TYPE_CHECKING:
    from reliable_emit.server import ReferenceServer

WATCH = 20.0
"""Seconds for which somebody who does not send again is watched."""
_HOURS = 3 * 3600


@dataclasses.dataclass(frozen=True)
class Scenario:
    """One fault.

    Attributes:
        name: What happens.
        play: Does it.
        bound: Seconds within which a reliable client sends again, on a busy machine.
        alone: It turns the clock, so that nothing else may run in that event loop.
        silent: Nobody is told, so that a client that is to notice soon must notice the silence.
    """

    name: str
    play: Callable[[Stage], Awaitable[None]]
    bound: float = 5.0
    alone: bool = False
    silent: bool = False

    async def run(self, stage: Stage, watch: float = WATCH) -> Outcome:
        """Do it, see that it was done, and return what became of the messages."""
        await self.play(stage)
        outcome = await stage.outcome(watch)
        assert stage.evidence(), f"{self.name}: that did not happen"
        return outcome


async def sigkill(stage: Stage) -> None:
    process = await stage.serve_in_process()
    await stage.begin(process.url)
    stage.broken()
    killed = await process.kill()
    stage.evidence = lambda: killed == -signal.SIGKILL
    await process.start()
    stage.well()


async def sigstop(stage: Stage) -> None:
    process = await stage.serve_in_process()
    await stage.begin(process.url)
    stage.broken()
    process.signal(signal.SIGSTOP)
    before = len(stage.side.acknowledged)
    await asyncio.sleep(2 * PING + 1)
    acknowledged = len(stage.side.acknowledged) - before
    stage.evidence = lambda: acknowledged <= 2  # those that were on their way; it would be dozens otherwise
    stage.broken()  # what was emitted meanwhile may have arrived
    process.signal(signal.SIGCONT)
    stage.well()


def reset(stage: Stage) -> None:
    """RST, on a connection that there is."""
    assert stage.proxy.connections
    stage.proxy.reset()
    assert not stage.proxy.connections


async def rst(stage: Stage) -> None:
    await stage.begin()
    stage.broken()
    reset(stage)
    stage.evidence = lambda: stage.proxy.connected_total > 1


async def blackhole(stage: Stage) -> None:
    await stage.begin()
    stage.broken()
    stage.proxy.blackhole()
    stage.evidence = lambda: stage.proxy.to_server.swallowed > 0


async def half_open_to_server(stage: Stage) -> None:
    await stage.begin()
    stage.broken()
    stage.proxy.half_open("to_server")
    stage.evidence = lambda: stage.proxy.to_server.swallowed > 0


async def half_open_to_client(stage: Stage) -> None:
    await stage.begin()
    stage.broken()
    stage.proxy.half_open("to_client")
    stage.evidence = lambda: stage.proxy.to_client.swallowed > 0


async def blocked_write(stage: Stage) -> None:
    await stage.through_proxy()
    ways = [stage.server.url, stage.proxy.url]
    await stage.begin(lambda: ways[-1])
    stage.broken()
    ways.pop()
    stage.proxy.freeze()
    passed = stage.proxy.to_server.bytes
    stage.evidence = lambda: stage.proxy.to_server.bytes == passed
    await stage.side.sio.emit("upload", bytes(10_000_000))


async def kick(stage: Stage) -> None:
    await stage.begin()
    stage.broken()
    kicked = stage.side.sio.get_sid()
    assert stage.server.sio.manager.is_connected(kicked, "/")
    await stage.server.sio.disconnect(kicked)
    stage.evidence = lambda: not stage.server.sio.manager.is_connected(kicked, "/")


async def slow_accept(stage: Stage) -> None:
    accepted = 0

    async def admit() -> bool:
        nonlocal accepted
        await asyncio.sleep(3)
        accepted += 1
        return True

    await stage.begin()
    stage.admit = admit
    stage.broken()
    reset(stage)
    stage.evidence = lambda: accepted > 0


async def hours_offline(stage: Stage) -> None:
    await stage.through_proxy()
    await stage.begin(stage.server.url)
    port = stage.server.port
    clock = stage.turn()
    stage.broken()
    await stage.server.stop()
    loop = asyncio.get_running_loop()
    since, before = loop.time(), len(stage.side.acknowledged)
    for _ in range(_HOURS // 5):
        await clock.forward(5)
    offline = loop.time() - since if len(stage.side.acknowledged) == before else 0
    stage.evidence = lambda: offline >= _HOURS
    await stage.serve(port)
    stage.well()


async def rejected_twice(stage: Stage) -> None:
    asked = 0

    async def admit() -> bool:
        nonlocal asked
        asked += 1
        return asked > 2

    await stage.begin()
    stage.admit = admit
    stage.broken()
    reset(stage)
    stage.evidence = lambda: asked > 2


async def connect_handler(stage: Stage) -> None:
    entered = asyncio.Event()

    async def on_connect() -> None:
        entered.set()
        await asyncio.sleep(0.5)

    stage.side.sio.on("connect", on_connect)
    await stage.begin()
    entered.clear()
    reset(stage)
    await asyncio.wait_for(entered.wait(), WATCH)
    stage.broken()
    reset(stage)
    stage.evidence = lambda: stage.proxy.connected_total > 1


async def disconnect_handler(stage: Stage) -> None:
    raised = 0

    def on_disconnect(_reason: object) -> None:
        nonlocal raised
        raised += 1
        raise RuntimeError("a mistake in a disconnect handler")

    stage.side.sio.on("disconnect", on_disconnect)
    await stage.begin()
    stage.broken()
    reset(stage)
    stage.evidence = lambda: raised > 0


async def lost_posts(stage: Stage) -> None:
    to_lose = 0

    @web.middleware
    async def lose(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        nonlocal to_lose
        if not to_lose or request.method != "POST":
            return await handler(request)
        to_lose -= 1
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    def prepare(server: ReferenceServer) -> None:
        server.app.middlewares.append(lose)

    await stage.serve(prepare=prepare)
    await stage.begin(transports="polling")
    stage.broken()
    to_lose = 3
    stage.evidence = lambda: to_lose == 0


async def another_port(stage: Stage) -> None:
    await stage.serve()
    await stage.begin(lambda: stage.server.url)
    stage.broken()
    before = stage.server.url
    await stage.server.stop()
    await stage.serve()
    stage.evidence = lambda: stage.server.url != before
    stage.well()


SCENARIOS = [
    Scenario("the server is killed (SIGKILL), and started again", sigkill),
    Scenario("the server is stopped (SIGSTOP) for longer than a ping takes, and continued", sigstop, silent=True),
    Scenario("RST", rst),
    Scenario("blackhole", blackhole, silent=True),
    Scenario("half-open: nothing reaches the server", half_open_to_server, silent=True),
    Scenario("half-open: nothing reaches the client", half_open_to_client, silent=True),
    Scenario("10 MB are being written, and nobody reads", blocked_write, silent=True),
    Scenario("the server disconnects the client", kick),
    Scenario("RST, and the server takes 3 s to accept the next connection", slow_accept, bound=8.0),
    Scenario("three hours offline (on a clock that is turned)", hours_offline, bound=11.0, alone=True),
    Scenario("RST, and the namespace is rejected twice, then accepted", rejected_twice),
    Scenario("RST while the user's connect handler is at work", connect_handler),
    Scenario("RST, and the user's disconnect handler raises", disconnect_handler),
    Scenario("polling, and three POSTs are lost", lost_posts),
    Scenario("the server comes back on another port; the URL is a function", another_port),
]
