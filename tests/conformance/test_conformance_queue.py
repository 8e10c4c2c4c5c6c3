"""Conformance with the queue of socket.io-client 4.8 (its `retries` option): cases 1 to 6 and 27 to 32.

What "JavaScript" does below was seen by running socket.io-client 4.8.4 against socket.io 4.8 and reading the packets
it creates. python-socketio counts acknowledgements from 1, JavaScript from 0, and opens a namespace with `0{}` where
JavaScript sends `0`; apart from that the wire is the same where a test does not say otherwise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from support import NO_ACK, Log, Server, rig, settle, within

if TYPE_CHECKING:
    from reliable_emit import Delivery
    from support import Clock


async def test_case_01_three_emits_of_echo_go_out_one_by_one(server: Server) -> None:
    """Three emits before connecting, `retries: 1`.

    JavaScript: `0`, `20["echo",1]`, `21["echo",2]`, `22["echo",3]`, `1`; its queue holds 1, 2, 3 after the emits and
    2, 1, 0 in the callbacks.
    """
    async with rig(server, connect=False, retries=1) as it:
        counts = []
        acked: Log[tuple[int, int]] = Log()
        for number in (1, 2, 3):
            await it.client.emit("echo", number, callback=lambda value: acked.add((value, it.client.pending)))
            counts.append(it.client.pending)
        await it.connect()
        await acked.has(3)
        await it.leave()
        assert counts == [1, 2, 3]
        assert acked == [(1, 2), (2, 1), (3, 0)]
        assert it.wire == ["0{}", '21["echo",1]', '22["echo",2]', '23["echo",3]', "1"]


async def test_case_02_never_acknowledged_is_sent_four_times_and_fails_once(server: Server, clock: Clock) -> None:
    """`retries: 3`, and a server that answers with an event of its own instead of an acknowledgement.

    JavaScript: `20["ack"]`, `21["ack"]`, `22["ack"]`, `23["ack"]`; one callback, with an error, after four deliveries.
    """

    async def answer_by_event(sid: str) -> object:
        await server.sio.emit("ack", to=sid)
        return NO_ACK

    server.handlers["ack"] = answer_by_event
    async with rig(server, retries=3) as it:
        seen: Log[str] = Log()
        failed: Log[Delivery] = Log()
        it.sio.on("ack", lambda: seen.add("ack"))
        it.client.on("dead_lettered", failed.add)
        delivery = await it.client.emit("ack")
        for sends in (1, 2, 3, 4):
            await seen.has(sends)
            assert not delivery.done()
            await clock.forward(10)
        assert delivery.done()
        assert delivery.failure is not None
        assert (delivery.failure.reason, delivery.attempts) == ("exhausted", 4)
        assert it.sio.callbacks["/"].keys() == {0}  # where python-socketio keeps its counter: no callback is left
        await it.leave()
        assert (failed, seen) == ([delivery], ["ack"] * 4)
        assert it.wire == ["0{}", '21["ack"]', '22["ack"]', '23["ack"]', '24["ack"]', "1"]


async def test_case_03_waiting_to_connect_longer_than_the_ack_timeout_spends_no_attempt(
    server: Server, clock: Clock
) -> None:
    """`retries: 3`, `ackTimeout: 10`, connected 100 ms after the emit.

    JavaScript: `20["echo",1]` after connecting, acknowledged.
    """
    async with rig(server, connect=False, ack_timeout=10) as it:
        delivery = await it.client.emit("echo", 1)
        await clock.forward(100)
        assert (delivery.state, delivery.attempts) == ("queued", 0)
        await it.connect()
        assert await within(delivery) == 1
        assert (delivery.attempts, it.client.stats.timed_out) == (1, 0)
        assert it.wire == ["0{}", '21["echo",1]']


async def test_case_04_an_emit_in_the_connect_handler_is_sent_once(server: Server) -> None:
    """The queue is drained when the namespace connects, and the handler adds to it at the same time.

    JavaScript: `20["echo","c"]`, once. The same here, on reconnection too.
    """
    async with rig(server, connect=False) as it:
        deliveries: Log[Delivery] = Log()

        async def on_connect() -> None:
            deliveries.add(await it.client.emit("echo", f"c{len(deliveries)}"))

        it.sio.on("connect", on_connect)
        await it.connect()
        await deliveries.has(1)
        assert await within(deliveries[0]) == "c0"
        server.cut()
        await deliveries.has(2)
        assert await within(deliveries[1]) == "c1"
        assert it.wire == ["0{}", '21["echo","c0"]', "0{}", '21["echo","c1"]']
        assert server.arguments() == ["c0", "c1"]


async def test_case_05_an_emit_before_connecting_is_acknowledged_before_one_from_the_connect_handler(
    server: Server,
) -> None:
    """JavaScript: `20["echo","first"]`, `21["echo","second"]`, acknowledged in that order."""
    async with rig(server, connect=False) as it:
        acked: Log[str] = Log()

        async def on_connect() -> None:
            await it.client.emit("echo", "second", callback=acked.add)

        it.sio.on("connect", on_connect)
        await it.client.emit("echo", "first", callback=acked.add)
        await it.connect()
        await acked.has(2)
        assert acked == ["first", "second"]
        assert it.wire == ["0{}", '21["echo","first"]', '22["echo","second"]']


async def test_case_05_a_connect_handler_may_wait_for_a_message_emitted_before_connecting(server: Server) -> None:
    """JavaScript: the queue is drained before the handlers of `connect` are called."""
    async with rig(server, connect=False) as it:
        first = await it.client.emit("echo", "first")
        replies: Log[str] = Log()

        async def on_connect() -> None:
            replies.add(await within(first))

        it.sio.on("connect", on_connect)
        await it.connect()
        assert replies == ["first"]
        assert it.wire == ["0{}", '21["echo","first"]']


async def test_case_06_call_of_echo_gives_the_value(server: Server) -> None:
    """JavaScript: `await socket.emitWithAck("echo", 123)` gives 123."""
    async with rig(server) as it:
        assert await within(it.client.call("echo", 123)) == 123
        await it.leave()
        assert it.wire == ["0{}", '21["echo",123]', "1"]


async def test_case_27_hooks_see_every_packet_sent_binary_too(server: Server, clock: Clock) -> None:
    """JavaScript: `onAnyOutgoing` is called right before each packet, a repeated one included, with its arguments.

    Ours is the hook `sent`, with the delivery; what is in it is what was passed, bytes as bytes.
    """
    async with rig(server) as it:
        sent: Log[tuple[str, Any, int]] = Log()
        it.client.on("sent", lambda delivery: sent.add((delivery.event, delivery.data, delivery.attempts)))
        assert await within(it.client.call("echo", 1)) == 1
        server.swallow = 1
        delivery = await it.client.emit("echo", b"\x01\x02\x03")
        await server.received.has(2)
        await clock.forward(10)
        assert await within(delivery) == b"\x01\x02\x03"
        assert sent == [("echo", (1,), 1), ("echo", (b"\x01\x02\x03",), 1), ("echo", (b"\x01\x02\x03",), 2)]
        assert it.wire == [
            "0{}",
            '21["echo",1]',
            '51-2["echo",{"_placeholder":true,"num":0}]',
            b"\x01\x02\x03",
            '51-3["echo",{"_placeholder":true,"num":0}]',
            b"\x01\x02\x03",
        ]


async def test_case_28_two_namespaces_do_not_hold_each_other_up() -> None:
    """One namespace waits for an acknowledgement that does not come, the other goes on.

    JavaScript: `2/slow,0["unknown",1]`, `2/foo,0["echo",1]`, `2/foo,1["echo",2]`: each socket counts for itself.
    """
    async with Server("/slow", "/foo") as server, rig(server, namespaces=("/slow", "/foo")) as it:
        stuck = await it.clients["/slow"].emit("unknown", 1)
        first = await it.clients["/foo"].emit("echo", 1)
        second = await it.clients["/foo"].emit("echo", 2)
        assert [await within(first), await within(second)] == [1, 2]
        assert (stuck.state, stuck.attempts) == ("in_flight", 1)
        await it.leave()
        assert it.wire == [
            "0/slow,{}",
            "0/foo,{}",
            '2/slow,1["unknown",1]',
            '2/foo,1["echo",1]',
            '2/foo,2["echo",2]',
            "1/slow,",
            "1/foo,",
        ]


async def test_case_29_disconnecting_by_hand_keeps_the_queue_and_connecting_resumes_it(server: Server) -> None:
    """Three emits, the first in flight; disconnect, connect.

    JavaScript: `20["echo",1]`, `1`, `0`, `21["echo",1]`, `22["echo",2]`, `23["echo",3]`; the queue holds 3 meanwhile.
    python-socketio starts the ids again on every connection, and the repetition is no retry here.
    """
    async with rig(server, retries=0) as it:
        server.swallow = 1
        deliveries = [await it.client.emit("echo", number) for number in (1, 2, 3)]
        await server.received.has(1)
        await it.leave()
        await settle()
        assert it.client.pending == 3
        assert [delivery.state for delivery in deliveries] == ["queued"] * 3
        await it.connect()
        assert [await within(delivery) for delivery in deliveries] == [1, 2, 3]
        assert it.wire == ["0{}", '21["echo",1]', "1", "0{}", '21["echo",1]', '22["echo",2]', '23["echo",3]']
        assert server.arguments() == [1, 1, 2, 3]


async def test_case_30_a_callback_that_throws_stops_nothing(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    """JavaScript: the exception is uncaught and the queue stalls for good: the second message is never sent.

    Here it is logged, the delivery is acknowledged all the same, and the next message goes out.
    """

    def boom(_value: object) -> None:
        raise RuntimeError("boom")

    async with rig(server) as it:
        first = await it.client.emit("echo", 1, callback=boom)
        second = await it.client.emit("echo", 2)
        assert [await within(first), await within(second)] == [1, 2]
        assert it.wire == ["0{}", '21["echo",1]', '22["echo",2]']
    raised = [(record.name, record.exc_info[1]) for record in caplog.records if record.exc_info]
    assert [(name, str(error)) for name, error in raised] == [("reliable_emit", "boom")]


async def test_case_31_a_binary_payload_is_retried_intact(server: Server, clock: Clock) -> None:
    """Two attempts that are not acknowledged, one that is; the attachments are the same bytes each time.

    JavaScript: `52-0["echo",...]` and two binary frames, then `52-1`, then `52-2`.
    """
    blob, tail = bytes(range(256)), b"\x07"
    async with rig(server) as it:
        server.swallow = 2
        delivery = await it.client.emit("echo", {"a": blob, "b": [tail]})
        for attempts in (1, 2):
            await server.received.has(attempts)
            await clock.forward(10)
        assert await within(delivery) == {"a": blob, "b": [tail]}
        text = '52-{}["echo",{{"a":{{"_placeholder":true,"num":0}},"b":[{{"_placeholder":true,"num":1}}]}}]'
        attempts_on_the_wire = [frame for number in (1, 2, 3) for frame in (text.format(number), blob, tail)]
        assert it.events == attempts_on_the_wire
        # The first frame that a server is given is the packet that opens the namespace.
        assert server.frames[1:] == attempts_on_the_wire
        assert server.arguments() == [{"a": blob, "b": [tail]}] * 3


async def test_case_32_events_keep_their_order_over_a_server_restart(server: Server) -> None:
    """Three are acknowledged, the server is killed while the fourth is in flight, two more follow while it is down.

    JavaScript: the fourth is sent again first, then the others, in order.
    """
    async with rig(server) as it:
        for number in (0, 1, 2):
            await within(it.client.call("echo", number))
        server.swallow = 1
        await it.client.emit("echo", 3)
        await server.received.has(4)
        await server.stop()
        await it.downs.has(1)
        for number in (4, 5):
            await it.client.emit("echo", number)
        await server.start()
        await it.client.flush(timeout=20)
        assert server.arguments() == [0, 1, 2, 3, 3, 4, 5]
        assert it.events == [
            *('21["echo",0]', '22["echo",1]', '23["echo",2]', '24["echo",3]'),
            *('21["echo",3]', '22["echo",4]', '23["echo",5]'),
        ]
        assert (it.client.stats.acknowledged, it.client.stats.lost, it.client.stats.timed_out) == (6, 1, 0)
