"""Runs the real program as a child process, for the tests of the command line."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import pty
import re
import signal
import sqlite3
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import pytest
from socketio.packet import Packet

from reliable_emit import DeadLetter, SQLiteOutbox
from reliable_emit.delivery import Frames, Message
from reliable_emit.link.codec import codec_for

PATIENCE = 30.0
PROGRAM = (sys.executable, "-m", "reliable_emit")


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "COLUMNS": "100", "TERM": "xterm", **more}


@dataclasses.dataclass
class Result:
    status: int
    out: str
    err: str
    seconds: float = 0.0

    @property
    def summary(self) -> dict[str, Any]:
        summary: dict[str, Any] = json.loads(self.out)
        return summary

    @property
    def clean(self) -> bool:
        return not re.search(r"Traceback|Exception|never retrieved|Unclosed|aborting", self.out + self.err)


class Child:
    """A running program; what it prints can be waited for."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.out = self.err = ""
        self._news = asyncio.Event()
        self._readers = [
            asyncio.create_task(self._read("out", process.stdout)),
            asyncio.create_task(self._read("err", process.stderr)),
        ]

    async def _read(self, name: str, stream: asyncio.StreamReader | None) -> None:
        while stream is not None and (block := await stream.read(65_536)):
            setattr(self, name, getattr(self, name) + block.decode())
            self._news.set()
        self._news.set()

    async def said(self, pattern: str, where: str = "err") -> re.Match[str]:
        async with asyncio.timeout(PATIENCE):
            while (found := re.search(pattern, getattr(self, where))) is None:
                assert not all(reader.done() for reader in self._readers), f"ended: {self.out!r} {self.err!r}"
                self._news.clear()
                await self._news.wait()
        return found

    async def write(self, data: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(data)
        await self.process.stdin.drain()

    def send_signal(self, number: int) -> None:
        self.process.send_signal(number)

    async def ended(self) -> Result:
        started = time.monotonic()
        async with asyncio.timeout(PATIENCE):
            status = await self.process.wait()
            took = time.monotonic() - started
            await asyncio.gather(*self._readers)
        return Result(status, self.out, self.err, took)

    async def interrupted(self, number: int = signal.SIGINT) -> Result:
        self.send_signal(number)
        return await self.ended()


@contextlib.asynccontextmanager
async def child(
    *arguments: str, program: Sequence[str] = PROGRAM, stdin: int | None = None, **env: str
) -> AsyncIterator[Child]:
    process = await asyncio.create_subprocess_exec(
        *program,
        *arguments,
        stdin=asyncio.subprocess.PIPE if stdin is None else stdin,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment(**env),
    )
    running = Child(process)
    try:
        yield running
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await running.ended()
        process._transport.close()  # type: ignore[attr-defined]  # or the pipe to its input is a ResourceWarning


async def at_a_terminal(
    *arguments: str,
    typed: bytes = b"",
    stdin_too: bool = False,
    stdout_too: bool = False,
    columns: int = 100,
    sign: bytes = b"connected to",
) -> tuple[int, str]:
    """Run it with a terminal for standard error, and maybe for the others; typed is when the sign is seen."""
    ours, theirs = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "reliable_emit",
        *arguments,
        stdin=theirs if stdin_too else asyncio.subprocess.DEVNULL,
        stdout=theirs if stdout_too else asyncio.subprocess.DEVNULL,
        stderr=theirs,
        env=environment(COLUMNS=str(columns)),
    )
    os.close(theirs)
    os.set_blocking(ours, False)
    shown = b""
    loop = asyncio.get_running_loop()
    over = loop.create_future()

    def read() -> None:
        nonlocal shown, typed
        try:
            block = os.read(ours, 65_536)
        except OSError:  # that is how a terminal says that nobody is at the other end any more
            block = b""
        shown += block
        if not block:
            loop.remove_reader(ours)
            over.set_result(None)
        elif typed and sign in shown:
            os.write(ours, typed)
            typed = b""

    loop.add_reader(ours, read)
    try:
        async with asyncio.timeout(PATIENCE):
            await over
            status = await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        os.close(ours)
    return status, shown.decode()


