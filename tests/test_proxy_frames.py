"""The proxy and WebSockets: counting frames, cutting at one, and a ReliableClient that survives all of it."""

from __future__ import annotations

import itertools
import sys
from typing import TYPE_CHECKING

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy_support import WebSocketServer, websocket
from reliable_emit.server import ReferenceServer
from reliable_emit.testing import FaultProxy
from reliable_emit.testing.frames import FrameMeter, Handshake
from support import PATIENCE, rig, settle, within

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from reliable_emit.testing import Direction, Ending, Passing

REQUEST = b"GET /ws HTTP/1.1\r\nHost: a\r\nupgrade: WebSocket\r\nConnection: Upgrade\r\n\r\n"
ANSWER = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"


@pytest.fixture
async def echo() -> AsyncIterator[WebSocketServer]:
    async with WebSocketServer() as started:
        yield started


@pytest.fixture
async def proxy(echo: WebSocketServer) -> AsyncIterator[FaultProxy]:
    async with FaultProxy("127.0.0.1", echo.port) as started:
        yield started


def frame(size: int, *, masked: bool) -> bytes:
    mark = 0x80 if masked else 0
    if size < 126:
        header = bytes([0x82, mark | size])
    elif size < 65_536:
        header = bytes([0x82, mark | 126]) + size.to_bytes(2, "big")
    else:
        header = bytes([0x82, mark | 127]) + size.to_bytes(8, "big")
    return header + b"\xff" * (4 * masked + size)


SIZES = st.one_of(st.integers(0, 130), st.sampled_from([125, 126, 127, 65_535, 65_536, 70_000]))


@given(sizes=st.lists(SIZES, max_size=6), masked=st.booleans(), data=st.data())
def test_frames_are_counted_however_they_are_cut_into_pieces(
    sizes: list[int], masked: bool, data: st.DataObject
) -> None:
    frames = [frame(size, masked=masked) for size in sizes]
    stream = b"".join(frames)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=10)))
    ends = {sum(map(len, frames[: number + 1])): number + 1 for number in range(len(frames))}
    meter = FrameMeter()
    passed = 0
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        piece, at = memoryview(stream[start:end]), 0
        while at < len(piece):
            before = meter.frames
            at, size = meter.advance(piece, at)
            passed_now = start + at
            if meter.frames > before:
                assert ends[passed_now] == meter.frames
                assert size == len(frames[before])
        passed = start + at
    assert (passed, meter.frames, meter.seen) == (len(stream), len(frames), 0)


@given(st.lists(st.integers(0, len(REQUEST) + len(ANSWER)), max_size=8))
def test_the_handshake_is_seen_however_it_is_cut_into_pieces(cuts: list[int]) -> None:
    handshake = Handshake()
    exchange: list[tuple[Direction, bytes, bytes]] = [
        ("to_server", REQUEST, b""),
        ("to_client", ANSWER, b"\x81\x01a"),
    ]
    for direction, head, rest in exchange:
        stream = head + rest
        at = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
        pieces = [stream[start:end] for start, end in itertools.pairwise(at)]
        skipped = sum(handshake.skip(direction, memoryview(piece)) for piece in pieces)
        assert skipped == len(head)
    assert handshake.skip("to_server", memoryview(b"\x81\x80mask")) == 0


