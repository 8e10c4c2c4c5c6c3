"""A hostile client: everybody else notices nothing, memory stays bounded, and nothing is given away.

`MANY` is how many messages a flood has; ``RELIABLE_EMIT_HOSTILE=100000`` for more than the suite has time for.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import json
import os
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from hostile_server import EVENT, PASSWORD
from hostile_support import PATIENCE, Ada, Attacker, Raw, Victim, auth, victim
from postgres_support import database as postgres_database
from postgres_support import need_postgres, url_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

pytestmark = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads memory from Linux's /proc")

MANY = int(os.environ.get("RELIABLE_EMIT_HOSTILE", "3000"))
KINDS = ["reference", "inbox"]
# What one log line may have at the most, and MB by which memory may grow.
LINE, GROWTH = 600, 60.0


@pytest.fixture(params=KINDS)
async def server(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Victim]:
    async with victim(tmp_path, request.param) as it:
        yield it


@pytest.fixture
async def reference(tmp_path: Path) -> AsyncIterator[Victim]:
    async with victim(tmp_path) as it:
        yield it


@contextlib.contextmanager
def bounded(server: Victim, megabytes: float = GROWTH) -> Iterator[None]:
    """What is done here must not make the server's memory grow by more, not even for a moment."""
    before = server.rss
    server.forget_peak()
    yield
    print(f"rss {before:.0f} -> {server.rss:.0f} MB, at most {server.peak:.0f}")
    assert server.peak - before < megabytes, f"from {before:.0f} to {server.peak:.0f} MB"


def discreet(server: Victim) -> None:
    """Nothing in the log is long, or a secret, or a traceback."""
    for line in server.log.splitlines():
        assert len(line) < LINE, line[:200]
        assert line.startswith("LOG "), line
        assert not re.search(rf"Traceback|{PASSWORD}|SELECT |INSERT |/tmp/|site-packages", line), line
    assert len(server.lines) < 200, server.lines[:20]


def message(number: int, text: str | None = None, offset: str | None = None) -> str:
    return f"42{number}" + json.dumps([EVENT, text or f"mallory {number}", offset or f"mallory-{number}"])


async def fill(raw: Raw, count: int, window: int = 100) -> None:
    """Send that many messages, as many at a time as an inbox takes of one connection, and have them acknowledged."""
    await raw.join()
    raw.read()
    acknowledged = 0

    def enough() -> bool:
        return acknowledged >= count

    async with asyncio.timeout(60 + count / 100):
        sent = 0
        while not enough():
            while sent < count and sent - acknowledged < window:
                await raw.say(message(sent))
                sent += 1
            await asyncio.sleep(0.001)
            acknowledged = raw.acknowledged
    assert acknowledged == count


# Offsets.


@pytest.mark.parametrize("kind", [*KINDS, "postgres"])
async def test_forged_offsets(tmp_path: Path, kind: str) -> None:
    async with contextlib.AsyncExitStack() as stack:
        database = None
        if kind == "postgres":
            await asyncio.to_thread(need_postgres)
            database = url_of(await stack.enter_async_context(postgres_database()))
            kind = "reference"
        server = await stack.enter_async_context(victim(tmp_path, kind, database))
        attacker = await stack.enter_async_context(Attacker(server))
        mallory = (await attacker.joined()).read()
        bob = (await attacker.joined(user="bob")).read()
        assert await mallory.ask([EVENT, "forged", "bob-0"]) == [1]
        # Another principal: the offset is free.
        (row,) = await bob.ask([EVENT, "true", "bob-0"])
        assert row > 1
        # The same principal: refused by name, and not swallowed.
        (refusal,) = await bob.ask([EVENT, "another", "bob-0"])
        assert refusal == {"reliable-emit:rejected": "the client offset 'bob-0' belongs to another message"}
        assert await bob.ask([EVENT, "true", "bob-0"]) == [row]
    discreet(server)


async def test_a_great_many_offsets(server: Victim) -> None:
    async with Ada(server) as ada, Attacker(server) as attacker:
        raw = await attacker.connect()
        started = time.monotonic()
        with bounded(server):
            await fill(raw, 2 * MANY)
        print(f"{2 * MANY} offsets in {time.monotonic() - started:.1f} s")
        await ada.is_well()
        print(f"slowest {ada.slowest:.2f} s")


# Floods.


async def test_a_flood_that_waits_for_nothing(server: Victim) -> None:
    async with Ada(server) as ada, Attacker(server) as attacker:
        raw = (await attacker.joined()).read()
        with bounded(server):
            for number in range(MANY):
                await raw.say(message(number))
            await raw.ask([EVENT, "the end", "end-0"], MANY + 1) if server.patient else await raw.is_read()
            await ada.is_well()
        print(f"slowest {ada.slowest:.2f} s, acknowledged {raw.acknowledged} of {MANY}")


