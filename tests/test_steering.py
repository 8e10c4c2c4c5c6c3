"""Limits, dead letters, holding, pausing, cancelling, time to live, and what one can see of the queue."""

from __future__ import annotations

import asyncio
import gc
import logging
from typing import TYPE_CHECKING

import pytest
import socketio

from reliable_emit import CallTimeout, Delivery, DeliveryFailed, MemoryOutbox, OutboxFull, OutboxLocked, ReliableClient
from support import NO_ACK, Clock, Log, Server, rig, settle, within

if TYPE_CHECKING:
    from collections.abc import Callable


# Limits.


async def test_overflow_raise_queues_nothing(server: Server) -> None:
    async with rig(server, connect=False, max_pending=2) as it:
        await it.client.emit("echo", 1)
        await it.client.emit("echo", 2)
        with pytest.raises(OutboxFull, match=r"2 messages are pending\. Nothing was queued") as caught:
            await it.client.emit("echo", 3)
        assert caught.value.limit == 2
        assert it.client.pending == 2
        await it.connect()
        await within(it.client.flush())
    assert server.arguments() == [1, 2]


async def test_overflow_wait_is_first_come_first_served(server: Server) -> None:
    async with rig(server, connect=False, max_pending=2, overflow="wait") as it:
        for number in range(2):
            await it.client.emit("echo", number)
        waiting = [asyncio.ensure_future(it.client.emit("echo", number)) for number in range(2, 8)]
        await settle()
        assert not any(task.done() for task in waiting)
        waiting[1].cancel()
        await it.connect()
        late = asyncio.ensure_future(it.client.emit("echo", 8))  # must not overtake those in line
        done = [await within(task) for task in [waiting[0], *waiting[2:], late]]
        await within(asyncio.gather(*done))
    assert server.arguments() == [0, 1, 2, 4, 5, 6, 7, 8]


async def test_a_place_granted_to_a_cancelled_emit_is_passed_on(server: Server) -> None:
    async with rig(server, connect=False, max_pending=1, overflow="wait") as it:
        first = await it.client.emit("echo", "first")
        second = asyncio.ensure_future(it.client.emit("echo", "second"))
        third = asyncio.ensure_future(it.client.emit("echo", "third"))
        await settle()
        first.cancel()  # grants the place to the second ...
        second.cancel()  # ... which has not taken it yet
        assert (await within(third)).event == "echo"
        assert [delivery.data for delivery in it.client.queue()] == [("third",)]


