"""Decides when changes go to the file, and sees to it that they get there."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable

from reliable_emit.delivery import DeadLetter, Message
from reliable_emit.errors import ReliableEmitError
from reliable_emit.outbox.base import offset_taken
from reliable_emit.outbox.sqlite.changes import Changes, Insert, Taken
from reliable_emit.outbox.sqlite.rows import Row
from reliable_emit.outbox.sqlite.worker import Worker

_logger = logging.getLogger("reliable_emit")

_LAZY = 0.2
"""Seconds that the record of what became of a message may wait for a commit to share."""
_RETRY = 1.0
_BATCH = 512
"""Rows that are written together at the most, so that no transaction takes long."""

OnInserted = Callable[[list[tuple[Insert, BaseException | None]]], None]


class Writer:
    """Writes changes: new messages as soon as the event loop has gone round, everything else with them, or soon.

    Args:
        worker: Who does it.
        on_inserted: Called with the messages that were to be stored, each with the error if it was not.
    """

    def __init__(self, worker: Worker, on_inserted: OnInserted) -> None:
        self.changes = Changes()
        self._worker = worker
        self._on_inserted = on_inserted
        self._loop = asyncio.get_running_loop()
        self._scheduled = self._failing = False
        self._timer: asyncio.TimerHandle | None = None

    def insert(self, message: Message, row: Row, stored: asyncio.Future[None] | None) -> None:
        """Store a message."""
        self.changes.inserts.append(Insert(message, row, stored))
        if len(self.changes.inserts) >= _BATCH:
            self.submit()
        elif not self._scheduled:
            # Not at once: those who emit in the same step of the event loop share a transaction.
            self._scheduled = True
            self._loop.call_soon(self.submit)

    def attempt(self, message: Message) -> None:
        """A message was sent."""
        self.changes.attempt(message)
        self._soon()

    def remove(self, message: Message) -> None:
        """A message is pending no more."""
        self.changes.remove(message)
        self._soon()

    def bury(self, letter: DeadLetter) -> None:
        """There is a new dead letter."""
        self.changes.bury(letter)
        self._soon()

    def forget(self, offset: str) -> None:
        """A dead letter is none any more."""
        self.changes.forget(offset)
        self._soon()

    def _soon(self) -> None:
        if self.changes.waiting >= _BATCH:
            self.submit()
        else:
            self._arm(_LAZY)

    def _arm(self, seconds: float) -> None:
        if self._timer is None:
            self._timer = self._loop.call_later(seconds, self.submit)

    def submit(self) -> None:
        """Have everything written that is not on its way."""
        self._scheduled = False
        self.stop()
        taken = self.changes.take()
        if taken is not None:
            self._worker.submit(taken.batch, functools.partial(self._written, taken))

    def stop(self) -> None:
        """Start nothing more from a timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _written(self, taken: Taken, refused: set[int], error: BaseException | None) -> None:
        if error is not None:
            self._failed(taken, error)
            return
        self._failing = False
        self.changes.written(taken)
        self._on_inserted(
            [
                (insert, offset_taken(insert.message.offset) if insert.sequence in refused else None)
                for insert in taken.inserts
            ]
        )

    def _failed(self, taken: Taken, error: BaseException) -> None:
        self.changes.failed(taken)
        for insert in taken.inserts:
            if insert.stored is not None:
                self.changes.unbury(insert)
        if self.changes:
            if not self._failing:
                _logger.error("%s; what has become of messages is written down when that is over", error)
            self._failing = True
            self._arm(_RETRY)
        if not isinstance(error, ReliableEmitError):
            _logger.error("the outbox's thread failed", exc_info=error)
        self._on_inserted([(insert, error) for insert in taken.inserts if insert.stored is not None])
