"""Who is handled when, and which messages share a commit.

A commit waits for the disk, and one at a time is what a SQLite file takes. So messages are handled one after the other,
and those that have come while others were being handled or committed share the next commit: 64 senders do not queue up
for 64 disk accesses. A hop to the connection's thread and back costs as much as a statement or two, so what needs no
answer (recording, undoing) goes along with the next hop.
"""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import functools
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from reliable_emit.server.inbox.afterwards import call_back
from reliable_emit.server.inbox.session import Session, Work
from reliable_emit.server.inbox.store import Ending, Key, Record, TakeBack, Transaction

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable

    from reliable_emit.server.inbox.thread import Thread

_T = TypeVar("_T")
_Tr = TypeVar("_Tr", bound=Transaction)

Perform = Callable[[Callable[["sqlite3.Connection"], object]], Awaitable[object]]
"""Has a function called with the connection, in its thread, as a part of a message's transaction."""

# A group ends after that many messages, or that many seconds: the first in it has to wait for the last.
_MOST, _LONGEST = 100, 0.05
# What handlers have returned is done with the commit; if it is that much, before, so that it counts as time.
_AHEAD = 16

# Seconds for which nobody shares a commit after one has failed. Whose fault it was is not known (a deferred constraint,
# say); if it comes again and again, it costs the others that commit alone.
_APART = 30.0


class _Message(Work):
    """A message in the queue.

    Attributes:
        turn: Gets ``None`` when it is to be handled, or the record of somebody else who has been.
        ended: Gets whether the handler has returned, when it has ended.
        committed: Gets the record after the commit.
        repetitions: Those that came while it shared a group with them, and get its reply.
        transaction: Has the callbacks.
    """

    def __init__(self, key: Key, fingerprint: bytes) -> None:
        super().__init__(key, fingerprint)
        loop = asyncio.get_running_loop()
        self.turn: asyncio.Future[Record | None] = loop.create_future()
        self.ended: asyncio.Future[bool] = loop.create_future()
        self.committed: asyncio.Future[Record] = loop.create_future()
        self.repetitions: list[_Message] = []
        self.transaction: Transaction | None = None


