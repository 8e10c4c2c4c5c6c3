"""Who may put a message into the outbox, and who waits: first come, first served."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from reliable_emit.errors import ClientClosed


class Admission:
    """One line for everybody who has to wait: for the outbox to be opened, and for room in it.

    Whoever comes while others stand in line joins it, also if there is room by then, and so does who comes while
    somebody is on the way in: an order of calls is kept only if nobody can pass.

    Args:
        limit: How many messages may be pending before one has to wait for room, ``None``: any number.
        pending: How many are.
    """

    def __init__(self, limit: int | None, pending: Callable[[], int]) -> None:
        self._limit = limit
        self._pending = pending
        self._line: deque[asyncio.Future[None]] = deque()
        self._on_the_way = 0  # called in, and with a place kept free, but not yet in: their tasks have to run first
        self._is_open = False
        self._is_closed = False

    async def enter(self) -> None:
        """Return when it is the caller's turn; she has to take her place before she awaits anything else.

        Cancelling passes the turn on to the next in line.

        Raises:
            ClientClosed: :meth:`close` was called, now or while waiting.
            Exception: What :meth:`fail` was called with while waiting.
        """
        if self._is_closed:
            raise ClientClosed
        if self._is_open and not self._line and not self._on_the_way and self._has_room():
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._line.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                if turn in self._line:
                    self._line.remove(turn)
            elif turn.exception() is None:  # called in and cancelled in the same step of the event loop
                self._on_the_way -= 1
                self.call_in()
            raise
        self._on_the_way -= 1
        if self._is_closed:
            raise ClientClosed
        if self._line:
            # Those who came meanwhile may stand there for our sake alone; call them in after we have taken our place.
            asyncio.get_running_loop().call_soon(self.call_in)

    def open(self) -> None:
        """The outbox is open: call in those who waited for that."""
        self._is_open = True
        self.call_in()

    def fail(self, error: BaseException) -> None:
        """The outbox cannot be opened: turn away everybody who waits, with that error."""
        while self._line:
            turn = self._line.popleft()
            if not turn.cancelled():
                turn.set_exception(error)

    def call_in(self) -> None:
        """Call in as many as there is room for."""
        while self._line and self._is_open and self._has_room():
            turn = self._line.popleft()
            if not turn.cancelled():  # whose task has not run since
                self._on_the_way += 1
                turn.set_result(None)

    def close(self) -> None:
        """Turn away everybody who waits, and who comes."""
        self._is_closed = True
        self.fail(ClientClosed())

    def _has_room(self) -> bool:
        return self._limit is None or self._pending() + self._on_the_way < self._limit
