"""What the contract of outboxes is tested with: messages, an owner, and words for what is wrong."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from reliable_emit.delivery import DeadLetter, Frames, Message
from reliable_emit.errors import Reason
from reliable_emit.outbox import Outbox


def expect(what: str, found: object, wanted: object) -> None:
    """Raise `AssertionError` unless the two are equal; any two sequences are if what is in them is."""
    if isinstance(wanted, range):
        wanted = list(wanted)
    if found != wanted:
        raise AssertionError(f"{what}: {_short(found)}, but it has to be {_short(wanted)}")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _LONG else f"{text[: _LONG // 2]} ... {text[-_LONG // 2 :]}"


def numbers(messages: Iterable[Message]) -> list[int]:
    """Return their sequences."""
    return [one.sequence for one in messages]


def decode(frames: Frames) -> tuple[Any, ...]:
    """Return a snapshot in place of what is in it: the bench knows no serializer."""
    return (frames,)


def letters(outbox: Outbox) -> list[tuple[str, str]]:
    """Return the offsets and the reasons of its dead letters."""
    return [(letter.offset, letter.reason) for letter in outbox.dead_letters()]


async def refused(append: Awaitable[None]) -> None:
    """Raise `AssertionError` unless the append does `ValueError`."""
    try:
        await append
    except ValueError:
        return
    raise AssertionError("append() of an offset that is taken: stored, but it has to raise ValueError")


MANY = 2000
"""More messages than an outbox may care to keep in memory."""

_PATIENCE = 5.0
_LONG = 400


class Bench:
    """An outbox, and its owner: as the client is one, but that it sends nothing.

    Args:
        make: Makes an outbox on the store that a place names.
        place: The place of the test.

    Attributes:
        outbox: The outbox that was opened last.
        last: What `open` returned.
    """

    outbox: Outbox
    last: int

    def __init__(self, make: Callable[[Path], Outbox], place: Path) -> None:
        self.place = place
        self._make = make
        self._known: dict[int, Message] = {}  # made here, or told of by `loaded`; by what nobody else has meanwhile
        self._news = asyncio.Event()
        self._is_open = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._is_open:
            await self.close()

    def message(
        self, number: int, *, offset: str | None = None, frames: Frames | None = None, ttl: float | None = None
    ) -> Message:
        """Return a new message with that sequence."""
        made = Message(
            offset=f"o-{number}" if offset is None else offset,
            event="e",
            frames=f'2["e",{number}]' if frames is None else frames,
            ack_timeout=10.0,
            retries=3,
            accepted_at=time.time(),
            expires_at=None if ttl is None else asyncio.get_running_loop().time() + ttl,
        )
        made.sequence = number
        self._known[id(made)] = made
        return made

    # The owner.

    def loaded(self, messages: Sequence[Message]) -> None:
        """As `OutboxOwner.loaded`."""
        self._known.update({id(one): one for one in messages})
        self._news.set()

    def refused(self, message: Message) -> None:
        """As `OutboxOwner.refused`."""

    def decode(self, frames: Frames) -> tuple[Any, ...]:
        """As `OutboxOwner.decode`."""
        return decode(frames)

    # What is done with the outbox.

    async def open(self) -> Outbox:
        """Make an outbox, open it and return it."""
        self.outbox = self._make(self.place)
        await self.open_again()
        return self.outbox

    async def open_again(self) -> None:
        """Open the outbox that was closed."""
        self._known.clear()
        self.last = await self.outbox.open(self)
        self._is_open = True

    async def close(self) -> None:
        """Close it."""
        self._is_open = False
        await self.outbox.close()

    async def reopen(self) -> Outbox:
        """Close it, and return it open; a durable one as another object, as another process would have it."""
        await self.close()
        if not self.outbox.durable:
            await self.open_again()
            return self.outbox
        return await self.open()

    def revive(self, offset: str, number: int) -> Message | None:
        """Make a dead letter pending again."""
        revived = self.outbox.revive(offset, number)
        if revived is not None:
            self._known[id(revived)] = revived
        return revived

    def bury(self, one: Message, reason: Reason = "exhausted", detail: str = "nobody answers") -> DeadLetter:
        """Make a message a dead letter, as the client does."""
        one.state = "dead"
        letter = DeadLetter(one, reason, detail, time.time(), decode)
        self.outbox.bury(letter)
        return letter

    async def fill(self, sequences: Iterable[int]) -> list[Message]:
        """Append messages at the same time, and return them."""
        made = [self.message(number) for number in sequences]
        await asyncio.gather(*(self.outbox.append(one) for one in made))
        return made

    async def head(self) -> Message:
        """Return the oldest message, which there has to be, as the client gets at it: it asks again when told to."""
        while True:
            self._news.clear()
            found = self.outbox.head()
            if found is not None:
                if id(found) not in self._known:
                    raise AssertionError(f"head(): {found!r}, of which loaded() was not told before")
                return found
            try:
                await asyncio.wait_for(self._news.wait(), _PATIENCE)
            except TimeoutError:
                state = "has one now" if self.outbox.head() is not None else "has none"
                raise AssertionError(
                    f"loaded(): was not called for {_PATIENCE:g} s, with {len(self.outbox)} messages pending and none "
                    f"at hand; head() {state}"
                ) from None

    async def take(self) -> Message:
        """Remove the oldest message and return it."""
        found, pending = await self.head(), len(self.outbox)
        self.outbox.remove(found)
        expect("len() after remove()", len(self.outbox), pending - 1)
        return found

    async def drain(self) -> list[Message]:
        """Remove all messages and return them in the order in which they came."""
        came = []
        while len(self.outbox):
            came.append(await self.take())
        expect("head() when all were removed", self.outbox.head(), None)
        return came


class Contract:
    """What each part of the contract needs: a place, an event loop, and a bound.

    Attributes:
        patience: Seconds that a test may take.
    """

    patience = 60.0

    def make(self, place: Path) -> Outbox:
        """Return an outbox, not open yet.

        Args:
            place: Names the store: the same place is the same store, and another place is another. It is a directory
                that exists, and is deleted after the test.
        """
        raise NotImplementedError("say how your outbox is made: def make(self, place): ...")

    def clean(self, place: Path) -> None:
        """Called after a test with its place, for what is to be cleaned up elsewhere."""

    def _run(self, scenario: Callable[[Bench], Coroutine[Any, Any, None]], *, durable: bool = False) -> None:
        with tempfile.TemporaryDirectory(prefix="outbox-", ignore_cleanup_errors=True) as directory:
            place = Path(directory)
            if durable and not self.make(place).durable:
                return

            async def run() -> None:
                async with asyncio.timeout(self.patience), Bench(self.make, place) as bench:
                    await scenario(bench)

            try:
                asyncio.run(run())
            finally:
                self.clean(place)
