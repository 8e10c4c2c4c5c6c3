"""The inbox's store in PostgreSQL: what handlers do wrong, what becomes of connections, and what it is told."""

from __future__ import annotations

import asyncio
import contextlib
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
import socketio
from aiohttp import web

from postgres_support import LOST, address, connected, effects, name, needs_postgres, never, url_of
from reliable_emit.server import Inbox, Key, PostgresStore, PostgresTransaction, Record, Reject, StoreError, TakeBack
from reliable_emit.testing import FaultProxy
from support import PATIENCE, within

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

__all__ = ["name", "needs_postgres"]

KEY = Key("ada", "o-1")


@contextlib.asynccontextmanager
async def opened(url: Any, **options: Any) -> AsyncIterator[PostgresStore]:
    store = PostgresStore(url, **options)
    await store.open()
    try:
        yield store
    finally:
        async with asyncio.timeout(5):  # a second, on a busy machine
            await store.close()


@pytest.fixture
async def store(name: str) -> AsyncIterator[PostgresStore]:
    async with opened(url_of(name)) as made:
        yield made


async def insert(transaction: PostgresTransaction, text: str = "effect") -> bytes:
    await transaction.execute("INSERT INTO effects (text) VALUES ($1)", text)
    return b"reply"


class Held:
    """A handler that has its effect, and then waits until it may go on."""

    def __init__(self) -> None:
        self.there, self.go_on = asyncio.Event(), asyncio.Event()

    async def __call__(self, transaction: PostgresTransaction) -> bytes:
        reply = await insert(transaction)
        self.there.set()
        await self.go_on.wait()
        return reply


async def is_new(store: PostgresStore, key: Key = KEY) -> bool:
    """Handle the message as its sender's repetition would be; return whether it was handled now."""
    return (await within(store.once(key, b"f", insert))).new


async def backends(name: str, where: str = "true") -> int:
    """How many connections others have."""
    async with connected(name) as connection:
        query = "SELECT count(*) FROM pg_stat_activity WHERE datname = $1 AND pid <> pg_backend_pid()"
        return int(await connection.fetchval(f"{query} AND {where}", name))


async def until(true: Callable[[], Awaitable[bool]]) -> None:
    """Ask the database until it is so: it tells nobody by itself."""
    async with asyncio.timeout(PATIENCE):
        while not await true():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def until_waiting(name: str, count: int = 1) -> None:
    """Wait until so many connections wait for a lock."""

    async def waiting() -> bool:
        return await backends(name, "wait_event_type = 'Lock'") >= count

    await until(waiting)


async def until_left(name: str) -> None:
    """Wait until the server has seen that all connections are closed."""

    async def left() -> bool:
        return await backends(name) == 0

    await until(left)


# What a handler does to the transaction.


async def commits(transaction: PostgresTransaction) -> bytes:
    await insert(transaction, "committed")
    await transaction.execute("COMMIT")
    return b"reply"


async def rolls_back(transaction: PostgresTransaction) -> bytes:
    await insert(transaction, "undone")
    await transaction.execute("ROLLBACK")
    return b"reply"


async def commits_and_begins(transaction: PostgresTransaction) -> bytes:
    await insert(transaction, "committed")
    await transaction.execute("COMMIT; BEGIN")
    await insert(transaction, "undone")
    return b"reply"


async def chains(transaction: PostgresTransaction) -> bytes:
    await insert(transaction, "undone")
    await transaction.execute("ROLLBACK AND CHAIN")
    await insert(transaction, "undone")
    return b"reply"


async def commits_and_rejects(transaction: PostgresTransaction) -> bytes:
    await commits(transaction)
    raise TakeBack(b"rejected")


