from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import time
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
import socketio

from reliable_emit import errors
from reliable_emit.server import AddressError, ReferenceServer, StoreError
from server_support import PATIENCE, plain, until

if TYPE_CHECKING:
    from pathlib import Path

    from reliable_emit.server.inbox.session import Synchronous


async def test_stop_is_quick_with_clients_of_every_kind_and_frees_the_port(caplog: pytest.LogCaptureFixture) -> None:
    server = ReferenceServer()
    await server.start()
    port = server.port
    async with (
        plain(server.url) as one,
        plain(server.url, transports="polling") as polling,
        aiohttp.ClientSession() as session,
        session.ws_connect(f"{server.url}/socket.io/?EIO=4&transport=websocket") as silent,
    ):
        assert await one.say("hello", "a-0") == 1
        await polling.has(1)
        (await session.get(server.url)).close()  # and one that is kept alive
        started = time.monotonic()
        await server.stop()
        assert time.monotonic() - started < 2
        async with asyncio.timeout(PATIENCE):
            await one.gone.wait()
            await polling.gone.wait()
            while not silent.closed:
                await silent.receive()
    await server.stop()  # again: nothing
    with pytest.raises(RuntimeError, match="not running"):
        _ = server.url
    with pytest.raises(RuntimeError, match="starts once"):
        await server.start()
    async with ReferenceServer(port=port) as again:
        assert again.port == port
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_clients_connect_again_after_a_stop(tmp_path: Path) -> None:
    # A farewell on the Socket.IO layer would tell them to stay away.
    rows: list[int] = []
    client = socketio.AsyncClient(reconnection_delay=0.05, reconnection_delay_max=0.1)
    client.on("chat message", lambda _, row: rows.append(row))
    async with ReferenceServer(tmp_path / "chat.db") as first:
        port = first.port
        await client.connect(first.url, transports=["websocket"])
        assert await client.call("chat message", ("one", "a-0")) == 1
    async with ReferenceServer(tmp_path / "chat.db", port=port), asyncio.timeout(PATIENCE):
        await until(lambda: client.connected)
        assert await client.call("chat message", ("two", "a-1")) == 2
        await client.disconnect()


