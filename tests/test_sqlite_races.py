"""What may happen at the same time to a client whose messages are in a file."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import pytest

from reliable_emit import CallTimeout, FlushTimeout, OutboxLocked, OutboxUnavailable, ReliableClient, SQLiteOutbox
from reliable_emit.outbox.sqlite.store import Store
from sqlite_support import offline, rig, sio
from support import PATIENCE, Clock, Server, settle, within

if TYPE_CHECKING:
    from pathlib import Path

BEYOND = 600
"""More messages than are in memory."""


async def backlog(client: ReliableClient, number: int = BEYOND) -> None:
    await asyncio.gather(*(client.emit("echo", one) for one in range(number)))


async def test_what_is_withdrawn_beyond_what_is_in_memory_is_withdrawn_once(
    server: Server, tmp_path: Path, clock: Clock
) -> None:
    """The handle's own message went on being watched, and expired after it was discarded."""
    async with offline(tmp_path / "outbox.db", max_pending=None) as client:
        await backlog(client)
        far = [await client.emit("echo", "far", ttl=100) for _ in range(3)]
        for delivery in far:
            client.discard(delivery.offset)
        await clock.forward(101)
        await settle(20)
        assert [delivery.state for delivery in far] == ["dead"] * 3
        assert (client.stats.cancelled, client.stats.expired, client.dead_letters()) == (3, 0, [])
        assert client.pending == len(client.queue()) == BEYOND
    async with rig(server, tmp_path / "outbox.db", max_pending=None) as it:
        await within(it.client.flush())
        assert it.client.pending == 0
    assert server.arguments() == list(range(BEYOND))


async def test_a_flush_ends_when_somebody_closes_the_client(tmp_path: Path) -> None:
    client = ReliableClient(sio(), outbox=SQLiteOutbox(tmp_path / "outbox.db"))
    await client.emit("echo", 1)
    flushing = asyncio.ensure_future(client.flush())
    await settle()
    assert await within(client.close(timeout=0)) == 1
    for flush in (flushing, client.flush()):  # and one that comes too late
        with pytest.raises(FlushTimeout, match=r"1 message is still pending: in /"):
            await within(flush)
    assert client.pending == 1


async def test_a_flush_is_done_although_the_next_message_was_not_in_memory(server: Server, tmp_path: Path) -> None:
    large = "x" * 3_000_000  # so that one alone fills what is kept in memory
    server.handlers["echo"] = lambda _sid, _data: None
    async with rig(
        server, tmp_path / "outbox.db", connect=False, sio_options={"websocket_extra_options": {}}, ack_timeout=1000
    ) as it:
        for _ in range(2):
            await it.client.emit("echo", large)
        flushing = asyncio.ensure_future(it.client.flush())
        await settle()
        for _ in range(2):
            await it.client.emit("echo", large)
        served = 0

        def on_acknowledged(_: object) -> None:
            nonlocal served
            served += 1
            if served == 2:
                it.client.pause()

        it.client.on("acknowledged", on_acknowledged)
        server.sio.eio.max_http_buffer_size = 10_000_000
        await it.connect()
        await within(flushing)
        assert it.client.pending >= 1


async def test_a_call_that_is_over_while_it_is_stored_has_a_delivery(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Store.write

    def slow(self: Store, batches: Any) -> Any:
        time.sleep(0.1)
        return write(self, batches)

    async with offline(tmp_path / "outbox.db") as client:
        monkeypatch.setattr(Store, "write", slow)
        with pytest.raises(CallTimeout, match="it is still being delivered") as caught:
            await client.call("echo", 1, timeout=0.01)
        delivery = caught.value.delivery
        assert delivery is not None
        await client.emit("echo", 2)
        assert client.queue()[0].offset == delivery.offset


async def test_a_client_that_the_user_connects_delivers_what_an_earlier_one_left(
    server: Server, tmp_path: Path
) -> None:
    """Nothing opened the outbox before the first emit."""
    async with offline(tmp_path / "outbox.db") as client:
        await client.emit("echo", "left")
    wrapped = sio()
    client = ReliableClient(wrapped, outbox=SQLiteOutbox(tmp_path / "outbox.db"))
    await wrapped.connect(server.url, transports=["websocket"])
    await server.received.has(1)
    await within(client.flush())
    late = ReliableClient(wrapped, namespace="/late", outbox=SQLiteOutbox(tmp_path / "late.db"))
    assert (await late.close(timeout=0), await client.close()) == (0, 0)
    await wrapped.disconnect()


async def test_a_client_that_could_not_be_entered_can_be_made_again(tmp_path: Path) -> None:
    wrapped, path = sio(), tmp_path / "outbox.db"
    async with offline(path):
        for _ in range(2):
            with pytest.raises(OutboxLocked):
                async with ReliableClient(wrapped, outbox=SQLiteOutbox(path)):
                    raise AssertionError("entered")
    async with ReliableClient(wrapped, outbox=SQLiteOutbox(path)) as client:
        assert client.pending == 0


async def test_an_emit_that_was_cancelled_and_could_not_be_stored_holds_up_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_store: Store, _batches: Any) -> Any:
        time.sleep(0.05)
        raise OutboxUnavailable("outbox.db", "the disk is full")

    async with offline(tmp_path / "outbox.db", max_pending=1, overflow="wait") as client:
        write = Store.write
        monkeypatch.setattr(Store, "write", full)
        cancelled = asyncio.ensure_future(client.emit("echo", 1, callback=print))
        await settle(3)
        waiting = asyncio.ensure_future(client.emit("echo", 2))
        flushing = asyncio.ensure_future(client.flush())
        await settle(3)
        cancelled.cancel()
        await within(flushing)
        monkeypatch.setattr(Store, "write", write)
        await asyncio.wait({waiting}, timeout=PATIENCE)  # stored, or let in before the disk was mended
        assert waiting.done()
        assert isinstance(waiting.exception(), OutboxUnavailable | None)
        assert not client._driver._handles._kept


async def test_dropping_the_oldest_of_a_large_backlog_does_not_hold_up_the_event_loop(tmp_path: Path) -> None:
    async with offline(tmp_path / "outbox.db", max_pending=2000, overflow="drop_oldest") as client:
        await backlog(client, 2000)
        longest = 0.0

        async def watch() -> None:
            nonlocal longest
            while True:
                before = time.thread_time()
                await asyncio.sleep(0)
                longest = max(longest, time.thread_time() - before)

        watching = asyncio.ensure_future(watch())
        await asyncio.gather(*(client.emit("echo", number) for number in range(2000, 3500)))
        async with asyncio.timeout(20):
            while client.pending > 2000:  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.01)
        watching.cancel()
        assert [delivery.data[0] for delivery in client.queue()] == list(range(1500, 3500))
        assert longest < 1.0  # it took seconds; of this thread's own work


def test_an_empty_outbox_is_one(tmp_path: Path) -> None:
    assert SQLiteOutbox(tmp_path / "outbox.db")
