"""Who may put a message into the outbox, and who waits for room: first come, first served."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from reliable_emit.errors import ClientClosed


class Admission:
    """Counts places.

    Args:
        limit: How many messages may be pending, ``None``: any number.
        pending: How many are.
    """

    def __init__(self, limit: int | None, pending: Callable[[], int]) -> None:
        self._limit = limit
        self._pending = pending
        self._line: deque[asyncio.Future[None]] = deque()
        self._granted = 0  # places that are kept free for those who waited, until they take them

    def is_full(self) -> bool:
        """Whether one more has to wait: also while others do, so that nobody overtakes them."""
        return self._limit is not None and (bool(self._line) or not self._has_room(self._limit))

    async def wait(self) -> None:
        """Wait for a place; the caller has to take it at once.

        Cancelling passes the place on to the next in line.

        Raises:
            ClientClosed: :meth:`close` was called meanwhile.
        """
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._line.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._line.remove(turn)
            elif turn.exception() is None:  # granted and cancelled in the same step of the event loop
                self._granted -= 1
                self.make_room()
            raise
        self._granted -= 1

    def make_room(self) -> None:
        """Grant the places that have become free."""
        while self._line and self._limit is not None and self._has_room(self._limit):
            self._granted += 1
            self._line.popleft().set_result(None)

    def close(self) -> None:
        """Turn away everybody who waits."""
        while self._line:
            self._line.popleft().set_exception(ClientClosed())

    def _has_room(self, limit: int) -> bool:
        return self._pending() + self._granted < limit