@pytest.mark.parametrize("handler", [commits, rolls_back, commits_and_begins, chains, commits_and_rejects])
async def test_a_handler_that_ends_the_transaction_is_found_out(store: PostgresStore, name: str, handler: Any) -> None:
    called: list[str] = []

    async def handle(transaction: PostgresTransaction) -> bytes:
        transaction.after_commit(lambda: called.append("callback"))
        result: bytes = await handler(transaction)
        return result

    with pytest.raises(RuntimeError, match=r"'o-1' committed or rolled back by itself: nothing is recorded"):
        await store.once(KEY, b"f", handle)
    committed = ["committed"] if "commits" in handler.__name__ else []
    assert await effects(name) == committed
    assert called == []
    assert await is_new(store)
    assert await effects(name) == [*committed, "effect"]


async def test_a_commit_of_a_failed_transaction_is_a_rollback_in_postgresql(name: str) -> None:
    # What the next test is about: were the end of a transaction just a COMMIT, this would pass for one.
    async with connected(name) as connection:
        await connection.execute("BEGIN; INSERT INTO effects (text) VALUES ('lost')")
        with pytest.raises(asyncpg.DivisionByZeroError):
            await connection.execute("SELECT 1 / 0")
        assert await connection.execute("COMMIT") == "ROLLBACK"
    assert await effects(name) == []


async def test_a_handler_that_swallows_the_error_of_a_statement_is_not_acknowledged(
    store: PostgresStore, name: str
) -> None:
    async def handle(transaction: PostgresTransaction) -> bytes:
        await insert(transaction)
        with contextlib.suppress(asyncpg.DivisionByZeroError):
            await transaction.execute("SELECT 1 / 0")
        return b"reply"

    with pytest.raises(RuntimeError, match=r"'o-1' failed, and with it the whole transaction.*have a savepoint"):
        await store.once(KEY, b"f", handle)
    assert await effects(name) == []
    assert await is_new(store)


async def test_a_handler_that_swallows_an_error_can_still_reject(store: PostgresStore, name: str) -> None:
    async def handle(transaction: PostgresTransaction) -> bytes:
        await insert(transaction)
        with contextlib.suppress(asyncpg.DivisionByZeroError):
            await transaction.execute("SELECT 1 / 0")
        raise TakeBack(b"rejected")

    assert await store.once(KEY, b"f", handle) == Record(b"f", b"rejected", new=True)
    assert await store.once(KEY, b"f", never) == Record(b"f", b"rejected", new=False)
    assert await effects(name) == []


async def test_a_savepoint_survives_an_error(store: PostgresStore, name: str) -> None:
    async def handle(transaction: PostgresTransaction) -> bytes:
        await insert(transaction, "before")
        with contextlib.suppress(asyncpg.DivisionByZeroError):
            async with transaction.connection.transaction():
                await insert(transaction, "undone")
                await transaction.execute("SELECT 1 / 0")
        async with transaction.connection.transaction():
            await insert(transaction, "after")
        return b"reply"

    assert (await store.once(KEY, b"f", handle)).new
    assert await effects(name) == ["before", "after"]


async def test_the_connection_is_the_drivers_own(store: PostgresStore, name: str) -> None:
    async def handle(transaction: PostgresTransaction) -> bytes:
        await transaction.connection.executemany("INSERT INTO effects (text) VALUES ($1)", [("a",), ("b",)])
        found = [row["text"] async for row in transaction.connection.cursor("SELECT text FROM effects ORDER BY id")]
        found += [row["text"] for row in await transaction.fetch("SELECT text FROM effects WHERE text > $1", "a")]
        assert await transaction.fetch("SHOW transaction_isolation") == [("read committed",)]
        return "".join(found).encode()

    assert (await store.once(KEY, b"f", handle)).reply == b"abb"


async def test_a_constraint_that_is_checked_at_the_commit_fails_the_message(store: PostgresStore, name: str) -> None:
    async with connected(name) as connection:
        await connection.execute("ALTER TABLE effects ADD UNIQUE (text) DEFERRABLE INITIALLY DEFERRED")

    async def twice(transaction: PostgresTransaction) -> bytes:
        await insert(transaction)
        return await insert(transaction)

    with pytest.raises(asyncpg.UniqueViolationError):
        await store.once(KEY, b"f", twice)
    assert await effects(name) == []
    assert await is_new(store)


