"""A sender that is killed with ``kill -9`` at random moments, and started again on the same file, loses nothing."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import itertools
import os
import random
import time
from typing import TYPE_CHECKING

import pytest

from cli_support import fast_dir
from crash_support import EVENT, Life, Witness, Zygote, connect, say, sender
from reliable_emit.errors import FlushTimeout
from reliable_emit.server import Faults, ReferenceServer
from support import within

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["fast_dir"]

KILLS = int(os.environ.get("RELIABLE_EMIT_KILLS", "200"))
LONGEST = 0.1
"""Seconds that a life has before it is killed, at the most; some have longer, until messages are acknowledged."""
MOST = 25
"""Messages for which those wait, at the most."""
PATIENT = 2.0
"""Seconds for which they do."""


async def live(path: str, url: str, first: int, seed: int | None) -> None:
    """Go on with what the last life left, and emit numbers from `first` on; without a seed none, but to the end."""
    chance = random.Random(seed)
    client = sender(path, ack_timeout=0.1, max_pending=400, overflow="wait")
    numbers = itertools.count(first)
    pause = chance.choice([0, 0.01])  # some lives emit more than can be sent, and fill the queue

    async def emit(number: int) -> None:
        text = f"{number} {'x' * chance.randrange(2000)}"
        say(f"called {number}")
        await client.emit(EVENT, text)
        say(f"accepted {number}")

    acknowledged = itertools.count(1)
    client.on("acknowledged", lambda _delivery: say(f"acknowledged {next(acknowledged)}"))
    say("up")
    connecting = asyncio.create_task(connect(client, url))
    try:
        await client.flush(timeout=0)  # opens the file
    except FlushTimeout as error:
        say(f"resumed {error.pending}")
    say("open")
    # Most lives would never stop by themselves; some end in order, if they are not killed while they do.
    end = first + chance.choice([1_000_000, 1_000_000, chance.randrange(40)]) if seed is not None else first
    while (number := next(numbers)) < end:
        if chance.random() < 0.3:
            burst = [number, *itertools.islice(numbers, chance.randrange(1, 12))]
            await asyncio.gather(*map(emit, burst))
        else:
            await emit(number)
        await asyncio.sleep(chance.uniform(0, pause))
    await connecting
    say("draining")
    say(f"closed {await client.close(timeout=30)}")


@pytest.mark.alone  # its acknowledgements are due in a tenth of a second, and the last life has a bound
async def test_what_was_accepted_is_stored_once_in_order_however_often_the_sender_is_killed(
    fast_dir: Path,
) -> None:
    seed = random.randrange(1_000_000)
    chance = random.Random(seed)
    print(f"seed {seed}")
    # The server misbehaves as well: a sender's connection is lost before and after its message is stored.
    faults = Faults(seed=seed, drop_before_commit=0.02, drop_after_commit=0.02, swallow_ack=0.002)
    last = "called nothing"
    called: list[int] = []
    accepted: set[int] = set()
    under_way: set[int] = set()
    count: collections.Counter[str] = collections.Counter()
    started = time.monotonic()
    path = str(fast_dir / "outbox.db")

    async def cut(witness: Witness) -> None:
        while True:
            await asyncio.sleep(chance.uniform(0, 0.3))
            count["cut"] += witness.cut()

    def look_back(life: Life) -> None:
        nonlocal last
        called.extend(life.numbers("called"))
        accepted.update(life.numbers("accepted"))
        under_way.update(set(life.numbers("called")) - set(life.numbers("accepted")))
        count["resumed"] += sum(life.numbers("resumed"))
        last = life.lines[-1] if life.lines else "nothing"

    async with ReferenceServer(faults=faults) as server, Zygote(__name__) as zygote:
        witness = Witness(server)
        cutting = asyncio.create_task(cut(witness))
        while count["killed"] < KILLS:
            first = called[-1] + 1 if called else 1
            async with zygote.life(live, path=path, url=server.url, first=first, seed=chance.random()) as life:
                await life.says("up")
                if chance.random() < 0.5:
                    # On a slow machine the cuts leave some lives hardly a moment connected.
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(PATIENT):
                            await life.says(f"acknowledged {chance.randrange(1, MOST)}")
                    await asyncio.sleep(chance.uniform(0, LONGEST / 10))
                else:
                    await asyncio.sleep(chance.uniform(0, LONGEST))
                life.kill()
                status = await life.ended()
            look_back(life)
            assert status in {0, -9}, (seed, last)
            count["killed" if status else "ended in order"] += 1
            if status:
                phase = next(word for word in ("draining", "open", "up") if word in life.lines)
                count[f"killed after {phase}"] += 1
        faults.calm()
        cutting.cancel()
        async with zygote.life(live, path=path, url=server.url, first=0, seed=None) as life:
            assert await within(life.ended()) == 0, seed
        look_back(life)
        assert last == "closed 0", seed
        stored = [int(row.text.split()[0]) for row in await server.messages()]

    print(
        f"{time.monotonic() - started:.1f} s, {dict(count)}, called {len(called)}, accepted {len(accepted)}, "
        f"under way at a kill {len(under_way)}, of these stored {len(under_way.intersection(stored))}, "
        f"received again {witness.repeated}, faults {faults.counts}"
    )
    assert called == sorted(set(called)), seed
    assert stored == sorted(set(stored)), seed  # in the order of the calls, and each once
    assert accepted <= set(stored), (seed, sorted(accepted - set(stored)))
    assert set(stored) - accepted <= under_way, seed
    # The test has tested something.
    assert len(accepted) > KILLS, seed
    assert min(count[f"killed after {phase}"] for phase in ("up", "open", "draining")) > 0, seed
    assert count["resumed"] > 0, seed
    assert count["cut"] > 0, seed
    assert witness.repeated > 0, seed
    assert under_way, seed
    assert min(faults.counts["drop_before_commit"], faults.counts["drop_after_commit"]) > 0, seed
