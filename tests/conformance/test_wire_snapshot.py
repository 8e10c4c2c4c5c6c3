"""What is sent is what was passed to `emit`, byte for byte what the wrapped client itself would have sent."""

from __future__ import annotations

import datetime as dt
import json
from typing import TYPE_CHECKING, Any

import engineio.packet
import msgpack
import pytest
import socketio.msgpack_packet
import socketio.packet

from support import Frame, Log, Rig, Server, rig, within

if TYPE_CHECKING:
    from collections.abc import Callable

    from support import Clock

BLOB = bytes(range(256))

# python-socketio learned to send a bytearray as an attachment after 5.12.
_PACKET = socketio.packet.Packet(socketio.packet.EVENT, data=["x", bytearray()])
KNOWS_BYTEARRAY = _PACKET.packet_type == socketio.packet.BINARY_EVENT
needs_bytearray = pytest.mark.skipif(not KNOWS_BYTEARRAY, reason="this python-socketio cannot send a bytearray")

JSON_DATA: dict[str, Any] = {
    "nothing": None,
    "null": (None,),
    "no arguments": (),
    "several": (1, "two", [3], {"four": 4}),
    "a list": [1, 2, 3],
    "scalars": (True, False, 0, -1, 1.5, 1e300, "", "x"),
    "a number as text": ("12", 3),
    "text that looks like a packet": '51-/chat,1["x",{"_placeholder":true,"num":0}]',
    "unicode": ("é", "日本語", "😀", "\x00\x1f\x7f", "\u2028", '"\\/'),
    "unicode keys": {"ключ": {"😀": 1}},
    "keys that are no text": {7: "a", None: "b", True: "c", 2.5: "d"},
    "big integers": (2**63 - 1, -(2**63), 2**64 - 1, 2**200),
    "nested": {"a": [{"b": [[[]]]}], "c": {}},
    "a tuple inside": [(1, (2, 3))],
    "bytes": BLOB,
    "empty bytes": b"",
    "nested bytes": {"a": [BLOB, {"b": b"x"}], "c": b"y", "d": "text"},
    "several bytes": (b"a", 1, b"b"),
    "many bytes": [bytes([number]) for number in range(12)],
}

if KNOWS_BYTEARRAY:
    JSON_DATA["a bytearray"] = ({"a": [bytearray(b"y"), b"x"]}, bytearray(b""))

MSGPACK_DATA: dict[str, Any] = {
    **JSON_DATA,
    "big integers": (2**63 - 1, -(2**63), 2**64 - 1),
    "extension types": msgpack.ExtType(5, b"payload"),
    "a timestamp": msgpack.Timestamp(1, 2),
}


async def _both(
    data: Any, *, namespace: str = "/", event: str = "unknown", serializer: Any = None
) -> tuple[list[Frame], list[Frame]]:
    """Return what the wrapped client itself sends for the data, and what ours does, on a new connection each."""
    options = {} if serializer is None else {"serializer": serializer}
    async with Server(namespace, **options) as server:
        sent = []
        for ours in (False, True):
            async with rig(server, namespaces=(namespace,), sio_options=options) as it:
                del it.wire[:]
                if ours:
                    await it.client.emit(event, data)
                else:
                    await it.sio.emit(event, data, namespace=namespace, callback=lambda *_: None)
                sent.append(list(it.wire))
        assert sent[0]
        return sent[0], sent[1]


def _is_same(raw: list[Frame], ours: list[Frame]) -> None:
    assert ours == raw
    assert [type(frame) for frame in ours] == [type(frame) for frame in raw]


@pytest.mark.parametrize("namespace", ["/", "/chat"])
@pytest.mark.parametrize("name", JSON_DATA)
async def test_ours_is_what_the_wrapped_client_would_send(name: str, namespace: str) -> None:
    raw, ours = await _both(JSON_DATA[name], namespace=namespace)
    _is_same(raw, ours)
    head, *attachments = ours
    kind = f"5{len(attachments)}-" if attachments else "2"
    prefix = "" if namespace == "/" else f"{namespace},"
    assert str(head).startswith(f'{kind}{prefix}1["unknown"')


@pytest.mark.parametrize("namespace", ["/", "/chat"])
@pytest.mark.parametrize("name", MSGPACK_DATA)
async def test_ours_is_what_the_wrapped_client_would_send_with_msgpack(name: str, namespace: str) -> None:
    raw, ours = await _both(MSGPACK_DATA[name], namespace=namespace, serializer="msgpack")
    _is_same(raw, ours)
    assert isinstance(ours[0], bytes)


class _Dates(socketio.msgpack_packet.MsgPackPacket):  # type: ignore[misc] # socketio is untyped
    """A serializer of the user's that writes dates and reads them as bytes: a client that only sends need not care."""

    def encode(self) -> Any:
        return msgpack.packb(self._to_dict(), default=lambda date: msgpack.ExtType(1, date.isoformat().encode()))

    def decode(self, encoded_packet: bytes) -> None:
        decoded = msgpack.unpackb(encoded_packet, ext_hook=lambda _code, data: data)
        self.packet_type, self.namespace = decoded["type"], decoded["nsp"]
        self.data, self.id = decoded.get("data"), decoded.get("id")


