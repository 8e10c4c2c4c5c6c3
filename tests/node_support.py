"""The JavaScript side: a server and a client in Node, as processes of their own."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from crash_support import need
from support import PATIENCE, Log

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

NODE = Path(__file__).parent / "node"
CLIENT_SCRIPT = NODE / "node_modules/socket.io-client/dist/socket.io.min.js"
_PROGRAM = shutil.which("node")
_SQLITE = NODE / "node_modules/sqlite3/build/Release/node_sqlite3.node"


def need_script() -> None:
    """The test needs the client script, for a browser."""
    need("node", CLIENT_SCRIPT.exists(), "the npm packages are not there; 'make web' fetches them")


def need_client() -> None:
    """The test needs Node and socket.io-client."""
    need("node", _PROGRAM, "node is not installed")
    need_script()


def need_server() -> None:
    """The test needs Node, socket.io and sqlite3."""
    need_client()
    need("node", _SQLITE.exists(), "the npm package sqlite3 is not built; 'make node' builds it")


class Program:
    """A program in Node.

    Attributes:
        lines: What it has printed.
    """

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: Log[str] = Log()
        self.complaints = b""
        self._readers = [asyncio.create_task(self._read()), asyncio.create_task(self._collect())]

    async def _read(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            self.lines.add(line.decode().rstrip("\n"))
        self.lines.add("")  # wakes whoever waits for a line that will not come

    async def _collect(self) -> None:
        assert self.process.stderr is not None
        while block := await self.process.stderr.read(65_536):
            self.complaints += block

    async def end(self) -> None:
        """``kill -9``, and wait until it is gone."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        await self.process.wait()
        await asyncio.gather(*self._readers)
        self.process._transport.close()  # type: ignore[attr-defined]  # or the pipe to its input is a ResourceWarning


async def start(script: str, *arguments: str) -> Program:
    assert _PROGRAM is not None
    pipe = asyncio.subprocess.PIPE
    return Program(
        await asyncio.create_subprocess_exec(
            _PROGRAM, str(NODE / script), *arguments, stdin=pipe, stdout=pipe, stderr=pipe, limit=2**24
        )
    )


class NodeServer:
    """The tutorial's server; ``async with`` starts and kills it. It keeps its port over a restart."""

    def __init__(self, db: Path) -> None:
        self._db = db
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        self._program = await start("server.mjs", str(self._db), str(self.port))
        await self._program.lines.has(1)
        listening, _, port = self._program.lines[0].rpartition(":")
        assert listening == "listening on http://127.0.0.1", self._program.complaints.decode()
        self.port = int(port)

    async def kill(self) -> None:
        await self._program.end()
        assert self._program.complaints == b""

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.kill()


class NodeClient:
    """The JavaScript client; see ``node/client.mjs`` for what it can be told."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._events: dict[str, list[Any]] = collections.defaultdict(list)
        self._read = 0

    def events(self, kind: str) -> list[Any]:
        """What it has told of that kind, in order; grows whenever this is called."""
        for line in self._program.lines[self._read :]:
            for name, value in (json.loads(line) if line else {}).items():
                self._events[name].append(value)
        self._read = len(self._program.lines)
        return self._events[kind]

    async def until(self, kind: str, enough: Callable[[Sequence[Any]], object]) -> None:
        """Wait until what it has told of that kind is enough."""

        def looked(lines: Sequence[str]) -> object:
            assert not lines or lines[-1], f"it has ended: {self._program.complaints.decode()}"
            return enough(self.events(kind))

        await self._program.lines.until(looked)

    async def has(self, kind: str, count: int) -> None:
        await self.until(kind, lambda events: len(events) >= count)

    def tell(self, **command: Any) -> None:
        assert self._program.process.stdin is not None
        self._program.process.stdin.write(f"{json.dumps(command)}\n".encode())

    @property
    def texts(self) -> list[str]:
        return [text for text, _ in self.events("row")]

    @property
    def ids(self) -> list[int]:
        return [row for _, row in self.events("row")]


@contextlib.asynccontextmanager
async def node_client(url: str, **options: Any) -> AsyncIterator[NodeClient]:
    program = await start("client.mjs", url, json.dumps(options))
    try:
        yield NodeClient(program)
    finally:
        await program.end()


__all__ = [
    "CLIENT_SCRIPT",
    "PATIENCE",
    "NodeClient",
    "NodeServer",
    "need_client",
    "need_script",
    "need_server",
    "node_client",
]
