"""The lock on an outbox dies with its owner, however that ends and whomever it leaves behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import warnings
from typing import TYPE_CHECKING

import pytest

from crash_support import Zygote, say, sender
from reliable_emit import OutboxLocked, SQLiteOutbox
from support import within

if TYPE_CHECKING:
    from pathlib import Path


class Nobody:
    def loaded(self, messages: object) -> None:
        pass

    def refused(self, message: object) -> None:
        pass

    def decode(self, frames: object) -> tuple[object, ...]:
        raise NotImplementedError


def fork() -> int:
    """Fork a process that has open all that is open here, and does nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of a fork in a process with threads, from 3.12 on
        pid = os.fork()
    if pid == 0:
        signal.alarm(60)  # ends it, whatever becomes of the test
        while True:
            signal.pause()
    return pid


def end(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


async def own(path: str, *, heirs: bool) -> None:
    """Own the outbox until killed; perhaps with two forked processes, of which one dies before and one lives on."""
    client = sender(path)
    await client.emit("chat message", "hello")
    if heirs:
        first, second = fork(), fork()
        end(first)
        say(f"left {second}")
    say("mine")
    await asyncio.Event().wait()


@pytest.mark.parametrize("heirs", [False, True])
async def test_the_lock_dies_with_its_owner(tmp_path: Path, *, heirs: bool) -> None:
    path = tmp_path / "outbox.db"
    outbox = SQLiteOutbox(path)
    async with Zygote(__name__) as zygote, contextlib.AsyncExitStack() as stack:
        async with zygote.life(own, path=str(path), heirs=heirs) as owner:
            await owner.says("mine")
            left = owner.numbers("left")
            assert len(left) == heirs
            for heir in left:
                stack.callback(os.kill, heir, signal.SIGKILL)
            with pytest.raises(OutboxLocked) as caught:
                await within(outbox.open(Nobody()))
            assert caught.value.process == owner.pid
            owner.kill()
            assert await owner.ended() == -9
        assert await within(outbox.open(Nobody())) == 1
        assert [message.event for message in outbox] == ["chat message"]
        await outbox.close()
        for heir in left:
            os.kill(heir, 0)  # it is still there
