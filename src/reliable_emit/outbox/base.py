"""What an outbox has to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol, runtime_checkable

from reliable_emit.delivery import DeadLetter, Message


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

    async def open(self, on_ready: Callable[[], None]) -> None:
        """Take ownership.

        Args:
            on_ready: To be called when `head` has a message after it had none, unless it is from an `append`.

        Raises:
            OutboxLocked: Somebody else owns it.
        """

    async def close(self) -> None:
        """Give up ownership; what is pending stays."""

    async def append(self, message: Message) -> None:
        """Accept a message: return once it is stored as durably as this outbox can.

        Concurrent calls keep the order in which they were made. A message counts from the call on.
        """

    def head(self) -> Message | None:
        """Return the oldest pending message at hand, ``None`` if there is none (yet)."""

    def remove(self, message: Message) -> None:
        """Forget a pending message."""

    def bury(self, letter: DeadLetter) -> None:
        """Make a pending message a dead letter; one that is not pending becomes one too."""

    def get(self, offset: str) -> Message | None:
        """Return the pending message with that offset, if any."""

    def __contains__(self, offset: str) -> bool:
        """Whether a message with that offset is pending, or a dead letter."""

    def __len__(self) -> int:
        """How many messages are pending."""

    def __iter__(self) -> Iterator[Message]:
        """The pending messages, oldest first."""

    def dead_letters(self) -> list[DeadLetter]:
        """The dead letters, oldest first."""

    def revive(self, offset: str) -> Message | None:
        """Make the dead letter with that offset pending again, as the newest message; ``None`` if there is none.

        To return before that is durable is fine: until then the dead letter is still there.
        """

    def forget(self, offset: str) -> bool:
        """Throw the dead letter with that offset away, and say whether there was one."""
