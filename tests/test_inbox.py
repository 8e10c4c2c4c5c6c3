"""The inbox, over a real server: what it accepts, what it refuses, what it repeats, and what it leaves unanswered."""

# mypy: disallow-untyped-decorators=False

from __future__ import annotations

import asyncio
import datetime as dt
import decimal
import functools
import json
import time
import uuid
from typing import TYPE_CHECKING, Any

import pytest
import socketio

from inbox_support import App, client, insert
from reliable_emit import DeliveryFailed, ReliableClient
from reliable_emit.delivery import rejection_reason
from reliable_emit.server import Inbox, MemoryStore, Reject, SQLiteStore, StoreError
from reliable_emit.server.inbox.fingerprint import fingerprint
from server_support import until
from support import PATIENCE, within

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from reliable_emit.server import SQLiteTransaction, Transaction


def refused(reply: Any) -> str:
    reason = rejection_reason((reply,))
    assert reason is not None, f"no rejection but {reply!r}"
    return reason


@pytest.fixture
async def app(tmp_path: Path) -> AsyncIterator[App]:
    async with App(tmp_path / "app.db") as started:
        yield started


async def waits(app: App, count: int) -> None:
    """Until that many messages are being handled or wait."""
    await until(lambda: len(app.inbox._calls) >= count)


# Once.


async def test_a_message_is_handled_once_and_a_repetition_gets_the_reply(app: App) -> None:
    app.stores()
    async with client(app) as one, client(app) as other:
        assert await one.call("store", "first", "a-0") == 1
        assert await one.call("store", "second", "a-1") == 2
        assert await one.call("store", "first", "a-0") == 1
        assert await other.call("store", "second", "a-1") == 2
    assert app.effects() == ["first", "second"]
    assert app.calls == ["first", "second"]


async def test_our_client_delivers_once_over_lost_acknowledgements_and_connections(tmp_path: Path) -> None:
    async with App(tmp_path / "app.db") as app:
        cut = 0

        @app.sio.on("store")
        @app.inbox.receive
        async def store(sid: str, number: int, transaction: SQLiteTransaction) -> int:
            nonlocal cut
            row = await insert(transaction, str(number))
            if number % 3 == 0:
                cut += 1
                transport = app.sio.get_environ(sid)["aiohttp.request"].transport
                transaction.after_commit(transport.abort)
            return row

        sio = socketio.AsyncClient(reconnection_delay=0.01, reconnection_delay_max=0.01)
        async with ReliableClient(sio, client_offset=True, retries=None) as sender:
            await sender.connect(app.url, transports=["websocket"])
            deliveries = [await sender.emit("store", number) for number in range(12)]
            assert await within(asyncio.gather(*deliveries)) == list(range(1, 13))
            assert sum(delivery.attempts for delivery in deliveries) == 12 + 4
        assert cut == 4
        assert app.effects() == [str(number) for number in range(12)]


async def test_all_kinds_of_handlers(app: App) -> None:
    inbox = app.inbox

    @app.sio.event
    @inbox.receive
    async def from_event(sid: str, text: str, transaction: SQLiteTransaction) -> str:
        await insert(transaction, text)
        return f"event {sid}"

    @app.sio.event(namespace="/other")
    @inbox.receive
    def plain(sid: str, text: str, transaction: SQLiteTransaction) -> str:
        transaction.after_commit(lambda: app.calls.append((text, transaction.principal, transaction.offset)))
        return f"plain {sid}"

    class Methods:
        @inbox.receive
        async def handle(self, sid: str, text: str, transaction: SQLiteTransaction) -> str:
            await insert(transaction, text)
            return f"method {sid}"

    methods = Methods()
    app.sio.on("method", methods.handle)
    app.sio.on("bound", inbox.receive(Methods.handle.__wrapped__.__get__(methods)))  # type: ignore[attr-defined]

    class Namespace(socketio.AsyncNamespace):  # type: ignore[misc]
        @inbox.receive
        async def on_store(self, sid: str, text: str, transaction: SQLiteTransaction) -> str:
            await insert(transaction, text)
            return f"{self.namespace} {sid}"

        @inbox.receive
        def on_plain(self, sid: str, text: str, transaction: SQLiteTransaction) -> str:
            return f"plain {self.namespace} {sid}"

    app.sio.register_namespace(Namespace("/class"))
    async with client(app) as root, client(app, "/other") as other, client(app, "/class") as classy:
        for _ in range(2):
            assert await root.call("from_event", "a", "a-0") == f"event {root.sid}"
            assert await other.call("plain", "b", "b-0") == f"plain {other.sid}"
            assert await root.call("method", "c", "c-0") == f"method {root.sid}"
            assert await root.call("bound", "d", "d-0") == f"method {root.sid}"
            assert await classy.call("store", "e", "e-0") == f"/class {classy.sid}"
            assert await classy.call("plain", "f", "f-0") == f"plain /class {classy.sid}"
        for one, event in ((root, "method"), (classy, "store"), (root, "bound")):
            assert (
                refused(await one.call(event, "x-0")) == "expected 2 arguments, the last one the client offset, got 1"
            )
    assert app.effects() == ["a", "c", "d", "e"]
    assert app.calls == [("b", "", "b-0")]


async def test_a_store_in_memory_does_for_tests(tmp_path: Path) -> None:
    async with App(tmp_path / "app.db", MemoryStore()) as app:

        @app.sio.event
        @app.inbox.receive
        async def note(sid: str, text: str, transaction: Transaction) -> str:
            transaction.after_commit(lambda: app.calls.append(text))
            return text.upper()

        async with client(app) as one:
            assert [await one.call("note", "a", "a-0") for _ in range(3)] == ["A"] * 3
        assert app.calls == ["a"]


