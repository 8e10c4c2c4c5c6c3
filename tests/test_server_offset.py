"""The way back, with a real server: each event is handled once and in order, whatever becomes of the connection."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import random
import sqlite3
import time
from typing import TYPE_CHECKING, Any

import pytest
import socketio

from crash_support import EVENT, Zygote, say
from reliable_emit import ReliableClient, ServerOffset
from reliable_emit.server import ReferenceServer
from reliable_emit.testing import FaultProxy
from server_offset_support import SOON, fill, kept, leave, new_client, tracked
from server_support import until
from support import Log, Server, settle, within

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

KILLS = 50


class Reader:
    """A client whose handler notes the rows that it is called with.

    Attributes:
        came: The ids of all rows that the server has sent.
        rows: Those that the tracked handler was called with.
        auths: What the server was told, at each connection.
        work: Awaited with each id, after it was noted.
    """

    def __init__(self, seen: ServerOffset, **options: Any) -> None:
        self.sio = new_client(**options)
        self.seen = seen
        self.came: Log[int] = Log()
        self.rows: Log[int] = Log()
        self.auths: Log[dict[str, Any]] = Log()
        self.work: Callable[[int], Any] | None = None

        @seen.track
        async def chat_message(text: str, server_offset: int) -> None:
            self.rows.add(server_offset)
            if self.work is not None:
                await self.work(server_offset)

        @self.sio.on(EVENT)  # type: ignore[untyped-decorator]
        async def came(text: str, server_offset: int) -> None:
            self.came.add(server_offset)
            await chat_message(text, server_offset)

    def auth(self) -> dict[str, Any]:
        auth = self.seen.auth()
        self.auths.add(auth)
        return auth


@contextlib.asynccontextmanager
async def reading(url: str, seen: ServerOffset | None = None, *, keep: bool = True) -> AsyncIterator[Reader]:
    """A reader that is connected: by ours, which keeps it so, or by python-socketio alone."""
    reader = Reader(seen or ServerOffset())
    if keep:
        async with ReliableClient(reader.sio) as client:
            await client.connect(url, auth=reader.auth, transports="websocket", reconnect_backoff=SOON)
            yield reader
        return
    try:
        await reader.sio.connect(url, auth=reader.auth, transports=["websocket"], wait_timeout=20)
        yield reader
    finally:
        await leave(reader.sio)


async def has_moved(reader: Reader, offset: int) -> None:
    """Wait until the offset of a reader has moved so far; it does in the step in which the handler returns."""
    await reader.rows.until(lambda rows: offset in rows)
    await until(lambda: reader.seen.offset >= offset)


# Over connections.


@pytest.mark.parametrize("keep", [True, False], ids=["kept by us", "by python-socketio"])
async def test_each_event_once_and_in_order_over_lost_connections(keep: bool) -> None:
    async with ReferenceServer() as server, FaultProxy("127.0.0.1", server.port) as proxy:
        await fill(server, 300)
        async with reading(proxy.url, keep=keep) as reader:
            await reader.rows.has(1)
            for round_number in range(4):  # some in the middle of the replay, some in the middle of the broadcasts
                before = len(reader.auths)
                proxy.cut_at("to_client", frame=40 + 20 * round_number, passing="half", ending="rst")
                await fill(server, 200)
                await reader.auths.has(before + 1)
            await has_moved(reader, 1_100)
            assert reader.rows == list(range(1, 1_101))
            told = [auth["serverOffset"] for auth in reader.auths]
            assert told[0] == 0
            assert told == sorted(told)  # the same again if the reset took with it all that was on its way
            assert len(told) >= 5


async def test_what_is_replayed_while_it_is_still_being_handled_is_dropped() -> None:
    go = asyncio.Event()

    async def work(row: int) -> None:
        if row == 2:
            await go.wait()

    async with ReferenceServer() as server, FaultProxy("127.0.0.1", server.port) as proxy:
        await fill(server, 5)
        async with reading(proxy.url) as reader:
            reader.work = work
            await reader.came.has(5)
            for connection in (2, 3):
                proxy.reset()
                await reader.came.has(5 + 4 * (connection - 1))
            await fill(server, 1)
            assert [auth["serverOffset"] for auth in reader.auths] == [0, 1, 1]
            await reader.came.has(5 + 4 + 4 + 1)
            assert reader.came[5:] == [2, 3, 4, 5, 2, 3, 4, 5, 6]
            assert reader.rows == [1, 2]
            assert reader.seen.offset == 1
            go.set()
            await has_moved(reader, 6)
            assert reader.rows == [1, 2, 3, 4, 5, 6]


async def test_the_users_auth_is_sent_along_and_asked_each_time() -> None:
    auths: Log[Any] = Log()
    tokens = (f"token {number}" for number in itertools.count(1))
    seen = ServerOffset(start=41)

    async def fresh() -> dict[str, Any]:
        await asyncio.sleep(0)
        return {"token": next(tokens), "serverOffset": "mine"}

    def authenticate(auth: Any, _environ: dict[str, Any]) -> str:
        auths.add(auth)
        return "somebody"

    async with ReferenceServer(authenticate=authenticate) as server, FaultProxy("127.0.0.1", server.port) as proxy:
        for auth in (seen.auth, seen.auth_with(None), seen.auth_with({"token": "x"}), seen.auth_with(lambda: None)):
            sio = new_client()
            await sio.connect(server.url, auth=auth, transports=["websocket"], wait_timeout=20)
            await sio.disconnect()
        assert auths == [{"serverOffset": 41}] * 2 + [{"token": "x", "serverOffset": 41}] + [{"serverOffset": 41}]
        auths.clear()
        sio = new_client()
        await sio.connect(proxy.url, auth=seen.auth_with(fresh), transports=["websocket"], wait_timeout=20)
        proxy.cut()
        await auths.has(2)
        assert auths == [{"token": f"token {number}", "serverOffset": 41} for number in (1, 2)]
        await leave(sio)
        async with ReliableClient(new_client()) as wrong:
            with pytest.raises(TypeError, match="auth is a str; give a dict"):
                await wrong.connect(server.url, auth=seen.auth_with(lambda: "secret"))
    with pytest.raises(TypeError, match="auth is a list; give a dict"):
        seen.auth_with(["secret"])


async def test_two_namespaces_have_an_offset_each() -> None:
    auths: Log[Any] = Log()
    chat, news = ServerOffset(), ServerOffset(key="newsOffset")
    rows: Log[tuple[str, int]] = Log()
    async with Server("/chat", "/news") as server, FaultProxy("127.0.0.1", server.port) as proxy:

        async def on_connect(sid: str, _environ: object, auth: Any) -> None:
            auths.add(auth)

        async def publish(namespace: str, *ids: int) -> None:
            for number in ids:
                await server.sio.emit("row", ("text", number), namespace=namespace)

        sio = new_client()
        for name, seen in (("/chat", chat), ("/news", news)):
            server.sio.on("connect", on_connect, namespace=name)

            @sio.on("row", namespace=name)  # type: ignore[untyped-decorator]
            @seen.track
            def row(text: str, number: int, name: str = name) -> None:
                rows.add((name, number))

        await sio.connect(proxy.url, auth=chat.auth_with(news.auth), transports=["websocket"], wait_timeout=20)
        await publish("/chat", 1, 2)
        await publish("/news", 1)
        await publish("/chat", 2, 3)
        await rows.has(4)
        assert sorted(rows) == [("/chat", 1), ("/chat", 2), ("/chat", 3), ("/news", 1)]
        proxy.cut()
        await auths.has(4)
        assert auths == [{"serverOffset": 0, "newsOffset": 0}] * 2 + [{"serverOffset": 3, "newsOffset": 1}] * 2
        await leave(sio)


async def test_every_kind_of_handler_is_called_as_before() -> None:
    seen = {name: ServerOffset() for name in ("function", "event", "plain", "method", "catch-all", "acknowledged")}
    calls: Log[tuple[Any, ...]] = Log()
    sio = new_client()

    @sio.on("function")  # type: ignore[untyped-decorator]
    @seen["function"].track
    async def function(*arguments: Any) -> None:
        calls.add(("function", *arguments))

    @sio.event(namespace="/")  # type: ignore[untyped-decorator]
    @seen["event"].track
    async def event(text: str, number: int) -> None:
        calls.add(("event", text, number))

    @sio.event  # type: ignore[untyped-decorator]
    @seen["plain"].track
    def plain(text: str, more: bytes, number: int) -> None:
        calls.add(("plain", text, more, number))

    class Namespace(socketio.AsyncClientNamespace):  # type: ignore[misc]  # socketio is untyped
        @seen["method"].track
        async def on_method(self, text: str, number: int) -> None:
            assert self.namespace == "/class"
            calls.add(("method", text, number))

    sio.register_namespace(Namespace("/class"))
    sio.on("*", seen["catch-all"].track(lambda *arguments: calls.add(arguments)))

    @sio.event  # type: ignore[untyped-decorator]
    @seen["acknowledged"].track
    def acknowledged(number: int) -> tuple[str, int]:
        """What it does."""
        return "got", number

    assert acknowledged.__name__ == "acknowledged"
    assert acknowledged.__doc__ == "What it does."
    async with Server("/", "/class") as server:
        await sio.connect(server.url, transports=["websocket"], wait_timeout=20, namespaces=["/", "/class"])
        for _ in range(2):
            await server.sio.emit("function", ("a", None, {"b": 1}, 1))
            await server.sio.emit("event", ("a", 2))
            await server.sio.emit("plain", ("a", b"bytes", 3))
            await server.sio.emit("method", ("a", 4), namespace="/class")
            await server.sio.emit("any", ("a", 5))
        (sid, *_) = (sid for namespace, sid in server.connections if namespace == "/")
        assert await server.sio.call("acknowledged", 6, to=sid) == ("got", 6)
        assert await server.sio.call("acknowledged", 6, to=sid) is None
        await calls.has(5)
        await sio.disconnect()
    assert sorted(calls) == [
        ("any", "a", 5),
        ("event", "a", 2),
        ("function", "a", None, {"b": 1}, 1),
        ("method", "a", 4),
        ("plain", "a", b"bytes", 3),
    ]
    assert [each.offset for each in seen.values()] == [1, 2, 3, 4, 5, 6]


# What a server may send.


@pytest.mark.parametrize("odd", [None, "7", True, -1, 2**63, 10**400, 1.0, [1], {"id": 1}])
async def test_an_event_without_an_id_is_handed_over_and_not_tracked(
    odd: Any, caplog: pytest.LogCaptureFixture
) -> None:
    seen = ServerOffset(start=3)
    calls: list[tuple[Any, ...]] = []
    handler = seen.track(lambda *arguments: calls.append(arguments))
    for _ in range(2):
        await handler("text", odd)
    await handler("text", 4)
    assert calls == [("text", odd), ("text", odd), ("text", 4)]
    assert seen.offset == 4
    assert caplog.text.count("no server offset") == 1


async def test_an_event_without_arguments_is_handed_over() -> None:
    calls: list[tuple[Any, ...]] = []
    handler = ServerOffset().track(lambda *arguments: calls.append(arguments))
    await handler()
    await handler()
    assert calls == [(), ()]


async def test_the_id_can_be_anywhere_and_find_may_fail(caplog: pytest.LogCaptureFixture) -> None:
    seen = ServerOffset(find=lambda row: row["id"])
    calls: list[Any] = []
    handler = seen.track(calls.append)
    for row in ({"id": 5}, {"id": 5}, {}, "text", {"id": 6}):
        await handler(row)
    assert calls == [{"id": 5}, {}, "text", {"id": 6}]
    assert seen.offset == 6
    assert caplog.text.count("find could not tell") == 1


async def test_a_server_that_counts_from_0() -> None:
    calls: list[int] = []
    seen = ServerOffset()
    handler = seen.track(calls.append)
    for number in (0, 0, 1, 0):
        await handler(number)
    assert calls == [0, 1]
    assert seen.auth() == {"serverOffset": 1}


async def test_an_event_that_comes_too_late_is_handled_and_said(caplog: pytest.LogCaptureFixture) -> None:
    calls: list[int] = []
    seen = ServerOffset(start=10)
    handler = seen.track(calls.append)
    for number in (12, 14, 11, 12, 13):
        await handler(number)
    assert seen.offset == 14
    for number in (14, 11, 10, 9, 15):
        await handler(number)
    assert calls == [12, 14, 11, 13, 15]
    assert seen.offset == 15
    assert caplog.text.count("does not send in the order") == 1


async def test_what_is_remembered_of_old_events_is_bounded() -> None:
    calls: list[int] = []
    seen = ServerOffset()
    handler = seen.track(calls.append)
    for number in range(1, 5_001):
        await handler(number)
    for number in range(1, 5_001):
        await handler(number)
    assert calls == list(range(1, 5_001))
    assert len(seen._numbers) == 1_000
    assert len(seen._line._unhandled) == 0


async def test_a_server_whose_ids_begin_anew_is_noticed_at_each_connection(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[int] = []
    seen = ServerOffset(tmp_path / "seen.offset")
    handler = seen.track(calls.append)
    await handler(500)
    for _ in range(2):
        seen.auth()
        for number in (500, 1, 2):  # the first one at the boundary, which some servers send again, is nothing to worry
            await handler(number)
    assert calls == [500]
    assert caplog.text.count("sent event 1,") == 2
    assert caplog.text.count("ids have begun anew") == 2
    assert f"without the file {tmp_path / 'seen.offset'}" in caplog.text
    seen.close()


async def test_a_server_that_looks_at_no_offset_sends_everything_again(caplog: pytest.LogCaptureFixture) -> None:
    calls: list[int] = []
    seen = ServerOffset()
    handler = seen.track(calls.append)
    for rows in (range(1, 5), range(1, 7), range(1, 9)):
        seen.auth()
        for number in rows:
            await handler(number)
    assert calls == list(range(1, 9))
    assert caplog.text.count("no harm is done") == 2


# Handlers at work.


async def test_one_event_at_a_time_in_the_order_in_which_they_came() -> None:
    at_work, most, done = 0, 0, list[int]()
    chance = random.Random(7)

    async def handle(number: int) -> None:
        nonlocal at_work, most
        at_work += 1
        most = max(most, at_work)
        await asyncio.sleep(chance.uniform(0, 0.002))
        assert seen.offset == number - 1
        at_work -= 1
        done.append(number)

    seen = ServerOffset()
    come = tracked(seen, handle)
    await within(asyncio.gather(*(come(number) for number in range(1, 101))))
    assert most == 1
    assert done == list(range(1, 101))
    assert seen.offset == 100


async def test_the_offset_moves_when_the_handler_has_returned(tmp_path: Path) -> None:
    going: dict[int, asyncio.Event] = {number: asyncio.Event() for number in (1, 2)}
    seen = ServerOffset(tmp_path / "seen.offset")
    come = tracked(seen, lambda number: going[number].wait())
    tasks = [come(1), come(2)]
    await settle()
    assert (seen.offset, kept(tmp_path / "seen.offset")) == (0, 0)
    going[2].set()
    await settle()
    assert (seen.offset, kept(tmp_path / "seen.offset")) == (0, 0)
    going[1].set()
    await tasks[0]
    assert kept(tmp_path / "seen.offset") >= 1
    await tasks[1]
    assert (seen.offset, kept(tmp_path / "seen.offset")) == (2, 2)
    seen.close()


async def test_a_handler_that_fails_is_called_again_and_those_behind_wait(caplog: pytest.LogCaptureFixture) -> None:
    calls: list[int] = []
    failures = iter([ValueError("one"), TimeoutError("two"), asyncio.CancelledError("a future it waited for")])

    async def handle(number: int) -> int:
        calls.append(number)
        if number == 2 and (error := next(failures, None)):
            assert seen.offset == 1
            raise error
        return number

    seen = ServerOffset(backoff=SOON)
    come = tracked(seen, handle)
    assert await within(asyncio.gather(*map(come, (1, 2, 3)))) == [1, 2, 3]
    assert calls == [1, 2, 2, 2, 2, 3]
    assert seen.offset == 3
    assert "the handler of event 2 has failed, 3 in a row: CancelledError" in caplog.text


async def test_an_event_that_always_fails_is_given_up_and_the_others_are_handled(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[int] = []

    def handle(number: int) -> None:
        calls.append(number)
        if number in {2, 3}:
            raise ValueError(f"poison {number}")

    seen = ServerOffset(tmp_path / "seen.offset", retries=2, backoff=SOON)
    come = tracked(seen, handle)
    two = come(2)
    await until(lambda: len(calls) >= 10)
    assert set(calls) == {2}  # alone, it is never given up
    assert kept(tmp_path / "seen.offset") == 0
    results = await within(asyncio.gather(two, *map(come, (3, 4, 5, 6, 7)), return_exceptions=True))
    assert [str(result) for result in results] == ["poison 2", "poison 3", "None", "None", "None", "None"]
    assert [number for number in calls if number > 3] == [4, 5, 6, 7]
    assert calls.count(4) == 1
    assert kept(tmp_path / "seen.offset") == seen.offset == 7
    given_up = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert [words.partition(":")[0] for words in given_up] == ["event 2 is given up", "event 3 is given up"]
    seen.close()


async def test_while_everything_fails_nothing_is_given_up_and_the_order_stays() -> None:
    down, calls, done = True, 0, list[int]()

    async def handle(number: int) -> None:
        nonlocal calls
        calls += 1
        await asyncio.sleep(0)
        if down:
            raise sqlite3.OperationalError("the database is down")
        done.append(number)

    seen = ServerOffset(retries=1, backoff=SOON)
    come = tracked(seen, handle)
    tasks = [come(number) for number in range(1, 6)]
    await until(lambda: calls >= 60)
    assert seen.offset == 0
    down = False
    await within(asyncio.gather(*tasks))
    # The one that was being tried when the database came back may be first; the others are in order.
    assert sorted(done) == [1, 2, 3, 4, 5]
    assert [number for number in done if number != done[0]] == sorted(set(done) - {done[0]})
    assert seen.offset == 5


async def test_an_event_that_was_tried_in_between_is_not_to_blame_for_it() -> None:
    # 1 fails until 2 was tried in its place and has failed too; then 1 succeeds, and 2 fails a few times more.
    calls: list[int] = []

    def handle(number: int) -> None:
        calls.append(number)
        if (number == 1 and 2 not in calls) or (number == 2 and calls.count(2) < 4):
            raise ValueError(number)

    seen = ServerOffset(retries=3, backoff=SOON)
    come = tracked(seen, handle)
    await within(asyncio.gather(come(1), come(2)))
    assert calls == [1, 1, 1, 1, 2, 1, 2, 2, 2]
    assert seen.offset == 2


async def test_with_retries_none_the_head_waits_for_ever() -> None:
    calls: list[int] = []

    def handle(number: int) -> None:
        calls.append(number)
        if len(calls) < 50:
            raise ValueError(number)

    seen = ServerOffset(retries=None, backoff=SOON)
    come = tracked(seen, handle)
    await within(asyncio.gather(come(1), come(2)))
    assert calls == [1] * 50 + [2]


async def test_a_cancelled_handler_has_not_handled_its_event(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    calls: Log[int] = Log()
    forever = True

    async def handle(number: int) -> None:
        calls.add(number)
        if number == 2 and forever:
            await asyncio.Event().wait()

    seen = ServerOffset(tmp_path / "seen.offset")
    come = tracked(seen, handle)
    tasks = [come(number) for number in (1, 2, 3, 4)]
    await calls.has(2)
    tasks[1].cancel()
    tasks[2].cancel()  # before its turn
    await within(asyncio.wait(tasks))
    assert calls == [1, 2, 4]
    assert kept(tmp_path / "seen.offset") == seen.auth()["serverOffset"] == 1
    assert "event 2 was cancelled; the offset stays before it" in caplog.text
    assert "event 3" not in caplog.text  # nobody is told of each one that waits when a program ends
    forever = False
    await within(asyncio.gather(*map(come, (2, 3, 4, 5))))  # a connection later
    assert calls == [1, 2, 4, 2, 3, 5]
    assert kept(tmp_path / "seen.offset") == seen.offset == 5
    seen.close()


async def test_a_handler_that_fails_while_it_is_cancelled_is_not_called_again(caplog: pytest.LogCaptureFixture) -> None:
    calls: Log[int] = Log()

    async def handle(number: int) -> None:
        calls.add(number)
        try:
            await asyncio.Event().wait()
        finally:
            if calls == [1]:
                raise RuntimeError("the rollback failed")

    seen = ServerOffset(backoff=SOON)
    task = tracked(seen, handle)(1)
    await calls.has(1)
    task.cancel()  # once, as asyncio.run does it when the program ends
    done, _ = await asyncio.wait([task], timeout=5)
    assert done == {task}
    assert isinstance(task.exception(), RuntimeError)  # nothing that was said is hidden
    assert calls == [1]
    assert seen.offset == 0
    assert "event 1 was cancelled; the offset stays before it" in caplog.text


async def test_an_event_whose_handler_was_cancelled_is_never_passed_however_many_are_handled(tmp_path: Path) -> None:
    hang = True
    calls: list[int] = []

    async def handle(number: int) -> None:
        calls.append(number)
        if number in {3, 1_500} and hang:
            await asyncio.Event().wait()

    seen = ServerOffset(tmp_path / "seen.offset")
    come = tracked(seen, handle)
    for number in range(1, 3_001):
        task = come(number)
        if number in {3, 1_500}:
            await settle()
            task.cancel()
        await asyncio.wait([task])
    assert calls == list(range(1, 3_001))
    assert kept(tmp_path / "seen.offset") == seen.auth()["serverOffset"] == 2
    assert len(seen._line._unhandled) == 2  # what was handled behind them is not remembered one by one
    hang = False
    for number, offset in ((2, 2), (3, 1_499), (4, 1_499), (1_500, 3_000), (2_999, 3_000), (3_001, 3_001)):
        await come(number)  # a connection later
        assert kept(tmp_path / "seen.offset") == seen.offset == offset
    assert calls[3_000:] == [3, 1_500, 3_001]
    assert len(seen._line._unhandled) == 0
    seen.close()


async def test_the_offset_does_not_pass_one_that_has_come_after_a_greater_one(tmp_path: Path) -> None:
    going = {number: asyncio.Event() for number in (4, 7, 5, 6, 9)}
    seen = ServerOffset(tmp_path / "seen.offset", start=0)
    come = tracked(seen, lambda number: going[number].wait())
    tasks = {number: come(number) for number in going}
    for number, offset in ((4, 4), (7, 4), (5, 5), (6, 7), (9, 9)):
        await settle()
        going[number].set()
        await within(tasks[number])
        assert kept(tmp_path / "seen.offset") == seen.offset == offset
    seen.close()


async def test_one_that_comes_too_late_and_is_cancelled_does_not_hold_the_offset(
    caplog: pytest.LogCaptureFixture,
) -> None:
    # The server was or will be told of an offset past it, and does not send it again, so there is nothing to wait for.
    seen = ServerOffset()
    going = asyncio.Event()
    come = tracked(seen, lambda number: going.wait() if number == 5 else None)
    await come(7)
    late = come(5)
    await settle()
    late.cancel()
    await asyncio.wait([late])
    assert "event 5 is missed: its handler was cancelled, and the offset is past it" in caplog.text
    assert "stays before" not in caplog.text
    await come(8)
    assert seen.offset == 8
    assert len(seen._line._unhandled) == len(seen._line.abandoned) == 0


async def test_one_that_comes_too_late_behind_one_that_was_cancelled_holds_the_offset_too() -> None:
    going = {number: asyncio.Event() for number in (1, 2, 5)}
    seen = ServerOffset()
    come = tracked(seen, lambda number: going[number].wait() if number in going else None)
    cancelled = come(1)
    await settle()
    cancelled.cancel()
    await asyncio.wait([cancelled])
    for number in (2, 3, 4, 6, 7):
        going.get(number, asyncio.Event()).set()
        await come(number)
    late = come(5)
    await settle()
    late.cancel()
    await asyncio.wait([late])
    going[1].set()
    await come(1)
    assert 1 <= seen.offset < 5  # which of 1 to 4 is not known any more
    going[5].set()
    await come(5)
    assert seen.offset == 7


async def test_thousands_of_events_that_wait_are_cancelled_at_once_without_delay() -> None:
    seen = ServerOffset()
    come = tracked(seen, lambda _number: asyncio.Event().wait())
    tasks = [come(number) for number in range(1, 20_001)]
    await settle()
    begun = time.monotonic()
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    assert time.monotonic() - begun < 4  # if each one looks at all the others it is 20 s, else half a second
    assert seen.offset == 0
    assert await within(asyncio.gather(*map(tracked(seen, int), range(1, 20_001)))) == list(range(1, 20_001))
    assert seen.offset == 20_000


async def test_a_backoff_that_fails_later_does_not_lose_the_event(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    answers = iter([0.0])  # to the question at the constructor
    failures = iter([ValueError()])
    slept: list[float] = []
    sleep = asyncio.sleep

    async def quick(seconds: float) -> None:
        slept.append(seconds)
        await sleep(0)

    monkeypatch.setattr(asyncio, "sleep", quick)
    seen = ServerOffset(backoff=lambda _state: next(answers))

    def handle(_number: int) -> None:
        if error := next(failures, None):
            raise error

    await seen.track(handle)(1)
    assert slept == [1.0]
    assert seen.offset == 1
    assert "the backoff strategy failed" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"path": 7}, TypeError, "path is 7"),
        ({"path": b"bytes"}, TypeError, "path is"),
        ({"path": ""}, ValueError, "path is ''"),
        ({"path": "a\0b"}, ValueError, "path is"),
        ({"path": "seen.offset", "start": 3}, ValueError, "not both"),
        ({"start": -1}, ValueError, "start is -1"),
        ({"start": "3"}, ValueError, "start is '3'"),
        ({"start": True}, ValueError, "start is True"),
        ({"retries": -1}, ValueError, "retries is -1"),
        ({"retries": 1.5}, TypeError, "retries is 1.5"),
        ({"backoff": 3}, TypeError, "backoff is 3"),
        ({"find": "id"}, TypeError, "find is 'id'"),
        ({"key": ""}, TypeError, "key is ''"),
        ({"key": 7}, TypeError, "key is 7"),
    ],
)
def test_wrong_arguments_raise_at_the_call_and_leave_nothing(
    arguments: dict[str, Any], error: type[Exception], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=words):
        ServerOffset(**arguments)
    assert list(tmp_path.iterdir()) == []


def test_track_wants_a_function() -> None:
    with pytest.raises(TypeError, match="put @track below"):
        ServerOffset().track("chat message")  # type: ignore[arg-type]


# Killed.


async def read_until_killed(path: str, url: str) -> None:
    """Read what the server has, and say of each row when its handler begins and when it is over."""
    seen = ServerOffset(path)
    say(f"offset {seen.offset}")
    sio = new_client()
    chance = random.Random()

    @sio.on(EVENT)  # type: ignore[untyped-decorator]
    @seen.track
    async def chat_message(text: str, server_offset: int) -> None:
        say(f"begin {server_offset}")
        if chance.random() < 0.3:
            await asyncio.sleep(chance.choice([0, 0.001, 0.01]))
        say(f"end {server_offset}")

    async with ReliableClient(sio) as client:
        await client.connect(url, auth=seen.auth, transports="websocket", reconnect_backoff=SOON)
        await asyncio.Event().wait()


async def test_killed_at_any_moment_each_row_is_seen_in_order_and_only_the_one_in_progress_again(
    tmp_path: Path,
) -> None:
    seed = random.randrange(1_000_000)
    print(f"seed {seed}")
    chance = random.Random(seed)
    path = str(tmp_path / "seen.offset")
    ended, begun, repeated = 0, 0, 0  # the last row of which the handler has ended, or at least begun
    stored = 0

    async def send(server: ReferenceServer) -> None:
        nonlocal stored
        while True:
            await fill(server, 5)
            stored += 5
            await asyncio.sleep(0.005)

    async with (
        ReferenceServer() as server,
        FaultProxy("127.0.0.1", server.port) as proxy,
        Zygote(__name__) as zygote,
    ):
        sending = asyncio.create_task(send(server))
        for kill in range(KILLS + 1):
            if kill == KILLS:
                sending.cancel()
                await asyncio.wait([sending])
                last = (await server.messages())[-1].id
            async with zygote.life(read_until_killed, path=path, url=proxy.url) as life:
                if kill == KILLS:
                    assert await life.says(f"end {last}")
                else:
                    await life.lines.until(lambda lines: any(line.startswith("begin") for line in lines))
                    if chance.random() < 0.3:
                        proxy.reset()
                    await asyncio.sleep(chance.uniform(0, 0.05))
                life.kill()
                await life.ended()
            (offset,) = life.numbers("offset")
            begins, ends = life.numbers("begin"), life.numbers("end")
            assert begins == list(range(offset + 1, offset + 1 + len(begins)))
            assert ends == begins[: len(ends)]
            assert len(begins) - len(ends) <= 1
            # No row is missed, and of those before only the one is repeated whose handler had ended at most just now.
            assert ended - 1 <= offset <= ended
            assert begins[0] in {ended, ended + 1}
            repeated += begins[0] <= begun
            ended, begun = max(ended, ends[-1] if ends else 0), max(begun, begins[-1])
        assert ended == begun == last
    print(f"{last} rows, {repeated} of them twice")


# A handler that stores the offset itself.


async def test_with_the_offset_in_the_transaction_of_the_effect_it_is_exactly_once(tmp_path: Path) -> None:
    db = sqlite3.connect(tmp_path / "mine.db")
    db.execute("CREATE TABLE row (id INTEGER PRIMARY KEY)")
    crash = iter([3, 7])
    at = next(crash)

    class Crashed(BaseException):
        pass

    async with ReferenceServer() as server:
        await fill(server, 10)
        for _ in range(3):  # a program's life each
            (start,) = db.execute("SELECT coalesce(max(id), 0) FROM row").fetchone()
            over = asyncio.Event()
            seen = ServerOffset(start=start)
            sio = new_client()

            @sio.on(EVENT)  # type: ignore[untyped-decorator]
            @seen.track
            def on_row(text: str, number: int, over: asyncio.Event = over, at: int = at) -> None:
                if over.is_set():
                    return
                with db:
                    db.execute("INSERT INTO row VALUES (?)", (number,))  # fails if it is there
                if number in {at, 10}:
                    over.set()

            await sio.connect(server.url, auth=seen.auth, transports=["websocket"], wait_timeout=20)
            await within(over.wait())
            await sio.disconnect()
            at = next(crash, 0)
    assert [number for (number,) in db.execute("SELECT id FROM row ORDER BY id")] == list(range(1, 11))
    db.close()
