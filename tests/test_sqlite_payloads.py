"""What comes out of a file is what went in, byte for byte on the wire; and what is damaged there stops nothing."""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import engineio.packet
import pytest
import socketio.packet
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import reliable_emit
from reliable_emit import DeadLetter, DeliveryFailed, MemoryOutbox, SQLiteOutbox
from reliable_emit.delivery import Message, Unencoded
from reliable_emit.outbox.sqlite import rows
from reliable_emit.outbox.sqlite.reader import Reader
from sqlite_support import damage, offline, query, rig, sio
from support import Frame, Log, Server, within

if TYPE_CHECKING:
    from reliable_emit import ReliableClient

BLOB = bytes(range(256))
DATA: list[Any] = [
    None,
    (),
    (None,),
    (1, "two", [3], {"four": 4}),
    [(1, (2, 3))],
    {"a": [BLOB, {"b": b"", "c": [b"x"]}], "d": "text"},
    (b"a", 1, b"b"),
    ("\u00e9", "\u65e5\u672c\u8a9e", "\U0001f600", "\x00\x1f\x7f", "\u2028", '"\\/', '51-1["x"]'),
    (2**63 - 1, -(2**63), 1e300, True, ""),
    "x" * 200_000,
]


async def _sent(client: ReliableClient, data: list[Any]) -> None:
    for one in data:
        await client.emit("sink", one)


async def _wires(data: list[Any], directory: Path, **options: Any) -> tuple[list[Frame], list[Frame]]:
    """Return what is sent from a memory outbox, and from a file that was closed and opened again."""
    async with Server(**options) as server:
        wires = []
        for path in (None, directory / "outbox.db"):
            if path is not None:
                async with offline(path, wrapped=sio(**options)) as client:
                    await _sent(client, data)
            outbox = MemoryOutbox() if path is None else SQLiteOutbox(path, synchronous="normal")
            async with rig(server, directory, connect=False, sio_options=options, outbox=outbox) as it:
                if path is None:
                    await _sent(it.client, data)
                assert it.client.pending == len(data)
                await it.connect()
                await within(it.client.flush())
                wires.append(it.events)
        return wires[0], wires[1]


def _is_same(memory: list[Frame], file: list[Frame]) -> None:
    assert file == memory
    assert [type(frame) for frame in file] == [type(frame) for frame in memory]


@pytest.mark.parametrize("serializer", ["default", "msgpack"])
async def test_what_was_stored_is_sent_as_if_it_had_not_been(serializer: str, tmp_path: Path) -> None:
    data = list(DATA)
    if serializer == "default":  # the other one does not know these
        data += [2**200, "half a pair: \ud83d", {7: "a", None: "b", True: "c", 2.5: "d"}]
    _is_same(*await _wires(data, tmp_path, serializer=serializer))


async def _comes_back(data: list[Any], path: Path, wrapped: Any) -> None:
    async with offline(MemoryOutbox(), wrapped=wrapped) as client:
        await _sent(client, data)
        wanted = _frames(client)
        datas = [delivery.data for delivery in client.queue()]
    async with offline(path, wrapped=wrapped) as client:
        await _sent(client, data)
    async with offline(path, wrapped=wrapped) as client:
        _is_same(wanted, _frames(client))
        assert repr([delivery.data for delivery in client.queue()]) == repr(datas)  # not a number is not itself


def _frames(client: ReliableClient) -> list[Frame]:
    """Return what would be sent."""
    codec = client._driver.link.codec
    return [frame for message in client._outbox for frame in codec.with_id(message.frames, 1)]


_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**200), 2**200)
    | st.floats()
    | st.text(st.characters(exclude_categories=()))
    | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)  # python-socketio finds no bytes in a tuple that is not the outermost
