"""Finds WebSocket frames in bytes that pass by, however they are cut into pieces. Knows lengths, not contents."""

from __future__ import annotations

import re

from reliable_emit.testing.weather import Direction

_HEAD_END = b"\r\n\r\n"
# What is longer is no head of a handshake.
_LONGEST_HEAD = 65_536
_ASKS = re.compile(rb"^upgrade:[ \t]*websocket[ \t]*\r$", re.IGNORECASE | re.MULTILINE)
_STATUS = re.compile(rb"HTTP/1\.1 (\d{3})\b")
_SWITCHING, _FINAL = 101, 200
_EXTENDED = {126: 2, 127: 8}
_MASKED, _MASK_SIZE = 0x80, 4


class Handshake:
    """Notices when the two ends of a connection have agreed on a WebSocket.

    It knows nothing of the lengths of bodies. HTTP/1.1 clients do not send a request before they have the answer to the
    one before, so the first byte in the other direction starts a request, or the answer to it.
    """

    def __init__(self) -> None:
        self._speaker: Direction | None = None
        self._head = bytearray()
        self._reading = False
        self._asked = False
        self._agreed = False

    def skip(self, direction: Direction, data: memoryview) -> int:
        """Return how many of these bytes are HTTP; those that follow are of frames."""
        if self._agreed:
            return 0
        if direction != self._speaker:
            self._speaker = direction
            self._head.clear()
            self._reading = direction == "to_server" or self._asked
        if not self._reading:
            return len(data)
        self._head += data
        while (end := self._head.find(_HEAD_END) + len(_HEAD_END)) >= len(_HEAD_END):
            head = bytes(self._head[:end])
            del self._head[:end]
            if direction == "to_server":
                self._asked = _ASKS.search(head) is not None
                self._reading = False
                break
            status = int(match[1]) if (match := _STATUS.match(head)) is not None else _FINAL
            if status == _SWITCHING:
                self._agreed = True
                return len(data) - len(self._head)
            if status >= _FINAL:
                self._asked = self._reading = False
                break
        if len(self._head) > _LONGEST_HEAD:
            self._reading = False
        return len(data)


class FrameMeter:
    """Counts the frames of one direction.

    Attributes:
        frames: How many are complete.
        seen: How many bytes of the one after them have been.
    """

    def __init__(self) -> None:
        self.frames = 0
        self.seen = 0
        self._size: int | None = None
        self._header = bytearray()

    @property
    def begun(self) -> int:
        """How many frames have begun, complete or not."""
        return self.frames + (self.seen > 0)

    def advance(self, data: memoryview, at: int) -> tuple[int, int | None]:
        """Take from `at` on what belongs to one frame.

        Returns:
            Where that ends, and the size of the whole frame, ``None`` as long as that is not known.
        """
        while self._size is None and at < len(data):
            self._header.append(data[at])
            at += 1
            self.seen += 1
            self._size = _frame_size(self._header)
        size = self._size
        if size is not None:
            step = min(size - self.seen, len(data) - at)
            at += step
            self.seen += step
            if self.seen == size:
                self.frames += 1
                self.seen = 0
                self._size = None
                self._header.clear()
        return at, size


def _frame_size(header: bytearray) -> int | None:
    """The size in bytes of the frame that begins like this; RFC 6455, section 5.2."""
    if len(header) < 2:  # noqa: PLR2004
        return None
    length = header[1] & ~_MASKED
    extended = _EXTENDED.get(length, 0)
    if len(header) < 2 + extended:
        return None
    if extended:
        length = int.from_bytes(header[2 : 2 + extended], "big")
    return 2 + extended + (_MASK_SIZE if header[1] & _MASKED else 0) + length