async def test_a_client_that_leaves_while_it_connects_is_forgotten_without_a_word(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with ReferenceServer() as server, aiohttp.ClientSession() as session:
        connect = server.sio.eio.handlers["connect"]

        async def leave(eio_sid: str, environ: dict[str, Any]) -> Any:
            environ["aiohttp.request"].transport.abort()
            return await connect(eio_sid, environ)

        server.sio.eio.on("connect", leave)
        with pytest.raises(aiohttp.ClientError):
            await session.ws_connect(f"{server.url}/socket.io/?EIO=4&transport=websocket")
        await until(lambda: not server.sio.eio.sockets)
        assert server.sio.environ == {}
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_nothing_runs_on_after_a_stop() -> None:
    before = asyncio.all_tasks()
    async with ReferenceServer(ping_interval=0.05, ping_timeout=PATIENCE) as server, plain(server.url) as client:
        await client.say("hello", "a-0")
    await until(lambda: not asyncio.all_tasks() - before)


async def test_a_port_that_is_taken() -> None:
    async with ReferenceServer() as server:
        other = ReferenceServer(port=server.port)
        with pytest.raises(
            AddressError, match=f"cannot listen on 127.0.0.1 port {server.port}: .*choose another"
        ) as info:
            await other.start()
        assert (info.value.host, info.value.port) == ("127.0.0.1", server.port)
        assert isinstance(info.value, errors.ReliableEmitError)
        await other.stop()


async def test_a_host_that_is_none() -> None:
    with pytest.raises(AddressError, match=r"no\.such\.host\.invalid"):
        await ReferenceServer(host="no.such.host.invalid").start()


@pytest.mark.parametrize("host", ["0.0.0.0", "::1", "::", "localhost"])
async def test_the_url_leads_to_the_server(host: str) -> None:
    try:
        server = await ReferenceServer(host=host).__aenter__()
    except AddressError as error:
        pytest.skip(str(error))
    async with plain(server.url) as client:
        assert await client.say("hello", "a-0") == 1
    await server.stop()


async def test_a_stopped_server_leaves_no_task() -> None:
    before = asyncio.all_tasks()
    server = ReferenceServer()
    await server.start()
    async with plain(server.url), plain(server.url, transports="polling") as client:
        await client.say("hello", "a-0")
        assert server.sio._pings
        await server.stop()
        assert server.sio._pings == set()
    await until(lambda: asyncio.all_tasks() <= before)


async def test_a_file_whose_name_looks_like_a_uri_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    async with ReferenceServer("file:chat.db?mode=memory") as server, plain(server.url) as client:
        await client.say("hello", "a-0")
        assert server.database == str(tmp_path / "file:chat.db?mode=memory")
    assert (tmp_path / "file:chat.db?mode=memory").is_file()
    async with ReferenceServer("file:chat.db?mode=memory") as server:
        assert [row.text for row in await server.messages()] == ["hello"]


async def test_databases_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("this is not a database, but long enough to be taken for one " * 20)
    for name, statement in {
        "other.db": "CREATE TABLE messages (id INTEGER PRIMARY KEY, client_offset TEXT UNIQUE, content TEXT)",
        "numbered.db": "PRAGMA user_version = 7",
    }.items():
        db = sqlite3.connect(tmp_path / name)
        db.execute(statement)
        db.commit()
        db.close()
    for name, version in {"newer.db": 4, "older.db": 2}.items():
        async with ReferenceServer(tmp_path / name):
            pass
        db = sqlite3.connect(tmp_path / name)
        db.execute(f"PRAGMA user_version = {version}")
        db.close()
    (tmp_path / "directory").mkdir()
    for name, expected in {
        "nowhere/chat.db": "the directory .*nowhere does not exist",
        "directory": "it is a directory",
        "text.db": "file is not a database",
        "other.db": "another program's database",
        "numbered.db": "another program's database",
        "newer.db": r"a newer reliable-emit has written it \(schema 4, this one knows 3\)",
        "older.db": r"an older reliable-emit has written it \(schema 2, this one knows 3\)",
    }.items():
        before = (tmp_path / name).read_bytes() if (tmp_path / name).is_file() else None
        with pytest.raises(StoreError, match=expected) as info:
            await ReferenceServer(tmp_path / name).start()
        assert str(tmp_path / name) in str(info.value)
        assert info.value.path == str(tmp_path / name)
        if before is not None and name in {"text.db", "newer.db", "older.db"}:
            assert (tmp_path / name).read_bytes() == before


async def test_a_database_that_somebody_holds_is_no_traceback(tmp_path: Path) -> None:
    db = sqlite3.connect(tmp_path / "chat.db", isolation_level=None)
    db.execute("BEGIN EXCLUSIVE")
    with pytest.raises(StoreError, match="locked"):
        await ReferenceServer(tmp_path / "chat.db").start()
    db.close()


async def test_the_database_is_kept_over_a_restart_and_durable(tmp_path: Path) -> None:
    modes: dict[Synchronous, int] = {"full": 2, "normal": 1}
    for synchronous, level in modes.items():
        async with (
            ReferenceServer(tmp_path / "chat.db", synchronous=synchronous) as server,
            plain(server.url) as client,
        ):
            assert await client.say("hello", "a-0") == 1
            opened = server._history.inbox._opened  # type: ignore[attr-defined]
            assert opened is not None
            thread, session, _ = opened

            def pragma(name: str, db: sqlite3.Connection = session._db) -> Any:
                return db.execute(f"PRAGMA {name}").fetchone()[0]

            assert await thread.run(lambda: pragma("synchronous")) == level
            assert await thread.run(lambda: pragma("journal_mode")) == "wal"
    assert os.listdir(tmp_path) == ["chat.db"]  # the log is folded in


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"port": -1}, "port"),
        ({"port": 65_536}, "port"),
        ({"db": ""}, "db"),
        ({"synchronous": "off"}, "synchronous"),
        ({"max_text": 0}, "max_text"),
        ({"ping_interval": 0}, "ping_interval"),
        ({"ping_timeout": -1.0}, "ping_timeout"),
    ],
)
async def test_arguments_out_of_range(options: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        ReferenceServer(**options)


async def test_the_page_repeats_nobody(tmp_path: Path) -> None:
    async with ReferenceServer(tmp_path / "chat.db") as server, aiohttp.ClientSession() as session:
        async with plain(server.url) as client:
            await client.say("<script>alert(1)</script>", "<b>")
        async with session.get(server.url) as response:
            text = await response.text()
            assert response.status == 200
            assert response.content_type == "text/html"
        assert "<script>" not in text
        assert "<b>" not in text


async def test_pages_of_other_sites_are_kept_out() -> None:
    async with ReferenceServer() as server, aiohttp.ClientSession() as session:
        address = f"{server.url}/socket.io/?EIO=4&transport=polling"
        async with session.get(address, headers={"Origin": "https://evil.example"}) as response:
            assert response.status == 400
        async with session.get(address, headers={"Origin": server.url}) as response:
            assert response.status == 200


async def test_no_handler_is_added_to_anybodys_logging() -> None:
    before = {name: list(logging.getLogger(name).handlers) for name in ("socketio.server", "engineio.server")}
    async with ReferenceServer(logger=logging.getLogger("mine")):
        pass
    assert before == {name: list(logging.getLogger(name).handlers) for name in before}
    assert logging.getLogger("mine").handlers == []


async def test_a_handler_of_ones_own_can_be_added() -> None:
    server = ReferenceServer()
    server.sio.on("echo", lambda _, *arguments: arguments)
    async with server, plain(server.url) as client:
        assert await client.sio.call("echo", ("a", 1)) == ("a", 1)
