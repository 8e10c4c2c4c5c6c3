from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from reliable_emit.server import ReferenceServer
from reliable_emit.server.burst import Burst, RowEncoder
from reliable_emit.server.database import INSERT, Database
from server_support import PATIENCE, plain, refusal, store, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from reliable_emit.server import StoredMessage


def filled(path: Path, rows: int, text: str = "") -> Path:
    Database(str(path)).close()
    with sqlite3.connect(path) as db:
        db.executemany(INSERT, [("", f"old-{row}", f"{row}{text}") for row in range(1, rows + 1)])
    db.close()
    return path


def connections(server: ReferenceServer) -> int:
    assert server._runner is not None
    assert server._runner.server is not None
    return len(server._runner.server.connections)


async def test_a_reader_is_sent_what_comes_after_its_offset(tmp_path: Path) -> None:
    async with ReferenceServer(filled(tmp_path / "chat.db", 5)) as server:
        for auth, expected in [(None, 5), ({}, 5), ({"serverOffset": None}, 5), ({"serverOffset": 3}, 2)]:
            async with plain(server.url, auth) as reader:
                await reader.has(expected)
                await reader.quiet()
                assert reader.ids == [1, 2, 3, 4, 5][-expected:]
        async with plain(server.url, {"serverOffset": 5}) as reader, plain(server.url, {"serverOffset": 99}) as ahead:
            assert await reader.say("six", "a-0") == 6
            await reader.has(1)
            await ahead.quiet()
            assert reader.rows == [("six", 6)]
            assert ahead.rows == []


@pytest.mark.parametrize("offset", [-1, 2**63, 10**30, True, False, "3", "", 1.5, 2.0, [1], {"$gt": 0}])
async def test_an_offset_that_is_none_is_refused_by_name(offset: Any) -> None:
    async with ReferenceServer() as server:
        assert "serverOffset must be" in await refusal(server.url, {"serverOffset": offset})
        assert server._chat._clients == {}


async def test_auth_of_another_shape_is_refused() -> None:
    async with ReferenceServer() as server:
        assert "must be an object" in await refusal(server.url, [1])


async def test_a_long_replay_and_new_messages_meet_without_gap_or_repetition(tmp_path: Path) -> None:
    async with (
        ReferenceServer(filled(tmp_path / "chat.db", 5_000)) as server,
        plain(server.url, {"serverOffset": 5_000}) as sender,
    ):
        said = 0

        async def talk(until: asyncio.Event) -> None:
            nonlocal said
            while not until.is_set():
                await sender.say(f"new {said}", f"a-{said}")
                said += 1

        caught_up = asyncio.Event()
        talking = asyncio.create_task(talk(caught_up))
        async with plain(server.url) as all_of_it, plain(server.url, {"serverOffset": 2_500}) as half:
            await all_of_it.has(5_000)
            caught_up.set()
            await talking
            last = 5_000 + said
            await all_of_it.until(lambda: all_of_it.ids[-1] >= last)
            await half.until(lambda: half.ids[-1] >= last)
            assert all_of_it.ids == list(range(1, last + 1))
            assert half.ids == list(range(2_501, last + 1))
            assert said > 0
        await sender.has(said)
        assert sender.texts == [f"new {number}" for number in range(said)]


async def test_a_reader_that_polls_is_replayed_in_portions_that_its_decoder_takes(tmp_path: Path) -> None:
    async with (
        ReferenceServer(filled(tmp_path / "chat.db", 100)) as server,
        plain(server.url, transports="polling") as reader,
    ):
        await reader.has(100)
        assert reader.ids == list(range(1, 101))
        assert reader.sio.transport() == "polling"


async def test_no_response_to_a_reader_that_polls_has_more_packets_than_a_decoder_takes(tmp_path: Path) -> None:
    async with ReferenceServer(filled(tmp_path / "chat.db", 100)) as server, aiohttp.ClientSession() as session:
        address = f"{server.url}/socket.io/?EIO=4&transport=polling"
        async with session.get(address) as response:
            address += "&sid=" + json.loads((await response.text())[1:])["sid"]
        await session.post(address, data="40")
        rows = 0
        while rows < 100:
            await asyncio.sleep(0.01)  # time to pile up more, if it did
            async with session.get(address) as response:
                packets = (await response.text()).split("\x1e")
            assert len(packets) <= 16
            rows += sum(packet.startswith("42") for packet in packets)