async def test_a_flood_of_repetitions(server: Victim) -> None:
    async with Ada(server) as ada, Attacker(server) as attacker:
        raw = (await attacker.joined()).read()
        with bounded(server):
            for number in range(MANY):
                await raw.say(message(number, "slow", "slow-0"))
            await ada.is_well()
            for number in range(MANY):
                await raw.say(message(number, "slow", "slow-0"))
            await ada.is_well()
        assert len({text[text.index("[") :] for text in raw.received if text.startswith("43")}) == 1
        print(f"slowest {ada.slowest:.2f} s, acknowledged {raw.acknowledged} of {2 * MANY}")


async def test_who_floods_with_large_texts_and_reads_nothing(reference: Victim) -> None:
    text = "\U0001f600" * 60_000
    async with Ada(reference) as ada, Attacker(reference) as attacker:
        raws = [await attacker.joined() for _ in range(4)]
        with bounded(reference, 150):
            floods = [asyncio.create_task(flood(raw, text)) for raw in raws]
            await ada.hears(4 * 100)  # so many answers wait for each of them: nothing more is read from any
            await ada.is_well()
        assert await reference.stop() < 4  # in the middle of it
        for task in floods:
            task.cancel()
        await asyncio.wait(floods)
        print(f"slowest {ada.slowest:.2f} s")
    discreet(reference)


async def flood(raw: Raw, text: str) -> None:
    for number in range(200):
        await raw.say(message(number, text, f"{id(raw)}-{number}"))


