from __future__ import annotations

import asyncio
import logging
import sqlite3
from typing import TYPE_CHECKING, Any

import pytest
import socketio

from reliable_emit.delivery import rejection_reason
from reliable_emit.server import ReferenceServer, StoredMessage
from server_support import plain, refusal, until

if TYPE_CHECKING:
    from pathlib import Path


def reason(reply: Any) -> str:
    text = rejection_reason((reply,))
    assert text is not None, f"no rejection but {reply!r}"
    return text


@pytest.mark.parametrize("transport", ["websocket", "polling"])
async def test_stores_broadcasts_and_acknowledges_with_the_id(tmp_path: Path, transport: str) -> None:
    async with ReferenceServer(tmp_path / "chat.db") as server, plain(server.url) as reader:
        async with plain(server.url, transports=transport) as sender:
            assert await sender.say("hello", "a-0") == 1
            assert await sender.say("wörld 🎉\0", "a-1") == 2
            await sender.has(2)
            assert sender.sio.transport() == transport
        await reader.has(2)
        assert reader.rows == [("hello", 1), ("wörld 🎉\0", 2)]
        assert await server.messages() == [
            StoredMessage(1, "hello", "a-0", ""),
            StoredMessage(2, "wörld 🎉\0", "a-1", ""),
        ]


async def test_a_repetition_gets_the_first_id_and_is_neither_stored_nor_broadcast_again() -> None:
    async with ReferenceServer() as server, plain(server.url) as sender, plain(server.url) as other:
        assert await sender.say("one", "a-0") == 1
        assert await sender.say("two", "a-1") == 2
        assert await sender.say("one", "a-0") == 1
        assert await other.say("two", "a-1") == 2
        assert await sender.say("three", "a-2") == 3
        await other.has(3)
        await other.quiet()
        assert other.rows == [("one", 1), ("two", 2), ("three", 3)]
        assert len(await server.messages()) == 3


async def test_a_repetition_that_overlaps_its_original_gets_the_same_id(tmp_path: Path) -> None:
    async with ReferenceServer(tmp_path / "chat.db") as server, plain(server.url) as one, plain(server.url) as other:
        replies = await asyncio.gather(*(client.say("same", "a-0") for client in (one, other) * 20))
        assert set(replies) == {1}
        assert len(await server.messages()) == 1
        await other.has(1)
        await other.quiet()
        assert other.rows == [("same", 1)]


async def test_another_text_under_a_known_offset_is_rejected_and_not_swallowed() -> None:
    async with ReferenceServer() as server, plain(server.url) as sender:
        assert await sender.say("one", "a-0") == 1
        assert "another message" in reason(await sender.say("quite another", "a-0"))
        assert [row.text for row in await server.messages()] == ["one"]


async def test_many_messages_at_once_keep_their_order(tmp_path: Path) -> None:
    async with (
        ReferenceServer(tmp_path / "chat.db") as server,
        plain(server.url) as sender,
        plain(server.url) as reader,
    ):
        replies: list[int] = []
        for number in range(800):
            await sender.sio.emit("chat message", (str(number), f"a-{number}"), callback=replies.append)
        await reader.has(800)
        assert reader.texts == [str(number) for number in range(800)]
        assert reader.ids == list(range(1, 801))
        await until(lambda: len(replies) == 800)
        assert replies == reader.ids


HOSTILE: list[tuple[tuple[Any, ...], str]] = [
    ((), "got 0"),
    (("text",), "got 1"),
    (("text", "a-0", "more"), "got 3"),
    (tuple(range(200)), "got 200"),
    ((None, "a-0"), "the text is not a string but null"),
    ((True, "a-0"), "a boolean"),
    ((7, "a-0"), "a number"),
    ((b"bytes", "a-0"), "binary"),
    (({"$gt": ""}, "a-0"), "an object"),
    ((["a", [b"deep", None]], "a-0"), "an array"),
    (("x" * 101, "a-0"), "more than 100"),
    (("half \ud83d pair", "a-0"), "not valid Unicode"),
    (("text", None), "the client offset is not a string but null"),
    (("text", 0), "a number"),
    (("text", ["a-0"]), "an array"),
    (("text", {}), "an object"),
    (("text", b"a-0"), "binary"),
    (("text", ""), "empty"),
    (("text", "x" * 257), "more than 256"),
    (("text", "\udfff"), "not valid Unicode"),
    (("text", "undefined-3"), "without a socket id"),
    (("text", "None-0"), "without a socket id"),
]


async def test_malformed_messages_are_rejected_by_name_and_harm_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async with ReferenceServer(max_text=100) as server, plain(server.url) as sender:
        for arguments, expected in HOSTILE:
            assert expected in reason(await sender.say(*arguments))
            await sender.sio.emit("chat message", arguments)  # nobody waits for this one
        assert "'nonsense'" in reason(await sender.sio.call("nonsense", {"a": b"1"}, timeout=20))
        assert await sender.say("x" * 100, "o" * 256) == 1
        await sender.has(1)
        assert len(await server.messages()) == 1
        assert sender.sio.connected
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_packets_that_are_none_are_one_line_in_the_log_each(caplog: pytest.LogCaptureFixture) -> None:
    async with ReferenceServer() as server, plain(server.url) as sender:
        for packet in (
            '2[["a"],1]',
            '2[{"a":1}]',
            "2[]",
            "2{bad",
            '2"text"',
            "2",
            "",
            "9",
            '51-["chat message"',
            "4{}",
        ):
            await sender.sio.eio.send(packet)
        await sender.quiet()
        assert sender.sio.connected
        assert await server.messages() == []
    assert caplog.records
    assert all(record.exc_info is None and "\n" not in record.getMessage() for record in caplog.records)