async def test_a_request_left_open_by_an_upgrade_carries_the_rows_that_it_takes() -> None:
    async with ReferenceServer() as server, plain(server.url) as sender, aiohttp.ClientSession() as session:
        address = f"{server.url}/socket.io/?EIO=4&transport="
        async with session.get(f"{address}polling") as response:
            sid = json.loads((await response.text())[1:])["sid"]
        await session.post(f"{address}polling&sid={sid}", data="40")
        await session.get(f"{address}polling&sid={sid}")

        async def poll() -> tuple[int, str]:
            async with session.get(f"{address}polling&sid={sid}") as response:
                return response.status, await response.text()

        # Both wait for packets when the upgrade begins, which answers only one of them.
        polls = [asyncio.create_task(poll()) for _ in range(2)]
        (socket,) = [one for one in server.sio.eio.sockets.values() if one.sid == sid]
        await until(lambda: len(socket.queue._getters) == len(polls))
        async with session.ws_connect(f"{address}websocket&sid={sid}") as upgraded:
            await upgraded.send_str("2probe")
            assert await upgraded.receive_str() == "3probe"
            await upgraded.send_str("5")
            await until(lambda: socket.upgraded)
            store_one, store_two = store(server, "one", "a-0"), store(server, "two", "b-0")
            await asyncio.gather(store_one, store_two)
            answers = await asyncio.wait_for(asyncio.gather(*polls), PATIENCE)
            assert {status for status, _ in answers} == {200}
            packets = [packet for _, text in answers for packet in text.split("\x1e") if packet != "6"]
            while len(packets) < 2:
                packets.append(await upgraded.receive_str(timeout=PATIENCE))
        assert packets == ['42["chat message","one",1]', '42["chat message","two",2]']
        await sender.has(2)


