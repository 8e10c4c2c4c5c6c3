"""The calls of handlers that are under way: how many of a connection, and their end when the inbox closes."""

from __future__ import annotations

import asyncio

# Seconds that what is cancelled gets to end.
_END = 0.5


class _Call:
    """One call, for ``with``; says whether it is the outermost of its task, and not made by another handler."""

    __slots__ = ("_calls", "_outermost", "_sid", "task")

    def __init__(self, calls: Calls, sid: str) -> None:
        self._calls = calls
        self._sid = sid
        self.task = asyncio.current_task()

    def __enter__(self) -> bool:
        calls, sid = self._calls, self._sid
        self._outermost = self.task not in calls.tasks
        calls.tasks.add(self.task)
        calls.under_way.add(self)
        calls.of[sid] = calls.of.get(sid, 0) + 1
        return self._outermost

    def __exit__(self, *_: object) -> None:
        calls, sid = self._calls, self._sid
        calls.under_way.discard(self)
        if self._outermost:
            calls.tasks.discard(self.task)
        calls.of[sid] -= 1
        if not calls.of[sid]:
            del calls.of[sid]
        calls.ended.set()


class Calls:
    """Calls, and not tasks: with ``async_handlers=False`` one task reads a connection and makes all its calls.

    Args:
        most: How many of one connection at a time.

    Attributes:
        under_way: The calls.
        tasks: Those that make them.
        of: How many there are, by the socket id.
        ended: Set when one has ended.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.under_way: set[_Call] = set()
        self.tasks: set[asyncio.Task[object] | None] = set()
        self.of: dict[str, int] = {}
        self.ended = asyncio.Event()

    def __len__(self) -> int:
        return len(self.under_way)

    def too_many(self, sid: str) -> bool:
        """Return whether a connection has to wait for the end of one of its calls."""
        return self.of.get(sid, 0) >= self.most

    def one(self, sid: str) -> _Call:
        """For the time of a call."""
        return _Call(self, sid)

    async def end(self, timeout: float) -> None:
        """Wait for the end of all calls but one's own, and cancel those that are under way after so many seconds."""
        if not await self._have_ended(timeout):
            for call in self._others():
                if call.task is not None:
                    call.task.cancel()
            await self._have_ended(_END)

    async def _have_ended(self, timeout: float) -> bool:
        try:
            async with asyncio.timeout(timeout):
                while self._others():
                    self.ended.clear()
                    await self.ended.wait()
        except TimeoutError:
            return False
        return True

    def _others(self) -> list[_Call]:
        own = asyncio.current_task()
        return [call for call in self.under_way if call.task is not own]
