"""What the contract of an inbox's stores is tested with: a handler with an effect, and words for what is wrong."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from reliable_emit.server import InboxStore, Key, Record, Transaction

AnyStore = InboxStore[Any]
Handle = Callable[[Transaction], Awaitable[bytes]]

_LONG = 400


class Failure(Exception):
    """What a handler raises."""


def expect(what: str, found: object, wanted: object) -> None:
    """Raise `AssertionError` unless the two are equal."""
    if found != wanted:
        raise AssertionError(f"{what}: {_short(found)}, but it has to be {_short(wanted)}")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _LONG else f"{text[: _LONG // 2]} ... {text[-_LONG // 2 :]}"


def key(offset: str, principal: str = "somebody") -> Key:
    """Return the key of a message."""
    return Key(principal, offset)


class Bench:
    """A store, and handlers for it.

    Args:
        contract: Says how the store is made.
        place: The place of the test.

    Attributes:
        store: The store that was opened last.
        handled: What handlers were called with, in order: the offset of each call.
    """

    store: AnyStore

    def __init__(self, contract: Contract, place: Path) -> None:
        self._contract = contract
        self._place = place
        self._open: list[AnyStore] = []
        self.handled: list[str] = []

    async def __aenter__(self) -> Self:
        await self._contract.prepare(self._place)
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for store in self._open:
            await store.close()

    async def open(self) -> AnyStore:
        """Make a store, open it and return it."""
        self.store = self._contract.make(self._place)
        await self.store.open()
        self._open.append(self.store)
        return self.store

    async def reopen(self) -> AnyStore:
        """Close the store and return another one at the same place."""
        self._open.remove(self.store)
        await self.store.close()
        return await self.open()

    async def effect(self, transaction: Transaction, text: str) -> None:
        """Have an effect in the transaction."""
        await self._contract.effect(transaction, text)

    async def effects(self) -> list[str]:
        """Return the effects that can be seen from outside, in the order in which they were had."""
        return await self._contract.effects(self._place)

    async def expect_effects(self, wanted: Iterable[str]) -> None:
        """Raise `AssertionError` unless these are the effects that can be seen from outside, in any order."""
        expect("the effects", sorted(await self.effects()), sorted(wanted))

    def handler(
        self,
        text: str,
        reply: bytes = b"reply",
        *,
        wait: Callable[[], Awaitable[object]] | None = None,
        error: Any = None,
    ) -> Handle:
        """Return a handler with an effect, which then waits, raises or returns a reply, as told."""

        async def handle(transaction: Transaction) -> bytes:
            self.handled.append(transaction.offset)
            await self.effect(transaction, text)
            if wait is not None:
                await wait()
            if error is not None:
                raise error
            return reply

        return handle

    async def once(self, offset: str, text: str, reply: bytes = b"reply", **options: Any) -> Record:
        """Have the store handle a message of somebody's with an effect."""
        return await self.store.once(key(offset), b"fingerprint", self.handler(text, reply, **options))


async def never(transaction: Transaction) -> bytes:
    """A handler that must not be called."""
    raise AssertionError(f"handle() was called for {transaction.offset!r}, which is recorded already")


class Contract:
    """What each part of the contract needs: a place, an event loop, and a bound.

    Attributes:
        patience: Seconds that a test may take.
        durable: Whether another store at the same place has the records; two can then be open at the same time.
    """

    patience = 60.0
    durable = True

    def make(self, place: Path) -> AnyStore:
        """Return a store, not open yet.

        Args:
            place: Names the database: the same place is the same database, and another place is another. It is a
                directory that exists, and is deleted after the test.
        """
        raise NotImplementedError("say how your store is made: def make(self, place): ...")

    async def effect(self, transaction: Any, text: str) -> None:
        """Have an effect in an open transaction, as a handler would: insert a row with that text."""
        raise NotImplementedError("say how a handler has an effect: async def effect(self, transaction, text): ...")

    async def effects(self, place: Path) -> list[str]:
        """Return the texts of the effects that are committed, as anybody else sees them; may be asked at any time."""
        raise NotImplementedError("say what effects there are: async def effects(self, place): ...")

    async def prepare(self, place: Path) -> None:
        """Called before a test with its place, in its event loop: for making the table of the effects."""

    async def clean(self, place: Path) -> None:
        """Called after a test with its place, in its event loop, for what is to be cleaned up elsewhere."""

    def _run(self, scenario: Callable[[Bench], Coroutine[Any, Any, None]]) -> None:
        with tempfile.TemporaryDirectory(prefix="inbox-", ignore_cleanup_errors=True) as directory:
            place = Path(directory)

            async def run() -> None:
                try:
                    async with asyncio.timeout(self.patience), Bench(self, place) as bench:
                        await scenario(bench)
                finally:
                    await self.clean(place)

            asyncio.run(run())
