"""The contract of an inbox's stores, run on ours; and on some that break a promise each, which it has to notice."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import pathlib
import sqlite3
import unittest
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import pytest

from reliable_emit.server import Key, MemoryStore, Record, SQLiteStore, TakeBack, Transaction
from reliable_emit.server.inbox.afterwards import call_back
from reliable_emit.testing.inbox_contract import InboxContract

if TYPE_CHECKING:
    from pathlib import Path

    from reliable_emit.server import SQLiteTransaction
    from reliable_emit.server.inbox.session import Synchronous
    from reliable_emit.testing.inbox_contract.bench import AnyStore


class InMemory(InboxContract):
    """Effects in a list, by callbacks."""

    durable = False
    store: type[MemoryStore] = MemoryStore

    async def prepare(self, place: Path) -> None:
        self.seen: list[str] = []

    def make(self, place: Path) -> AnyStore:
        return self.store()

    async def effect(self, transaction: Transaction, text: str) -> None:
        transaction.after_commit(lambda: self.seen.append(text))

    async def effects(self, place: Path) -> list[str]:
        return list(self.seen)


class TestMemoryStore(InMemory):
    pass


class InSQLite(InboxContract):
    """Effects in a table."""

    store: type[SQLiteStore] = SQLiteStore
    synchronous: Synchronous = "full"

    async def prepare(self, place: Path) -> None:
        with contextlib.closing(sqlite3.connect(place / "app.db")) as db:
            db.execute("CREATE TABLE effects (id INTEGER PRIMARY KEY, text TEXT)")
            db.commit()

    def make(self, place: Path) -> AnyStore:
        return self.store(place / "app.db", synchronous=self.synchronous)

    async def effect(self, transaction: SQLiteTransaction, text: str) -> None:
        await transaction.execute("INSERT INTO effects (text) VALUES (?)", (text,))

    async def effects(self, place: Path) -> list[str]:
        with contextlib.closing(sqlite3.connect(place / "app.db")) as db:
            return [text for (text,) in db.execute("SELECT text FROM effects ORDER BY id")]


class TestSQLiteStore(InSQLite):
    pass


class TestSQLiteStoreInAHurry(InSQLite):
    synchronous = "normal"


# Stores that break a promise.

Handler = Callable[[Transaction], Awaitable[bytes]]


class HandlesAgain(MemoryStore):
    async def once(self, key: Key, fingerprint: bytes, handle: Handler) -> Record:
        self._records.pop(key, None)
        return await super().once(key, fingerprint, handle)


class IsAlwaysNew(MemoryStore):
    async def once(self, key: Key, fingerprint: bytes, handle: Handler) -> Record:
        return dataclasses.replace(await super().once(key, fingerprint, handle), new=True)


class KeepsTheLatestFingerprint(MemoryStore):
    async def once(self, key: Key, fingerprint: bytes, handle: Handler) -> Record:
        return dataclasses.replace(await super().once(key, fingerprint, handle), fingerprint=fingerprint)


class IgnoresThePrincipal(MemoryStore):
    async def once(self, key: Key, fingerprint: bytes, handle: Handler) -> Record:
        return await super().once(Key("", key.offset), fingerprint, handle)


class IgnoresCase(MemoryStore):
    async def once(self, key: Key, fingerprint: bytes, handle: Handler) -> Record:
        return await super().once(Key(key.principal, key.offset.lower()), fingerprint, handle)


class JoinsTheKey(MemoryStore):
    async def once(self, key: Key, fingerprint: bytes, handle: Handler) -> Record:
        return await super().once(Key("", f"{key.principal}-{key.offset}"), fingerprint, handle)


class Changes(MemoryStore):
    """A store whose handlers end otherwise."""

    async def once(self, key: Key, fingerprint: bytes, handle: Handler) -> Record:
        return await super().once(key, fingerprint, lambda transaction: self.handle(transaction, handle))

    async def handle(self, transaction: Transaction, handle: Handler) -> bytes:
        raise NotImplementedError


class StoresText(Changes):
    async def handle(self, transaction: Transaction, handle: Handler) -> bytes:
        return (await handle(transaction)).decode("utf-8", "replace").encode()


class RecordsFailures(Changes):
    async def handle(self, transaction: Transaction, handle: Handler) -> bytes:
        try:
            return await handle(transaction)
        except TakeBack:
            raise
        except Exception:
            return b""


class KeepsTheEffectsOfFailures(Changes):
    async def handle(self, transaction: Transaction, handle: Handler) -> bytes:
        try:
            return await handle(transaction)
        except TakeBack:
            raise
        except Exception:
            call_back(transaction)
            raise


class KeepsTheEffectsOfTheCancelled(Changes):
    async def handle(self, transaction: Transaction, handle: Handler) -> bytes:
        try:
            return await handle(transaction)
        except asyncio.CancelledError:
            call_back(transaction)
            raise


class KeepsWhatIsTakenBack(Changes):
    async def handle(self, transaction: Transaction, handle: Handler) -> bytes:
        try:
            return await handle(transaction)
        except TakeBack as rejection:
            return rejection.reply


class CallsBackAtOnce(Changes):
    async def handle(self, transaction: Transaction, handle: Handler) -> bytes:
        transaction.after_commit = lambda callback: [callback()]  # type: ignore[method-assign, assignment]
        return await handle(transaction)


class CallsBackOnce(Changes):
    async def handle(self, transaction: Transaction, handle: Handler) -> bytes:
        reply = await handle(transaction)
        for callback in transaction.take_callbacks()[:1]:
            transaction.after_commit(callback)
        return reply


class ForgetsWhatIsTakenBack(MemoryStore):
    async def once(self, key: Key, fingerprint: bytes, handle: Handler) -> Record:
        taken_back = False

        async def look(transaction: Transaction) -> bytes:
            nonlocal taken_back
            try:
                return await handle(transaction)
            except TakeBack:
                taken_back = True
                raise

        record = await super().once(key, fingerprint, look)
        if taken_back:
            del self._records[key]
        return record


class LocksNothing(MemoryStore):
    async def once(self, key: Key, fingerprint: bytes, handle: Handler) -> Record:
        self._locks.clear()
        return await super().once(key, fingerprint, handle)


class CancelsTogether(MemoryStore):
    def __init__(self) -> None:
        super().__init__()
        self._tasks: dict[Key, asyncio.Task[Record]] = {}

    async def once(self, key: Key, fingerprint: bytes, handle: Handler) -> Record:
        task = self._tasks.get(key)
        if task is None or task.done():
            self._tasks[key] = task = asyncio.ensure_future(super().once(key, fingerprint, handle))
        return await task


class ForgetsAll(MemoryStore):
    async def forget(self, age: float) -> int:
        return await super().forget(0)


class ForgetsNothing(MemoryStore):
    async def forget(self, age: float) -> int:
        return 0


class ForgetsAfterAnHour(MemoryStore):
    async def forget(self, age: float) -> int:
        return await super().forget(age + 3600)


class NeverDoneForgetting(MemoryStore):
    async def forget(self, age: float) -> int:
        return await super().forget(age) or 1


class ReturnsBeforeTheCommit(SQLiteStore):
    async def once(
        self, key: Key, fingerprint: bytes, handle: Callable[[SQLiteTransaction], Awaitable[bytes]]
    ) -> Record:
        reply: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

        async def tell(transaction: SQLiteTransaction) -> bytes:
            reply.set_result(await handle(transaction))
            await asyncio.sleep(0.3)  # as a disk takes its time
            return reply.result()

        task = asyncio.ensure_future(super().once(key, fingerprint, tell))
        waited: set[asyncio.Future[Any]] = {task, reply}
        await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        return Record(fingerprint, reply.result(), new=True) if reply.done() else await task


class KeepsARecordInMemory(SQLiteStore):
    def __init__(self, path: Path, *, synchronous: Synchronous) -> None:
        super().__init__(path, synchronous=synchronous)
        self._memory = MemoryStore()

    async def once(
        self, key: Key, fingerprint: bytes, handle: Callable[[SQLiteTransaction], Awaitable[bytes]]
    ) -> Record:
        async def through(transaction: Transaction) -> bytes:
            inner = Key(key.principal, f"{key.offset} {id(transaction)}")
            return (await SQLiteStore.once(self, inner, fingerprint, handle)).reply

        return await self._memory.once(key, fingerprint, through)


class WaitsForHandlersToEnd(SQLiteStore):
    async def close(self) -> None:
        assert self._opened is not None
        conductor = self._opened[2]._conductor
        if conductor is not None and not conductor.done():
            await asyncio.wait([conductor], timeout=6)
        await super().close()


BROKEN: dict[type[MemoryStore | SQLiteStore], str] = {
    HandlesAgain: "a_message_is_handled_once",
    IsAlwaysNew: "a_message_is_handled_once",
    KeepsTheLatestFingerprint: "the_fingerprint_of_the_first_stays",
    IgnoresThePrincipal: "keys_are_compared_as_they_are",
    IgnoresCase: "keys_are_compared_as_they_are",
    JoinsTheKey: "keys_are_compared_as_they_are",
    StoresText: "a_reply_is_any_bytes",
    RecordsFailures: "a_handler_that_raises_leaves_nothing",
    KeepsTheEffectsOfFailures: "a_handler_that_raises_leaves_nothing",
    KeepsTheEffectsOfTheCancelled: "a_handler_that_is_cancelled_leaves_nothing",
    KeepsWhatIsTakenBack: "what_is_taken_back_is_undone_and_recorded",
    ForgetsWhatIsTakenBack: "what_is_taken_back_is_undone_and_recorded",
    CallsBackAtOnce: "callbacks_are_called_after_the_commit",
    CallsBackOnce: "callbacks_are_called_after_the_commit",
    LocksNothing: "repetitions_at_the_same_time_are_handled_once",
    CancelsTogether: "one_that_is_cancelled_while_it_waits_disturbs_nobody",
    ForgetsAll: "old_records_are_forgotten",
    ForgetsNothing: "old_records_are_forgotten",
    ForgetsAfterAnHour: "many_old_records_are_forgotten_in_steps",
    NeverDoneForgetting: "many_old_records_are_forgotten_in_steps",
    ReturnsBeforeTheCommit: "effects_are_seen_when_it_returns_and_not_before",
    KeepsARecordInMemory: "a_record_outlives_the_store",
    WaitsForHandlersToEnd: "closing_comes_to_an_end",
}


@pytest.mark.parametrize("kind", BROKEN, ids=lambda kind: kind.__name__)
def test_a_broken_promise_is_noticed(kind: type[MemoryStore | SQLiteStore]) -> None:
    contract: InboxContract
    if issubclass(kind, SQLiteStore):
        contract = InSQLite()
        contract.store, contract.synchronous = kind, "normal"
    else:
        contract = InMemory()
        contract.store = kind
    contract.patience = 15.0
    with pytest.raises((AssertionError, asyncio.CancelledError, ValueError)):
        getattr(contract, f"test_{BROKEN[kind]}")()


def test_the_contract_says_what_was_expected() -> None:
    contract = InMemory()
    contract.store = IsAlwaysNew
    with pytest.raises(AssertionError, match=r"^new, of a repetition: True, but it has to be False$"):
        contract.test_a_message_is_handled_once()


def test_the_contract_runs_under_unittest_too() -> None:
    case = type("Case", (InMemory, unittest.TestCase), {})
    suite = unittest.defaultTestLoader.loadTestsFromTestCase(case)
    result = unittest.TestResult()
    suite.run(result)
    assert result.testsRun >= 25
    assert result.wasSuccessful()


async def test_a_store_has_to_be_made() -> None:
    contract, place = InboxContract(), pathlib.Path()
    with pytest.raises(NotImplementedError, match="def make"):
        contract.make(place)
    with pytest.raises(NotImplementedError, match="def effect"):
        await contract.effect(None, "")
    with pytest.raises(NotImplementedError, match="def effects"):
        await contract.effects(place)


def test_every_promise_is_explained() -> None:
    tests = [getattr(InboxContract, name) for name in dir(InboxContract) if name.startswith("test_")]
    assert all(test.__doc__ for test in tests)
    assert len(tests) >= 25
    assert set(BROKEN.values()) <= {test.__name__.removeprefix("test_") for test in tests}
