"""The oldest messages, which are in memory; the rest is in the file alone."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence

from reliable_emit.delivery import Frames, Message, Unencoded, Unreadable

MESSAGES = 512
"""More than a fast network acknowledges while the next ones are read."""

BYTES = 4_000_000
"""Of payload; one message is in it however large it is."""


class Window:
    """Pending messages from the oldest on, without a gap.

    Attributes:
        complete: Whether it holds all pending messages that are stored.
        end: The sequence up to which it holds all of them.
    """

    def __init__(self) -> None:
        # Ordered for finding its first key without walking over those that were removed before.
        self._messages: OrderedDict[int, Message] = OrderedDict()
        self._bytes = 0
        self._gone: set[int] = set()  # of those behind the end that are not pending, to know them again
        self._tidy_at = MESSAGES
        self.complete = True
        self.end = 0

    def __len__(self) -> int:
        return len(self._messages)

    def __iter__(self) -> Iterator[Message]:
        return iter(self._messages.values())

    def head(self) -> Message | None:
        """Return the oldest."""
        return next(iter(self._messages.values()), None)

    def has_room(self) -> bool:
        """Whether another message may be added."""
        return not self._messages or (len(self._messages) < MESSAGES and self._bytes < BYTES)

    def is_low(self) -> bool:
        """Whether it is time to load more."""
        return not self.complete and len(self._messages) <= MESSAGES // 2 and self._bytes <= BYTES // 2

    def offer(self, message: Message) -> None:
        """A message was stored behind all others: take it if everything before it is here, and there is room."""
        if self.complete and self.has_room():
            self._add(message)
        elif message.sequence < self.end:
            self._add(message)  # it will not be loaded: that goes on behind the end
        else:
            self.complete = False

    def load(self, messages: Sequence[Message], end: int, *, complete: bool) -> None:
        """Add what was read from the file: everything that is pending up to `end`."""
        for message in messages:
            self._add(message)
        self.end = max(self.end, end)
        self.complete = complete

    def _add(self, message: Message) -> None:
        self._messages[message.sequence] = message
        self._bytes += size(message.frames)
        if message.sequence < self.end:  # revived, and stored only at the second try
            self._messages = OrderedDict(sorted(self._messages.items()))
        self.end = max(self.end, message.sequence)

    def take(self, sequence: int) -> bool:
        """A stored message is pending no more: take it out if it is here, and say whether it was pending at all."""
        message = self._messages.pop(sequence, None)
        if message is not None:
            self._bytes -= size(message.frames)
            return True
        if self.complete or sequence <= self.end or sequence in self._gone:
            return False
        self.gone(sequence)
        return True

    def gone(self, sequence: int) -> None:
        """A message behind all others never comes to be here."""
        self._gone.add(sequence)
        if len(self._gone) >= self._tidy_at:
            self._gone = {one for one in self._gone if one > self.end}
            self._tidy_at = max(MESSAGES, 2 * len(self._gone))


def size(frames: Frames) -> int:
    """Return about how many bytes a snapshot takes."""
    match frames:
        case str() | bytes():
            return len(frames)
        case tuple():
            return sum(map(len, frames))
        case Unreadable():
            return len(frames.stored)
        case Unencoded():
            return 0
