"""The outbox in a SQLite file, as the client sees it."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import itertools
import logging
import os
import time
import weakref
from collections.abc import Iterator, Mapping
from typing import Any

from reliable_emit.delivery import DeadLetter, Frames, Message, Unreadable
from reliable_emit.errors import ClientClosed, OutboxLocked, OutboxUnavailable
from reliable_emit.outbox.base import OutboxOwner
from reliable_emit.outbox.sqlite import rows
from reliable_emit.outbox.sqlite.changes import Forgotten, Insert
from reliable_emit.outbox.sqlite.files import checked_path, is_file
from reliable_emit.outbox.sqlite.reader import Reader
from reliable_emit.outbox.sqlite.rows import Clock
from reliable_emit.outbox.sqlite.store import Loaded, Store, Synchronous
from reliable_emit.outbox.sqlite.window import BYTES, MESSAGES, Window
from reliable_emit.outbox.sqlite.worker import Worker, owner_of
from reliable_emit.outbox.sqlite.writer import Writer
from reliable_emit.policy import one_of

_logger = logging.getLogger("reliable_emit")

_RETRY = 1.0
_CLOSE_TIMEOUT = 2.0


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class _Opened:
    """What is in use between `open` and `close`."""

    owner: OutboxOwner
    worker: Worker
    writer: Writer
    clock: Clock
    finalizer: weakref.finalize[[], SQLiteOutbox]


class SQLiteOutbox:
    """Keeps messages in a SQLite file: they survive ``kill -9``, and a loss of power.

    ``emit`` returns once its message is committed; calls at the same time share a commit. Who opens the file next goes
    on with the oldest message, under the same offsets. It has one owner at a time; beside it are ``-wal`` and ``-shm``,
    which belong to it while it is in use, and ``-lock``. Give each client and namespace a file of its own, on a local
    disk.

    Args:
        path: The file; made if there is none.
        synchronous: ``"full"``: ``emit`` returns when the message is on the disk. ``"normal"``: when the operating
            system has it, which is much faster; a kill loses nothing then, but a loss of power may lose the last
            messages, never others or the file.

    Raises:
        TypeError: The path is no path.
        ValueError: The path is none of a file, or `synchronous` is neither.
    """

    durable = True

    def __init__(self, path: str | os.PathLike[str], *, synchronous: Synchronous = "full") -> None:
        self._path = checked_path(path)
        one_of("synchronous", synchronous, ("full", "normal"))
        self._synchronous: Synchronous = synchronous
        self._reset()

    def _reset(self) -> None:
        self._worker: Worker | None = None
        self._opened: _Opened | None = None
        self._window = Window()
        self._appending: dict[int, Message] = {}  # not committed yet, in their order
        self._storing: set[asyncio.Future[None]] = set()
        self._count = 0
        self._loading = False

    def __repr__(self) -> str:
        return f"SQLiteOutbox({str(self._path)!r}, synchronous={self._synchronous!r})"

    @property
    def where(self) -> str:
        """Where the messages are."""
        return f"in {self._path}"

    # Opening and closing.

    async def open(self, owner: OutboxOwner) -> int:
        """Take ownership, and load the oldest messages."""
        if self._worker is not None and not self._worker.left:
            raise OutboxLocked(str(self._path), os.getpid())
        before = owner_of(self._path)
        unclosed = self._opened  # if there is one, its event loop has ended; it has its last words yet
        self._reset()
        clock = Clock(asyncio.get_running_loop().time, time.time)
        make = functools.partial(Store, self._path, self._synchronous, clock)
        self._worker = worker = Worker(make, self._path)
        try:
            if before is not None and before.left:
                await before.outlive()
            del unclosed
            await worker.start()
        except BaseException:
            self._worker = None
            worker.abandon()
            raise
        try:
            count, last, loaded = await worker.ask(_look)
        except BaseException:
            self._worker = None
            # When this call has raised, another one may open the file.
            await asyncio.wait({worker.stop(closed=False)}, timeout=_CLOSE_TIMEOUT)
            raise
        # Whoever lets go of it without closing it does not keep others from opening the file.
        finalizer = weakref.finalize(self, worker.abandon)
        finalizer.atexit = False
        self._opened = _Opened(owner, worker, Writer(worker, self._inserted), clock, finalizer)
        worker.set_last_words(self._opened.writer.submit)
        self._count = count
        self._loaded(self._opened, loaded, None)
        return last

    async def close(self) -> None:
        """Write down what became of the messages, and give up ownership; within two seconds, whatever the disk does."""
        opened = self._opened
        if opened is None:
            return
        opened.writer.submit()
        ending = asyncio.ensure_future(_end(opened))
        try:
            await asyncio.wait({ending}, timeout=_CLOSE_TIMEOUT)
        finally:
            if not ending.done():
                _logger.error("%s does not close, the disk does not answer; it is left to itself", self._path)
                ending.cancel()
                opened.worker.abandon()
                for stored in [stored for stored in self._storing if not stored.done()]:
                    stored.set_exception(ClientClosed("the disk does not answer, and may or may not have the message"))
            elif opened.writer.changes:
                _logger.error("%s could not be written to; what was acknowledged last may be sent again", self._path)
            opened.finalizer.detach()
            opened.writer.stop()
            self._reset()

    def _working(self) -> _Opened:
        if self._opened is None:
            raise OutboxUnavailable(str(self._path), "it is not open; connect, emit or flush, which opens it")
        return self._opened

    # Accepting.

    async def append(self, message: Message) -> None:
        """Accept a message: return once it is committed."""
        opened = self._working()
        row = rows.message_row(message, opened.clock)
        stored: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._storing.add(stored)
        stored.add_done_callback(self._storing.discard)
        self._insert(opened, message, row, stored)
        await stored

    def _insert(self, opened: _Opened, message: Message, row: rows.Row, stored: asyncio.Future[None] | None) -> None:
        self._appending[message.sequence] = message
        self._count += 1
        opened.writer.insert(message, row, stored)

    def _inserted(self, outcomes: list[tuple[Insert, BaseException | None]]) -> None:
        had_head = self._window.head() is not None
        for insert, error in outcomes:
            wanted = self._appending.pop(insert.sequence, None) is not None  # else it was given up meanwhile
            if wanted and error is None:
                self._window.offer(insert.message)
            elif wanted:
                self._window.gone(insert.sequence)
                self._count -= 1
            if insert.stored is not None and not insert.stored.done():
                if error is None:
                    insert.stored.set_result(None)
                else:
                    insert.stored.set_exception(error)
            elif wanted and error is not None and insert.stored is not None and self._opened is not None:
                self._opened.owner.refused(insert.message)
        if self._opened is not None and not had_head and self._window.head() is not None:
            self._opened.owner.loaded(())

    # What is at hand.

    def head(self) -> Message | None:
        """Return the oldest pending message."""
        return self._window.head()

    def at_hand(self) -> Iterator[Message]:
        """The oldest ones, which are in memory."""
        return iter(self._window)

    def get(self, offset: str) -> Message | None:
        """Return the pending message with that offset."""
        for message in itertools.chain(self._window, self._appending.values()):
            if message.offset == offset:
                return message
        stored = None if self._window.complete else self._reader().message(offset)
        return None if stored is None or self._is_removed(stored) else stored

    def __bool__(self) -> bool:
        return True  # also an empty one is the outbox that was given

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Message]:
        end, complete = self._window.end, self._window.complete
        yield from list(self._window)
        if not complete:
            for message in self._reader().pending(end):
                if not self._is_removed(message) and message.sequence not in self._appending:
                    yield message
        yield from list(self._appending.values())

    # What becomes of messages.

    def attempted(self, message: Message) -> None:
        """Remember its attempts, soon."""
        self._working().writer.attempt(message)

    def remove(self, message: Message) -> None:
        """Forget a pending message; in the file, soon. One that is pending no more stays as it is."""
        self._remove(message)

    def _remove(self, message: Message) -> bool:
        writer = self._working().writer
        if self._appending.pop(message.sequence, None) is not None:
            self._window.gone(message.sequence)
            writer.submit()  # the message first, or it would be stored after it was removed
        elif not self._window.take(message.sequence):
            return False
        self._count -= 1
        writer.remove(message)
        self._load_more()
        return True

    def bury(self, letter: DeadLetter) -> None:
        """Make a message a dead letter; in the file, soon. One that is settled already stays as it is."""
        writer = self._working().writer
        rows.check(letter.message.frames)  # what cannot be written has to raise here, not later
        if not letter.message.sequence or self._remove(letter.message):
            writer.bury(letter)

    # Dead letters.

    def dead_letters(self) -> list[DeadLetter]:
        """The dead letters, oldest first."""
        if self._opened is None and not is_file(self._path):
            return []
        unwritten = self._unwritten_letters()
        stored = [letter for letter in self._reader().letters() if letter.offset not in unwritten]
        return stored + [letter for letter in unwritten.values() if isinstance(letter, DeadLetter)]

    def revive(self, offset: str, sequence: int) -> Message | None:
        """Make a dead letter pending again."""
        opened = self._working()
        letter = self._letter(offset)
        if letter is None:
            return None
        message = letter.message
        if isinstance(message.frames, Unreadable):
            raise ValueError(  # noqa: TRY004 - what is wrong is the row, not its type
                f"the dead letter {offset!r} cannot be sent: {message.frames.detail}; discard(offset) throws it away"
            )
        message.renew()
        message.sequence = sequence
        # In one batch, and so in one transaction.
        opened.writer.forget(offset)
        self._insert(opened, message, rows.message_row(message, opened.clock), None)
        return message

    def forget(self, offset: str) -> bool:
        """Throw a dead letter away."""
        opened = self._working()
        found = self._letter(offset) is not None
        if found:
            opened.writer.forget(offset)
        return found

    def _letter(self, offset: str) -> DeadLetter | None:
        unwritten = self._unwritten_letters().get(offset)
        if unwritten is not None:
            return unwritten if isinstance(unwritten, DeadLetter) else None
        return self._reader().letter(offset)

    def _unwritten_letters(self) -> Mapping[str, DeadLetter | Forgotten]:
        return {} if self._opened is None else self._opened.writer.changes.letters

    def _is_removed(self, message: Message) -> bool:
        return self._opened is not None and message.sequence in self._opened.writer.changes.removed

    def _reader(self) -> Reader:
        if self._opened is None:
            return Reader(self._path, Clock(time.monotonic, time.time), _closed)
        return Reader(self._path, self._opened.clock, self._opened.owner.decode)

    # Loading.

    def _load_more(self) -> None:
        if self._opened is None or self._loading or not self._window.is_low():
            return
        self._loading = True
        load = functools.partial(Store.load, after=self._window.end, messages=MESSAGES, size=BYTES)
        self._opened.worker.submit(load, functools.partial(self._loaded, self._opened))

    def _loaded(self, opened: _Opened, loaded: Loaded, error: BaseException | None) -> None:
        if opened is not self._opened:
            return
        self._loading = False
        if error is not None:
            _logger.error("%s; messages behind the next %d wait until it can be read", error, len(self._window))
            asyncio.get_running_loop().call_later(_RETRY, self._load_more)
            return
        messages = [message for message in loaded.messages if not self._is_removed(message)]
        self._window.load(messages, loaded.end, complete=loaded.complete)
        opened.owner.loaded(messages)
        self._load_more()


async def _end(opened: _Opened) -> None:
    await opened.worker.ask(lambda _: None)  # whatever was submitted before has been answered then
    await opened.worker.stop(closed=not opened.writer.changes)


def _closed(frames: Frames) -> tuple[Any, ...]:
    raise RuntimeError("the outbox is not open, so nobody knows how to read what is in a message")


def _look(store: Store) -> tuple[int, int, Loaded]:
    return store.count(), store.last(), store.load(0, MESSAGES, BYTES)
