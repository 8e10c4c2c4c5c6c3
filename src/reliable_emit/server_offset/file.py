"""A file that keeps one number which never goes back, and costs no sync of the disk.

It has two slots, each in a block of its own, and each a line of text with a checksum. A number is written over the
smaller one of the two, so that the greater one, which is the file's, is never being written:

- A program that is killed has finished a write or not; what was written is in the system's cache, and outlives it. A
  slot that was half written has a wrong checksum, and the other one has the number before.
- When the power fails, the disk has each block as it was after some write, in no certain order. Every number that ever
  was in a slot was true, and is only old: events come again, and none is missed. The file is made, at its full length
  and on the disk, before it gets its name, so no write changes anything but the contents of the two blocks.
"""

from __future__ import annotations

import contextlib
import os
import re
import zlib
from pathlib import Path

from reliable_emit.errors import ServerOffsetError
from reliable_emit.locking import Lock, Taken

GREATEST = 2**63 - 1
"""What a database can count to."""

_BLOCK = 4096
_SLOTS = 2
_VERSION = 1
_BINARY: int = getattr(os, "O_BINARY", 0)  # Windows would put a carriage return before the end of each line
_LINE = re.compile(rb"(reliable-emit server offset, version (\d{1,9}): (\d{19})) ([0-9a-f]{8})\n")


def _line(number: int) -> bytes:
    text = b"reliable-emit server offset, version %d: %019d" % (_VERSION, number)
    return b"%b %08x\n" % (text, zlib.crc32(text))


def _slot(content: bytes) -> tuple[int, int] | None:
    found = _LINE.match(content)
    if found is None or zlib.crc32(found[1]) != int(found[4], 16):
        return None
    return int(found[2]), int(found[3])


class OffsetFile:
    """The file, open and owned.

    Args:
        path: The file; made if there is none.

    Attributes:
        path: The file.
        number: What it keeps.

    Raises:
        ServerOffsetError: It cannot be opened or made, is damaged, is another program's, or has another owner.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = -1
        if path.exists() and not path.is_file():
            raise ServerOffsetError(str(path), "it is no file; give the path of one")
        try:
            self._lock = Lock(path)
        except Taken as taken:
            owner = f"process {taken.process}" if taken.process not in {None, os.getpid()} else "another ServerOffset"
            raise ServerOffsetError(str(path), f"{owner} has it; end or close that, or use a file each") from None
        except OSError as error:
            raise self._unusable(error) from None
        try:
            self._descriptor, self.number = self._open(os.path.realpath(path))
        except OSError as error:
            self.close()
            raise self._unusable(error) from None
        except BaseException:
            self.close()
            raise

    def save(self, number: int) -> None:
        """Keep a number, which is greater than any before; when it returns, it outlives the process.

        Raises:
            OSError: It could not be written; the one before is still there.
        """
        if self._descriptor < 0:
            return
        line = _line(number)
        self._slots.sort()
        os.lseek(self._descriptor, self._slots[0][1] * _BLOCK, os.SEEK_SET)  # not pwrite(), which Windows does not have
        if os.write(self._descriptor, line) != len(line):
            raise OSError(f"only a part could be written to {self.path}")
        self._slots[0] = number, self._slots[0][1]
        self.number = number

    def close(self) -> None:
        """Let others own the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        self._lock.release()

    def _open(self, name: str) -> tuple[int, int]:
        if not os.path.exists(name):
            _make(name)
        descriptor = os.open(name, os.O_RDWR | _BINARY)
        try:
            self._slots = self._read(descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor, max(self._slots)[0]

    def _read(self, descriptor: int) -> list[tuple[int, int]]:
        content = os.read(descriptor, _SLOTS * _BLOCK)
        found = [_slot(content[index * _BLOCK :]) for index in range(_SLOTS)]
        if not any(found):
            detail = "it is damaged, or another program's. Nothing deletes it; move it away to be sent all events again"
            raise ServerOffsetError(str(self.path), detail)
        if any(slot is not None and slot[0] != _VERSION for slot in found):
            raise ServerOffsetError(str(self.path), "a newer version of reliable-emit has made it; use that one")
        # A slot that cannot be read is the one to write next.
        return [(-1 if slot is None else slot[1], index) for index, slot in enumerate(found)]

    def _unusable(self, error: OSError) -> ServerOffsetError:
        if isinstance(error, FileNotFoundError) and not self.path.parent.exists():
            return ServerOffsetError(str(self.path), f"the directory {self.path.parent} does not exist; make it first")
        detail = f"{error.strerror or error} ({error.filename or self.path}); make it readable and writable"
        return ServerOffsetError(str(self.path), detail)


def _make(name: str) -> None:
    """Make the file whole or not at all; only the owner of the lock does, so there is nobody to overtake."""
    new = f"{name}-new"
    descriptor = os.open(new, os.O_RDWR | os.O_CREAT | os.O_TRUNC | _BINARY, 0o666)
    try:
        for _ in range(_SLOTS):
            block = _line(0).ljust(_BLOCK - 1) + b"\n"
            if os.write(descriptor, block) != len(block):
                raise OSError(f"only a part could be written to {new}")
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.replace(new, name)
    with contextlib.suppress(OSError, AttributeError):  # what has no O_DIRECTORY cannot sync one either
        directory = os.open(os.path.dirname(name), os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
