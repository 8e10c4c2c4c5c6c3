"""A plain Socket.IO client that remembers what it was sent, for the tests of the reference server."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Self

import socketio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from reliable_emit.server import ReferenceServer

PATIENCE = 20.0


async def store(server: ReferenceServer, text: str, offset: str) -> Any:
    """Have the server store a message, without a connection."""
    return await server._chat._keep(f"the sender of {offset}", text, offset)


async def until(true: Callable[[], object]) -> None:
    """Wait for something that no event tells of."""
    async with asyncio.timeout(PATIENCE):
        while not true():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


class Plain:
    def __init__(self) -> None:
        self.sio = socketio.AsyncClient(reconnection=False)
        self.rows: list[tuple[str, int]] = []
        self.gone = asyncio.Event()
        self._news = asyncio.Condition()
        self.sio.on("chat message", self._on_row)
        self.sio.on("disconnect", self.gone.set)

    async def _on_row(self, text: str, row: int) -> None:
        async with self._news:
            self.rows.append((text, row))
            self._news.notify_all()

    @property
    def texts(self) -> list[str]:
        return [text for text, _ in self.rows]

    @property
    def ids(self) -> list[int]:
        return [row for _, row in self.rows]

    async def connect(self, url: str, auth: Any = None, transports: str = "websocket") -> Self:
        await self.sio.connect(url, auth=auth, transports=transports.split(), wait_timeout=PATIENCE)
        return self

    async def until(self, enough: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE), self._news:
            await self._news.wait_for(enough)

    async def has(self, count: int) -> None:
        await self.until(lambda: len(self.rows) >= count)

    async def say(self, *arguments: Any) -> Any:
        return await self.sio.call("chat message", arguments, timeout=PATIENCE)

    async def no_ack(self, *arguments: Any, seconds: float = 0.25) -> None:
        """Say something that is not acknowledged within that time, on a connection that lives."""
        try:
            reply = await self.sio.call("chat message", arguments, timeout=seconds)
        except socketio.exceptions.TimeoutError:
            assert self.sio.connected
        else:
            raise AssertionError(f"acknowledged with {reply!r}")

    async def lost(self, *arguments: Any) -> None:
        """Say something at which the connection is lost before an acknowledgement."""
        acknowledged: list[Any] = []
        await self.sio.emit("chat message", arguments, callback=lambda *reply: acknowledged.append(reply))
        async with asyncio.timeout(PATIENCE):
            await self.gone.wait()
        assert acknowledged == []

    async def quiet(self) -> None:
        """Wait until all that the server has sent to us so far is here: it answers in order."""
        assert await self.sio.call("anything", timeout=PATIENCE)


@contextlib.asynccontextmanager
async def plain(url: str | None = None, auth: Any = None, transports: str = "websocket") -> AsyncIterator[Plain]:
    client = Plain()
    try:
        yield client if url is None else await client.connect(url, auth, transports)
    finally:
        await client.sio.disconnect()
        await client.sio.shutdown()


async def refusal(url: str, auth: Any) -> str:
    """Connect, and return why the server refuses."""
    async with plain() as client:
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        client.sio.on("connect_error", answer.set_result)
        client.sio.on("connect", lambda: answer.set_result({"message": "not refused"}))
        # Without waiting: an older client, once refused, waits to the end of its time all the same.
        await client.sio.connect(url, auth=auth, transports=["websocket"], wait=False)
        return str((await asyncio.wait_for(answer, PATIENCE))["message"])
