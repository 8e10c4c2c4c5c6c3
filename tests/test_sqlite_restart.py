"""Whoever opens the file next goes on where the last one stopped; and there is one owner at a time."""

from __future__ import annotations

import asyncio
import gc
import os
import shutil
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from reliable_emit import DeliveryFailed, OutboxLocked, ReliableClient, SQLiteOutbox
from reliable_emit.outbox.sqlite import rows
from reliable_emit.outbox.sqlite.reader import Reader
from sqlite_support import offline, query, rig, sio
from support import NO_ACK, PATIENCE, Clock, Server, within

if TYPE_CHECKING:
    from pathlib import Path

    from reliable_emit.delivery import Message


def reader(path: Path) -> Reader:
    return Reader(path, rows.Clock(time.monotonic, time.time), lambda frames: (frames,))


async def killed(path: Path, *emits: Any, **options: Any) -> None:
    """Emit offline in a process that ends without a word."""
    client = ReliableClient(sio(), outbox=SQLiteOutbox(path), **options)
    for one in emits:
        await client.emit("echo", one)
    client._outbox._opened.worker.abandon()  # type: ignore[attr-defined]
    await _free(path)


async def _free(path: Path) -> None:
    """Wait until nobody in this process owns the file."""
    async with asyncio.timeout(PATIENCE):
        while True:
            gc.collect()
            outbox = SQLiteOutbox(path)
            try:
                await outbox.open(_Nobody())
            except OutboxLocked:
                await asyncio.sleep(0.01)
            else:
                outbox._opened.worker.abandon()  # type: ignore[union-attr]
                await asyncio.sleep(0.05)
                return


class _Nobody:
    def loaded(self, messages: object) -> None:
        pass

    def refused(self, message: object) -> None:
        pass

    def decode(self, frames: Any) -> tuple[Any, ...]:
        return (frames,)


async def test_a_new_owner_goes_on_with_the_oldest_message_under_the_same_offsets(
    server: Server, tmp_path: Path
) -> None:
    path = tmp_path / "outbox.db"
    async with offline(path, client_offset=True) as client:
        made = [await client.emit("echo", number) for number in range(5)]
        assert made[3].cancel()
        assert await client.close(timeout=0) == 4
    async with rig(server, path, client_offset=True) as it:
        new = await it.client.emit("echo", 5)
        await within(it.client.flush())
        assert it.client.stats.acknowledged == 5
    offsets = [delivery.offset for delivery in made]
    del offsets[3]
    assert [item.arguments for item in server.received] == [
        (number, offset) for number, offset in zip([0, 1, 2, 4, 5], [*offsets, new.offset], strict=True)
    ]
    assert len({*offsets, new.offset}) == 5
    assert query(path, "SELECT count(*) FROM message") == [(0,)]


