"""The connections: where they come from, and how each is given back, whatever has become of it."""

from __future__ import annotations

import asyncio
import contextlib
import re
import urllib.parse
from typing import TYPE_CHECKING, Any, TypeVar

from reliable_emit import policy
from reliable_emit.server.inbox.postgres.statements import ROLLBACK

if TYPE_CHECKING:
    from collections.abc import Coroutine

    import asyncpg

_T = TypeVar("_T")

DEFAULT_CONNECTIONS = 10

# Seconds for what is not worth waiting for: undoing a transaction (or else the connection is dropped, and the server
# undoes it), and closing.
_BRIEF = 0.5

# A server notices a node that has vanished with its machine within half a minute, and undoes what it had begun; until
# then, repetitions on other nodes wait. A node that is merely slow answers these probes.
_SESSION = {"tcp_keepalives_idle": "10", "tcp_keepalives_interval": "5", "tcp_keepalives_count": "3"}


# A host, or an IPv6 address in brackets, and a port.
_PLACE = re.compile(r"(\[[^\[\]@]*\]|[^\[\]:@]*)(:(?P<port>[0-9]{0,5}))?")
_LAST_PORT = 65_535


class Connections:
    """A pool of our own, or one that was given.

    Args:
        database: A URL or a pool.
        limit: The size of our own pool.
        timeout: Seconds to wait for a connection.
        longest: Seconds that a statement may take at the most, on our own pool.

    Attributes:
        name: What the database may be called in a log: no user, no password.
    """

    def __init__(self, database: object, limit: int | None, timeout: float, longest: float) -> None:
        self._driver = driver()
        self._url: str | None = None
        self._pool: asyncpg.Pool = None
        self._timeout, self._longest = timeout, longest
        self._tasks: set[asyncio.Task[Any]] = set()
        self._limit = DEFAULT_CONNECTIONS if limit is None else policy.count("max_connections", limit, least=1)
        if isinstance(database, str):
            self._url, self.name = database, _name(database)
        elif isinstance(database, self._driver.Pool):
            self._pool, self.name = database, "of the pool that was given"
            if limit is not None:
                raise ValueError("max_connections is for the store's own pool; the pool that was given has its size")
        else:
            kind = type(database).__name__
            raise TypeError(f"database is a {kind}; give a URL, or a pool made by asyncpg.create_pool")

    async def open(self) -> None:
        """Make the pool, unless it was given; connects to nothing yet."""
        if self._url is None:
            return

        async def leave_alone(_: asyncpg.Connection) -> None:
            """The last statements of each transaction have reset the connection already."""

        self._pool = await self._driver.create_pool(
            self._url,
            min_size=0,
            max_size=self._limit,
            timeout=self._timeout,
            command_timeout=self._longest,
            server_settings=_SESSION,
            reset=leave_alone,
        )

    async def close(self) -> None:
        """Wait for work that lasts, and close the pool unless it was given; a second at the most."""
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=_BRIEF)
        if self._url is not None and self._pool is not None:
            with contextlib.suppress(Exception):  # it ends by force what does not end in time
                await asyncio.wait_for(self._pool.close(), _BRIEF)
            self._pool.terminate()

    async def acquire(self) -> asyncpg.Connection:
        """Take a connection, which is then given to `release` or `undo`.

        Raises:
            TimeoutError: None was free in time.
        """
        try:
            return await self._pool.acquire(timeout=self._timeout)
        except TimeoutError:
            raise TimeoutError(
                f"no connection to the database {self.name} within {self._timeout} s: all are in use by handlers that "
                "take long, or it does not answer"
            ) from None

    async def undo(self, connection: asyncpg.Connection) -> None:
        """Roll back what was begun and release the connection; never raises."""
        try:
            async with asyncio.timeout(_BRIEF):
                await connection.execute(ROLLBACK)
        except Exception:  # it is lost, or busy: whatever the reason, it is of no use any more
            with contextlib.suppress(Exception):
                connection.terminate()
        await self.release(connection)

    async def release(self, connection: asyncpg.Connection) -> None:
        """Give the connection back; never raises."""
        try:
            async with asyncio.timeout(_BRIEF):
                await self._pool.release(connection)
        except Exception:  # what it was used for is done all the same
            with contextlib.suppress(Exception):
                connection.terminate()

    async def lasting(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Await work that goes on if whoever awaits it is cancelled; `close` waits for it."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)


def driver() -> Any:
    """Import asyncpg.

    Raises:
        ImportError: It is not installed.
    """
    try:
        import asyncpg  # noqa: PLC0415 - an extra, needed only by whoever makes a store
    except ImportError as error:
        raise ImportError(
            "PostgresStore needs asyncpg; install it with: pip install 'reliable-emit[postgres]'", name="asyncpg"
        ) from error
    return asyncpg


def _name(url: str) -> str:
    # What was given is not repeated in an error: there may be a password in it.
    try:
        parsed = urllib.parse.urlsplit(url)
    except ValueError:
        parsed = urllib.parse.urlsplit("")
    if parsed.scheme not in {"postgresql", "postgres"}:
        raise ValueError("database is not a URL of PostgreSQL; give one like postgresql://user:password@host:5432/name")
    places = parsed.netloc.rpartition("@")[2]
    # Where a password has one of these characters, it ends for the parser, and its rest is taken for something else.
    if "@" in parsed.path + parsed.query + parsed.fragment or not all(map(_is_place, places.split(","))):
        raise ValueError(
            "database is a URL of PostgreSQL with a host or a port that cannot be; if there is one of /, ?, #, @, : in "
            "the user or the password, write %2F, %3F, %23, %40, %3A"
        )
    return f"postgresql://{places}{parsed.path}"


def _is_place(text: str) -> bool:
    place = _PLACE.fullmatch(text)
    return place is not None and int(place["port"] or 0) <= _LAST_PORT
