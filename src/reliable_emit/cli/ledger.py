"""Which line became which message, and what has become of it."""

from __future__ import annotations

import asyncio
import dataclasses

from reliable_emit import ClientOffsets, Delivery, ReliableClient, Stats
from reliable_emit.cli.output import plural
from reliable_emit.cli.source import Line

_SHOWN = 20
# Bytes of lines that may wait at a time, besides the bound on their number.
_BUDGET = 16_000_000


@dataclasses.dataclass(frozen=True, slots=True)
class Failure:
    """A message that was given up; with the number 0 it is none of the lines, but was in the outbox before."""

    number: int
    offset: str
    reason: str
    detail: str
    attempts: int

    def __str__(self) -> str:
        sent = "it may have arrived" if self.attempts else "it was never sent"
        return (
            f"{name(self.number)} (offset {self.offset}): {self.reason} after {plural(self.attempts, 'attempt')}: "
            f"{self.detail}; {sent}"
        )


def name(number: int) -> str:
    """Return what the message of a line is called; 0 is the number of those that an earlier run left."""
    return f"line {number}" if number else "a message of an earlier run"


def dead_lettered(stats: Stats) -> int:
    """Return how many messages were given up, but for those that closing dropped."""
    return stats.exhausted + stats.rejected + stats.expired


class Ledger:
    """Follows the lines that wait, and remembers how far they have come; never more than a bounded number.

    Lines are sent and settled one at a time and in order.

    Args:
        client: Sends them.
        size: The size of the input in bytes, ``None`` if nobody knows.

    Attributes:
        unbroken: The last line up to which all were acknowledged.
        settled: The last line up to which all were acknowledged or given up.
        position: Where in the input that is settled ends, in bytes.
        failures: The first lines that were given up.
    """

    def __init__(self, client: ReliableClient, size: int | None = None) -> None:
        self.unbroken = self.settled = 0
        self.position = 0
        self.failures: list[Failure] = []
        self._size = size or None
        self._waiting: dict[str, Line] = {}
        self._bytes = 0
        self._room = asyncio.Event()
        client.on("acknowledged", self._on_acknowledged)
        client.on("dead_lettered", self._on_dead_lettered)

    async def room(self) -> None:
        """Wait until the lines that wait take little enough memory for one more."""
        while self._bytes > _BUDGET:
            self._room.clear()
            await self._room.wait()

    def accepted(self, line: Line, delivery: Delivery) -> None:
        """A line became a message."""
        self._waiting[delivery.offset] = line
        self._bytes += len(line.content)

    def number(self, delivery: Delivery) -> int | None:
        """Return the number of the line that waits as that message, ``None`` if none does."""
        line = self._waiting.get(delivery.offset)
        return None if line is None else line.number

    def progress(self, stats: Stats) -> tuple[int, int | None]:
        """Return how much is done, and of how much, if that is known."""
        return self.position, self._size

    def dead(self, stats: Stats) -> int:
        """Return how many messages were given up."""
        return dead_lettered(stats)

    def is_given_up(self, delivery: Delivery) -> bool:
        """Whether a message that became a dead letter was given up; what closing drops is still pending."""
        return delivery.failure is not None and delivery.failure.reason != "dropped"

    def _on_acknowledged(self, delivery: Delivery) -> None:
        if self._settle(delivery) == self.unbroken + 1:
            self.unbroken += 1

    def _on_dead_lettered(self, delivery: Delivery) -> None:
        failure = delivery.failure
        if failure is None or not self.is_given_up(delivery):
            return
        number = self._settle(delivery)
        if number is not None and len(self.failures) < _SHOWN:
            self.failures.append(Failure(number, delivery.offset, failure.reason, failure.detail, failure.attempts))

    def _settle(self, delivery: Delivery) -> int | None:
        number = self.number(delivery)
        if number:
            self.settled = number
            self._forget(delivery)
        return number

    def _forget(self, delivery: Delivery) -> None:
        line = self._waiting.pop(delivery.offset)
        self._bytes -= len(line.content)
        self.position = line.end
        self._room.set()


class NumberedOffsets:
    """Makes the client offsets of the lines, and knows the line of each without remembering them all.

    A client offset ends in a counter, before which there is the socket id: for each socket it is enough to know where
    the counter and the lines stood when it came.
    """

    def __init__(self) -> None:
        self._new_offset = ClientOffsets()
        self._made = 0
        self._first: dict[str, int] = {}

    def __call__(self, socket_id: str | None) -> str:
        """Return the offset of the next line."""
        offset = self._new_offset(socket_id)
        prefix, counter = _parts(offset)
        self._made += 1
        self._first.setdefault(prefix, counter - self._made)
        return offset

    def line(self, offset: str) -> int:
        """Return the line that has that offset, 0 if none has."""
        try:
            prefix, counter = _parts(offset)
            return counter - self._first[prefix]
        except (ValueError, KeyError):
            return 0


def _parts(offset: str) -> tuple[str, int]:
    prefix, _, counter = offset.rpartition("-")
    return prefix, int(counter)


class DurableLedger(Ledger):
    """Follows the lines that wait in a file, as many as there may be, and the messages that were there before.

    Attributes:
        accepted_to: The last line up to which all were accepted.
        resumed: How many messages there were before.
    """

    def __init__(self, client: ReliableClient, offsets: NumberedOffsets) -> None:
        super().__init__(client)
        self.accepted_to = 0
        self.resumed = 0
        self._offsets = offsets

    def number(self, delivery: Delivery) -> int:
        """Return the number of the line that became that message, 0 for those that were there before."""
        return self._offsets.line(delivery.offset)

    def progress(self, stats: Stats) -> tuple[int, int | None]:
        """Return how many messages are settled, and of how many."""
        return stats.acknowledged + self.dead(stats), self.resumed + stats.accepted or None

    def dead(self, stats: Stats) -> int:
        """Return how many messages were given up; a closed client leaves the others in the file."""
        return dead_lettered(stats) + stats.dropped

    def is_given_up(self, delivery: Delivery) -> bool:
        """Whether a message that became a dead letter was given up: always."""
        return True

    def _forget(self, delivery: Delivery) -> None:
        """Nothing is remembered of a single line."""