# What is refused.


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ((), "expected 2 arguments, the last one the client offset, got 0"),
        (("a-0",), "expected 2 arguments, the last one the client offset, got 1"),
        (("text", "more", "a-0"), "expected 2 arguments, the last one the client offset, got 3"),
        (("text", None), "the client offset is not a string but null"),
        (("text", 5), "the client offset is not a string but a number"),
        (("text", {"a": 1}), "the client offset is not a string but an object"),
        (("text", b"a-0"), "the client offset is not a string but binary"),
        (("text", ""), "the client offset is empty"),
        (("text", "x" * 257), "the client offset has 257 characters, more than 256"),
        (("text", "\ud800-0"), "the client offset is not valid Unicode: it has half a surrogate pair, or a NUL"),
        (("text", "a\0"), "the client offset is not valid Unicode: it has half a surrogate pair, or a NUL"),
        (("text", "undefined-0"), "the client offset 'undefined-0' was made without a socket id, so that others make"),
        (("text", "None-3"), "the client offset 'None-3' was made without a socket id, so that others make the same"),
    ],
)
async def test_what_can_never_be_accepted_is_rejected(app: App, arguments: tuple[Any, ...], reason: str) -> None:
    app.stores()
    async with client(app) as one:
        assert refused(await one.call("store", *arguments)).startswith(reason)
    assert app.calls == []
    assert not app.inbox._lifetime.is_open


async def test_the_number_of_arguments_is_the_handlers(app: App) -> None:
    @app.sio.event
    @app.inbox.receive
    async def last(sid: str, a: int, transaction: Any = None) -> bool:
        return transaction is not None

    @app.sio.event
    @app.inbox.receive
    async def any_number(sid: str, *arguments: Any) -> int:
        return len(arguments) - 1

    @app.sio.event
    @app.inbox.receive
    async def nothing(sid: str, transaction: Any) -> str:
        return "nothing"

    async with client(app) as one:
        assert refused(await one.call("last", "a-0")).startswith("expected 2 arguments, the last one the")
        assert await one.call("last", 1, "a-0") is True
        assert (
            refused(await one.call("any_number"))
            == "expected 1 or more arguments, the last one the client offset, got 0"
        )
        assert await one.call("any_number", "b-0") == 0
        assert await one.call("any_number", 1, 2, 3, "b-1") == 3
        assert await one.call("nothing", "c-0") == "nothing"
        assert refused(await one.call("nothing", 1, "c-1")) == (
            "expected 1 argument, the last one the client offset, got 2"
        )


async def test_max_offset_is_the_users(tmp_path: Path) -> None:
    async with App(tmp_path / "app.db", max_offset=5) as app, client(app) as one:
        app.stores()
        assert await one.call("store", "a", "12345") == 1
        assert "more than 5" in refused(await one.call("store", "b", "123456"))


async def test_another_message_with_a_used_offset_is_refused_and_not_swallowed(app: App) -> None:
    app.stores()
    async with client(app) as one, client(app) as forger:
        victim = f"{one.sid}-0"
        assert await forger.call("store", "forged", victim) == 1
        assert (
            refused(await one.call("store", "mine", victim))
            == f"the client offset {victim!r} belongs to another message"
        )
        assert await one.call("store", "mine", f"{one.sid}-1") == 2
    assert app.effects() == ["forged", "mine"]


async def test_another_event_with_a_used_offset_is_another_message(app: App) -> None:
    class Machine:
        def __init__(self, name: str) -> None:
            self.name = name

        @app.inbox.receive
        async def handle(self, sid: str, what: str, transaction: SQLiteTransaction) -> str:
            return self.name

    class Namespace(socketio.AsyncNamespace):  # type: ignore[misc]
        @app.inbox.receive
        async def on_start(self, sid: str, what: str, transaction: SQLiteTransaction) -> str:
            return "class start"

        @app.inbox.receive
        async def on_stop(self, sid: str, what: str, transaction: SQLiteTransaction) -> str:
            return "class stop"

    def named(name: str) -> Any:
        @app.inbox.receive
        async def handle(sid: str, what: str, transaction: SQLiteTransaction) -> str:
            return name

        return handle

    for event in ("start", "stop"):
        app.sio.on(event, named(event))
        app.sio.on(event, functools.partial(named(event + " there")), namespace="/there")
        app.sio.on(event + " machine", Machine(event).handle)
    app.sio.register_namespace(Namespace("/class"))
    async with client(app) as one, client(app, "/there") as there, client(app, "/class") as classy:
        sends = [(each, event) for each in (one, there, classy) for event in ("start", "stop")]
        sends += [(one, "start machine"), (one, "stop machine")]
        for number, (first, event) in enumerate(sends):
            taken = await first.call(event, "pump", f"a-{number}")
            assert isinstance(taken, str)
            for each, other in sends:
                again = await each.call(other, "pump", f"a-{number}")
                assert (again == taken) == ((each, other) == (first, event))
                assert again == taken or "belongs to another message" in refused(again)


async def test_what_is_registered_nowhere_goes_by_its_own_name(app: App) -> None:
    @app.inbox.receive
    async def start(sid: str, what: str, transaction: SQLiteTransaction) -> str:
        return "started"

    @app.inbox.receive
    async def stop(sid: str, what: str, transaction: SQLiteTransaction) -> str:
        return "stopped"

    assert [await start("sid", "pump", "a-0") for _ in range(2)] == ["started"] * 2
    assert "another message" in refused(await stop("sid", "pump", "a-0"))


