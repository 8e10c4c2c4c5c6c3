"""What one connection may have on the server at a time: whoever sends more is read no further until there is room.

Nothing is dropped by that, and nothing piles up: the rest waits in the sender's own machine. So a flood holds up
whoever sends it, and others no longer than what it may have here takes.
"""

from __future__ import annotations

import asyncio

# Characters and bytes in messages being handled, and what one counts at the least: so 200 small ones, or one large one.
_MOST, _LEAST = 1_000_000, 5_000
# Packets on their way to a client that does not read them.
_QUEUE = 100
# The binary attachments of one message.
_ATTACHMENTS = 100


class Intake:
    """One connection.

    Args:
        queue: The packets on their way to the client.
        most: Bytes of binary attachments that a message may have.
    """

    def __init__(self, queue: asyncio.Queue[object], most: int) -> None:
        self._queue = queue
        self._most = most
        self._size = 0
        self._less = asyncio.Event()
        self._gone = asyncio.Event()
        self._came = 0

    async def room(self) -> bool:
        """Wait until the next packet may be taken; return false if the connection has gone meanwhile."""
        while self._size >= _MOST and not self._gone.is_set():
            self._less.clear()
            await self._less.wait()
        if self._queue.qsize() >= _QUEUE and not self._gone.is_set():
            waits = [asyncio.ensure_future(self._queue.join()), asyncio.ensure_future(self._gone.wait())]
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for one in waits:
                    one.cancel()
        return not self._gone.is_set()

    def gone(self) -> None:
        """The connection is no more: nobody waits for room."""
        self._gone.set()
        self._less.set()

    def comes(self, data: str | bytes, *, attachment: bool, announced: int = 0) -> None:
        """A packet has come.

        Args:
            data: The packet.
            attachment: Whether it has to be an attachment of the one before.
            announced: How many attachments that one has.

        Raises:
            ValueError: It is no attachment, or there are too many.
        """
        if not attachment:
            self._came = len(data)
            return
        if isinstance(data, str):
            raise ValueError("an attachment is missing")  # noqa: TRY004 - what a stranger sent, not what a caller passed
        self._came += len(data)
        if announced > _ATTACHMENTS or self._came > self._most:
            raise ValueError("too many attachments, or too large")

    def begins(self) -> int:
        """The message that has come is being handled now; give `ends` what this returns."""
        size = max(self._came, _LEAST)
        self._size += size
        return size

    def ends(self, size: int) -> None:
        """It is handled."""
        self._size -= size
        self._less.set()
