from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import pytest

from reliable_emit.server import FAULTS, Faults, ReferenceServer
from server_support import PATIENCE, plain

if TYPE_CHECKING:
    from pathlib import Path


async def test_swallow_ack_stores_and_broadcasts_and_says_nothing() -> None:
    faults = Faults()
    async with ReferenceServer(faults=faults) as server, plain(server.url) as sender:
        faults.script("swallow_ack", None)
        await sender.no_ack("hello", "a-0")
        assert await sender.say("hello", "a-0") == 1
        await sender.has(1)
        await sender.quiet()
        assert sender.rows == [("hello", 1)]
        assert faults.counts == dict.fromkeys(FAULTS, 0) | {"swallow_ack": 1}


async def test_answer_late_acknowledges_after_that_time_and_holds_up_nobody() -> None:
    faults = Faults(late=0.2)
    async with ReferenceServer(faults=faults) as server, plain(server.url) as sender, plain(server.url) as other:
        faults.script("answer_late", "answer_late")
        started = time.monotonic()
        assert await sender.say("hello", "a-0") == 1
        assert time.monotonic() - started >= 0.2
        faults.late = 60
        late = asyncio.create_task(sender.say("hello again", "a-1"))
        await other.has(2)
        assert await other.say("meanwhile", "b-0") == 3
        assert await sender.say("behind it", "a-2") == 4
        assert not late.done()
        late.cancel()
        assert faults.counts["answer_late"] == 2


async def test_fail_database_stores_nothing_and_says_nothing() -> None:
    faults = Faults()
    async with ReferenceServer(faults=faults) as server, plain(server.url) as sender:
        faults.script("fail_database")
        await sender.no_ack("hello", "a-0")
        assert await server.messages() == []
        assert await sender.say("hello", "a-0") == 1
        assert faults.counts["fail_database"] == 1


@pytest.mark.parametrize("transport", ["websocket", "polling"])
@pytest.mark.parametrize(("fault", "stored"), [("drop_before_commit", 0), ("drop_after_commit", 1)])
async def test_dropping_cuts_the_sender_alone(transport: str, fault: Any, stored: int, tmp_path: Path) -> None:
    faults = Faults()
    faults.script(fault)
    async with ReferenceServer(tmp_path / "chat.db", faults=faults) as server, plain(server.url) as reader:
        async with plain(server.url, transports=transport) as sender:
            await sender.lost("hello", "a-0")
        assert len(await server.messages()) == stored
        if stored:
            await reader.has(1)
        async with plain(server.url, transports=transport) as sender:
            assert await sender.say("hello", "a-0") == 1
        await reader.has(1)
        await reader.quiet()
        assert reader.rows == [("hello", 1)]
        assert not reader.gone.is_set()
        assert faults.counts[fault] == 1


async def test_malformed_messages_and_repetitions_in_a_script() -> None:
    faults = Faults()
    async with ReferenceServer(faults=faults) as server, plain(server.url) as sender:
        faults.script(None, "swallow_ack")
        assert "reliable-emit:rejected" in await sender.say("no offset")  # takes nothing off the script
        assert await sender.say("hello", "a-0") == 1
        await sender.no_ack("hello", "a-0")  # a repetition suffers like any other
        assert await sender.say("hello", "a-0") == 1


async def test_under_every_fault_at_random_a_patient_sender_loses_and_doubles_nothing(tmp_path: Path) -> None:
    faults = Faults(
        seed=3,
        swallow_ack=0.1,
        answer_late=0.1,
        fail_database=0.1,
        drop_before_commit=0.1,
        drop_after_commit=0.1,
        late=0.01,
    )
    async with ReferenceServer(tmp_path / "chat.db", faults=faults) as server, plain(server.url) as reader:
        number = 0
        while number < 40:
            async with plain(server.url, {"serverOffset": 2**62}) as sender:
                while number < 40:
                    reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
                    await sender.sio.emit("chat message", (str(number), f"a-{number}"), callback=reply.set_result)
                    gone: asyncio.Future[Any] = asyncio.ensure_future(sender.gone.wait())
                    await asyncio.wait([gone, reply], timeout=0.1, return_when=asyncio.FIRST_COMPLETED)
                    gone.cancel()
                    number += reply.done()
                    if sender.gone.is_set():
                        break
        await reader.has(40)
        await reader.quiet()
        assert reader.rows == [(str(number), number + 1) for number in range(40)]
        assert [row.text for row in await server.messages()] == [str(number) for number in range(40)]
        assert all(faults.counts.values())


def test_a_seed_repeats_and_calm_ends() -> None:
    def draws(seed: int | None) -> list[Any]:
        faults = Faults(seed=seed, swallow_ack=0.25, drop_before_commit=0.25)
        return [faults.choose() for _ in range(200)]

    assert draws(1) == draws(1) != draws(2)
    assert set(draws(1)) == {None, "swallow_ack", "drop_before_commit"}
    assert 60 < sum(draw is not None for draw in draws(1)) < 140
    certain = Faults(fail_database=1.0)
    certain.script(None, "swallow_ack")
    assert [certain.choose() for _ in range(4)] == [None, "swallow_ack", "fail_database", "fail_database"]
    certain.script("swallow_ack")
    certain.calm()
    assert certain.choose() is None
    assert certain.counts == dict.fromkeys(FAULTS, 0) | {"swallow_ack": 1, "fail_database": 2}


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"swallow_ack": 1.1}, "swallow_ack"),
        ({"fail_database": -0.1}, "fail_database"),
        ({"swallow_ack": float("nan")}, "swallow_ack"),
        ({"swallow_ack": 0.6, "answer_late": 0.6}, "more than 1"),
        ({"late": -1}, "late"),
    ],
)
def test_odds_that_are_none_are_refused(options: dict[str, float], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        Faults(**options)  # type: ignore[arg-type]


def test_a_fault_that_is_none_is_refused_and_nothing_scripted() -> None:
    faults = Faults()
    with pytest.raises(ValueError, match="'explode' is no fault"):
        faults.script("swallow_ack", "explode")  # type: ignore[arg-type]
    assert faults.choose() is None


async def test_stop_does_not_wait_for_a_late_answer() -> None:
    faults = Faults(late=60)
    faults.script("answer_late")
    async with ReferenceServer(faults=faults) as server, plain(server.url) as sender:
        acknowledged: list[Any] = []
        await sender.sio.emit("chat message", ("hello", "a-0"), callback=acknowledged.append)
        await sender.has(1)
        started = time.monotonic()
        await server.stop()
        assert time.monotonic() - started < 2
        await asyncio.wait_for(sender.gone.wait(), PATIENCE)
        assert acknowledged == []
        assert server._chat._handling == set()
