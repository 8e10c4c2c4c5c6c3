"""The part of the contract about messages that are not handled: nothing of them stays."""

from __future__ import annotations

import asyncio
import contextlib

from reliable_emit.server import TakeBack, Transaction
from reliable_emit.testing.inbox_contract.bench import Bench, Contract, Failure, expect, key, never


class FailureContract(Contract):
    """Tests of handlers that raise, are cancelled, or take back what they did."""

    def test_a_handler_that_raises_leaves_nothing(self) -> None:
        """What it did is undone, its offset is not recorded, and its error comes out as it is."""

        async def scenario(bench: Bench) -> None:
            for number in range(3):
                failure = Failure(number)
                try:
                    await bench.once("o-1", "failed", error=failure)
                except Failure as error:
                    expect("what once() raised", error is failure, True)
                else:
                    raise AssertionError("once(): returned, although the handler raised")
            await bench.expect_effects([])
            expect("new, after failures", (await bench.once("o-1", "effect")).new, True)
            expect("new, of a repetition", (await bench.store.once(key("o-1"), b"f", never)).new, False)
            await bench.expect_effects(["effect"])

        self._run(scenario)

    def test_a_handler_that_is_cancelled_leaves_nothing(self) -> None:
        """As one that raises."""

        async def scenario(bench: Bench) -> None:
            there = asyncio.Event()

            async def hang() -> None:
                there.set()
                await asyncio.Event().wait()

            task = asyncio.ensure_future(bench.once("o-1", "cancelled", wait=hang))
            await there.wait()
            task.cancel()
            await asyncio.wait([task])
            expect("whether it was cancelled", task.cancelled(), True)
            await bench.expect_effects([])
            expect("new, after a cancellation", (await bench.once("o-1", "effect")).new, True)
            await bench.expect_effects(["effect"])

        self._run(scenario)

    def test_what_is_taken_back_is_undone_and_recorded(self) -> None:
        """After `TakeBack` there is no effect, but the reply is recorded, and given to repetitions."""

        async def scenario(bench: Bench) -> None:
            record = await bench.once("o-1", "taken back", error=TakeBack(b"no"))
            expect("new, of a message that was taken back", record.new, True)
            expect("its reply", record.reply, b"no")
            await bench.expect_effects([])
            again = await bench.store.once(key("o-1"), b"f", never)
            expect("new, of its repetition", again.new, False)
            expect("the reply to its repetition", again.reply, b"no")
            expect("the fingerprint", again.fingerprint, b"fingerprint")
            await bench.expect_effects([])

        self._run(scenario)

    def test_callbacks_are_not_called_for_what_is_undone(self) -> None:
        """Neither after an error nor after a `TakeBack`."""

        async def scenario(bench: Bench) -> None:
            called: list[str] = []
            for error in (Failure(), TakeBack(b"no")):

                async def handle(transaction: Transaction, error: Exception = error) -> bytes:
                    transaction.after_commit(lambda: called.append("called"))
                    raise error

                with contextlib.suppress(Failure):
                    await bench.store.once(key("o-1"), b"f", handle)
            expect("what was called", called, [])

        self._run(scenario)

    def test_failures_take_nobody_with_them(self) -> None:
        """Of many messages at the same time, those that do not fail are handled, and those that fail leave nothing."""

        async def scenario(bench: Bench) -> None:
            errors = {1: Failure("1"), 2: TakeBack(b"no"), 3: Failure("3")}
            results = await asyncio.gather(
                *(bench.once(f"o-{number}", str(number), error=errors.get(number % 5)) for number in range(40)),
                return_exceptions=True,
            )
            expect(
                "which messages failed",
                [number for number, result in enumerate(results) if isinstance(result, BaseException)],
                [number for number in range(40) if number % 5 in {1, 3}],
            )
            await bench.expect_effects(str(number) for number in range(40) if number % 5 in {0, 4})
            for number in range(40):
                record = await bench.store.once(key(f"o-{number}"), b"f", bench.handler("again"))
                expect(f"new, when {number} is repeated", record.new, number % 5 in {1, 3})

        self._run(scenario)