_MSGPACK = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4) | st.tuples(inner, inner),
    max_leaves=8,
)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.lists(_JSON | st.tuples(_JSON, _JSON), min_size=1, max_size=12))
def test_any_data_comes_back_the_same_on_the_wire(data: list[Any]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(_comes_back(data, Path(directory) / "outbox.db", sio()))


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.lists(_MSGPACK, min_size=1, max_size=12))
def test_any_data_comes_back_the_same_on_the_wire_with_msgpack(data: list[Any]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(_comes_back(data, Path(directory) / "outbox.db", sio(serializer="msgpack")))


_FRAME = st.text(st.characters(exclude_categories=())) | st.binary()


@settings(max_examples=200, deadline=None)
@given(frames=_FRAME | st.lists(_FRAME, min_size=1, max_size=4).map(tuple), cut=st.integers(0), flip=st.integers(0))
def test_what_is_written_down_is_read_again_or_is_unreadable(frames: Any, cut: int, flip: int) -> None:
    stored = rows.pack(frames)
    assert rows.unpack(stored) == frames
    assert rows.pack(rows.unpack(stored[:-1])) == stored[:-1], "what cannot be read is kept as it is"
    at, bit = flip // 8 % len(stored), 1 << flip % 8
    for damaged in (stored[: cut % len(stored)], stored[:at] + bytes([stored[at] ^ bit]) + stored[at + 1 :]):
        assert type(rows.unpack(damaged)).__name__ == "Unreadable"


class _Json:
    """A json module of the user's: keys sorted, spaces kept, no escapes."""

    @staticmethod
    def dumps(data: Any, **_options: Any) -> str:
        return json.dumps(data, sort_keys=True, ensure_ascii=False, default=sorted)

    loads = staticmethod(json.loads)


async def test_a_custom_json_module_is_respected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socketio.packet.Packet, "json", _Json)
    monkeypatch.setattr(engineio.packet.Packet, "json", _Json)
    data: list[Any] = [{"b": 1, "a": {2, 1}}, ("\u00e9", b"x", {"z": 1, "y": [b"w"]})]
    memory, file = await _wires(data, tmp_path)
    _is_same(memory, file)
    assert file[0] == '21["sink", {"a": [1, 2], "b": 1}]'


@pytest.mark.parametrize("event", ["\u00e9[", "1", "a,b", "\x00", "\U0001f600", "'; DROP TABLE message; --"])
async def test_any_name_of_an_event_is_kept(event: str, tmp_path: Path) -> None:
    async with offline(tmp_path / "outbox.db") as client:
        await client.emit(event, 1)
    async with offline(tmp_path / "outbox.db") as client:
        assert [(delivery.event, delivery.data) for delivery in client.queue()] == [(event, (1,))]


class _Own(socketio.packet.Packet):  # type: ignore[misc] # socketio is untyped
    def encode(self) -> Any:
        return super().encode()


async def test_a_message_of_the_users_own_serializer_is_refused(tmp_path: Path) -> None:
    async with offline(tmp_path / "outbox.db", wrapped=sio(serializer=_Own)) as client:
        with pytest.raises(TypeError, match=r"cannot be stored in a file; nothing was queued. Use a MemoryOutbox"):
            await client.emit("e", 1)
        assert (client.pending, client.stats.accepted, client.queue(), client.dead_letters()) == (0, 0, [], [])
    assert query(tmp_path / "outbox.db", "SELECT count(*) FROM message") == [(0,)]


async def test_a_dead_letter_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    """It was found only when everything was to be written, and then that was never written either."""
    path = tmp_path / "outbox.db"
    message = Message(
        offset="x", event="e", frames=Unencoded("e", (1,)), ack_timeout=1.0, retries=None, accepted_at=time.time()
    )
    async with offline(path) as client:
        with pytest.raises(TypeError, match="serializer is not one of python-socketio's own"):
            client._outbox.bury(DeadLetter(message, "dropped", "no room", time.time(), lambda _: ()))
        await within(client.emit("e", 2))
    assert query(path, "SELECT count(*) FROM message") == [(1,)]


