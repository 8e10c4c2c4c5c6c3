"""The line of events that have come and are not handled: whose turn it is, and how far the offset may move.

One event is handled at a time, in the order in which they came. One whose handler failed keeps its place at the head
and is tried again, for what fails is mostly not the event but what the handler needs, and the next event would fail as
well. After some failures that is put to the test: the head stays where it is, and another event is tried in between. If
that one fails too, the head is not to blame, and everything goes on waiting. If it succeeds, the head gets one more
chance, and is given up if it fails again. So a database that is down loses no event however long it takes, and an event
that always fails holds up no others for ever.

The offset is the greatest number that was handled and is less than that of every event that is not handled. An event
whose handler was cancelled counts among those until it comes again, however long that takes, so what was handled behind
it is not remembered one by one: each event that is not handled only knows how far everything behind it is.
"""

from __future__ import annotations

import asyncio
import bisect
import logging
import operator

_logger = logging.getLogger("reliable_emit")


class Place:
    """An event's place in the line.

    Attributes:
        number: The event's number.
        order: The how manieth it was to come.
        reach: The greatest number up to which, from this one on, all are handled once this one is.
        failures: How often its handler has failed.
        turn: Set when it is its turn.
        blamed: Another event was handled where this one had failed.
        done: It was handled, or given up.
    """

    __slots__ = ("blamed", "done", "failures", "number", "order", "reach", "turn")

    def __init__(self, number: int, order: int) -> None:
        self.number = self.reach = number
        self.order = order
        self.done = False
        self.arm()

    def arm(self) -> None:
        """Begin, or begin again."""
        self.failures = 0
        self.blamed = False
        self.turn = asyncio.Event()


_number = operator.attrgetter("number")
_order = operator.attrgetter("order")


class Line:
    """The events that have come and are not handled.

    Args:
        retries: How many failures after the first one put an event to the test; ``None``: it waits for ever.
        offset: The offset to begin with.

    Attributes:
        offset: How far everything is handled; it never goes back.
        abandoned: The numbers whose handlers were cancelled, and which are welcome to come again.
    """

    def __init__(self, retries: int | None, offset: int) -> None:
        self._retries = retries
        self._came = 0
        self._unhandled: list[Place] = []  # by number, those that are welcome to come again among them
        self._waiting: list[Place] = []  # in the order in which they came
        self._at_work: Place | None = None
        self.offset = offset
        self.abandoned: dict[int, Place] = {}

    def join(self, number: int) -> Place:
        """Take an event in, at the end; or at its old place, if its handler was cancelled."""
        place = self.abandoned.pop(number, None)
        if place is None:
            self._came += 1
            place = Place(number, self._came)
            self._insert(place)
        else:
            place.arm()
        bisect.insort(self._waiting, place, key=_order)
        if self._at_work is None:
            self._pass_to(place)
        return place

    def handled(self, place: Place) -> None:
        """The event is handled; it is the next one's turn."""
        head = self._waiting[0]
        if head is not place and head.failures:
            head.blamed = True  # it let this one pass, because it had failed
        self._finish(place)

    def failed(self, place: Place) -> bool:
        """The handler failed; return whether the event is given up. If not, pause, then call `again`."""
        place.failures += 1
        if place.blamed:
            self._finish(place)
        return place.done

    def again(self, place: Place) -> None:
        """The pause after a failure is over: it is the turn of the head, or of another one, to see what that does."""
        head, *others = self._waiting
        is_suspect = self._retries is not None and head.failures > self._retries
        if place is head and is_suspect and others:
            # The one that was tried least: were it always the same, two that fail for ever would hold up the rest.
            self._pass_to(min(others, key=lambda other: other.failures))
        else:
            self._pass_to(head)

    def left(self, place: Place, *, begun: bool) -> None:
        """The handler was cancelled, at work or, not having `begun`, before its turn.

        The offset stays before the event until it comes again; unless it is past it, because the event had come after a
        greater one that was handled already. Then nobody sends it again.
        """
        if place.number < self.offset:
            _logger.error(
                "event %d is missed: its handler was cancelled, and the offset is past it, because it had come after a "
                "greater one",
                place.number,
            )
            self._finish(place)
            return
        if begun:  # of those that wait for their turn when a program ends there may be thousands
            _logger.warning("the handler of event %d was cancelled; the offset stays before it", place.number)
        self.abandoned[place.number] = place
        self._remove(place)

    def _finish(self, place: Place) -> None:
        place.done = True
        index = bisect.bisect_left(self._unhandled, place.number, key=_number)
        del self._unhandled[index]
        if index:
            before = self._unhandled[index - 1]
            before.reach = max(before.reach, place.reach)
        else:
            self.offset = max(self.offset, place.reach)
        self._remove(place)

    def _insert(self, place: Place) -> None:
        index = bisect.bisect_left(self._unhandled, place.number, key=_number)
        if index and (before := self._unhandled[index - 1]).reach > place.number:
            # It has come after a greater one that is handled already: the one before reaches no further than it now.
            before.reach, place.reach = before.number, before.reach
        self._unhandled.insert(index, place)

    def _remove(self, place: Place) -> None:
        # Thousands may be cancelled at once when a program ends, so nothing here goes through all that wait.
        del self._waiting[bisect.bisect_left(self._waiting, place.order, key=_order)]
        if self._at_work is place:
            self._pass_to(self._waiting[0] if self._waiting else None)

    def _pass_to(self, place: Place | None) -> None:
        self._at_work = place
        if place is not None:
            place.turn.set()