async def test_a_handler_of_two_events_takes_its_messages_for_the_same(app: App) -> None:
    @app.sio.on("order again")
    @app.sio.on("order")
    @app.inbox.receive
    async def order(sid: str, what: str, transaction: SQLiteTransaction) -> int:
        return await insert(transaction, what)

    async with client(app) as one:
        assert await one.call("order again", "tea", "a-0") == 1
        assert await one.call("order", "tea", "a-0") == 1


async def test_the_event_counts_and_not_where_the_program_has_its_handler(tmp_path: Path) -> None:
    def first(sid: str, transaction: Any) -> int:
        return 1

    def second(sid: str, transaction: Any) -> int:
        return 2

    for handler in (first, second):  # the next release
        async with App(tmp_path / "app.db") as app, client(app) as one:
            app.sio.on("note", app.inbox.receive(handler))
            assert await one.call("note", "a-0") == 1


async def test_another_message_is_refused_also_while_the_first_is_being_handled(app: App) -> None:
    there, go_on = app.holds("slow")
    async with client(app) as one, client(app) as other:
        first = asyncio.ensure_future(one.call("slow", "a", "a-0"))
        await within(there.wait())
        second = asyncio.ensure_future(other.call("slow", "b", "a-0"))
        await waits(app, 2)
        go_on.set()
        assert await first == 1
        assert "belongs to another message" in refused(await second)
    assert app.effects() == ["a"]


async def test_a_handler_can_reject_for_good(app: App) -> None:
    open_ = False

    @app.sio.event
    @app.inbox.receive
    async def buy(sid: str, what: str, transaction: SQLiteTransaction) -> str:
        app.calls.append(what)
        transaction.after_commit(lambda: app.calls.append("called back"))
        await insert(transaction, what)
        if not open_:
            raise Reject("the shop is closed")
        return "bought"

    async with client(app) as one, ReliableClient(socketio.AsyncClient(), client_offset=True) as sender:
        assert await one.call("buy", "tea", "a-0") == {"reliable-emit:rejected": "the shop is closed"}
        open_ = True
        assert refused(await one.call("buy", "tea", "a-0")) == "the shop is closed"
        assert app.calls == ["tea"]
        assert app.effects() == []
        open_ = False
        await sender.connect(app.url)
        with pytest.raises(DeliveryFailed) as failure:
            await sender.call("buy", "coffee")
        assert failure.value.reason == "rejected"
        assert failure.value.detail == "the shop is closed"
        assert failure.value.attempts == 1


async def test_a_handler_can_reject_out_of_a_task_group(app: App) -> None:
    failures: list[Exception] = [Reject("the shop is closed")]

    async def fail(error: Exception) -> None:
        raise error

    @app.sio.event
    @app.inbox.receive
    async def buy(sid: str, transaction: Any) -> None:
        async with asyncio.TaskGroup() as group, asyncio.TaskGroup() as inner:
            for failure in failures:
                inner.create_task(fail(failure))
            group.create_task(asyncio.sleep(0))

    async with client(app) as one:
        for _ in range(2):
            assert refused(await one.call("buy", "a-0")) == "the shop is closed"
        failures.append(ValueError("and something else"))
        await one.no_ack("buy", "a-1")


@pytest.mark.parametrize("reason", ["", None, 5])
def test_a_rejection_has_a_reason(reason: Any) -> None:
    with pytest.raises(ValueError, match="say in words"):
        Reject(reason)


# Who sends.


async def test_principals_are_independent(tmp_path: Path) -> None:
    users: dict[str, str] = {}

    async def principal(sid: str) -> str:
        await asyncio.sleep(0)
        return users[sid]

    async with App(tmp_path / "app.db", principal=principal) as app:
        app.stores()
        app.sio.on("connect", lambda sid, _environ, auth: users.update({sid: auth["user"]}))
        async with client(app, auth={"user": "ada"}) as ada, client(app, auth={"user": "eve"}) as eve:
            assert await eve.call("store", "forged", f"{ada.sid}-0") == 1
            assert await ada.call("store", "ada's", f"{ada.sid}-0") == 2
            assert await ada.call("store", "ada's", f"{ada.sid}-0") == 2
            assert await eve.call("store", "forged", f"{ada.sid}-0") == 1
        async with client(app, auth={"user": "ada"}) as again:
            assert await again.call("store", "hers", "x-0") == 3
        assert app.effects() == ["forged", "ada's", "hers"]
        assert app.read("SELECT principal FROM reliable_emit_inbox ORDER BY handled_at") == ["eve", "ada", "ada"]


async def test_another_principal_makes_a_repetition_a_new_message(tmp_path: Path) -> None:
    rows: list[int] = []
    principals: list[Any] = [None, lambda _: "ada"]
    for principal in principals:
        async with App(tmp_path / "app.db", principal=principal) as app, client(app) as one:

            @app.sio.event
            @app.inbox.receive
            async def store(sid: str, transaction: SQLiteTransaction) -> int:
                return await insert(transaction, f"row {len(rows)}")

            rows.append(await one.call("store", "a-0"))
    assert rows == [1, 2]


