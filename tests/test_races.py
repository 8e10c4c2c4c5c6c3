"""What happens at the same time: emitting, opening, waiting for room, connecting, closing, several wrappers."""

from __future__ import annotations

import asyncio
import functools
import gc
import weakref
from typing import TYPE_CHECKING, Any

import pytest
import socketio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reliable_emit import CallTimeout, ClientClosed, DeliveryFailed, FlushTimeout, MemoryOutbox, ReliableClient
from reliable_emit.link import connecting
from support import NO_ACK, PATIENCE, Clock, Log, Server, rig, settle, within

if TYPE_CHECKING:
    from collections.abc import Callable

    from reliable_emit.delivery import DeadLetter, Message


def sio(**options: Any) -> socketio.AsyncClient:
    quick = {"reconnection_delay": 0.02, "reconnection_delay_max": 0.05, "randomization_factor": 0}
    return socketio.AsyncClient(handle_sigint=False, **(quick | options))


def data(client: ReliableClient) -> list[Any]:
    return [delivery.data[0] for delivery in client.queue()]


# Order.


async def test_the_first_emits_of_a_client_keep_their_order() -> None:
    """The first one opens the outbox; those that come while that goes on must not pass it."""
    for steps in range(8):
        client = ReliableClient(sio())
        calls: list[int] = []

        async def emit(
            number: int, client: ReliableClient = client, calls: list[int] = calls, steps: int = steps
        ) -> None:
            for _ in range(number * steps % 7):
                await asyncio.sleep(0)
            calls.append(number)
            await client.emit("e", number)

        await asyncio.gather(*(emit(number) for number in range(7)))
        assert data(client) == calls
        await client.close(timeout=0)


async def test_nobody_passes_one_who_was_called_in_from_the_line() -> None:
    client = ReliableClient(sio(), max_pending=2, overflow="wait")
    first, second = [await client.emit("e", name) for name in "ab"]
    waiting = asyncio.ensure_future(client.emit("e", "earlier"))
    await settle()
    first.cancel()
    second.cancel()  # room for two, and the one in line has not run yet
    await client.emit("e", "later")
    await waiting
    assert data(client) == ["earlier", "later"]
    await client.close(timeout=0)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("emit"), st.integers(0, 3)),
            st.tuples(st.sampled_from(["settle", "abandon", "step", "pause", "flush"]), st.integers(0, 5)),
        ),
        max_size=40,
    ),
    limit=st.integers(1, 3),
)
def test_waiting_for_room_in_every_interleaving(steps: list[tuple[str, int]], limit: int) -> None:
    """Whatever settles, is abandoned or closed in between: what is accepted is in order, and settled exactly once."""

    async def run() -> None:
        client = ReliableClient(sio(), max_pending=limit, overflow="wait")
        called: list[int] = []
        accepted: list[Any] = []
        tasks: list[asyncio.Task[None]] = []
        flushes: list[asyncio.Future[None]] = []

        async def emit(number: int) -> None:
            called.append(number)
            accepted.append(await client.emit("e", number))

        for step, argument in steps:
            match step:
                case "emit":
                    tasks.append(asyncio.ensure_future(emit(len(tasks))))
                    for _ in range(argument):
                        await asyncio.sleep(0)
                case "settle":
                    for delivery in client.queue()[: argument + 1]:
                        delivery.cancel()
                case "abandon" if tasks:
                    tasks[argument % len(tasks)].cancel()
                case "flush":
                    flushes.append(asyncio.ensure_future(client.flush(timeout=100)))
                case _:
                    await asyncio.sleep(0)
        await client.close(timeout=0)
        async with asyncio.timeout(PATIENCE):
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.gather(*flushes, return_exceptions=True)
        assert all(isinstance(outcome, ClientClosed | asyncio.CancelledError | None) for outcome in outcomes)
        numbers = [delivery.data[0] for delivery in accepted]
        assert numbers == [number for number in called if number in numbers], "passed in the line"
        assert all(delivery.done() for delivery in accepted), "accepted, and never settled"
        assert client.pending == 0

    asyncio.run(run())


