"""What a queue operation costs with ten messages waiting and with a million, as a ratio.

Accepting, settling the head, cancelling in the middle, dropping the oldest: microseconds each, medians of rounds that
alternate the two lengths. ``python benchmarks/queue_length.py [length [rounds]]``
"""

from __future__ import annotations

import asyncio
import gc
import logging
import random
import statistics
import sys
import time
from collections.abc import Awaitable, Callable

import socketio

from reliable_emit import ReliableClient

BATCH = 500
SHORT = 10


async def wrapped(length: int) -> ReliableClient:
    """Return a client, offline, with that many messages waiting, and room for one batch more."""
    client = ReliableClient(
        socketio.AsyncClient(handle_sigint=False), max_pending=length + BATCH, overflow="drop_oldest"
    )
    for number in range(length):
        await client.emit("reading", number)
    return client


async def accept(client: ReliableClient) -> None:
    """Emit a batch, and leave it there."""
    for number in range(BATCH):
        await client.emit("reading", number)


async def drop_oldest(client: ReliableClient) -> None:
    """Emit a batch into a full queue."""
    for number in range(BATCH):
        await client.emit("reading", number)


async def discard_head(client: ReliableClient) -> None:
    """Settle the head, as an acknowledgement would."""
    for _ in range(BATCH // 2):
        head = next(iter(client._outbox))  # noqa: SLF001 - queue() would copy it all
        client.discard(head.offset)


async def cancel_middle(client: ReliableClient) -> None:
    """Cancel messages that are neither the first nor the last."""
    for delivery in client.middle:  # type: ignore[attr-defined]
        delivery.cancel()


async def timed(operation: Callable[[ReliableClient], Awaitable[None]], client: ReliableClient, count: int) -> float:
    """Return the microseconds each."""
    started = time.perf_counter()
    await operation(client)
    return (time.perf_counter() - started) / count * 1e6


async def measure(long: int, rounds: int) -> None:
    """Alternate the two lengths, and print medians and ratios."""
    clients = {SHORT: await wrapped(SHORT), long: await wrapped(long)}
    costs: dict[tuple[str, int], list[float]] = {}
    gc.disable()  # a collection walks over the million messages, whoever's turn it is
    for _ in range(rounds):
        for length, client in clients.items():
            costs.setdefault(("accept", length), []).append(await timed(accept, client, BATCH))
            costs.setdefault(("accept and drop the oldest", length), []).append(await timed(drop_oldest, client, BATCH))
            costs.setdefault(("settle the head", length), []).append(await timed(discard_head, client, BATCH // 2))
            client.middle = random.sample(client.queue()[-BATCH:], BATCH // 2)  # type: ignore[attr-defined]
            costs.setdefault(("cancel in the middle", length), []).append(
                await timed(cancel_middle, client, BATCH // 2)
            )
    print(f"microseconds each, {rounds} rounds; the ratio is {long} waiting to {SHORT} waiting")
    print(f"{'':28}{SHORT:>10}{long:>10}{'ratio':>8}")
    for name in dict.fromkeys(operation for operation, _ in costs):
        short_cost, long_cost = (statistics.median(costs[name, length]) for length in (SHORT, long))
        print(f"{name:28}{short_cost:10.1f}{long_cost:10.1f}{long_cost / short_cost:8.2f}")


def main() -> None:
    """Measure with a million waiting."""
    logging.disable()
    long, rounds, *_ = [*map(int, sys.argv[1:]), *[1_000_000, 9][len(sys.argv) - 1 :]]
    asyncio.run(measure(long, rounds))


if __name__ == "__main__":
    main()
