"""What the tests of senders that die share: processes that are born fast, and a server that remembers repetitions.

A new Python takes half a second to import what a sender needs, which is too long to do it hundreds of times. So one
process imports everything, starts nothing, and forks a child for each life.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import importlib
import json
import os
import signal
import sys
import traceback
from typing import TYPE_CHECKING, Any, NoReturn, Self

import pytest
import socketio
import tenacity

from reliable_emit import ReliableClient, SQLiteOutbox
from support import PATIENCE, Log

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine
    from pathlib import Path

    from reliable_emit.server import ReferenceServer

EVENT = "chat message"

_BORN, _ENDED = "> ", "< "
_LIFETIME = 60
"""Seconds after which a life ends by itself: a test that is killed leaves nothing behind."""


def need(name: str, available: object, reason: str) -> None:
    """Skip the test if something is not there; or fail, if ``RELIABLE_EMIT_REQUIRE`` names it (several: by commas)."""
    if available:
        return
    if name in os.environ.get("RELIABLE_EMIT_REQUIRE", "").replace(" ", "").split(","):
        pytest.fail(f"{name} is required here: {reason}", pytrace=False)
    pytest.skip(reason)


# The parent's side.


class Life:
    """A forked process.

    Attributes:
        pid: Its number.
        lines: What it has said, a line each.
    """

    def __init__(self) -> None:
        self.pid = 0
        self.lines: Log[str] = Log()
        self._born, self._ended = asyncio.Event(), asyncio.Event()
        self._status: int | None = None

    def born(self, pid: int) -> None:
        self.pid = pid
        self._born.set()

    def over(self, status: int | None) -> None:
        """It has ended, and everything that it has said has been read; no status: so has whoever forked it."""
        self._status = status
        self._born.set()
        self._ended.set()
        self.lines.add("")  # wakes those who wait for a line, to see that there will be none
        self.lines.pop()

    async def is_born(self) -> None:
        async with asyncio.timeout(PATIENCE):
            await self._born.wait()

    async def says(self, line: str) -> bool:
        """Wait until it has said that line, or has ended without it; return whether it has."""
        await self.lines.until(lambda lines: line in lines or self._ended.is_set())
        return line in self.lines

    def numbers(self, word: str) -> list[int]:
        """The numbers after that word, in order: what it has ``called``, or what was ``accepted``."""
        return [int(line.removeprefix(f"{word} ")) for line in self.lines if line.startswith(f"{word} ")]

    def kill(self) -> None:
        """``kill -9``, unless it has ended."""
        # A zombie until it is waited for, and that is told of: so the number is nobody else's yet.
        if self.pid and not self._ended.is_set():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    async def ended(self) -> int:
        """Wait for its end, and return its exit status; minus the signal, if that has ended it."""
        async with asyncio.timeout(PATIENCE):
            await self._ended.wait()
        assert self._status is not None, "the process that forks the others has died"
        return self._status


class Zygote:
    """Forks lives, one at a time; ``async with`` ends it, and whoever is alive.

    Args:
        module: The test module; its coroutine functions are what a life can be.
    """

    def __init__(self, module: str) -> None:
        self._module = module
        self._life: Life | None = None

    async def __aenter__(self) -> Self:
        pipe = asyncio.subprocess.PIPE
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, __file__, self._module, stdin=pipe, stdout=pipe, stderr=pipe
        )
        self._complaints = b""
        self._readers = [asyncio.create_task(self._listen()), asyncio.create_task(self._collect())]
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        assert self._process.stdin is not None
        if self._life is not None:
            self._life.kill()
        self._process.stdin.close()
        try:
            async with asyncio.timeout(PATIENCE):
                await asyncio.gather(*self._readers)
                await self._process.wait()
        finally:
            if self._process.returncode is None:
                self._process.kill()
        complaints = self._complaints.decode()
        print(complaints)
        if kind is None:
            assert "Traceback" not in complaints

    async def _collect(self) -> None:
        assert self._process.stderr is not None
        while block := await self._process.stderr.read(65_536):
            self._complaints += block

    async def _listen(self) -> None:
        assert self._process.stdout is not None
        async for raw in self._process.stdout:
            line = raw.decode().rstrip("\n")
            assert self._life is not None
            if line.startswith(_BORN):
                self._life.born(int(line.removeprefix(_BORN)))
            elif line.startswith(_ENDED):
                self._life.over(int(line.removeprefix(_ENDED)))
            else:
                self._life.lines.add(line)
        if self._life is not None:
            self._life.over(None)

    @contextlib.asynccontextmanager
    async def life(self, function: Callable[..., Coroutine[Any, Any, None]], **arguments: Any) -> AsyncIterator[Life]:
        """Fork a process that runs a function of the test's module; it does not survive the block.

        The arguments have to pass through JSON.
        """
        assert self._process.stdin is not None
        self._life = life = Life()
        self._process.stdin.write(f"{json.dumps([function.__name__, arguments])}\n".encode())
        try:
            await life.is_born()
            yield life
        finally:
            life.kill()
            await life.ended()


# The child's side.


def say(line: str) -> None:
    """Tell the parent, at once: what is in a pipe outlives who has written it."""
    os.write(sys.__stdout__.fileno() if sys.__stdout__ else 1, f"{line}\n".encode())


def sender(path: str | Path, outbox: Callable[[str | Path], SQLiteOutbox] = SQLiteOutbox, **options: Any) -> Any:
    """Return a client on a durable outbox that never gives a message up, and reconnects soon."""
    sio = socketio.AsyncClient(
        handle_sigint=False, reconnection_delay=0.01, reconnection_delay_max=0.02, randomization_factor=0
    )
    defaults = {"retries": None, "max_losses": None, "backoff": tenacity.wait_none(), "client_offset": True}
    return ReliableClient(sio, outbox=outbox(path), **(defaults | options))


async def connect(client: ReliableClient, url: str) -> None:
    """Connect, and ask for no message of others: all that is stored would be sent on each connection."""
    await client.connect(url, transports="websocket", auth={"serverOffset": 2**62})


def _zygote(module: str) -> None:
    functions = importlib.import_module(module)
    for line in sys.stdin:
        name, arguments = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _live(getattr(functions, name), arguments)
        _, status = os.waitpid(pid, 0)
        say(f"{_ENDED}{os.waitstatus_to_exitcode(status)}")


def _live(function: Callable[..., Coroutine[Any, Any, None]], arguments: dict[str, Any]) -> NoReturn:
    status = 1
    try:
        signal.alarm(_LIFETIME)
        say(f"{_BORN}{os.getpid()}")
        asyncio.run(function(**arguments))
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)  # what the zygote would do at its exit is its own business


# The server's side.


class Witness:
    """Sees every message that a reference server receives, repetitions included.

    Attributes:
        received: How often each text came.
        admit: Awaited with each text; what it refuses gets lost, before anything is done about it.
    """

    def __init__(self, server: ReferenceServer) -> None:
        self.received: collections.Counter[str] = collections.Counter()
        self.admit: Callable[[str], Coroutine[Any, Any, bool]] | None = None
        self._server = server
        self._handle = server.sio.handlers["/"][EVENT]
        server.sio.on(EVENT, self._on_message)

    async def _on_message(self, sid: str, text: str, offset: str) -> Any:
        self.received[text] += 1
        if self.admit is not None and not await self.admit(text):
            return self._server.sio.not_handled
        return await self._handle(sid, text, offset)

    @property
    def repeated(self) -> int:
        """How many messages came that had come before."""
        return self.received.total() - len(self.received)

    def cut(self) -> int:
        """Cut all connections, as a network does, and return how many there were."""
        runner = self._server._runner
        assert runner is not None
        assert runner.server is not None
        transports = [connection.transport for connection in runner.server.connections]
        for transport in filter(None, transports):
            transport.abort()
        return len(transports)


if __name__ == "__main__":
    _zygote(sys.argv[1])
