"""What wrapping costs: raw ``sio.call``, the wrapped ``call``, and ``emit`` of everything followed by ``flush``.

One run alternates the three against the same server, a process of its own, over the same websocket connection; what
counts is the ratio of the medians. ``python benchmarks/overhead.py [messages [rounds]]``
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable

import socketio
from aiohttp import web

from reliable_emit import ReliableClient

PAYLOAD = "x" * 100


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


async def measure(  # noqa: C901 - three sides that share all their variables
    url: str, messages: int, rounds: int
) -> None:
    """Alternate the three, and print the medians and their ratios."""
    sio = socketio.AsyncClient()
    async with ReliableClient(sio, max_pending=None) as client:
        await client.connect(url, transports=["websocket"])

        async def raw_call() -> None:
            for _ in range(messages):
                await sio.call("echo", PAYLOAD)

        async def wrapped_call() -> None:
            for _ in range(messages):
                await client.call("echo", PAYLOAD)

        async def emit_and_flush() -> None:
            for _ in range(messages):
                await client.emit("echo", PAYLOAD)
            await client.flush()

        sides: dict[str, Callable[[], Awaitable[None]]] = {
            "raw call": raw_call,
            "wrapped call": wrapped_call,
            "emit + flush": emit_and_flush,
        }
        rates: dict[str, list[float]] = {name: [] for name in sides}
        for round_number in range(rounds + 1):
            for name, side in sides.items():
                started = time.perf_counter()
                await side()
                if round_number:  # the first one warms up
                    rates[name].append(messages / (time.perf_counter() - started))
    raw = statistics.median(rates["raw call"])
    print(
        f"{messages} messages of {len(PAYLOAD)} bytes, {rounds} rounds, websocket, loopback, server in its own process"
    )
    print(f"{'':14}{'messages/s':>12}{'to raw call':>13}")
    for name, measured in rates.items():
        median = statistics.median(measured)
        print(f"{name:14}{median:12.0f}{median / raw:13.2f}")


def main() -> None:
    """Start the server and measure."""
    if sys.argv[1:] == ["--serve"]:
        asyncio.run(serve())
        return
    messages, rounds, *_ = [*map(int, sys.argv[1:]), *[2000, 7][len(sys.argv) - 1 :]]
    with subprocess.Popen(
        [sys.executable, __file__, "--serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as server:
        assert server.stdout is not None
        try:
            port = int(server.stdout.readline())
            asyncio.run(measure(f"http://127.0.0.1:{port}", messages, rounds))
        finally:
            with contextlib.suppress(ProcessLookupError):
                server.kill()


if __name__ == "__main__":
    main()
