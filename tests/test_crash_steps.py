"""A sender that is killed at every step between ``emit``, commit, sending, acknowledgement and delete loses nothing."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import functools
import os
import re
import shutil
import signal
import sqlite3
import time
from typing import TYPE_CHECKING, Any, Literal

import pytest

from cli_support import fast_dir
from crash_support import EVENT, Witness, Zygote, connect, say, sender
from reliable_emit import DeadLetter, Delivery, DeliveryFailed, FlushTimeout, SQLiteOutbox
from reliable_emit.server import ReferenceServer
from support import within

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from reliable_emit.delivery import Message

__all__ = ["fast_dir"]

TEXTS = {1: "alone", 2: "one of two", 3: "two of two", 4: "nobody takes this", 5: "answered late", 6: "meanwhile"}
REJECTED, LATE, MEANWHILE = 4, 5, 6

STEPS = {
    "PRAGMA journal_mode",
    "CREATE TABLE message",
    "BEGIN",
    "INSERT INTO message",
    "INSERT INTO dead_letter",
    "DELETE FROM message",
    "UPDATE message",
    "UPDATE state",
    "COMMIT",
    "committed",
    "accepted",
    "send 40",
    "send 42",
    "acknowledged",
    "rejected",
    "PRAGMA wal_checkpoint",
    "end",
}
"""Kinds of steps at which it has to be killed; ``send`` with the types of the packet, Engine.IO's and Socket.IO's."""


class Steps:
    """Counts what is about to happen, each kind apart, and dies at one."""

    def __init__(self, last: str | None) -> None:
        self._last = last
        self._count: collections.Counter[str] = collections.Counter()

    def __call__(self, kind: str) -> None:
        self._count[kind] += 1
        step = f"{kind}, {self._count[kind]}"
        say(f"step {step}")
        if step == self._last:
            os.kill(os.getpid(), signal.SIGKILL)

    def statement(self, sql: str) -> None:
        found = re.match(r"(?:PRAGMA|CREATE TABLE|DELETE FROM|UPDATE|INSERT (?:OR \w+ )?INTO)\s+\w+|\w+", sql.strip())
        assert found is not None, sql
        self(re.sub(r" OR \w+", "", found[0]))


def watch_sqlite(steps: Steps) -> None:
    """Have every statement be a step before it is executed, and every commit one afterwards as well."""

    class Connection(sqlite3.Connection):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self.set_trace_callback(steps.statement)

        def execute(self, sql: str, *arguments: Any) -> sqlite3.Cursor:
            cursor = super().execute(sql, *arguments)
            if sql == "COMMIT":
                steps("committed")
            return cursor

    sqlite3.connect = functools.partial(sqlite3.connect, factory=Connection)  # type: ignore[assignment]


class WatchedOutbox(SQLiteOutbox):
    """Has every acknowledgement be a step, before anything is done about it."""

    steps: Steps

    def remove(self, message: Message) -> None:
        if message.state == "acknowledged":
            self.steps("acknowledged")
        super().remove(message)

    def bury(self, letter: DeadLetter) -> None:
        self.steps("rejected")
        super().bury(letter)


async def live(path: str, url: str, key: int, last: str | None, synchronous: Literal["full", "normal"]) -> None:
    """Emit all messages, and die at the step `last`."""
    steps = Steps(last)
    watch_sqlite(steps)

    def outbox(path: str | Path) -> SQLiteOutbox:
        opened = WatchedOutbox(path, synchronous=synchronous)
        opened.steps = steps
        return opened

    client = sender(path, outbox)
    put_nowait = client._driver.link.sio.eio.queue.put_nowait

    def put(packet: Any) -> None:
        steps("send the end" if packet is None else f"send {packet.encode()[:2]}")
        put_nowait(packet)

    client._driver.link.sio.eio.queue.put_nowait = put

    async def emit(number: int) -> Delivery:
        say(f"called {number}")
        event = EVENT if number != REJECTED else "unheard of"
        delivery: Delivery = await client.emit(event, f"{key} {number}")
        say(f"accepted {number}")
        steps("accepted")
        return delivery

    await connect(client, url)
    await (await emit(1))
    for delivery in await asyncio.gather(emit(2), emit(3)):
        await delivery
    with contextlib.suppress(DeliveryFailed):
        await (await emit(REJECTED))
    await emit(LATE)  # not answered before the next one is accepted: so that there are attempts to write down
    await emit(MEANWHILE)
    remaining = await client.close()
    steps("end")
    say(f"closed {remaining}")


async def recover(path: str, url: str) -> None:
    """Go on with what is left."""
    client = sender(path)
    with contextlib.suppress(FlushTimeout):
        await client.flush(timeout=0)  # opens the file
    for delivery in client.queue():
        assert delivery.data[1] == delivery.offset
        say(f"pending {delivery.data[0].split()[1]}")
    for letter in client.dead_letters():
        say(f"dead {letter.data[0].split()[1]}")
    await connect(client, url)
    await client.flush(timeout=30)
    for letter in client.dead_letters():
        say(f"given up {letter.data[0].split()[1]}")
    say(f"closed {await client.close()}")


@pytest.mark.parametrize("synchronous", ["full", "normal"])
async def test_a_sender_killed_at_any_step_loses_and_doubles_nothing(
    fast_dir: Path, synchronous: Literal["full", "normal"]
) -> None:
    started = time.monotonic()
    go_on: asyncio.Future[bool]
    key = 0

    async def admit(text: str) -> bool:
        """Hold one message up; and lose it, if its sender is killed before it has got any further."""
        return text != f"{key} {LATE}" or await within(asyncio.shield(go_on))

    async with ReferenceServer() as server, Zygote(__name__) as zygote:
        witness = Witness(server)
        witness.admit = admit

        async def try_one(last: str | None) -> Sequence[str]:
            """Kill a sender at that step, and see that the next one finds everything; return what the first said."""
            nonlocal key, go_on
            key += 1
            go_on = asyncio.get_running_loop().create_future()
            path = fast_dir / str(key) / "outbox.db"
            path.parent.mkdir()
            arguments = {"path": str(path), "url": server.url}
            async with zygote.life(live, **arguments, key=key, last=last, synchronous=synchronous) as life:
                go_on.set_result(await life.says(f"accepted {MEANWHILE}"))
                status = await life.ended()
            go_on = asyncio.get_running_loop().create_future()
            go_on.set_result(True)
            async with zygote.life(recover, **arguments) as recovery:
                assert await recovery.ended() == 0, last
            called, accepted = life.numbers("called"), set(life.numbers("accepted"))
            stored = [int(row.text.split()[1]) for row in await server.messages() if row.text.startswith(f"{key} ")]
            pending, dead, given_up = map(recovery.numbers, ("pending", "dead", "given up"))
            assert status == 0 or (status, life.lines[-1]) == (-9, f"step {last}"), last
            assert stored == sorted(set(stored)), last
            assert pending == sorted(set(pending)), last
            assert [*dead, *pending].count(REJECTED) <= 1, last
            assert given_up == [number for number in (*dead, *pending) if number == REJECTED], last
            assert accepted <= {*stored, *given_up} <= set(called), last
            assert REJECTED not in stored, last
            assert recovery.lines[-1] == "closed 0", last
            with contextlib.closing(sqlite3.connect(path)) as db:
                assert db.execute("SELECT count(*) FROM message").fetchone() == (0,), last
            shutil.rmtree(path.parent)
            return life.lines

        unharmed = await try_one(None)
        assert unharmed[-1] == "closed 0"
        steps = [line.removeprefix("step ") for line in unharmed if line.startswith("step ")]
        killed = set()
        for step in steps:
            for _ in range(3):  # on a busy machine a lazy write may go its own way, and make the next ones others
                if (await try_one(step))[-1] == f"step {step}":
                    killed.add(step)
                    break

    kinds = collections.Counter(step.rpartition(",")[0] for step in killed)
    print(f"{time.monotonic() - started:.1f} s, killed at {len(killed)} of {len(steps)} steps: {dict(kinds)}")
    print(f"repeated {witness.repeated}")
    assert set(kinds) >= STEPS
    assert len(killed) >= 0.9 * len(steps), sorted(set(steps) - killed)
    assert witness.repeated > 0
    assert kinds["accepted"] == len(TEXTS)
    assert kinds["acknowledged"] + kinds["rejected"] == len(TEXTS)
