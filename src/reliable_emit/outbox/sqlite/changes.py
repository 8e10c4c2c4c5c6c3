"""What has happened and is not in the file yet; nothing in here is forgotten before it is."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import cast

from reliable_emit.delivery import DeadLetter, Message
from reliable_emit.outbox.sqlite import rows
from reliable_emit.outbox.sqlite.rows import Row
from reliable_emit.outbox.sqlite.store import Batch


@dataclasses.dataclass(slots=True)
class Insert:
    """A message to be stored, and the future of who waits for that; nobody waits for a dead letter that is revived."""

    message: Message
    row: Row
    stored: asyncio.Future[None] | None

    @property
    def sequence(self) -> int:
        """The one it is stored with; the message has another if it was withdrawn and revived meanwhile."""
        return cast("int", self.row[0])


class Forgotten:
    """In place of a dead letter that was thrown away; each time another one, so that it can be told which."""


@dataclasses.dataclass(frozen=True, slots=True)
class Taken:
    """Changes on their way to the file."""

    batch: Batch
    letters: dict[str, DeadLetter | Forgotten]
    attempts: dict[int, Message]
    inserts: list[Insert]


class Changes:
    """Collects changes, hands them out in batches, and takes them back if a batch could not be written.

    Attributes:
        removed: The sequences of messages that are pending no more, but are so in the file.
        letters: By offset, the dead letters that the file does not have yet, or has still.
        inserts: The messages to be stored that were not handed out yet.
    """

    def __init__(self) -> None:
        self.removed: set[int] = set()
        self.letters: dict[str, DeadLetter | Forgotten] = {}
        self.inserts: list[Insert] = []
        self._new_removed: list[int] = []
        self._new_letters: dict[str, DeadLetter | Forgotten] = {}
        self._new_attempts: dict[int, Message] = {}

    def __len__(self) -> int:
        """How many there are, those on their way included, but for new messages, for which somebody waits."""
        return len(self.removed) + len(self.letters) + len(self._new_attempts)

    @property
    def waiting(self) -> int:
        """How many were not handed out, but for messages to be stored."""
        return len(self._new_removed) + len(self._new_letters)

    def attempt(self, message: Message) -> None:
        """A message was sent."""
        self._new_attempts[message.sequence] = message

    def remove(self, message: Message) -> None:
        """A message is pending no more."""
        self._new_attempts.pop(message.sequence, None)
        self.removed.add(message.sequence)
        self._new_removed.append(message.sequence)

    def bury(self, letter: DeadLetter) -> None:
        """There is a new dead letter."""
        self._note(letter.offset, letter)

    def forget(self, offset: str) -> None:
        """A dead letter is none any more."""
        self._note(offset, Forgotten())

    def unbury(self, insert: Insert) -> None:
        """A message that was made a dead letter while it was being stored was not stored: it is none at all."""
        letter = self.letters.get(insert.message.offset)
        if isinstance(letter, DeadLetter) and letter.message.sequence == insert.sequence:
            self.forget(letter.offset)  # not only dropped: it may have been written since

    def _note(self, offset: str, what: DeadLetter | Forgotten) -> None:
        for letters in (self.letters, self._new_letters):
            letters.pop(offset, None)  # what dies again is the youngest
            letters[offset] = what

    def take(self) -> Taken | None:
        """Hand out all that is new as one batch; whatever belongs together is together in it."""
        if not (self.inserts or self._new_removed or self._new_letters or self._new_attempts):
            return None
        letters, attempts, inserts = self._new_letters, self._new_attempts, self.inserts
        batch = Batch(
            removed=self._new_removed,
            forgotten=[rows.offset_column(offset) for offset, what in letters.items() if isinstance(what, Forgotten)],
            letters=[rows.letter_row(what) for what in letters.values() if isinstance(what, DeadLetter)],
            attempts=[(m.attempts, m.failures, m.losses, m.sequence) for m in attempts.values()],
            inserts=[insert.row for insert in inserts],
        )
        self._new_removed, self._new_letters, self._new_attempts, self.inserts = [], {}, {}, []
        return Taken(batch, letters, attempts, inserts)

    def written(self, taken: Taken) -> None:
        """A batch is in the file."""
        self.removed.difference_update(taken.batch.removed)
        for offset, what in taken.letters.items():
            if self.letters.get(offset) is what:
                del self.letters[offset]

    def failed(self, taken: Taken) -> None:
        """A batch is not in the file, and goes into the next one; but for messages, for which somebody waits."""
        self._new_removed[:0] = taken.batch.removed
        # Revived ones, which are dead letters in the file as yet. One that was given up since stays out: it would be
        # stored after it was removed.
        self.inserts[:0] = [i for i in taken.inserts if i.stored is None and i.sequence not in self.removed]
        letters = {offset: what for offset, what in taken.letters.items() if self.letters.get(offset) is what}
        self._new_letters = letters | self._new_letters  # the older ones first
        attempts = {number: message for number, message in taken.attempts.items() if number not in self.removed}
        self._new_attempts = attempts | self._new_attempts
