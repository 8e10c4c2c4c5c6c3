"""How messages and dead letters are written down, and read again.

No pickle, and nothing that depends on this version's classes: text, numbers, and the frames that go over the wire.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, NamedTuple, cast

from reliable_emit.delivery import DeadLetter, Frames, Message, Unencoded, Unreadable
from reliable_emit.errors import Reason

MESSAGE = (
    "sequence, client_offset, event, frames, ack_timeout, retries, accepted_at, expires_at, attempts, failures, losses"
)
LETTER = "client_offset, event, frames, ack_timeout, retries, accepted_at, attempts, doubtful, reason, detail, died_at"

Column = str | bytes | float | None
Row = tuple[Column, ...]

_TEXT, _BYTES = b"t", b"b"
_SEVERAL = b"s"
_HEADER = struct.Struct(">cI")
_LARGEST = 2**63 - 1


class Clock(NamedTuple):
    """The two clocks between which a time to live is carried: the event loop's, and the calendar's."""

    loop: Callable[[], float]
    calendar: Callable[[], float]


def pack(frames: Frames) -> bytes:
    """Return a snapshot as it is stored.

    Raises:
        TypeError: It is the copy that a serializer of the user's own needs, and cannot be stored.
    """
    match frames:
        case str():
            return _TEXT + _utf8(frames)
        case bytes():
            return _BYTES + frames
        case tuple():
            return _SEVERAL + b"".join(map(_pack_one, frames))
        case Unreadable():
            return frames.stored
        case Unencoded():
            raise TypeError(
                f"the client's serializer is not one of python-socketio's own, so {frames.event!r} cannot be stored in "
                f"a file; nothing was queued. Use a MemoryOutbox, or the default serializer or msgpack"
            )


def unpack(stored: bytes) -> Frames:
    """Return a snapshot that was stored; what cannot be read comes back as `Unreadable`."""
    try:
        return _unpack(stored)
    except (ValueError, TypeError, struct.error) as error:
        kept = stored if isinstance(stored, bytes) else str(stored).encode()
        return Unreadable(kept, f"the outbox holds something else in its place ({error})")


def _unpack(stored: bytes) -> Frames:
    kind = stored[:1]
    if kind == _TEXT:
        return _text(stored[1:])
    if kind == _BYTES:
        return stored[1:]
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
        frames.append(_text(content) if one == _TEXT else content)
    if not frames:
        raise ValueError("it is empty")
    return tuple(frames)


def _pack_one(frame: str | bytes) -> bytes:
    kind, content = (_TEXT, _utf8(frame)) if isinstance(frame, str) else (_BYTES, frame)
    return _HEADER.pack(kind, len(content)) + content


# A json module of the user's may leave half of a surrogate pair in a text.
def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _text(content: bytes) -> str:
    return content.decode("utf-8", "surrogatepass")


def _to_column(text: str) -> str | bytes:
    """SQLite takes no text with half a surrogate pair: that is stored as bytes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return _utf8(text)
    return text


def _from_column(value: Column) -> str:
    return _text(value) if isinstance(value, bytes) else str(value)


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
        None if expires_at is None else clock.calendar() + expires_at - clock.loop(),
        message.attempts,
        message.failures,
        message.losses,
    )


def message_of(row: Any, doubtful_to: int, clock: Clock) -> Message:
    """Return the message of a row.

    Its time to live goes on where it was: what has passed since is over, and if the calendar was set back, it is no
    longer than it was at first.
    """
    sequence, offset, event, frames, ack_timeout, retries, accepted_at, expires_at, attempts, failures, losses = row
    left = None if expires_at is None else min(expires_at - clock.calendar(), expires_at - accepted_at)
    message = Message(
        offset=_from_column(offset),
        event=_from_column(event),
        frames=unpack(frames),
        ack_timeout=ack_timeout,
        retries=retries,
        accepted_at=accepted_at,
        expires_at=None if left is None else clock.loop() + left,
    )
    message.sequence = sequence
    message.attempts, message.failures, message.losses = attempts, failures, losses
    message.doubtful = sequence <= doubtful_to
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
    offset, event, frames, ack_timeout, retries, accepted_at, attempts, doubtful, reason, detail, died_at = row
    message = Message(
        offset=_from_column(offset),
        event=_from_column(event),
        frames=unpack(frames),
        ack_timeout=ack_timeout,
        retries=retries,
        accepted_at=accepted_at,
    )
    message.state = "dead"
    message.attempts, message.doubtful = attempts, bool(doubtful)
    return DeadLetter(message, cast("Reason", _from_column(reason)), _from_column(detail), died_at, decode)
