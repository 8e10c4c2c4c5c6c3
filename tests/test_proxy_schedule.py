"""The random schedule: it can be repeated, it says how, and a ReliableClient survives it."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import logging
from typing import TYPE_CHECKING, Any

import pytest

from proxy_support import TcpServer, dialed, joined
from reliable_emit.server import ReferenceServer
from reliable_emit.testing import FAULTS, FaultProxy, Schedule, Step
from reliable_emit.testing.schedule import draw_steps
from support import PATIENCE, rig, settle, within

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

QUICK: Any = {"seconds": (0.001, 0.01), "calm": (0.0, 0.005)}


@pytest.fixture
async def server() -> AsyncIterator[TcpServer]:
    async with TcpServer() as started:
        yield started


@pytest.fixture
async def proxy(server: TcpServer) -> AsyncIterator[FaultProxy]:
    async with FaultProxy("127.0.0.1", server.port) as started:
        yield started


def first(count: int, seed: int) -> list[Step]:
    return list(itertools.islice(draw_steps(seed), count))


def test_a_seed_gives_the_same_steps_and_another_seed_others() -> None:
    assert first(200, 3) == first(200, 3)
    assert first(200, 3)[:20] == first(20, 3)
    assert first(20, 3) != first(20, 4)


def test_every_fault_comes_and_has_its_bounds() -> None:
    steps = first(500, 1)
    assert {step.fault for step in steps} == set(FAULTS)
    assert all(0.05 <= step.seconds <= 0.5 for step in steps if step.fault not in {"cut", "reset"})
    assert all(0.05 <= step.calm <= 0.5 for step in steps)


async def test_the_proxy_understands_all_that_is_drawn(proxy: FaultProxy) -> None:
    for step in first(500, 2):
        getattr(proxy, step.fault)(**step.arguments)


async def test_it_runs_prints_its_seed_and_ends_healed(
    proxy: FaultProxy, server: TcpServer, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "reliable_emit.testing")
    async with Schedule(proxy, seed=5, steps=20, **QUICK) as schedule:
        await schedule.finished(timeout=PATIENCE)
    assert schedule.history == list(itertools.islice(draw_steps(5, FAULTS, *QUICK.values()), 20))
    repeat = "seed 5; repeat it with Schedule(proxy, 5, seconds=(0.001, 0.01), calm=(0.0, 0.005), steps=20)"
    assert repeat in capsys.readouterr().out
    for number, step in enumerate(schedule.history, 1):
        assert f"seed 5, step {number}: {step}" in caplog.messages
    async with joined(proxy, server) as (client, there):
        await client.send(b"x" * 10_000)
        assert await there.get(10_000) == b"x" * 10_000


async def test_it_draws_a_seed_and_ends_with_the_block(
    proxy: FaultProxy, server: TcpServer, capsys: pytest.CaptureFixture[str]
) -> None:
    with Schedule(proxy, faults=["refuse"], seconds=(1000, 1000)) as schedule:
        with pytest.raises(ConnectionRefusedError):
            async with dialed(proxy):
                pass
        with pytest.raises(TimeoutError):
            await schedule.finished(timeout=0.01)
    assert f"seed {schedule.seed};" in capsys.readouterr().out
    assert [step.fault for step in schedule.history] == ["refuse"]
    await schedule.finished(timeout=PATIENCE)
    async with joined(proxy, server):
        pass
    with pytest.raises(RuntimeError, match="once"):
        schedule.__enter__()


async def test_it_can_run_from_another_thread(proxy: FaultProxy) -> None:
    def elsewhere() -> list[Step]:
        with Schedule(proxy, seed=1, steps=3, **QUICK) as schedule:
            asyncio.run(schedule.finished(timeout=PATIENCE))
        return schedule.history

    assert len(await within(asyncio.to_thread(elsewhere))) == 3


async def test_what_it_prints_repeats_it(proxy: FaultProxy, capsys: pytest.CaptureFixture[str]) -> None:
    calls = []
    histories = []
    schedule = Schedule(proxy, faults=["latency", "cut", "cut"], **QUICK, steps=10)
    for _ in range(2):
        with schedule:
            await schedule.finished(timeout=PATIENCE)
        histories.append(schedule.history)
        calls.append(capsys.readouterr().out.strip().rpartition("repeat it with ")[2])
        schedule = eval(calls[-1], {"Schedule": Schedule, "proxy": proxy})
    assert histories[0] == histories[1]
    assert calls[0] == calls[1]


async def test_the_jitter_is_repeated_too(proxy: FaultProxy) -> None:
    draws = []
    for _ in range(2):
        with Schedule(proxy, 3, faults=["freeze"]):
            draws.append([proxy._network.draw.random() for _ in range(3)])
    assert draws[0] == draws[1]


async def test_a_step_that_is_not_possible_ends_it_with_an_error(
    proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise OSError(errno.EADDRINUSE, "the port is taken")

    for name in ("calm", "reset"):
        schedule = Schedule(proxy, 1, faults=["reset"], steps=3, **QUICK)
        with monkeypatch.context() as patch:
            patch.setattr(proxy, name, fail)
            schedule.__enter__()
            for _ in range(2):
                with pytest.raises(RuntimeError, match=r"step 1 was not possible.*reset.*taken") as caught:
                    await schedule.finished(timeout=PATIENCE)
                assert isinstance(caught.value.__cause__, OSError)
            assert len(schedule.history) == 1
            with pytest.raises(RuntimeError, match="step 1 was not possible"):
                schedule.__exit__(None)
            with pytest.raises(LookupError), Schedule(proxy, 1, faults=["reset"], steps=3, **QUICK):
                raise LookupError  # what the block raises comes first
    waiting = []
    with monkeypatch.context() as patch:
        patch.setattr(proxy, "calm", fail)
        with contextlib.suppress(RuntimeError), Schedule(proxy, 1, seconds=(0.2, 0.2), faults=["freeze"]) as schedule:
            waiting.append(asyncio.ensure_future(schedule.finished()))
            await settle()
            with pytest.raises(RuntimeError, match="not possible"):
                await within(waiting[0])  # it was waiting already


async def test_it_survives_a_proxy_that_closes(server: TcpServer) -> None:
    proxy = FaultProxy("127.0.0.1", server.port)
    with pytest.raises(RuntimeError, match="not running"), Schedule(proxy):
        pass
    await proxy.start()
    with Schedule(proxy, **QUICK) as schedule:
        await proxy.until(lambda: len(schedule.history) > 1)
        await proxy.close()
        with pytest.raises(RuntimeError, match="not running"):
            await schedule.finished()


async def test_wrong_arguments_are_refused(proxy: FaultProxy) -> None:
    wrong: list[tuple[type[Exception], str, Callable[[], object]]] = [
        (TypeError, "seed", lambda: Schedule(proxy, "1")),  # type: ignore[arg-type]
        (TypeError, "seed", lambda: Schedule(proxy, seed=True)),
        (TypeError, "proxy", lambda: Schedule(None)),  # type: ignore[arg-type]
        (TypeError, "faults.*order", lambda: Schedule(proxy, faults={"cut", "reset"})),  # type: ignore[arg-type]
        (TypeError, "faults", lambda: Schedule(proxy, faults=iter(FAULTS))),  # type: ignore[arg-type]
        (TypeError, "faults", lambda: Schedule(proxy, faults="cut")),  # type: ignore[arg-type]
        (TypeError, "seconds", lambda: Schedule(proxy, seconds=5)),  # type: ignore[arg-type]
        (TypeError, "seconds", lambda: Schedule(proxy, seconds=(1, 2, 3))),  # type: ignore[arg-type]
        (TypeError, "calm", lambda: Schedule(proxy, calm=("1", "2"))),  # type: ignore[arg-type]
        (ValueError, "faults", lambda: Schedule(proxy, faults=[])),
        (ValueError, "fault", lambda: Schedule(proxy, faults=["bang"])),  # type: ignore[list-item]
        (ValueError, "seconds", lambda: Schedule(proxy, seconds=(2, 1))),
        (ValueError, "calm", lambda: Schedule(proxy, calm=(-1, 1))),
        (ValueError, "steps", lambda: Schedule(proxy, steps=0)),
    ]
    for error, names, call in wrong:
        with pytest.raises(error, match=names):
            call()


@pytest.mark.parametrize("seed", [11, 12, 13])
async def test_a_sender_loses_doubles_and_reorders_nothing(seed: int) -> None:
    options: Any = {"ack_timeout": 0.3, "retries": None, "max_losses": None, "client_offset": True}
    async with (
        ReferenceServer() as server,
        FaultProxy("127.0.0.1", server.port) as proxy,
        rig(proxy.url, **options) as sender,
    ):
        expected: list[str] = []
        with Schedule(proxy, seed, steps=12, seconds=(0.01, 0.1), calm=(0.01, 0.1)) as schedule:
            while not schedule._finished:
                expected.append(f"message {len(expected)}")
                await sender.client.emit("chat message", expected[-1])
                await asyncio.sleep(0.01)
        await sender.client.flush(timeout=PATIENCE)
        assert [row.text for row in await server.messages()] == expected
        assert sender.client.stats.disconnected > 0
