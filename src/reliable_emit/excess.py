"""Drops the oldest messages when there are too many, and the policy is to do that."""

from __future__ import annotations

import itertools
from collections.abc import Callable

from reliable_emit.delivery import Message
from reliable_emit.errors import Reason
from reliable_emit.outbox import Outbox
from reliable_emit.policy import Policy


class Excess:
    """Knows how many messages are too many.

    They are dropped after the new one was stored: if that fails, nothing was given up for it. What is not in memory is
    dropped when it is: to fetch it for that would hold up the event loop.

    Args:
        policy: The limit, and what is to be done about it.
        outbox: What is limited.
        withdraw: Gives a message up.
        newest: Returns the sequence of the newest message, which may be on its way to the disk.
    """

    def __init__(
        self,
        policy: Policy,
        outbox: Outbox,
        withdraw: Callable[[Message, Reason, str], None],
        newest: Callable[[], int],
    ) -> None:
        self._limit = policy.max_pending if policy.overflow == "drop_oldest" else None
        self._outbox = outbox
        self._withdraw = withdraw
        self._newest = newest
        self._number = 0

    def accepted(self) -> None:
        """A message was stored."""
        if self._limit is not None and len(self._outbox) - self._number > self._limit:
            self._number += 1
            self.drop()

    def drop(self) -> None:
        """Give up what is too much: the oldest but the newest one, those that are not in flight if there are any."""
        while self._number:
            before = list(itertools.islice(self._outbox.at_hand(), 2))
            if len(before) < min(2, len(self._outbox)):
                return  # more is being loaded
            self._number -= 1
            before = [message for message in before if message.sequence != self._newest()]
            idle = [message for message in before if message.state != "in_flight"]
            for oldest in (idle or before)[:1]:
                self._withdraw(oldest, "dropped", f"{self._limit} messages were pending, and the oldest is dropped")