async def test_two_emits_that_wait_with_the_same_offset_are_not_both_accepted() -> None:
    client = ReliableClient(sio(), new_offset=lambda _: "same")
    outcomes = await asyncio.gather(client.emit("e", 1), client.emit("e", 2), return_exceptions=True)
    assert [type(outcome).__name__ for outcome in outcomes] == ["Delivery", "ValueError"]
    assert data(client) == [1]
    await client.close(timeout=0)


# Closing.


async def test_an_emit_that_is_on_its_way_in_when_the_client_closes_is_turned_away() -> None:
    outbox = MemoryOutbox()
    client = ReliableClient(sio(), outbox=outbox)
    opening = asyncio.ensure_future(client.emit("e", "x"))
    await asyncio.sleep(0)
    assert await within(client.close(timeout=0)) == 0
    with pytest.raises(ClientClosed):
        await within(opening)
    assert client.pending == 0
    again = ReliableClient(sio(), outbox=outbox)
    await within(again.flush())  # which has an owner no more
    await again.close()

    client = ReliableClient(sio(), max_pending=1, overflow="wait")
    first = await client.emit("e", "a")
    called_in = asyncio.ensure_future(client.emit("e", "b"))
    await settle()
    first.cancel()
    await within(client.close(timeout=0))
    with pytest.raises(ClientClosed):
        await within(called_in)
    assert client.pending == 0


async def test_close_during_an_attempt_to_reconnect_ends_that_too(server: Server) -> None:
    wrapped = sio()
    client = ReliableClient(wrapped)
    await client.connect(server.url, transports="websocket")
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow(_sid: str, _environ: object, _auth: object = None) -> None:
        begun.set()
        await go_on.wait()

    server.sio.on("connect", slow)
    server.cut()
    await within(begun.wait())
    closing = asyncio.ensure_future(client.close(timeout=0))
    await settle()
    go_on.set()
    await within(closing)
    await within(_until(lambda: not connecting._endings))
    assert (wrapped.connected, wrapped.eio.state) == (False, "disconnected")
    assert wrapped._reconnect_task is None or wrapped._reconnect_task.done()


def _is_down(wrapped: socketio.AsyncClient) -> bool:
    return bool(wrapped.eio.state == "disconnected")


async def _until(true: Callable[[], object]) -> None:
    while not true():  # noqa: ASYNC110 - nobody tells
        await asyncio.sleep(0.01)


async def test_a_connect_that_overlaps_with_close_leaves_no_connection(server: Server) -> None:
    told: Log[str] = Log()
    for steps in range(6):
        wrapped = sio()
        client = ReliableClient(wrapped)
        client.on("connected", told.add)
        connect = asyncio.ensure_future(client.connect(server.url, transports="websocket"))
        for _ in range(steps * 3):
            await asyncio.sleep(0)
        await within(client.close())
        with pytest.raises(ClientClosed):
            await within(connect)
        await within(_until(functools.partial(_is_down, wrapped)))
        assert (wrapped.connected, client.connected) == (False, False)


async def test_a_connect_that_is_cancelled_as_it_succeeds_is_still_ended_by_close(server: Server) -> None:
    wrapped = sio()
    client = ReliableClient(wrapped)
    connect = asyncio.ensure_future(client.connect(server.url, transports="websocket"))
    connector = client._driver.link._tap.connector
    for _ in range(20):
        if connector._connecting is None:
            await asyncio.sleep(0)
    inner = connector._connecting
    assert inner is not None
    inner.add_done_callback(lambda _: connect.cancel())
    await asyncio.wait({connect})
    assert connect.cancelled()
    await within(client.close())
    await within(_until(lambda: not connecting._endings))
    assert not wrapped.connected


async def test_a_connection_made_by_hand_after_ours_was_ended_by_hand_is_the_users(server: Server) -> None:
    wrapped = sio()
    async with ReliableClient(wrapped) as client:
        await client.connect(server.url, transports="websocket")
        await wrapped.disconnect()
        await wrapped.connect(server.url, transports=["websocket"])
    assert wrapped.connected
    await wrapped.disconnect()


async def test_our_connection_stays_ours_when_python_socketio_has_made_it_again(server: Server) -> None:
    wrapped = sio()
    async with ReliableClient(wrapped) as client:
        await client.connect(server.url, transports="websocket")
        server.cut()
        await server.connections.has(2)
        await within(client.call("echo", 1))
    assert not wrapped.connected


