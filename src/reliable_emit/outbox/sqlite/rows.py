"""How messages and dead letters are written down, and read again.

No pickle, and nothing that depends on this version's classes: text, numbers, and the frames that go over the wire.
"""

from __future__ import annotations

import bisect
import itertools
import math
import struct
import zlib
from collections.abc import Callable
from typing import Any, cast

from reliable_emit.delivery import DeadLetter, Frames, Message, Unencoded, Unreadable
from reliable_emit.errors import Reason

MESSAGE = (
    "sequence, client_offset, event, frames, ack_timeout, retries, accepted_at, expires_at, attempts, failures, "
    "losses, doubtful"
)
LETTER = "client_offset, event, frames, ack_timeout, retries, accepted_at, attempts, doubtful, reason, detail, died_at"

Column = str | bytes | float | None
Row = tuple[Column, ...]

_TEXT, _BYTES = b"t", b"b"
_SEVERAL = b"s"
_HEADER = struct.Struct(">cI")
_CHECKSUM = struct.Struct(">I")
_LARGEST = 2**63 - 1
_JUMP = 1.0
"""Seconds by which the calendar has to have been set for that to be noted."""


class Clock:
    """The two clocks between which a time to live is carried: the event loop's, and the calendar's.

    The calendar may be set while it runs, as that of a device without a clock is once it is connected. That changes
    nothing for the messages of this process.

    Args:
        loop: Seconds, steady.
        calendar: Seconds of Unix time.
    """

    def __init__(self, loop: Callable[[], float], calendar: Callable[[], float]) -> None:
        self._loop = loop
        self._calendar = calendar
        self._opened_at = loop(), calendar()
        self._ahead: list[tuple[int, float]] = []  # of the loop's clock, and the sequence from which on it is that

    def to_calendar(self, sequence: int, at: float) -> float:
        """Return the calendar's time for one of the loop's, for a message that is new."""
        ahead = self._calendar() - self._loop()
        if not self._ahead or abs(ahead - self._ahead[-1][1]) > _JUMP:
            self._ahead.append((sequence, ahead))
        return at + self._ahead[-1][1]

    def to_loop(self, sequence: int, at: float, accepted_at: float) -> float:
        """Return the loop's time for one of the calendar's.

        For a message of an earlier owner what has passed since is over; and if the calendar was set back, the message
        lives no longer than it was to at first.
        """
        place = bisect.bisect_right(self._ahead, (sequence, math.inf)) - 1
        if place >= 0:
            return at - self._ahead[place][1]
        loop, calendar = self._opened_at
        return loop + min(at - calendar, at - accepted_at)


def pack(frames: Frames) -> bytes:
    """Return a snapshot as it is stored.

    Raises:
        TypeError: It is the copy that a serializer of the user's own needs, and cannot be stored.
    """
    match frames:
        case str():
            return _checked(_TEXT, _utf8(frames))
        case bytes():
            return _checked(_BYTES, frames)
        case tuple():
            return _checked(_SEVERAL, *itertools.chain.from_iterable(map(_pack_one, frames)))
        case Unreadable():
            return frames.stored
        case Unencoded():
            raise _unencoded(frames)


def check(frames: Frames) -> None:
    """Raise what `pack` would raise."""
    if isinstance(frames, Unencoded):
        raise _unencoded(frames)


def _unencoded(frames: Unencoded) -> TypeError:
    return TypeError(
        f"the client's serializer is not one of python-socketio's own, so {frames.event!r} cannot be stored in a file; "
        f"nothing was queued. Use a MemoryOutbox, or the default serializer or msgpack"
    )


def _checked(*parts: bytes) -> bytes:
    # SQLite does not notice a bit that a disk has lost, and what comes out then may well be a message, another one.
    checksum = 0
    for part in parts:
        checksum = zlib.crc32(part, checksum)
    return b"".join((_CHECKSUM.pack(checksum), *parts))  # copied once: there may be a hundred megabytes


def _check(stored: Column) -> memoryview:
    if not isinstance(stored, bytes):
        raise TypeError(f"it is of type {type(stored).__name__}")
    (checksum,) = _CHECKSUM.unpack_from(stored)
    content = memoryview(stored)[_CHECKSUM.size :]
    if zlib.crc32(content) != checksum:
        raise ValueError("its checksum is wrong")
    return content


def unpack(stored: Column) -> Frames:
    """Return a snapshot that was stored; what cannot be read comes back as `Unreadable`."""
    try:
        return _unpack(_check(stored))
    except (ValueError, TypeError, struct.error) as error:
        kept = stored if isinstance(stored, bytes) else str(stored).encode("utf-8", "backslashreplace")
        return Unreadable(kept, f"the outbox holds something else in its place ({error})")


