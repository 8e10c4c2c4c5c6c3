"""The part of the contract about pending messages: their order, removing them, their offsets."""

from __future__ import annotations

import asyncio
import itertools

from reliable_emit.delivery import Unencoded
from reliable_emit.outbox import Outbox
from reliable_emit.testing.outbox_contract.bench import MANY, Bench, Contract, expect, letters, numbers, refused


class PendingContract(Contract):
    """Tests of what is pending."""

    # What it is.

    def test_it_has_what_the_protocol_asks_for(self) -> None:
        """It is an `Outbox`, says whether it is durable, and where the messages are."""

        async def scenario(bench: Bench) -> None:
            outbox = await bench.open()
            expect("isinstance(outbox, Outbox)", isinstance(outbox, Outbox), True)
            expect("the type of durable", type(outbox.durable), bool)
            expect("whether where says something", isinstance(outbox.where, str) and outbox.where != "", True)

        self._run(scenario)

    def test_a_new_one_is_empty(self) -> None:
        """Nothing is pending, nothing is dead, and the highest sequence there ever was is 0."""

        async def scenario(bench: Bench) -> None:
            outbox = await bench.open()
            expect("what open() returned", bench.last, 0)
            expect("head()", outbox.head(), None)
            expect("len()", len(outbox), 0)
            expect("the pending messages", list(outbox), [])
            expect("get()", outbox.get("o-1"), None)
            expect("dead_letters()", outbox.dead_letters(), [])
            expect("revive()", outbox.revive("o-1", 1), None)
            expect("forget()", outbox.forget("o-1"), False)
            expect("len() after asking for what is not there", len(outbox), 0)

        self._run(scenario)

    # Order.

    def test_messages_come_out_in_their_order(self) -> None:
        """`head` is the oldest; when that is removed, the next one is."""

        async def scenario(bench: Bench) -> None:
            outbox = await bench.open()
            for number in range(1, 31):
                await outbox.append(bench.message(number))
                expect("len()", len(outbox), number)
                expect("the pending messages", numbers(outbox), range(1, number + 1))
                expect("head()", (await bench.head()).sequence, 1)
            expect("the order in which they came", numbers(await bench.drain()), range(1, 31))

        self._run(scenario)

    def test_concurrent_appends_keep_the_order_of_the_calls(self) -> None:
        """However their tasks are run, and however they are stored."""

        async def scenario(bench: Bench) -> None:
            outbox = await bench.open()
            counter = itertools.count(1)

            async def late(steps: int) -> None:
                for _ in range(steps):
                    await asyncio.sleep(0)
                await outbox.append(bench.message(next(counter)))

            await asyncio.gather(*(late(number * 7 % 5) for number in range(200)))
            expect("the pending messages", numbers(outbox), range(1, 201))
            expect("the order in which they came", numbers(await bench.drain()), range(1, 201))

        self._run(scenario)

    def test_a_message_counts_from_the_call_on(self) -> None:
        """While it is being stored, it is pending: it counts, can be looked at, and its offset is taken."""

        async def scenario(bench: Bench) -> None:
            outbox = await bench.open()
            tasks = [asyncio.ensure_future(outbox.append(bench.message(number))) for number in (1, 2)]
            await asyncio.sleep(0)  # both calls are made now
            expect("len()", len(outbox), 2)
            expect("the pending messages", numbers(outbox), [1, 2])
            found = outbox.get("o-2")
            expect("get()", found and found.sequence, 2)
            await refused(outbox.append(bench.message(3, offset="o-2")))
            await asyncio.gather(*tasks)
            expect("the pending messages, once stored", numbers(outbox), [1, 2])

        self._run(scenario)

    def test_what_is_at_hand_is_one_object(self) -> None:
        """`head`, `get` and iterating return the same object for the oldest message, as long as it is pending."""

        async def scenario(bench: Bench) -> None:
            outbox = await bench.open()
            for number in (1, 2):
                await outbox.append(bench.message(number))
            head = await bench.head()
            expect("whether head() returns the same object again", outbox.head() is head, True)
            expect("whether get() returns the object that head() does", outbox.get("o-1") is head, True)
            expect("whether iterating gives the object that head() does", next(iter(outbox)) is head, True)

        self._run(scenario)

    def test_many_messages(self) -> None:
        """More than fit into memory: all of them count, can be looked at, and come out in their order."""

        async def scenario(bench: Bench) -> None:
            outbox = await bench.open()
            await bench.fill(range(1, MANY + 1))
            expect("len()", len(outbox), MANY)
            expect("the pending messages", numbers(outbox), range(1, MANY + 1))
            expect("the first two of them", numbers(itertools.islice(outbox, 2)), [1, 2])
            for number in (1, MANY // 2, MANY):
                found = outbox.get(f"o-{number}")
                expect("get()", found and found.sequence, number)
            came = [await bench.take() for _ in range(MANY // 2)]
            await bench.fill(range(MANY + 1, MANY + 51))  # behind those that are not at hand
            expect("len(), later", len(outbox), MANY // 2 + 50)
            came += await bench.drain()
            expect("the order in which they came", numbers(came), range(1, MANY + 51))

        self._run(scenario)

    # Removing.

    def test_any_message_can_be_removed(self) -> None:
        """In the middle, at the end, at the head, near and far; it is gone at once, and its offset is free again."""

        async def scenario(bench: Bench) -> None:
            outbox = await bench.open()
            made = await bench.fill(range(1, MANY + 1))
            gone = {1, 2, 5, MANY // 2, MANY // 2 + 1, MANY - 1, MANY}
            for number in gone:
                outbox.remove(made[number - 1])
                expect("get() of one that was removed", outbox.get(f"o-{number}"), None)
            left = [number for number in range(1, MANY + 1) if number not in gone]
            expect("len()", len(outbox), len(left))
            expect("the pending messages", numbers(outbox), left)
            await outbox.append(bench.message(MANY + 1, offset=f"o-{MANY}"))
            await bench.reopen()
            expect("the order in which they came", numbers(await bench.drain()), [*left, MANY + 1])

        self._run(scenario)

    def test_all_messages_can_be_removed(self) -> None:
        """Then it is as good as new, also when they go faster than they come to hand."""

        async def scenario(bench: Bench) -> None:
            outbox = await bench.open()
            for one in await bench.fill(range(1, MANY + 1)):
                outbox.remove(one)
            expect("len()", len(outbox), 0)
            expect("the pending messages", numbers(outbox), [])
            expect("head()", outbox.head(), None)
            await outbox.append(bench.message(MANY + 1))
            expect("what came then", numbers(await bench.drain()), [MANY + 1])
            outbox = await bench.reopen()
            expect("len() after opening it again", len(outbox), 0)

        self._run(scenario)

    def test_a_message_can_be_removed_while_it_is_being_stored(self) -> None:
        """It never comes, also not when the outbox is opened again."""

        async def scenario(bench: Bench) -> None:
            outbox = await bench.open()
            made = [bench.message(number) for number in (1, 2, 3)]
            tasks = [asyncio.ensure_future(outbox.append(one)) for one in made]
            await asyncio.sleep(0)
            outbox.remove(made[1])
            expect("len()", len(outbox), 2)
            await asyncio.wait(tasks)
            expect("the pending messages", numbers(outbox), [1, 3])
            outbox = await bench.reopen()
            expect("len() after opening it again", len(outbox), 2)
            expect("what came", numbers(await bench.drain()), [1, 3])

        self._run(scenario)

    def test_a_cancelled_append_disturbs_nobody(self) -> None:
        """It may or may not have stored its message; either is consistent, and the others are in their order."""

        async def scenario(bench: Bench) -> None:
            outbox = await bench.open()
            for steps in range(8):
                numbered = range(steps * 10 + 1, steps * 10 + 11)
                tasks = [asyncio.ensure_future(outbox.append(bench.message(number))) for number in numbered]
                for _ in range(steps):
                    await asyncio.sleep(0)
                for task in tasks[::3]:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                found = numbers(outbox)
                expect("len()", len(outbox), len(found))
                kept = {number for number, task in zip(numbered, tasks, strict=True) if not task.cancelled()}
                expect("those that were stored and are not there", kept - set(found), set())
            outbox = await bench.reopen()
            pending = numbers(outbox)
            expect("len() after opening it again", len(outbox), len(pending))
            expect("the pending messages", pending, sorted(set(pending)))
            expect("what came", numbers(await bench.drain()), pending)

        self._run(scenario)

    # Offsets.

    def test_the_offset_of_a_pending_message_is_taken(self) -> None:
        """`append` raises `ValueError` and stores nothing; of two at the same time the first is stored."""

        async def scenario(bench: Bench) -> None:
            outbox = await bench.open()
            await bench.fill(range(1, MANY + 1))
            await refused(outbox.append(bench.message(MANY + 1, offset=f"o-{MANY}")))
            await refused(outbox.append(bench.message(MANY + 2, offset="o-1")))
            outcomes = await asyncio.gather(
                *(outbox.append(bench.message(MANY + number, offset="twin")) for number in (3, 4)),
                return_exceptions=True,
            )
            expect("the outcomes of two at once", [type(outcome) for outcome in outcomes], [type(None), ValueError])
            expect("len()", len(outbox), MANY + 1)
            outbox = await bench.reopen()
            expect("the pending messages", numbers(outbox), [*range(1, MANY + 1), MANY + 3])

        self._run(scenario)

    def test_the_offset_of_a_dead_letter_is_taken(self) -> None:
        """Until it is forgotten; also right after the message was given up, and after opening the outbox again."""

        async def scenario(bench: Bench) -> None:
            outbox = await bench.open()
            for number in (1, 2):
                made = bench.message(number)
                await outbox.append(made)
                bench.bury(made)
                await refused(outbox.append(bench.message(number + 2, offset=f"o-{number}")))
            outbox = await bench.reopen()
            await refused(outbox.append(bench.message(5, offset="o-1")))
            expect("len()", len(outbox), 0)
            expect("the dead letters", letters(outbox), [("o-1", "exhausted"), ("o-2", "exhausted")])
            outbox.forget("o-1")
            await outbox.append(bench.message(6, offset="o-1"))
            expect("the pending messages", numbers(outbox), [6])

        self._run(scenario)

    def test_a_snapshot_that_it_cannot_store_is_refused(self) -> None:
        """That of a serializer of the user's own is no text and no bytes: `TypeError`, and nothing stored; or it is."""

        async def scenario(bench: Bench) -> None:
            outbox = await bench.open()
            try:
                await outbox.append(bench.message(1, frames=Unencoded("e", ({"a": 1},))))
            except TypeError:
                expect("len() after refusing it", len(outbox), 0)
                await outbox.append(bench.message(2))
            expect("len()", len(outbox), 1)
            expect("how many came", len(await bench.drain()), 1)

        self._run(scenario)
