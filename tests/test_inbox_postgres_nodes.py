"""Two nodes on one PostgreSQL, each a process: a message that comes to both, and a node that is killed."""

from __future__ import annotations

import asyncio

import pytest

from crash_support import Zygote, say
from postgres_support import effects, name, needs_postgres, never, url_of
from reliable_emit.server import Key, PostgresStore, PostgresTransaction, Record
from support import within

__all__ = ["name", "needs_postgres"]

MESSAGES = 60


# What a node does, each in a process of its own.


async def receive(url: str, node: str, messages: int) -> None:
    """Handle all messages, a few at a time, saying the reply to each."""
    store = PostgresStore(url, max_connections=4)
    await store.open()
    turns = asyncio.Semaphore(4)

    async def one(number: int) -> None:
        async def handle(transaction: PostgresTransaction) -> bytes:
            await transaction.execute("INSERT INTO effects (text) VALUES ($1)", f"{number} on {node}")
            await asyncio.sleep(0.002)
            return f"{number} on {node}".encode()

        async with turns:
            record = await store.once(Key("ada", f"o-{number}"), b"f", handle)
        say(f"reply {number} on {record.reply.decode().rpartition(' ')[2]} new {record.new}")

    await asyncio.gather(*(one(number) for number in range(messages)))
    await store.close()


async def stop_at(url: str, step: str) -> None:
    """Handle a message up to a step, and stay there."""
    store = PostgresStore(url)
    await store.open()

    async def stay() -> None:
        say("there")
        await asyncio.Event().wait()

    async def handle(transaction: PostgresTransaction) -> bytes:
        if step == "after the claim":
            await stay()
        await transaction.execute("INSERT INTO effects (text) VALUES ('killed')")
        if step == "after the effect":
            await stay()
        return b"killed"

    if step == "after the commit":
        assert (await store.once(Key("ada", "o-1"), b"f", handle)).new
        await stay()
    await store.once(Key("ada", "o-1"), b"f", handle)


async def test_a_message_that_comes_to_both_nodes_is_handled_by_one(name: str) -> None:
    async with (
        Zygote(__name__) as first,
        Zygote(__name__) as second,
        first.life(receive, url=url_of(name), node="one", messages=MESSAGES) as one,
        second.life(receive, url=url_of(name), node="two", messages=MESSAGES) as two,
    ):
        assert [await one.ended(), await two.ended()] == [0, 0]
        replies = [sorted(line for line in node.lines if line.startswith("reply ")) for node in (one, two)]
    assert [len(of_node) for of_node in replies] == [MESSAGES, MESSAGES]
    for line, other in zip(*replies, strict=True):
        assert {line.rpartition(" ")[0]} == {other.rpartition(" ")[0]}  # the same reply
        assert {line.rpartition(" ")[2], other.rpartition(" ")[2]} == {"True", "False"}  # of one handling
    said = [line.removeprefix("reply ").partition(" new ")[0] for line in replies[0]]
    assert sorted(await effects(name)) == sorted(said)


@pytest.mark.parametrize("step", ["after the claim", "after the effect", "after the commit"])
async def test_what_a_killed_node_has_not_committed_another_one_handles(name: str, step: str) -> None:
    async def handle(transaction: PostgresTransaction) -> bytes:
        await transaction.execute("INSERT INTO effects (text) VALUES ('repetition')")
        return b"repetition"

    store = PostgresStore(url_of(name))
    await store.open()
    try:
        async with Zygote(__name__) as zygote, zygote.life(stop_at, url=url_of(name), step=step) as life:
            assert await life.says("there")
            # The sender repeats the message to the other node, which waits for the first one; and that one dies.
            repetition = asyncio.ensure_future(store.once(Key("ada", "o-1"), b"f", handle))
            if step != "after the commit":
                done, _ = await asyncio.wait([repetition], timeout=0.2)
                assert not done
            life.kill()
            winner = "killed" if step == "after the commit" else "repetition"
            assert await within(repetition) == Record(b"f", winner.encode(), new=winner == "repetition")
        assert await within(store.once(Key("ada", "o-1"), b"f", never)) == Record(b"f", winner.encode(), new=False)
        assert await effects(name) == [winner]
    finally:
        await store.close()
