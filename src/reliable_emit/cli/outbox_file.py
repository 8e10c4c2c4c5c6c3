"""The file of a durable outbox, looked at without owning it."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from socketio.packet import Packet

from reliable_emit import DeadLetter, OutboxCorrupt, OutboxUnavailable
from reliable_emit.cli.output import CommandError
from reliable_emit.delivery import Frames, Message, Unencoded, Unreadable
from reliable_emit.link.codec import Codec, codec_for
from reliable_emit.outbox.sqlite import rows
from reliable_emit.outbox.sqlite.reader import Reader
from reliable_emit.outbox.sqlite.rows import Clock

_CHUNK = 64

_T = TypeVar("_T")


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """A message in the file.

    Attributes:
        message: The message; its `expires_at` is seconds of Unix time.
        letter: The dead letter that it is, if it is one.
        arguments: What it carries, ``None`` if that cannot be read.
        problem: Why not.
    """

    message: Message
    letter: DeadLetter | None
    arguments: tuple[Any, ...] | None
    problem: str

    @property
    def is_sendable(self) -> bool:
        """Whether it can be sent at all."""
        return not isinstance(self.message.frames, Unreadable)


class OutboxFile:
    """What is in the file, read anew each time; what its owner has not written yet is not seen.

    All methods raise `CommandError`, with the status 1, if it cannot be read.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._reader = _Reader(path, Clock(time.time, time.time), decode)

    def check(self) -> None:
        """Raise if there is no such file, or it is no outbox that can be read."""
        self._ask(lambda: self._reader.message(""))

    def count(self) -> int:
        """Return how many messages are pending."""
        return self._ask(self._reader.count)

    def count_letters(self) -> int:
        """Return how many dead letters there are."""
        return self._ask(self._reader.count_letters)

    def is_binary(self) -> bool:
        """Whether the oldest pending message is in the msgpack serializer's format."""
        message = self._ask(lambda: next(self._reader.pending(), None))
        return message is not None and isinstance(message.frames, bytes)

    def pending(self) -> Iterator[Entry]:
        """Iterate over the pending messages, oldest first."""
        with self._explained():
            yield from map(_entry, self._reader.pending())

    def letters(self) -> Iterator[Entry]:
        """Iterate over the dead letters, oldest first."""
        with self._explained():
            yield from map(_letter_entry, self._reader.each_letter())

    def find(self, offset: str) -> Entry | None:
        """Return the message or the dead letter with that offset, if any."""
        message = self._ask(lambda: self._reader.message(offset))
        if message is not None:
            return _entry(message)
        letter = self._ask(lambda: self._reader.letter(offset))
        return None if letter is None else _letter_entry(letter)

    def _ask(self, question: Callable[[], _T]) -> _T:
        with self._explained():
            return question()

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (OutboxUnavailable, OutboxCorrupt) as error:
            raise CommandError(in_words(error), 1) from None
        except FileNotFoundError:
            raise CommandError(f"the outbox {self._path} cannot be used: there is no such file", 1) from None
        except OSError as error:
            raise CommandError(f"the outbox {self._path} cannot be used: {error.strerror or error}", 1) from None
        except (ValueError, TypeError) as error:
            # A row that nobody of ours has written.
            raise CommandError(f"the outbox {self._path} cannot be read: {' '.join(str(error).split())}", 1) from None


def in_words(error: Exception) -> str:
    """Return what is wrong with an outbox, for somebody at a command line."""
    match error:
        case OutboxUnavailable(path=path, detail=detail):
            return f"the outbox {path} cannot be used: {detail}"
        case OutboxCorrupt(path=path, detail=detail):
            return f"the outbox {path} cannot be read: {detail}"
    return str(error)


class _Reader(Reader):
    """Asks besides what has to be answered about dead letters, of which there may be many."""

    @contextlib.contextmanager
    def _open(self) -> Iterator[Any]:
        if not stat.S_ISREG(self._path.stat().st_mode):  # a pipe would be waited for
            kind = "a directory" if self._path.is_dir() else "not a regular file"
            raise OutboxUnavailable(str(self._path), f"it is {kind}")
        with super()._open() as db:
            yield db

    def count_letters(self) -> int:
        with self._open() as db:
            (number,) = db.execute("SELECT count(*) FROM dead_letter").fetchone()
        return int(number)

    def each_letter(self) -> Iterator[DeadLetter]:
        """Iterate over the dead letters, oldest first, a piece of the file at a time."""
        query = f"SELECT number, {rows.LETTER} FROM dead_letter WHERE number > ? ORDER BY number LIMIT ?"  # noqa: S608 - constants of ours
        number = 0
        while True:
            with self._open() as db:
                found = db.execute(query, (number, _CHUNK)).fetchall()
            for row in found:
                yield rows.letter_of(row[1:], decode)
            if len(found) < _CHUNK:
                return
            number = found[-1][0]


def decode(frames: Frames) -> tuple[Any, ...]:
    """Return the arguments in a snapshot.

    Raises:
        Exception: It cannot be read, for whatever reason.
    """
    if isinstance(frames, Unreadable):
        raise TypeError(frames.detail)
    if isinstance(frames, Unencoded):
        raise TypeError("it is not encoded")
    codec = _msgpack() if isinstance(frames, bytes) else _text()
    if codec is None:
        raise TypeError(f"{len(frames)} bytes, encoded with msgpack, which is not installed")
    return codec.decode(frames)


@functools.cache
def _text() -> Codec:
    return codec_for(Packet, "/")


@functools.cache
def _msgpack() -> Codec | None:
    try:
        from socketio.msgpack_packet import MsgPackPacket  # noqa: PLC0415 - needs an extra of python-socketio's
    except ImportError:
        return None
    return codec_for(MsgPackPacket, "/")


def _entry(message: Message, letter: DeadLetter | None = None) -> Entry:
    try:
        return Entry(message, letter, decode(message.frames), "")
    except Exception as error:  # whatever a serializer makes of what is not its own
        return Entry(message, letter, None, " ".join(str(error).split()) or type(error).__name__)


def _letter_entry(letter: DeadLetter) -> Entry:
    return _entry(letter.message, letter)
