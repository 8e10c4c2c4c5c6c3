"""Where ours does something else than socket.io-client 4.8 on purpose; `docs/differences.md` has a row for each."""

from __future__ import annotations

import asyncio
import inspect
from typing import TYPE_CHECKING, Any

import pytest
import tenacity

from reliable_emit import DeliveryFailed, OutboxFull, ReliableClient
from support import NO_ACK, Log, rig, settle, within

if TYPE_CHECKING:
    from reliable_emit import Delivery
    from support import Clock, Server


async def test_a_connection_that_is_lost_again_and_again_costs_no_retry(server: Server, clock: Clock) -> None:
    """JavaScript with `retries: 2` gives up at the third loss, though the server never had a chance to answer.

    Here both retries are left after five losses.
    """
    async with rig(server, retries=2) as it:
        server.swallow = 7
        delivery = await it.client.emit("echo", "a")
        for losses in range(1, 6):
            await server.received.has(losses)
            server.cut()
            await it.downs.has(losses)
        for sends in (6, 7):
            await server.received.has(sends)
            await clock.forward(10)
        assert await within(delivery) == "a"
        assert (it.client.stats.lost, it.client.stats.timed_out) == (5, 2)
        assert it.events == [*['21["echo","a"]'] * 6, '22["echo","a"]', '23["echo","a"]']


async def test_a_message_that_ends_every_connection_is_given_up_at_last(server: Server) -> None:
    """Losses are counted apart from the retries, so that such a message does not block the others for ever."""

    def kill(_sid: str) -> object:
        server.cut()
        return NO_ACK

    server.handlers["kill"] = kill
    async with rig(server, max_losses=3) as it:
        killer = await it.client.emit("kill")
        behind = await it.client.emit("echo", "behind")
        with pytest.raises(DeliveryFailed, match="after 3 attempts: the connection was lost 3 times in a row"):
            await within(killer)
        assert await within(behind) == "behind"
        assert it.events == ['21["kill"]'] * 3 + ['21["echo","behind"]']


@pytest.mark.parametrize("backing_off", [False, True])
async def test_a_late_acknowledgement_counts(server: Server, clock: Clock, backing_off: bool) -> None:
    """JavaScript ignores it: a server slower than the timeout handles a message `retries + 1` times, and it fails."""
    answer = asyncio.Event()

    async def late(_sid: str, value: str) -> str:
        await answer.wait()
        return value

    server.handlers["late"] = late
    backoff = tenacity.wait_fixed(1000) if backing_off else tenacity.wait_none()
    async with rig(server, retries=2, backoff=backoff) as it:
        delivery = await it.client.emit("late", "a")
        await server.received.has(1)
        await clock.forward(10)
        attempts = 1 if backing_off else 2
        await server.received.has(attempts)
        answer.set()
        assert await within(delivery) == "a"
        assert (delivery.attempts, it.client.stats.timed_out) == (attempts, 1)
        # The acknowledgement of the other attempt, if there is one, is for nobody.
        assert await within(it.client.call("echo", "next")) == "next"
        assert it.client.stats.acknowledged == 2
        assert len(it.events) == attempts + 1


async def test_there_is_a_backoff_between_attempts(server: Server, clock: Clock) -> None:
    """JavaScript sends again in the step in which the timeout is over."""
    async with rig(server, backoff=tenacity.wait_fixed(7)) as it:
        server.swallow = 1
        delivery = await it.client.emit("echo", "a")
        await server.received.has(1)
        await clock.forward(10)
        await clock.forward(6)
        assert it.events == ['21["echo","a"]']
        await clock.forward(1)
        assert it.events == ['21["echo","a"]', '22["echo","a"]']
        assert await within(delivery) == "a"


async def test_a_callback_is_for_acknowledgements_alone(server: Server, clock: Clock) -> None:
    """JavaScript calls `cb(err, ...)`; ours is called as by `AsyncClient.emit`, and awaiting tells of a failure."""
    async with rig(server, retries=0) as it:
        called: Log[tuple[Any, ...]] = Log()
        lost = await it.client.emit("unknown", callback=lambda *reply: called.add(reply))
        await server.received.has(1)
        await clock.forward(10)
        with pytest.raises(DeliveryFailed):
            await within(lost)
        await it.client.emit("echo", (1, "two"), callback=lambda *reply: called.add(reply))
        await called.has(1)
        assert called == [(1, "two")]


async def test_an_ack_timeout_is_always_set() -> None:
    """JavaScript with `retries` and no `ackTimeout` takes the acknowledgement's value for an error and sends again."""
    assert inspect.signature(ReliableClient).parameters["ack_timeout"].default == 10.0


async def test_the_queue_is_bounded(server: Server) -> None:
    """JavaScript's grows until the memory is full."""
    async with rig(server, connect=False, max_pending=2) as it:
        await it.client.emit("echo", 1)
        await it.client.emit("echo", 2)
        with pytest.raises(OutboxFull):
            await it.client.emit("echo", 3)
        await it.connect()
        await within(it.client.flush())
        assert it.events == ['21["echo",1]', '22["echo",2]']


