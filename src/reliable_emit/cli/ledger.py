"""Which line became which message, and what has become of it."""

from __future__ import annotations

import asyncio
import dataclasses

from reliable_emit import Delivery, ReliableClient
from reliable_emit.cli.output import plural
from reliable_emit.cli.source import Line

_SHOWN = 20
# Bytes of lines that may wait at a time, besides the bound on their number.
_BUDGET = 16_000_000


@dataclasses.dataclass(frozen=True, slots=True)
class Failure:
    """A line that was given up."""

    number: int
    offset: str
    reason: str
    detail: str
    attempts: int

    def __str__(self) -> str:
        sent = "it may have arrived" if self.attempts else "it was never sent"
        return (
            f"line {self.number} (offset {self.offset}): {self.reason} after {plural(self.attempts, 'attempt')}: "
            f"{self.detail}; {sent}"
        )


class Ledger:
    """Follows the lines that wait, and remembers how far they have come; never more than a bounded number.

    Lines are sent and settled one at a time and in order.

    Attributes:
        unbroken: The last line up to which all were acknowledged.
        settled: The last line up to which all were acknowledged or given up.
        position: Where in the input that is settled ends, in bytes.
        failures: The first lines that were given up.
    """

    def __init__(self, client: ReliableClient) -> None:
        self.unbroken = self.settled = 0
        self.position = 0
        self.failures: list[Failure] = []
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

    def number(self, delivery: Delivery) -> int:
        """Return the number of the line that waits as that message, 0 if none does."""
        line = self._waiting.get(delivery.offset)
        return 0 if line is None else line.number

    def _on_acknowledged(self, delivery: Delivery) -> None:
        line = self._settled(delivery)
        if line is not None and line.number == self.unbroken + 1:
            self.unbroken = line.number

    def _on_dead_lettered(self, delivery: Delivery) -> None:
        failure = delivery.failure
        if failure is None or failure.reason == "dropped":  # what closing drops is not given up but pending
            return
        line = self._settled(delivery)
        if line is not None and len(self.failures) < _SHOWN:
            self.failures.append(
                Failure(line.number, delivery.offset, failure.reason, failure.detail, failure.attempts)
            )

    def _settled(self, delivery: Delivery) -> Line | None:
        line = self._waiting.pop(delivery.offset, None)
        if line is not None:
            self._bytes -= len(line.content)
            self.position = line.end
            self.settled = line.number
            self._room.set()
        return line
