"""Conformance with what socket.io-client 4.8 does when the connection goes and comes: cases 18 to 26."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import pytest

from support import Log, Server, rig, settle, within

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from reliable_emit import Delivery
    from support import Clock, Rig

# The JavaScript client settles with an error when it is disconnected, so the cases 18 to 21 there wait for the error
# and not for the ten seconds of the timeout. Here a lost connection is no failure: what comes at once is the end of the
# attempt, and the message is sent again, first and unchanged, as soon as there is a connection.


async def _attempt_ended(it: Rig, delivery: Delivery) -> None:
    """Assert that the loss was noticed, and not the timeout, which is longer than this suite may take."""
    await it.downs.has(1)
    await within(delivery)
    stats = it.client.stats
    assert (stats.lost, stats.timed_out, stats.retried, delivery.attempts) == (1, 0, 1, 2)
    assert it.events == ['21["echo","a"]', '21["echo","a"]']


async def test_case_18_a_disconnect_by_hand_ends_an_attempt_with_its_own_timeout_at_once(server: Server) -> None:
    """`socket.timeout(10_000).emit("echo", "a", cb)` and `disconnect()`.

    JavaScript: the callback gets an error at once.
    """
    async with rig(server) as it:
        server.swallow = 1
        delivery = await it.client.emit("echo", "a", ack_timeout=10_000)
        await server.received.has(1)
        await it.leave()
        assert (delivery.state, delivery.done()) == ("queued", False)
        assert it.client.connected is False
        await it.connect()
        await _attempt_ended(it, delivery)


async def test_case_19_a_lost_connection_ends_an_attempt_with_the_default_timeout_at_once(server: Server) -> None:
    """`ackTimeout: 10_000`, and a connection that is cut.

    JavaScript: the callback gets an error at once.
    """
    async with rig(server, ack_timeout=10_000) as it:
        server.swallow = 1
        delivery = await it.client.emit("echo", "a")
        await server.received.has(1)
        server.cut()
        await _attempt_ended(it, delivery)


async def test_case_20_a_call_survives_a_disconnect_by_hand(server: Server) -> None:
    """`socket.emitWithAck("echo", "a")` and `disconnect()`.

    JavaScript: the promise is rejected at once; without a timeout too.
    """
    async with rig(server, ack_timeout=10_000) as it:
        server.swallow = 1
        call = asyncio.create_task(it.client.call("echo", "a"))
        await server.received.has(1)
        await it.leave()
        await settle()
        [delivery] = it.client.queue()
        assert (delivery.state, call.done()) == ("queued", False)
        await it.connect()
        await _attempt_ended(it, delivery)
        assert await within(call) == "a"


async def test_case_21_a_call_with_a_timeout_survives_a_lost_connection(server: Server) -> None:
    """`socket.timeout(10_000).emitWithAck("echo", "a")`, and a connection that is cut.

    JavaScript: the promise is rejected at once.
    """
    async with rig(server, ack_timeout=10_000) as it:
        server.swallow = 1
        call = asyncio.create_task(it.client.call("echo", "a", timeout=10_000))
        await server.received.has(1)
        [delivery] = it.client.queue()
        server.cut()
        await _attempt_ended(it, delivery)
        assert await within(call) == "a"


async def test_case_22_an_emit_after_a_disconnect_is_acknowledged_after_reconnecting(server: Server) -> None:
    """`disconnect()`, `emit("echo", "a", cb)`, and `connect()` later.

    JavaScript: `0`, `1`, `0`, `20["echo","a"]`.
    """
    async with rig(server) as it:
        await it.leave()
        delivery = await it.client.emit("echo", "a")
        await it.connect()
        assert await within(delivery) == "a"
        assert delivery.attempts == 1
        assert it.wire == ["0{}", "1", "0{}", '21["echo","a"]']
        assert server.arguments() == ["a"]


class _Line:
    """A network in front of a server: it can go silent, without a word to either side."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._transports: list[asyncio.Transport] = []
        self._pumps: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[str]:
        listener = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        try:
            yield f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
        finally:
            listener.close()
            for transport in self._transports:
                transport.abort()
            await asyncio.gather(*self._pumps, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._transports += [writer.transport, far_writer.transport]  # type: ignore[list-item] # these can be paused
        for source, sink in ((reader, far_writer), (far_reader, writer)):
            self._pumps.add(asyncio.create_task(self._pump(source, sink)))

    @staticmethod
    async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65536):
                sink.write(data)
                await sink.drain()
        sink.close()

    def go_silent(self) -> None:
        """Carry nothing more on the connections there are; new ones work."""
        for transport in self._transports:
            if not transport.is_closing():
                transport.pause_reading()


