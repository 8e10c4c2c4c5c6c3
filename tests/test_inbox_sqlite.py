# mypy: disallow-untyped-decorators=False
"""The inbox over SQLite: what shares a commit, what a handler may do in its transaction, and what may fail."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any, cast

import pytest

from inbox_support import App, client, insert
from reliable_emit.server import Key, MemoryStore, Record, Reject, SQLiteStore, StoreError, TakeBack
from reliable_emit.server.inbox import groups
from reliable_emit.server.inbox.session import Session
from reliable_emit.server.inbox.store import Ending
from support import PATIENCE, within

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from reliable_emit.server import SQLiteTransaction


@pytest.fixture
async def app(tmp_path: Path) -> AsyncIterator[App]:
    async with App(tmp_path / "app.db") as started:
        yield started


@pytest.fixture
async def store(app: App) -> SQLiteStore:
    """The store of an app, open."""
    await app.inbox.open()
    assert isinstance(app.store, SQLiteStore)
    return app.store


async def put(store: SQLiteStore, text: str, offset: str | None = None) -> Record:
    async def handle(transaction: SQLiteTransaction) -> bytes:
        await insert(transaction, text)
        return text.encode()

    return await store.once(Key("", offset or f"o-{text}"), b"f", handle)


def watch(monkeypatch: pytest.MonkeyPatch, seen: Callable[[str], object]) -> None:
    """Have every statement of every connection opened from now on seen before it is executed."""
    connect = sqlite3.connect

    def watched(*arguments: Any, **options: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = connect(*arguments, **options)
        connection.set_trace_callback(seen)
        return connection

    monkeypatch.setattr("reliable_emit.server.inbox.session.sqlite3.connect", watched)


@pytest.fixture
def statements(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The statements of all connections that are opened in the test."""
    seen: list[str] = []
    watch(monkeypatch, seen.append)
    return seen


def commits(statements: list[str]) -> int:
    return sum(statement.startswith("COMMIT") for statement in statements)


async def test_64_senders_share_commits(tmp_path: Path, statements: list[str]) -> None:
    async with App(tmp_path / "app.db") as app, contextlib.AsyncExitStack() as stack:
        app.stores()
        senders = [await stack.enter_async_context(client(app)) for _ in range(64)]

        async def send(number: int, sender: Any) -> None:
            for one in range(5):
                await sender.call("store", f"{number} {one}", f"{sender.sid}-{one}")

        await asyncio.gather(*(send(number, sender) for number, sender in enumerate(senders)))
        assert len(app.effects()) == 64 * 5
        assert 4 <= commits(statements) < 64 * 5 / 3  # no group is larger than 100


async def test_one_sender_waits_for_nobody(tmp_path: Path, statements: list[str]) -> None:
    async with App(tmp_path / "app.db") as app, client(app) as one:
        app.stores()
        for number in range(5):
            await one.call("store", str(number), f"a-{number}")
        assert commits(statements) == 5


async def test_a_group_ends_in_time(tmp_path: Path) -> None:
    # The first message of many is acknowledged while the last ones still wait, however slow the handlers are.
    async with App(tmp_path / "app.db") as app:
        await app.inbox.open()
        done: list[int] = []

        async def one(number: int) -> None:
            async def handle(transaction: SQLiteTransaction) -> bytes:
                app.calls.append(number)
                await insert(transaction, str(number))
                await asyncio.sleep(0.02)
                return b""

            await app.store.once(Key("", f"o-{number}"), b"f", handle)
            done.append(len(app.calls))

        await asyncio.gather(*(one(number) for number in range(20)))
        assert app.calls == list(range(20))
        assert min(done) < 10
        assert app.effects() == [str(number) for number in range(20)]


# What a handler returns to have it done with the commit.


async def test_a_statement_that_is_returned_is_done_with_the_commit(tmp_path: Path, statements: list[str]) -> None:
    async with App(tmp_path / "app.db") as app, client(app) as one:

        @app.sio.event
        @app.inbox.receive
        async def store(sid: str, text: str, transaction: SQLiteTransaction) -> Any:
            app.calls.append(text)
            return transaction.execute("INSERT INTO effects (text) VALUES (?) RETURNING id, text", (text,))

        @app.sio.event
        @app.inbox.receive
        def plain(sid: str, text: str, transaction: SQLiteTransaction) -> Any:
            return transaction.run(lambda db: db.execute("INSERT INTO effects (text) VALUES (?)", (text,)).lastrowid)

        assert await one.call("store", "a", "o-0") == [[1, "a"]]
        assert await one.call("store", "a", "o-0") == [[1, "a"]]
        assert await one.call("plain", "b", "o-1") == 2
        assert await one.call("plain", "b", "o-1") == 2
        assert app.calls == ["a"]
        assert app.effects() == ["a", "b"]
        assert app.records() == ["o-0", "o-1"]
        assert commits(statements) == 2


async def test_a_returned_statement_that_fails_fails_its_message_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fails: dict[str, Callable[[sqlite3.Connection], object]] = {
        "raises": lambda db: db.execute("no SQL"),
        "ends": lambda _: sys.exit("on purpose"),
        "cursor": lambda db: db.execute("INSERT INTO effects (text) VALUES ('cursor 1'), ('cursor 2') RETURNING id"),
        "unfit": lambda _: object(),  # cannot be sent
        "nothing": lambda db: next(db.execute("SELECT 1 WHERE 0")),  # a StopIteration, which no future takes
    }
    told: list[str] = []
    broken = True

    async with App(tmp_path / "app.db") as app, client(app) as one:

        @app.sio.event
        @app.inbox.receive
        async def store(sid: str, text: str, transaction: SQLiteTransaction) -> Any:
            def work(db: sqlite3.Connection) -> object:
                db.execute("INSERT INTO effects (text) VALUES (?)", (text,))
                return text.upper() if text not in fails or not broken else fails[text](db)

            transaction.after_commit(lambda: told.append(text))
            return transaction.run(work)

        texts = ["first", *fails, "last"]
        replies: dict[str, object] = {}

        async def send(text: str) -> None:
            replies[text] = await one.call("store", text, f"o-{text}")

        async with asyncio.TaskGroup() as group:
            group.create_task(send("first"))
            for text in texts[1:-1]:
                group.create_task(one.no_ack("store", text, f"o-{text}"))
            group.create_task(send("last"))
        assert replies == {"first": "FIRST", "last": "LAST"}
        assert sorted(app.effects()) == sorted(told) == ["first", "last"]
        assert sorted(app.records()) == ["o-first", "o-last"]
        for error in ("OperationalError: near", "SystemExit was raised", "returned a cursor", "StopIteration was"):
            assert error in caplog.text
        broken = False
        for text in texts:
            assert await one.call("store", text, f"o-{text}") == text.upper()
        assert sorted(app.effects()) == sorted(told) == sorted(texts)


