"""A client whose messages are in a file: what it waits for, how it ends, and what it leaves behind."""

from __future__ import annotations

import asyncio
import gc
import logging
import random
import sqlite3
import subprocess
import sys
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any

import pytest

from reliable_emit import ClientClosed, DeliveryFailed, FlushTimeout, OutboxFull, ReliableClient, SQLiteOutbox
from reliable_emit.outbox.sqlite import outbox as outbox_module
from reliable_emit.outbox.sqlite import writer as writer_module
from reliable_emit.outbox.sqlite.store import Store
from sqlite_support import offline, query, rig, sio, store, written
from support import NO_ACK, PATIENCE, Clock, Log, Server, settle, within

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from reliable_emit.delivery import Delivery

WINDOW = 512


def data(client: ReliableClient) -> list[Any]:
    return [delivery.data[0] for delivery in client.queue()]


async def emits(client: ReliableClient, numbers: range, **options: Any) -> list[Delivery]:
    return list(await asyncio.gather(*(client.emit("echo", number, **options) for number in numbers)))


async def until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not true():  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)


# Closing.


async def test_what_is_pending_stays_and_who_waits_is_told_where(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    client = ReliableClient(sio(), outbox=SQLiteOutbox(path), max_pending=None)
    made = await emits(client, range(600))

    async def wait(delivery: Delivery) -> object:
        return await delivery

    waiting = [asyncio.ensure_future(wait(delivery)) for delivery in (made[0], made[-1])]
    await settle()
    assert await within(client.close(timeout=0)) == 600
    for outcome in await within(asyncio.gather(*waiting, return_exceptions=True)):
        assert isinstance(outcome, ClientClosed)
        assert f"in {path}" in str(outcome)
    for delivery in (made[0], made[300], made[-1]):
        with pytest.raises(ClientClosed, match="a new ReliableClient on that outbox delivers it"):
            await within(wait(delivery))
        assert (delivery.done(), delivery.cancel(), delivery.state) == (False, False, "queued")
    with pytest.raises(ClientClosed):
        await client.emit("echo", "late")
    async with rig(server, path) as it:
        await within(it.client.flush())
    assert server.arguments() == list(range(600))


async def test_closing_in_the_middle_loses_nothing(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    for number in range(5):
        async with rig(server, path) as it:
            tasks = [asyncio.ensure_future(it.client.emit("echo", f"{number} {n}")) for n in range(20)]
            await server.received.has(len(server.received) + number)
    async with rig(server, path) as it:
        await within(it.client.flush())
    accepted = [f"{number} {n}" for number in range(5) for n in range(20)]
    arrived = list(dict.fromkeys(server.arguments()))  # again is allowed
    assert all(task.done() for task in tasks)
    assert [name for name in accepted if name in arrived] == arrived
    assert len(arrived) >= 5


class _Stuck:
    """A disk that does not answer."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.answers = threading.Event()
        self.asked = threading.Event()
        write = Store.write

        def wait(*arguments: Any) -> Any:
            self.asked.set()
            assert self.answers.wait(PATIENCE)
            return write(*arguments)

        monkeypatch.setattr(Store, "write", wait)


async def test_a_disk_that_does_not_answer_holds_up_no_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "outbox.db"
    monkeypatch.setattr(outbox_module, "_CLOSE_TIMEOUT", 0.2)
    stuck = _Stuck(monkeypatch)
    client = ReliableClient(sio(), outbox=SQLiteOutbox(path))
    await client._lifetime.opened()
    emitting = asyncio.ensure_future(client.emit("echo", 1))
    await until(stuck.asked.is_set)
    assert not emitting.done()
    await within(client.close(timeout=0))
    with pytest.raises(ClientClosed, match="may or may not have the message"):
        await within(emitting)
    assert "does not close, the disk does not answer" in caplog.text
    stuck.answers.set()
    await until(lambda: _is_free(path))


def _is_free(path: Path) -> bool:
    from reliable_emit import locking  # noqa: PLC0415

    return str(path.resolve()) not in locking._held


_UNCLOSED = """
import asyncio, sys, socketio
from reliable_emit import ReliableClient, SQLiteOutbox
async def main():
    sio = socketio.AsyncClient(handle_sigint=False)
    client = ReliableClient(sio, outbox=SQLiteOutbox(sys.argv[1]), max_pending=None)
    for number in range(3):
        await client.emit("echo", number)
    if "commit" in sys.argv:
        tasks = [asyncio.ensure_future(client.emit("echo", "x" * 50_000)) for _ in range(300)]
        await asyncio.sleep(0.01)
    global kept
    kept = client if "kept" in sys.argv else None
asyncio.run(main())
print("over", flush=True)
"""


@pytest.mark.parametrize("arguments", [(), ("kept",), ("commit",), ("commit", "kept")])
async def test_an_interpreter_ends_also_if_nobody_has_closed_the_outbox(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    path = tmp_path / "outbox.db"
    run = subprocess.run(  # noqa: ASYNC221
        [sys.executable, "-W", "error", "-c", _UNCLOSED, str(path), *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    assert (run.stdout, run.stderr) == ("over\n", "")
    async with offline(path, max_pending=None) as client:
        queue = data(client)
        assert queue[:3] == [0, 1, 2]
        assert set(queue[3:]) <= {"x" * 50_000}


# Waiting and accepting.


async def test_flush_waits_for_everything_accepted_before(server: Server, tmp_path: Path) -> None:
    async with rig(server, tmp_path / "outbox.db", connect=False, max_pending=None) as it:
        await emits(it.client, range(WINDOW + 100))
        flushing = asyncio.ensure_future(it.client.flush())
        await settle()
        later = await it.client.emit("never", "later")
        with pytest.raises(FlushTimeout, match=f"{WINDOW + 101} messages are still pending"):
            await it.client.flush(timeout=0)
        await it.connect()
        await within(flushing)
        assert server.arguments() == list(range(WINDOW + 100))
        assert it.client.pending == 1
        assert not later.done()


async def test_an_emit_that_is_cancelled_at_any_moment_disturbs_nobody(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    chance = random.Random(7)
    accepted: list[int] = []
    async with rig(server, path, max_pending=None) as it:
        for block in range(0, 400, 20):
            tasks = [asyncio.ensure_future(it.client.emit("echo", number)) for number in range(block, block + 20)]
            for task in chance.sample(tasks, 8):
                if chance.random() < 0.5:
                    await asyncio.sleep(0)
                task.cancel()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
            accepted += [block + n for n, outcome in enumerate(outcomes) if not isinstance(outcome, BaseException)]
        await within(it.client.flush())
        assert it.client.pending == 0
    arrived = server.arguments()
    assert arrived == sorted(set(arrived))
    assert set(accepted) <= set(arrived)
    assert query(path, "SELECT count(*) FROM message") == [(0,)]


async def test_emits_at_the_same_time_share_a_commit(tmp_path: Path) -> None:
    async with offline(tmp_path / "outbox.db") as client:
        statements: list[str] = []
        await store(client, lambda s: s._db.set_trace_callback(statements.append))
        await emits(client, range(64))
        await store(client, lambda s: s._db.set_trace_callback(None))
        assert sum(statement.startswith("INSERT") for statement in statements) == 64
        assert 1 <= statements.count("COMMIT") <= 3
        assert data(client) == list(range(64))


@pytest.mark.parametrize("overflow", ["raise", "wait", "drop_oldest", "drop_newest"])
async def test_overflow(server: Server, tmp_path: Path, overflow: Any) -> None:
    path = tmp_path / "outbox.db"
    async with rig(server, path, connect=False, max_pending=3, overflow=overflow) as it:
        tasks = [asyncio.ensure_future(it.client.emit("echo", number)) for number in range(5)]
        await until(lambda: all(task.done() for task in tasks[:3]))
        await settle()
        if overflow == "wait":
            assert [task.done() for task in tasks] == [True] * 3 + [False] * 2
        await it.connect()
        outcomes = await within(asyncio.gather(*tasks, return_exceptions=True))
        await within(it.client.flush())
        dead = [letter.data[0] for letter in it.client.dead_letters()]
    refused = [number for number, outcome in enumerate(outcomes) if isinstance(outcome, OutboxFull)]
    wanted = {
        "raise": ([0, 1, 2], [], [3, 4]),
        "wait": ([0, 1, 2, 3, 4], [], []),
        "drop_oldest": ([2, 3, 4], [0, 1], []),
        "drop_newest": ([0, 1, 2], [3, 4], []),
    }
    assert (server.arguments(), dead, refused) == wanted[overflow]
    async with offline(path) as client:
        assert ([letter.data[0] for letter in client.dead_letters()], client.pending) == (dead, 0)


# More than is in memory.


async def test_what_is_not_in_memory_expires_when_its_turn_comes(server: Server, tmp_path: Path, clock: Clock) -> None:
    async with rig(server, tmp_path / "outbox.db", connect=False, max_pending=None) as it:
        await emits(it.client, range(WINDOW))
        await it.client.emit("echo", "short", ttl=1000)
        long = await it.client.emit("echo", "long", ttl=9000)
        await clock.forward(1001)
        await it.connect()
        assert await within(long) == "long"
        assert [letter.data[0] for letter in it.client.dead_letters()] == ["short"]
    assert server.arguments() == [*range(WINDOW), "long"]


async def test_handles_callbacks_and_awaits_reach_beyond_what_is_in_memory(server: Server, tmp_path: Path) -> None:
    called: Log[Any] = Log()
    async with rig(server, tmp_path / "outbox.db", connect=False, max_pending=None) as it:
        await emits(it.client, range(WINDOW * 2))
        held = await it.client.emit("echo", "held")
        cancelled = await it.client.emit("echo", "cancelled")
        await it.client.emit("echo", "called", callback=called.add)
        discarded = await it.client.emit("echo", "discarded")
        call = asyncio.ensure_future(it.client.call("echo", "call"))
        await until(lambda: it.client.pending == WINDOW * 2 + 5)
        assert cancelled.cancel() is True
        it.client.discard(discarded.offset)
        assert (held.state, held.data, held.attempts) == ("queued", ("held",), 0)
        await it.connect()
        assert await within(call) == "call"
        assert await within(held) == "held"
        assert (held.state, held.attempts) == ("acknowledged", 1)
        for delivery in (cancelled, discarded):
            with pytest.raises(DeliveryFailed) as caught:
                await delivery
            assert (caught.value.reason, caught.value.possibly_delivered) == ("cancelled", False)
        await called.has(1)
        assert called == ["called"]
        assert (it.client.stats.accepted, it.client.stats.acknowledged, it.client.stats.cancelled) == (
            WINDOW * 2 + 5,
            WINDOW * 2 + 3,
            2,
        )


async def test_handles_and_messages_that_nobody_holds_do_not_pile_up(server: Server, tmp_path: Path) -> None:
    async with rig(server, tmp_path / "outbox.db", connect=False, max_pending=None) as it:
        deliveries = await emits(it.client, range(WINDOW * 3))
        references = [weakref.ref(delivery) for delivery in deliveries]
        messages = [weakref.ref(delivery._message) for delivery in deliveries]
        del deliveries
        await settle()
        gc.collect()
        assert sum(reference() is not None for reference in references) <= 1
        assert sum(reference() is not None for reference in messages) <= WINDOW
        await it.connect()
        await within(it.client.flush())
        gc.collect()
        assert not it.client._driver._handles._handles
        assert not it.client._driver._handles._kept
    assert server.arguments() == list(range(WINDOW * 3))


async def test_hooks_and_counters_count_what_comes_out_of_the_file(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    async with offline(path) as client:
        await emits(client, range(3))
        assert client.stats.accepted == 3
    told: Log[str] = Log()
    async with rig(server, path, connect=False) as it:
        for hook in ("sent", "retried", "acknowledged", "dead_lettered", "dropped"):
            it.client.on(hook, lambda delivery, hook=hook: told.add(f"{hook} {delivery.data[0]}"))
        await it.connect()
        await within(it.client.flush())
        await told.has(6)
        stats = it.client.stats
    assert told == [f"{hook} {number}" for number in range(3) for hook in ("sent", "acknowledged")]
    assert (stats.accepted, stats.sent, stats.acknowledged, stats.retried) == (0, 3, 3, 0)


# What it leaves on the disk.


def _bytes(path: Path) -> int:
    return sum(name.stat().st_size for name in path.parent.glob(f"{path.name}*"))


async def test_the_file_shrinks_after_a_backlog(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    async with offline(path, max_pending=None) as client:
        for block in range(0, 20_000, 2000):
            await asyncio.gather(*(client.emit("echo", "x" * 300) for _ in range(block, block + 2000)))
        assert _bytes(path) > 8_000_000
        while client.pending:
            for delivery in client.queue():
                delivery.cancel()
            await written(client)
        await until(lambda: _bytes(path) < 2_500_000)
    assert _bytes(path) < 2_500_000


async def test_the_file_does_not_grow_in_steady_state(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    sizes = []
    async with rig(server, path) as it:
        for _ in range(5):
            await emits(it.client, range(200))
            await within(it.client.flush())
            await written(it.client)
            while await store(it.client, Store.tidy):
                pass
            sizes.append(_bytes(path))
    assert max(sizes) <= sizes[0] + 50_000


# A disk that fails.


class _Failing:
    """A disk that fails as long as it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.fails = False
        self.tries = 0
        write = Store._write

        def fail(*arguments: Any) -> Any:
            if self.fails:
                self.tries += 1
                raise sqlite3.OperationalError("disk I/O error")
            return write(*arguments)

        monkeypatch.setattr(Store, "_write", fail)
        monkeypatch.setattr(writer_module, "_RETRY", 0.02)
        monkeypatch.setattr(writer_module, "_LAZY", 0.01)


async def test_what_became_of_messages_while_the_disk_failed_is_written_down_later(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "outbox.db"
    disk = _Failing(monkeypatch)
    async with rig(server, path, connect=False) as it:
        with caplog.at_level(logging.ERROR, "reliable_emit"):
            await emits(it.client, range(20))
            disk.fails = True
            await it.connect()
            await within(it.client.flush())
            await until(lambda: disk.tries > 5)
            assert caplog.text.count("what has become of messages is written down when that is over") == 1
            assert query(path, "SELECT count(*) FROM message") == [(20,)]
            assert it.client.pending == 0
            disk.fails = False
            await until(lambda: query(path, "SELECT count(*) FROM message") == [(0,)])
            assert len(caplog.records) == 1
    assert server.arguments() == list(range(20))


async def test_attempts_made_while_the_disk_failed_are_remembered(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "outbox.db"
    disk = _Failing(monkeypatch)
    server.handlers["slow"] = lambda *_: NO_ACK
    async with rig(server, path, connect=False) as it:
        await it.client.emit("slow", 1)
        disk.fails = True
        await it.connect()
        await server.received.has(1)
        await until(lambda: disk.tries > 1)
        disk.fails = False
    async with offline(path) as client:
        (delivery,) = client.queue()
        assert delivery.attempts == 1
        assert delivery.cancel() is False


async def test_dead_letters_are_in_order_whatever_the_disk_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "outbox.db"
    disk = _Failing(monkeypatch)
    async with offline(path, max_pending=None) as client:
        made = await emits(client, range(4))
        disk.fails = True
        for early, late in (made[:2], made[2:]):
            client._driver.withdraw(early._message, "expired", "for the shelf")
            failing = written(client)
            client._driver.withdraw(late._message, "expired", "for the shelf")  # while the other is on its way
            await failing
        assert [letter.data[0] for letter in client.dead_letters()] == [0, 1, 2, 3]
        disk.fails = False
        await written(client)
        assert [letter.data[0] for letter in client.dead_letters()] == [0, 1, 2, 3]
    async with offline(path) as client:
        assert [letter.data[0] for letter in client.dead_letters()] == [0, 1, 2, 3]


async def test_a_dead_letter_that_is_redelivered_while_the_disk_fails_is_delivered_later(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "outbox.db"
    disk = _Failing(monkeypatch)
    async with rig(server, path, connect=False, max_pending=1, overflow="drop_oldest") as it:
        first = await it.client.emit("echo", "first")
        second = await it.client.emit("echo", "second")
        await written(it.client)
        disk.fails = True
        again = it.client.redeliver(first.offset)
        await until(lambda: disk.tries > 1)
        await it.connect()
        assert await within(second) == "second"
        assert (again.state, it.client.pending, it.client.dead_letters()) == ("queued", 1, [])
        disk.fails = False
        assert await within(again) == "first"
    assert server.arguments() == ["second", "first"]
    assert time.time() - 60 < again._message.accepted_at <= time.time()


async def test_one_that_is_redelivered_at_the_second_try_still_comes_in_its_turn(tmp_path: Path) -> None:
    """Others may have been stored meanwhile; it must be neither passed over nor forgotten."""
    from reliable_emit.outbox.sqlite.window import Window  # noqa: PLC0415
    from reliable_emit.testing.outbox_contract.bench import Bench  # noqa: PLC0415

    bench = Bench(lambda _: SQLiteOutbox(tmp_path / "o.db"), tmp_path)
    for complete in (True, False):
        window = Window()
        for number in (1, 2, 4):
            window.offer(bench.message(number))
        window.complete = complete
        window.offer(bench.message(3))
        assert [message.sequence for message in window] == [1, 2, 3, 4]
        assert window.end == 4


async def test_drop_oldest_drops_the_oldest_also_of_those_that_are_stored_together(tmp_path: Path) -> None:
    async with offline(tmp_path / "outbox.db", max_pending=1, overflow="drop_oldest") as client:
        await asyncio.gather(client.emit("e", "older"), client.emit("e", "newer"))
        assert [delivery.data for delivery in client.queue()] == [("newer",)]
        assert [letter.data for letter in client.dead_letters()] == [("older",)]


async def test_the_time_to_live_of_a_message_whose_emit_was_cancelled_runs(tmp_path: Path, clock: Clock) -> None:
    async with offline(tmp_path / "outbox.db") as client:
        await client.emit("e", "first")
        emitting = asyncio.ensure_future(client.emit("e", "cancelled", ttl=10))
        await asyncio.sleep(0)
        emitting.cancel()
        await client.emit("e", "last")  # stored after that one, if it is stored
        assert [delivery.data[0] for delivery in client.queue()] == ["first", "cancelled", "last"]
        await clock.forward(11)
        assert [delivery.data[0] for delivery in client.queue()] == ["first", "last"]
