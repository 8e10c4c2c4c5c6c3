"""The part of the contract about messages that overlap, and about several stores on one database."""

from __future__ import annotations

import asyncio

from reliable_emit.server import Record, Transaction
from reliable_emit.testing.inbox_contract.bench import AnyStore, Bench, Contract, Failure, expect, key, never

_TRIES = 100


async def _a_moment() -> None:
    await asyncio.sleep(0.02)


class OverlapContract(Contract):
    """Tests of messages that are handled at the same time."""

    def test_repetitions_at_the_same_time_are_handled_once(self) -> None:
        """One of them is handled, and the others get its reply, after its commit."""

        async def scenario(bench: Bench) -> None:
            async def one(number: int) -> tuple[Record, list[str]]:
                record = await bench.once("o-1", "effect", b"%d" % number, wait=_a_moment)
                return record, await bench.effects()

            results = await asyncio.gather(*(one(number) for number in range(20)))
            records = [record for record, _ in results]
            expect("how often it was handled", len(bench.handled), 1)
            expect("how many say that they handled it", sum(record.new for record in records), 1)
            expect("how many replies there are", len({record.reply for record in records}), 1)
            expect("the effects when they returned", [seen for _, seen in results], [["effect"]] * 20)

        self._run(scenario)

    def test_after_a_failure_the_next_repetition_is_handled(self) -> None:
        """One that overlaps with a failure is handled or fails with it, but is not taken for recorded."""

        async def scenario(bench: Bench) -> None:
            first = asyncio.ensure_future(bench.once("o-1", "failed", error=Failure(), wait=_a_moment))
            await asyncio.sleep(0)
            others = [asyncio.ensure_future(bench.once("o-1", "effect")) for _ in range(5)]
            await asyncio.wait([first, *others])
            expect("what the first raised", type(first.exception()), Failure)
            handled = [task.result() for task in others if task.exception() is None]
            expect("how many say that they handled it", sum(record.new for record in handled), min(len(handled), 1))
            await bench.expect_effects(["effect"] if handled else [])
            expect("new, afterwards", (await bench.once("o-1", "effect")).new, not handled)
            await bench.expect_effects(["effect"])

        self._run(scenario)

    def test_many_messages_at_the_same_time(self) -> None:
        """Each of them is handled and has its own reply."""

        async def scenario(bench: Bench) -> None:
            records = await asyncio.gather(*(bench.once(f"o-{n}", str(n), b"%d" % n) for n in range(300)))
            expect("the replies", [record.reply for record in records], [b"%d" % n for n in range(300)])
            expect("whether all are new", all(record.new for record in records), True)
            await bench.expect_effects(map(str, range(300)))

        self._run(scenario)

    def test_one_that_is_cancelled_while_it_waits_disturbs_nobody(self) -> None:
        """Cancelling a repetition, or somebody else's message, that waits for another leaves that one alone."""

        async def scenario(bench: Bench) -> None:
            there, go_on = asyncio.Event(), asyncio.Event()

            async def hold() -> None:
                there.set()
                await go_on.wait()

            first = asyncio.ensure_future(bench.once("o-1", "effect", wait=hold))
            await there.wait()
            waiting = [
                asyncio.ensure_future(bench.once(offset, "cancelled", wait=go_on.wait)) for offset in ("o-1", "o-2")
            ]
            await asyncio.sleep(0.02)
            for task in waiting:
                task.cancel()
            await asyncio.wait(waiting)
            go_on.set()
            expect("the reply", (await first).reply, b"reply")
            await bench.expect_effects(["effect"])
            expect("new, of the other message", (await bench.once("o-2", "other")).new, True)
            await bench.expect_effects(["effect", "other"])

        self._run(scenario)

    def test_callbacks_are_called_in_the_order_of_the_commits(self) -> None:
        """Of each message before its call returns, whoever shares its commit."""

        async def scenario(bench: Bench) -> None:
            called: list[int] = []

            async def one(number: int) -> None:
                async def handle(transaction: Transaction) -> bytes:
                    await bench.effect(transaction, str(number))
                    transaction.after_commit(lambda: called.append(number))
                    return b""

                await bench.store.once(key(f"o-{number}"), b"f", handle)
                expect(f"whether {number} was called back when its call returned", number in called, True)

            await asyncio.gather(*(one(number) for number in range(50)))
            expect("the order of the callbacks", list(map(str, called)), await bench.effects())

        self._run(scenario)

    def test_a_record_outlives_the_store(self) -> None:
        """Another store at the same place has it."""
        if not self.durable:
            return

        async def scenario(bench: Bench) -> None:
            await bench.once("o-1", "effect", b"the reply")
            await bench.reopen()
            record = await bench.store.once(key("o-1"), b"f", never)
            expect("the record", record, Record(b"fingerprint", b"the reply", new=False))
            await bench.expect_effects(["effect"])

        self._run(scenario)

    def test_two_stores_on_one_database_handle_a_message_once(self) -> None:
        """As two nodes do. One may fail because of the other, but then a repetition gets the reply."""
        if not self.durable:
            return

        async def scenario(bench: Bench) -> None:
            stores = [bench.store, await bench.open()]

            async def one(store: AnyStore, offset: str) -> Record:
                error: Exception | None = None
                for _ in range(_TRIES):  # as its sender would
                    try:
                        return await store.once(key(offset), b"f", bench.handler(offset))
                    except AssertionError:
                        raise
                    except Exception as raised:  # whatever a database says of another's lock
                        error = raised
                        await asyncio.sleep(0.02)
                raise AssertionError(f"once(): raised {_TRIES} times; the last time {error!r}")

            for number in range(10):
                records = await asyncio.gather(*(one(store, f"o-{number}") for store in stores for _ in range(3)))
                expect("how many say that they handled it", sum(record.new for record in records), 1)
            await bench.expect_effects(f"o-{number}" for number in range(10))

        self._run(scenario)