async def test_a_returned_statement_can_reject(tmp_path: Path) -> None:
    told: list[str] = []
    async with App(tmp_path / "app.db") as app, client(app) as one:

        @app.sio.event
        @app.inbox.receive
        async def store(sid: str, text: str, transaction: SQLiteTransaction) -> Any:
            def work(db: sqlite3.Connection) -> None:
                db.execute("INSERT INTO effects (text) VALUES (?)", (text,))
                raise Reject("there is no more")

            app.calls.append(text)
            transaction.after_commit(lambda: told.append(text))
            return transaction.run(work)

        for _ in range(2):
            assert await one.call("store", "a", "o-0") == {"reliable-emit:rejected": "there is no more"}
        assert app.calls == ["a"]
        assert (app.effects(), app.records(), told) == ([], ["o-0"], [])


async def test_a_statement_is_done_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    kept: list[Any] = []

    async def awaited_twice(transaction: SQLiteTransaction, statement: Any) -> Any:
        await statement
        return await statement

    async def at_the_same_time(transaction: SQLiteTransaction, statement: Any) -> Any:
        return await asyncio.gather(statement, asyncio.wait_for(statement, 5))

    async def awaited_and_returned(transaction: SQLiteTransaction, statement: Any) -> Any:
        await statement
        return statement

    async def anothers(transaction: SQLiteTransaction, statement: Any) -> Any:
        await statement
        return kept[0]

    async with App(tmp_path / "app.db") as app, client(app) as one:

        @app.sio.event
        @app.inbox.receive
        async def store(sid: str, way: int, transaction: SQLiteTransaction) -> Any:
            statement = transaction.execute("INSERT INTO effects (text) VALUES (?)", (f"{way}",))
            kept.append(statement)
            return await ways[way](transaction, statement)

        ways: list[Any] = [awaited_twice, at_the_same_time, awaited_and_returned, anothers]
        for way in range(len(ways)):
            await one.no_ack("store", way, f"o-{way}")
        assert caplog.text.count("for a second time") >= 3
        assert "of another message's transaction" in caplog.text
        assert (app.effects(), app.records()) == ([], [])


async def test_a_statement_made_after_the_handler_has_ended_is_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with App(tmp_path / "app.db") as app, client(app) as one:

        @app.sio.event
        @app.inbox.receive
        async def store(sid: str, text: str, transaction: SQLiteTransaction) -> Any:
            return transaction.run(lambda _: transaction.execute("INSERT INTO effects (text) VALUES (?)", (text,)))

        @app.sio.event
        @app.inbox.receive
        async def tell(sid: str, text: str, transaction: SQLiteTransaction) -> str:
            transaction.after_commit(lambda: transaction.execute("INSERT INTO effects (text) VALUES (?)", (text,)))
            return "told"

        await one.no_ack("store", "a", "o-0")
        assert caplog.text.count("its handler has ended") == 1
        assert await one.call("tell", "b", "o-1") == "told"
        assert caplog.text.count("its handler has ended") == 2
        assert app.effects() == []


async def test_many_statements_are_not_kept(store: SQLiteStore) -> None:
    class Text(str):
        __slots__ = ("__weakref__",)

    left: weakref.WeakSet[Text] = weakref.WeakSet()

    async def handle(transaction: SQLiteTransaction) -> bytes:
        for _ in range(20):
            text = Text("x")
            left.add(text)
            await transaction.run(lambda db, text=text: db.execute("SELECT ?", (str(text),)).fetchall())  # type: ignore[misc]
        return b"%d" % len(left)

    assert int((await store.once(Key("", "o-0"), b"f", handle)).reply) <= 2


async def test_what_was_returned_is_not_done_any_more_after_closing(tmp_path: Path) -> None:
    async with App(tmp_path / "app.db") as app:
        await app.inbox.open()
        begun, go_on = threading.Event(), threading.Event()
        done: list[int] = []

        def work(number: int) -> bytes:
            done.append(number)
            begun.set()
            assert go_on.wait(PATIENCE)
            return b""

        async def one(number: int) -> None:
            async def handle(transaction: SQLiteTransaction) -> bytes:
                transaction.ending = Ending(lambda _: work(number), lambda perform: cast("bytes", perform()))
                return b""

            await app.store.once(Key("", f"o-{number}"), b"f", handle)

        sending = [asyncio.create_task(one(number)) for number in range(10)]
        await asyncio.to_thread(begun.wait, PATIENCE)
        await within(app.store.close())
        go_on.set()
        await asyncio.wait(sending)
        await until_unlocked(app.path)
        assert done == [0]
        assert app.records() == ["o-0"]  # what has begun goes on to its end, with its record


async def until_unlocked(path: Path) -> None:
    """Wait until the file can be written by others, as at once after a store has let go of it."""

    def write() -> None:
        with contextlib.closing(sqlite3.connect(path, timeout=PATIENCE)) as db:
            db.execute("BEGIN IMMEDIATE")

    await asyncio.to_thread(write)