async def test_case_23_a_message_emitted_after_the_ping_expired_is_acknowledged_after_reconnecting(
    clock: Clock,
) -> None:
    """The server has been silent for longer than it may, and the client has not had the time to notice.

    JavaScript looks at the clock in `emit`, closes the connection, keeps the packet and sends it after reconnecting
    (with `retries` twice: from the buffer and from the queue). Ours gives it to the connection that is dead without
    knowing it, the loss of that connection ends the attempt, and it is sent first on the next one. The server sees it
    once.
    """
    async with Server(ping_interval=25, ping_timeout=20) as server:
        line = _Line(server.port)
        async with line.open() as url, rig(url, ack_timeout=1000) as it:
            assert await within(it.client.call("echo", "before")) == "before"
            line.go_silent()
            later = asyncio.create_task(clock.forward(46))
            delivery = await it.client.emit("echo", "123")
            assert delivery.state == "in_flight"
            await later
            assert await within(delivery) == "123"
            assert len(it.ups) == 2
            assert (it.client.stats.lost, it.client.stats.timed_out) == (1, 0)
            assert server.arguments() == ["before", "123"]
            assert it.events == ['21["echo","before"]', '22["echo","123"]', '21["echo","123"]']
            assert it.sio.callbacks["/"].keys() <= {0}  # where python-socketio keeps its counter


@pytest.mark.parametrize(
    "event",
    [
        *("connect", "connect_error", "disconnect", "disconnecting", "newListener", "removeListener"),
        "__disconnect_final",  # python-socketio's own
    ],
)
async def test_case_24_a_reserved_event_name_raises_at_the_call(server: Server, event: str) -> None:
    """JavaScript: `emit` throws `"disconnecting" is a reserved event name`, for the first six of these."""
    async with rig(server) as it:
        for emit in (it.client.emit, it.client.call, it.client.emit_volatile):
            with pytest.raises(ValueError, match=f"'{event}' is a reserved event name"):
                await emit(event, "goodbye")
        assert it.client.pending == 0
        assert it.wire == ["0{}"]


async def test_case_25_the_socket_id_clears_on_disconnect(server: Server) -> None:
    """JavaScript: `socket.id` is undefined, in the disconnect handler already.

    python-socketio's `get_sid` is so only after the handler; `client.connected` is right in it.
    """
    async with rig(server, connect=False) as it:
        in_handler: Log[bool] = Log()
        it.sio.on("disconnect", lambda _reason=None: in_handler.add(it.client.connected))
        await it.connect()
        assert it.client.connected
        assert it.ups == [it.sio.get_sid()] == [await within(it.client.call("getId"))]
        await it.leave()
        assert in_handler == [False]
        assert [it.client.connected, it.sio.get_sid()] == [False, None]
        assert len(it.downs) == 1


async def test_case_26_the_socket_id_changes_on_reconnect(server: Server) -> None:
    """JavaScript: `socket.id` is undefined while reconnecting, and another one afterwards."""
    async with rig(server, client_offset=True) as it:
        offsets = [(await it.client.emit("sink", 1)).offset]
        server.cut()
        await it.ups.has(2)
        offsets.append((await it.client.emit("sink", 2)).offset)
        await within(it.client.flush())
        before, after = it.ups
        assert before != after
        assert after == it.sio.get_sid()
        assert server.connections == [("/", before), ("/", after)]
        assert [offset.rpartition("-")[0] for offset in offsets] == [before, after]
