"""How a handler is called for a message, and what becomes of what it returns or raises."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from reliable_emit.delivery import rejection
from reliable_emit.server.errors import Reject
from reliable_emit.server.inbox import reply
from reliable_emit.server.inbox.store import Ending, Statement, TakeBack

if TYPE_CHECKING:
    from collections.abc import Callable

    from reliable_emit.server.inbox.store import Transaction


class Handling:
    """One call of a handler.

    Args:
        handler: The function.
        arguments: What it is called with, but for the transaction.
        json: The server's json module.
        rejected: Called with the reason when the handler rejects the message; in any thread.

    Attributes:
        failure: What it has raised, unless that was a rejection.
    """

    def __init__(
        self,
        handler: Callable[..., Any],
        arguments: tuple[Any, ...],
        json: reply.Json,
        rejected: Callable[[str], object],
    ) -> None:
        self._handler = handler
        self._arguments = arguments
        self._json = json
        self._rejected = rejected
        self.failure: Exception | None = None

    async def handle(self, transaction: Transaction) -> bytes:
        """Call the handler with the transaction, as `handle` in :meth:`InboxStore.once`."""
        try:
            try:
                result = self._handler(*self._arguments, transaction)
                if inspect.isawaitable(result) and not isinstance(result, Statement):
                    result = await result
            finally:
                transaction.end()
            if not isinstance(result, Statement):
                return reply.encode(result, self._json)
            result.use(transaction)
        except Exception as error:
            if (take_back := self._take_back(error)) is not None:
                raise take_back from None
            raise
        transaction.ending = Ending(result.function, self._finish)
        return b""

    def _finish(self, perform: Callable[[], object]) -> bytes:
        try:
            return reply.encode(perform(), self._json)
        except Exception as error:
            if (take_back := self._take_back(error)) is not None:
                raise take_back from None
            raise

    def _take_back(self, error: Exception) -> TakeBack | None:
        refusal = _refusal(error)
        if refusal is None:
            self.failure = error
            return None
        self._rejected(refusal.reason)
        return TakeBack(reply.encode(rejection(refusal.reason), self._json))


def _refusal(error: BaseException) -> Reject | None:
    """What a handler refuses with; also if it did so in a task group, and nothing else went wrong there."""
    if isinstance(error, Reject):
        return error
    if not isinstance(error, BaseExceptionGroup):
        return None
    refusals = [_refusal(one) for one in error.exceptions]
    return refusals[0] if all(refusals) else None