def test_pickle_is_used_nowhere() -> None:
    root = Path(reliable_emit.__file__).parent
    for path in root.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert "import pickle" not in text, path
        assert "marshal" not in text, path


# Damaged rows.

DAMAGES = {
    "other bytes": ("frames", "x'deadbeef'"),
    "bytes that look like a message": ("frames", 'CAST(\'t2["echo","forged"]\' AS BLOB)'),
    "no bytes": ("frames", "x''"),
    "two bytes": ("frames", "x'0000'"),
    "text": ("frames", "'2[\"echo\",1]'"),
    "text that is none": ("frames", "CAST(x'ff80' AS TEXT)"),
    "a number": ("frames", "5"),
    "another number": ("frames", "1.5"),
    "cut short": ("frames", "substr(frames, 1, length(frames) - 3)"),
    "cut shorter": ("frames", "substr(frames, 1, 7)"),
    "longer": ("frames", "CAST(frames || x'00' AS BLOB)"),
    "a character": ("frames", "CAST(replace(frames, x'64', x'65') AS BLOB)"),
    "a timeout in words": ("ack_timeout", "'soon'"),
    "a timeout in bytes": ("ack_timeout", "x'00'"),
    "retries in words": ("retries", "'many'"),
    "half a retry": ("retries", "1.5"),
    "a time in words": ("accepted_at", "'yesterday'"),
    "a time to live in words": ("expires_at", "'never'"),
    "attempts in words": ("attempts", "'one'"),
    "failures in bytes": ("failures", "x'01'"),
    "half a loss": ("losses", "0.5"),
    "doubt in words": ("doubtful", "'perhaps'"),
}


@pytest.mark.parametrize("name", DAMAGES)
async def test_a_damaged_row_is_a_dead_letter_and_stops_nothing(server: Server, tmp_path: Path, name: str) -> None:
    path = tmp_path / "outbox.db"
    async with offline(path) as client:
        made = [await client.emit("echo", f"d{number}") for number in range(1, 4)]
    damage(path, *DAMAGES[name], 2)
    (before,) = query(path, "SELECT frames FROM message WHERE sequence = 2")
    async with rig(server, path, connect=False) as it:
        (letter,) = it.client.dead_letters()
        assert (letter.offset, letter.event, letter.reason) == (made[1].offset, "echo", "dropped")
        assert "cannot be read: the outbox holds something else" in letter.detail
        assert it.client.stats.dropped == 1
        with pytest.raises(TypeError, match="the outbox holds something else"):
            _ = letter.data
        with pytest.raises(ValueError, match=r"cannot be sent: .*; discard\(offset\) throws it away"):
            it.client.redeliver(letter.offset)
        await it.connect()
        await within(it.client.flush())
        assert await within(it.client.call("echo", "new")) == "new"
    assert server.arguments() == ["d1", "d3", "new"]
    (after,) = query(path, "SELECT frames FROM dead_letter")
    assert after == before or (after[0] == str(before[0]).encode()) or b"\\xff" in after[0], "it is deleted"
    async with offline(path) as client:
        (letter,) = client.dead_letters()
        assert (letter.offset, letter.reason) == (made[1].offset, "dropped")
        client.discard(letter.offset)
        assert client.dead_letters() == []
    assert query(path, "SELECT count(*) FROM dead_letter") == [(0,)]


@pytest.mark.parametrize("column", ["event", "client_offset"])
@pytest.mark.parametrize("value", ["CAST(x'ff80' AS TEXT)", "x'ff80'", "5", "''"])
async def test_a_name_that_is_damaged_stops_nothing(server: Server, tmp_path: Path, column: str, value: str) -> None:
    """It is not what is sent: that is whole, and so it is delivered."""
    path = tmp_path / "outbox.db"
    async with offline(path) as client:
        for number in range(1, 4):
            await client.emit("echo", f"d{number}")
    damage(path, column, value, 2)
    assert [m.frames for m in Reader(path, rows.Clock(lambda: 0, lambda: 0), lambda _: ()).pending()] == [
        f'2["echo","d{number}"]' for number in range(1, 4)
    ]
    async with rig(server, path) as it:
        await within(it.client.flush())
        assert it.client.dead_letters() == []
    assert server.arguments() == ["d1", "d2", "d3"]


