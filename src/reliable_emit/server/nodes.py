"""Several nodes: python-socketio's Redis manager carries what is broadcast from each to all the others.

For the messages of the chat it carries only that there are new ones. Each node then asks the database, which alone
knows in which order they were committed; told by Redis alone, a reader would get them as they arrive. If Redis loses
something or is down, nodes find what is new by looking once a second.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import logging
import urllib.parse
from typing import TYPE_CHECKING, Any

import socketio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

# A room that nobody is in: what is sent there is for the nodes themselves.
_NODES = "reliable-emit nodes"
_EVENT = "stored"
# Seconds that closing gives to the connections, and between two attempts to subscribe.
_CLOSING, _PAUSE = 0.3, 1.0


class RedisManager(socketio.AsyncRedisManager):  # type: ignore[misc]  # socketio is untyped
    """python-socketio's manager, which also tells this node when another one has stored a message.

    Args:
        url: The URL of a Redis server.
        logger: Where it logs that it cannot reach it.

    Attributes:
        told: Called when another node has stored something.

    Raises:
        ImportError: redis is not installed.
        ValueError: It is no such URL.
    """

    def __init__(self, url: str, logger: logging.Logger) -> None:
        if importlib.util.find_spec("redis") is None:
            raise ImportError(
                "a message queue needs redis; install it with: pip install 'reliable-emit[redis]'", name="redis"
            )
        _check(url)
        self._complaints = _Complaints(logger)
        self.redis: Any = None  # older versions connect in their constructor
        self.pubsub: Any = None
        super().__init__(url, logger=self._complaints)
        self.told: Callable[[], None] = lambda: None
        self._news = asyncio.Event()
        self._telling: asyncio.Task[None] | None = None

    def serve(self, chat: str) -> None:
        """Say which chat this is a node of: others on the same Redis server are told nothing, and tell nothing.

        To be called before there is a client. The numbers of Redis databases do not keep channels apart.
        """
        self.channel = f"reliable-emit {chat}"

    def tell(self) -> None:
        """Tell the other nodes that something was stored; does not wait for it."""
        self._news.set()
        if self._telling is None:
            self._telling = asyncio.create_task(self._tell())

    async def _tell(self) -> None:
        # One at a time, so that a Redis server that does not answer collects no tasks; and what is stored meanwhile is
        # told of once.
        while True:
            await self._news.wait()
            self._news.clear()
            await self.emit(_EVENT, None, room=_NODES)

    async def _handle_emit(self, message: dict[str, Any]) -> None:
        if message.get("room") == _NODES:
            self.told()
        else:
            await super()._handle_emit(message)

    def _redis_connect(self) -> None:
        # Once: python-socketio would do so after each failure, and forget the one before without closing it. It need
        # not, because this one connects anew by itself.
        if self.redis is None:
            super()._redis_connect()
        self.connected = True

    async def _listen(self) -> AsyncIterator[Any]:
        from redis.exceptions import RedisError  # noqa: PLC0415 - an extra, and here is one of its clients

        while True:
            try:
                async for data in super()._listen():
                    yield data
            except (RedisError, OSError) as error:
                # Older versions do not catch this where they subscribe first, and would try again without a pause.
                self._complaints.error("cannot subscribe", extra={"redis_exception": str(error)})
            await asyncio.sleep(_PAUSE)

    async def _publish(self, data: dict[str, Any]) -> None:
        before = self._complaints.count
        await super()._publish(data)
        if self._complaints.count == before:
            self._complaints.over()

    async def close(self) -> None:
        """Let go of Redis; takes a second at the most. Does nothing if it was never used."""
        tasks = [task for task in (self._telling, getattr(self, "thread", None)) if task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=_CLOSING)
        for connection in (self.pubsub, self.redis):
            with contextlib.suppress(Exception):  # it is lost, or hangs: nobody waits for it any more
                async with asyncio.timeout(_CLOSING):
                    if connection is not None:
                        await connection.aclose()


class _Complaints(logging.LoggerAdapter[logging.Logger]):
    """Says once that Redis fails, and why, until it works again: each stored message would say so twice."""

    def __init__(self, logger: logging.Logger) -> None:
        super().__init__(logger, None)
        self.count = 0
        self._said = False

    def over(self) -> None:
        """It works."""
        self._said = False

    def error(self, msg: object, *arguments: object, **options: Any) -> None:
        """As of any logger."""
        reason = (options.get("extra") or {}).get("redis_exception")
        if reason is None:
            super().error(msg, *arguments, **options)
            return
        self.count += 1
        if not self._said:
            self._said = True
            super().error(
                "the message queue fails; until it works, only this node hears of what is new here at once: %s", reason
            )


def _check(url: str) -> None:
    from redis.asyncio import ConnectionPool  # noqa: PLC0415 - an extra, needed only by whoever has a message queue

    # What was given is not repeated: there may be a password in it.
    try:
        parsed = urllib.parse.urlsplit(url)
        ConnectionPool.from_url(url)  # connects to nothing
        port, database = parsed.port, parsed.path.strip("/")
    except (ValueError, TypeError):
        raise ValueError(
            "message_queue is not the URL of a Redis server; give one like redis://user:password@localhost:6379/0"
        ) from None
    # Where a password has one of these characters, it ends for the parser, and its rest is taken for something else.
    rest = parsed.path + parsed.query + parsed.fragment
    # redis would take another database for one that is no number.
    if parsed.scheme != "unix" and (port == 0 or "@" in rest or (database and not database.isdecimal())):
        raise ValueError(
            "message_queue is the URL of a Redis server with a host, port or database number that cannot be; if there "
            "is one of /, ?, #, @, : in the password, write %2F, %3F, %23, %40, %3A"
        )