def test_what_is_no_handshake_has_no_frames() -> None:
    handshake = Handshake()
    exchange: list[tuple[Direction, bytes]] = [
        ("to_server", b"POST / HTTP/1.1\r\nContent-Length: 99\r\n\r\n" + REQUEST),  # in a body
        ("to_client", ANSWER),
        ("to_server", REQUEST),
        ("to_client", b"HTTP/1.1 400 Bad Request\r\n\r\n" + ANSWER),
        ("to_server", b"\0" * 70_000 + REQUEST),
        ("to_client", b"no HTTP at all\r\n\r\n"),
        ("to_server", REQUEST),
        ("to_client", b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"),
    ]
    for direction, data in exchange:
        assert handshake.skip(direction, memoryview(data)) == len(data)
    assert handshake.skip("to_client", memoryview(ANSWER + b"\x81\x01a")) == len(ANSWER)


async def test_frames_of_a_websocket_are_counted_each_way(proxy: FaultProxy, echo: WebSocketServer) -> None:
    async with websocket(proxy.url) as ws:
        for size in (0, 125, 126, 65_535, 65_536, 300_000):
            await ws.send_bytes(b"x" * size)
            assert await within(ws.receive_bytes()) == b"r" * size
        await ws.ping()
        await proxy.passed("to_client", frames=7)  # the pong
        assert (proxy.to_server.frames, proxy.to_client.frames) == (7, 7)
    await proxy.passed("to_server", frames=8)  # the close
    assert list(map(len, echo.messages)) == [0, 125, 126, 65_535, 65_536, 300_000]


async def test_plain_http_has_no_frames_and_may_come_before_a_websocket(
    proxy: FaultProxy, echo: WebSocketServer
) -> None:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1)) as session:
        for body in (None, b"x" * 200_000, REQUEST):
            async with session.post(proxy.url, data=body) as response:
                await within(response.read())
        assert proxy.to_server.frames == proxy.to_client.frames == 0
        async with session.ws_connect(f"{proxy.url}/ws") as ws:
            await ws.send_bytes(b"x")
            await within(ws.receive_bytes())
            assert (proxy.to_server.frames, proxy.to_client.frames) == (1, 1)
    assert proxy.connected_total == 1
    assert len(echo.messages) == 1