@pytest.mark.parametrize("ends", ["committed", "rejected", "rolled back"])
@pytest.mark.parametrize("pool", ["own", "given"])
async def test_what_a_handler_sets_for_its_session_ends_with_it(name: str, ends: str, pool: str) -> None:
    role = f"{name}_role"

    async def handle(transaction: PostgresTransaction) -> bytes:
        await transaction.execute("SELECT pg_advisory_lock(7); LISTEN channel; CREATE TEMP TABLE mine (x int)")
        await transaction.execute("INSERT INTO effects (text) VALUES ('for the sequence')")
        await transaction.execute(f'SET search_path = nowhere; SET ROLE "{role}"')
        if ends == "rejected":
            raise TakeBack(b"no")
        if ends == "rolled back":
            raise ValueError("on purpose")
        return b"reply"

    async def look(transaction: PostgresTransaction) -> bytes:
        assert await transaction.fetch("SELECT current_user = session_user, to_regclass('mine')") == [(True, None)]
        assert await transaction.fetch("SELECT * FROM pg_listening_channels()") == []
        with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError):
            async with transaction.connection.transaction():
                await transaction.execute("SELECT lastval()")
        return await insert(transaction)  # by the search_path

    async with contextlib.AsyncExitStack() as stack:
        admin = await stack.enter_async_context(connected(name))
        url: Any = url_of(name)
        if pool == "given":

            async def leave_alone(_: asyncpg.Connection) -> None:
                """The store does not rely on the pool's own way."""

            url = await asyncpg.create_pool(url, min_size=1, max_size=1, reset=leave_alone)
            stack.push_async_callback(url.close)
        store = await stack.enter_async_context(opened(url, **({"max_connections": 1} if pool == "own" else {})))
        await admin.execute(f'CREATE ROLE "{role}"; GRANT ALL ON reliable_emit_inbox TO "{role}"')
        try:
            with contextlib.suppress(ValueError):
                await store.once(KEY, b"f", handle)
            assert (await store.once(Key("ada", "o-2"), b"f", look)).new
            assert await admin.fetchval("SELECT pg_try_advisory_lock(7)")
        finally:
            await admin.execute(f'DROP OWNED BY "{role}"; DROP ROLE "{role}"')


async def test_a_store_is_for_one_inbox(store: PostgresStore) -> None:
    with pytest.raises(RuntimeError, match="give each inbox a store of its own"):
        await store.open()
    assert await is_new(store)


async def test_a_transaction_refuses_after_its_handler(store: PostgresStore, name: str) -> None:
    kept: list[PostgresTransaction] = []

    async def handle(transaction: PostgresTransaction) -> bytes:
        kept.append(transaction)
        return await insert(transaction)

    await store.once(KEY, b"f", handle)
    with pytest.raises(RuntimeError, match=r"'o-1' has ended with its handler"):
        await insert(kept[0])
    with pytest.raises(RuntimeError, match=r"'o-1' has ended with its handler"):
        await kept[0].fetch("SELECT 1")
    assert await effects(name) == ["effect"]


async def test_a_statement_that_a_handler_has_left_running_fails_the_message(store: PostgresStore, name: str) -> None:
    tasks: list[asyncio.Task[Any]] = []

    async def handle(transaction: PostgresTransaction) -> bytes:
        await insert(transaction)
        tasks.append(asyncio.ensure_future(transaction.execute("SELECT pg_sleep(0.3)")))
        await asyncio.sleep(0)
        return b"reply"

    with pytest.raises(asyncpg.InterfaceError):
        await within(store.once(KEY, b"f", handle))
    await asyncio.wait(tasks)
    assert tasks[0].exception() is not None
    assert await effects(name) == []
    assert await is_new(store)


