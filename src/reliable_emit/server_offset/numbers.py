"""The numbers of events: what is one, which have come before, and what is odd about those that come."""

from __future__ import annotations

import collections
import logging
from typing import Any

from reliable_emit.server_offset.complaints import Complaints
from reliable_emit.server_offset.file import GREATEST

_REMEMBERED = 1_000
"""How many numbers of events are known one by one. Below all of them, an event counts as one that was there before."""


def is_id(value: Any) -> bool:
    """Whether that can be the id of an event."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= GREATEST


class Numbers:
    """The numbers of the events that have come.

    Args:
        start: The last one that was there before; 0: there was none.
        complaints: Has the log say what is odd.
        key: The key under which the server is told.
        anew: How to begin anew, for who needs that.
    """

    def __init__(self, start: int, complaints: Complaints, *, key: str, anew: str) -> None:
        self._complaints, self._key, self._anew = complaints, key, anew
        # Numbers up to the floor were there before, and of those above it the ones that are remembered. The floor is
        # what the server was told, and not the greatest number that it has sent since: an event that comes too late is
        # better handed over out of order than lost.
        self._floor = start or -1  # the server may begin to count at 0
        self._known: collections.OrderedDict[int, None] = collections.OrderedDict()
        self._greatest = self._told = start

    def __len__(self) -> int:
        """How many are known one by one."""
        return len(self._known)

    def tell(self, number: int) -> None:
        """The server is told that all up to that one are here."""
        self._told = number
        self._floor = max(self._floor, number or -1)
        self._complaints.over("again")

    def is_new(self, number: int) -> bool:
        """Take a number in, and return whether it comes for the first time."""
        if number < self._told:
            self._complaints.say(
                "again",
                logging.WARNING,
                "the server has sent event %d, although it was told that the events up to %d are here. If it does not "
                "look at %s, no harm is done: repetitions are dropped. But if its ids have begun anew, with another "
                "database, its new events are taken for repetitions: then begin anew here too, %s",
                number,
                self._told,
                self._key,
                self._anew,
            )
        if number <= self._floor or number in self._known:
            return False
        if number < self._greatest:
            self._complaints.say(
                "order",
                logging.WARNING,
                "event %d has come after event %d, and is handled after it: the server does not send in the order of "
                "the ids. What it has not sent when the connection is lost may be missed; this is said once",
                number,
                self._greatest,
            )
        self._greatest = max(self._greatest, number)
        self._known[number] = None
        if len(self._known) > _REMEMBERED:
            self._floor = max(self._floor, self._known.popitem(last=False)[0])
        return True
