"""Where the lines come from: a file or a pipe of any length, in bounded memory."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import select
import stat
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path

from reliable_emit.cli.output import CommandError

_BLOCK = 65_536
_STDIN = 0

NOTHING = Path(os.devnull)
"""The file that has no lines."""


def stdin_has_no_lines() -> bool:
    """Whether standard input is closed, or a terminal at which nobody may know that lines are waited for."""
    return sys.stdin is None or os.isatty(_STDIN)


class LineError(Exception):
    """A line that cannot be sent, or read; nothing after it is.

    Attributes:
        number: The line's number, from 1.
        status: The exit status.
    """

    status = 2

    def __init__(self, number: int, detail: str) -> None:
        super().__init__(f"line {number}: {detail}")
        self.number = number


@dataclasses.dataclass(frozen=True, slots=True)
class Line:
    """A line as read.

    Attributes:
        number: From 1.
        content: Without its terminator, a line feed that may follow a carriage return.
        end: The position in the input where it ends, in bytes.
    """

    number: int
    content: bytes
    end: int


class Source:
    """Reads lines in a thread of its own, a block at a time and only when asked for more.

    A thread, because reading a silent pipe blocks, and the event loop must not. It reads the descriptor itself and is a
    daemon: one that holds a buffered ``sys.stdin`` would abort the interpreter at exit, and one that is not a daemon
    would keep it from exiting.

    Args:
        path: The file, ``None`` for standard input.
        limit: The longest line, in bytes.
    """

    def __init__(self, path: Path | None, *, limit: int) -> None:
        self.name = "standard input" if path is None else str(path)
        self._path = path
        self._limit = limit
        self._wanted = threading.Semaphore(0)
        self._arrival: asyncio.Future[bytes] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def check(self) -> int | None:
        """Look at the input before anything is done with it.

        Returns:
            The size in bytes of a regular file, ``None`` for anything else.

        Raises:
            CommandError: It cannot be read, as far as can be told now.
        """
        if self._path is None:
            if sys.stdin is None:
                raise CommandError("standard input is closed; give a file with --file", 2)
            status = os.fstat(_STDIN)
        else:
            try:
                status = self._path.stat()
            except OSError as error:
                raise self._unreadable(error) from None
            if stat.S_ISREG(status.st_mode) and not os.access(self._path, os.R_OK):
                raise self._unreadable("Permission denied")
        if stat.S_ISDIR(status.st_mode):
            raise self._unreadable("it is a directory")
        return status.st_size if stat.S_ISREG(status.st_mode) else None

    @property
    def is_terminal(self) -> bool:
        """Whether somebody types."""
        return self._path is None and os.isatty(_STDIN)

    async def lines(self) -> AsyncIterator[Line]:
        """Give the lines, one after the other; the end of the input ends the last one.

        Raises:
            LineError: A line is too long.
            CommandError: The input cannot be read.
        """
        async for batch in self.batches(_BLOCK):
            for line in batch:
                yield line

    async def batches(self, most: int) -> AsyncIterator[list[Line]]:
        """Give the lines that are there in batches of up to that many; no line waits for those behind it.

        Raises:
            LineError: A line is too long.
            CommandError: The input cannot be read.
        """
        number, position, rest = 0, 0, b""
        batch: list[Line] = []
        while block := await self._read():
            *complete, rest = (rest + block).split(b"\n")
            for content in complete:
                if batch and (len(content) > self._limit or len(batch) == most):
                    yield batch
                    batch = []
                number += 1
                position += len(content) + 1
                self._measure(number, content)
                batch.append(Line(number, content.removesuffix(b"\r"), position))
            if batch:
                yield batch
                batch = []
            self._measure(number + 1, rest)
        if rest:
            yield [Line(number + 1, rest.removesuffix(b"\r"), position + len(rest))]

    def _measure(self, number: int, content: bytes) -> None:
        if len(content) > self._limit:
            raise LineError(number, f"it is longer than {self._limit} bytes, more than servers accept in a packet")

    async def _read(self) -> bytes:
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            threading.Thread(target=self._work, name="reliable-emit-source", daemon=True).start()
        self._arrival = self._loop.create_future()
        self._wanted.release()
        try:
            return await self._arrival
        except OSError as error:
            raise self._unreadable(error) from None

    def _unreadable(self, why: Exception | str) -> CommandError:
        detail = (why.strerror or str(why)) if isinstance(why, OSError) else str(why)
        return CommandError(f"cannot read {self.name}: {detail}; give a readable file, or pipe the lines in", 2)

    # In the thread.

    def _work(self) -> None:
        descriptor: int | None = None
        block: bytes | OSError = b"there is more"
        while block and isinstance(block, bytes):
            self._wanted.acquire()
            try:
                if descriptor is None:
                    # In here, because opening a named pipe waits for somebody to write to it.
                    descriptor = _STDIN if self._path is None else os.open(self._path, os.O_RDONLY)
                block = _read_block(descriptor)
            except OSError as error:
                block = error
            try:
                assert self._loop is not None  # noqa: S101 - set before the thread was started
                self._loop.call_soon_threadsafe(self._arrived, block)
            except RuntimeError:  # the event loop is closed: nobody wants it any more
                break
        if self._path is not None and descriptor is not None:
            os.close(descriptor)

    def _arrived(self, block: bytes | OSError) -> None:
        if self._arrival is None or self._arrival.done():
            return
        if isinstance(block, OSError):
            self._arrival.set_exception(block)
        else:
            self._arrival.set_result(block)


def _read_block(descriptor: int) -> bytes:
    while True:
        try:
            return os.read(descriptor, _BLOCK)
        except BlockingIOError:  # whoever shares it with us has made it so
            select.select([descriptor], [], [])
