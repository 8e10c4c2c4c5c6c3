"""What all connections through a proxy share."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import random
from typing import TYPE_CHECKING

from reliable_emit import policy
from reliable_emit.testing.connection import Connection
from reliable_emit.testing.listener import Listener
from reliable_emit.testing.weather import DIRECTIONS, CutPoint, Direction, Ending, Traffic, Weather

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator

    from reliable_emit.testing.pipe import Pipe

# Seconds that closing takes at the most.
_CLOSE = 2.0


class Network:
    """The port, the connections, the conditions and the counts.

    Args:
        seed: Makes what is drawn repeatable.

    Attributes:
        loop: The event loop, once it is open.
        target: Where new connections go.
        weather: The conditions, by direction.
        traffic: The counts, by direction.
        draw: Draws the jitter.
        connections: All of which something is left.
        joined_total: How many have ever reached the server.
    """

    loop: asyncio.AbstractEventLoop

    def __init__(self, seed: int | None) -> None:
        self.target = ("", 0)
        self.weather: dict[Direction, Weather] = {direction: Weather() for direction in DIRECTIONS}
        self.traffic: dict[Direction, Traffic] = {direction: Traffic() for direction in DIRECTIONS}
        self.draw = random.Random(seed)  # noqa: S311 - draws delays, guards nothing
        self.connections: set[Connection] = set()
        self.joined_total = 0
        self._accept = True
        self._listener: Listener | None = None
        self._waiting: set[asyncio.Future[None]] = set()

    @property
    def running(self) -> bool:
        """Whether it is open."""
        return self._listener is not None

    @property
    def through(self) -> int:
        """How many connections reach the server now; to be asked from any thread."""
        # A list in one step: the set changes in the loop's thread.
        return sum(connection.through and not connection.over for connection in list(self.connections))

    def open(self, host: str, port: int) -> int:
        """Listen, and return the port."""
        self.loop = asyncio.get_running_loop()
        self._listener = Listener(host, port, self._on_accepted)
        self.accept(accept=self._accept)
        return self._listener.port

    def _on_accepted(self, accepted: socket.socket) -> None:
        connection = Connection(self)
        self.connections.add(connection)
        connection.start(accepted, self.target)

    async def close(self) -> None:
        """End everything, in bounded time."""
        if self._listener is None:
            return
        listener, self._listener = self._listener, None
        for connection in list(self.connections):
            connection.abort()
        self.changed()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE):
                await listener.close()
                while self.connections:
                    await self._news()

    def accept(self, *, accept: bool) -> None:
        """Accept new connections, or refuse them."""
        self._accept = accept
        if self._listener is None:
            return
        if accept:
            self._listener.listen()
        else:
            self._listener.refuse()

    def weathers(self, direction: Direction | None = None) -> Iterator[Weather]:
        """The conditions in one direction, or in both.

        Raises:
            ValueError: There is no such direction.
        """
        if direction is not None:
            policy.one_of("direction", direction, DIRECTIONS)
        return (self.weather[one] for one in DIRECTIONS if direction in {one, None})

    def pipes(self, direction: Direction | None = None) -> list[Pipe]:
        """The pipes of all connections that are not over, in one direction or in both."""
        return [
            connection.pipes[one]
            for connection in self.connections
            if not connection.over
            for one in DIRECTIONS
            if direction in {one, None}
        ]

    def pump(self) -> None:
        """Let the conditions, which have changed, take effect."""
        for pipe in self.pipes():
            pipe.pump()

    def aim(self, direction: Direction, point: CutPoint | None) -> None:
        """Cut at that point, or nowhere."""
        self.weather[direction].cut_point = point
        for pipe in self.pipes(direction):
            pipe.aim(point)

    def reached(self, direction: Direction, point: CutPoint) -> None:
        """Take note that a connection has reached the point at which it is cut."""
        if not point.each:
            self.aim(direction, None)

    def end(self, ending: Ending) -> None:
        """Cut all connections, those that only the clients know of included."""
        self._drain()
        for connection in list(self.connections):
            connection.end(ending)

    def swallow(self, direction: Direction) -> None:
        """Let nothing more come out in that direction, of any connection that there is."""
        self._drain()
        for pipe in self.pipes(direction):
            pipe.swallow()

    def _drain(self) -> None:
        if self._listener is not None:
            self._listener.drain()

    def end_swallowing(self) -> None:
        """Reset the connections that swallow."""
        for connection in list(self.connections):
            if connection.swallowing:
                connection.end("rst")

    def calm(self) -> None:
        """End all conditions."""
        for direction in DIRECTIONS:
            self.weather[direction].clear()
            self.aim(direction, None)
        for pipe in self.pipes():
            pipe.hasten()
        self.accept(accept=True)
        self.changed()

    def changed(self) -> None:
        """Wake those who wait for a change."""
        for news in self._waiting:
            if not news.done():
                news.set_result(None)

    async def wait(self, true: Callable[[], object]) -> None:
        """Wait until that is true.

        Raises:
            RuntimeError: It was closed meanwhile.
            TypeError: The answer is to be awaited.
        """
        while not (answer := true()):
            if not self.running:
                raise RuntimeError("the proxy was closed before that came true")
            await self._news()
        if inspect.isawaitable(answer):
            if inspect.iscoroutine(answer):
                answer.close()
            raise TypeError(f"the function returned {answer!r}, which is no answer; give one that returns at once")

    async def _news(self) -> None:
        news = self.loop.create_future()
        self._waiting.add(news)
        try:
            await news
        finally:
            self._waiting.discard(news)
