"""The part of the contract about dead letters: giving up, looking, reviving, forgetting."""

from __future__ import annotations

import asyncio

from reliable_emit.testing.outbox_contract.bench import MANY, Bench, Contract, expect, letters, numbers, refused


class DeadLetterContract(Contract):
    """Tests of what was given up."""

    def test_a_message_that_is_given_up_is_a_dead_letter(self) -> None:
        """From then on it is not pending, and is among the dead letters with all that is known of it."""

        async def scenario(bench: Bench) -> None:
            outbox = await bench.open()
            made = await bench.fill(range(1, 6))
            made[2].attempts = 4
            given = bench.bury(made[2], "rejected", "the server says no: \u00e9")
            expect("len()", len(outbox), 4)
            expect("get()", outbox.get("o-3"), None)
            expect("the pending messages", numbers(outbox), [1, 2, 4, 5])
            for _ in range(2):
                (letter,) = outbox.dead_letters()
                expect("its offset", letter.offset, "o-3")
                expect("its event", letter.event, "e")
                expect("its reason", letter.reason, "rejected")
                expect("its detail", letter.detail, given.detail)
                expect("its attempts", letter.attempts, 4)
                expect("when it died", letter.died_at, given.died_at)
                expect("when it was accepted", letter.accepted_at, given.accepted_at)
                expect("what it holds", letter.data, ('2["e",3]',))
                outbox = await bench.reopen()
            expect("what came", numbers(await bench.drain()), [1, 2, 4, 5])

        self._run(scenario)

    def test_dead_letters_are_in_the_order_of_their_deaths(self) -> None:
        """Oldest first: one that is revived and dies again is the youngest."""

        async def scenario(bench: Bench) -> None:
            outbox = await bench.open()
            made = await bench.fill(range(1, 6))
            for number in (3, 1, 5, 2):
                bench.bury(made[number - 1])
            revived = bench.revive("o-1", 6)
            if revived is not None:
                bench.bury(revived, "expired")
            wanted = [("o-3", "exhausted"), ("o-5", "exhausted"), ("o-2", "exhausted"), ("o-1", "expired")]
            expect("the dead letters", letters(outbox), wanted)
            outbox = await bench.reopen()
            expect("the dead letters after opening it again", letters(outbox), wanted)
            bench.bury(await bench.head())
            expect("the dead letters, and one more", letters(outbox), [*wanted, ("o-4", "exhausted")])

        self._run(scenario)

    def test_a_message_that_never_was_pending_can_be_a_dead_letter(self) -> None:
        """Its sequence is 0; nothing else changes."""

        async def scenario(bench: Bench) -> None:
            outbox = await bench.open()
            await bench.fill([1])
            bench.bury(bench.message(0, offset="never"), "dropped")
            expect("len()", len(outbox), 1)
            expect("the dead letters", letters(outbox), [("never", "dropped")])
            await refused(outbox.append(bench.message(2, offset="never")))
            outbox = await bench.reopen()
            expect("the dead letters after opening it again", letters(outbox), [("never", "dropped")])
            expect("the pending messages", numbers(outbox), [1])
            expect("whether it can be revived", bench.revive("never", 3) is not None, True)
            expect("the pending messages, and it", numbers(outbox), [1, 3])

        self._run(scenario)

    def test_any_message_can_be_given_up(self) -> None:
        """One that is not at hand yet, and one that is being stored, too."""

        async def scenario(bench: Bench) -> None:
            outbox = await bench.open()
            made = await bench.fill(range(1, MANY + 1))
            late = bench.message(MANY + 1)
            storing = asyncio.ensure_future(outbox.append(late))
            await asyncio.sleep(0)
            gone = [made[MANY - 1], made[MANY // 2], late]
            for one in gone:
                bench.bury(one)
            await asyncio.wait([storing])
            for _ in range(2):
                expect("len()", len(outbox), MANY - 2)
                expect(
                    "the dead letters", [letter.offset for letter in outbox.dead_letters()], [o.offset for o in gone]
                )
                outbox = await bench.reopen()
            left = [number for number in range(1, MANY) if number != MANY // 2 + 1]
            expect("what came", numbers(await bench.drain()), left)

        self._run(scenario)

    def test_a_dead_letter_can_be_forgotten(self) -> None:
        """Once; it says whether there was one, and pending messages are none of its business."""

        async def scenario(bench: Bench) -> None:
            outbox = await bench.open()
            made = await bench.fill(range(1, 5))
            for one in made[:3]:
                bench.bury(one)
            expect("forget()", outbox.forget("o-2"), True)
            expect("forget(), again", outbox.forget("o-2"), False)
            expect("forget() of a pending message", outbox.forget("o-4"), False)
            outbox = await bench.reopen()
            expect("forget() after opening it again", outbox.forget("o-1"), True)
            expect("forget() of what was forgotten before", outbox.forget("o-2"), False)
            expect("the dead letters", letters(outbox), [("o-3", "exhausted")])
            expect("revive() of what was forgotten", outbox.revive("o-1", 5), None)
            expect("the pending messages", numbers(outbox), [4])

        self._run(scenario)

    def test_a_dead_letter_can_be_revived(self) -> None:
        """It is pending again, behind all others, as good as new; what was sent of it stays counted."""

        async def scenario(bench: Bench) -> None:
            outbox = await bench.open()
            made = await bench.fill(range(1, 4))
            dead = bench.message(4, ttl=1000.0, frames=('51-["e",{"_placeholder":true,"num":0}]', b"\x00\xff"))
            await outbox.append(dead)
            dead.attempts, dead.failures, dead.losses = 5, 4, 1
            bench.bury(dead)
            for number, again in ((5, True), (6, False)):  # from where it was given up, and from where that was stored
                revived = bench.revive("o-4", number)
                if revived is None:
                    raise AssertionError("revive() of a dead letter returned None")
                expect("its offset", revived.offset, "o-4")
                expect("its sequence", revived.sequence, number)
                expect("its state", revived.state, "queued")
                expect(
                    "its attempts, failures and losses", (5, 0, 0), (revived.attempts, revived.failures, revived.losses)
                )
                expect("when it expires", revived.expires_at, None)
                expect("its frames", revived.frames, ('51-["e",{"_placeholder":true,"num":0}]', b"\x00\xff"))
                expect("revive(), again", outbox.revive("o-4", number + 1), None)
                expect("forget()", outbox.forget("o-4"), False)
                expect("the dead letters", letters(outbox), [])
                expect("len()", len(outbox), 4)
                expect("the pending messages", numbers(outbox), [1, 2, 3, number])
                found = outbox.get("o-4")
                expect("get()", found and found.sequence, number)
                outbox = await bench.reopen()
                expect("the pending messages, after opening it again", numbers(outbox), [1, 2, 3, number])
                if again:
                    bench.bury(next(one for one in outbox if one.offset == "o-4"))
                    outbox = await bench.reopen()
            expect("what came", numbers(await bench.drain()), [*numbers(made), 6])

        self._run(scenario)

    def test_a_dead_letter_can_be_revived_in_an_empty_outbox(self) -> None:
        """It comes to hand, and if not at once, `loaded` says when."""

        async def scenario(bench: Bench) -> None:
            outbox = await bench.open()
            await bench.fill([1])
            bench.bury(await bench.head())
            bench.revive("o-1", 2)
            expect("what came", numbers(await bench.drain()), [2])
            bench.bury(bench.message(0, offset="other"))
            outbox = await bench.reopen()
            bench.revive("other", 3)
            expect("len()", len(outbox), 1)
            expect("what came", numbers(await bench.drain()), [3])

        self._run(scenario)

    def test_a_dead_letter_can_be_revived_while_many_wait(self) -> None:
        """It comes in its turn; and it may be given up, removed and revived again at once."""

        async def scenario(bench: Bench) -> None:
            outbox = await bench.open()
            made = await bench.fill(range(1, MANY + 1))
            for number in (1, 2, 3, MANY):
                bench.bury(made[number - 1])
            bench.revive("o-1", MANY + 1)
            again = bench.revive(f"o-{MANY}", MANY + 2)
            dead = bench.revive("o-2", MANY + 3)
            gone = bench.revive("o-3", MANY + 4)
            if again is None or dead is None or gone is None:
                raise AssertionError("revive() of a dead letter returned None")
            bench.bury(again)
            bench.revive(again.offset, MANY + 5)
            bench.bury(dead)
            outbox.remove(gone)
            await outbox.append(bench.message(MANY + 6))
            wanted = [*range(4, MANY), MANY + 1, MANY + 5, MANY + 6]
            expect("len()", len(outbox), len(wanted))
            expect("the pending messages", numbers(outbox), wanted)
            expect("the dead letters", letters(outbox), [("o-2", "exhausted")])
            outbox = await bench.reopen()
            expect("the dead letters after opening it again", letters(outbox), [("o-2", "exhausted")])
            expect("what came", numbers(await bench.drain()), wanted)

        self._run(scenario)

    def test_dead_letters_can_be_looked_at_when_it_is_closed(self) -> None:
        """So that a client that was closed can say what it gave up."""

        async def scenario(bench: Bench) -> None:
            outbox = await bench.open()
            await bench.fill([1, 2])
            bench.bury(await bench.head(), "dropped")
            await bench.close()
            expect("the dead letters", letters(outbox), [("o-1", "dropped")])

        self._run(scenario)