async def test_close_in_the_disconnect_handler_ends_for_good(server: Server) -> None:
    wrapped = sio()
    client = ReliableClient(wrapped)
    done: Log[str] = Log()

    async def on_disconnect(reason: str) -> None:
        await client.close(timeout=1000)
        done.add(reason)

    wrapped.on("disconnect", on_disconnect)
    await client.connect(server.url, transports="websocket")
    server.handlers["slow"] = lambda _sid: NO_ACK
    await client.emit("slow")
    server.cut()
    await done.until(lambda reasons: "transport error" in reasons)
    await within(_until(lambda: not connecting._endings))
    assert (wrapped.connected, wrapped.eio.state, client.pending) == (False, "disconnected", 0)
    assert wrapped._reconnect_task is None or wrapped._reconnect_task.done()


async def test_a_disconnect_handler_that_takes_its_time_is_not_cancelled_by_close(server: Server) -> None:
    wrapped = sio()
    client = ReliableClient(wrapped)
    release = asyncio.Event()
    done: Log[str] = Log()

    async def on_disconnect(_reason: str) -> None:
        try:
            await release.wait()
        except asyncio.CancelledError:
            done.add("cancelled")
            raise
        done.add("through")

    wrapped.on("disconnect", on_disconnect)
    await client.connect(server.url, transports="websocket")
    await within(client.close())
    release.set()
    await done.has(1)
    assert done == ["through"]


async def test_closing_twice_at_once_waits_for_the_same_end(server: Server) -> None:
    server.handlers["slow"] = lambda _sid: NO_ACK
    async with rig(server) as it:
        await it.client.emit("slow")
        first = asyncio.ensure_future(it.client.close(timeout=0.2))
        await settle(1)
        second = asyncio.ensure_future(it.client.close(timeout=1000))
        await settle()
        assert not second.done()
        assert [await within(first), await within(second)] == [1, 1]


async def test_a_close_that_is_cancelled_twice_still_ends() -> None:
    outbox = MemoryOutbox()
    client = ReliableClient(sio(), outbox=outbox)
    await client.emit("e")
    closing = asyncio.ensure_future(client.close(timeout=1000))
    await settle()
    closing.cancel()
    await asyncio.sleep(0)
    closing.cancel()
    await asyncio.wait({closing})
    assert closing.cancelled()
    assert await within(client.close()) == 1
    again = ReliableClient(sio(), outbox=outbox)
    await within(again.flush())
    await again.close()


async def test_closing_tells_that_the_connection_ended(server: Server) -> None:
    told: Log[str] = Log()
    client = ReliableClient(sio())
    client.on("disconnected", told.add)
    await client.connect(server.url, transports="websocket")
    await client.close()
    await told.has(1)
    assert (client.stats.connected, client.stats.disconnected) == (1, 1)


class Durable(MemoryOutbox):
    durable = True  # as one in a file is
    where = "in a file"


async def test_a_closed_client_sends_nothing_more(server: Server) -> None:
    async with rig(server, outbox=Durable()) as it:
        it.client.pause()
        delivery = await it.client.emit("echo", "x")
        assert await it.client.close(timeout=0) == 1
        it.client.resume()
        assert delivery.cancel() is False
        await within(it.sio.call("echo", "raw"))
    assert server.arguments() == ["raw"]


async def test_a_kick_during_the_connect_handler_is_not_forgotten(server: Server) -> None:
    """python-socketio keeps the socket id then, although the server has closed the namespace."""
    wrapped = sio()
    begun, go_on = asyncio.Event(), asyncio.Event()
    told: Log[str] = Log()
    async with ReliableClient(wrapped) as client:

        async def on_connect() -> None:
            begun.set()
            await go_on.wait()

        wrapped.on("connect", on_connect)
        client.on("disconnected", told.add)
        # By hand: a connect of ours would not take that for a connection.
        connect = asyncio.ensure_future(wrapped.connect(server.url, transports=["websocket"], wait_timeout=PATIENCE))
        await within(begun.wait())
        kicked = wrapped.get_sid()
        await server.sio.disconnect(kicked)
        await told.has(1)
        go_on.set()
        await within(connect)
        await settle()
        assert wrapped.get_sid() == kicked
        assert not client.connected


# Several wrappers of one client.


