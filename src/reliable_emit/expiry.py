"""Knows when the time to live of a message is over, wherever it is in the queue."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable

from reliable_emit.delivery import Message

_SLACK = 64


class Expiry:
    """One timer for all messages with a time to live.

    Args:
        on_due: Called when there is something due.
        pending: How many messages are pending.
    """

    def __init__(self, on_due: Callable[[], None], pending: Callable[[], int]) -> None:
        self._on_due = on_due
        self._pending = pending
        self._heap: list[tuple[float, int, Message]] = []
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, message: Message) -> None:
        """Watch a message, if it has a time to live."""
        if message.expires_at is None:
            return
        if len(self._heap) > 2 * self._pending() + _SLACK:
            # Settled messages leave the heap when their time comes; with a long one they would pile up.
            self._heap = [entry for entry in self._heap if _counts(entry)]
            heapq.heapify(self._heap)
        heapq.heappush(self._heap, (message.expires_at, message.sequence, message))
        self._arm()

    def stop(self) -> None:
        """Watch nothing any more."""
        self._heap.clear()
        self._arm()

    def take_due(self) -> list[Message]:
        """Return the messages whose time is over and that are not settled, and forget them.

        The timer alone would come too late: whatever is sent next may be among them.
        """
        if not self._heap or self._heap[0][0] > (now := asyncio.get_running_loop().time()):
            return []
        due = []
        while self._heap and self._heap[0][0] <= now:
            entry = heapq.heappop(self._heap)
            if _counts(entry):
                due.append(entry[2])
        self._arm()
        return due

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._heap and not _counts(self._heap[0]):
            heapq.heappop(self._heap)
        if self._heap:
            self._timer = asyncio.get_running_loop().call_at(self._heap[0][0], self._on_due)


def _counts(entry: tuple[float, int, Message]) -> bool:
    at, _, message = entry
    return message.state in {"queued", "in_flight"} and message.expires_at == at  # else it was redelivered since
