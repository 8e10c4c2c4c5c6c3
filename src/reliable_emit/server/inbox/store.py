"""What an inbox needs of a store: to run a handler in the transaction in which the message's offset is recorded.

A store decides nothing about clients or acknowledgements; it promises three things. The record of an offset and what
the handler did with its transaction are committed together or not at all. Of several messages with one offset, on this
node or another, one is handled, and the others get its reply. And what `once` has returned survives the end of the
process (a memory store aside).
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, cast

if TYPE_CHECKING:
    from collections.abc import Generator

_T = TypeVar("_T")
T_co = TypeVar("T_co", bound="Transaction", covariant=True)


@dataclasses.dataclass(frozen=True, slots=True)
class Key:
    """What a message is known by: who sent it, as the server has made sure of, and its client offset."""

    principal: str
    offset: str


@dataclasses.dataclass(frozen=True, slots=True)
class Record:
    """What is recorded of a message that was handled.

    Attributes:
        fingerprint: What its arguments were, as a hash: how another message with the same offset is told from a
            repetition.
        reply: The encoded reply.
        new: Whether it was handled by this very call of `once`; otherwise it was before.
    """

    fingerprint: bytes
    reply: bytes
    new: bool


class TakeBack(Exception):
    """Raised by `handle` in :meth:`InboxStore.once`: undo what the handler did, but record this reply, and commit.

    For a rejection, which settles the message for good.
    """

    def __init__(self, reply: bytes) -> None:
        super().__init__(reply)
        self.reply = reply


class Statement(Generic[_T]):
    """What a transaction is to do with the database, once: await it, or return it from the handler.

    Returned, it is done at the end of the transaction, on the way to the commit, which saves the time of going there
    twice; what it gives is the handler's reply, and what it raises is as if the handler had raised it. One that is
    neither awaited nor returned would be forgotten, so its message fails.

    Args:
        transaction: Whose it is.
        function: Does it, given the connection.
        perform: Has a function called with the connection.

    Attributes:
        function: As given.
    """

    __slots__ = ("_perform", "_transaction", "_used", "function")

    def __init__(
        self,
        transaction: Transaction,
        function: Callable[[Any], _T],
        perform: Callable[[Callable[[Any], _T]], Awaitable[object]],
    ) -> None:
        self._transaction = transaction
        self.function = function
        self._perform = perform
        self._used = False
        transaction.unused += 1

    def __await__(self) -> Generator[Any, None, _T]:
        self.use(self._transaction)
        return cast("Generator[Any, None, _T]", self._perform(self.function).__await__())

    def use(self, transaction: Transaction) -> None:
        """Note that it is awaited, or returned by the handler that was given that transaction.

        Raises:
            RuntimeError: It was before, and would be done twice; or it is of another transaction.
        """
        if transaction is not self._transaction:
            raise RuntimeError("the handler has returned a statement of another message's transaction")
        if self._used:
            raise RuntimeError("a statement of the transaction is awaited or returned for a second time; make another")
        self._used = True
        transaction.unused -= 1


@dataclasses.dataclass(frozen=True, slots=True)
class Ending:
    """What is left to do for a message whose handler has returned a statement.

    Attributes:
        function: The statement's, to be called with the connection.
        reply: Given what calls that, returns the encoded reply, or raises as `handle` in :meth:`InboxStore.once`.
    """

    function: Callable[[Any], object]
    reply: Callable[[Callable[[], object]], bytes]


class Transaction:
    """The transaction in which a message is handled and its offset is recorded; every store has its own kind.

    It is committed after the handler has returned, and only then is the message acknowledged. It is rolled back if the
    handler raises. It is of no use after the handler has ended.

    Attributes:
        principal: Who sent the message.
        offset: The message's client offset.
        unused: How many statements were made and not used. For the store.
        ending: What the handler has left to the store.
    """

    def __init__(self, key: Key) -> None:
        self.principal = key.principal
        self.offset = key.offset
        self.unused = 0
        self.ending: Ending | None = None
        self._callbacks: list[Callable[[], object]] = []
        self._over = False

    def after_commit(self, callback: Callable[[], object]) -> None:
        """Have a plain function called in the event loop once the transaction is committed, before the acknowledgement.

        Functions are called in the order of the commits. One that raises is logged. None is called after a rollback,
        nor if the process is killed in between: what must not be missed has to be in the database, for others to find.

        Raises:
            TypeError: It is no function, or an async one, which nobody would wait for: have a plain one start a task.
            RuntimeError: The handler has ended.
        """
        if not callable(callback) or inspect.iscoroutinefunction(callback):
            raise TypeError(f"the callback is {callback!r}; give a plain function, which may start a task")
        if self._over:
            raise RuntimeError(
                f"the transaction of the message with the client offset {self.offset!r} is over: its handler has "
                f"ended, and nothing is called after its commit any more"
            )
        self._callbacks.append(callback)

    def end(self) -> None:
        """Take no more callbacks: the handler has ended. For the inbox."""
        self._over = True

    def take_callbacks(self) -> list[Callable[[], object]]:
        """Return what is to be called after the commit, and forget it. For stores."""
        callbacks, self._callbacks = self._callbacks, []
        return callbacks


class InboxStore(Protocol[T_co]):
    """Where an inbox records what it has handled."""

    async def open(self) -> None:
        """Make ready; once.

        Raises:
            StoreError: The database cannot be opened.
        """

    async def close(self) -> None:
        """Finish what is being committed, and let go of the database; takes a second at the most."""

    async def once(self, key: Key, fingerprint: bytes, handle: Callable[[T_co], Awaitable[bytes]]) -> Record:
        """Handle a message, unless its key is recorded already; returns after the commit.

        Args:
            key: What the message is known by.
            fingerprint: Recorded with it.
            handle: Called at most once, in the event loop, with the open transaction, when the key is not recorded;
                returns the encoded reply, which is recorded. If it raises `TakeBack`, what it did is undone, but the
                reply is recorded. If it raises anything else, or is cancelled, nothing is recorded. A store whose
                transactions make statements looks at their `ending` after it; that gives the reply, if there is one.

        Returns:
            What is recorded under the key now.

        Raises:
            Exception: What `handle` raised, or that of the database. Nothing is recorded, except that the database
                failed in the commit itself: then it may be, and a repetition tells.
        """
        ...

    async def forget(self, age: float) -> int:
        """Forget some records older than `age` seconds, by the database's clock; return how many, 0: there are none.

        A bounded number at a time, so that messages do not wait for it.
        """
        ...
