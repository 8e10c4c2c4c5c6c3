"""A TCP proxy whose connections can be made as dead as they are in the field."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Self

from support import Log

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_CHUNK = 65536


class Way:
    """One direction of one connection."""

    def __init__(self) -> None:
        self.passing = asyncio.Event()
        self.passing.set()
        self.swallowing = False
        self.pause = 0.0


class Pair:
    """One connection through the proxy: the way to the server, and the way back."""

    def __init__(self) -> None:
        self.there, self.back = Way(), Way()
        self.writers: list[asyncio.StreamWriter] = []

    @property
    def ways(self) -> Iterator[Way]:
        yield self.there
        yield self.back

    def freeze(self) -> None:
        """Read nothing more, as a program does that is stopped."""
        for way in self.ways:
            way.passing.clear()

    def blackhole(self) -> None:
        """Let everything vanish, the end included, and tell nobody."""
        for way in self.ways:
            way.swallowing = True

    def abort(self) -> None:
        for writer in self.writers:
            writer.transport.abort()


class Proxy:
    """Passes on what comes, to whichever port is the target; each connection can be spoiled on its own.

    Attributes:
        target: The port.
        pairs: The connections so far.
        prepare: Called with each new connection.
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self.pairs: Log[Pair] = Log()
        self.prepare: Callable[[Pair], object] = lambda _: None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, limit=_CHUNK)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for pair in self.pairs:
            pair.abort()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=1)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        pair = Pair()
        pair.writers.append(writer)
        self.prepare(pair)
        try:
            upstream, downstream = await asyncio.open_connection("127.0.0.1", self.target, limit=_CHUNK)
        except OSError:
            writer.transport.abort()
            return
        pair.writers.append(downstream)
        self.pairs.add(pair)
        try:
            await asyncio.gather(_pump(reader, downstream, pair.there), _pump(upstream, writer, pair.back))
        except asyncio.CancelledError:
            pass  # at the end of the test; asyncio's streams complain otherwise
        finally:
            pair.abort()
            self._tasks.discard(task)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: Way) -> None:
    with contextlib.suppress(OSError):
        while True:
            await way.passing.wait()
            data = await reader.read(_CHUNK)
            await way.passing.wait()
            if not data:
                break
            if way.pause:
                await asyncio.sleep(way.pause)
            if not way.swallowing:
                writer.write(data)
                await writer.drain()
    if not way.swallowing:
        with contextlib.suppress(OSError, RuntimeError):
            writer.write_eof()