async def test_who_is_nobody_is_refused_and_a_function_that_fails_is_not_an_answer(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    answers: list[Any] = [None, ValueError("the directory is down"), "", 5, b"ada", "\ud800", "ada"]

    def principal(_: str) -> Any:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async with App(tmp_path / "app.db", principal=principal) as app, client(app) as one:
        app.stores()
        assert refused(await one.call("store", "a", "a-0")) == "not authenticated"
        while len(answers) > 1:
            caplog.clear()
            await one.no_ack("store", "a", "a-0")
            assert "a message for App.stores.<locals>.store is not acknowledged" in caplog.text
        assert await one.call("store", "a", "a-0") == 1


# Failures.


async def test_a_handler_that_raises_is_rolled_back_and_tried_again(app: App, caplog: pytest.LogCaptureFixture) -> None:
    failures = [ValueError("no luck"), KeyError("again")]

    @app.sio.event
    @app.inbox.receive
    async def store(sid: str, text: str, transaction: SQLiteTransaction) -> int:
        row = await insert(transaction, text)
        if failures:
            raise failures.pop(0)
        return row

    async with ReliableClient(socketio.AsyncClient(), client_offset=True, ack_timeout=0.3) as sender:
        await sender.connect(app.url)
        delivery = await sender.emit("store", "a")
        assert await within(delivery) == 1
        assert delivery.attempts == 3
    assert app.effects() == ["a"]
    assert caplog.text.count("store failed, so its message is not acknowledged") == 2
    assert "no luck" in caplog.text


async def test_a_handler_that_is_cancelled_is_not_acknowledged(app: App) -> None:
    there = asyncio.Event()
    tasks: list[asyncio.Task[Any]] = []

    @app.sio.event
    @app.inbox.receive
    async def store(sid: str, text: str, transaction: SQLiteTransaction) -> int:
        row = await insert(transaction, text)
        if not tasks:
            task = asyncio.current_task()
            assert task is not None
            tasks.append(task)
            there.set()
            await asyncio.Event().wait()
        return row

    async with client(app) as one:
        acknowledged: list[Any] = []
        await one.sio.emit("store", ("a", "a-0"), callback=acknowledged.append)
        await within(there.wait())
        repetition = asyncio.ensure_future(one.sio.call("store", ("a", "a-0"), timeout=0.5))
        await waits(app, 2)
        tasks[0].cancel()
        with pytest.raises(socketio.exceptions.TimeoutError):  # it waited for the first, and fails with it
            await repetition
        assert acknowledged == []
        assert await one.call("store", "a", "a-0") == 1
    assert app.effects() == ["a"]


async def test_a_repetition_waits_for_the_first_also_when_that_connection_is_gone(app: App) -> None:
    there, go_on = asyncio.Event(), asyncio.Event()

    @app.sio.event
    @app.inbox.receive
    async def store(sid: str, text: str, transaction: SQLiteTransaction) -> int:
        app.calls.append(text)
        row = await insert(transaction, text)
        there.set()
        await go_on.wait()
        return row

    async with client(app) as other:
        async with client(app) as one:
            await one.emit("store", "a", "a-0")
            await within(there.wait())
        again = [asyncio.ensure_future(other.call("store", "a", "a-0")) for _ in range(3)]
        await waits(app, 4)
        go_on.set()
        assert await asyncio.gather(*again) == [1, 1, 1]
    assert app.calls == ["a"]
    assert app.effects() == ["a"]


async def test_a_flood_of_repetitions_is_handled_once(app: App) -> None:
    app.stores()
    async with client(app) as one, client(app) as other:
        replies = await asyncio.gather(
            *(each.call("store", f"text {n}", f"a-{n}") for n in range(5) for each in (one, other) * 20)
        )
    assert sorted(replies) == sorted([1, 2, 3, 4, 5] * 40)
    assert len(app.calls) == len(app.effects()) == 5
    assert app.inbox._handling == {}
    assert app.inbox._calls.of == {}


async def test_one_connection_has_a_hundred_waiting_at_most(app: App) -> None:
    go_on = asyncio.Event()

    @app.inbox.receive
    async def slow(sid: str, transaction: SQLiteTransaction) -> str:
        await go_on.wait()
        return "taken"

    calls = [asyncio.ensure_future(slow("sid", f"a-{n}")) for n in range(101)]
    assert await within(calls[100]) is app.sio.not_handled
    go_on.set()
    assert await asyncio.gather(*calls[:100]) == ["taken"] * 100


async def test_one_connection_can_only_have_so_many_waiting(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with App(tmp_path / "app.db", max_waiting=3) as app, client(app) as greedy, client(app) as modest:
        go_on = asyncio.Event()

        @app.sio.event
        @app.inbox.receive
        async def slow(sid: str, text: str, transaction: SQLiteTransaction) -> str:
            await go_on.wait()
            return text

        calls = [asyncio.ensure_future(greedy.sio.call("slow", ("a", f"a-{n}"), timeout=1)) for n in range(10)]
        await waits(app, 3)
        other = asyncio.ensure_future(modest.call("slow", "b", "b-0"))
        await waits(app, 4)
        done, _ = await asyncio.wait(calls, timeout=0.1)
        assert not done
        assert len(app.inbox._calls) == 4
        go_on.set()
        assert await other == "b"
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert results.count("a") == 3
        assert sum(isinstance(result, socketio.exceptions.TimeoutError) for result in results) == 7
        assert caplog.text.count("3 of one connection wait already") == 1
        assert await greedy.call("slow", "c", "c-0") == "c"


@pytest.mark.parametrize(("event", "namespace"), [("*", "/"), ("store", "*"), ("*", "*")])
async def test_a_catch_all_is_refused(app: App, event: str, namespace: str, caplog: pytest.LogCaptureFixture) -> None:
    @app.sio.on(event, namespace=namespace)
    @app.inbox.receive
    async def anything(*arguments: Any) -> None:
        app.calls.append(arguments)

    app.sio.on("quiet", lambda *_: None)  # for the namespace to be there
    async with client(app) as one:
        await one.no_ack("store", "a", "a-0")
    assert app.calls == []
    assert "is registered for any event or namespace" in caplog.text


async def test_a_class_for_all_namespaces_is_refused(app: App, caplog: pytest.LogCaptureFixture) -> None:
    class Namespace(socketio.AsyncNamespace):  # type: ignore[misc]
        @app.inbox.receive
        async def on_store(self, *arguments: Any) -> None:
            app.calls.append(arguments)

    app.sio.register_namespace(Namespace("*"))
    async with client(app) as one:
        await one.no_ack("store", "a", "a-0")
    assert app.calls == []
    assert "is registered for any event or namespace" in caplog.text


async def test_a_catch_all_is_found_behind_what_is_wrapped_around_it(
    app: App, caplog: pytest.LogCaptureFixture
) -> None:
    @app.inbox.receive
    async def anything(*arguments: Any) -> None:
        app.calls.append(arguments)

    app.sio.on("*", functools.partial(anything))
    async with client(app) as one, client(app) as victim:
        await one.no_ack(victim.sid, "a", "a-0")
    assert app.calls == []
    assert "is registered for any event or namespace" in caplog.text


@pytest.mark.parametrize("static", [False, True])
async def test_a_class_that_dispatches_by_itself_is_refused(
    app: App, static: bool, caplog: pytest.LogCaptureFixture
) -> None:
    @app.inbox.receive
    async def everything(*arguments: Any) -> str:
        app.calls.append(arguments)
        return "taken"

    class Namespace(socketio.AsyncNamespace):  # type: ignore[misc]
        every = staticmethod(everything) if static else everything

        async def trigger_event(self, event: str, *arguments: Any) -> Any:
            if event not in {"connect", "disconnect"}:
                return await self.every(event, *arguments)
            return None

    app.sio.register_namespace(Namespace("/class"))
    async with client(app, "/class") as one, client(app, "/class") as victim:
        await one.no_ack(victim.sid, "a", "a-0")
    assert app.calls == []
    assert "a trigger_event of its own" in caplog.text


def test_decorators_in_the_wrong_order_are_noticed(tmp_path: Path) -> None:
    app = App(tmp_path / "app.db")
    with pytest.raises(ValueError, match=r"put @inbox\.receive below"):

        @app.inbox.receive
        @app.sio.event
        async def store(sid: str, text: str, transaction: Any) -> None: ...


def optional(sid: str, a: int, b: Any = None, transaction: Any = None) -> None: ...
def optional_and_more(sid: str, a: int = 0, *arguments: Any) -> None: ...


@pytest.mark.parametrize("handler", [optional, optional_and_more])
def test_an_argument_that_may_be_given_the_transaction_is_refused(tmp_path: Path, handler: Any) -> None:
    with pytest.raises(ValueError, match=r"take optional arguments as \*arguments"):
        App(tmp_path / "app.db").inbox.receive(handler)


async def test_static_methods(app: App) -> None:
    with pytest.raises(ValueError, match=r"put @inbox\.receive below @staticmethod"):

        class Wrong:
            @app.inbox.receive
            @staticmethod
            async def handle(sid: str, transaction: Any) -> None: ...

    class Namespace(socketio.AsyncNamespace):  # type: ignore[misc]
        @staticmethod
        @app.inbox.receive
        async def on_store(sid: str, text: str, transaction: SQLiteTransaction) -> int:
            return await insert(transaction, text)

    app.sio.register_namespace(Namespace("/class"))
    async with client(app, "/class") as one:
        assert [await one.call("store", "a", "a-0") for _ in range(2)] == [1, 1]


@pytest.mark.parametrize("handler", [lambda: 0, lambda sid: 0, lambda sid, transaction, *, needed: 0])
def test_a_handler_that_could_never_be_called_is_refused(tmp_path: Path, handler: Any) -> None:
    with pytest.raises(ValueError, match="cannot handle a message"):
        App(tmp_path / "app.db").inbox.receive(handler)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"retention": 0}, ValueError),
        ({"retention": "long"}, TypeError),
        ({"max_offset": 0}, ValueError),
        ({"max_waiting": 0}, ValueError),
        ({"principal": "ada"}, TypeError),
    ],
)
def test_wrong_arguments(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match=next(iter(options))):
        Inbox(socketio.AsyncServer(), MemoryStore(), **options)
    with pytest.raises(TypeError, match=r"give a socketio\.AsyncServer"):
        Inbox(socketio.Server(), MemoryStore())


