"""The part of the contract about owning and storing: one owner at a time, and what is there when it is opened again."""

from __future__ import annotations

import asyncio
from pathlib import Path

from reliable_emit.delivery import Frames, Message
from reliable_emit.errors import OutboxLocked
from reliable_emit.outbox import Outbox
from reliable_emit.testing.outbox_contract.bench import MANY, Bench, Contract, expect, letters, numbers

_FRAMES: tuple[Frames, ...] = (
    '2["e"]',
    '2["e","\u00e9 \u65e5\u672c \U0001f600 \x00 \u2028"]',
    '2["e","half a pair: \ud83d"]',
    b"\x83" + bytes(range(256)),
    b"",
    ('51-["e",{"_placeholder":true,"num":0}]', bytes(range(256))),
    ('52-["e",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]', b"", b"\xff"),
    '2["e","' + "x" * 300_000 + '"]',
)


class StorageContract(Contract):
    """Tests of opening, closing and what lasts."""

    def test_it_has_one_owner_at_a_time(self) -> None:
        """Another gets `OutboxLocked` at once, and disturbs nobody; after `close` it is free."""

        async def scenario(bench: Bench) -> None:
            outbox = await bench.open()
            await bench.fill([1, 2])
            for other in (outbox, self.make(bench.place)) if outbox.durable else (outbox,):
                await _locked(other)
            expect("the pending messages", numbers(outbox), [1, 2])
            await outbox.append(bench.message(3))
            outbox = await bench.reopen()
            expect("the pending messages after opening it again", numbers(outbox), [1, 2, 3])

        self._run(scenario)

    def test_what_is_pending_stays_when_it_is_closed(self) -> None:
        """Whoever opens it next has it all, in its order, and learns the highest sequence."""

        async def scenario(bench: Bench) -> None:
            outbox = await bench.open()
            await bench.fill(range(1, 11))
            for round_ in range(3):
                outbox = await bench.reopen()
                first, last = 1 + round_, 10 + round_
                expect("len()", len(outbox), 10)
                expect("the pending messages", numbers(outbox), range(first, last + 1))
                expect("whether open() returned the highest sequence", bench.last >= last, True)
                expect("head()", (await bench.head()).sequence, first)
                await bench.take()
                await outbox.append(bench.message(last + 1))
            expect("what came", numbers(await bench.drain()), range(4, 14))

        self._run(scenario)

    def test_closing_twice_does_nothing(self) -> None:
        """Neither does closing one that was never opened."""

        async def scenario(bench: Bench) -> None:
            await self.make(bench.place).close()
            outbox = await bench.open()
            await bench.fill([1])
            await bench.close()
            await outbox.close()
            await bench.open_again()
            expect("the pending messages", numbers(outbox), [1])

        self._run(scenario)

    def test_closing_waits_for_what_is_being_stored(self) -> None:
        """An `append` that had begun ends too; if it returned, its message is there."""

        async def scenario(bench: Bench) -> None:
            outbox = await bench.open()
            tasks = [asyncio.ensure_future(outbox.append(bench.message(number))) for number in range(1, 21)]
            await asyncio.sleep(0)
            await bench.close()
            outcomes = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 5)
            if outbox.durable:
                outbox = await bench.open()
            else:
                await bench.open_again()
            stored = [number for number, outcome in enumerate(outcomes, 1) if outcome is None]
            expect("those that were stored and are not there", set(stored) - set(numbers(outbox)), set())

        self._run(scenario)

    def test_all_of_a_message_is_stored(self) -> None:
        """Frames of every kind, names and offsets of any characters, its rules, and when it was accepted."""

        async def scenario(bench: Bench) -> None:
            outbox = await bench.open()
            made = []
            for number, frames in enumerate(_FRAMES, 1):
                one = bench.message(number, offset=f"o \u00e9\x00\ud83d {number}", frames=frames)
                one.event, one.ack_timeout, one.retries = f"\u65e5\x00\udc00 {number}", number / 7, number
                made.append(one)
            made[1].retries, made[2].ack_timeout = None, 0.0
            wanted = [_rules(one) for one in made]
            for one in made:
                await outbox.append(one)
                found = outbox.get(one.offset)
                expect("get()", found and found.sequence, one.sequence)
            outbox = await bench.reopen()
            expect("the messages, looked at", [_rules(one) for one in outbox], wanted)
            came = await bench.drain()
            expect("the messages that came", [_rules(one) for one in came], wanted)
            for one in came[:3]:
                bench.bury(bench.message(0, offset=one.offset, frames=one.frames), "rejected", one.event)
            outbox = await bench.reopen()
            dead = [(letter.offset, letter.data, letter.detail) for letter in outbox.dead_letters()]
            expect("the dead letters", dead, [(one.offset, (one.frames,), one.event) for one in made[:3]])

        self._run(scenario)

    def test_what_was_sent_is_remembered(self) -> None:
        """Attempts, failures and losses are what they were when `attempted` was called last; closing loses none."""

        async def scenario(bench: Bench) -> None:
            outbox = await bench.open()
            one, other = await bench.fill([1, 2])
            for attempt in range(1, 4):
                one.attempts, one.failures, one.losses = attempt, attempt - 1, 7
                outbox.attempted(one)
            outbox = await bench.reopen()
            found = list(outbox)
            expect("of one that was sent", (found[0].attempts, found[0].failures, found[0].losses), (3, 2, 7))
            expect("whether that one may have been sent", found[0].possibly_sent, True)
            expect("of one that was not", (found[1].attempts, found[1].failures, found[1].losses), (0, 0, 0))
            expect("whether that one may have been sent", found[1].possibly_sent, other.possibly_sent)
            bench.bury(found[0])
            outbox = await bench.reopen()
            expect("the attempts of a dead letter", [letter.attempts for letter in outbox.dead_letters()], [3])
            revived = bench.revive("o-1", 3)
            expect("the attempts of one that is revived", revived and revived.attempts, 3)

        self._run(scenario)

    def test_a_time_to_live_goes_on(self) -> None:
        """It ends when it would have, whether or not the outbox was closed meanwhile; without one, it never does."""

        async def scenario(bench: Bench) -> None:
            outbox = await bench.open()
            lives = (None, 1000.0, 0.001, 50_000.0)
            for number, ttl in enumerate(lives, 1):
                await outbox.append(bench.message(number, ttl=ttl))
            for _ in range(2):
                outbox = await bench.reopen()
                now = asyncio.get_running_loop().time()
                for one, ttl in zip(list(outbox), lives, strict=True):
                    if ttl is None or one.expires_at is None:
                        expect("the time to live", one.expires_at, ttl)
                    else:
                        left = one.expires_at - now
                        expect(f"of {ttl} s, whether {left} s are left", ttl - 60 < left <= ttl + 0.01, True)

        self._run(scenario)

    def test_many_messages_come_back(self) -> None:
        """More than fit into memory; what is done to those that are not at hand is done."""

        async def scenario(bench: Bench) -> None:
            outbox = await bench.open()
            await bench.fill(range(1, MANY + 1))
            outbox = await bench.reopen()
            expect("whether open() returned the highest sequence", bench.last >= MANY, True)
            expect("len()", len(outbox), MANY)
            expect("the pending messages", numbers(outbox), range(1, MANY + 1))
            for number in (3, MANY // 2, MANY):
                found = outbox.get(f"o-{number}")
                if found is None:
                    raise AssertionError(f"get() of message {number} of {MANY} returned None")
                outbox.remove(found)
            for number in (5, MANY - 1):
                found = outbox.get(f"o-{number}")
                if found is None:
                    raise AssertionError(f"get() of message {number} of {MANY} returned None")
                bench.bury(found)
            await bench.fill(range(MANY + 1, MANY + 11))
            left = [n for n in range(1, MANY + 11) if n not in {3, 5, MANY // 2, MANY - 1, MANY}]
            expect("len(), later", len(outbox), len(left))
            expect("the pending messages, later", numbers(outbox), left)
            expect("what came", numbers(await bench.drain()), left)
            expect("the dead letters", letters(outbox), [("o-5", "exhausted"), (f"o-{MANY - 1}", "exhausted")])
            outbox = await bench.reopen()
            expect("len(), at last", len(outbox), 0)

        self._run(scenario)


def _rules(one: Message) -> tuple[object, ...]:
    return (one.sequence, one.offset, one.event, one.frames, one.ack_timeout, one.retries, one.accepted_at, one.state)


async def _locked(outbox: Outbox) -> None:
    other = Bench(lambda _: outbox, Path())
    try:
        await other.open()
    except OutboxLocked:
        return
    raise AssertionError("open() of an outbox that has an owner: opened, but it has to raise OutboxLocked")