async def test_a_database_with_another_default_isolation_gives_repetitions_their_reply(name: str) -> None:
    async with connected(name) as connection:
        await connection.execute(f'ALTER DATABASE "{name}" SET default_transaction_isolation = serializable')
        await connection.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
    async with connected(name) as connection:
        await connection.execute("SET default_transaction_read_only = off")
        await connection.execute(PostgresStore(url_of(name))._sql.make())
    async with opened(url_of(name)) as store:

        async def slowly(transaction: PostgresTransaction) -> bytes:
            await insert(transaction)
            await until_waiting(name, 3)
            return b"reply"

        records = await within(asyncio.gather(*(store.once(KEY, b"f", slowly) for _ in range(4))))
    assert sorted(record.new for record in records) == [False] * 3 + [True]
    assert await effects(name) == ["effect"]


# What becomes of connections.


@pytest.mark.parametrize("inside", ["a statement", "the handler"])
async def test_a_cancelled_handler_leaves_a_connection_that_works(name: str, inside: str) -> None:
    there = asyncio.Event()

    async def handle(transaction: PostgresTransaction) -> bytes:
        await insert(transaction, "cancelled")
        there.set()
        if inside == "a statement":
            await transaction.execute("SELECT pg_sleep(60)")
        await asyncio.Event().wait()
        return b"reply"

    async with opened(url_of(name), max_connections=1) as store:
        for _ in range(3):
            there.clear()
            task = asyncio.ensure_future(store.once(KEY, b"f", handle))
            await within(there.wait())
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await within(task)
        assert await is_new(store)
    assert await effects(name) == ["effect"]


async def test_one_cancelled_while_it_commits_is_committed(name: str) -> None:
    async with FaultProxy(*address()) as proxy, opened(url_of(name, host=f"127.0.0.1:{proxy.port}")) as store:
        called: list[str] = []
        over = asyncio.Event()

        async def handle(transaction: PostgresTransaction) -> bytes:
            transaction.after_commit(lambda: called.append("callback"))
            transaction.after_commit(over.set)
            await insert(transaction)
            asyncio.get_running_loop().call_soon(task.cancel)
            proxy.latency(0.1)  # so that it is cancelled before there is an answer to the commit
            return b"reply"

        task = asyncio.ensure_future(store.once(KEY, b"f", handle))
        with pytest.raises(asyncio.CancelledError):
            await within(task)
        await within(over.wait())
        assert called == ["callback"]
        assert await within(store.once(KEY, b"f", never)) == Record(b"f", b"reply", new=False)
    assert await effects(name) == ["effect"]


async def terminate(name: str, where: str = "true") -> int:
    """Kill the server processes of all other connections; return how many there were."""
    async with connected(name) as connection:
        query = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1 AND pid <> pg_backend_pid()"
        return len(await connection.fetch(f"{query} AND {where}", name))


async def test_a_backend_that_is_killed_while_idle_costs_no_message(store: PostgresStore, name: str) -> None:
    assert await is_new(store, Key("ada", "o-0"))
    assert await terminate(name) == 1
    await until_left(name)
    # At the latest when the driver has seen it: until then a message may fail, and its repetition is handled.
    for _ in range(3):
        with contextlib.suppress(*LOST):
            await within(store.once(KEY, b"f", insert))
    assert await within(store.once(KEY, b"f", never)) == Record(b"f", b"reply", new=False)
    assert await effects(name) == ["effect", "effect"]