async def test_python_socketio_has_no_request_open_that_a_burst_could_come_by(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Its decoder would refuse one of more than 16 rows. It is a WebSocket before it joins, and rows come.
    encoded: list[bool] = []
    encode = Burst.encode

    def watched(self: Burst, b64: bool = False) -> str | bytes:
        encoded.append(b64)
        return encode(self, b64)

    monkeypatch.setattr(Burst, "encode", watched)
    async with ReferenceServer(filled(tmp_path / "chat.db", 100)) as server:
        over = asyncio.Event()

        async def talk() -> int:
            said = 0
            while not over.is_set():
                said += 1
                await store(server, "new", f"a-{said}")
            return said

        talking = asyncio.create_task(talk())
        for _ in range(5):
            async with plain(server.url, transports="polling websocket") as reader:
                await reader.has(150)
                assert reader.sio.transport() == "websocket"
                assert reader.ids == list(range(1, len(reader.ids) + 1))
        over.set()
        assert await talking > 0
    assert set(encoded) == {False}


async def test_an_upgrade_answers_the_open_request_before_there_are_bursts() -> None:
    # As the JavaScript client upgrades: it polls all the time, and says "5" when the request has been answered.
    async with ReferenceServer() as server, aiohttp.ClientSession() as session:
        address = f"{server.url}/socket.io/?EIO=4&transport="
        async with session.get(f"{address}polling") as response:
            sid = json.loads((await response.text())[1:])["sid"]
        await session.post(f"{address}polling&sid={sid}", data="40")
        await session.get(f"{address}polling&sid={sid}")

        async def poll() -> list[str]:
            async with session.get(f"{address}polling&sid={sid}") as response:
                return (await response.text()).split("\x1e")

        open_one = asyncio.create_task(poll())
        (socket,) = server.sio.eio.sockets.values()
        await until(lambda: socket.queue._getters)
        async with session.ws_connect(f"{address}websocket&sid={sid}") as upgraded:
            stored = [asyncio.create_task(store(server, "", f"{number}-0")) for number in range(100)]
            await upgraded.send_str("2probe")
            assert await upgraded.receive_str() == "3probe"
            packets = await asyncio.wait_for(open_one, PATIENCE)
            assert not socket.upgraded
            assert await poll() == ["6"]
            await asyncio.gather(*stored)
            await upgraded.send_str("5")
            assert len(packets) <= 16
            packets = [packet for packet in packets if packet != "6"]
            while len(packets) < 100:
                packet = await upgraded.receive_str(timeout=PATIENCE)
                packets += [packet] if packet != "6" else []
        assert packets == [f'42["chat message","",{number}]' for number in range(1, 101)]


async def test_a_replay_waits_for_a_reader_that_is_slow_and_frees_the_one_that_froze(tmp_path: Path) -> None:
    # 1,000 rows of 20 kB: what the server holds for a reader that does not read must not be all of them.
    path = filled(tmp_path / "chat.db", 1_000, "x" * 20_000)
    async with (
        ReferenceServer(path, ping_interval=0.3, ping_timeout=0.3) as server,
        aiohttp.ClientSession() as session,
        session.ws_connect(f"{server.url}/socket.io/?EIO=4&transport=websocket") as frozen,
    ):
        await frozen.receive_str()
        await frozen.send_str("40")
        await frozen.receive_str()
        assert frozen._response.connection is not None
        transport = frozen._response.connection.transport
        assert isinstance(transport, asyncio.Transport)
        transport.pause_reading()
        (engine_socket,) = server.sio.eio.sockets.values()
        assert connections(server) == 1
        await until(lambda: engine_socket.queue.qsize() > 0)  # the way is blocked
        held = 0
        async with asyncio.timeout(PATIENCE), plain(server.url, {"serverOffset": 1_000}) as other:
            while connections(server) > 1:
                held = max(held, engine_socket.queue.qsize())
                await asyncio.sleep(0.01)
            assert await other.say("still here", "a-0") == 1_001  # nobody else is held up
            await other.has(1)
        assert held < 150
        transport.resume_reading()


async def test_a_reader_that_leaves_in_the_middle_ends_its_replay(tmp_path: Path) -> None:
    async with ReferenceServer(filled(tmp_path / "chat.db", 20_000)) as server:
        async with plain(server.url) as reader:
            await reader.has(1)
            (client,) = server._chat._clients.values()
            assert not client.feeding.done()
        await asyncio.wait([client.feeding], timeout=PATIENCE)
        assert client.feeding.done()
        assert server._chat._clients == {}


async def test_a_row_whose_handler_died_after_the_commit_is_broadcast(monkeypatch: pytest.MonkeyPatch) -> None:
    async with ReferenceServer() as server, plain(server.url) as sender, plain(server.url) as reader:
        keep = server._chat._keep

        async def keep_and_die(*arguments: object) -> object:
            await keep(*arguments)
            raise MemoryError

        with monkeypatch.context() as patch:
            patch.setattr(server._chat, "_keep", keep_and_die)
            await sender.no_ack("hello", "a-0")
        await reader.has(1)
        assert await sender.say("hello", "a-0") == 1
        await reader.quiet()
        assert reader.rows == [("hello", 1)]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (sqlite3.OperationalError("disk I/O error"), "disk I/O error"),
        (TimeoutError(), "the database failed: it does not answer"),
        (OSError(), "the database failed: OSError()"),
    ],
)
async def test_a_database_that_fails_to_read_delays_a_reader_and_no_more(
    error: Exception, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    failed = asyncio.Event()
    async with ReferenceServer(filled(tmp_path / "chat.db", 3)) as server:
        after = server._history.after

        async def fail_once(*arguments: Any, **options: Any) -> list[StoredMessage]:
            if not failed.is_set():
                failed.set()
                raise error
            return await after(*arguments, **options)

        monkeypatch.setattr(server._history, "after", fail_once)
        async with plain(server.url) as reader:
            await reader.has(3)
            assert reader.ids == [1, 2, 3]
    assert words in caplog.text


async def test_a_reader_that_cannot_be_fed_is_not_left_looking_connected(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with ReferenceServer() as server, plain(server.url) as reader:

        def fail(*_: object) -> None:
            raise RuntimeError("cannot send")

        monkeypatch.setattr(RowEncoder, "burst", fail)
        await reader.sio.emit("chat message", ("hello", "a-0"))
        await asyncio.wait_for(reader.gone.wait(), PATIENCE)
    assert "feeding a reader failed" in caplog.text


@pytest.mark.parametrize("transport", ["websocket", "polling"])
async def test_rows_of_all_lengths_arrive_as_they_are(transport: str) -> None:
    # Around the lengths at which a WebSocket frame's header changes, and with characters that JSON spells longer.
    texts = ["x" * length for length in [0, *range(95, 110), *range(65_500, 65_513), 65_536]]
    texts += ['\x00é\u2028😀"\\' * 1_000, "ж" * 65_536]
    async with ReferenceServer() as server, plain(server.url, transports=transport) as reader:
        for number, text in enumerate(texts):
            await reader.say(text, f"a-{number}")
        await reader.has(len(texts))
        assert reader.texts == texts
        async with plain(server.url, transports=transport) as late:
            await late.has(len(texts))
            assert late.rows == reader.rows


async def test_rows_that_another_process_has_stored_are_not_skipped(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"
    async with ReferenceServer(path) as server, plain(server.url) as reader:
        assert await reader.say("one", "a-0") == 1
        await reader.has(1)
        with sqlite3.connect(path) as db:
            db.execute("INSERT INTO messages (principal, client_offset, content) VALUES ('', 'b-0', 'two')")
        db.close()
        assert await reader.say("three", "a-1") == 3
        await reader.has(3)
        assert reader.rows == [("one", 1), ("two", 2), ("three", 3)]
        with sqlite3.connect(path) as db:
            db.execute("INSERT INTO messages (principal, client_offset, content) VALUES ('', 'b-1', 'four')")
        db.close()
        await reader.has(4)  # nobody tells of it, but the server looks by itself


async def test_more_than_is_kept_in_memory_at_once_reaches_a_reader_that_waits(tmp_path: Path) -> None:
    async with ReferenceServer(tmp_path / "chat.db") as server, plain(server.url) as reader:
        with sqlite3.connect(tmp_path / "chat.db") as db:
            db.executemany(INSERT, [("", f"a-{row}", str(row)) for row in range(1, 1_501)])
        db.close()
        await reader.has(1_500)
        assert reader.ids == list(range(1, 1_501))


_CHILD = """
import asyncio, os, signal, sys
from reliable_emit.server import ReferenceServer

async def main() -> None:
    server = ReferenceServer(sys.argv[1], port=int(sys.argv[2]))
    if sys.argv[3] == "die":
        server._feed.tell = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    async with server:
        print(server.port, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.fixture
def children() -> Iterator[list[subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []
    yield started
    for child in started:
        child.kill()
        child.communicate()


async def test_killed_between_commit_and_broadcast_nothing_is_lost_or_doubled(
    tmp_path: Path, children: list[subprocess.Popen[str]]
) -> None:
    path = filled(tmp_path / "chat.db", 2)

    async def serve(port: str, how: str) -> str:
        child = subprocess.Popen(  # noqa: ASYNC220 - a moment
            [sys.executable, "-c", _CHILD, str(path), port, how],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
        )
        children.append(child)
        assert child.stdout is not None
        return (await asyncio.to_thread(child.stdout.readline)).strip()

    port = await serve("0", "die")
    async with plain(f"http://127.0.0.1:{port}") as reader, plain(f"http://127.0.0.1:{port}") as sender:
        await reader.has(2)
        await sender.lost("three", "a-0")
        await asyncio.wait_for(reader.gone.wait(), PATIENCE)
    assert await asyncio.to_thread(children[0].wait, PATIENCE) == -signal.SIGKILL
    assert reader.ids == [1, 2]  # the row is stored, nobody has seen it

    assert await serve(port, "live") == port
    url = f"http://127.0.0.1:{port}"
    async with plain(url, {"serverOffset": 2}) as again, plain(url) as sender:
        assert await sender.say("three", "a-0") == 3
        assert await sender.say("four", "a-1") == 4
        await again.has(2)
        assert again.rows == [("three", 3), ("four", 4)]
