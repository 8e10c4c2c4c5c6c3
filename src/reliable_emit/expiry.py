"""Knows when the time to live of a message is over, wherever it is in the queue."""

from __future__ import annotations

import asyncio
import heapq
import weakref
from collections.abc import Callable

from reliable_emit.delivery import Message

_SLACK = 64
_STEP = 64
"""Messages that are given up in one step of the event loop."""

_Entry = tuple[float, int, "weakref.ref[Message]"]


class Expiry:
    """One timer for all messages with a time to live.

    It keeps no message alive: one that only a durable outbox has any more is watched again when that has loaded it.

    Args:
        on_due: Called when there is something due.
    """

    def __init__(self, on_due: Callable[[], None]) -> None:
        self._on_due = on_due
        self._heap: list[_Entry] = []
        self._next_clean_up = _SLACK
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, message: Message) -> None:
        """Watch a message, if it has a time to live."""
        if message.expires_at is None:
            return
        if len(self._heap) >= self._next_clean_up:
            # Settled messages leave the heap when their time comes; with a long one they would pile up.
            self._heap = [entry for entry in self._heap if _pending(entry)]
            heapq.heapify(self._heap)
            self._next_clean_up = 2 * len(self._heap) + _SLACK
        heapq.heappush(self._heap, (message.expires_at, message.sequence, weakref.ref(message)))
        self._arm()

    def stop(self) -> None:
        """Watch nothing any more."""
        self._heap.clear()
        self._arm()

    def take_due(self) -> list[Message]:
        """Return messages whose time is over and that are not settled, and forget them.

        After a long time there may be thousands: they are returned some at a time, and `on_due` is called for more.

        The timer alone would come too late: whatever is sent next may be among them.
        """
        if not self._heap or self._heap[0][0] > (now := asyncio.get_running_loop().time()):
            return []
        due: list[Message] = []
        while self._heap and self._heap[0][0] <= now and len(due) < _STEP:
            message = _pending(heapq.heappop(self._heap))
            if message is not None:
                due.append(message)
        self._arm()
        return due

    def is_due(self, message: Message) -> bool:
        """Whether that message's time is over."""
        return message.expires_at is not None and message.expires_at <= asyncio.get_running_loop().time()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._heap and _pending(self._heap[0]) is None:
            heapq.heappop(self._heap)
        if self._heap:
            self._timer = asyncio.get_running_loop().call_at(self._heap[0][0], self._on_due)


def _pending(entry: _Entry) -> Message | None:
    at, _, reference = entry
    message = reference()
    if message is None or message.state not in {"queued", "in_flight"} or message.expires_at != at:
        return None  # with another time, it was redelivered since
    return message