@pytest.mark.parametrize(
    ("overflow", "kept", "dropped"), [("drop_oldest", [2, 3], [0, 1]), ("drop_newest", [0, 1], [2, 3])]
)
async def test_overflow_drops(
    server: Server, overflow: str, kept: list[int], dropped: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    told: Log[Delivery] = Log()
    async with rig(server, connect=False, max_pending=2, overflow=overflow) as it:
        it.client.on("dropped", told.add)
        deliveries = [await it.client.emit("echo", number) for number in range(4)]
        assert [delivery.data[0] for delivery in it.client.queue()] == kept
        for number in dropped:
            with pytest.raises(DeliveryFailed, match="2 messages were pending") as caught:
                await deliveries[number]
            assert (caught.value.reason, caught.value.possibly_delivered) == ("dropped", False)
        assert [letter.data[0] for letter in it.client.dead_letters()] == dropped
        await told.has(2)
        assert it.client.stats.dropped == 2
        assert caplog.text.count("is given up: dropped") == 2
        await it.connect()
        await within(it.client.flush())
    assert server.arguments() == kept


async def test_drop_oldest_spares_the_message_in_flight_if_it_can(server: Server) -> None:
    server.handlers["slow"] = lambda _sid, _name: NO_ACK
    async with rig(server, max_pending=2, overflow="drop_oldest") as it:
        flying = await it.client.emit("slow", "in flight")
        waiting = await it.client.emit("slow", "waiting")
        await it.client.emit("slow", "new")
        assert (flying.state, waiting.state) == ("in_flight", "dead")
    async with rig(server, max_pending=1, overflow="drop_oldest") as it:
        flying = await it.client.emit("slow", "in flight")
        newest = await it.client.emit("slow", "newest")
        with pytest.raises(DeliveryFailed) as caught:
            await flying
        assert caught.value.possibly_delivered
        assert newest.state == "in_flight"


async def test_dead_letters_in_memory_are_bounded(caplog: pytest.LogCaptureFixture) -> None:
    client = ReliableClient(
        socketio.AsyncClient(handle_sigint=False),
        outbox=MemoryOutbox(max_dead_letters=2),
        max_pending=1,
        overflow="drop_newest",
    )
    for number in range(5):
        await client.emit("e", number)
    assert [letter.data for letter in client.dead_letters()] == [(3,), (4,)]
    assert "the oldest are lost for good, 1 so far" in caplog.text
    await client.close(timeout=0)


# Cancelling.


async def test_cancel_says_whether_the_message_was_certainly_never_sent(server: Server) -> None:
    server.handlers["slow"] = lambda _sid: NO_ACK
    async with rig(server) as it:
        flying = await it.client.emit("slow")
        waiting = await it.client.emit("echo", "never sent")
        last = await it.client.emit("echo", "sent")
        assert waiting.cancel() is True
        assert flying.cancel() is False
        for delivery, possibly in ((waiting, False), (flying, True)):
            with pytest.raises(DeliveryFailed) as caught:
                await delivery
            assert (caught.value.reason, caught.value.possibly_delivered) == ("cancelled", possibly)
        assert await within(last) == "sent"
        assert last.cancel() is False
        assert last.state == "acknowledged"
        assert it.client.dead_letters() == []
        assert it.client.stats.cancelled == 2


async def test_cancelling_a_waiting_message_leaves_the_one_in_flight_alone(server: Server) -> None:
    gate = asyncio.Event()

    async def handler(_sid: str) -> str:
        await gate.wait()
        return "done"

    server.handlers["slow"] = handler
    async with rig(server, ack_timeout=3600) as it:
        flying = await it.client.emit("slow")
        waiting = await it.client.emit("echo", 1)
        waiting.cancel()
        gate.set()
        assert await within(flying) == "done"
    assert [item.event for item in server.received] == ["slow"]


async def test_cancelling_whoever_awaits_cancels_no_delivery(server: Server) -> None:
    async with rig(server, connect=False) as it:
        delivery = await it.client.emit("echo", "x")

        async def wait() -> object:
            return await delivery

        impatient, patient = asyncio.ensure_future(wait()), asyncio.ensure_future(wait())
        await settle()
        impatient.cancel()
        await asyncio.wait({impatient})
        assert impatient.cancelled()
        assert not delivery.done()
        await it.connect()
        assert await within(patient) == "x"
        assert await delivery == "x", "awaiting again gives the reply again"


async def test_a_failure_that_nobody_awaits_makes_no_noise(server: Server) -> None:
    problems: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: problems.append(context))
    async with rig(server, connect=False) as it:
        delivery = await it.client.emit("echo")
        delivery.cancel()
        assert delivery.failure is not None
        del delivery
        gc.collect()
        await settle()
    assert problems == []


async def test_each_awaiting_task_gets_an_exception_of_its_own(server: Server) -> None:
    async with rig(server, connect=False) as it:
        delivery = await it.client.emit("echo")

        async def wait() -> object:
            return await delivery

        tasks = [asyncio.ensure_future(wait()) for _ in range(2)]
        await settle()
        delivery.cancel()
        first, second = await within(asyncio.gather(*tasks, return_exceptions=True))
    assert isinstance(first, DeliveryFailed)
    assert isinstance(second, DeliveryFailed)
    assert first is not second


async def test_call_timeout_is_socketios_and_leaves_the_message_alone(server: Server, clock: Clock) -> None:
    async with rig(server, connect=False) as it:
        call = asyncio.ensure_future(it.client.call("echo", "x", timeout=1000))
        await settle()
        await clock.forward(1001)
        with pytest.raises(socketio.exceptions.TimeoutError, match="still being delivered") as caught:
            await within(call)
        assert isinstance(caught.value, CallTimeout)
        assert caught.value.delivery is not None
        await it.connect()
        assert await within(caught.value.delivery) == "x"


# Time to live.


