"""What the tests of the keeper share: a client that is connected by it, and a record of what was told."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import socketio
import tenacity

from reliable_emit import ReliableClient
from support import PATIENCE, Log, Server, within

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

BOUND = 5.0
"""Seconds; what ends in bounded time here is given one second or less, and the machine may be busy."""
QUICK: dict[str, Any] = {"transports": "websocket", "reconnect_backoff": tenacity.wait_fixed(0.02)}


class Kept:
    """A client, and what its hooks and the handlers of the wrapped one were told."""

    def __init__(self, namespace: str = "/", sio: socketio.AsyncClient | None = None, **options: Any) -> None:
        self.sio = sio or socketio.AsyncClient(handle_sigint=False, reconnection_delay=3600)
        self.client = ReliableClient(self.sio, namespace=namespace, **options)
        self.ups: Log[str] = Log()
        self.downs: Log[str] = Log()
        self.attempts: Log[int] = Log()
        self.gave_up: Log[Exception] = Log()
        self.seen: Log[str] = Log()
        self.client.on("connected", self.ups.add)
        self.client.on("disconnected", self.downs.add)
        self.client.on("connecting", self.attempts.add)
        self.client.on("gave_up", self.gave_up.add)


@contextlib.asynccontextmanager
async def kept(
    server: Server | str | None, *, connect: dict[str, Any] | None = None, **given: Any
) -> AsyncIterator[Kept]:
    it = Kept(**given)
    try:
        if server is not None:
            url = server if isinstance(server, str) else server.url
            await within(it.client.connect(url, **(QUICK | (connect or {}))))
            await it.ups.has(1)
        yield it
    finally:
        await it.client.close(timeout=0)
        await it.sio.shutdown()


async def until(true: Any) -> None:
    async with asyncio.timeout(PATIENCE):
        while not true():  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)


async def works(it: Kept, word: str = "fine") -> None:
    assert await within(it.client.call("echo", word)) == word