async def test_a_custom_serializer_is_respected() -> None:
    _is_same(*await _both({"at": dt.date(2026, 7, 1)}, serializer=_Dates))


@pytest.mark.parametrize("event", ["é[", "1", "a,b", "/chat,", "[", "message", "ping"])
async def test_the_name_of_the_event_makes_no_difference(event: str) -> None:
    _is_same(*await _both(b"x", event=event))
    _is_same(*await _both("x", event=event, namespace="/chat"))


class _Json:
    """A json module of the user's: keys sorted, spaces kept, sets allowed."""

    @staticmethod
    def dumps(data: Any, **_options: Any) -> str:
        return json.dumps(data, sort_keys=True, ensure_ascii=False, default=sorted)

    loads = staticmethod(json.loads)


async def test_a_custom_json_module_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    """python-socketio keeps it for the whole process, so it is put in where it would end up, and taken out again."""
    monkeypatch.setattr(socketio.packet.Packet, "json", _Json)
    monkeypatch.setattr(engineio.packet.Packet, "json", _Json)
    several: list[Any] = [{"b": 1, "a": {2, 1}}, ("é", b"x", {"z": 1, "y": [b"w"]})]
    for data in several:
        raw, ours = await _both(data)
        _is_same(raw, ours)
    assert ours[0] == (
        '52-1["unknown", "é", {"_placeholder": true, "num": 0}, {"y": [{"_placeholder": true, "num": 1}], "z": 1}]'
    )


@pytest.mark.parametrize("serializer", ["default", "msgpack"])
async def test_the_server_gets_what_was_passed(serializer: str) -> None:
    data: tuple[Any, ...] = ({"b": [BLOB, {"x": b"y"}], "n": None}, "é😀", 2**63, [], 1.5)
    async with Server(serializer=serializer) as server, rig(server, sio_options={"serializer": serializer}) as it:
        assert await within(it.client.call("echo", data)) == data
        assert it.client.stats.sent == 1
        assert server.received[0].arguments == data


async def _mutated(it: Rig, clock: Clock, server: Server, data: Any, mutate: Callable[[], None]) -> list[list[Frame]]:
    """Change the data before and between the attempts, and return what each of the three sent."""
    frames: list[list[Frame]] = []
    server.swallow = 2
    delivery = await it.client.emit("echo", data)
    mutate()
    await it.connect()
    for attempts in (1, 2, 3):
        await server.received.has(attempts)
        frames.append(it.events[sum(map(len, frames)) :])
        mutate()
        if attempts < 3:
            await clock.forward(10)
    await within(delivery)
    assert delivery.attempts == 3
    return frames


async def test_a_dict_that_changes_after_emit_changes_nothing(server: Server, clock: Clock) -> None:
    data: dict[str, Any] = {"list": [1], "text": "before"}

    def mutate() -> None:
        data["list"].append(2)
        data["text"] = "after"

    async with rig(server, connect=False) as it:
        assert await _mutated(it, clock, server, data, mutate) == [
            [f'2{number}["echo",{{"list":[1],"text":"before"}}]'] for number in (1, 2, 3)
        ]
        assert server.arguments() == [{"list": [1], "text": "before"}] * 3


@needs_bytearray
async def test_a_bytearray_that_changes_after_emit_changes_nothing(server: Server, clock: Clock) -> None:
    data = {"blob": bytearray(b"before")}

    def mutate() -> None:
        data["blob"][:] = b"after!"

    async with rig(server, connect=False) as it:
        assert await _mutated(it, clock, server, data, mutate) == [
            [f'51-{number}["echo",{{"blob":{{"_placeholder":true,"num":0}}}}]', b"before"] for number in (1, 2, 3)
        ]
        assert server.frames[2::2] == [b"before"] * 3


async def test_a_bytearray_that_changes_after_emit_changes_nothing_with_msgpack(clock: Clock) -> None:
    data = [bytearray(b"before")]

    def mutate() -> None:
        data[0][:] = b"after!"

    options = {"serializer": "msgpack"}
    async with Server(**options) as server, rig(server, connect=False, sio_options=options) as it:
        await _mutated(it, clock, server, data, mutate)
        assert server.arguments() == [[b"before"]] * 3


async def test_the_frames_of_a_message_are_not_mixed_with_those_of_others(server: Server) -> None:
    """A text frame and its attachments stay together, whoever else sends between two steps of the event loop."""
    async with rig(server) as it:
        replies: Log[Any] = Log()
        for number in range(5):
            await it.client.emit("echo", [bytes([number]), b"tail"], callback=replies.add)
            await it.sio.emit("sink", f"raw {number}")
        await replies.has(5)
        assert replies == [[bytes([number]), b"tail"] for number in range(5)]
        for number in range(5):
            at = it.wire.index(
                f'52-{number + 1}["echo",[{{"_placeholder":true,"num":0}},{{"_placeholder":true,"num":1}}]]'
            )
            assert it.wire[at + 1 : at + 3] == [bytes([number]), b"tail"]
