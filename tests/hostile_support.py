"""A server in a process of its own, a client that wishes it ill, and one that notices nothing of that."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import aiohttp
import socketio

from hostile_server import EVENT, PASSWORD
from reliable_emit import ReliableClient

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

PATIENCE = 120.0
_PATH = "/socket.io/?EIO=4&transport="


def auth(user: str, **more: Any) -> dict[str, Any]:
    return {"user": user, "password": PASSWORD, **more}


class Victim:
    """The server's process."""

    def __init__(self, process: asyncio.subprocess.Process, port: int, log: Path, *, patient: bool) -> None:
        self._process = process
        self.patient = patient  # whether it makes a sender wait, rather than let messages go unacknowledged
        self._log = log
        self.url = f"http://127.0.0.1:{port}"
        self.port = port

    def _memory(self, name: str) -> float:
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        (line,) = (line for line in status.splitlines() if line.startswith(name))
        return int(line.split()[1]) / 1024

    @property
    def rss(self) -> float:
        """What it takes now, in MB."""
        return self._memory("VmRSS")

    @property
    def peak(self) -> float:
        """The most that it took since `forget_peak`, in MB."""
        return self._memory("VmHWM")

    def forget_peak(self) -> None:
        Path(f"/proc/{self._process.pid}/clear_refs").write_text("5")

    @property
    def connections(self) -> int:
        """How many sockets it has."""
        count = 0
        for entry in Path(f"/proc/{self._process.pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                count += os.readlink(entry).startswith("socket:")
        return count

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    @property
    def lines(self) -> list[str]:
        """What it has logged, from warnings on."""
        return [line for line in self.log.splitlines() if not line.startswith(("LOG INFO", "LOG DEBUG"))]

    async def stop(self) -> float:
        """End it; return how many seconds it says that took."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        async with asyncio.timeout(PATIENCE):
            line = await self._process.stdout.readline()
            await self._process.wait()
        assert self._process.returncode == 0, self.log[-2000:]
        return float(line)


@contextlib.asynccontextmanager
async def victim(directory: Path, kind: str = "reference", database: str | None = None) -> AsyncIterator[Victim]:
    log = directory / "server.log"
    with log.open("w") as stderr:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(Path(__file__).with_name("hostile_server.py")),
            kind,
            database or str(directory / "chat.db"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=stderr,
        )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(PATIENCE):
            port = int(await process.stdout.readline() or b"-1")
        assert port > 0, log.read_text()
        yield Victim(process, port, log, patient=kind != "inbox")
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


class Raw:
    """A WebSocket on which anything can be said, by hand."""

    def __init__(self, ws: aiohttp.ClientWebSocketResponse) -> None:
        self.ws = ws
        self.received: list[str] = []
        self.count = 0
        self.acknowledged = 0
        self._reading: asyncio.Task[None] | None = None
        self._news = asyncio.Condition()

    async def join(self, **data: Any) -> Self:
        """Join the namespace."""
        await self.ws.send_str("40" + json.dumps({**auth("mallory"), **data}))
        while not (await self.ws.receive_str()).startswith("40"):
            pass
        return self

    def read(self) -> Self:
        """Read all that comes, and keep the last thousand."""
        self._reading = asyncio.create_task(self._read())
        return self

    async def _read(self) -> None:
        async for message in self.ws:
            if message.data == "2":
                await self.ws.send_str("3")
                continue
            async with self._news:
                self.count += 1
                self.acknowledged += str(message.data).startswith("43")
                self.received.append(str(message.data)[:100_000])
                del self.received[:-1000]
                self._news.notify_all()
        async with self._news:
            self._news.notify_all()

    async def until(self, enough: Any) -> None:
        async with asyncio.timeout(PATIENCE), self._news:
            await self._news.wait_for(enough)

    async def say(self, *frames: str | bytes) -> None:
        """Send frames as they are, as long as the server has not closed the connection."""
        with contextlib.suppress(ConnectionError, aiohttp.ClientError):
            for frame in frames:
                await (self.ws.send_bytes(frame) if isinstance(frame, bytes) else self.ws.send_str(frame))

    async def ask(self, arguments: Any, number: int = 7) -> Any:
        """Send an event, and return what is acknowledged."""
        await self.say(f"42{number}" + json.dumps(arguments))
        start = f"43{number}["
        await self.until(lambda: self.ws.closed or any(text.startswith(start) for text in self.received))
        (text,) = [text for text in self.received if text.startswith(start)]
        self.received.remove(text)
        return json.loads(text[len(start) - 1 :])

    async def is_read(self) -> None:
        """Wait until the server has read all that was said: it answers in order, also with a refusal."""
        namespace = f"/nowhere-{self.count}"
        await self.say(f"40{namespace},")
        await self.until(lambda: self.ws.closed or any(text.startswith(f"44{namespace},") for text in self.received))

    async def closed(self) -> None:
        """Wait until the server has closed it."""
        assert self._reading is not None
        await asyncio.wait([self._reading])

    async def close(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1):
                await self.ws.close()
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait([self._reading])


class Attacker:
    """Opens connections, and closes them in the end."""

    def __init__(self, server: Victim) -> None:
        self.server = server
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(limit=0)
        self.session = await self._stack.enter_async_context(aiohttp.ClientSession(connector=connector))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    def push(self, writer: asyncio.StreamWriter) -> None:
        """Close that, too, in the end."""
        self._stack.callback(writer.close)

    async def connect(self) -> Raw:
        """A connection that has not joined any namespace."""
        raw = Raw(await self.session.ws_connect(f"{self.server.url}{_PATH}websocket", max_msg_size=0, heartbeat=None))
        self._stack.push_async_callback(raw.close)
        assert (await raw.ws.receive_str()).startswith("0")
        return raw

    async def joined(self, **data: Any) -> Raw:
        return await (await self.connect()).join(**data)

    async def poll(self) -> str:
        """Begin a session that polls, and join; return where to post and to ask."""
        async with self.session.get(f"{self.server.url}{_PATH}polling") as response:
            sid = json.loads((await response.text())[1:])["sid"]
        where = f"{self.server.url}{_PATH}polling&sid={sid}"
        async with self.session.post(where, data="40" + json.dumps(auth("mallory"))) as response:
            assert response.status == 200
        async with self.session.get(where) as response:
            assert (await response.text()).startswith("40")
        return where


class Ada:
    """Somebody who sends and reads, and keeps account of it."""

    def __init__(self, server: Victim) -> None:
        self._server = server
        self._sio = socketio.AsyncClient(reconnection_delay=0.1, reconnection_delay_max=0.5)
        self._client = ReliableClient(self._sio, client_offset=True, retries=None)
        self._reader = socketio.AsyncClient(reconnection=False)
        self._reader.on(EVENT, self._read)
        self._news = asyncio.Event()
        self.rows: list[tuple[str, int]] = []
        self.mine: list[tuple[str, int]] = []
        self.sent: list[str] = []
        self.replies: list[int] = []
        self.slowest = 0.0
        self.connected = 0

    async def __aenter__(self) -> Self:
        self._sio.on("connect", self._count)
        await self._client.__aenter__()
        await self._client.connect(self._server.url, auth=auth("ada"), transports=["websocket"])
        await self._reader.connect(self._server.url, auth=auth("ada"), transports=["websocket"])
        self._sending = asyncio.create_task(self._send())
        self._sending.add_done_callback(lambda _: self._news.set())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._sending.cancel()
        await self._client.close(timeout=1)
        await self._sio.shutdown()
        await self._reader.disconnect()
        await self._reader.shutdown()

    def _count(self) -> None:
        self.connected += 1

    def _read(self, text: str, row: int) -> None:
        self.rows.append((text, row))
        if text.startswith("ada "):
            self.mine.append((text, row))
        self._news.set()

    async def _send(self) -> None:
        while True:
            self.sent.append(f"ada {len(self.sent)}")
            started = time.monotonic()
            self.replies.append(await self._client.call(EVENT, self.sent[-1]))
            self._news.set()
            self.slowest = max(self.slowest, time.monotonic() - started)
            await asyncio.sleep(0.02)

    async def is_well(self, *, within: float = 5.0) -> None:
        """What she sent has arrived, once, in order, and in time; also what she sends now."""
        enough = len(self.sent) + 3
        await self._until(lambda: len(self.replies) >= enough and len(self.mine) >= enough)
        count = len(self.mine)
        assert [text for text, _ in self.mine] == [f"ada {number}" for number in range(count)]
        assert [row for _, row in self.mine] == self.replies[:count]
        ids = [row for _, row in self.rows]
        assert all(one < other for one, other in itertools.pairwise(ids))
        assert self.slowest < within, f"a message took {self.slowest:.1f} seconds"
        assert self.connected == 1

    async def hears(self, count: int) -> None:
        """Wait until so many messages of others have arrived."""
        await self._until(lambda: len(self.rows) - len(self.mine) >= count)

    async def _until(self, true: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not true():
                assert not self._sending.done(), self._sending
                self._news.clear()
                await self._news.wait()