async def test_attempts_and_dead_letters_are_remembered(server: Server, tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "outbox.db"
    server.handlers["slow"] = lambda *_: NO_ACK
    async with rig(server, path, ack_timeout=1000, retries=1) as it:
        await it.client.emit("slow", "dies")
        second = await it.client.emit("slow", "sent")
        for attempts in (1, 2, 3):
            await server.received.has(attempts)
            if attempts < 3:
                await clock.forward(1001)
        assert second.attempts == 1
    async with offline(path) as client:
        (letter,) = client.dead_letters()
        assert (letter.data, letter.reason, letter.attempts) == (("dies",), "exhausted", 2)
        assert letter.possibly_delivered
        (delivery,) = client.queue()
        assert (delivery.data, delivery.attempts) == (("sent",), 1)
        assert delivery.cancel() is False
        failure = delivery.failure
        assert failure is not None
        assert failure.possibly_delivered


@pytest.mark.parametrize("ttl", [1000.0, None])
async def test_the_time_to_live_goes_on(tmp_path: Path, clock: Clock, ttl: float | None) -> None:
    path = tmp_path / "outbox.db"
    async with offline(path) as client:
        await client.emit("echo", 1, ttl=ttl)
        await clock.forward(400)  # of this process, whose calendar does not change
    async with offline(path) as client:
        (message,) = client._outbox
        if ttl is None:
            assert message.expires_at is None
            return
        assert message.expires_at is not None
        left = message.expires_at - asyncio.get_running_loop().time()
        assert 990 < left <= 1000, "it is the calendar that counts"
        await clock.forward(1001)
        assert (client.pending, client.dead_letters()[0].reason) == (0, "expired")


class Calendar:
    """The calendar, which can be set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._true = time.time
        self.ahead = 0.0
        monkeypatch.setattr(time, "time", lambda: self._true() + self.ahead)


def left(message: Message) -> float:
    assert message.expires_at is not None
    return message.expires_at - asyncio.get_running_loop().time()


@pytest.mark.parametrize(("set_by", "least", "most"), [(600, 390, 400), (-3600, 990, 1000), (-10, 990, 1000)])
async def test_a_calendar_that_is_set_never_prolongs_the_time_to_live(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, set_by: float, least: float, most: float
) -> None:
    calendar = Calendar(monkeypatch)
    async with offline(tmp_path / "outbox.db") as client:
        await client.emit("echo", 1, ttl=1000)
    calendar.ahead += set_by
    async with offline(tmp_path / "outbox.db") as client:
        (message,) = client._outbox
        assert least < left(message) <= most


@pytest.mark.parametrize("set_by", [-3600.0, 1e9])
async def test_a_calendar_that_is_set_meanwhile_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock, set_by: float
) -> None:
    """Also for messages that have to be read from the file again: what is over is over, and what is not is not."""
    calendar = Calendar(monkeypatch)
    async with offline(tmp_path / "outbox.db", max_pending=None) as client:
        await asyncio.gather(*(client.emit("echo", number) for number in range(600)))
        await client.emit("echo", "short", ttl=1000)
        await client.emit("echo", "long", ttl=5000)
        calendar.ahead += set_by
        later = await client.emit("echo", "later", ttl=5000)
        await clock.forward(2000)
        for delivery in client.queue()[:600]:
            delivery.cancel()
        await within(_until_loaded(client))
        assert [letter.data for letter in client.dead_letters()] == [("short",)]
        assert [delivery.data for delivery in client.queue()] == [("long",), ("later",)]
        assert [round(left(message), -1) for message in client._outbox] == [3000, 3000]
    async with offline(tmp_path / "outbox.db") as client:
        assert client.queue()[-1].offset == later.offset


async def _until_loaded(client: ReliableClient) -> None:
    while client._outbox.head() is None:  # noqa: ASYNC110 - nobody tells
        await asyncio.sleep(0.01)


async def test_what_has_expired_is_not_brought_back_by_the_calendar(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    calendar = Calendar(monkeypatch)
    async with offline(tmp_path / "outbox.db") as client:
        await client.emit("echo", 1, ttl=10)
        await clock.forward(11)
        assert client.pending == 0
    calendar.ahead -= 3600
    async with offline(tmp_path / "outbox.db") as client:
        assert (client.pending, [letter.reason for letter in client.dead_letters()]) == (0, ["expired"])


# How it ended.


async def test_after_an_end_without_a_word_messages_may_have_been_sent(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    await killed(path, 1, 2)
    async with offline(path) as client:
        first, second = client.queue()
        assert (first.attempts, second.attempts) == (0, 0)
        assert first.cancel() is False
        assert first.failure is not None
        assert first.failure.possibly_delivered
        third = await client.emit("echo", 3)
        assert third.cancel() is True
    async with offline(path) as client:  # which was closed: but what is not known does not become known
        (second,) = client.queue()
        assert second.cancel() is False


async def test_after_a_clean_end_nobody_doubts(tmp_path: Path) -> None:
    async with offline(tmp_path / "outbox.db") as client:
        await client.emit("echo", 1)
    async with offline(tmp_path / "outbox.db") as client:
        assert client.queue()[0].cancel() is True


async def test_doubt_lasts_over_dying_and_being_redelivered(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "outbox.db"
    await killed(path, "x")
    async with offline(path, max_pending=1, overflow="drop_oldest") as client:
        newest = await client.emit("echo", "y")
        newest.cancel()
        (letter,) = client.dead_letters()
        assert letter.possibly_delivered
        client.redeliver(letter.offset)
    async with offline(path) as client:
        (delivery,) = client.queue()
        assert (delivery.data, delivery.attempts) == (("x",), 0)
        assert delivery.cancel() is False, "it was never found out"


# Backups.


async def test_a_restored_backup_repeats_no_offset(server: Server, tmp_path: Path) -> None:
    path, backup = tmp_path / "outbox.db", tmp_path / "backup.db"
    async with offline(path, client_offset=True) as client:
        old = [await client.emit("echo", number) for number in range(3)]
    shutil.copy(path, backup)
    code = """
import asyncio, sys, socketio
from reliable_emit import ReliableClient, SQLiteOutbox
async def main():
    sio = socketio.AsyncClient(handle_sigint=False)
    async with ReliableClient(sio, outbox=SQLiteOutbox(sys.argv[1]), client_offset=True) as client:
        await client.connect(sys.argv[2], transports="websocket")
        for number in range(3):
            print((await client.emit("echo", f"new {number}")).offset)
asyncio.run(main())
"""
    offsets = []
    for file in (path, backup):  # each in a process of its own, whose counter begins anew
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, str(file), server.url, stdout=asyncio.subprocess.PIPE
        )
        output, _ = await within(process.communicate())
        assert process.returncode == 0
        offsets += output.decode().split()
    assert len(set(offsets)) == 6
    assert not {delivery.offset for delivery in old} & set(offsets)
    arrived = [item.arguments for item in server.received]
    again = [(number, delivery.offset) for number, delivery in enumerate(old)]
    new = [(f"new {number}", offset) for number, offset in zip([0, 1, 2] * 2, offsets, strict=True)]
    assert arrived == again + new[:3] + again + new[3:], "what both have is sent twice, under the same offsets"


async def test_a_copy_that_is_made_while_it_is_in_use_can_be_opened(tmp_path: Path) -> None:
    path, copy = tmp_path / "outbox.db", tmp_path / "copy.db"
    async with offline(path) as client:
        for number in range(20):
            await client.emit("echo", number)
        query(path, "VACUUM INTO ?", str(copy))
    async with offline(copy) as client:
        assert [delivery.data[0] for delivery in client.queue()] == list(range(20))


# One owner.

_OWNER = """
import asyncio, os, sys, socketio
from reliable_emit import ReliableClient, SQLiteOutbox
async def main():
    client = ReliableClient(socketio.AsyncClient(handle_sigint=False), outbox=SQLiteOutbox(sys.argv[1]))
    for number in range(3):
        await client.emit("echo", number)
    if "fork" in sys.argv:
        child = os.fork()
        if not child:
            sys.stdin.read()
            os._exit(0)
    print("ready", flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""


def owner(path: Path, *arguments: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", _OWNER, str(path), *arguments], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


async def _refused(path: Path, process: int) -> None:
    started = time.monotonic()
    other = f"process {process}; end" if process != os.getpid() else "another client in this process; close"
    with pytest.raises(OutboxLocked, match=f"is in use by {other} that one first") as caught:
        async with offline(path):
            pass
    assert (caught.value.path, caught.value.process) == (str(path.resolve().parent / path.name), process)  # noqa: ASYNC240
    assert time.monotonic() - started < 5


async def test_a_second_owner_is_refused_at_once_until_the_first_one_is_killed(tmp_path: Path) -> None:
    path, link = tmp_path / "outbox.db", tmp_path / "link.db"
    link.symlink_to(path)
    with owner(path) as process:
        try:
            for name in (path, link):
                await _refused(name, process.pid)
            assert [message.frames for message in reader(link).pending()] == [f'2["echo",{n}]' for n in range(3)]
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
    async with offline(link) as client:
        assert [delivery.data[0] for delivery in client.queue()] == [0, 1, 2]
        for name in (path, link, tmp_path / ".." / tmp_path.name / "outbox.db"):
            await _refused(name, os.getpid())


async def test_a_forked_child_does_not_keep_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    with owner(path, "fork") as process:
        try:
            await _refused(path, process.pid)
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
        async with offline(path) as client:  # while the child lives
            assert client.pending == 3


async def test_an_outbox_that_is_dropped_lets_go_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    client = ReliableClient(sio(), outbox=SQLiteOutbox(path))
    await client.emit("echo", 1)
    del client
    await _free(path)
    async with offline(path) as again:
        assert again.pending == 1


async def test_it_can_be_looked_at_while_somebody_owns_it(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    async with offline(path, max_pending=600, overflow="drop_oldest") as client:
        made = [await client.emit("echo", number) for number in range(602)]
        look = reader(path)
        async with asyncio.timeout(PATIENCE):
            while len(look.letters()) < 2 or look.count() > 600:  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.01)
        assert [message.sequence for message in look.pending()] == list(range(3, 603))
        found, letter = look.message(made[-1].offset), look.letter(made[0].offset)
        assert found is not None
        assert letter is not None
        assert (found.frames, letter.reason, letter.data) == ('2["echo",601]', "dropped", ('2["echo",0]',))
        assert look.message("unknown") is None
        assert look.letter("unknown") is None
        with pytest.raises(DeliveryFailed):
            await made[0]


# An event loop that ends without closing it.


async def _emit(outbox: SQLiteOutbox, data: int) -> tuple[ReliableClient, list[Any]]:
    client = ReliableClient(sio(), outbox=outbox)
    await within(client.emit("echo", data))
    return client, [delivery.data[0] for delivery in client.queue()]


@pytest.mark.parametrize("same", [True, False])
def test_an_event_loop_that_has_ended_keeps_nobody_out(tmp_path: Path, *, same: bool) -> None:
    outbox = SQLiteOutbox(tmp_path / "outbox.db")

    async def leave() -> ReliableClient:
        client, _ = await _emit(outbox, 1)
        assert client.queue()[0].cancel()  # which is not in the file yet
        return client

    async def again() -> list[Any]:
        client, found = await _emit(outbox if same else SQLiteOutbox(tmp_path / "outbox.db"), 2)
        await client.close(timeout=0)
        return found

    left = asyncio.run(leave())
    assert asyncio.run(again()) == [2]
    del left


async def test_it_can_be_opened_as_soon_as_it_was_let_go_of(tmp_path: Path) -> None:
    outbox = SQLiteOutbox(tmp_path / "outbox.db")
    await outbox.open(_Nobody())
    del outbox
    gc.collect()
    outbox = SQLiteOutbox(tmp_path / "outbox.db")
    await within(outbox.open(_Nobody()))
    await outbox.close()