@pytest.mark.parametrize("inside", ["the claim", "the handler", "a statement", "the commit"])
async def test_a_backend_that_is_killed_fails_the_message(name: str, inside: str) -> None:
    async def handle(transaction: PostgresTransaction) -> bytes:
        await insert(transaction)
        if inside == "the handler":
            assert await terminate(name, "query LIKE 'INSERT INTO effects%'") == 1
        elif inside == "a statement":
            async with asyncio.TaskGroup() as group:
                group.create_task(transaction.execute("SELECT pg_sleep(60)"))
                group.create_task(kill("wait_event = 'PgSleep'"))
        elif inside == "the commit":
            tasks.append(asyncio.ensure_future(kill("wait_event_type = 'Lock'")))
        return b"reply"

    async def kill(where: str) -> None:
        async def killed() -> bool:
            return await terminate(name, where) > 0

        await until(killed)

    tasks: list[asyncio.Task[None]] = []
    async with opened(url_of(name), max_connections=1) as store, connected(name) as other:
        transaction = other.transaction()
        await transaction.start()
        if inside == "the claim":
            lock = re.search(r"SELECT pg_advisory_xact_lock\(-?\d+\)", store._sql.begin(KEY, ""))
            assert lock is not None
            await other.execute(lock[0])
            tasks.append(asyncio.ensure_future(kill("wait_event_type = 'Lock'")))
        elif inside == "the commit":  # its INSERT waits for this
            await other.execute("LOCK TABLE reliable_emit_inbox IN SHARE MODE")
        with pytest.raises((*LOST, ExceptionGroup)):
            await within(store.once(KEY, b"f", handle))
        await within(asyncio.gather(*tasks))
        if not other.is_closed():
            await transaction.rollback()
        assert await effects(name) == []
        assert await is_new(store)
    assert await effects(name) == ["effect"]


@pytest.mark.parametrize("lost", ["the request", "the answer"])
async def test_a_connection_that_is_lost_in_the_commit(name: str, lost: str) -> None:
    called: list[str] = []
    async with FaultProxy(*address()) as proxy, opened(url_of(name, host=f"127.0.0.1:{proxy.port}")) as store:

        async def handle(transaction: PostgresTransaction) -> bytes:
            transaction.after_commit(lambda: called.append("callback"))
            result = await insert(transaction)
            if lost == "the request":
                proxy.cut_at("to_server", byte=1)
            else:
                proxy.cut_at("to_client", byte=1)
            return result

        with pytest.raises(LOST):
            await within(store.once(KEY, b"f", handle))
        assert called == []
        # A repetition tells whether it was committed.
        record = await within(store.once(KEY, b"f", insert))
        assert record == Record(b"f", b"reply", new=lost == "the request")
    assert await effects(name) == ["effect"]


@pytest.mark.parametrize("fault", ["freeze", "blackhole"])
@pytest.mark.parametrize("inside", ["the claim", "a statement", "the handler's own statement", "the commit"])
async def test_a_database_that_is_silent_fails_the_message_in_time(name: str, inside: str, fault: str) -> None:
    async with FaultProxy(*address()) as proxy:

        def silence() -> None:
            proxy.freeze() if fault == "freeze" else proxy.blackhole(new=True)

        async def handle(transaction: PostgresTransaction) -> bytes:
            await insert(transaction)
            silence()
            if inside == "a statement":
                await transaction.fetch("SELECT 1")
            elif inside == "the handler's own statement":
                await transaction.connection.fetch("SELECT 1")
            assert inside == "the commit"
            return b"reply"

        async with opened(url_of(name, host=f"127.0.0.1:{proxy.port}"), timeout=0.3) as store:
            if inside == "the claim":
                silence()
            started = asyncio.get_running_loop().time()
            with pytest.raises(TimeoutError):
                await within(store.once(KEY, b"f", handle))
            # No new connection either.
            with pytest.raises(TimeoutError, match=r"no connection to the database .* within 0\.3 s"):
                await within(store.once(KEY, b"f", handle))
            # 1.3 for the answer, 0.5 for undoing it, 0.3 for a connection; and a busy machine.
            assert asyncio.get_running_loop().time() - started < 7
            proxy.heal()
            # What was frozen arrives now, before the end of its connection: so it may be committed; a repetition tells.
            async with asyncio.timeout(PATIENCE):
                while True:  # the server has to notice the end, and to undo what was begun
                    with contextlib.suppress(asyncpg.PostgresError, TimeoutError):
                        assert await is_new(store) or (inside, fault) == ("the commit", "freeze")
                        break
    assert await effects(name) == ["effect"]