async def test_many_damaged_rows_beyond_what_is_in_memory_are_set_aside(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    async with offline(path) as client:
        await asyncio.gather(*(client.emit("echo", number) for number in range(1500)))
    query(path, "UPDATE message SET frames = x'00' WHERE sequence % 500 != 0")
    async with rig(server, path) as it:
        await within(it.client.flush())
        assert (it.client.stats.dropped, len(it.client.dead_letters())) == (1497, 1497)
        assert it.client.pending == 0
    assert server.arguments() == [499, 999, 1499]


async def test_a_damaged_dead_letter_is_kept_and_can_be_thrown_away(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    async with offline(path, max_pending=1, overflow="drop_oldest") as client:
        for number in range(5):
            await client.emit("echo", number)
    query(path, "UPDATE dead_letter SET frames = x'00', died_at = 'then' WHERE number = 1")
    query(path, "UPDATE dead_letter SET attempts = 'few' WHERE number = 2")
    query(path, "UPDATE dead_letter SET reason = 5, detail = CAST(x'ff' AS TEXT), event = x'ff' WHERE number = 3")
    async with offline(path) as client:
        first, second, third, fourth = client.dead_letters()
        for damaged in (first, second):
            with pytest.raises(TypeError, match="the outbox holds something else"):
                _ = damaged.data
            assert damaged.possibly_delivered is (damaged is second), "nobody knows of the second"
            with pytest.raises(ValueError, match="cannot be sent"):
                client.redeliver(damaged.offset)
            client.discard(damaged.offset)
        assert (third.data, third.reason, third.detail) == ((2,), "5", "\\xff")
        client.redeliver(third.offset)
        client.redeliver(fourth.offset)
        assert [delivery.data for delivery in client.queue()] == [(4,), (2,), (3,)]


@pytest.mark.parametrize(("first", "second"), [("default", "msgpack"), ("msgpack", "default")])
async def test_what_another_serializer_stored_is_set_aside(first: str, second: str, tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    async with offline(path, wrapped=sio(serializer=first)) as client:
        theirs = [await client.emit("echo", {"n": number, "b": b"x"}) for number in range(2)]
    options = {"serializer": second}
    async with (
        Server(serializer=second) as server,
        rig(server, path, sio_options=options) as it,
    ):
        assert await within(it.client.call("echo", "ours")) == "ours"
        assert [(letter.offset, letter.reason) for letter in it.client.dead_letters()] == [
            (delivery.offset, "dropped") for delivery in theirs
        ]
        letter = it.client.dead_letters()[0]
        assert "another serializer" in letter.detail
        it.client.discard(letter.offset)
        assert server.arguments() == ["ours"]
    async with offline(path, wrapped=sio(serializer=first)) as client:  # whoever can read it can still have it sent
        assert client.dead_letters()[0].data == ({"n": 1, "b": b"x"},)
        again = client.redeliver(theirs[1].offset)
        assert again.data == ({"n": 1, "b": b"x"},)


async def test_what_another_serializer_stored_dies_again_when_it_is_redelivered(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    async with offline(path, wrapped=sio(serializer="msgpack")) as client:
        theirs = await client.emit("echo", 1)
    died: Log[Any] = Log()
    async with Server() as server, rig(server, path) as it:
        it.client.on("dead_lettered", died.add)
        again = it.client.redeliver(theirs.offset)
        with pytest.raises(DeliveryFailed, match="another serializer"):
            await within(again)
        await died.has(1)
        assert len(it.client.dead_letters()) == 1
        assert server.arguments() == []
