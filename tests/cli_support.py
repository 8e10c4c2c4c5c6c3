"""Runs the real program as a child process, for the tests of the command line."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import re
import signal
import sqlite3
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

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
