"""What is recorded, counted and told when a message is settled."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from reliable_emit.delivery import DeadLetter, Frames, Message
from reliable_emit.errors import DeliveryFailed, Reason
from reliable_emit.handles import Handles
from reliable_emit.hooks import Hooks, Stats
from reliable_emit.outbox import Outbox

_logger = logging.getLogger("reliable_emit")


class Settling:
    """Settles messages: in the outbox, in the counters, with whoever waits, and with the hooks.

    Args:
        outbox: Where the messages are.
        handles: The handles on them.
        hooks: The user's functions.
        stats: The counters.
        decode: Returns the arguments in a snapshot.
    """

    def __init__(
        self,
        outbox: Outbox,
        handles: Handles,
        hooks: Hooks,
        stats: Stats,
        decode: Callable[[Frames], tuple[Any, ...]],
    ) -> None:
        self._outbox = outbox
        self._handles = handles
        self._hooks = hooks
        self._stats = stats
        self._decode = decode

    def sent(self, message: Message) -> None:
        """An attempt is being made."""
        self._keep_books(self._outbox.attempted, message)
        self._stats.sent += 1
        self._hooks.fire("sent", delivery := self._handles.of(message))
        if message.attempts > 1:
            self._stats.retried += 1
            self._hooks.fire("retried", delivery)

    def acknowledged(self, message: Message, reply: tuple[Any, ...]) -> None:
        """The server acknowledged it."""
        self._stats.acknowledged += 1
        self._keep_books(self._outbox.remove, message)
        self._settle(message, reply, "acknowledged")

    def failed(self, message: Message, reason: Reason, detail: str, level: int) -> None:
        """It is given up, and that is logged at that level."""
        setattr(self._stats, reason, getattr(self._stats, reason) + 1)
        hook = None
        if reason == "cancelled":
            self._keep_books(self._outbox.remove, message)
        else:
            _logger.log(
                level,
                "%r (offset %s) is given up: %s after %d attempts: %s",
                message.event,
                message.offset,
                reason,
                message.attempts,
                detail,
            )
            self._keep_books(self._outbox.bury, DeadLetter(message, reason, detail, time.time(), self._decode))
            hook = "dead_lettered"
        delivery = self._handles.of(message)
        if reason == "dropped":
            self._hooks.fire("dropped", delivery)
        failure = DeliveryFailed(delivery, reason, message.attempts, message.possibly_sent, detail)
        self._settle(message, failure, hook)

    def _settle(self, message: Message, outcome: tuple[Any, ...] | DeliveryFailed, hook: str | None) -> None:
        delivery = self._handles.of(message)
        self._handles.release(delivery)
        callback = delivery._settle(outcome)  # noqa: SLF001 - the client's own side of the handle
        if callback is not None and isinstance(outcome, tuple):
            self._hooks.call_soon(f"the callback of {message.event!r}", callback, outcome)
        if hook is not None:
            self._hooks.fire(hook, delivery)

    def _keep_books(self, entry: Callable[[Any], None], what: Any) -> None:
        """Have the outbox record something; the message goes its way, whatever becomes of its record.

        A record that stays costs a repetition, no message.
        """
        try:
            entry(what)
        except Exception:
            _logger.exception("the outbox could not record what became of %r", what)
