"""The calls of handlers that are under way: how many of a connection, and their end when the inbox closes."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

# Seconds that what is cancelled gets to end.
_END = 0.5


class Calls:
    """Calls, and not tasks: with ``async_handlers=False`` one task reads a connection and makes all its calls.

    Args:
        most: How many of one connection at a time.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._under_way: dict[asyncio.Future[None], asyncio.Task[object] | None] = {}
        self._tasks: set[asyncio.Task[object] | None] = set()
        self._of: dict[str, int] = {}  # by the socket id

    def __len__(self) -> int:
        return len(self._under_way)

    def too_many(self, sid: str) -> bool:
        """Return whether a connection has to wait for the end of one of its calls."""
        return self._of.get(sid, 0) >= self.most

    @contextlib.contextmanager
    def one(self, sid: str) -> Iterator[bool]:
        """For the time of a call; says whether it is the outermost of its task, and not made by another handler."""
        task = asyncio.current_task()
        outermost = task not in self._tasks
        self._tasks.add(task)
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._under_way[ended] = task
        self._of[sid] = self._of.get(sid, 0) + 1
        try:
            yield outermost
        finally:
            del self._under_way[ended]
            ended.set_result(None)
            if outermost:
                self._tasks.discard(task)
            self._of[sid] -= 1
            if not self._of[sid]:
                del self._of[sid]

    async def end(self, timeout: float) -> None:
        """Wait for the end of all calls but one's own, and cancel those that are under way after so many seconds."""
        if await self._wait(timeout):
            for task in self._others().values():
                if task is not None:
                    task.cancel()
            await self._wait(_END)

    async def _wait(self, timeout: float) -> bool:
        others = self._others()
        return bool(others and (await asyncio.wait(others, timeout=timeout))[1])

    def _others(self) -> dict[asyncio.Future[None], asyncio.Task[object] | None]:
        own = asyncio.current_task()
        return {ended: task for ended, task in self._under_way.items() if task is not own}