async def test_time_to_live_ends_offline_in_the_middle_of_the_queue_and_in_flight(server: Server, clock: Clock) -> None:
    server.handlers["slow"] = lambda _sid: NO_ACK
    async with rig(server, connect=False, ack_timeout=100_000) as it:
        first = await it.client.emit("slow", ttl=5000)
        second = await it.client.emit("echo", 2, ttl=1000)
        third = await it.client.emit("echo", 3, ttl=9000)
        await clock.forward(1001)
        with pytest.raises(DeliveryFailed, match="time to live") as caught:
            await within(second)
        assert (caught.value.reason, caught.value.possibly_delivered) == ("expired", False)
        await it.connect()
        await server.received.has(1)
        await clock.forward(4000)
        with pytest.raises(DeliveryFailed) as caught:
            await within(first)
        assert (caught.value.reason, caught.value.possibly_delivered) == ("expired", True)
        assert await within(third) == 3
        assert [letter.reason for letter in it.client.dead_letters()] == ["expired", "expired"]
        again = it.client.redeliver(second.offset)
        await clock.forward(100)  # its time is long over; a redelivered message lives as long as it takes
        assert await within(again) == 2


async def test_any_number_of_messages_may_expire_at_once(server: Server, clock: Clock) -> None:
    async with rig(server, connect=False) as it:
        for number in range(3000):
            await it.client.emit("echo", number, ttl=1000)
        await it.client.emit("echo", "lives")
        await clock.forward(1001)
        await settle(100)  # not all in one step of the event loop
        assert it.client.stats.expired == 3000
        await it.connect()
        await within(it.client.flush())
    assert server.arguments() == ["lives"]


# Retries and timeouts of a message's own.


async def test_a_message_may_have_timeouts_and_retries_of_its_own(server: Server, clock: Clock) -> None:
    server.swallow = 3
    async with rig(server, ack_timeout=10, retries=0) as it:
        delivery = await it.client.emit("echo", "x", ack_timeout=1000, retries=None)
        for attempt in (1, 2, 3):
            await server.received.has(attempt)
            await clock.forward(11)
            assert len(server.received) == attempt
            await clock.forward(1000)
        assert await within(delivery) == "x"
        assert delivery.attempts == 4


async def test_backoff_asks_the_strategy_with_the_number_of_the_attempt(server: Server, clock: Clock) -> None:
    asked: list[int] = []

    def strategy(state: object) -> float:
        asked.append(state.attempt_number)  # type: ignore[attr-defined]
        return 1000.0

    server.swallow = 2
    async with rig(server, ack_timeout=10, backoff=strategy) as it:
        asked.clear()  # it was tried when the client was made
        delivery = await it.client.emit("echo", "x")
        for attempt in (1, 2):
            await server.received.has(attempt)
            await clock.forward(11)
            await clock.forward(989)
            assert len(server.received) == attempt
            await clock.forward(12)
        assert await within(delivery) == "x"
    assert asked == [1, 2]


