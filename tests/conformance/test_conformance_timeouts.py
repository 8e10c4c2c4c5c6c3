"""Conformance with the timeouts of socket.io-client 4.8: cases 10 to 17.

JavaScript has one number with two meanings. Without `retries`, `socket.timeout(ms)` and `ackTimeout` are how long the
caller waits, also offline; after that the packet is thrown away. With `retries` they are how long one attempt waits,
and nothing bounds the whole. Ours have a name each: `ack_timeout` for one attempt on a live connection, `ttl` for how
long the message is worth delivering, wherever it is, `call(timeout=)` for how long the caller waits, which throws
nothing away.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from reliable_emit import CallTimeout, DeliveryFailed
from support import Log, rig, settle, within

if TYPE_CHECKING:
    from support import Clock, Server


async def test_case_10_a_timeout_while_offline_gives_the_message_up(server: Server, clock: Clock) -> None:
    """`socket.timeout(50).emit("event", cb)`, never connected.

    JavaScript: an error after 50 ms, nothing left in the buffer, nothing sent later. (With `retries` it never comes,
    and the message is sent after connecting.) Ours: `ttl`, and it holds with retries too.
    """
    async with rig(server, connect=False) as it:
        delivery = await it.client.emit("echo", 1, ttl=5)
        await clock.forward(5)
        with pytest.raises(DeliveryFailed) as caught:
            await within(delivery)
        assert (caught.value.reason, caught.value.attempts, caught.value.possibly_delivered) == ("expired", 0, False)
        assert it.client.pending == 0
        await it.connect()
        await it.leave()
        assert it.wire == ["0{}", "1"]


async def test_case_11_an_unknown_event_times_out(server: Server, clock: Clock) -> None:
    """`socket.timeout(50).emit("unknown", cb)`: the server has no handler for it.

    JavaScript: an error after 50 ms.
    """
    async with rig(server, retries=0) as it:
        delivery = await it.client.emit("unknown", ack_timeout=5)
        await server.received.has(1)
        await clock.forward(5)
        with pytest.raises(DeliveryFailed) as caught:
            await within(delivery)
        assert (caught.value.reason, caught.value.attempts, caught.value.possibly_delivered) == ("exhausted", 1, True)
        assert it.wire == ["0{}", '21["unknown"]']


async def test_case_12_a_timeout_of_zero_settles_exactly_once(server: Server) -> None:
    """`socket.timeout(0).emit("echo", 42, cb)`, connected: the acknowledgement comes after the timeout.

    JavaScript: one callback, with an error; the acknowledgement is ignored. The same here, once the last attempt has
    timed out.
    """
    async with rig(server, retries=0) as it:
        settled: Log[str] = Log()
        it.client.on("acknowledged", lambda delivery: settled.add(f"acknowledged {delivery.data}"))
        it.client.on("dead_lettered", lambda delivery: settled.add(f"dead {delivery.data}"))
        callbacks: list[Any] = []
        delivery = await it.client.emit("echo", 42, ack_timeout=0, callback=callbacks.append)
        with pytest.raises(DeliveryFailed, match="exhausted after 1 attempt"):
            await within(delivery)
        # The server answers in order: with this reply, the late acknowledgement of the first is here.
        assert await within(it.client.call("echo", 43)) == 43
        await settle()
        assert settled == ["dead (42,)", "acknowledged (43,)"]
        assert callbacks == []
        assert it.wire == ["0{}", '21["echo",42]', '22["echo",43]']


async def test_case_12_a_call_with_a_timeout_of_zero_gives_nothing_up(server: Server) -> None:
    """The caller does not wait, and the message is delivered all the same, once."""
    async with rig(server) as it:
        with pytest.raises(CallTimeout) as caught:
            await it.client.call("echo", 42, timeout=0)
        assert caught.value.delivery is not None
        assert await within(caught.value.delivery) == 42
        assert (it.client.stats.acknowledged, it.client.stats.sent) == (1, 1)
        assert it.wire == ["0{}", '21["echo",42]']


async def test_case_13_no_timeout_when_the_server_acknowledges_in_time(server: Server, clock: Clock) -> None:
    """`socket.timeout(50).emit("echo", 42, cb)`.

    JavaScript: `(null, 42)`, and no error later.
    """
    async with rig(server) as it:
        values: Log[int] = Log()
        delivery = await it.client.emit("echo", 42, ack_timeout=5, callback=values.add)
        assert await within(delivery) == 42
        await clock.forward(60)
        assert values == [42]
        assert delivery.state == "acknowledged"
        assert it.client.stats.timed_out == 0
        assert it.wire == ["0{}", '21["echo",42]']


async def test_case_14_a_call_of_an_unknown_event_times_out(server: Server, clock: Clock) -> None:
    """`await socket.timeout(50).emitWithAck("unknown")`.

    JavaScript: rejects. Ours raises what `AsyncClient.call` raises, and keeps the message, which nobody asked to give
    up; `ttl` or `cancel()` does.
    """
    async with rig(server) as it:
        call = asyncio.create_task(it.client.call("unknown", timeout=5))
        await server.received.has(1)
        await clock.forward(5)
        with pytest.raises(CallTimeout) as caught:
            await within(call)
        assert caught.value.delivery is not None
        assert (it.client.pending, caught.value.delivery.state) == (1, "in_flight")
        assert caught.value.delivery.cancel() is False
        assert it.client.pending == 0
        assert it.wire == ["0{}", '21["unknown"]']


async def test_case_15_a_call_does_not_time_out_when_the_server_acknowledges_in_time(
    server: Server, clock: Clock
) -> None:
    """`await socket.timeout(50).emitWithAck("echo", 42)`.

    JavaScript: 42.
    """
    async with rig(server) as it:
        assert await within(it.client.call("echo", 42, timeout=5)) == 42
        await clock.forward(60)
        assert it.client.stats.timed_out == 0
        assert it.wire == ["0{}", '21["echo",42]']


async def test_case_16_the_default_timeout_applies_unless_the_message_has_its_own(server: Server, clock: Clock) -> None:
    """`io(url, {ackTimeout: 50})`, then `emit("unknown", cb)`.

    JavaScript: an error after 50 ms. `socket.timeout(ms)` goes before `ackTimeout`, as the argument does here.
    """
    async with rig(server, ack_timeout=5, retries=0) as it:
        default = await it.client.emit("unknown", "default")
        await server.received.has(1)
        await clock.forward(5)
        assert (default.state, default.attempts) == ("dead", 1)
        own = await it.client.emit("unknown", "own", ack_timeout=50)
        await server.received.has(2)
        await clock.forward(45)
        assert not own.done()
        await clock.forward(5)
        assert own.done()
        assert (own.state, own.attempts) == ("dead", 1)
        assert it.wire == ["0{}", '21["unknown","default"]', '22["unknown","own"]']


async def test_case_17_a_plain_callback_is_not_called_upon_a_disconnect(server: Server) -> None:
    """`emit("echo", "a", cb)` and `disconnect()` in the same step.

    JavaScript: the callback is forgotten, and with it, without `retries`, the message. Ours is not called upon the
    disconnect either, and nothing of it is left with python-socketio; but the message is kept, and the callback is
    called, once, when it is acknowledged on the next connection.
    """
    async with rig(server) as it:
        server.swallow = 1
        values: Log[str] = Log()
        delivery = await it.client.emit("echo", "a", callback=values.add)
        await server.received.has(1)
        await it.leave()
        await settle()
        assert values == []
        assert it.sio.callbacks == {}
        assert delivery.state == "queued"
        await it.connect()
        assert await within(delivery) == "a"
        await values.has(1)
        await settle()
        assert values == ["a"]
        assert it.wire == ["0{}", '21["echo","a"]', "1", "0{}", '21["echo","a"]']