def _unpack(stored: memoryview) -> Frames:
    kind = bytes(stored[:1])
    if kind == _TEXT:
        return _text(stored[1:])
    if kind == _BYTES:
        return bytes(stored[1:])
    if kind != _SEVERAL:
        raise ValueError(f"it begins with {kind!r}")
    frames: list[str | bytes] = []
    at = 1
    while at < len(stored):
        one, length = _HEADER.unpack_from(stored, at)
        at += _HEADER.size
        content = stored[at : at + length]
        at += length
        if at > len(stored) or one not in {_TEXT, _BYTES}:
            raise ValueError("it is cut short")
        frames.append(_text(content) if one == _TEXT else bytes(content))
    if not frames:
        raise ValueError("it is empty")
    return tuple(frames)


def _pack_one(frame: str | bytes) -> tuple[bytes, bytes]:
    kind, content = (_TEXT, _utf8(frame)) if isinstance(frame, str) else (_BYTES, frame)
    return _HEADER.pack(kind, len(content)), content


# A json module of the user's may leave half of a surrogate pair in a text.
def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _text(content: bytes | memoryview) -> str:
    return str(content, "utf-8", "surrogatepass")


def _to_column(text: str) -> str | bytes:
    """SQLite takes no text with half a surrogate pair: that is stored as bytes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return _utf8(text)
    return text


def text_factory(content: bytes) -> str:
    """Return the text in a column, also if it is damaged: of what a message is called, less depends on it."""
    try:
        return content.decode()
    except UnicodeDecodeError:
        return content.decode("utf-8", "backslashreplace")


def _from_column(value: Column) -> str:
    if not isinstance(value, bytes):
        return str(value)
    try:
        return _text(value)
    except UnicodeDecodeError:
        return text_factory(value)


def offset_column(offset: str) -> Column:
    """Return an offset as it is stored."""
    return offset if offset.isascii() else _to_column(offset)


def message_row(message: Message, clock: Clock) -> Row:
    """Return the row of a message, in the order of `MESSAGE`; raises as `pack` does."""
    expires_at = message.expires_at
    return (
        message.sequence,
        offset_column(message.offset),
        message.event if message.event.isascii() else _to_column(message.event),
        pack(message.frames),
        message.ack_timeout,
        None if message.retries is None else min(message.retries, _LARGEST),
        message.accepted_at,
        None if expires_at is None else clock.to_calendar(message.sequence, expires_at),
        message.attempts,
        message.failures,
        message.losses,
        int(message.doubtful),
    )


def message_of(row: Any, doubtful_to: int, clock: Clock) -> Message:
    """Return the message of a row."""
    sequence, *columns, expires_at, attempts, failures, losses, doubtful = row
    message = _message_of(columns, [attempts, failures, losses, doubtful], [0.0 if expires_at is None else expires_at])
    message.sequence = sequence
    message.doubtful |= sequence <= doubtful_to
    if isinstance(message.frames, Unreadable):
        return message
    message.failures, message.losses = failures, losses
    if expires_at is not None:
        message.expires_at = clock.to_loop(sequence, expires_at, message.accepted_at)
    return message


def _message_of(columns: Any, counts: list[Any], times: list[Any]) -> Message:
    """Return the message of what its row and that of its dead letter have in common.

    Columns that hold something else make it unreadable, whatever else there is: what it says cannot be relied on.

    Args:
        columns: ``client_offset, event, frames, ack_timeout, retries, accepted_at``.
        counts: Other columns that have to hold whole numbers; `attempts` is the first, `doubtful` the last of them.
        times: Other columns that have to hold numbers.
    """
    offset, event, frames, ack_timeout, retries, accepted_at = columns
    read = unpack(frames)
    uncounted = [value for value in counts if not isinstance(value, int)]
    odd = uncounted + [value for value in (ack_timeout, accepted_at, *times) if not isinstance(value, int | float)]
    odd += [] if retries is None or isinstance(retries, int) else [retries]
    if odd and not isinstance(read, Unreadable):
        read = Unreadable(frames, f"the outbox holds something else in place of a number ({odd[0]!r:.50})")
    message = Message(
        offset=_from_column(offset),
        event=_from_column(event),
        frames=read,
        ack_timeout=10.0 if odd else ack_timeout,
        retries=None if odd else retries,
        accepted_at=0.0 if odd else accepted_at,
    )
    message.attempts, message.doubtful = (0, True) if uncounted else (counts[0], bool(counts[-1]))
    return message


def letter_row(letter: DeadLetter) -> Row:
    """Return the row of a dead letter, in the order of `LETTER`."""
    message = letter.message
    return (
        offset_column(message.offset),
        _to_column(message.event),
        pack(message.frames),
        message.ack_timeout,
        None if message.retries is None else min(message.retries, _LARGEST),
        message.accepted_at,
        message.attempts,
        int(message.doubtful),
        letter.reason,
        _to_column(letter.detail),
        letter.died_at,
    )


def letter_of(row: Any, decode: Callable[[Frames], tuple[Any, ...]]) -> DeadLetter:
    """Return the dead letter of a row."""
    *columns, attempts, doubtful, reason, detail, died_at = row
    message = _message_of(columns, [attempts, doubtful], [died_at])
    message.state = "dead"
    died_at = died_at if isinstance(died_at, int | float) else 0.0
    return DeadLetter(message, cast("Reason", _from_column(reason)), _from_column(detail), died_at, decode)
