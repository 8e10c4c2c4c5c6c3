"""What a durable outbox costs, each side measured in turn in one run; what counts are the ratios.

- *accept*: awaited ``emit``, one by one and 64 at a time, against a bare sqlite3 loop that commits one row, and 64
  rows, a transaction on the same disk.
- *drain*: a backlog delivered over loopback from a SQLite file, against one in memory.
- *reopen*: a file with many waiting messages: the time until the first one leaves, and the memory.

Beside each is the longest time for which the event loop was held up. ``python benchmarks/outbox.py [--rows N] [WHAT…]``
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import socketio
from aiohttp import web

from reliable_emit import MemoryOutbox, Outbox, ReliableClient, SQLiteOutbox

PAYLOAD = "x" * 100
TOGETHER = 64


async def serve() -> None:
    """Acknowledge everything; print the port."""
    server = socketio.AsyncServer(async_mode="aiohttp")
    server.on("echo", lambda _sid, data, *_offset: data)
    app = web.Application()
    server.attach(app)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.to_thread(sys.stdin.read)


@contextlib.contextmanager
def server_process() -> Iterator[str]:
    """Run the server, and give its URL."""
    with subprocess.Popen(
        [sys.executable, __file__, "--serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as server:
        assert server.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(server.stdout.readline())}"
        finally:
            server.kill()


class Lag:
    """The longest time, in seconds, for which the event loop did not come round."""

    def __init__(self) -> None:
        self.longest = 0.0

    @contextlib.asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """Watch it, as long as the block lasts."""
        watching = asyncio.create_task(self._watch())
        await asyncio.sleep(0)
        try:
            yield
        finally:
            watching.cancel()

    async def _watch(self) -> None:
        while True:
            before = time.perf_counter()
            await asyncio.sleep(0.001)
            self.longest = max(self.longest, time.perf_counter() - before - 0.001)


def bare(path: Path, synchronous: str, together: int, transactions: int) -> float:
    """Commit rows with sqlite3 alone; return the rows a second."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute(f"PRAGMA synchronous = {synchronous}")
        db.execute("CREATE TABLE IF NOT EXISTS row (id INTEGER PRIMARY KEY, content TEXT)")
        started = time.perf_counter()
        for _ in range(transactions):
            db.execute("BEGIN")
            for _ in range(together):
                db.execute("INSERT INTO row (content) VALUES (?)", (PAYLOAD,))
            db.execute("COMMIT")
        return transactions * together / (time.perf_counter() - started)


async def accept_rate(client: ReliableClient, together: int, turns: int) -> float:
    """Emit that many at a time; return the messages a second."""
    started = time.perf_counter()
    for _ in range(turns):
        if together == 1:
            await client.emit("echo", PAYLOAD)
        else:
            await asyncio.gather(*[client.emit("echo", PAYLOAD) for _ in range(together)])
    return turns * together / (time.perf_counter() - started)


async def accept(directory: Path, rounds: int) -> None:
    """Compare accepting with bare commits."""
    print("accept: messages or rows a second, each committed before the next one begins")
    print(f"{'':24}{'bare sqlite3':>14}{'emit':>10}{'ratio':>8}{'loop lag':>12}")
    for synchronous in ("full", "normal"):
        for together, turns in ((1, 1000), (TOGETHER, 100)):
            bares, ours, lag = [], [], Lag()
            outbox = SQLiteOutbox(directory / f"ours-{synchronous}-{together}.db", synchronous=synchronous)
            async with ReliableClient(socketio.AsyncClient(), outbox=outbox, max_pending=None) as client:
                for _ in range(rounds):
                    bares.append(bare(directory / f"bare-{synchronous}.db", synchronous, together, turns))
                    async with lag.watched():
                        ours.append(await accept_rate(client, together, turns))
                await client.close(timeout=0)
            left, right = statistics.median(bares), statistics.median(ours)
            name = f"{synchronous}, {together} at a time"
            print(f"{name:24}{left:14.0f}{right:10.0f}{right / left:8.2f}{lag.longest * 1000:9.1f} ms")


async def drain_rate(url: str, outbox: Outbox, messages: int, lag: Lag) -> float:
    """Deliver a backlog; return the messages a second."""
    sio = socketio.AsyncClient()
    client = ReliableClient(sio, outbox=outbox, max_pending=None)
    await asyncio.gather(*[client.emit("echo", PAYLOAD) for _ in range(messages)])
    await asyncio.sleep(0.5)
    async with lag.watched():
        await client.connect(url, transports=["websocket"])
        started = time.perf_counter()
        await client.flush()
        took = time.perf_counter() - started
    await client.close()
    return messages / took