async def test_a_backoff_strategy_that_fails_later_stalls_nothing(
    server: Server, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    broken = False

    def strategy(_state: object) -> float:
        if broken:
            raise LookupError("no idea")
        return 0.0

    server.swallow = 1
    async with rig(server, ack_timeout=10, backoff=strategy) as it:
        broken = True
        delivery = await it.client.emit("echo", "x")
        await server.received.has(1)
        await clock.forward(11)
        await clock.forward(1)
        assert await within(delivery) == "x"
    assert "the backoff strategy failed" in caplog.text


# Holding and pausing.


@pytest.mark.parametrize("way_out", ["redeliver", "discard", "resume", "late acknowledgement"])
async def test_hold_keeps_the_message_at_the_head_until_told(
    server: Server, clock: Clock, way_out: str, caplog: pytest.LogCaptureFixture
) -> None:
    acknowledge = asyncio.Event()

    async def handler(_sid: str) -> object:
        if way_out == "late acknowledgement":
            await acknowledge.wait()
            return "late"
        return "done" if acknowledge.is_set() else NO_ACK

    server.handlers["slow"] = handler
    async with rig(server, ack_timeout=1000, retries=0, on_exhausted="hold") as it:
        held = await it.client.emit("slow")
        behind = await it.client.emit("echo", "behind")
        await server.received.has(1)
        await clock.forward(1001)
        assert (held.state, behind.state) == ("queued", "queued")
        assert "is held at the head" in caplog.text
        assert not held.done()
        acknowledge.set()
        steps: dict[str, Callable[[], object]] = {
            "redeliver": lambda: it.client.redeliver(held.offset),
            "discard": lambda: it.client.discard(held.offset),
            "resume": it.client.resume,
            "late acknowledgement": lambda: None,
        }
        steps[way_out]()
        assert await within(behind) == "behind"
        if way_out == "discard":
            with pytest.raises(DeliveryFailed) as caught:
                await held
            assert caught.value.reason == "cancelled"
        else:
            assert await held == ("late" if way_out == "late acknowledgement" else "done")


async def test_pause_sends_nothing_more_but_hears_what_is_in_flight(server: Server) -> None:
    async with rig(server) as it:
        first = await it.client.emit("echo", 1)
        second = await it.client.emit("echo", 2)
        it.client.pause()
        assert await within(first) == 1
        await settle()
        assert second.state == "queued"
        it.client.resume()
        assert await within(second) == 2


# Looking.


async def test_the_queue_can_be_looked_at(server: Server) -> None:
    async with rig(server, connect=False, client_offset=True) as it:
        made = [await it.client.emit("echo", ("a", number)) for number in range(3)]
        queue = it.client.queue()
        assert queue == made
        assert [delivery.data for delivery in queue] == [("a", n, d.offset) for n, d in enumerate(made)]
        assert repr(made[0]) == f"<Delivery 'echo' {made[0].offset} queued, attempts=0>"
        made[1].cancel()
        assert len(queue) == 3, "a snapshot"
        assert it.client.pending == 2


async def test_discard_throws_a_dead_letter_away(server: Server) -> None:
    async with rig(server, connect=False, max_pending=1, overflow="drop_newest") as it:
        await it.client.emit("echo", 1)
        dead = await it.client.emit("echo", 2)
        it.client.discard(dead.offset)
        assert it.client.dead_letters() == []
        for lost in (it.client.discard, it.client.redeliver):
            with pytest.raises(KeyError, match=r"no .*dead letter"):
                lost(dead.offset)


async def test_stats_are_a_copy(server: Server) -> None:
    async with rig(server) as it:
        before = it.client.stats
        await within(it.client.call("echo", 1))
        await it.client.emit_volatile("echo", 2)
        after = it.client.stats
    assert (before.accepted, before.sent, before.acknowledged, before.connected) == (0, 0, 0, 1)
    assert (after.accepted, after.sent, after.acknowledged, after.retried) == (1, 1, 1, 0)
    assert (after.volatile_sent, after.volatile_dropped) == (1, 0)


async def test_hooks_tell_of_each_step(server: Server, clock: Clock) -> None:
    server.swallow = 1
    steps: Log[str] = Log()
    async with rig(server, connect=False, ack_timeout=1000) as it:
        for hook in ("sent", "retried", "acknowledged", "dead_lettered", "dropped", "connected", "disconnected"):
            it.client.on(hook, lambda _, hook=hook: steps.add(hook))
        await it.connect()
        delivery = await it.client.emit("echo")
        await server.received.has(1)
        await clock.forward(1001)
        await within(delivery)
        await it.leave()
        await steps.has(6)
    assert steps == ["connected", "sent", "sent", "retried", "acknowledged", "disconnected"]


# An outbox and a namespace have one owner.


async def test_a_second_wrapper_of_the_same_namespace_is_refused(server: Server) -> None:
    async with rig(server) as it:
        with pytest.raises(ValueError, match="'/' of this AsyncClient is wrapped already"):
            ReliableClient(it.sio)
        assert await within(it.client.call("echo", "still works")) == "still works"


async def test_a_memory_outbox_has_one_owner_at_a_time(server: Server) -> None:
    outbox = MemoryOutbox()
    async with rig(server, connect=False, outbox=outbox):
        other = ReliableClient(socketio.AsyncClient(handle_sigint=False), outbox=outbox)
        with pytest.raises(OutboxLocked, match="in use by another client"):
            await other.emit("echo")
    await within(other.flush())  # now it is free
    await other.close()


async def test_closing_is_said_once_not_for_each_message(caplog: pytest.LogCaptureFixture) -> None:
    client = ReliableClient(socketio.AsyncClient(handle_sigint=False))
    for _ in range(50):
        await client.emit("e")
    with caplog.at_level(logging.INFO, "reliable_emit"):
        assert await client.close(timeout=0) == 50
    assert len(caplog.records) == 1