# Replies.


@pytest.mark.parametrize(
    "reply",
    [
        None,
        0,
        "é \ud800 \0",
        {"a": [1, None, {"\0": "\0", "\0\0x": b"\0\xff"}], "": b""},
        b"binary",
        [b"a", "b"],
        [],
        (),
        (None,),
        (1, "b", b"c"),
        ([1, (2, 3)], {"_placeholder": True, "num": 0}),
        ((1, 2), (3,)),
        {"reliable-emit:rejected": 5},
        float("inf"),
        2**70,
    ],
    ids=repr,
)
async def test_a_repetition_gets_the_reply_that_the_first_got(app: App, reply: Any) -> None:
    @app.sio.event
    async def bare(sid: str) -> Any:
        return reply

    @app.sio.event
    @app.inbox.receive
    async def through(sid: str, transaction: Any) -> Any:
        app.calls.append("called")
        return reply

    async with client(app) as one:
        wanted = await one.call("bare")
        assert await one.call("through", "a-0") == wanted
        assert await one.call("through", "a-0") == wanted
    assert app.calls == ["called"]


@pytest.mark.parametrize("reply", [object(), {1, 2}, {"a": object()}, {(1, 2): 3}])
async def test_a_reply_that_cannot_be_sent_is_a_failure(app: App, reply: Any, caplog: pytest.LogCaptureFixture) -> None:
    good = False

    @app.sio.event
    @app.inbox.receive
    async def store(sid: str, text: str, transaction: SQLiteTransaction) -> Any:
        row = await insert(transaction, text)
        return row if good else reply

    async with client(app) as one:
        await one.no_ack("store", "a", "a-0")
        assert app.effects() == []
        assert "store failed" in caplog.text
        good = True
        assert await one.call("store", "a", "a-0") == 1