async def test_the_last_wrapper_to_close_disconnects() -> None:
    async def slow(_sid: str) -> str:
        await asyncio.sleep(0.05)
        return "done"

    async with Server("/", "/b") as server:
        server.handlers["slow"] = slow
        wrapped = sio()
        async with ReliableClient(wrapped) as first, ReliableClient(wrapped, namespace="/b") as second:
            await second.connect(server.url, transports="websocket")  # all that are wrapped
            delivery = await first.emit("slow")
            assert await within(second.call("echo", 1)) == 1
        assert await delivery == "done"
        assert not wrapped.connected


async def test_connecting_must_not_leave_out_another_wrapper() -> None:
    wrapped = sio()
    async with ReliableClient(wrapped) as first, ReliableClient(wrapped, namespace="/b"):
        with pytest.raises(ValueError, match="leaves out '/b'"):
            await first.connect("http://127.0.0.1:1", namespaces=["/"])


async def test_a_client_that_was_never_closed_can_be_collected() -> None:
    def made() -> tuple[weakref.ref[Any], weakref.ref[Any]]:
        wrapped = sio()
        client = ReliableClient(wrapped)
        return weakref.ref(wrapped), weakref.ref(client)

    references = [made() for _ in range(5)]
    gc.collect()
    assert [reference() for pair in references for reference in pair] == [None] * 10


async def test_a_dead_letter_does_not_keep_its_client(server: Server) -> None:
    outbox = MemoryOutbox()
    client = ReliableClient(sio(), outbox=outbox, max_pending=1, overflow="drop_newest")
    reference = weakref.ref(client)
    for number in range(2):
        await client.emit("e", number)
    await client.close(timeout=0)
    del client
    gc.collect()
    assert reference() is None
    assert [letter.data for letter in outbox.dead_letters()] == [(1,), (0,)]


# Time.


async def test_the_timeout_of_a_call_covers_the_wait_for_room(clock: Clock) -> None:
    client = ReliableClient(sio(), max_pending=1, overflow="wait")
    await client.emit("e")
    call = asyncio.ensure_future(client.call("e", timeout=1000))
    await settle()
    await clock.forward(1001)
    with pytest.raises(CallTimeout, match="no room for 'e' within 1000 s; nothing was queued") as caught:
        await within(call)
    assert caught.value.delivery is None
    assert client.pending == 1
    await client.close(timeout=0)


async def test_a_message_that_expired_while_waiting_for_room_is_never_sent(server: Server, clock: Clock) -> None:
    async with rig(server, max_pending=1, overflow="wait") as it:
        it.client.pause()
        first = await it.client.emit("echo", "first")
        waiting = asyncio.ensure_future(it.client.emit("echo", "expired", ttl=1000))
        await settle()
        await clock.forward(1001)
        it.client.resume()
        await within(first)
        expired = await within(waiting)
        with pytest.raises(DeliveryFailed) as caught:
            await within(expired)
        assert (caught.value.reason, caught.value.possibly_delivered) == ("expired", False)
        await within(it.client.call("echo", "last"))
    assert server.arguments() == ["first", "last"]


async def test_waiting_in_a_disconnect_handler_is_refused(server: Server) -> None:
    """python-socketio reconnects only after the handler has returned, so it would wait for ever."""
    wrapped = sio()
    errors: Log[str] = Log()
    async with ReliableClient(wrapped) as client:

        async def on_disconnect(_reason: str) -> None:
            delivery = await client.emit("echo", "accepted")
            for wait in (client.call("echo", "refused"), client.flush(), _awaited(delivery)):
                try:
                    await wait
                except RuntimeError as error:
                    errors.add(str(error))

        wrapped.on("disconnect", on_disconnect)
        await client.connect(server.url, transports="websocket")
        server.cut()
        await errors.has(3)
        assert all("inside a disconnect handler" in error for error in errors)
        await server.received.has(1)
        wrapped.on("disconnect", lambda _reason: None)
    assert server.arguments() == ["accepted"]


async def _awaited(delivery: Any) -> object:
    return await delivery


