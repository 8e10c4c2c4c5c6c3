"""Random schedules of faults: nothing is lost, everything is stored once and in order, whatever the network does.

Each seed stands for one schedule, one kind of outbox and one transport. ``RELIABLE_EMIT_SEEDS=17`` repeats the one that
a failure names, and ``RELIABLE_EMIT_SEEDS=0-99`` runs a hundred, 25 of each of the four combinations. Without it there
are 24, which take half a minute.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from typing import TYPE_CHECKING

import pytest
import socketio
import tenacity

from reliable_emit import FlushTimeout, MemoryOutbox, ReliableClient, SQLiteOutbox
from reliable_emit.server import ReferenceServer
from reliable_emit.testing import FaultProxy, Schedule

if TYPE_CHECKING:
    from pathlib import Path

    from reliable_emit import Outbox

MESSAGES = 500
PATIENCE = 180.0
AT_ONCE = 10
"""Most of the time a schedule waits."""
COMBINATIONS = list(itertools.product(("websocket", "polling"), ("memory", "sqlite")))


def _seeds() -> list[int]:
    first, _, last = os.environ.get("RELIABLE_EMIT_SEEDS", "0-23").partition("-")
    return list(range(int(first), int(last or first) + 1))


SEEDS = {
    f"{transport}-{outbox}": seeds
    for number, (transport, outbox) in enumerate(COMBINATIONS)
    if (seeds := [seed for seed in _seeds() if seed % len(COMBINATIONS) == number])
}


async def _play(seed: int, directory: Path) -> str | None:
    """Send the messages through that schedule, and return what is wrong, if anything is."""
    transport, kind = COMBINATIONS[seed % len(COMBINATIONS)]
    outbox: Outbox = (
        MemoryOutbox() if kind == "memory" else SQLiteOutbox(directory / f"{seed}.db", synchronous="normal")
    )
    sio = socketio.AsyncClient(handle_sigint=False)
    client = ReliableClient(
        sio,
        outbox=outbox,
        client_offset=True,
        ack_timeout=0.5,
        retries=None,
        max_losses=None,
        backoff=tenacity.wait_none(),
    )
    texts = [f"message {number}" for number in range(MESSAGES)]
    wrong = []
    async with ReferenceServer(":memory:") as server, FaultProxy("127.0.0.1", server.port, seed=seed) as proxy:
        async with Schedule(proxy, seed, seconds=(0.01, 0.1), calm=(0.05, 0.2)) as schedule:
            try:
                await client.connect(
                    proxy.url,
                    auth={"serverOffset": 2**62},  # nobody here reads what was said
                    transports=[transport],
                    wait_timeout=1.0,
                    reconnect_backoff=tenacity.wait_random(0.01, 0.05),
                )
                for text in texts:
                    await client.emit("chat message", text)
                await client.flush(timeout=PATIENCE)
            except FlushTimeout as error:
                wrong.append(f"{error}; {client.state}; {proxy!r}")
            finally:
                steps = len(schedule.history)
                await client.close(timeout=0)
        stored = [row.text for row in await server.messages()]
    print(f"seed {seed}: {steps} faults, {client.stats}")
    if stored != texts:
        odd = next((place for place, (text, due) in enumerate(zip(stored, texts, strict=False)) if text != due), None)
        wrong.append(
            f"{len(stored)} are stored, {len(set(stored))} of them different ones, {len(set(texts) - set(stored))} are "
            f"missing; in order up to place {odd}"
        )
    if not client.stats.lost:
        wrong.append(f"no attempt was lost in {steps} faults, so that nothing is shown")
    if client.dead_letters():
        wrong.append(f"dead letters: {client.dead_letters()}")
    return f"seed {seed}: {'; '.join(wrong)}" if wrong else None


@pytest.mark.parametrize("seeds", SEEDS.values(), ids=SEEDS)
async def test_nothing_is_lost(seeds: list[int], tmp_path: Path) -> None:
    gate = asyncio.Semaphore(AT_ONCE)

    async def play(seed: int) -> str | None:
        async with gate:
            return await _play(seed, tmp_path)

    wrong = [each for each in await asyncio.gather(*map(play, seeds)) if each is not None]
    assert not wrong, "\n".join([*wrong, "repeat one with RELIABLE_EMIT_SEEDS=<seed>"])
