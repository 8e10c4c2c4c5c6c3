"""What an outbox has to do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

from reliable_emit.delivery import DeadLetter, Frames, Message


class OutboxOwner(Protocol):
    """What an outbox asks of the client that has opened it; called from the event loop."""

    def loaded(self, messages: Sequence[Message]) -> None:
        """Those messages have come from storage and are at hand now, in their order; or, if none, others are.

        To be called before `head` returns any of them, and whenever `head` has a message after it had none.
        """

    def refused(self, message: Message) -> None:
        """A message that nobody waits for any more, since the `append` was cancelled, could not be stored."""

    def decode(self, frames: Frames) -> tuple[Any, ...]:
        """Return the arguments in a snapshot; for the dead letters that an outbox makes from what it has stored."""


def offset_taken(offset: str) -> ValueError:
    """Return what `Outbox.append` raises for an offset that is not new."""
    return ValueError(
        f"new_offset returned {offset!r}, which a pending message or a dead letter has already; it has to be unique"
    )


@runtime_checkable
class Outbox(Protocol):
    """Keeps accepted messages in their order until they are settled, and dead letters until they are asked for.

    All methods are called from one event loop. Those that are not coroutines must not block it.
    """

    @property
    def durable(self) -> bool:
        """Whether messages outlive the process."""

    @property
    def where(self) -> str:
        """Where the messages are, in words, for people."""

    async def open(self, owner: OutboxOwner) -> int:
        """Take ownership, and return a number that is no lower than any pending message's `sequence`.

        Raises:
            OutboxLocked: Somebody else owns it.
            OutboxCorrupt: It cannot be read.
            OutboxUnavailable: It cannot be opened.
        """

    async def close(self) -> None:
        """Give up ownership, in bounded time; what is pending stays."""

    async def append(self, message: Message) -> None:
        """Accept a message: return once it is stored as durably as this outbox can.

        Its sequence is higher than that of any message before it. Concurrent calls keep the order in which they were
        made. A message counts from the call on. Cancelling the call may or may not have stored it.

        Raises:
            ValueError: A pending message or a dead letter has that offset; see `offset_taken`. Nothing was stored.
            TypeError: It cannot store a snapshot of this kind. Nothing was stored.
            OutboxUnavailable: It cannot be written to. Nothing was stored.
        """

    def head(self) -> Message | None:
        """Return the oldest pending message, ``None`` if there is none at hand (yet)."""

    def at_hand(self) -> Iterator[Message]:
        """The oldest pending messages, from `head` on, as many as can be had without waiting."""

    def attempted(self, message: Message) -> None:
        """A pending message is sent: its `attempts`, `failures` and `losses` may be worth remembering."""

    def remove(self, message: Message) -> None:
        """Forget a pending message."""

    def bury(self, letter: DeadLetter) -> None:
        """Make a pending message a dead letter; one whose `sequence` is 0 never was pending, and becomes one too."""

    def get(self, offset: str) -> Message | None:
        """Return the pending message with that offset, if any."""

    def __len__(self) -> int:
        """How many messages are pending."""

    def __iter__(self) -> Iterator[Message]:
        """The pending messages, oldest first."""

    def dead_letters(self) -> list[DeadLetter]:
        """The dead letters, oldest first."""

    def revive(self, offset: str, sequence: int) -> Message | None:
        """Make the dead letter with that offset pending again, with a new sequence; ``None`` if there is none.

        To return before that is durable is fine: until then the dead letter is still there.
        """

    def forget(self, offset: str) -> bool:
        """Throw the dead letter with that offset away, and say whether there was one."""