async def test_waiting_in_the_disconnect_handler_of_a_kick_is_refused_for_that_namespace_alone() -> None:
    outcomes: Log[object] = Log()
    async with Server("/", "/b") as server:
        wrapped = sio()
        async with ReliableClient(wrapped) as client, ReliableClient(wrapped, namespace="/b") as other:

            async def on_disconnect(_reason: str) -> None:
                for wrapper in (client, other):
                    try:
                        outcomes.add(await within(wrapper.call("echo", "fine")))
                    except RuntimeError as error:
                        outcomes.add(type(error))

            wrapped.on("disconnect", on_disconnect)
            await client.connect(server.url, transports="websocket")
            await server.sio.disconnect(wrapped.get_sid("/"))
            await outcomes.has(2)
            assert outcomes == [RuntimeError, "fine"]
            wrapped.on("disconnect", lambda _reason: None)


async def test_many_flushes_cost_no_more_than_many_messages() -> None:
    """Each settled message once looked at every flush: four times as many took sixteen times as long."""
    client = ReliableClient(sio(), max_pending=None)
    looked = 0
    head = client._outbox.head

    def counted() -> Message | None:
        nonlocal looked
        looked += 1
        return head()

    client._outbox.head = counted  # type: ignore[method-assign]
    deliveries, flushes = [], []
    for number in range(300):
        deliveries.append(await client.emit("e", number))
        flushes.append(asyncio.ensure_future(client.flush()))
        await asyncio.sleep(0)
    looked = 0
    for delivery in deliveries:
        delivery.cancel()
    await within(asyncio.gather(*flushes))
    assert looked < 4 * len(deliveries)
    await client.close()


# Dead letters and offsets.


async def test_a_redelivered_message_outlives_the_time_it_had_before(server: Server, clock: Clock) -> None:
    async with rig(server, connect=False, max_pending=1, overflow="drop_oldest") as it:
        first = await it.client.emit("echo", "first", ttl=1000)
        second = await it.client.emit("echo", "second")  # drops the first
        second.cancel()
        again = it.client.redeliver(first.offset)
        await clock.forward(1001)
        await it.connect()
        assert await within(again) == "first"


async def test_redeliver_opens_the_outbox_of_a_client_that_did_nothing_yet(server: Server) -> None:
    outbox = MemoryOutbox()
    first = ReliableClient(sio(), outbox=outbox)
    delivery = await first.emit("echo", "x")
    await first.close(timeout=0)
    with pytest.raises(DeliveryFailed, match="a new ReliableClient on the same outbox can redeliver"):
        await delivery
    wrapped = sio()
    await wrapped.connect(server.url, transports=["websocket"])
    second = ReliableClient(wrapped, outbox=outbox)
    assert await within(second.redeliver(delivery.offset)) == "x"
    await second.close()
    await wrapped.disconnect()


async def test_an_offset_on_the_shelf_is_refused_like_one_in_the_queue(clock: Clock) -> None:
    client = ReliableClient(sio(), new_offset=lambda _: "same")
    dead = await client.emit("e", 1, ttl=10)
    await clock.forward(11)
    assert dead.state == "dead"
    with pytest.raises(ValueError, match="or a dead letter has already"):
        await client.emit("e", 2)
    again = client.redeliver("same")
    assert (dead.state, dead.attempts, again.state) == ("dead", 0, "queued"), "the old handle keeps to what it knew"
    with pytest.raises(FlushTimeout):
        await client.flush(timeout=0)
    await client.close(timeout=0)


class Forgetful(MemoryOutbox):
    """An outbox whose disk fails."""

    def remove(self, message: Message) -> None:
        super().remove(message)
        raise OSError("no space left")

    def bury(self, letter: DeadLetter) -> None:
        super().bury(letter)
        raise OSError("no space left")


async def test_an_outbox_that_cannot_record_stalls_nothing(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    async with rig(server, outbox=Forgetful()) as it:
        first, second = [await it.client.emit("echo", number) for number in range(2)]
        assert (await within(first), await within(second)) == (0, 1)
    assert caplog.text.count("the outbox could not record") == 2


async def test_a_kick_is_noticed_at_once_with_the_msgpack_serializer() -> None:
    release = asyncio.Event()

    async def on_disconnect(_reason: str) -> None:
        await release.wait()

    async with Server(serializer="msgpack") as server, rig(server, sio_options={"serializer": "msgpack"}) as it:
        it.sio.on("disconnect", on_disconnect)
        await server.sio.disconnect(it.sio.get_sid())
        await it.downs.has(1)
        assert not it.client.connected
        release.set()
