"""The contract of outboxes, run on ours; and on some that break a promise each, which it has to notice."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import itertools
import unittest
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import pytest

from reliable_emit import MemoryOutbox, SQLiteOutbox
from reliable_emit.testing.outbox_contract import OutboxContract

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from reliable_emit.delivery import DeadLetter, Message
    from reliable_emit.outbox import Outbox, OutboxOwner


class TestMemoryOutbox(OutboxContract):
    def make(self, place: Path) -> Outbox:
        return MemoryOutbox()


class TestSQLiteOutbox(OutboxContract):
    def make(self, place: Path) -> Outbox:
        return SQLiteOutbox(place / "outbox.db")


class TestSQLiteOutboxInAHurry(OutboxContract):
    def make(self, place: Path) -> Outbox:
        return SQLiteOutbox(place / "outbox.db", synchronous="normal")


# Outboxes that break a promise.


class NewestFirst(MemoryOutbox):
    def head(self) -> Message | None:
        return next(reversed(self._pending.values()), None)


class IteratesBackwards(MemoryOutbox):
    def __iter__(self) -> Iterator[Message]:
        return reversed(self._pending.values())


class StoresAsItComes(MemoryOutbox):
    async def append(self, message: Message) -> None:
        for _ in range(message.sequence % 3):
            await asyncio.sleep(0)
        await super().append(message)


class CountsWhatIsStored(MemoryOutbox):
    async def append(self, message: Message) -> None:
        await asyncio.sleep(0)
        await super().append(message)


class TakesEveryOffset(MemoryOutbox):
    async def append(self, message: Message) -> None:
        self._pending[message.offset] = message


class ForgetsOffsetsOfTheDead(MemoryOutbox):
    async def append(self, message: Message) -> None:
        dead = self._dead.pop(message.offset, None)
        await super().append(message)
        if dead is not None:
            self._dead[message.offset] = dead


class RemovesNothing(MemoryOutbox):
    def remove(self, message: Message) -> None:
        pass


class RemovesTheHead(MemoryOutbox):
    def remove(self, message: Message) -> None:
        self._pending.popitem(last=False)


class ReturnsCopies(MemoryOutbox):
    def get(self, offset: str) -> Message | None:
        return copy.copy(super().get(offset))


class BuriesAlive(MemoryOutbox):
    def bury(self, letter: DeadLetter) -> None:
        self._dead[letter.offset] = letter


class BuriesOnlyWhatWasPending(MemoryOutbox):
    def bury(self, letter: DeadLetter) -> None:
        if letter.offset in self._pending:
            super().bury(letter)


class RevivesAtOnce(MemoryOutbox):
    def revive(self, offset: str, sequence: int) -> Message | None:
        revived = super().revive(offset, sequence)
        if revived is not None:
            self._pending.move_to_end(offset, last=False)
        return revived


class RevivesWithoutRest(MemoryOutbox):
    def revive(self, offset: str, sequence: int) -> Message | None:
        letter = self._dead.pop(offset, None)
        if letter is None:
            return None
        letter.message.sequence = sequence
        self._pending[offset] = letter.message
        return letter.message


class AlwaysForgot(MemoryOutbox):
    def forget(self, offset: str) -> bool:
        super().forget(offset)
        return True


class YoungestDeadFirst(MemoryOutbox):
    def dead_letters(self) -> list[DeadLetter]:
        return list(reversed(super().dead_letters()))


class AnybodysOutbox(MemoryOutbox):
    async def open(self, owner: OutboxOwner) -> int:
        self._open = False
        return await super().open(owner)


class EmptiedByClosing(MemoryOutbox):
    async def close(self) -> None:
        await super().close()
        self._pending = OrderedDict()


class _Deaf:
    """An owner between an outbox and its owner, who is told of nothing, or only of what has come from storage."""

    def __init__(self, owner: OutboxOwner, *, tell: bool) -> None:
        self._owner = owner
        self._tell = tell

    def loaded(self, messages: Sequence[Message]) -> None:
        if messages and self._tell:
            self._owner.loaded(messages)

    def refused(self, message: Message) -> None:
        self._owner.refused(message)

    def decode(self, frames: Any) -> tuple[Any, ...]:
        return self._owner.decode(frames)


class TellsNothing(SQLiteOutbox):
    async def open(self, owner: OutboxOwner) -> int:
        return await super().open(_Deaf(owner, tell=False))


class TellsOnlyOfMessages(SQLiteOutbox):
    async def open(self, owner: OutboxOwner) -> int:
        return await super().open(_Deaf(owner, tell=True))


class StartsCountingAgain(SQLiteOutbox):
    async def open(self, owner: OutboxOwner) -> int:
        return min(await super().open(owner), 1)


class ForgetsWhatWasSent(SQLiteOutbox):
    def attempted(self, message: Message) -> None:
        pass


class ForgetsTheTime(SQLiteOutbox):
    async def open(self, owner: OutboxOwner) -> int:
        last = await super().open(owner)
        for message in self:
            message.expires_at = None
        return last


class SeesOnlyItsWindow(SQLiteOutbox):
    def __iter__(self) -> Iterator[Message]:
        return iter(list(self._window) + list(self._appending.values()))


class FindsOnlyInItsWindow(SQLiteOutbox):
    def get(self, offset: str) -> Message | None:
        return next((message for message in self._window if message.offset == offset), None)


class RemovesOnlyInItsWindow(SQLiteOutbox):
    def remove(self, message: Message) -> None:
        if any(one is message for one in itertools.chain(self._window, self._appending.values())):
            super().remove(message)
        else:
            self._count -= 1


class RevivesIntoBoth(SQLiteOutbox):
    def revive(self, offset: str, sequence: int) -> Message | None:
        letter = self._letter(offset)
        revived = super().revive(offset, sequence)
        if letter is not None and self._opened is not None:
            self._opened.writer.bury(letter)
        return revived


class LosesTheReason(SQLiteOutbox):
    def bury(self, letter: DeadLetter) -> None:
        super().bury(dataclasses.replace(letter, detail="it died"))


class StoresText(SQLiteOutbox):
    async def append(self, message: Message) -> None:
        if isinstance(message.frames, str):
            message.frames = message.frames.encode("utf-8", "replace").decode()
        await super().append(message)


class LosesTheLast(SQLiteOutbox):
    async def close(self) -> None:
        if self._opened is not None and len(self) > 1:
            self.remove(list(self)[-1])
        await super().close()


class WaitsForNobody(SQLiteOutbox):
    async def append(self, message: Message) -> None:
        task = asyncio.ensure_future(super().append(message))
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        await asyncio.sleep(0)


BROKEN: dict[type[MemoryOutbox | SQLiteOutbox], str] = {
    NewestFirst: "messages_come_out_in_their_order",
    IteratesBackwards: "messages_come_out_in_their_order",
    StoresAsItComes: "concurrent_appends_keep_the_order_of_the_calls",
    CountsWhatIsStored: "a_message_counts_from_the_call_on",
    TakesEveryOffset: "the_offset_of_a_pending_message_is_taken",
    ForgetsOffsetsOfTheDead: "the_offset_of_a_dead_letter_is_taken",
    RemovesNothing: "all_messages_can_be_removed",
    RemovesTheHead: "any_message_can_be_removed",
    ReturnsCopies: "what_is_at_hand_is_one_object",
    BuriesAlive: "a_message_that_is_given_up_is_a_dead_letter",
    BuriesOnlyWhatWasPending: "a_message_that_never_was_pending_can_be_a_dead_letter",
    RevivesAtOnce: "a_dead_letter_can_be_revived",
    RevivesWithoutRest: "a_dead_letter_can_be_revived",
    AlwaysForgot: "a_dead_letter_can_be_forgotten",
    YoungestDeadFirst: "dead_letters_are_in_the_order_of_their_deaths",
    AnybodysOutbox: "it_has_one_owner_at_a_time",
    EmptiedByClosing: "what_is_pending_stays_when_it_is_closed",
    TellsNothing: "many_messages_come_back",
    TellsOnlyOfMessages: "a_dead_letter_can_be_revived_in_an_empty_outbox",
    StartsCountingAgain: "what_is_pending_stays_when_it_is_closed",
    ForgetsWhatWasSent: "what_was_sent_is_remembered",
    ForgetsTheTime: "a_time_to_live_goes_on",
    SeesOnlyItsWindow: "many_messages",
    FindsOnlyInItsWindow: "many_messages",
    RemovesOnlyInItsWindow: "any_message_can_be_removed",
    RevivesIntoBoth: "a_dead_letter_can_be_revived",
    LosesTheReason: "a_message_that_is_given_up_is_a_dead_letter",
    StoresText: "all_of_a_message_is_stored",
    LosesTheLast: "what_is_pending_stays_when_it_is_closed",
    WaitsForNobody: "the_offset_of_a_pending_message_is_taken",
}


def contract(kind: type[MemoryOutbox | SQLiteOutbox]) -> type[OutboxContract]:
    class Contract(OutboxContract):
        patience = 20.0

        def make(self, place: Path) -> Outbox:
            return _made(kind, place)

    return Contract


def _made(kind: type[MemoryOutbox | SQLiteOutbox], place: Path) -> Outbox:
    return kind(place / "outbox.db", synchronous="normal") if issubclass(kind, SQLiteOutbox) else kind()


@pytest.mark.parametrize("kind", BROKEN, ids=lambda kind: kind.__name__)
def test_a_broken_promise_is_noticed(kind: type[MemoryOutbox | SQLiteOutbox], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reliable_emit.testing.outbox_contract.bench._PATIENCE", 0.5)
    with pytest.raises((AssertionError, KeyError, ValueError)):
        getattr(contract(kind)(), f"test_{BROKEN[kind]}")()


def test_the_contract_says_what_was_expected() -> None:
    with pytest.raises(AssertionError, match=r"^the pending messages: \[2, 1\], but it has to be \[1, 2\]$"):
        contract(IteratesBackwards)().test_messages_come_out_in_their_order()


def test_the_contract_runs_under_unittest_too() -> None:
    case = type("Case", (contract(MemoryOutbox), unittest.TestCase), {})
    suite = unittest.defaultTestLoader.loadTestsFromTestCase(case)
    result = unittest.TestResult()
    suite.run(result)
    assert result.testsRun >= 30
    assert result.wasSuccessful()


def test_an_outbox_has_to_be_made() -> None:
    with pytest.raises(NotImplementedError, match="def make"):
        OutboxContract().test_a_new_one_is_empty()


def test_every_promise_is_explained() -> None:
    tests = [getattr(OutboxContract, name) for name in dir(OutboxContract) if name.startswith("test_")]
    assert all(test.__doc__ for test in tests)
    assert len(tests) >= 30
    assert set(BROKEN.values()) <= {test.__name__.removeprefix("test_") for test in tests}