class Groups:
    """Handles messages in the order in which they come.

    Args:
        thread: Where the connection is used.
        session: The connection.
    """

    def __init__(self, thread: Thread, session: Session) -> None:
        self._thread = thread
        self._session = session
        self._waiting: collections.deque[_Message] = collections.deque()
        self._conductor: asyncio.Task[None] | None = None
        self._group: list[_Message] = []  # those whose turn it was since the last commit
        self._before: list[Callable[[], None]] = []  # what the thread does before its next job; nothing in it raises
        self._alone = asyncio.Lock()  # held while a group is on its way
        self._apart_until = float("-inf")
        self._closed = False

    async def once(
        self,
        key: Key,
        fingerprint: bytes,
        make: Callable[[Perform], _Tr],
        handle: Callable[[_Tr], Awaitable[bytes | Ending]],
    ) -> Record:
        """As `InboxStore.once`; `make` makes the transaction, given what it has functions called by."""
        if self._closed:
            raise RuntimeError("the store is closed")
        key.principal.encode()  # what is no text fails alone, and not with all that are looked for at the same time
        key.offset.encode()
        message = _Message(key, fingerprint)
        self._waiting.append(message)
        if self._conductor is None or self._conductor.done():
            self._conductor = asyncio.create_task(self._conduct())
        handled = False
        try:
            found = await message.turn
            if found is not None:
                return found
            await self._handle(message, make, handle)
            handled = True
        finally:
            # Also if it has failed, or was cancelled as soon as it was its turn: the others wait for it no longer.
            if not message.ended.done():  # unless nobody waits any more: closed
                message.ended.set_result(handled)
        return await message.committed

    async def _handle(
        self,
        message: _Message,
        make: Callable[[Perform], _Tr],
        handle: Callable[[_Tr], Awaitable[bytes | Ending]],
    ) -> None:
        ended = False

        async def perform(function: Callable[[sqlite3.Connection], object]) -> object:
            if ended:
                raise over(message.key.offset)
            return await self._hop(functools.partial(self._session.perform, message, function))

        transaction = make(perform)
        message.transaction = transaction
        try:
            ending = await handle(transaction)
        except TakeBack as rejection:
            transaction.take_callbacks()
            self._before.append(functools.partial(self._session.undo, message))
            ending = rejection.reply
        except BaseException:
            transaction.take_callbacks()
            self._before.append(functools.partial(self._session.undo, message))
            raise
        finally:
            ended = True
        self._before.append(functools.partial(self._session.record, message, ending))

    def _hop(self, job: Callable[[], _T]) -> asyncio.Future[_T]:
        before, self._before = self._before, []

        def work() -> _T:
            for one in before:
                one()
            return job()

        return self._thread.run(work if before else job)

    async def _conduct(self) -> None:
        try:
            while self._waiting:
                async with self._alone:
                    await self._conduct_group()
        except BaseException as error:  # closed, or a fault of ours: nobody waits for ever
            self._fail([*self._group, *self._waiting], error)
            raise
        finally:
            self._group.clear()

    async def _conduct_group(self) -> None:
        now = asyncio.get_running_loop().time()
        ends, most = now + _LONGEST, 1 if now < self._apart_until else _MOST
        latest: dict[Key, _Message] = {}  # by the key, who was handled in this group
        while self._waiting and len(self._group) < most and asyncio.get_running_loop().time() < ends:
            arrived = collections.deque(
                self._waiting.popleft() for _ in range(min(len(self._waiting), most - len(self._group)))
            )
            try:
                await self._hop(functools.partial(self._session.admit, list(arrived)))
                # One of them at least, however long another program's lock has held up the beginning.
                while arrived and (not self._group or asyncio.get_running_loop().time() < ends):
                    await self._take_turn(arrived.popleft(), latest)
                    if len(self._before) >= _AHEAD:
                        await self._hop(_nothing)
            except Exception as error:
                if not self._group:  # otherwise it is the group that has failed, and not they
                    self._fail(arrived, error)
                    arrived.clear()
                break
            finally:
                # What there was no time for is looked for again: what was found is true only for this transaction.
                self._waiting.extendleft(reversed(arrived))
        await self._commit()

    async def _take_turn(self, message: _Message, latest: dict[Key, _Message]) -> None:
        if message.turn.done():  # cancelled
            return
        if (first := latest.get(message.key)) is not None:
            first.repetitions.append(message)
        elif message.found is not None:
            message.turn.set_result(message.found)
        elif message.error is not None:
            self._fail([message], message.error)
        else:
            self._group.append(message)
            message.turn.set_result(None)
            if await message.ended:
                latest[message.key] = message

    async def _commit(self) -> None:
        error: Exception | None = None
        try:
            await self._hop(self._session.commit)
        except Exception as raised:  # whatever it is, an acknowledgement would be a lie
            error = raised
            self._apart_until = asyncio.get_running_loop().time() + _APART
        for message in self._group:
            if not message.ended.result():
                continue
            failure = error or message.error
            if failure is not None:
                self._fail([message], failure)
                continue
            if message.transaction is not None and not message.taken_back:
                call_back(message.transaction)
            record = Record(message.fingerprint, message.reply, new=True)
            if not message.committed.done():
                message.committed.set_result(record)
            for repetition in message.repetitions:
                if not repetition.turn.done():
                    repetition.turn.set_result(dataclasses.replace(record, new=False))
        self._group.clear()

    def _fail(self, messages: Iterable[_Message], error: BaseException) -> None:
        if not isinstance(error, Exception):
            error = RuntimeError("the store is closed")
        for message in messages:
            for future in (message.turn, message.committed):
                if not future.done():
                    future.set_exception(error)
                    future.exception()  # if nobody waits for it any more, nobody has to be told
            self._fail(message.repetitions, error)

    async def forget(self, age: float) -> int:
        """As `InboxStore.forget`; between two groups."""
        async with self._alone:
            return await self._hop(functools.partial(self._session.forget, age))

    async def close(self, timeout: float) -> None:
        """Handle nothing more; give what is being committed that many seconds."""
        self._closed = True
        self._fail(list(self._waiting), RuntimeError("the store is closed"))
        self._waiting.clear()
        if self._conductor is not None:
            await asyncio.wait([self._conductor], timeout=timeout)
            self._session.stop()
            self._conductor.cancel()
            await asyncio.wait([self._conductor], timeout=timeout)


def over(offset: str) -> RuntimeError:
    """Say that a transaction is used too late."""
    return RuntimeError(
        f"the transaction of the message with the client offset {offset!r} is over: its handler has ended. Await what "
        f"uses it before the handler returns"
    )


def _nothing() -> None:
    """What was to be done before is all there is to do."""
