"""The reference server against a chat server in Node that is built as the Socket.IO tutorial builds it.

The same senders, the same messages, both in SQLite and synced to disk; every sender is sent every row, as in a chat.
One run alternates the sides, with one sender and with 64; what counts is the ratio of the medians. Needs ``make node``.
``python benchmarks/tutorial.py [messages [rounds [senders [microseconds]]]]``

Disks differ in how long a sync takes, from a tenth of a millisecond to ten, and that is what the ratio depends on; so
it is measured first, and can be made that many microseconds longer, for both (on Linux, with a C compiler).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from load import NODE, new_run, send, serving

OURS, TUTORIAL = "the reference server", "the tutorial's, in Node"


def sync_time(directory: Path) -> float:
    """Return the median of the seconds that a sync takes after some data were appended."""
    took = []
    with (directory / "sync").open("wb", buffering=0) as file:
        for _ in range(200):
            file.write(bytes(4096))
            started = time.perf_counter()
            os.fdatasync(file.fileno())
            took.append(time.perf_counter() - started)
    return statistics.median(took)


def slower(directory: Path, microseconds: int) -> dict[str, str]:
    """Return what in the environment of a program makes its syncs take longer."""
    if not microseconds:
        return {}
    shim = directory / "slow_sync.so"
    source = Path(__file__).parent / "slow_sync.c"
    subprocess.run(["cc", "-shared", "-fPIC", "-O2", "-o", str(shim), str(source), "-ldl"], check=True)
    return {"LD_PRELOAD": str(shim), "SYNC_MICROSECONDS": str(microseconds)}


async def measure(messages: int, rounds: int, many: int, microseconds: int) -> None:
    """Alternate the sides, and print the medians and their ratios."""
    print(f"{messages} messages of 100 characters, {rounds} rounds, websocket, loopback, all synced to disk")
    async with contextlib.AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="reliable-emit-")))
        env = slower(directory, microseconds)
        print(
            f"a sync takes {sync_time(directory) * 1000:.2f} ms here, and is made {microseconds / 1000:.2f} ms longer"
        )
        ours = [sys.executable, "-m", "reliable_emit", "serve", "--port", "0", "--db", str(directory / "ours.db")]
        node = ["node", str(NODE / "server.mjs"), str(directory / "node.db"), "0"]
        urls = {
            TUTORIAL: await stack.enter_async_context(serving(*node, env=env)),
            OURS: await stack.enter_async_context(serving(*ours, env=env)),
        }
        print(f"{'':32}{'acknowledged/s':>16}{'ratio':>8}{'delivered/s':>16}{'ratio':>8}{'one takes':>12}")
        sent = 0
        for senders in (1, many):
            found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in urls}
            for round_number in range(rounds + 1):
                for name, url in urls.items():
                    load = await send(url, "chat message", senders, messages, new_run(), since=sent)
                    assert load.delivered is not None
                    if round_number:  # the first one warms up
                        found[name].append((messages / load.acknowledged, messages / load.delivered, load.median))
                sent += messages
            medians = {
                name: [statistics.median(column) for column in zip(*loads, strict=True)]
                for name, loads in found.items()
            }
            for name, (acknowledged, delivered, took) in medians.items():
                print(
                    f"{senders:2} x {name:27}{acknowledged:16.0f}{acknowledged / medians[TUTORIAL][0]:8.2f}"
                    f"{delivered:16.0f}{delivered / medians[TUTORIAL][1]:8.2f}{took * 1000:9.1f} ms"
                )


def main() -> None:
    """Measure."""
    messages, rounds, many, microseconds = [*map(int, sys.argv[1:]), *[3000, 5, 64, 0][len(sys.argv) - 1 :]]
    asyncio.run(measure(messages, rounds, many, microseconds))


if __name__ == "__main__":
    main()