async def test_the_queue_can_be_looked_at_and_steered(server: Server) -> None:
    """JavaScript has nothing public for it."""
    async with rig(server, connect=False) as it:
        deliveries = [await it.client.emit("echo", number) for number in (1, 2, 3)]
        assert it.client.queue() == deliveries
        assert [delivery.data for delivery in it.client.queue()] == [(1,), (2,), (3,)]
        assert deliveries[1].cancel() is True
        it.client.pause()
        await it.connect()
        await settle()
        assert it.events == []
        it.client.resume()
        await within(it.client.flush())
        assert it.events == ['21["echo",1]', '22["echo",3]']


async def test_data_that_cannot_be_encoded_raises_at_emit_and_leaves_the_queue_alone(server: Server) -> None:
    """JavaScript throws from a timer, when it is that packet's turn, and the order is broken from then on."""
    loop: list[Any] = []
    loop.append(loop)
    async with rig(server, connect=False) as it:
        await it.client.emit("echo", 1)
        with pytest.raises(TypeError, match="cannot be encoded, nothing was queued"):
            await it.client.emit("echo", object())
        # A list in itself is a ValueError to json, an exhausted stack to python-socketio's search for bytes in it.
        with pytest.raises(ValueError, match="cannot be encoded, nothing was queued"):
            await it.client.emit("echo", loop)
        await it.client.emit("echo", 2)
        await it.connect()
        await within(it.client.flush())
        assert it.events == ['21["echo",1]', '22["echo",2]']


async def test_a_message_given_up_is_kept_and_can_be_delivered_again(server: Server, clock: Clock) -> None:
    """JavaScript forgets it after the callback."""
    async with rig(server, retries=0, client_offset=True) as it:
        server.swallow = 1
        delivery = await it.client.emit("echo", "a")
        await server.received.has(1)
        await clock.forward(10)
        assert delivery.state == "dead"
        [letter] = it.client.dead_letters()
        again = it.client.redeliver(letter.offset)
        assert await within(again) == ("a", delivery.offset)
        assert it.events == [f'2{number}["echo","a","{delivery.offset}"]' for number in (1, 2)]


async def test_a_server_can_refuse_a_message_for_good(server: Server) -> None:
    """Everything that is not an acknowledgement looks like silence to JavaScript, and is sent again for nothing."""
    server.handlers["refuse"] = lambda _sid: {"reliable-emit:rejected": "no such room"}
    async with rig(server) as it:
        delivery = await it.client.emit("refuse")
        with pytest.raises(DeliveryFailed, match="rejected after 1 attempt: no such room"):
            await within(delivery)
        assert it.events == ['21["refuse"]']


async def test_ack_ids_start_at_one_on_every_connection(server: Server) -> None:
    """JavaScript counts from 0, and goes on counting on the next connection."""
    async with rig(server) as it:
        await within(it.client.call("echo", "a"))
        await within(it.client.call("echo", "b"))
        server.cut()
        await it.ups.has(2)
        await within(it.client.call("echo", "c"))
        assert it.events == ['21["echo","a"]', '22["echo","b"]', '21["echo","c"]']


async def test_text_beyond_ascii_is_escaped(server: Server) -> None:
    """JavaScript sends UTF-8 where python-socketio's json module sends escapes; both mean the same."""
    async with rig(server) as it:
        assert await within(it.client.call("echo", "é😀")) == "é😀"
        assert it.events == ['21["echo","\\u00e9\\ud83d\\ude00"]']


async def test_none_is_no_argument_and_a_tuple_is_several(server: Server) -> None:
    """`emit("sink", null)` sends a null in JavaScript; here, as with `AsyncClient.emit`, `(None,)` does."""
    async with rig(server) as it:
        for data in (None, (None,), (1, "two"), (), [1, 2]):
            await within(it.client.call("sink", data))
        assert it.events == [
            *('21["sink"]', '22["sink",null]', '23["sink",1,"two"]', '24["sink"]', '25["sink",[1,2]]'),
        ]


async def test_a_volatile_message_asks_for_no_acknowledgement(server: Server) -> None:
    """JavaScript takes a callback with it; here the result says whether it was sent."""
    async with rig(server) as it:
        assert await it.client.emit_volatile("sink", 1) is True
        await server.received.has(1)
        assert await it.client.emit_volatile("sink", 2) is True
        await server.received.has(2)
        assert it.events == ['2["sink",1]', '2["sink",2]']


async def test_the_hook_sent_leaves_out_what_is_not_ours(server: Server) -> None:
    """`onAnyOutgoing` sees every event; the wrapped client's own and the volatile ones are no deliveries."""
    async with rig(server) as it:
        sent: Log[Delivery] = Log()
        it.client.on("sent", sent.add)
        await it.sio.emit("sink", "raw")
        delivery = await it.client.emit("sink", "ours")
        await within(delivery)
        assert await it.client.emit_volatile("sink", "volatile") is True
        await server.received.has(3)
        assert sent == [delivery]
        assert it.events == ['2["sink","raw"]', '21["sink","ours"]', '2["sink","volatile"]']
