"""Two nodes on one PostgreSQL: ids in the order of the commits, and what becomes of the readers without Redis."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import time
from typing import TYPE_CHECKING, Any

import pytest

import redis_support
from postgres_support import LOST, connected, name, needs_postgres, url_of
from reliable_emit.server import Key, PostgresTransaction, ReferenceServer
from reliable_emit.server.postgres_history import PostgresHistory
from reliable_emit.testing import FaultProxy
from server_support import Plain, plain
from support import within

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

__all__ = ["name", "needs_postgres"]

MESSAGES = 60
SOON = 2.0
"""Seconds within which a reader gets what nobody has told its node of: twice the time between two looks."""


# The order of the ids.


@contextlib.asynccontextmanager
async def histories(name: str, count: int) -> AsyncIterator[list[PostgresHistory]]:
    """The messages, as so many nodes have them."""
    nodes = [PostgresHistory(url_of(name)) for _ in range(count)]
    async with contextlib.AsyncExitStack() as stack:
        for node in nodes:
            await node.open()
            stack.push_async_callback(node.close)
            await node.inbox.open()
            stack.push_async_callback(node.inbox.close)
        yield nodes


async def store(node: PostgresHistory, text: str, slow: Callable[[int], Any] | None = None) -> int:
    """Store a message as the chat does, with something slow between the insert and the commit."""

    async def handle(transaction: PostgresTransaction) -> bytes:
        row = await node.add(transaction, text, str)
        if slow is not None:
            await slow(row)
        return str(row).encode()

    return int((await node.inbox.once(Key("ada", text), b"f", handle)).reply)


async def test_a_row_with_a_lower_id_is_never_committed_later(name: str) -> None:
    async with histories(name, 2) as (one, other):
        inserted: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        go_on = asyncio.Event()

        async def wait(row: int) -> None:
            inserted.set_result(row)
            await go_on.wait()

        first = asyncio.create_task(store(one, "first", wait))
        assert await within(inserted) == 1
        second = asyncio.create_task(store(other, "second"))
        done, _ = await asyncio.wait([second], timeout=0.3)
        assert not done
        assert await other.after(0, rows=10, characters=1000) == []
        go_on.set()
        assert [await within(first), await within(second)] == [1, 2]
        assert [row.id for row in await other.after(0, rows=10, characters=1000)] == [1, 2]


async def test_a_node_that_fails_between_insert_and_commit_holds_up_nobody(name: str) -> None:
    async with histories(name, 2) as (one, other):

        async def lose_the_connection(_: int) -> None:
            async with connected(name) as connection:
                await connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_locks JOIN pg_database ON oid = database "
                    "WHERE datname = current_database() AND locktype = 'advisory' AND pid <> pg_backend_pid()"
                )

        with pytest.raises(LOST):
            await store(one, "first", lose_the_connection)
        assert await within(store(other, "second")) > 1
        assert [row.text for row in await other.after(0, rows=10, characters=1000)] == ["second"]


async def test_a_reader_that_asks_for_what_follows_never_misses_a_row(name: str) -> None:
    chance = random.Random(5)
    async with histories(name, 3) as (*writers, reader):
        waiting = waited = 0
        done = asyncio.Event()
        found: list[int] = []

        async def slow(_: int) -> None:
            nonlocal waited
            waited += waiting > 0  # somebody else wants to insert, and has to wait for us
            await asyncio.sleep(chance.uniform(0, 0.01))

        async def write(node: PostgresHistory, text: str) -> int:
            nonlocal waiting

            async def handle(transaction: PostgresTransaction) -> bytes:
                nonlocal waiting
                waiting += 1
                row = await node.add(transaction, text, str)
                waiting -= 1
                await slow(row)
                return str(row).encode()

            await asyncio.sleep(chance.uniform(0, 0.3))
            return int((await node.inbox.once(Key("ada", text), b"f", handle)).reply)

        async def read() -> int:
            looks = 0
            while True:
                over = done.is_set()
                rows = await reader.after(found[-1] if found else 0, rows=100, characters=10_000)
                found.extend(row.id for row in rows)
                looks += bool(rows)
                if over and not rows:
                    return looks

        reading = asyncio.create_task(read())
        ids = await within(asyncio.gather(*(write(writers[number % 2], f"m-{number}") for number in range(MESSAGES))))
        done.set()
        looks = await within(reading)
        assert found == sorted(ids)
        assert len(set(ids)) == MESSAGES
        assert waited > MESSAGES / 4
        assert looks > MESSAGES / 4  # it has read in between, and not all at the end


# Without Redis.

# When either fails, telling or listening, python-socketio makes connections for both anew, and leaves the old ones to
# the garbage collector, which closes them.
_leaves_connections = pytest.mark.filterwarnings("ignore:unclosed Connection:ResourceWarning")


@pytest.fixture
def _collected() -> Iterator[None]:
    redis_support.need_redis()
    yield
    gc.collect()  # while the warning is expected


@contextlib.asynccontextmanager
async def two_servers(name: str, proxy: FaultProxy) -> AsyncIterator[tuple[ReferenceServer, ReferenceServer]]:
    """Two nodes, the second of which reaches Redis through the proxy."""
    through = redis_support.url_at(f"127.0.0.1:{proxy.port}")
    async with (
        ReferenceServer(url_of(name), message_queue=redis_support.URL) as direct,
        ReferenceServer(url_of(name), message_queue=through) as proxied,
    ):
        yield direct, proxied


async def exchange(number: int, one: Plain, other: Plain) -> list[float]:
    """Have each say something; return how long after its ack the other one had it."""
    took: list[float] = []
    for sender, reader in ((one, other), (other, one)):
        await sender.say(f"message {number}", f"{id(sender)}-{number}")
        acknowledged = time.monotonic()
        rows = 2 * number + len(took) + 1
        await reader.has(rows)
        took.append(time.monotonic() - acknowledged)
        await sender.has(rows)
    return took


@_leaves_connections
@pytest.mark.usefixtures("_collected")
@pytest.mark.parametrize("how", ["refused", "silent"])
async def test_without_redis_messages_reach_the_readers_on_the_other_node_all_the_same(name: str, how: str) -> None:
    async with (
        FaultProxy(*redis_support.address()) as proxy,
        two_servers(name, proxy) as (direct, proxied),
        plain(direct.url) as one,
        plain(proxied.url) as other,
    ):
        assert max(await exchange(0, one, other)) < SOON
        assert proxy.connections == 2  # one to tell, one to listen; made when somebody connects, or says something
        if how == "refused":
            proxy.refuse()
            proxy.reset()
        else:
            proxy.blackhole(new=True)
        for number in (1, 2, 3):
            assert max(await exchange(number, one, other)) < SOON
        assert one.ids == other.ids == sorted(set(one.ids))
        assert one.texts == other.texts
        started = time.monotonic()
        await proxied.stop()
        assert time.monotonic() - started < 4


@_leaves_connections
@pytest.mark.usefixtures("_collected")
async def test_a_node_starts_without_redis_and_is_told_again_when_it_is_back(name: str) -> None:
    async with FaultProxy(*redis_support.address()) as proxy:
        proxy.refuse()
        async with contextlib.AsyncExitStack() as stack:
            through = redis_support.url_at(f"127.0.0.1:{proxy.port}")
            node = await stack.enter_async_context(ReferenceServer(url_of(name), message_queue=through))
            other_node = await stack.enter_async_context(ReferenceServer(url_of(name), message_queue=redis_support.URL))
            manager, told = node._nodes, asyncio.Event()
            assert manager is not None
            handle = manager._handle_emit

            async def on_news(message: dict[str, Any]) -> None:
                if message["host_id"] != manager.host_id:
                    told.set()
                await handle(message)

            manager._handle_emit = on_news  # type: ignore[method-assign]
            one = await stack.enter_async_context(plain(node.url))
            other = await stack.enter_async_context(plain(other_node.url))
            assert max(await exchange(0, one, other)) < SOON
            assert not told.is_set()
            proxy.heal()
            for number in range(1, 100):
                await exchange(number, one, other)
                if told.is_set():
                    break
            assert told.is_set()