@pytest.mark.parametrize("ending", ["fin", "rst", "blackhole"])
@pytest.mark.parametrize("passing", ["nothing", "half", "all"])
async def test_cut_at_a_frame_to_the_server(
    proxy: FaultProxy, echo: WebSocketServer, passing: Passing, ending: Ending
) -> None:
    size = 300
    proxy.cut_at("to_server", frame=3, passing=passing, ending=ending)
    async with websocket(proxy.url) as ws:
        for _ in range(2):
            await ws.send_bytes(b"x" * size)
            await within(ws.receive_bytes())
        before = proxy.to_server.bytes
        await ws.send_bytes(b"x" * size)
        if ending == "blackhole":
            await proxy.until(
                lambda: proxy._network.connections and all(c.swallowing for c in proxy._network.connections)
            )
        else:
            await proxy.disconnected()
            message = await within(ws.receive())
            assert message.type in {aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.ERROR}
        whole = len(frame(size, masked=True))
        passed = {"nothing": 0, "half": whole // 2, "all": whole}[passing]
        assert proxy.to_server.bytes - before == passed
        assert proxy.to_server.frames == 2 + (passing == "all")
        if ending == "blackhole":
            assert proxy.to_server.swallowed == whole - passed
    if passing == "all" and (ending != "rst" or sys.platform == "linux"):  # elsewhere RST may overtake it
        await echo.messages.has(3)
    elif passing != "all":
        assert len(echo.messages) == 2
    async with websocket(proxy.url) as ws:  # the cut was for one connection
        for _ in range(4):
            await ws.send_bytes(b"x")
            await within(ws.receive_bytes())


async def test_cut_at_a_frame_to_the_client(proxy: FaultProxy, echo: WebSocketServer) -> None:
    async with websocket(proxy.url) as ws:
        await ws.send_bytes(b"1")
        await within(ws.receive_bytes())
        proxy.cut_at("to_client", frame=2, passing="half")  # counted from now on
        await ws.send_bytes(b"22")
        assert await within(ws.receive_bytes()) == b"rr"
        await ws.send_bytes(b"333333")
        assert (await within(ws.receive())).type is not aiohttp.WSMsgType.BINARY
        assert proxy.to_client.frames == 2
    assert list(echo.messages) == [b"1", b"22", b"333333"]


async def test_frames_that_come_a_few_bytes_at_a_time(proxy: FaultProxy, echo: WebSocketServer) -> None:
    proxy.bandwidth(5_000)  # a hundred bytes at a time
    proxy.cut_at("to_server", frame=3, passing="half")
    async with websocket(proxy.url) as ws:
        for _ in range(2):
            await ws.send_bytes(b"x" * 250)
            await within(ws.receive_bytes())
        await ws.send_bytes(b"x" * 250)
        await proxy.disconnected()
    assert proxy.to_server.frames == 2
    assert len(echo.messages) == 2


@pytest.mark.parametrize("passing", ["nothing", "half", "all"])
async def test_frames_are_counted_right_after_a_cut_that_was_called_off(
    proxy: FaultProxy, echo: WebSocketServer, passing: Passing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reliable_emit.testing.pipe._unsent", lambda _: True)
    monkeypatch.setattr("reliable_emit.testing.pipe._UNSENT", 1000.0)
    async with websocket(proxy.url) as ws:
        await ws.send_bytes(b"x" * 300)
        await within(ws.receive_bytes())
        proxy.cut_at("to_server", frame=1, passing=passing, ending="rst")
        for _ in range(3):
            await ws.send_bytes(b"x" * 300)
        (pipe,) = proxy._network.pipes("to_server")
        await proxy.until(lambda: pipe._cut_now)
        assert proxy.to_server.frames == 1 + (passing == "all")
        proxy.heal()
        for _ in range(3):
            await within(ws.receive_bytes())
        assert proxy.to_server.frames == 4
        assert list(map(len, echo.messages)) == [300] * 4


async def test_half_of_a_frame_that_comes_byte_by_byte(proxy: FaultProxy, echo: WebSocketServer) -> None:
    async with websocket(proxy.url) as ws:
        before = proxy.to_server.bytes
        proxy.bandwidth(50, direction="to_server")
        proxy.cut_at("to_server", frame=1, passing="half")
        await ws.send_bytes(b"x" * 6)
        await proxy.disconnected()
        assert proxy.to_server.bytes - before == 6
    assert not echo.messages


# The whole: a ReliableClient and the reference server.


async def texts(server: ReferenceServer) -> list[str]:
    return [row.text for row in await server.messages()]


@pytest.mark.parametrize("ending", ["fin", "rst"])
@pytest.mark.parametrize(
    ("direction", "passing"),
    [("to_server", "nothing"), ("to_server", "half"), ("to_server", "all"), ("to_client", "half")],
)
async def test_a_message_whose_frame_is_cut_is_stored_once(
    direction: Direction, passing: Passing, ending: Ending
) -> None:
    async with (
        ReferenceServer() as server,
        FaultProxy("127.0.0.1", server.port) as proxy,
        rig(proxy.url, client_offset=True) as sender,
    ):
        await sender.client.call("chat message", "first", timeout=PATIENCE)
        proxy.cut_at(direction, frame=1, passing=passing, ending=ending)
        expected = ["first", *(f"message {number}" for number in range(5))]
        for text in expected[1:]:
            await sender.client.emit("chat message", text)
        await sender.client.flush(timeout=PATIENCE)
        await proxy.connected(2)
        assert await texts(server) == expected
        assert sender.client.stats.exhausted == 0


async def test_a_server_that_is_refused_for_a_while(caplog: pytest.LogCaptureFixture) -> None:
    async with (
        ReferenceServer() as server,
        FaultProxy("127.0.0.1", server.port) as proxy,
        rig(proxy.url, client_offset=True) as sender,
    ):
        proxy.refuse(ending="rst")
        delivery = await sender.client.emit("chat message", "waits")
        await proxy.disconnected()
        assert not delivery.done()
        proxy.heal()
        assert await within(_reply(delivery)) == 1
        assert await texts(server) == ["waits"]


async def _reply(delivery: object) -> object:
    return await delivery  # type: ignore[misc]


async def test_frozen_and_thawed_costs_nothing() -> None:
    async with (
        ReferenceServer() as server,
        FaultProxy("127.0.0.1", server.port) as proxy,
        rig(proxy.url, client_offset=True, ack_timeout=60) as sender,
    ):
        proxy.freeze()
        delivery = await sender.client.emit("chat message", "patience")
        await settle()
        assert not delivery.done()
        proxy.thaw()
        await within(_reply(delivery))
        assert delivery.attempts == 1
        assert await texts(server) == ["patience"]