@pytest.mark.parametrize("inside", ["nothing", "a handler", "a statement", "the commit"])
async def test_closing_does_not_wait_for_a_database_that_is_silent(name: str, inside: str) -> None:
    there = asyncio.Event()

    async def handle(transaction: PostgresTransaction) -> bytes:
        await insert(transaction)
        proxy.freeze()
        there.set()
        if inside == "a statement":
            await transaction.fetch("SELECT 1")
        elif inside == "a handler":
            await asyncio.Event().wait()
        return b"reply"

    async with FaultProxy(*address()) as proxy:
        store = PostgresStore(url_of(name, host=f"127.0.0.1:{proxy.port}"))
        await store.open()
        task = asyncio.ensure_future(store.once(KEY, b"f", handle)) if inside != "nothing" else None
        if task is None:
            proxy.freeze()
        else:
            await within(there.wait())
        started = asyncio.get_running_loop().time()
        await store.close()
        assert asyncio.get_running_loop().time() - started < 3  # one, and a busy machine
        if task is not None:
            task.cancel()
            await within(asyncio.wait([task]))
    assert await effects(name) == []


async def test_when_all_connections_are_in_use_messages_fail_in_time(name: str) -> None:
    slow = Held()
    async with opened(url_of(name), max_connections=1, timeout=0.3) as store:
        first = asyncio.ensure_future(store.once(Key("ada", "slow"), b"f", slow))
        await within(slow.there.wait())
        with pytest.raises(TimeoutError, match=r"no connection .* within 0\.3 s: all are in use by handlers"):
            await within(store.once(KEY, b"f", insert))
        slow.go_on.set()
        assert (await within(first)).new
        assert await is_new(store)


async def test_a_repetition_waits_no_longer_than_it_may(name: str) -> None:
    slow = Held()
    async with opened(url_of(name)) as one, opened(url_of(name), timeout=0.3) as other:
        first = asyncio.ensure_future(one.once(KEY, b"f", slow))
        await within(slow.there.wait())
        with pytest.raises(asyncpg.QueryCanceledError):
            await within(other.once(KEY, b"f", never))
        slow.go_on.set()
        assert (await within(first)).new
        assert await within(other.once(KEY, b"f", never)) == Record(b"f", b"reply", new=False)
    assert await effects(name) == ["effect"]


async def test_failures_use_up_no_connection(name: str) -> None:
    async def dies(transaction: PostgresTransaction) -> bytes:
        await transaction.execute("SELECT pg_terminate_backend(pg_backend_pid())")
        return b"reply"

    async def closes(transaction: PostgresTransaction) -> bytes:
        await transaction.connection.close()
        return b"reply"

    async with opened(url_of(name), max_connections=2, timeout=5) as store:
        for handler in (dies, closes, commits, rolls_back, chains) * 3:
            with pytest.raises((*LOST, RuntimeError)):
                await within(store.once(KEY, b"f", handler))
        assert all(await within(asyncio.gather(*(is_new(store, Key("ada", f"n-{n}")) for n in range(20)))))
        assert await backends(name) <= 2
    await until_left(name)


# Nodes.


async def test_nodes_that_start_at_the_same_time_make_one_table(name: str) -> None:
    for number in range(5):
        stores = [PostgresStore(url_of(name), table=f"inbox_{number}") for _ in range(8)]
        try:
            await within(asyncio.gather(*(store.open() for store in stores)))
            assert [await is_new(store) for store in stores[:2]] == [True, False]
        finally:
            await asyncio.gather(*(store.close() for store in stores))


async def test_a_message_that_somebody_records_without_the_lock_is_not_handled_twice(
    store: PostgresStore, name: str
) -> None:
    async def handle(transaction: PostgresTransaction) -> bytes:
        async with connected(name) as connection:
            await connection.execute(
                "INSERT INTO reliable_emit_inbox (principal, client_offset, fingerprint, reply) "
                "VALUES ('ada', 'o-1', 'f', 'theirs')"
            )
        return await insert(transaction)

    with pytest.raises(asyncpg.UniqueViolationError):
        await within(store.once(KEY, b"f", handle))
    assert await store.once(KEY, b"f", never) == Record(b"f", b"theirs", new=False)
    assert await effects(name) == []