async def test_another_serializer(tmp_path: Path) -> None:
    pytest.importorskip("msgpack")
    async with App(tmp_path / "app.db", server={"serializer": "msgpack"}) as app:
        app.stores()
        sio = socketio.AsyncClient(serializer="msgpack")
        await sio.connect(app.url)
        try:
            assert [await sio.call("store", ("a", "a-0")) for _ in range(2)] == [1, 1]
        finally:
            await sio.disconnect()


# What the message looks like.


async def test_a_repetition_is_known_by_what_it_says(app: App) -> None:
    @app.sio.event
    @app.inbox.receive
    async def take(sid: str, data: Any, transaction: Any) -> str:
        return "taken"

    values: list[Any] = [
        None, True, False, 0, 1, -1, 1.5, "", "1", "a", b"", b"a", [], {}, [[]], [{}], [0], {"a": 1}, {"a": "1"},
        {"b": 1}, {"a": {"b": 1}}, [["a"], "b"], [["a", "b"]], ["a", ["b"]], 2**80, -(2**80), "\ud800", [None], [1, 2],
        [12], ["1", "2"], ["12"], {"a": None}, {"a": [b"x"]},
    ]  # fmt: skip
    async with client(app) as one:
        for number, value in enumerate(values):
            assert await one.call("take", value, f"a-{number}") == "taken"
        for number, value in enumerate(values):
            for other in range(len(values)):
                reply = await one.call("take", value, f"a-{other}")
                assert (reply == "taken") == (number == other), (value, values[other])
        assert await one.call("take", {"x": 1, "y": [2, {"p": 3, "q": 4}]}, "b-0") == "taken"
        assert await one.call("take", {"y": [2, {"q": 4, "p": 3}], "x": 1}, "b-0") == "taken"


def nested(depth: int) -> Any:
    deep: Any = []
    for _ in range(depth):
        deep = [deep]
    return deep


async def test_data_of_any_kind_is_compared_by_its_value(app: App) -> None:
    @app.inbox.receive
    async def take(sid: str, data: Any, transaction: Any) -> str:
        return "taken"

    noon = dt.datetime(2024, 2, 29, 12, tzinfo=dt.UTC)
    values = [
        nested(5000), nested(5001), {1: 2, None: 3, b"x": 4, "x": 5, (1,): 6}, {1: 2, None: 3, b"x": 4, (2,): 6},
        float("nan"), 10**10_000, 10**10_000 + 1, decimal.Decimal("1.5"), decimal.Decimal(99), "1.5", noon,
        noon.replace(hour=13), {b"x": 1, "y": "z"}, {b"x": 1, "y": b"z"}, [b"a", "?"], ["?", b"a"], [b"a", b"?"],
        memoryview(b"view"), [b"a", None], [None, b"a"], {b"": None}, {b"": 0}, uuid.UUID(int=5), uuid.UUID(int=6),
    ]  # fmt: skip
    for number, value in enumerate(values):
        assert [await take("sid", value, f"a-{number}") for _ in range(2)] == ["taken"] * 2
        for other in range(number):
            assert "belongs to another message" in refused(await take("sid", value, f"a-{other}"))


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (object(), "the data has a object in it, which cannot be compared"),
        ({"a": [{1, 2}]}, "the data has a set in it, which cannot be compared"),
        (nested(100_000), "the data is nested too deep, or has too many keys that are no strings, to be compared"),
        ({b"x": [0] * 99_999}, "the data is nested too deep, or has too many keys that are no strings, to be compared"),
    ],
    ids=["object", "set", "deep", "bytes"],
)  # fmt: skip
async def test_data_that_cannot_be_compared_is_rejected(app: App, value: Any, reason: str) -> None:
    @app.inbox.receive
    async def take(sid: str, data: Any, transaction: Any) -> str:
        raise AssertionError("not called here")

    assert refused(await take("sid", value, "a-0")) == reason
    while isinstance(value, list) and value:
        (value,) = value  # one after the other: to let go of it at once takes a deep stack


def test_the_hash_is_the_same_in_every_process() -> None:
    # Another value makes each repetition that comes after an update another message.
    data = [1.5, None, "\ud800", {"b": b"x", "a": True}]
    assert fingerprint(("/", "e"), (data, b"y")).hex() == "4c05927c7639c38e96f44e451cd37efe"
    assert fingerprint(("/", "e"), (data, {b"k": 1})).hex() == "258ca8e439e236913ab645c4ea95916e"