async def test_replies_that_nobody_reads_are_not_collected(reference: Victim) -> None:
    name = "n" * 100
    frames = [f'42{number}["{name}"]' for number in range(10)] + [f"40/{'n' * 100_000},{{}}"]
    async with Ada(reference) as ada, Attacker(reference) as attacker:
        raws = [await attacker.joined() for _ in range(3)]
        with bounded(reference):
            for raw in raws:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(5):
                        for _ in range(3 * MANY // 10):
                            await raw.say(*frames)
            await ada.is_well()


# Size.


BIG = "x" * 10_000_000
DEEP = "[" * 100_000
LARGE: dict[str, list[str | bytes]] = {
    "a text": [f'421["{EVENT}","{BIG}","a-0"]'],
    "a text below the limit": [f'421["{EVENT}","{BIG[:900_000]}","a-0"]'],
    "an offset": [f'421["{EVENT}","a","{BIG[:900_000]}"]'],
    "the name of an event": [f'421["{BIG[:900_000]}"]'],
    "a name and a namespace": [f'421["{BIG}"]', f"40/{BIG[:900_000]},"],
    "many arguments": ["421" + json.dumps([EVENT, *range(150_000)])],
    "many small lists": [f'421["{EVENT}",[{"[],{}," * 100_000}0],"a-0"]'],
    "nested": [f'421["{EVENT}",{DEEP}'],
    "nested and closed": [f'421["{EVENT}",{DEEP}{"]" * 100_000},"a-0"]'],
    "nested objects": ['421["x",' + '{"a":' * 100_000],
    "nested, for the layer below": [f"4{DEEP}"],
    "a number": [f'421["{EVENT}",{"9" * 900_000},"a-0"]'],
    "an id": [f'42{"9" * 900_000}["{EVENT}"]'],
    "a binary attachment": [f'451-1["{EVENT}",{{"_placeholder":true,"num":0}},"a-0"]', bytes(10_000_000)],
    "many attachments": [f'4590000-["{EVENT}",0,"a-0"]', *[bytes(10)] * 20_000],
    "many large attachments": [f'45900-["{EVENT}",0,"a-0"]', *[bytes(900_000)] * 200],
    "attachments that never come": ['459999999-["x",{"_placeholder":true,"num":0}]'],
    "attachments that nobody asked for": [bytes(900_000)] * 20,
    "attachments that are none": ['451-1["x",{"_placeholder":true,"num":"x"}]', b"", '451-["x"]', "42[]", "42[]"],
    "a deep attachment": [f'451-["x",{"[" * 900}{{"_placeholder":true,"num":0}}{"]" * 900}]', b"a"],
    "auth": ["41", "40" + json.dumps(auth(BIG[:900_000]))],
    "auth that is refused": ["41", f'40{{"user":"{BIG[:900_000]}","password":"x"}}'],
    "nested auth": ["41", f'40{{"user":{DEEP}'],
}


@pytest.mark.parametrize("what", LARGE)
async def test_large_things_over_websocket(reference: Victim, what: str) -> None:
    async with Ada(reference) as ada, Attacker(reference) as attacker:
        with bounded(reference):
            for _ in range(3):
                raw = (await attacker.joined()).read()
                await raw.say(*LARGE[what])
                await raw.say('421["ping"]')
            await ada.is_well()
        for text in raw.received:
            if not text.startswith('42["chat message"'):
                assert len(text) < LINE, text[:100]
    discreet(reference)


@pytest.mark.parametrize("what", LARGE)
async def test_large_things_over_polling(reference: Victim, what: str) -> None:
    frames = [frame if isinstance(frame, str) else "b" + base64.b64encode(frame).decode() for frame in LARGE[what]]
    async with Ada(reference) as ada, Attacker(reference) as attacker:
        with bounded(reference):
            where = await attacker.poll()
            for body in ["\x1e".join(frames), *frames[:60]]:
                with contextlib.suppress(aiohttp.ClientError):  # it need not read what it will not take
                    async with attacker.session.post(where, data=io.BytesIO(body.encode())) as response:
                        assert len(await response.text()) < LINE
            await ada.is_well()
    discreet(reference)


# Types.

NOTHINGS: list[Any] = [
    None,
    True,
    7,
    1.5,
    [],
    {},
    [[]],
    {"a": "b"},
    {"_placeholder": True, "num": 0},
    "",
    "\0",
    "\ud800",
]
# Packets that must change nothing, and need no answer.
ODD: list[str] = [
    "2", "21", "2{}", '2"a"', "2[]", "2[7]", "2[null]", '2[["a"]]', '2[{"a":1}]', '2[true,"a","b"]', '2["connect"]',
    '2["connect",{"aiohttp.request":1},{"user":"ada"}]', '2["disconnect"]', '2["disconnect","x"]', '2["*"]',
    '2["*","a"]', '2["connect_error"]', '2["__disconnect_final"]', '2["newListener"]', "3", "30[]", "31[1]",
    '3999["a"]', "3[]", "3{}", "6", "60-[]", "61-[]", "4", '4{"message":"x"}', "7", "9", "0/nowhere,",
    "0/", "0,", "0[]", "0/a/b?c=d,{}", "1/nowhere,", '2/nowhere,["a"]', "0{}", '0{"serverOffset":-1}', "2" * 300,
]  # fmt: skip
# What is no packet of Engine.IO: it ends the connection that it comes on.
NONE: list[str] = [
    "",
    "x",
    "4x",
    "4-1",
    "4\0",
    "4\ud7ff",
    "4[",
    "4{}",
    "4x",
    "4\u00b2",
    "7",
    "9",
    "b!",
    "40\u0000",
    "\U0001f600",
    "2x",
    "3[[[",
]


async def test_wrong_types_are_refused_by_name(server: Victim) -> None:
    async with Ada(server) as ada, Attacker(server) as attacker:
        mallory = (await attacker.joined()).read()
        for number, value in enumerate(NOTHINGS):
            if value not in ("", "\0"):
                (reply,) = await mallory.ask([EVENT, "a", value], number)
                assert "the client offset" in reply["reliable-emit:rejected"]
        for arguments in [[], ["a"], ["a", "b", "c"]]:
            (reply,) = await mallory.ask([EVENT, *arguments], 99)
            assert "reliable-emit:rejected" in reply
        if server.patient:
            for number, value in enumerate(NOTHINGS[:9]):
                (reply,) = await mallory.ask([EVENT, value, f"a-{number}"], number)
                assert "the text is not a string" in reply["reliable-emit:rejected"]
        await ada.is_well()
    if server.patient:
        discreet(server)


async def test_odd_packets_change_nothing(reference: Victim) -> None:
    async with Ada(reference) as ada, Attacker(reference) as attacker:
        mallory = (await attacker.joined()).read()
        for _ in range(5):
            await mallory.say(*[f"4{packet}" for packet in ODD])
        (row,) = await mallory.ask([EVENT, "still here", "m-0"])
        assert isinstance(row, int)
        await ada.is_well()
        for nothing in NONE:
            one = await attacker.joined()
            await one.say(nothing)
        for value in NOTHINGS:
            one = await attacker.connect()
            await one.say("40" + json.dumps(value), "40" + json.dumps({"user": value, "password": PASSWORD}))
            await one.say("40" + json.dumps(auth("mallory", serverOffset=value)))
        await ada.is_well()
    discreet(reference)


async def test_a_packet_that_is_none_ends_its_connection(reference: Victim) -> None:
    async with Attacker(reference) as attacker:
        for nothing in ["", "x", "4[[", "b!"]:
            one = await attacker.joined()
            await one.say(nothing)
            async with asyncio.timeout(PATIENCE):
                while (await one.ws.receive()).type not in {aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.CLOSE}:
                    pass
    discreet(reference)


async def test_namespaces_and_joins_without_end(server: Victim) -> None:
    async with Ada(server) as ada, Attacker(server) as attacker:
        raw = (await attacker.joined()).read()
        join = "40" + json.dumps(auth("mallory"))
        with bounded(server):
            await raw.say(*[f"40/{number},{{}}" for number in range(1000)])
            await raw.say(*[join] * 1000)
            for _ in range(500):
                await raw.say("41", join)
            assert await raw.ask([EVENT, "still here", "m-0"])
            await ada.is_well()


async def test_a_request_cannot_forge_a_line_of_the_log(reference: Victim) -> None:
    async with Attacker(reference) as attacker:
        for query in [
            "EIO=4&sid=a%0ALOG%20ERROR%20forged&transport=polling",
            f"EIO=4&sid={'x' * 7000}",
            "EIO=1",
            "j=x",
        ]:
            for method in "GET", "POST", "PUT", "OPTIONS":
                where = f"{reference.url}/socket.io/?{query}"
                async with attacker.session.request(method, where, headers={"Origin": "x" * 1000}) as response:
                    await response.read()
        for junk in b"\0\1\2\r\n\r\n", b"GET / HTTP/9\r\n\r\n", b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n":
            reader, writer = await asyncio.open_connection("127.0.0.1", reference.port)
            writer.write(junk)
            with contextlib.suppress(ConnectionError):
                answer = await reader.read()
                assert b"Traceback" not in answer
                assert b"site-packages" not in answer
            writer.close()
    assert "LOG ERROR forged" not in reference.log
    discreet(reference)


# Readers that do not read, and connections that never begin.


async def test_readers_that_never_read(reference: Victim) -> None:
    text = "x" * 50_000
    async with Ada(reference) as ada, Attacker(reference) as attacker:
        for _ in range(20):
            await attacker.joined()
        writer = (await attacker.joined()).read()
        with bounded(reference, 100):
            for number in range(1000):  # 50 MB
                await writer.say(message(number, text))
            assert await writer.ask([EVENT, "the end", "end-0"], 5000)
            await ada.is_well()
        print(f"slowest {ada.slowest:.2f} s")
    assert await reference.stop() < 4


SHORT = 'reference:{"ping_interval": 1, "ping_timeout": 1}'


async def test_connections_that_never_begin(tmp_path: Path) -> None:
    async with victim(tmp_path, SHORT) as server, Ada(server) as ada, Attacker(server) as attacker:
        before = server.connections
        with bounded(server, 100):
            waiting = [await attacker.connect() for _ in range(500)]
            for raw in waiting:
                raw.read()  # answers heartbeats, and joins nothing
            for number in range(500):
                _, writer = await asyncio.open_connection("127.0.0.1", server.port)
                attacker.push(writer)
                writer.write([b"", b"GET /socket.io/?EIO=4", b"POST /socket.io/ HTTP/1.1\r\nContent-Le"][number % 3])
            await ada.is_well()
            async with asyncio.timeout(PATIENCE):
                for raw in waiting:
                    await raw.closed()
            await ada.is_well()
        assert server.connections <= before + 500 + 5
        print(f"slowest {ada.slowest:.2f} s")
        started = time.monotonic()
        assert await server.stop() < 4
        assert time.monotonic() - started < 6


async def test_posts_that_come_slowly_or_at_once(tmp_path: Path) -> None:
    async with victim(tmp_path, SHORT) as server, Ada(server) as ada, Attacker(server) as attacker:
        where = await attacker.poll()
        path = where.removeprefix(server.url)

        async def slowly(letters: int) -> bytes:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            attacker.push(writer)
            writer.write(f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 900000\r\n\r\n".encode())
            for _ in range(letters):
                writer.write(b"4")
                await asyncio.sleep(0.2)
            return await reader.readline()

        async with asyncio.timeout(PATIENCE):
            assert b"400" in await slowly(20)
        where = await attacker.poll()
        path = where.removeprefix(server.url)
        async with asyncio.timeout(PATIENCE):
            answers = await asyncio.gather(*(slowly(1) for _ in range(50)))
        assert all(b"400" in answer for answer in answers)
        await ada.is_well()
    discreet(server)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("\x1e".join(["42[]"] * 17), "more than 16 packets"),
        ("4" * 2_000_000, "too large"),
        (b"\xff", "cannot be read"),
        ("", "the post is refused"),
        ("4[[[", "no packet"),
        ("d=4", "no packet"),
    ],
)
async def test_a_post_that_cannot_be_taken_is_no_success(reference: Victim, body: Any, why: str) -> None:
    async with Attacker(reference) as attacker:
        where = await attacker.poll()
        async with attacker.session.post(
            where, data=io.BytesIO(body if isinstance(body, bytes) else body.encode())
        ) as response:
            assert response.status == 400
            assert why in await response.text()
        async with attacker.session.get(where) as response:
            assert response.status == 400
