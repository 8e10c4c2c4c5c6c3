"""What happens between a commit and the acknowledgement: the callbacks of the transactions, whatever the store."""

from __future__ import annotations

import asyncio
import inspect
import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from reliable_emit.server.inbox.store import Transaction

_logger = logging.getLogger("reliable_emit.server")


def call_back(transaction: Transaction) -> None:
    """Call what was queued with `after_commit`, once; for stores, in the event loop, in the order of their commits."""
    for callback in transaction.take_callbacks():
        try:
            result = callback()
        except (Exception, asyncio.CancelledError):  # a callback of the user's that raises stops nothing
            _logger.exception(
                "a callback after the commit of the message with the client offset %r raised; the message is handled",
                transaction.offset,
            )
            continue
        if inspect.iscoroutine(result):  # of a lambda around an async function, say; a task is fine
            result.close()
            _logger.error(
                "a callback after the commit of the message with the client offset %r gave a coroutine, which nobody "
                "waits for, and it did not run: have the callback start a task",
                transaction.offset,
            )
