"""A server that is killed between a message and its ack, at every step and at random moments, while four clients talk.

Each message is stored once, and each client is sent each row once, in the order of the ids: on SQLite with one node,
and on PostgreSQL with two nodes behind a balancer that knows nothing.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import itertools
import os
import random
import sqlite3
import time
from typing import TYPE_CHECKING

import pytest

import redis_support
from cli_support import fast_dir
from kill_server import AFTER_COMMIT, BEFORE_COMMIT, POSTGRES_STEPS, SQLITE_STEPS
from kill_support import Balancer, Chat, Node, Row, came, chat, died, one_node, repeated, two_nodes
from node_support import need_client
from postgres_support import connected, name, needs_postgres, url_of
from server_support import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence
    from pathlib import Path

__all__ = ["fast_dir", "name", "needs_postgres"]

KILLS = int(os.environ.get("RELIABLE_EMIT_KILLS", "40"))
LONGEST = 0.3
"""Seconds that a life has before it is killed, at the most; some have longer, until messages have come."""
MOST = 25
"""Messages for which those wait, at the most."""


@pytest.fixture(autouse=True, scope="module")
def _needed() -> None:
    need_client()


@pytest.fixture(scope="module")
def _redis() -> None:
    redis_support.need_redis()


def in_file(path: Path) -> list[Row]:
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        return [Row(*row) for row in db.execute("SELECT id, content, client_offset FROM messages ORDER BY id")]


async def in_postgres(name: str) -> list[Row]:
    async with connected(name) as connection:
        rows = await connection.fetch("SELECT id, content, client_offset FROM reliable_emit_messages ORDER BY id")
    return [Row(row["id"], row["content"].decode(), row["client_offset"].decode()) for row in rows]


def report(what: str, started: float, nodes: Sequence[Node], four: Chat, stored: Sequence[Row]) -> None:
    print(
        f"{what}: {sum(node.kills for node in nodes)} kills in {time.monotonic() - started:.1f} s, "
        f"{len(stored)} messages, {repeated(nodes)} of them came again, {four.losses} connections lost, "
        f"{sum(node.replayed for node in nodes)} replays"
    )


async def test_killed_at_every_step_on_sqlite(fast_dir: Path) -> None:
    path = fast_dir / "chat.db"
    started = time.monotonic()
    seen_by: dict[str, list[int]] = collections.defaultdict(list)
    async with one_node(str(path)) as node, contextlib.AsyncExitStack() as stack:
        async with node.life() as life:
            await node.up(life)
            four = await stack.enter_async_context(chat(f"http://127.0.0.1:{node.port}"))
            await until(lambda: all(sender.acknowledged for sender in four.senders.values()))
        for count, step in itertools.product((1, 4), SQLITE_STEPS):
            async with node.life(step, count) as life:
                offset = await died(life)
                rows = {row.offset: row.id for row in in_file(path)}
                assert (offset in rows) == (step in AFTER_COMMIT), step
                await until(lambda: not any(reader.connected for reader in four.readers.values()))
                seen = four.have_seen(rows.get(offset, 0))
                seen_by[step].append(len(seen))
        async with node.life() as life:
            await four.silence()
        stored = in_file(path)
        four.check(stored)
        assert [row.id for row in stored] == list(range(1, len(stored) + 1))
        report("every step on SQLite", started, [node], four, stored)
        assert node.kills == 2 * len(SQLITE_STEPS) + 2
        print(dict(seen_by))
        assert max(max(seen_by[step]) for step in BEFORE_COMMIT) == 0
        for step in ("after the commit", "after it was told", "before the broadcast"):
            assert min(seen_by[step]) == 0, step
        assert 0 < max(seen_by["in the middle of the broadcast"]) < 4
        assert max(seen_by["after the broadcast, before the ack"]) > 0  # all that were connected, the sender at least
        assert max(seen_by["after the ack, before the broadcast"]) == 0
        assert repeated([node]) >= len(SQLITE_STEPS)
        assert node.replayed > 0


@pytest.mark.usefixtures("_redis")
async def test_killed_at_every_step_on_postgres_with_two_nodes(name: str) -> None:
    started = time.monotonic()
    async with (
        two_nodes(url_of(name), redis_support.URL) as nodes,
        Balancer(nodes) as balancer,
        contextlib.AsyncExitStack() as stack,
    ):
        four: Chat | None = None
        for count, (dying, survivor) in zip((1, 3), itertools.permutations(nodes), strict=True):
            async with survivor.life() as going_on:
                await survivor.up(going_on)
                four = four or await stack.enter_async_context(chat(balancer.url))
                for step in POSTGRES_STEPS:
                    async with dying.life(step, count) as life:
                        await dying.up(life)
                        async with spread(balancer):
                            offset = await died(life)
                    if step in {*AFTER_COMMIT, "after the other node was told"}:
                        assert offset in {row.offset for row in await in_postgres(name)}, step
        assert four is not None
        async with nodes[0].life() as life, nodes[1].life() as other:
            await nodes[0].up(life)
            await nodes[1].up(other)
            await four.silence()
        stored = await in_postgres(name)
        four.check(stored)
        report("every step on PostgreSQL", started, nodes, four, stored)
        assert sum(node.kills for node in nodes) == 2 * len(POSTGRES_STEPS) + 4
        assert repeated(nodes) > len(POSTGRES_STEPS)
        assert min(node.replayed for node in nodes) > 0


@contextlib.asynccontextmanager
async def spread(balancer: Balancer) -> AsyncIterator[None]:
    """Have clients on all nodes, and others on them from time to time."""

    async def again_and_again() -> None:
        # Longer every time: on a busy machine it takes a while until they are all there again.
        for number in itertools.count():
            balancer.cut()
            await asyncio.sleep(0.3 * 1.5**number)

    cutting = asyncio.create_task(again_and_again())
    try:
        yield
    finally:
        cutting.cancel()


async def at_random(node: Node, chance: random.Random, kills: Iterator[int]) -> None:
    """Lives that are killed at random moments, one after the other, as long as there are kills left."""
    for _ in kills:
        async with node.life() as life:
            kind = chance.random()
            if kind < 0.9:  # the others may be killed before they listen
                await node.up(life)
            if kind < 0.5:
                with contextlib.suppress(TimeoutError):  # the clients may be on the other node, and stay there
                    async with asyncio.timeout(1):
                        await came(life, chance.randrange(1, MOST))
                await asyncio.sleep(chance.uniform(0, LONGEST / 10))
            else:
                await asyncio.sleep(chance.uniform(0, LONGEST))


async def test_killed_at_random_moments_on_sqlite(fast_dir: Path) -> None:
    path = fast_dir / "chat.db"
    seed = random.randrange(1_000_000)
    print(f"seed {seed}")
    started = time.monotonic()
    async with one_node(str(path)) as node, contextlib.AsyncExitStack() as stack:
        async with node.life() as life:
            await node.up(life)
            four = await stack.enter_async_context(chat(f"http://127.0.0.1:{node.port}"))
            await until(lambda: all(sender.acknowledged for sender in four.senders.values()))
        await at_random(node, random.Random(seed), iter(range(KILLS)))
        async with node.life() as life:
            await four.silence()
        stored = in_file(path)
        report("random moments on SQLite", started, [node], four, stored)
        four.check(stored)
        assert [row.id for row in stored] == list(range(1, len(stored) + 1)), seed
        check_kills([node], four, stored)


@pytest.mark.usefixtures("_redis")
async def test_killed_at_random_moments_on_postgres_with_two_nodes(name: str) -> None:
    seed = random.randrange(1_000_000)
    print(f"seed {seed}")
    chance = random.Random(seed)
    started = time.monotonic()
    async with (
        two_nodes(url_of(name), redis_support.URL) as nodes,
        Balancer(nodes) as balancer,
        contextlib.AsyncExitStack() as stack,
    ):
        async with nodes[0].life() as life, nodes[1].life() as other:
            await nodes[0].up(life)
            await nodes[1].up(other)
            four = await stack.enter_async_context(chat(balancer.url))
            await until(lambda: all(sender.acknowledged for sender in four.senders.values()))
        kills = iter(range(KILLS))
        await asyncio.gather(*(at_random(node, random.Random(chance.random()), kills) for node in nodes))
        async with nodes[0].life() as life, nodes[1].life() as other:
            await four.silence()
        stored = await in_postgres(name)
        report("random moments on PostgreSQL", started, nodes, four, stored)
        four.check(stored)
        check_kills(nodes, four, stored)


def check_kills(nodes: Sequence[Node], four: Chat, stored: Sequence[Row]) -> None:
    """The test has tested something."""
    kills = sum(node.kills for node in nodes)
    assert kills >= KILLS
    assert len(stored) > kills
    assert four.losses > kills
    assert repeated(nodes) > kills / 10
    assert min(node.replayed for node in nodes) > 0