@pytest.mark.parametrize("text", ["[" + "0," * 499_999 + "0]", "[" + "{}," * 332_999 + "{}]"])
def test_a_megabyte_does_not_hold_up_the_event_loop(text: str) -> None:
    value = json.loads(text)

    def seconds(function: Callable[[], object]) -> float:
        started = time.process_time()
        function()
        return time.process_time() - started

    # A few times what it takes to read it; by hand it is thirty times.
    reading = min(seconds(lambda: json.loads(text)) for _ in range(3))
    assert min(seconds(lambda: fingerprint(("/", "e"), (value,))) for _ in range(3)) < 10 * reading + 0.02


# Opening, closing, forgetting.


async def test_it_is_opened_by_the_first_message_once_and_shared(tmp_path: Path) -> None:
    class Counted(SQLiteStore):
        opened = 0

        async def open(self) -> None:
            self.opened += 1
            await super().open()

    store = Counted(tmp_path / "app.db")
    async with App(tmp_path / "app.db", store) as app, client(app) as one:
        app.stores()
        await asyncio.gather(*(one.call("store", str(n), f"a-{n}") for n in range(10)))
        async with app.inbox as same:
            assert same is app.inbox
        assert store.opened == 1


class SlowToOpen(MemoryStore):
    opening = False

    async def open(self) -> None:
        self.opening = True
        try:
            await asyncio.Event().wait()
        finally:
            self.opening = False


async def test_closing_does_not_wait_for_a_store_that_does_not_open(tmp_path: Path) -> None:
    store = SlowToOpen()
    async with App(tmp_path / "app.db", store) as app:

        @app.inbox.receive
        async def note(sid: str, transaction: Any) -> str:
            raise AssertionError("not called here")

        by_hand = asyncio.ensure_future(app.inbox.open())
        message = asyncio.ensure_future(note("sid", "a-0"))
        given_up = asyncio.ensure_future(app.inbox.open())
        await until(lambda: store.opening)
        given_up.cancel()
        await asyncio.wait([given_up])
        assert store.opening
        async with asyncio.timeout(3):
            await app.inbox.close(timeout=0.1)
        with pytest.raises(RuntimeError, match="closed while it was being opened"):
            await by_hand
        assert await message is app.sio.not_handled
        assert not store.opening


async def test_one_store_has_one_inbox(tmp_path: Path) -> None:
    for store in (MemoryStore(), SQLiteStore(tmp_path / "app.db")):
        sio = socketio.AsyncServer(async_mode="asgi")
        async with Inbox(sio, store) as first:
            second = Inbox(sio, store)
            with pytest.raises(RuntimeError, match="open in another inbox already; give each inbox a store of its own"):
                await second.open()

            @first.receive
            async def note(sid: str, transaction: Any) -> str:
                return "noted"

            assert await note("sid", "a-0") == "noted"
        async with second:
            pass


async def test_closing_leaves_no_task_behind(tmp_path: Path) -> None:
    before = asyncio.all_tasks()
    async with Inbox(socketio.AsyncServer(async_mode="asgi"), SQLiteStore(tmp_path / "app.db")):
        assert asyncio.all_tasks() > before
    assert asyncio.all_tasks() == before


async def test_a_store_that_cannot_be_opened_is_tried_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "later"
    async with App(tmp_path / "app.db", SQLiteStore(folder / "app.db")) as app, client(app) as one:

        @app.sio.event
        @app.inbox.receive
        async def note(sid: str, transaction: Any) -> str:
            return "noted"

        with pytest.raises(StoreError, match="does not exist"):
            await app.inbox.open()
        await one.no_ack("note", "a-0")
        assert "does not exist" in caplog.text
        folder.mkdir()
        assert await one.call("note", "a-0") == "noted"


async def test_after_closing_nothing_is_acknowledged(app: App) -> None:
    app.stores()
    there = asyncio.Event()

    @app.sio.event
    @app.inbox.receive
    async def hangs(sid: str, text: str, transaction: SQLiteTransaction) -> None:
        await insert(transaction, text)
        there.set()
        await asyncio.Event().wait()

    async with client(app) as one:
        assert await one.call("store", "a", "a-0") == 1
        acknowledged: list[Any] = []
        await one.sio.emit("hangs", ("b", "b-0"), callback=acknowledged.append)
        await within(there.wait())
        await one.sio.emit("store", ("c", "c-0"), callback=acknowledged.append)
        await waits(app, 2)
        await asyncio.wait_for(app.inbox.close(timeout=0.05), 5)
        await one.no_ack("store", "a", "a-0")
        assert acknowledged == []
        with pytest.raises(RuntimeError, match="closed"):
            await app.inbox.open()
        await app.inbox.close()
    assert app.effects() == ["a"]


async def test_closing_lets_handlers_end(app: App) -> None:
    there, go_on = app.holds("slow")
    async with client(app) as one:
        call = asyncio.ensure_future(one.call("slow", "a", "a-0"))
        await within(there.wait())
        closing = asyncio.ensure_future(app.inbox.close())
        await asyncio.sleep(0)
        go_on.set()
        await within(closing)
        assert await call == 1
    assert app.effects() == ["a"]


async def test_a_handler_may_close_the_inbox(app: App) -> None:
    @app.sio.event
    @app.inbox.receive
    async def stop(sid: str, transaction: Any) -> None:
        app.calls.append("stopping")
        async with asyncio.timeout(4):
            await app.inbox.close()
        app.calls.append("stopped")

    async with client(app) as one:
        await one.no_ack("stop", "a-0")
    assert app.calls == ["stopping", "stopped"]


