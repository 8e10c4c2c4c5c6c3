"""The outbox that lives as long as the process."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Iterator

from reliable_emit.delivery import DeadLetter, Message
from reliable_emit.errors import OutboxLocked
from reliable_emit.outbox.base import OutboxOwner, offset_taken
from reliable_emit.policy import count

_logger = logging.getLogger("reliable_emit")


class MemoryOutbox:
    """Keeps messages in memory: they survive every loss of the connection, but not the end of the process.

    Args:
        max_dead_letters: How many dead letters are kept; the oldest make room, and that is logged.
    """

    durable = False
    where = "in the memory of this process"

    def __init__(self, *, max_dead_letters: int = 1000) -> None:
        self._max_dead_letters = count("max_dead_letters", max_dead_letters, least=0)
        # Ordered, and each by its offset, at the same cost for ten as for a million. A plain dict would do the same but
        # for finding its first key, which walks over every key removed before.
        self._pending: OrderedDict[str, Message] = OrderedDict()
        self._dead: OrderedDict[str, DeadLetter] = OrderedDict()
        self._evicted = 0
        self._open = False

    async def open(self, owner: OutboxOwner) -> int:
        """Take ownership."""
        if self._open:
            raise OutboxLocked(repr(self))
        self._open = True
        owner.loaded(list(self._pending.values()))
        return max((message.sequence for message in self), default=0)

    async def close(self) -> None:
        """Give up ownership."""
        self._evicted = 0
        self._open = False

    async def append(self, message: Message) -> None:
        """Accept a message."""
        if message.offset in self._pending or message.offset in self._dead:
            raise offset_taken(message.offset)
        self._pending[message.offset] = message

    def head(self) -> Message | None:
        """Return the oldest pending message."""
        return next(iter(self._pending.values()), None)

    def at_hand(self) -> Iterator[Message]:
        """All of them."""
        return iter(self)

    def attempted(self, message: Message) -> None:
        """Nothing is remembered for longer than the message itself."""

    def remove(self, message: Message) -> None:
        """Forget a pending message."""
        del self._pending[message.offset]

    def bury(self, letter: DeadLetter) -> None:
        """Make a message a dead letter."""
        self._pending.pop(letter.offset, None)
        self._dead[letter.offset] = letter
        if len(self._dead) > self._max_dead_letters:
            _, oldest = self._dead.popitem(last=False)
            self._evicted += 1
            if str(self._evicted).strip("0") == "1":  # the first, the tenth, ...: each would be a flood
                _logger.error(
                    "more than %d dead letters: the oldest are lost for good, %d so far; now %r (offset %s, %s)",
                    self._max_dead_letters,
                    self._evicted,
                    oldest.event,
                    oldest.offset,
                    oldest.reason,
                )

    def get(self, offset: str) -> Message | None:
        """Return the pending message with that offset."""
        return self._pending.get(offset)

    def __bool__(self) -> bool:
        return True  # also an empty one is the outbox that was given

    def __len__(self) -> int:
        return len(self._pending)

    def __iter__(self) -> Iterator[Message]:
        return iter(self._pending.values())

    def dead_letters(self) -> list[DeadLetter]:
        """The dead letters, oldest first."""
        return list(self._dead.values())

    def revive(self, offset: str, sequence: int) -> Message | None:
        """Make a dead letter pending again."""
        letter = self._dead.pop(offset, None)
        if letter is None:
            return None
        letter.message.renew()
        letter.message.sequence = sequence
        self._pending[offset] = letter.message
        return letter.message

    def forget(self, offset: str) -> bool:
        """Throw a dead letter away."""
        return self._dead.pop(offset, None) is not None