async def test_nodes_that_name_the_table_differently_wait_for_each_other(name: str) -> None:
    async with opened(url_of(name)) as one, opened(url_of(name), table="public.reliable_emit_inbox") as other:

        async def slowly(transaction: PostgresTransaction) -> bytes:
            await until_waiting(name)
            return await insert(transaction)

        records = await within(asyncio.gather(*(store.once(KEY, b"f", slowly) for store in (one, other))))
    assert sorted(record.new for record in records) == [False, True]
    assert await effects(name) == ["effect"]


async def test_nodes_forget_at_the_same_time(name: str) -> None:
    async with opened(url_of(name)) as one, opened(url_of(name)) as other:
        await asyncio.gather(*(one.once(Key("ada", str(n)), b"f", insert) for n in range(200)))
        async with connected(name) as connection:
            await connection.execute(
                "UPDATE reliable_emit_inbox SET handled_at = now() - interval '1 day' "
                "WHERE convert_from(client_offset, 'UTF8') <> '7'"
            )
            # A row that somebody holds is left for the next time, and not waited for.
            held = connection.transaction()
            await held.start()
            await connection.execute(
                "SELECT FROM reliable_emit_inbox WHERE convert_from(client_offset, 'UTF8') = '9' FOR UPDATE"
            )
            counts = await within(asyncio.gather(*(store.forget(3600) for store in (one, other) * 2)))
            assert sum(counts) == 198
            await held.rollback()
        assert await one.forget(3600) == 1
        assert await other.forget(3600) == 0
        assert await within(one.once(Key("ada", "7"), b"f", never)) == Record(b"f", b"reply", new=False)


# In a server.


async def test_a_server_with_an_inbox_in_postgresql(name: str) -> None:
    sio = socketio.AsyncServer(async_mode="aiohttp", ping_interval=3600, ping_timeout=3600, monitor_clients=False)
    inbox = Inbox(sio, PostgresStore(url_of(name)))

    async def chat_message(sid: str, text: str, transaction: PostgresTransaction) -> int:
        rows = await transaction.fetch("INSERT INTO effects (text) VALUES ($1) RETURNING id", text)
        if text == "refused":
            raise Reject("not that")
        if text == "fails":
            await transaction.execute("SELECT 1 / 0")
        return int(rows[0]["id"])

    sio.on("chat message", inbox.receive(chat_message))
    app = web.Application()
    sio.attach(app)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    client = socketio.AsyncClient()
    try:
        await client.connect(f"http://127.0.0.1:{runner.addresses[0][1]}", transports=["websocket"])
        calls = (client.call("chat message", ("hello", "o-1"), timeout=PATIENCE) for _ in range(3))
        assert await asyncio.gather(*calls) == [1, 1, 1]
        refusal = await client.call("chat message", ("refused", "o-2"), timeout=PATIENCE)
        assert "not that" in str(refusal)
        assert await client.call("chat message", ("refused", "o-2"), timeout=PATIENCE) == refusal
        with pytest.raises(socketio.exceptions.TimeoutError):
            await client.call("chat message", ("fails", "o-3"), timeout=0.5)
        assert await effects(name) == ["hello"]
    finally:
        await client.disconnect()
        await inbox.close()
        await sio.shutdown()
        await runner.cleanup()


# What it is told.


async def test_a_pool_that_was_given_stays_its_owners(name: str) -> None:
    async with asyncpg.create_pool(url_of(name), min_size=0, max_size=3) as pool:
        async with opened(pool) as store:
            assert await is_new(store)
            with pytest.raises(RuntimeError, match="by itself"):
                await within(store.once(Key("ada", "o-2"), b"f", commits))
        assert await pool.fetchval("SELECT count(*) FROM reliable_emit_inbox") == 1
        async with opened(pool) as store:
            assert await within(store.once(KEY, b"f", never)) == Record(b"f", b"reply", new=False)