async def program(*arguments: str, stdin: bytes = b"", program: Sequence[str] = PROGRAM) -> Result:
    """Run it to its end."""
    async with child(*arguments, program=program) as running:
        assert running.process.stdin is not None
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            running.process.stdin.write(stdin)
            await running.process.stdin.drain()
        running.process.stdin.close()
        return await running.ended()


@contextlib.asynccontextmanager
async def serving(db: Path | str, port: int = 0) -> AsyncIterator[tuple[Child, str]]:
    async with child("serve", "--port", str(port), "--db", str(db)) as server:
        found = await server.said(r"listening on (http://\S+)\n", "out")
        yield server, found[1]


class Served:
    """The reference server as a process, which can be killed and started again where it was.

    Args:
        db: Its database.
        options: More of the command line.
    """

    def __init__(self, db: Path, *options: str) -> None:
        self._db = db
        self._options = options
        self._life = contextlib.AsyncExitStack()
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        arguments = ("--port", str(self.port), "--db", str(self._db), *self._options)
        server = await self._life.enter_async_context(child("serve", *arguments))
        self.port = int((await server.said(r"listening on http://127\.0\.0\.1:(\d+)\n", "out"))[1])

    async def kill(self) -> None:
        """``kill -9``."""
        await self._life.aclose()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.kill()


@contextlib.contextmanager
def _reading(db: Path) -> Iterator[sqlite3.Connection]:
    # By nobody but SQLite: it is the file that counts.
    with contextlib.closing(sqlite3.connect(f"file:{db}?mode=ro", uri=True)) as connection:
        yield connection


def stored(db: Path) -> list[str]:
    """What the database holds, in order."""
    with _reading(db) as connection:
        return [text for (text,) in connection.execute("SELECT content FROM messages ORDER BY id")]


def how_many(db: Path) -> int:
    """How many rows it has had."""
    with _reading(db) as connection:
        return int(connection.execute("SELECT coalesce(max(id), 0) FROM messages").fetchone()[0])


@pytest.fixture
def fast_dir() -> Iterator[Path]:
    """A directory in memory where there is one: thousands of commits that wait for a disk take their time."""
    memory = Path("/dev/shm")
    where = memory if os.access(memory, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="reliable-emit-", dir=where) as directory:
        yield Path(directory)


class Keeper:
    """Owns an outbox, and does nothing with it."""

    def loaded(self, messages: Sequence[Message]) -> None:
        pass

    def refused(self, message: Message) -> None:
        pass

    def decode(self, frames: Frames) -> tuple[Any, ...]:
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Stored:
    """A message to be put into an outbox; `reason` makes it a dead letter."""

    offset: str
    _: dataclasses.KW_ONLY
    event: str = "chat message"
    data: tuple[Any, ...] = ("hello",)
    reason: Any = ""
    detail: str = "no acknowledgement"
    attempts: int = 0
    ack_timeout: float = 10
    ttl: float | None = None
    frames: Any = None


async def fill(path: Path, *messages: Stored, packet: Any = Packet) -> None:
    """Make an outbox with those messages in it, accepted at 1_700_000_000 and each a second later."""
    outbox, keeper = SQLiteOutbox(path, synchronous="normal"), Keeper()
    sequence = await outbox.open(keeper)
    for number, given in enumerate(messages):
        frames = given.frames or codec_for(packet, "/").encode(given.event, (*given.data, given.offset))
        accepted = 1_700_000_000.0 + number
        message = Message(
            offset=given.offset,
            event=given.event,
            frames=frames,
            ack_timeout=given.ack_timeout,
            retries=3,
            accepted_at=accepted,
        )
        message.attempts = given.attempts
        if given.ttl is not None:
            message.expires_at = asyncio.get_running_loop().time() + given.ttl
        message.sequence = sequence + number + 1
        await outbox.append(message)
        if given.reason:
            outbox.bury(DeadLetter(message, given.reason, given.detail, accepted + 60, keeper.decode))
    await outbox.close()