async def test_events_named_like_the_handlers_of_the_connection_change_nothing() -> None:
    def authenticate(_: Any, environ: dict[str, Any]) -> str:
        return str(environ.get("HTTP_X_USER", "guest"))

    async with ReferenceServer(authenticate=authenticate) as server, plain(server.url) as sender:
        ack: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        sender.sio.on("chat message", lambda text, row: ack.set_result((text, row)))
        # By hand: the client itself does not let us.
        for packet in (
            '2["connect",{"HTTP_X_USER":"root"},{"serverOffset":0}]',
            '2["connect"]',
            '2["disconnect","x",1]',
        ):
            await sender.sio.eio.send(packet)
        assert await sender.say("who am I", "a-0") == 1
        assert await asyncio.wait_for(ack, 20) == ("who am I", 1)  # and is still a reader
        assert [row.principal for row in await server.messages()] == ["guest"]


async def test_a_failing_row_is_no_repetition_and_takes_nobody_with_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "chat.db"
    async with ReferenceServer(path) as server, plain(server.url) as sender, plain(server.url) as other:
        with sqlite3.connect(path) as db:
            db.execute(
                "CREATE TRIGGER refuse BEFORE INSERT ON messages WHEN new.content = 'poison' "
                "BEGIN SELECT raise(ABORT, 'CHECK constraint failed'); END"
            )
        db.close()
        good = asyncio.gather(*(other.say(f"good {n}", f"b-{n}") for n in range(20)))
        await sender.no_ack("poison", "a-0")
        assert sorted(await good) == list(range(1, 21))
        with sqlite3.connect(path) as db:
            db.execute("DROP TRIGGER refuse")
        db.close()
        assert await sender.say("poison", "a-0") == 21
    assert "CHECK constraint failed" in caplog.text
    assert all(record.exc_info is None for record in caplog.records)


async def test_a_locked_database_gives_no_acknowledgement_and_the_retry_does(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"
    async with ReferenceServer(path) as server, plain(server.url) as sender:
        db = sqlite3.connect(path, isolation_level=None)
        db.execute("BEGIN EXCLUSIVE")
        await sender.no_ack("text", "a-0", seconds=0.8)
        db.execute("ROLLBACK")
        db.close()
        assert await sender.say("text", "a-0") == 1
        await sender.has(1)
        await sender.quiet()
        assert sender.rows == [("text", 1)]


async def test_a_cancelled_handler_acknowledges_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    # python-socketio answers for a cancelled handler as if it had returned None: a client would take it for an ack.
    async with ReferenceServer() as server, plain(server.url) as sender:
        entered = asyncio.Event()

        async def never(*_: object) -> None:
            entered.set()
            await asyncio.Event().wait()

        with monkeypatch.context() as patch:
            patch.setattr(server._history, "add", never)
            acknowledged = asyncio.Event()
            await sender.sio.emit("chat message", ("text", "a-0"), callback=lambda *_: acknowledged.set())
            await asyncio.wait_for(entered.wait(), 20)
        (task,) = server._chat._handling
        task.cancel()
        await sender.quiet()
        assert not acknowledged.is_set()
        assert await sender.say("text", "a-0") == 1


async def test_offsets_belong_to_the_principal() -> None:
    async def authenticate(auth: Any, _: dict[str, Any]) -> str | None:
        return {"t1": "alice", "t2": "bob"}.get(auth["token"])

    async with (
        ReferenceServer(authenticate=authenticate) as server,
        plain(server.url, {"token": "t1"}) as alice,
        plain(server.url, {"token": "t2"}) as bob,
    ):
        assert await bob.say("mine", "alice-0") == 1
        assert await alice.say("hello", "alice-0") == 2
        assert await bob.say("mine", "alice-0") == 1
        assert [(row.principal, row.text) for row in await server.messages()] == [("bob", "mine"), ("alice", "hello")]


async def test_without_authentication_offsets_are_everybodys() -> None:
    async with ReferenceServer() as server, plain(server.url) as one, plain(server.url) as other:
        assert await one.say("same", "a-0") == 1
        assert await other.say("same", "a-0") == 1
        assert len(await server.messages()) == 1


@pytest.mark.parametrize("answer", [None, "", 5, KeyError("secret"), socketio.exceptions.ConnectionRefusedError("own")])
async def test_whoever_is_not_authenticated_is_refused(answer: Any) -> None:
    def authenticate(_: Any, __: dict[str, Any]) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    async with ReferenceServer(authenticate=authenticate) as server:
        assert await refusal(server.url, {"token": "wrong"}) == "authentication failed"
        assert server._chat._clients == {}


async def test_a_client_that_leaves_while_it_is_being_authenticated_is_forgotten() -> None:
    asked, answer = asyncio.Event(), asyncio.Event()

    async def authenticate(_: Any, __: dict[str, Any]) -> str:
        asked.set()
        await answer.wait()
        return "late"

    async with ReferenceServer(authenticate=authenticate, ping_interval=0.1, ping_timeout=0.1) as server:
        client = socketio.AsyncClient(reconnection=False)
        connecting = asyncio.create_task(client.connect(server.url, transports=["websocket"], wait_timeout=20))
        await asyncio.wait_for(asked.wait(), 20)
        connecting.cancel()
        await asyncio.wait([connecting])
        await client.disconnect()
        await until(lambda: not server.sio.environ)
        answer.set()
        await until(lambda: not server.sio.manager.rooms.get("/"))
        assert server._chat._clients == {}