async def test_closing_waits_for_calls_and_not_for_the_task_that_reads_the_connection(tmp_path: Path) -> None:
    async with App(tmp_path / "app.db", server={"async_handlers": False}) as app:
        there, go_on = app.holds("slow")
        async with client(app) as one:
            call = asyncio.ensure_future(one.call("slow", "a", "a-0"))
            await within(there.wait())
            closing = asyncio.ensure_future(app.inbox.close(timeout=PATIENCE))
            await asyncio.sleep(0)
            go_on.set()
            async with asyncio.timeout(PATIENCE / 2):
                await closing
            assert await call == 1
            await one.quiet()
            assert one.sio.connected


async def test_closing_cancels_a_call_and_not_the_connection(tmp_path: Path) -> None:
    async with App(tmp_path / "app.db", server={"async_handlers": False}) as app:
        there = asyncio.Event()
        app.stores()

        @app.sio.event
        @app.inbox.receive
        async def hangs(sid: str, text: str, transaction: SQLiteTransaction) -> None:
            there.set()
            await asyncio.Event().wait()

        async with client(app) as one:
            await one.emit("hangs", "a", "a-0")
            await within(there.wait())
            await within(app.inbox.close(timeout=0))
            await one.no_ack("store", "b", "b-0")


async def test_closing_waits_for_a_handler_that_has_called_another(tmp_path: Path) -> None:
    async with App(tmp_path / "app.db", MemoryStore()) as app:
        go_on = asyncio.Event()

        @app.inbox.receive
        async def inner(sid: str, hang: bool, transaction: Any) -> str:
            if hang:
                await asyncio.Event().wait()
            return "inner"

        @app.inbox.receive
        async def outer(sid: str, hang: bool, transaction: Any) -> str:
            app.calls.append(await inner(sid, hang, transaction.offset + "+"))
            await go_on.wait()
            return "outer"

        ends = asyncio.ensure_future(outer("sid", False, "a-0"))
        hangs = asyncio.ensure_future(outer("sid", True, "b-0"))
        await until(lambda: len(app.inbox._calls) == 3)
        closing = asyncio.ensure_future(app.inbox.close(timeout=0.2))
        await asyncio.sleep(0)
        go_on.set()
        await within(closing)
        assert await ends == "outer"
        assert await hangs is app.sio.not_handled
        assert app.calls == ["inner"]


async def test_old_records_are_forgotten_and_then_a_repetition_is_a_new_message(tmp_path: Path) -> None:
    async with App(tmp_path / "app.db", retention=0.5) as app, client(app) as one:

        @app.sio.event
        @app.inbox.receive
        async def store(sid: str, text: str, transaction: SQLiteTransaction) -> int:
            return await insert(transaction, f"{text} {len(app.effects())}")

        assert await one.call("store", "a", "a-0") == 1
        assert await one.call("store", "a", "a-0") == 1
        await until(lambda: not app.records())
        assert await one.call("store", "a", "a-0") == 2


async def test_forgetting_that_fails_stops_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Forgetful(SQLiteStore):
        failures = 2

        async def forget(self, age: float) -> int:
            if self.failures:
                self.failures -= 1
                raise OSError("not now")
            return await super().forget(age)

    async with App(tmp_path / "app.db", Forgetful(tmp_path / "app.db"), retention=0.2) as app, client(app) as one:
        app.stores()
        assert await one.call("store", "a", "a-0") == 1
        await until(lambda: not app.records())
        assert caplog.text.count("not now") == 2


async def test_callbacks_after_the_commit_see_it_and_come_before_the_acknowledgement(
    app: App, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise ValueError("on purpose")

    @app.sio.event
    @app.inbox.receive
    async def store(sid: str, text: str, transaction: SQLiteTransaction) -> int:
        transaction.after_commit(fail)
        transaction.after_commit(lambda: app.calls.append(app.effects()))
        return await insert(transaction, text)

    async with client(app) as one:
        assert await one.call("store", "a", "a-0") == 1
        assert app.calls == [["a"]]
        assert await one.call("store", "a", "a-0") == 1
        assert app.calls == [["a"]]
    assert "on purpose" in caplog.text


async def test_a_callback_that_nobody_would_wait_for_is_refused(app: App, caplog: pytest.LogCaptureFixture) -> None:
    async def notify() -> None:
        app.calls.append("notified")

    kept: list[Any] = []

    @app.sio.event
    @app.inbox.receive
    async def store(sid: str, text: str, transaction: SQLiteTransaction) -> int:
        for wrong in (notify, functools.partial(notify), None):
            with pytest.raises(TypeError, match="give a plain function, which may start a task"):
                transaction.after_commit(wrong)  # type: ignore[arg-type]
        transaction.after_commit(lambda: asyncio.ensure_future(notify()))
        transaction.after_commit(lambda: notify())  # noqa: PLW0108 - what it hides is the test
        transaction.after_commit(lambda: app.calls.append("told"))
        kept.append(transaction)
        return await insert(transaction, text)

    async with client(app) as one:
        assert await one.call("store", "a", "a-0") == 1
        await until(lambda: len(app.calls) == 2)
    assert app.calls == ["told", "notified"]
    assert caplog.text.count("gave a coroutine, which nobody waits for") == 1
    with pytest.raises(RuntimeError, match="nothing is called after its commit any more"):
        kept[0].after_commit(list)