async def test_the_table_may_be_in_a_schema_and_made_by_somebody_else(name: str) -> None:
    async with connected(name) as connection:
        await connection.execute("CREATE SCHEMA app")
    async with opened(url_of(name), table="app.Inbox") as store:
        assert await is_new(store)
    role = f"r_{name}"
    async with connected(name) as connection:
        await connection.execute(f"""
            CREATE ROLE {role} LOGIN PASSWORD 'secret';
            GRANT USAGE ON SCHEMA app TO {role};
            GRANT SELECT, INSERT, DELETE, UPDATE ON app."Inbox" TO {role};
        """)
    try:
        url = re.sub(r"//[^@]*@", f"//{role}:secret@", url_of(name))
        async with opened(url, table="app.Inbox") as store:
            assert await within(store.once(KEY, b"f", never)) == Record(b"f", b"reply", new=False)
        with pytest.raises(StoreError, match="permission denied for schema"):
            await PostgresStore(url, table="app.other").open()
    finally:
        async with connected(name) as connection:
            await connection.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


async def test_a_table_of_another_kind_is_refused(name: str) -> None:
    for table in ("effects", "pg_catalog.pg_class"):
        with pytest.raises(StoreError, match=r"is not one of an inbox; choose another name with table="):
            await PostgresStore(url_of(name), table=table).open()
    assert await backends(name) == 0


async def test_a_database_that_cannot_be_opened_is_named_without_its_password(name: str) -> None:
    store = PostgresStore("postgresql://somebody:secret@127.0.0.1:1/nothing", timeout=1)
    with pytest.raises(
        StoreError, match=r"the database postgresql://127\.0\.0\.1:1/nothing cannot be opened: "
    ) as info:
        await within(store.open())
    assert "secret" not in str(info.value)
    await store.close()
    with pytest.raises(StoreError, match="does not exist"):
        await within(PostgresStore(url_of("there_is_none")).open())
    with pytest.raises(RuntimeError, match=r"not open; open\(\) it first"):
        await store.once(KEY, b"f", never)
    async with FaultProxy(*address()) as proxy:
        proxy.freeze()
        with pytest.raises(StoreError, match=r"no connection .* it does not answer"):
            await within(PostgresStore(url_of(name, host=f"127.0.0.1:{proxy.port}"), timeout=0.2).open())


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"database": "mysql://u:secret@h/d"}, ValueError, "database is not a URL of PostgreSQL"),
        ({"database": ""}, ValueError, "database is not a URL of PostgreSQL"),
        ({"database": 7}, TypeError, "database is a int"),
        ({"table": "a; b"}, ValueError, "table is 'a; b'"),
        ({"table": "a.b.c"}, ValueError, r"table is 'a\.b\.c'"),
        ({"table": "a" * 51}, ValueError, "at most 50 long"),
        ({"table": None}, TypeError, "table is a NoneType"),
        ({"max_connections": 0}, ValueError, "max_connections is 0"),
        ({"max_connections": "7"}, TypeError, "max_connections is '7'"),
        ({"timeout": 0}, ValueError, "timeout is 0"),
        ({"timeout": None}, TypeError, "timeout is None"),
    ],
)
def test_wrong_arguments_are_refused_where_they_are_given(arguments: Any, error: Any, words: str) -> None:
    with pytest.raises(error, match=words) as info:
        PostgresStore(**({"database": "postgresql://localhost/app"} | arguments))
    assert "secret" not in str(info.value)


async def test_a_limit_for_a_pool_that_was_given_is_refused(name: str) -> None:
    async with asyncpg.create_pool(url_of(name), min_size=0, max_size=1) as pool:
        with pytest.raises(ValueError, match="the pool that was given has its size"):
            PostgresStore(pool, max_connections=3)


def test_without_asyncpg_one_sentence_says_what_to_install() -> None:
    code = """
import sys
sys.modules["asyncpg"] = None
from reliable_emit.server import PostgresStore
try:
    PostgresStore("postgresql://localhost/app")
except ImportError as error:
    print(error)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    wanted = "PostgresStore needs asyncpg; install it with: pip install 'reliable-emit[postgres]'\n"
    assert (run.stdout, run.stderr) == (wanted, "")
