"""The rules of delivery, each over a real socket."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from typing import Any

import pytest
import socketio
import tenacity

from reliable_emit import Delivery, DeliveryFailed, ReliableClient
from reliable_emit.delivery import rejection
from support import NO_ACK, PATIENCE, Clock, Log, Server, rig, within

# 1. Order.


async def test_concurrent_emits_arrive_in_the_order_of_their_calls(server: Server) -> None:
    async with rig(server) as it:
        deliveries = await asyncio.gather(*(it.client.emit("echo", number) for number in range(200)))
        assert await within(asyncio.gather(*deliveries)) == list(range(200))
    assert server.arguments() == list(range(200))


async def test_one_message_is_in_flight_at_a_time(server: Server) -> None:
    running = most = 0

    async def handler(_sid: str, _number: int) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1

    server.handlers["job"] = handler
    async with rig(server) as it:
        for number in range(50):
            await it.client.emit("job", number)
        assert [delivery.state for delivery in it.client.queue()] == ["in_flight"] + ["queued"] * 49
        await within(it.client.flush())
    assert most == 1


async def test_a_retry_keeps_its_place_at_the_head(server: Server, clock: Clock) -> None:
    server.swallow = 2
    async with rig(server, ack_timeout=1000) as it:
        deliveries = [await it.client.emit("echo", name) for name in "abc"]
        for attempt in (1, 2):
            await server.received.has(attempt)
            await clock.forward(1001)
        assert await within(asyncio.gather(*deliveries)) == ["a", "b", "c"]
    assert server.arguments() == ["a", "a", "a", "b", "c"]


# 2. Offset.


async def test_offsets_before_during_and_after_a_connection(server: Server) -> None:
    async with rig(server, connect=False, client_offset=True) as it:
        early = await it.client.emit("sink", "early")
        assert re.fullmatch(r"[\w-]{20}-\d+", early.offset)
        await it.connect()
        first_id = it.sio.get_sid()
        online = await it.client.emit("sink", "online")
        await within(it.client.flush())
        await it.leave()
        offline = await it.client.emit("sink", "offline")
        await it.connect()
        assert it.sio.get_sid() != first_id
        await within(it.client.flush())
        again = await it.client.emit("sink", "again")
        await within(again)
        assert online.offset.rpartition("-")[0] == first_id == offline.offset.rpartition("-")[0]
        assert again.offset.rpartition("-")[0] == it.sio.get_sid()
    counters = [int(delivery.offset.rpartition("-")[2]) for delivery in (early, online, offline, again)]
    assert counters == sorted(set(counters))
    assert [item.arguments for item in server.received] == [
        (delivery.data[0], delivery.offset) for delivery in (early, online, offline, again)
    ]


async def test_the_offset_is_the_same_on_every_attempt_and_every_connection(server: Server, clock: Clock) -> None:
    server.swallow = 3
    async with rig(server, ack_timeout=1000, client_offset=True) as it:
        delivery = await it.client.emit("sink", "x")
        await server.received.has(1)
        await clock.forward(1001)
        await server.received.has(2)
        server.cut()
        await server.received.has(3)
        server.cut()
        await within(delivery)
    assert {item.arguments for item in server.received} == {("x", delivery.offset)}
    assert delivery.attempts == len(server.received) == 4


async def test_the_counter_does_not_restart_with_a_new_wrapper_on_the_same_connection(server: Server) -> None:
    async with rig(server, client_offset=True) as it:
        first = await it.client.emit("sink", 1)
        await within(it.client.close())
        async with ReliableClient(it.sio, client_offset=True) as second:
            other = await second.emit("sink", 2)
            await within(other)
        assert first.offset.rpartition("-")[0] == other.offset.rpartition("-")[0]
        assert first.offset != other.offset


async def test_the_offset_goes_where_the_user_wants_it(server: Server) -> None:
    def place(data: dict[str, Any], offset: str) -> dict[str, Any]:
        return {**data, "id": offset}

    async with rig(server, client_offset=place, new_offset=lambda socket_id: f"mine-{socket_id}") as it:
        await within(it.client.call("sink", {"a": 1}))
        assert server.received[-1].arguments == ({"a": 1, "id": f"mine-{it.sio.get_sid()}"},)


async def test_an_offset_that_is_pending_already_is_refused(server: Server) -> None:
    async with rig(server, connect=False, new_offset=lambda _: "always") as it:
        await it.client.emit("sink")
        with pytest.raises(ValueError, match="'always', which a pending message or a dead letter has"):
            await it.client.emit("sink")
        assert it.client.pending == 1


# 3. What counts as an attempt.


async def test_a_lost_connection_is_noticed_in_milliseconds_and_costs_no_retry(server: Server) -> None:
    server.handlers["slow"] = lambda _sid: NO_ACK
    async with rig(server, ack_timeout=3600, retries=0, max_losses=None) as it:
        delivery = await it.client.emit("slow")
        for losses in range(1, 13):
            await server.received.has(losses)
            started = time.perf_counter()
            server.cut()
            await it.downs.has(losses)
            assert time.perf_counter() - started < 1.0
        server.handlers["slow"] = lambda _sid: "done"
        assert await within(delivery) == "done"
        assert it.client.stats.timed_out == 0
        assert it.client.stats.lost == 12


async def test_a_message_that_kills_every_connection_is_given_up_and_the_next_one_sent(server: Server) -> None:
    def poison_handler(_sid: str) -> object:
        server.cut()
        return NO_ACK

    server.handlers["poison"] = poison_handler
    async with rig(server, retries=None, max_losses=3) as it:
        poison = await it.client.emit("poison")
        other = await it.client.emit("echo", "survivor")
        with pytest.raises(DeliveryFailed, match="lost 3 times in a row") as caught:
            await within(poison)
        assert (caught.value.reason, caught.value.attempts, caught.value.possibly_delivered) == ("exhausted", 3, True)
        assert await within(other) == "survivor"


async def test_a_kick_is_a_lost_connection_although_the_disconnect_handler_takes_its_time(server: Server) -> None:
    server.handlers["slow"] = lambda _sid: NO_ACK
    release = asyncio.Event()
    async with rig(server, ack_timeout=3600) as it:

        async def on_disconnect(_reason: str) -> None:
            await release.wait()

        it.sio.on("disconnect", on_disconnect)
        delivery = await it.client.emit("slow")
        await server.received.has(1)
        await server.sio.disconnect(it.sio.get_sid())
        await it.downs.has(1)
        assert it.downs == ["server disconnect"]
        assert delivery.state == "queued"
        assert not it.client.connected
        release.set()


# 4. Late acknowledgements count.


async def test_an_acknowledgement_after_the_timeout_settles_the_message(server: Server, clock: Clock) -> None:
    answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def handler(_sid: str) -> str:
        return await asyncio.shield(answer)

    server.handlers["slow"] = handler
    async with rig(server, ack_timeout=1000, backoff=tenacity.wait_fixed(1000)) as it:
        delivery = await it.client.emit("slow")
        behind = await it.client.emit("echo", "behind")
        await server.received.has(1)
        await clock.forward(1001)  # the first attempt is over, the backoff runs
        assert delivery.state == "queued"
        answer.set_result("late")
        assert await within(delivery) == "late"
        assert delivery.attempts == 1
        assert await within(behind) == "behind"
    assert [item.event for item in server.received] == ["slow", "echo"]


async def test_an_acknowledgement_of_the_first_attempt_settles_it_while_the_second_is_in_flight(
    server: Server, clock: Clock
) -> None:
    gates = [asyncio.Event(), asyncio.Event()]
    calls = 0

    async def handler(_sid: str) -> int:
        nonlocal calls
        mine = calls
        calls += 1
        await gates[mine].wait()
        return mine

    server.handlers["slow"] = handler
    async with rig(server, ack_timeout=1000) as it:
        delivery = await it.client.emit("slow")
        await server.received.has(1)
        await clock.forward(1001)
        await server.received.has(2)
        gates[0].set()
        assert await within(delivery) == 0
        assert await within(it.client.call("echo", "next")) == "next"
        gates[1].set()  # the acknowledgement of the second attempt finds nobody
        assert await within(it.client.call("echo", "last")) == "last"
        assert it.client.stats.acknowledged == 3


async def test_nothing_of_ours_stays_registered_with_the_wrapped_client(server: Server, clock: Clock) -> None:
    server.swallow = 5
    async with rig(server, ack_timeout=1000, retries=1) as it:
        lost = await it.client.emit("echo", "given up")
        for attempt in (1, 2):
            await server.received.has(attempt)
            await clock.forward(1001)
        with pytest.raises(DeliveryFailed):
            await within(lost)
        server.swallow = 0
        await within(it.client.call("echo", "fine"))
        assert list(it.sio.callbacks["/"]) == [0]  # python-socketio's own counter


# 6. Nothing is dropped in silence.


async def test_an_exhausted_message_becomes_a_dead_letter_and_can_be_redelivered(
    server: Server, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    server.swallow = 2
    buried: Log[Delivery] = Log()
    async with rig(server, ack_timeout=1000, retries=1, client_offset=True) as it:
        it.client.on("dead_lettered", buried.add)
        delivery = await it.client.emit("echo", "x")
        for attempt in (1, 2):
            await server.received.has(attempt)
            with caplog.at_level(logging.WARNING, "reliable_emit"):
                await clock.forward(1001)
        with pytest.raises(DeliveryFailed, match=r"no acknowledgement within 1000 s.*redeliver") as caught:
            await within(delivery)
        assert (caught.value.reason, caught.value.attempts, caught.value.possibly_delivered) == ("exhausted", 2, True)
        assert caught.value.delivery is delivery
        assert delivery.state == "dead"
        assert delivery.failure is not None
        assert delivery.failure.reason == "exhausted"
        (letter,) = it.client.dead_letters()
        assert (
            letter.offset,
            letter.event,
            letter.data,
            letter.reason,
            letter.attempts,
            letter.possibly_delivered,
        ) == (
            delivery.offset,
            "echo",
            ("x", delivery.offset),
            "exhausted",
            2,
            True,
        )
        assert letter.accepted_at <= letter.died_at
        assert "given up: exhausted after 2 attempts" in caplog.text
        await buried.has(1)
        assert it.client.stats.exhausted == 1

        again = it.client.redeliver(letter.offset)
        assert await within(again) == ("x", delivery.offset)
        assert it.client.dead_letters() == []
        assert again.attempts == 3
    assert {item.arguments for item in server.received} == {("x", delivery.offset)}


async def test_a_rejected_message_is_settled_at_once(server: Server) -> None:
    server.handlers["picky"] = lambda _sid: rejection("too long")
    async with rig(server, ack_timeout=3600) as it:
        with pytest.raises(DeliveryFailed, match=r"too long.*refuse it again") as caught:
            await within(it.client.call("picky"))
        assert (caught.value.reason, caught.value.detail, caught.value.possibly_delivered) == (
            "rejected",
            "too long",
            True,
        )
        assert [letter.reason for letter in it.client.dead_letters()] == ["rejected"]
    assert len(server.received) == 1


# 9. Never hang: see test_ending.py.  10. A callback or hook that raises.


async def test_callbacks_and_hooks_that_raise_are_logged_and_stop_nothing(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise LookupError("sync")

    async def broken_later(*_: object) -> None:
        await asyncio.sleep(0)
        raise LookupError("async")

    async with rig(server) as it:
        for hook in ("sent", "acknowledged"):
            it.client.on(hook, broken)
            it.client.on(hook, broken_later)
        for callback in (broken, broken_later):
            await it.client.emit("echo", 1, callback=callback)
        assert await within(it.client.call("echo", 2)) == 2
        await asyncio.sleep(0)
    assert server.arguments() == [1, 1, 2]
    assert "hook 'sent' raised" in caplog.text
    assert "the callback of 'echo' raised" in caplog.text


async def test_callbacks_are_called_with_the_arguments_of_the_acknowledgement(server: Server) -> None:
    server.handlers["two"] = lambda _sid: ("a", "b")
    server.handlers["message"] = lambda _sid, text: text
    called: Log[tuple[object, ...]] = Log()
    async with rig(server) as it:
        await it.client.emit("two", callback=lambda *reply: called.add(reply))
        await it.client.emit("sink", callback=lambda *reply: called.add(reply))
        await it.client.send("hello", callback=lambda *reply: called.add(reply))
        await called.has(3)
        assert await within(it.client.call("two")) == ("a", "b")
        assert await within(it.client.call("sink")) is None
    assert called == [("a", "b"), (), ("hello",)]


async def test_a_hook_may_call_the_client(server: Server) -> None:
    async with rig(server) as it:

        async def follow(delivery: Delivery) -> None:
            if delivery.data[0] < 3:
                await it.client.emit("echo", delivery.data[0] + 1)

        it.client.on("acknowledged", follow)
        await it.client.emit("echo", 0)
        await server.received.has(4)
    assert server.arguments() == [0, 1, 2, 3]


async def test_polling_works_too(server: Server) -> None:
    async with ReliableClient(socketio.AsyncClient(handle_sigint=False)) as client:
        await client.connect(server.url, transports=["polling"])
        for number in range(20):
            await client.emit("echo", number)
        await client.flush(PATIENCE)
    assert server.arguments() == list(range(20))


async def test_more_attachments_than_a_request_takes_pass_over_polling(server: Server) -> None:
    """python-engineio's server drops a request of more than 16 packets whole, and answers that it is fine."""
    async with ReliableClient(socketio.AsyncClient(handle_sigint=False)) as client:
        await client.connect(server.url, transports=["polling"])
        many = await client.emit("echo", [bytes([number]) for number in range(100)])
        last = await client.emit("echo", "last")
        assert await within(many) == [bytes([number]) for number in range(100)]
        assert await within(last) == "last"


async def test_a_client_that_is_connected_already_can_be_wrapped(server: Server) -> None:
    sio = socketio.AsyncClient(handle_sigint=False)
    await sio.connect(server.url, transports=["websocket"])
    try:
        async with ReliableClient(sio) as client:
            assert client.connected
            assert await within(client.call("echo", "x")) == "x"
        assert sio.connected, "what the user connected is hers"
    finally:
        await sio.disconnect()
