"""The reference server against a chat server in Node that is built as the Socket.IO tutorial builds it.

The same senders, the same messages, both in SQLite and synced to disk; every sender is sent every row, as in a chat.
One run alternates the sides, with one sender and with 64; what counts is the ratio of the medians. Needs ``make node``.
``python benchmarks/tutorial.py [messages [rounds [senders]]]``
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import sys
import tempfile
from pathlib import Path

from load import NODE, new_run, send, serving

OURS, TUTORIAL = "the reference server", "the tutorial's, in Node"


async def measure(messages: int, rounds: int, many: int) -> None:
    """Alternate the sides, and print the medians and their ratios."""
    print(f"{messages} messages of 100 characters, {rounds} rounds, websocket, loopback, all synced to disk")
    print(f"{'':32}{'acknowledged/s':>16}{'ratio':>8}{'delivered/s':>16}{'ratio':>8}{'one takes':>12}")
    async with contextlib.AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="reliable-emit-")))
        ours = [sys.executable, "-m", "reliable_emit", "serve", "--port", "0", "--db", str(directory / "ours.db")]
        node = ["node", str(NODE / "server.mjs"), str(directory / "node.db"), "0"]
        urls = {
            TUTORIAL: await stack.enter_async_context(serving(*node)),
            OURS: await stack.enter_async_context(serving(*ours)),
        }
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
    messages, rounds, many, *_ = [*map(int, sys.argv[1:]), *[1000, 5, 64][len(sys.argv) - 1 :]]
    asyncio.run(measure(messages, rounds, many))


if __name__ == "__main__":
    main()
