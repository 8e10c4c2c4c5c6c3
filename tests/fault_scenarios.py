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
    """

    name: str
    play: Callable[[Stage], Awaitable[None]]
    bound: float = 5.0
    alone: bool = False

    async def run(self, stage: Stage, watch: float = WATCH) -> Outcome:
        """Do it, and return what became of the messages."""
        await self.play(stage)
        return await stage.outcome(watch)


async def sigkill(stage: Stage) -> None:
    process = await stage.serve_in_process()
    await stage.begin(process.url)
    stage.broken()
    await process.kill()
    await process.start()
    stage.well()


async def sigstop(stage: Stage) -> None:
    process = await stage.serve_in_process()
    await stage.begin(process.url)
    stage.broken()
    process.signal(signal.SIGSTOP)
    await asyncio.sleep(2 * PING + 1)
    stage.broken()  # what was emitted meanwhile may have arrived
    process.signal(signal.SIGCONT)
    stage.well()


async def rst(stage: Stage) -> None:
    await stage.begin()
    stage.broken()
    stage.proxy.reset()


async def blackhole(stage: Stage) -> None:
    await stage.begin()
    stage.broken()
    stage.proxy.blackhole()


async def half_open_to_server(stage: Stage) -> None:
    await stage.begin()
    stage.broken()
    stage.proxy.half_open("to_server")


async def half_open_to_client(stage: Stage) -> None:
    await stage.begin()
    stage.broken()
    stage.proxy.half_open("to_client")


async def blocked_write(stage: Stage) -> None:
    await stage.through_proxy()
    ways = [stage.server.url, stage.proxy.url]
    await stage.begin(lambda: ways[-1])
    stage.broken()
    ways.pop()
    stage.proxy.freeze()
    await stage.side.sio.emit("upload", bytes(10_000_000))


async def kick(stage: Stage) -> None:
    await stage.begin()
    stage.broken()
    await stage.server.sio.disconnect(stage.side.sio.get_sid())


async def slow_accept(stage: Stage) -> None:
    async def admit() -> bool:
        await asyncio.sleep(3)
        return True

    await stage.begin()
    stage.admit = admit
    stage.broken()
    stage.proxy.reset()


async def hours_offline(stage: Stage) -> None:
    await stage.through_proxy()
    await stage.begin(stage.server.url)
    port = stage.server.port
    clock = stage.turn()
    stage.broken()
    await stage.server.stop()
    for _ in range(_HOURS // 5):
        await clock.forward(5)
    await stage.serve(port)
    stage.well()


async def rejected_twice(stage: Stage) -> None:
    answers = iter((False, False))

    async def admit() -> bool:
        return next(answers, True)

    await stage.begin()
    stage.admit = admit
    stage.broken()
    stage.proxy.reset()


async def connect_handler(stage: Stage) -> None:
    entered = asyncio.Event()

    async def on_connect() -> None:
        entered.set()
        await asyncio.sleep(0.5)

    stage.side.sio.on("connect", on_connect)
    await stage.begin()
    entered.clear()
    stage.proxy.reset()
    await asyncio.wait_for(entered.wait(), WATCH)
    stage.broken()
    stage.proxy.reset()


async def disconnect_handler(stage: Stage) -> None:
    def on_disconnect(_reason: object) -> None:
        raise RuntimeError("a mistake in a disconnect handler")

    stage.side.sio.on("disconnect", on_disconnect)
    await stage.begin()
    stage.broken()
    stage.proxy.reset()


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


async def another_port(stage: Stage) -> None:
    await stage.serve()
    await stage.begin(lambda: stage.server.url)
    stage.broken()
    await stage.server.stop()
    await stage.serve()
    stage.well()


SCENARIOS = [
    Scenario("the server is killed (SIGKILL), and started again", sigkill),
    Scenario("the server is stopped (SIGSTOP) for longer than a ping takes, and continued", sigstop),
    Scenario("RST", rst),
    Scenario("blackhole", blackhole),
    Scenario("half-open: nothing reaches the server", half_open_to_server),
    Scenario("half-open: nothing reaches the client", half_open_to_client),
    Scenario("10 MB are being written, and nobody reads", blocked_write),
    Scenario("the server disconnects the client", kick),
    Scenario("RST, and the server takes 3 s to accept the next connection", slow_accept, bound=8.0),
    Scenario("three hours offline (on a clock that is turned)", hours_offline, bound=11.0, alone=True),
    Scenario("RST, and the namespace is rejected twice, then accepted", rejected_twice),
    Scenario("RST while the user's connect handler is at work", connect_handler),
    Scenario("RST, and the user's disconnect handler raises", disconnect_handler),
    Scenario("polling, and three POSTs are lost", lost_posts),
    Scenario("the server comes back on another port; the URL is a function", another_port),
]