async def test_a_callback_after_the_commit_may_raise_anything(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with App(tmp_path / "app.db") as app, client(app) as one:

        @app.sio.event
        @app.inbox.receive
        async def store(sid: str, text: str, transaction: SQLiteTransaction) -> int:
            cancelled: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            cancelled.cancel()
            transaction.after_commit(cancelled.result)
            return await insert(transaction, text)

        replies = await asyncio.gather(*(one.call("store", f"{number}", f"o-{number}") for number in range(5)))
        assert sorted(replies) == [1, 2, 3, 4, 5]
        assert caplog.text.count("a callback after the commit") == 5


async def test_a_statement_that_is_forgotten_gives_no_acknowledgement(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with App(tmp_path / "app.db") as app, client(app) as one:

        @app.sio.event
        @app.inbox.receive
        async def store(sid: str, text: str, transaction: SQLiteTransaction) -> str:
            await insert(transaction, text)
            transaction.execute("UPDATE effects SET text = 'forgotten'")
            return "stored"

        await one.no_ack("store", "a", "o-0")
        assert (app.effects(), app.records()) == ([], [])
        assert "neither awaited nor returned it" in caplog.text


async def test_a_returned_statement_that_loses_the_transaction_leaves_no_record(store: SQLiteStore, app: App) -> None:
    # SQLite rolls back by itself, and what follows would be committed at once, as a record without its effect.
    await put(store, "there")

    async def store_again(transaction: SQLiteTransaction) -> bytes:
        def work(db: sqlite3.Connection) -> bytes:
            with contextlib.suppress(sqlite3.IntegrityError):
                db.execute("INSERT OR ROLLBACK INTO effects (text) VALUES ('there')")
            return b"done"

        transaction.ending = Ending(work, lambda perform: cast("bytes", perform()))
        return b""

    with pytest.raises(sqlite3.OperationalError, match="rolled back"):
        await store.once(Key("", "o-lost"), b"f", store_again)
    assert app.records() == ["o-there"]
    await put(store, "next")
    assert app.effects() == ["there", "next"]


async def test_a_group_ends_in_time_also_with_what_was_returned(tmp_path: Path, statements: list[str]) -> None:
    async with App(tmp_path / "app.db") as app, client(app) as one:

        @app.sio.event
        @app.inbox.receive
        async def store(sid: str, transaction: SQLiteTransaction) -> Any:
            return transaction.run(lambda _: time.sleep(0.005))

        await asyncio.gather(*(one.call("store", f"o-{number}") for number in range(80)))
        assert commits(statements) >= 3  # after 16 at the least, 80 ms


# What a handler may do.


async def test_execute_and_run(store: SQLiteStore, app: App) -> None:
    async def handle(transaction: SQLiteTransaction) -> bytes:
        assert await transaction.execute("SELECT 1, 'a' UNION SELECT 2, NULL") == [(1, "a"), (2, None)]
        assert await transaction.execute("INSERT INTO effects (text) VALUES (:text)", {"text": "named"}) == []
        assert await transaction.run(lambda db: db.execute("INSERT INTO effects (text) VALUES ('run')").lastrowid) == 2

        def many(db: sqlite3.Connection) -> int:
            db.execute("SAVEPOINT mine")
            db.executemany("INSERT INTO effects (text) VALUES (?)", [("c",), ("d",)])
            db.execute("ROLLBACK TO mine")
            db.execute("RELEASE mine")
            return db.executemany("INSERT INTO effects (text) VALUES (?)", [("e",), ("f",)]).rowcount

        assert await transaction.run(many) == 2
        with pytest.raises(sqlite3.IntegrityError, match="UNIQUE"):
            await transaction.execute("INSERT INTO effects (text) VALUES ('e')")
        with pytest.raises(sqlite3.OperationalError, match="no such table"):
            await transaction.execute("SELECT * FROM no_such")
        with pytest.raises(ZeroDivisionError):
            await transaction.run(lambda _: 1 // 0)
        await asyncio.gather(*(insert(transaction, f"at once {number}") for number in range(5)))
        return b"done"

    assert (await store.once(Key("", "a"), b"f", handle)).reply == b"done"
    assert app.effects() == ["named", "run", "e", "f", *(f"at once {number}" for number in range(5))]


async def test_a_stop_iteration_fails_its_message_and_holds_up_nobody(store: SQLiteStore, app: App) -> None:
    async def handle(transaction: SQLiteTransaction) -> bytes:
        await insert(transaction, "undone")
        await transaction.run(lambda db: next(db.execute("SELECT 1 WHERE 0")))
        return b""

    with pytest.raises(RuntimeError, match="StopIteration was raised") as failure:
        await within(store.once(Key("", "a-0"), b"f", handle))
    assert isinstance(failure.value.__cause__, StopIteration)
    assert (await within(put(store, "next"))).new
    assert app.effects() == ["next"]


@pytest.mark.parametrize(
    "end",
    [
        lambda db: db.execute("COMMIT"),
        lambda db: db.execute("COMMIT /* by the inbox */ "),
        lambda db: db.execute("END"),
        lambda db: db.execute("ROLLBACK"),
        lambda db: db.execute("BEGIN"),
        lambda db: db.execute("RELEASE reliable_emit_message"),
        lambda db: db.execute("RELEASE Reliable_Emit_MESSAGE"),
        lambda db: db.execute("ROLLBACK TO reliable_emit_message"),
        lambda db: db.commit(),
        lambda db: db.rollback(),
        lambda db: db.executescript("INSERT INTO effects (text) VALUES ('script')"),
        lambda db: db.__exit__(None, None, None),
        lambda db: setattr(db, "isolation_level", "DEFERRED"),
        lambda db: setattr(db, "isolation_level", None),
    ],
)
async def test_a_handler_cannot_end_the_transaction(store: SQLiteStore, app: App, end: Any) -> None:
    await put(store, "before")

    async def handle(transaction: SQLiteTransaction) -> bytes:
        await insert(transaction, "effect")
        await transaction.run(end)
        return b""

    async def goes_on(transaction: SQLiteTransaction) -> bytes:
        with contextlib.suppress(sqlite3.ProgrammingError):
            await handle(transaction)
        return b"all the same"

    for _ in range(2):  # the second time it is compiled already
        results = await asyncio.gather(
            put(store, "same group"),
            store.once(Key("", "a-0"), b"f", handle),
            put(store, "same group too"),
            return_exceptions=True,
        )
        assert isinstance(results[1], sqlite3.ProgrammingError)
        assert "the transaction is the inbox's" in str(results[1])
        assert isinstance(results[0], Record)
        assert isinstance(results[2], Record)
    assert app.effects() == ["before", "same group", "same group too"]
    assert (await store.once(Key("", "a-0"), b"f", goes_on)).new
    assert app.effects()[-1] == "effect"


async def test_a_rollback_by_the_database_itself_acknowledges_nothing_of_the_group(
    store: SQLiteStore, app: App
) -> None:
    async def handle(transaction: SQLiteTransaction) -> bytes:
        await insert(transaction, "effect")
        with contextlib.suppress(sqlite3.IntegrityError):
            await transaction.execute("INSERT OR ROLLBACK INTO effects (text) VALUES ('effect')")
        return b""

    results = await asyncio.gather(
        put(store, "one"), store.once(Key("", "a"), b"f", handle), put(store, "two"), return_exceptions=True
    )
    assert all(isinstance(result, sqlite3.Error) for result in results)
    assert "was rolled back" in str(results[1])
    assert app.effects() == app.records() == []
    assert (await put(store, "one")).new
    assert (await put(store, "two")).new
    assert app.effects() == ["one", "two"]


@pytest.mark.parametrize(
    "after",
    [
        lambda db: db.execute("INSERT INTO effects (text) VALUES ('after')"),
        lambda db: db.cursor().execute("INSERT INTO effects (text) VALUES ('after')"),
        lambda db: db.execute("WITH one (text) AS (SELECT 'after') INSERT INTO effects (text) SELECT text FROM one"),
        lambda db: db.executemany("INSERT INTO effects (text) VALUES (?)", [("after",)]),
        lambda db: db.cursor().executemany("INSERT INTO effects (text) VALUES (?)", [("after",)]),
        lambda db: db.executescript("INSERT INTO effects (text) VALUES ('after')"),
        lambda db: db.execute("CREATE TABLE other (id)"),
        lambda db: db.cursor(type("Derived", (type(db.cursor()),), {})).execute("CREATE TABLE other (id)"),
        lambda db: db.blobopen("pictures", "data", 1).write(b"D"),
    ],
)
@pytest.mark.parametrize("compiled", [False, True])
async def test_nothing_is_done_after_a_rollback_by_the_database_itself(
    store: SQLiteStore, app: App, after: Any, compiled: bool
) -> None:
    await put(store, "before")
    with contextlib.closing(sqlite3.connect(app.path)) as db:
        db.executescript("CREATE TABLE pictures (data); INSERT INTO pictures VALUES ('data')")

    async def prepare(transaction: SQLiteTransaction) -> bytes:
        await transaction.run(lambda db: [after(db)].clear())  # not the cursor itself
        raise ValueError("on purpose")

    def goes_on(db: sqlite3.Connection) -> None:
        with contextlib.suppress(sqlite3.IntegrityError):
            db.execute("INSERT OR ROLLBACK INTO effects (text) VALUES ('before')")
        after(db)

    async def handle(transaction: SQLiteTransaction) -> bytes:
        await transaction.run(goes_on)
        return b""

    if compiled:  # SQLite asks nobody whether it may execute what it has compiled before
        with contextlib.suppress(ValueError, sqlite3.ProgrammingError):
            await store.once(Key("", "p"), b"f", prepare)
    for _ in range(2):
        with pytest.raises(sqlite3.OperationalError, match="was rolled back"):
            await store.once(Key("", "a"), b"f", handle)
    assert app.effects() == ["before"]
    assert app.read("SELECT name FROM sqlite_master WHERE name = 'other'") == []
    assert app.read("SELECT data FROM pictures") == ["data"]
    assert app.records() == ["o-before"]


async def test_nothing_is_done_after_a_rollback_in_the_middle_of_executemany(store: SQLiteStore, app: App) -> None:
    await put(store, "before")

    def goes_on(db: sqlite3.Connection) -> None:
        def rows() -> Iterator[tuple[str]]:
            yield ("one",)
            with contextlib.suppress(sqlite3.IntegrityError):
                db.execute("INSERT OR ROLLBACK INTO effects (text) VALUES ('before')")
            yield ("after",)

        db.executemany("INSERT INTO effects (text) VALUES (?)", rows())

    async def handle(transaction: SQLiteTransaction) -> bytes:
        await transaction.run(goes_on)
        return b""

    for _ in range(2):
        with pytest.raises(sqlite3.OperationalError, match="was rolled back"):
            await store.once(Key("", "a"), b"f", handle)
    assert app.effects() == ["before"]


async def test_executemany_takes_whatever_sqlite3_takes(store: SQLiteStore, app: App) -> None:
    async def handle(transaction: SQLiteTransaction) -> bytes:
        def function(db: sqlite3.Connection) -> None:
            insert = "INSERT INTO effects (text) VALUES (?)"
            db.executemany(insert, (["generator"] for _ in range(1)))
            db.executemany(insert, [("list",)])
            db.executemany(insert, {("set",)})
            db.executemany("INSERT INTO effects (text) VALUES (:text)", iter([{"text": "iterator"}]))
            with pytest.raises(TypeError, match="'int' object is not iterable"):
                db.executemany(insert, 1)  # type: ignore[arg-type]
            with pytest.raises(ZeroDivisionError):
                db.executemany(insert, (1 // 0 for _ in range(1)))  # type: ignore[misc]

        await transaction.run(function)
        return b""

    assert (await store.once(Key("", "a"), b"f", handle)).new
    assert app.effects() == ["generator", "list", "set", "iterator"]


async def test_a_cursor_that_would_not_be_guarded_is_refused(store: SQLiteStore, app: App) -> None:
    class Own(sqlite3.Cursor):
        pass

    async def handle(transaction: SQLiteTransaction) -> bytes:
        await insert(transaction, "effect")
        await transaction.run(lambda db: db.cursor(Own).execute("SELECT 1").close())
        return b""

    with pytest.raises(TypeError, match="row_factory"):
        await store.once(Key("", "a"), b"f", handle)
    assert app.effects() == []


async def test_a_message_that_fails_its_group_does_so_once(
    store: SQLiteStore, app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(groups, "_LONGEST", 60.0)  # on a busy machine three take longer than a group may

    async def handle(transaction: SQLiteTransaction) -> bytes:
        await insert(transaction, "twice")
        await transaction.execute("INSERT OR ROLLBACK INTO effects (text) VALUES ('twice')")
        return b""

    def poison(number: int) -> Any:
        return store.once(Key("", f"poison-{number}"), b"f", handle)

    first = await asyncio.gather(poison(0), put(store, "a"), poison(1), return_exceptions=True)
    assert all(isinstance(result, sqlite3.Error) for result in first)
    second = await asyncio.gather(
        poison(0), put(store, "a"), poison(1), put(store, "b"), poison(2), return_exceptions=True
    )
    assert [isinstance(result, Record) for result in second] == [False, True, False, True, False]
    assert app.effects() == ["a", "b"]


async def test_setup_is_called_with_the_connection_and_a_constraint_checked_at_the_commit_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(groups, "_LONGEST", 60.0)  # on a busy machine two take longer than a group may

    def setup(db: sqlite3.Connection) -> None:
        db.execute("PRAGMA foreign_keys = ON")
        db.row_factory = sqlite3.Row
        db.execute("CREATE TABLE child (id REFERENCES effects (id) DEFERRABLE INITIALLY DEFERRED)")

    async def orphan(transaction: SQLiteTransaction) -> bytes:
        await transaction.execute("INSERT INTO child (id) VALUES (99)")
        return b""

    async with App(tmp_path / "app.db", SQLiteStore(tmp_path / "app.db", setup=setup)) as app:
        await app.inbox.open()
        assert isinstance(app.store, SQLiteStore)
        for number, expected in enumerate(([False, False], [False, True], [False, True])):
            results = await asyncio.gather(
                app.store.once(Key("", "orphan"), b"f", orphan), put(app.store, str(number)), return_exceptions=True
            )
            assert isinstance(results[0], sqlite3.IntegrityError)
            assert [isinstance(result, Record) for result in results] == expected
        assert app.effects() == ["1", "2"]


async def test_a_setup_that_fails_is_told_and_leaves_nothing_open(tmp_path: Path) -> None:
    for setup, error, words in (
        (lambda db: db.execute("no sql"), StoreError, "syntax error"),
        (lambda db: db.execute("BEGIN"), StoreError, "left a transaction open"),
        (lambda _: 1 // 0, ZeroDivisionError, "zero"),
    ):
        store = SQLiteStore(tmp_path / "app.db", setup=setup)
        for _ in range(2):
            with pytest.raises(error, match=words):
                await store.open()


@pytest.mark.parametrize("kind", ["sqlite", "memory"])
async def test_a_store_is_for_one_inbox(tmp_path: Path, kind: str) -> None:
    store = SQLiteStore(tmp_path / "app.db") if kind == "sqlite" else MemoryStore()
    results = await asyncio.gather(store.open(), store.open(), return_exceptions=True)
    assert results[0] is None
    assert "give each inbox a store of its own" in str(results[1])
    await store.close()
    await store.open()
    await store.close()


async def test_a_cursor_is_no_result(store: SQLiteStore, app: App) -> None:
    async def handle(transaction: SQLiteTransaction) -> bytes:
        await transaction.run(lambda db: db.execute("INSERT INTO effects (text) VALUES ('c') RETURNING id"))
        return b""

    results = await asyncio.gather(
        put(store, "a"), store.once(Key("", "c"), b"f", handle), put(store, "b"), return_exceptions=True
    )
    assert [isinstance(result, Record) for result in results] == [True, False, True]
    assert "return its rows" in str(results[1])
    assert app.effects() == ["a", "b"]


def half_read(sql: str) -> Callable[[sqlite3.Connection], sqlite3.Cursor]:
    """Return what executes a statement and reads one of its rows."""

    def read(db: sqlite3.Connection) -> sqlite3.Cursor:
        cursor = db.execute(sql)
        assert cursor.fetchone() is not None
        return cursor

    return read


def blob(db: sqlite3.Connection) -> sqlite3.Blob:
    db.execute("CREATE TABLE pictures (data)")
    db.execute("INSERT INTO pictures VALUES ('data')")
    opened = db.blobopen("pictures", "data", 1)
    opened.write(b"D")
    return opened


@pytest.mark.parametrize(
    ("open_one", "use"),
    [
        (half_read("SELECT id FROM effects"), lambda cursor: cursor.fetchone()),
        (half_read("INSERT INTO effects (text) VALUES ('x'), ('y') RETURNING id"), lambda cursor: cursor.fetchone()),
        (half_read("UPDATE effects SET text = text RETURNING id"), lambda cursor: cursor.execute("SELECT 1")),
        (lambda db: db.cursor().execute("DELETE FROM effects WHERE id = 1 RETURNING id"), list),
        (blob, lambda blob: blob.read()),
    ],
)
@pytest.mark.parametrize("how", ["returns", "raises", "raises Reject"])
async def test_a_statement_that_a_handler_keeps_open_holds_up_nobody(
    store: SQLiteStore, app: App, open_one: Any, use: Any, how: str
) -> None:
    kept: list[Any] = []
    for text in ("a", "b", "c"):
        await put(store, text)

    def keep(db: sqlite3.Connection) -> None:
        kept.append(open_one(db))
        if how == "raises":
            raise ValueError("on purpose")
        if how == "raises Reject":
            raise TakeBack(b"no")

    async def handle(transaction: SQLiteTransaction) -> bytes:
        await transaction.run(keep)
        return b""

    results = await asyncio.gather(
        put(store, "d"), store.once(Key("", "keeps"), b"f", handle), put(store, "e"), return_exceptions=True
    )
    assert [isinstance(result, Record) for result in results] == [True, how != "raises", True]
    with contextlib.closing(sqlite3.connect(app.path)) as db:
        db.execute("INSERT INTO effects (text) VALUES ('theirs')")
        db.commit()
        # Nobody reads an older state of the file any more, so that the log can begin again.
        assert db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone() == (0, 0, 0)
    assert (await put(store, "f")).new
    assert {"d", "e", "f", "theirs"} <= set(app.effects())

    async def late(transaction: SQLiteTransaction) -> bytes:
        await transaction.run(lambda _: use(kept[0]))
        return b""

    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        await store.once(Key("", "late"), b"f", late)


async def test_cursors_that_nobody_keeps_are_not_kept(store: SQLiteStore) -> None:
    # Each closes when it is dropped, as ever, so that a function may go on and change what it was reading.
    def many(db: sqlite3.Connection) -> int:
        alive = weakref.WeakSet[sqlite3.Cursor]()
        for _ in range(1_000):
            alive.add(db.execute("SELECT 1 UNION SELECT 2"))
        db.execute("CREATE TABLE other AS SELECT 1 AS id UNION SELECT 2")
        assert db.execute("SELECT id FROM other").fetchone() == (1,)
        db.execute("DROP TABLE other")  # it would be locked
        return len(alive)

    async def handle(transaction: SQLiteTransaction) -> bytes:
        return str(await transaction.run(many)).encode()

    assert (await store.once(Key("", "a"), b"f", handle)).reply == b"0"


@pytest.mark.parametrize(
    "pragma",
    [
        "PRAGMA synchronous = OFF",
        "PRAGMA synchronous = full",  # word for word as the store itself, and compiled by it
        "PRAGMA main.Synchronous(0)",
        "PRAGMA foreign_keys = OFF",  # of no effect in a transaction
        "PRAGMA journal_mode = DELETE",
        "PRAGMA query_only = 1",  # word for word as in setup
        "PRAGMA case_sensitive_like = ''",
        "EXPLAIN PRAGMA busy_timeout = -1",
    ],
)
async def test_a_handler_sets_nothing_for_all_others(tmp_path: Path, pragma: str) -> None:
    def setup(db: sqlite3.Connection) -> None:
        db.execute("PRAGMA query_only = 1")
        db.execute("PRAGMA query_only = 0")

    async def handle(transaction: SQLiteTransaction) -> bytes:
        await insert(transaction, "effect")
        await transaction.execute(pragma)
        return b""

    async def goes_on(transaction: SQLiteTransaction) -> bytes:
        with pytest.raises(sqlite3.ProgrammingError, match="setup="):
            await handle(transaction)

        def twice(db: sqlite3.Connection) -> None:
            with contextlib.suppress(sqlite3.DatabaseError):
                db.execute(pragma)
            db.execute("INSERT INTO effects (text) VALUES ('effect')")

        with pytest.raises(sqlite3.IntegrityError):  # told as it is
            await transaction.run(twice)
        return str(await settings(transaction)).encode()

    async def settings(transaction: SQLiteTransaction) -> list[Any]:
        return [
            await transaction.execute(f"PRAGMA {name}")
            for name in ("synchronous", "journal_mode", "foreign_keys", "query_only", "busy_timeout")
        ]

    async with App(tmp_path / "app.db", SQLiteStore(tmp_path / "app.db", setup=setup)) as app:
        await app.inbox.open()
        assert isinstance(app.store, SQLiteStore)
        for _ in range(2):  # the second time it is compiled already
            results = await asyncio.gather(
                put(app.store, "a"), app.store.once(Key("", "p"), b"f", handle), return_exceptions=True
            )
            assert isinstance(results[0], Record)
            assert isinstance(results[1], sqlite3.ProgrammingError)
            assert "setup=" in str(results[1])
        reply = (await app.store.once(Key("", "p"), b"f", goes_on)).reply
        assert reply.decode() == "[[(2,)], [('wal',)], [(0,)], [(0,)], [(500,)]]"
        assert app.effects() == ["a", "effect"]


@pytest.mark.parametrize(
    ("pragma", "rows"),
    [
        ("PRAGMA synchronous", 1),
        ("PRAGMA foreign_keys", 1),
        ("PRAGMA main.user_version", 1),
        ("PRAGMA table_info(effects)", 2),
        ("PRAGMA Table_XInfo = effects", 2),
        ("PRAGMA table_list('effects')", 1),
        ("PRAGMA main.index_list(effects)", 1),
        ("PRAGMA index_info(sqlite_autoindex_effects_1)", 1),
        ("PRAGMA index_xinfo(sqlite_autoindex_effects_1)", 2),
        ("PRAGMA foreign_key_list(effects)", 0),
        ("PRAGMA foreign_key_check(effects)", 0),
        ("PRAGMA foreign_key_check", 0),
        ("PRAGMA integrity_check(5)", 1),
        ("PRAGMA quick_check('effects')", 1),
        ("SELECT name FROM pragma_table_info('effects')", 2),
        ("PRAGMA defer_foreign_keys = ON", 0),  # until the commit
    ],
)
async def test_a_handler_may_use_pragmas_that_set_nothing_for_others(
    store: SQLiteStore, app: App, pragma: str, rows: int
) -> None:
    async def handle(transaction: SQLiteTransaction) -> bytes:
        return str(len(await transaction.execute(pragma))).encode()

    for offset in ("a", "b"):
        assert (await store.once(Key("", offset), b"f", handle)).reply == str(rows).encode()


@pytest.mark.parametrize(
    "change",
    [
        lambda db: setattr(db, "row_factory", lambda cursor, row: {"row": row}),
        lambda db: setattr(db, "text_factory", bytes),
        lambda db: db.close(),
    ],
)
async def test_what_a_handler_sets_on_the_connection_ends_with_it(store: SQLiteStore, app: App, change: Any) -> None:
    await put(store, "a")

    async def handle(transaction: SQLiteTransaction) -> bytes:
        with contextlib.suppress(sqlite3.ProgrammingError):
            await transaction.run(change)
        assert await transaction.execute("SELECT 'text'") == [("text",)]
        return b""

    assert (await store.once(Key("", "c"), b"f", handle)).new
    assert await put(store, "a") == Record(b"f", b"a", new=False)
    assert (await put(store, "b")).new
    assert app.effects() == ["a", "b"]


async def test_what_uses_the_transaction_after_its_handler_is_told(store: SQLiteStore, app: App) -> None:
    kept: list[SQLiteTransaction] = []

    async def handle(transaction: SQLiteTransaction) -> bytes:
        kept.append(transaction)
        return b""

    await store.once(Key("", "a-0"), b"f", handle)
    with pytest.raises(RuntimeError, match=r"client offset 'a-0' is over: its handler has ended"):
        await kept[0].execute("INSERT INTO effects (text) VALUES ('late')")
    assert app.effects() == []


async def test_a_repetition_that_shares_a_group_with_the_first_waits_for_its_commit(
    store: SQLiteStore, app: App
) -> None:
    # As on two nodes, or two inboxes: the store itself has to know.
    async def seen() -> tuple[Record, list[str]]:
        return await put(store, "same"), app.effects()

    results = await asyncio.gather(*(seen() for _ in range(10)))
    assert [record.new for record, _ in results] == [True] + [False] * 9
    assert [effects for _, effects in results] == [["same"]] * 10


# What may fail.


async def test_another_programs_lock_gives_no_acknowledgement_and_the_repetition_does(
    app: App, caplog: pytest.LogCaptureFixture
) -> None:
    app.stores()
    async with client(app) as one:
        assert await one.call("store", "a", "a-0") == 1
        with contextlib.closing(sqlite3.connect(app.path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            await one.no_ack("store", "b", "a-1")
            assert "database is locked" in caplog.text
            assert await one.call("store", "a", "a-0") == 1  # a repetition needs no lock
            other.execute("ROLLBACK")
        assert await one.call("store", "b", "a-1") == 2
    assert app.effects() == ["a", "b"]


async def test_a_repetition_beside_a_new_message_needs_no_lock_either(store: SQLiteStore, app: App) -> None:
    await put(store, "a")
    with contextlib.closing(sqlite3.connect(app.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        before, repeated, after = await asyncio.gather(
            put(store, "b"), put(store, "a"), put(store, "c"), return_exceptions=True
        )
        assert repeated == Record(b"f", b"a", new=False)
        assert "locked" in str(before)
        assert "locked" in str(after)
        other.execute("ROLLBACK")
    assert [(await put(store, text)).new for text in "abc"] == [False, True, True]
    assert app.effects() == ["a", "b", "c"]


async def test_what_another_process_handles_before_the_lock_is_ours_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with App(tmp_path / "app.db") as app:

        def overtake(statement: str) -> None:
            if statement == "BEGIN IMMEDIATE":
                with contextlib.closing(real(app.path)) as other, other:
                    other.execute("INSERT OR IGNORE INTO reliable_emit_inbox VALUES ('', 'o-a', x'66', x'77', 9e9)")

        real = sqlite3.connect
        watch(monkeypatch, overtake)
        await app.inbox.open()
        assert isinstance(app.store, SQLiteStore)
        assert await put(app.store, "a") == Record(b"f", b"w", new=False)
        assert (await put(app.store, "b")).new
        assert app.effects() == ["b"]


async def test_who_comes_to_a_group_that_is_lost_is_handled_after_it(
    store: SQLiteStore, app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(groups, "_LONGEST", 60.0)  # however busy the machine is, they would share it
    late: list[asyncio.Task[Record]] = []

    async def handle(transaction: SQLiteTransaction) -> bytes:
        await insert(transaction, "twice")
        late.append(asyncio.ensure_future(put(store, "late")))
        await transaction.execute("INSERT OR ROLLBACK INTO effects (text) VALUES ('twice')")
        return b""

    with pytest.raises(sqlite3.IntegrityError):
        await store.once(Key("", "a"), b"f", handle)
    assert (await within(late[0])).new
    assert app.effects() == ["late"]


async def test_closing_leaves_no_task(tmp_path: Path) -> None:
    before = asyncio.all_tasks()
    app = App(tmp_path / "app.db")
    await app.inbox.open()
    assert asyncio.all_tasks() > before
    await app.inbox.close()
    assert asyncio.all_tasks() <= before


async def test_a_commit_that_fails_fails_all_of_its_group(
    store: SQLiteStore, app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[str] = []
    end, failures = Session._end, [1]

    def fail(session: Session, how: Any) -> None:
        if how.startswith("COMMIT") and failures:
            failures.pop()
            raise sqlite3.OperationalError("disk I/O error")
        end(session, how)

    monkeypatch.setattr(Session, "_end", fail)
    monkeypatch.setattr(groups, "_LONGEST", 60.0)  # on a busy machine three take longer than a group may

    async def handle(transaction: SQLiteTransaction) -> bytes:
        transaction.after_commit(lambda: called.append("called"))
        await insert(transaction, "with a callback")
        return b""

    results = await asyncio.gather(
        put(store, "a"), put(store, "b"), store.once(Key("", "c"), b"f", handle), return_exceptions=True
    )
    assert [str(result) for result in results] == ["disk I/O error"] * 3
    assert app.effects() == app.records() == called == []
    assert [(await put(store, text)).new for text in "ab"] == [True, True]
    assert app.effects() == ["a", "b"]


async def test_a_full_disk_gives_no_acknowledgement(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    # A limit on the size of files is a full disk, but for its name.
    async with App(tmp_path / "app.db") as app, client(app) as one:

        @app.sio.event
        @app.inbox.receive
        async def store(sid: str, text: str, transaction: SQLiteTransaction) -> int:
            return await insert(transaction, text)

        assert await one.call("store", "a", "a-0") == 1
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
        try:
            await one.no_ack("store", "b" * 500_000, "a-1")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            signal.signal(signal.SIGXFSZ, before)
        assert "is not acknowledged" in caplog.text
        assert app.effects() == ["a"]
        assert await one.call("store", "b" * 500_000, "a-1") == 2
        assert await one.call("store", "a", "a-0") == 1


async def test_a_database_that_may_not_grow_gives_no_acknowledgement(tmp_path: Path) -> None:
    path = tmp_path / "app.db"
    async with App(path, SQLiteStore(path, setup=lambda db: db.execute("PRAGMA max_page_count = 30"))) as app:
        await app.inbox.open()
        assert isinstance(app.store, SQLiteStore)
        results = await asyncio.gather(
            put(app.store, "a"), put(app.store, "b" * 500_000, "large"), put(app.store, "c"), return_exceptions=True
        )
        assert "full" in str(results[1])
        # SQLite decides whether that costs the statement or the group: what is acknowledged is there, and nothing else.
        kept = [text for text, result in zip("abc", results, strict=True) if isinstance(result, Record)]
        assert app.effects() == kept
        assert app.records() == [f"o-{text}" for text in kept]
    async with App(path) as app:
        await app.inbox.open()
        assert isinstance(app.store, SQLiteStore)
        assert (await put(app.store, "b" * 500_000, "large")).new
        assert app.effects() == [*kept, "b" * 500_000]


async def test_a_record_that_cannot_be_written_fails_alone(store: SQLiteStore, app: App) -> None:
    with contextlib.closing(sqlite3.connect(app.path)) as db:
        db.execute(
            "CREATE TRIGGER refuse BEFORE INSERT ON reliable_emit_inbox WHEN new.client_offset = 'o-b' "
            "BEGIN SELECT RAISE(ABORT, 'on purpose'); END"
        )
        db.commit()
    results = await asyncio.gather(put(store, "a"), put(store, "b"), put(store, "c"), return_exceptions=True)
    assert [isinstance(result, Record) for result in results] == [True, False, True]
    assert "on purpose" in str(results[1])
    assert app.effects() == ["a", "c"]
    assert app.records() == ["o-a", "o-c"]


async def test_a_key_that_is_no_text_fails_alone(store: SQLiteStore, app: App) -> None:
    results = await asyncio.gather(put(store, "a"), put(store, "b", "\ud800"), put(store, "c"), return_exceptions=True)
    assert [isinstance(result, Record) for result in results] == [True, False, True]
    assert app.effects() == ["a", "c"]


async def test_a_rejection_among_others_takes_back_only_its_own(store: SQLiteStore, app: App) -> None:
    async def handle(transaction: SQLiteTransaction) -> bytes:
        await insert(transaction, "taken back")
        raise TakeBack(b"no")

    results = await asyncio.gather(put(store, "a"), store.once(Key("", "r"), b"f", handle), put(store, "b"))
    assert [record.reply for record in results] == [b"a", b"no", b"b"]
    assert app.effects() == ["a", "b"]
    assert sorted(app.records()) == ["o-a", "o-b", "r"]


@pytest.mark.parametrize("synchronous", ["full", "normal"])
async def test_synchronous_is_set(tmp_path: Path, statements: list[str], synchronous: Any) -> None:
    store = SQLiteStore(tmp_path / "app.db", synchronous=synchronous)
    await store.open()

    async def handle(transaction: SQLiteTransaction) -> bytes:
        ((level,),) = await transaction.execute("PRAGMA synchronous")
        ((journal,),) = await transaction.execute("PRAGMA journal_mode")
        return f"{level} {journal}".encode()

    record = await store.once(Key("", "a"), b"f", handle)
    assert record.reply == {"full": b"2 wal", "normal": b"1 wal"}[synchronous]
    await store.close()
    await store.close()
    with pytest.raises(RuntimeError, match="not open"):
        await put(store, "late")


def test_wrong_arguments(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="path is"):
        SQLiteStore("")
    with pytest.raises(TypeError, match="setup must be a plain function"):
        SQLiteStore(tmp_path / "app.db", setup="PRAGMA foreign_keys = ON")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="choose one of full, normal"):
        SQLiteStore(tmp_path / "app.db", synchronous="off")  # type: ignore[arg-type]


async def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("this is no database, but a text of some length" * 100)
    (tmp_path / "folder").mkdir()
    for path, why in (("text", "not a database"), ("folder", "is a directory"), ("no/app.db", "does not exist")):
        with pytest.raises(StoreError, match=why) as failure:
            await SQLiteStore(tmp_path / path).open()
        assert failure.value.path == str(tmp_path / path)


async def test_the_database_may_have_tables_of_anybodys(tmp_path: Path) -> None:
    path = tmp_path / "app.db"
    for _ in range(2):
        async with App(path) as app:
            await app.inbox.open()
    with contextlib.closing(sqlite3.connect(path)) as db:
        tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        assert tables == {"effects", "reliable_emit_inbox"}
        assert db.execute("PRAGMA application_id").fetchone() == (0,)


async def test_in_memory(tmp_path: Path) -> None:
    async with App(tmp_path / "unused.db", SQLiteStore(":memory:")) as app, client(app) as one:

        @app.sio.event
        @app.inbox.receive
        async def count(sid: str, transaction: SQLiteTransaction) -> int:
            await transaction.execute("CREATE TABLE IF NOT EXISTS counted (number)")
            await transaction.execute("INSERT INTO counted VALUES (1)")
            return int((await transaction.execute("SELECT count(*) FROM counted"))[0][0])

        assert [await one.call("count", offset) for offset in ("a-0", "a-1", "a-0")] == [1, 2, 1]


async def test_a_handler_that_ends_after_closing_is_not_recorded(tmp_path: Path) -> None:
    async with App(tmp_path / "app.db") as app:
        await app.store.open()
        there, go_on = asyncio.Event(), asyncio.Event()

        async def handle(transaction: SQLiteTransaction) -> bytes:
            await insert(transaction, "effect")
            there.set()
            await go_on.wait()
            return b"late"

        tasks = [asyncio.ensure_future(app.store.once(Key("", offset), b"f", handle)) for offset in ("a", "a", "b")]
        await within(there.wait())
        await app.store.close()
        go_on.set()
        results = await within(asyncio.gather(*tasks, return_exceptions=True))
        assert [str(result) for result in results] == ["the store is closed"] * 3
        assert app.effects() == app.records() == []


async def test_a_commit_that_hangs_does_not_hang_the_end(tmp_path: Path) -> None:
    program = """
    import asyncio, sys, threading, time
    from reliable_emit.server import Key, SQLiteStore
    from reliable_emit.server.inbox.session import Session

    async def main():
        store = SQLiteStore(sys.argv[1])
        await store.open()
        hangs = threading.Event()

        def hang(*_):
            hangs.set()
            time.sleep(600)

        Session._end = hang

        async def handle(transaction):
            return b""

        task = asyncio.ensure_future(store.once(Key("", "a"), b"f", handle))
        await asyncio.to_thread(hangs.wait)
        await store.close()
        task.cancel()

    asyncio.run(main())
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", textwrap.dedent(program), str(tmp_path / "app.db"), stderr=subprocess.PIPE
    )
    _, problems = await within(process.communicate())
    assert process.returncode == 0, problems.decode()
    assert b"Traceback" not in problems