async def drain(directory: Path, rounds: int) -> None:
    """Compare draining a durable backlog with draining one in memory."""
    messages = 3000
    rates: dict[str, list[float]] = {"memory": [], "full": [], "normal": []}
    lags = {name: Lag() for name in rates}
    with server_process() as url:
        for number in range(rounds + 1):
            for name, measured in rates.items():
                outbox: Outbox = MemoryOutbox()
                if name != "memory":
                    path = directory / f"drain-{name}-{number}.db"
                    outbox = SQLiteOutbox(path, synchronous="full" if name == "full" else "normal")
                rate = await drain_rate(url, outbox, messages, lags[name])
                if number:  # the first one warms up
                    measured.append(rate)
    memory = statistics.median(rates["memory"])
    print(f"drain: a backlog of {messages}, over loopback")
    print(f"{'':24}{'messages/s':>14}{'to memory':>12}{'loop lag':>12}")
    for name, measured in rates.items():
        median = statistics.median(measured)
        print(f"{name:24}{median:14.0f}{median / memory:12.2f}{lags[name].longest * 1000:9.1f} ms")


def resident() -> float:
    """Return the memory that this process takes, in MB; 0 where the system does not say."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
    return 0.0


async def fill(path: Path, messages: int) -> None:
    """Make a file with that many waiting messages, by the outbox's own means."""
    async with ReliableClient(
        socketio.AsyncClient(), outbox=SQLiteOutbox(path, synchronous="normal"), max_pending=None
    ) as client:
        for start in range(0, messages, 5000):
            number = min(5000, messages - start)
            await asyncio.gather(*[client.emit("echo", PAYLOAD) for _ in range(number)])
        await client.close(timeout=0)


async def first_leaves(path: Path, url: str) -> None:
    """Open the file and print how long it took until the first message left, in seconds, and the memory in MB."""
    sio = socketio.AsyncClient()
    await sio.connect(url, transports=["websocket"])
    left = asyncio.get_running_loop().create_future()
    before = resident()
    lag = Lag()
    async with lag.watched():
        started = time.perf_counter()
        client = ReliableClient(sio, outbox=SQLiteOutbox(path), max_pending=None)
        client.on("sent", lambda _: left.done() or left.set_result(None))
        with contextlib.suppress(TimeoutError):
            await client.flush(timeout=0)
        await left
        took = time.perf_counter() - started
        await asyncio.sleep(1)
    print(took, resident() - before, lag.longest, flush=True)
    os._exit(0)  # as a kill would: the file stays as it is for the next one


def reopen(directory: Path, rows: int, rounds: int) -> None:
    """Open a large file and a small one."""
    print("reopen: until the first message leaves; the memory grown while a second of messages leaves")
    print(f"{'waiting messages':>24}{'seconds':>14}{'memory':>12}{'loop lag':>12}")
    with server_process() as url:
        for number in (10_000, rows):  # more than leave in a second, so that the next round finds some
            path = directory / f"reopen-{number}.db"
            asyncio.run(fill(path, number))
            results = []
            for _ in range(rounds):
                with contextlib.suppress(OSError):  # as after a restart of the machine: nothing of it is in memory
                    descriptor = os.open(path, os.O_RDONLY)
                    os.fsync(descriptor)
                    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
                    os.close(descriptor)
                run = subprocess.run(
                    [sys.executable, __file__, "--first", str(path), url], capture_output=True, text=True, check=True
                )
                results.append([float(value) for value in run.stdout.split()])
            seconds, grown, lag = (statistics.median(column) for column in zip(*results, strict=True))
            print(f"{number:24}{seconds:14.3f}{grown:9.1f} MB{lag * 1000:9.1f} ms")


def main() -> None:
    """Measure what was asked for, or everything."""
    logging.disable()  # closing with messages pending is said aloud
    parser = argparse.ArgumentParser()
    parser.add_argument("what", nargs="*", help="accept, drain, reopen; all if none is named")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--directory", help="where the files are made; on the disk to be measured")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--first", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        asyncio.run(serve())
        return
    if given.first:
        asyncio.run(first_leaves(Path(given.first[0]), given.first[1]))
        return
    what = given.what or ["accept", "drain", "reopen"]
    with tempfile.TemporaryDirectory(dir=given.directory) as name:
        directory = Path(name)
        if "accept" in what:
            asyncio.run(accept(directory, given.rounds))
        if "drain" in what:
            asyncio.run(drain(directory, given.rounds))
        if "reopen" in what:
            reopen(directory, given.rows, min(given.rounds, 3))


if __name__ == "__main__":
    main()
