"""Several nodes and what is between them, Redis and PostgreSQL, as it fails."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from typing import TYPE_CHECKING, Any

import pytest

from crash_support import Zygote, say
from postgres_support import database, name, needs_postgres, url_of
from redis_support import URL, address, need_redis, url_at
from reliable_emit.server import ReferenceServer
from reliable_emit.testing import FaultProxy
from server_support import PATIENCE, plain, store

if TYPE_CHECKING:
    from pathlib import Path

    from reliable_emit.server.inbox.postgres import PostgresTransaction


__all__ = ["name", "needs_postgres"]


@pytest.fixture
def _redis() -> None:
    need_redis()


async def stopped_after_its_insert(url: str) -> None:
    """A node that is stopped while all others wait for its commit."""
    server = ReferenceServer(url)
    add = server._history.add

    async def add_and_stop(transaction: PostgresTransaction, text: str, told: Any) -> int:
        row = await add(transaction, text, told)
        say("stops")
        os.kill(os.getpid(), signal.SIGSTOP)
        return row

    async with server:
        server._history.add = add_and_stop  # type: ignore[method-assign]
        reply = await store(server, "of the stopped node", "a-0")
        say("is not acknowledged" if reply is server.sio.not_handled else f"is acknowledged: {reply}")
        del server._history.add
        say(f"stored as {await store(server, 'of the stopped node', 'a-0')}")


async def test_a_node_that_is_stopped_holds_up_the_others_for_seconds_only(name: str) -> None:
    async with (
        Zygote(__name__) as zygote,
        ReferenceServer(url_of(name)) as server,
        zygote.life(stopped_after_its_insert, url=url_of(name)) as node,
    ):
        assert await node.says("stops")
        started = time.monotonic()
        reply: Any = await store(server, "of another", "b-0")  # less than a database may take for a statement
        assert 1 < time.monotonic() - started < 5
        assert [row.text for row in await server.messages()] == ["of another"]
        os.kill(node.pid, signal.SIGCONT)
        assert await node.says("is not acknowledged")
        async with asyncio.timeout(10):
            assert await node.ended() == 0
        first, second = await server.messages()
        assert (first.id, first.text, second.text) == (reply, "of another", "of the stopped node")


@pytest.mark.usefixtures("_redis")
async def test_a_reader_that_polls_needs_no_redis_for_what_its_own_node_sends_it() -> None:
    async with (
        FaultProxy(*address()) as proxy,
        ReferenceServer(message_queue=url_at(f"127.0.0.1:{proxy.port}")) as server,
        plain(server.url, transports="polling") as polls,
        plain(server.url) as sender,
    ):
        await sender.say("before", "a-0")
        await polls.has(1)
        proxy.freeze()
        for number in range(30):
            await sender.say(f"{number}", f"b-{number}")
        await polls.has(31)
        assert polls.ids == list(range(1, 32))


@pytest.mark.usefixtures("_redis")
async def test_nodes_of_one_chat_hear_each_other_and_no_other_chat(name: str) -> None:
    async with database() as other_name:
        names = [name, name, other_name, other_name]
        servers = [ReferenceServer(url_of(one), message_queue=URL) for one in names]
        servers += [ReferenceServer(message_queue=URL)]
        async with contextlib.AsyncExitStack() as stack:
            # At the same time: both nodes of a chat find a database without its tables.
            await asyncio.gather(*(server.start() for server in servers))
            for server in servers:
                stack.push_async_callback(server.stop)
            heard: list[list[str]] = [[] for _ in servers]
            for server, news in zip(servers, heard, strict=True):
                client = await stack.enter_async_context(plain(server.url))
                client.sio.on("news", news.append)
            last = {0: "one", 2: "other", 4: "third"}
            async with asyncio.timeout(PATIENCE):
                # A node listens some time after it has its first client, and nothing tells when.
                while not all(news and news[-1] == "end" for news in heard):
                    for number, text in last.items():
                        await servers[number].sio.emit("news", text)
                        await servers[number].sio.emit("news", "end")
                    await asyncio.sleep(0.05)
            kinds = [set(news) - {"end"} for news in heard]
            assert kinds == [{"one"}, {"one"}, {"other"}, {"other"}, {"third"}]


@pytest.mark.usefixtures("_redis")
async def test_redis_is_down_when_the_server_starts(caplog: pytest.LogCaptureFixture) -> None:
    async with FaultProxy(*address()) as proxy, contextlib.AsyncExitStack() as stack:
        proxy.refuse()
        servers = [
            await stack.enter_async_context(ReferenceServer(message_queue=url_at(f"127.0.0.1:{proxy.port}")))
            for _ in range(2)
        ]
        for server in servers:
            assert server._nodes is not None
            server._nodes.serve("one chat")  # as two nodes on one database do
        heard: list[object] = []
        async with plain(servers[1].url) as client:  # with the first client a node begins to listen
            client.sio.on("news", heard.append)
            for number in range(50):
                await servers[0].sio.emit("news", number)
                await asyncio.sleep(0.01)
            assert len(caplog.records) <= 2  # one each, and not one for each attempt
            proxy.heal()
            async with asyncio.timeout(PATIENCE):
                while not heard:
                    await servers[0].sio.emit("news", "at last")
                    await asyncio.sleep(0.1)
        assert set(heard) == {"at last"}


@pytest.mark.usefixtures("_redis")
@pytest.mark.filterwarnings("error")
async def test_redis_fails_for_a_while_which_is_said_once_with_the_reason(caplog: pytest.LogCaptureFixture) -> None:
    async with (
        FaultProxy(*address()) as proxy,
        ReferenceServer(message_queue=url_at(f"127.0.0.1:{proxy.port}")) as server,
        plain(server.url) as client,
    ):
        server_redis = server._nodes
        assert server_redis is not None
        heard: list[str] = []
        client.sio.on("news", heard.append)
        for outage in range(1, 3):
            proxy.refuse()
            proxy.cut()
            for number in range(20):
                await server.sio.emit("news", f"{outage} {number}")  # waits until it has failed
            failures = [record for record in caplog.records if "the message queue fails" in record.message]
            assert len(failures) == outage
            assert not failures[-1].message.endswith(": ")
            assert len(caplog.records) == outage
            proxy.accept()
            async with asyncio.timeout(PATIENCE):
                while server_redis._complaints._said:
                    await server.sio.emit("nothing", "")
        made = server_redis.redis
    assert made.connection_pool._in_use_connections == set()
    assert all(not one.is_connected for one in made.connection_pool._available_connections)


@pytest.mark.usefixtures("_redis")
async def test_a_node_hears_the_others_again_when_redis_is_back(tmp_path: Path) -> None:
    async with (
        FaultProxy(*address()) as proxy,
        ReferenceServer(tmp_path / "chat.db", message_queue=URL) as speaks,
        ReferenceServer(tmp_path / "chat.db", message_queue=url_at(f"127.0.0.1:{proxy.port}")) as hears,
        plain(speaks.url),
        plain(hears.url) as client,
    ):
        heard: list[str] = []
        client.sio.on("news", heard.append)

        async def is_heard(text: str) -> None:
            async with asyncio.timeout(PATIENCE):
                while text not in heard:
                    await speaks.sio.emit("news", text)
                    await asyncio.sleep(0.05)

        await is_heard("before")
        proxy.refuse()
        proxy.cut()
        await hears.sio.emit("nothing", "")
        proxy.accept()
        await is_heard("after")
