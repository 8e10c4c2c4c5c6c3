"""Who owns a file: one process at a time, and in it one object; the lock dies with its owner, however that ends."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from pathlib import Path

if sys.platform == "win32":  # pragma: no cover - not the platform that the tests run on
    import msvcrt

    def _lock(descriptor: int) -> None:
        os.lseek(descriptor, _FAR, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def _lock(descriptor: int) -> None:
        # Not flock(), whose locks a forked child keeps beyond its parent's death.
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _FAR)


_FAR = 1 << 20
"""The byte that is locked; far from the owner's number, which others may read."""

# Such a lock is the process's: it keeps no second object in the same process out, and goes with the first descriptor of
# the file that is closed here. So nobody in this process touches the file of a lock that is held in it.
_held: dict[str, int] = {}
_guard = threading.Lock()


class Taken(Exception):
    """Somebody else holds the lock.

    Attributes:
        process: The number of the process that does, if that is known.
    """

    def __init__(self, process: int | None) -> None:
        super().__init__(process)
        self.process = process


class Lock:
    """The lock on a file, held from the moment it is made.

    It is a file of its own beside that one, and is never deleted: who waits for one that is deleted and made anew may
    hold another than who comes later.

    Args:
        path: The file to own.

    Raises:
        Taken: Somebody else holds it.
        OSError: The file of the lock cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self._key = os.path.realpath(path)
        with _guard:
            if _held.get(self._key) == os.getpid():
                raise Taken(os.getpid())
            descriptor = os.open(f"{self._key}-lock", os.O_RDWR | os.O_CREAT, 0o666)
            try:
                self._take(descriptor)
            except BaseException:
                os.close(descriptor)  # and so it is let go of, if it was taken
                raise
            self._descriptor: int | None = descriptor
            _held[self._key] = os.getpid()

    def _take(self, descriptor: int) -> None:
        try:
            _lock(descriptor)
        except OSError:
            raise Taken(_number(descriptor)) from None
        with contextlib.suppress(OSError):  # it is for people; a full disk must not keep anybody out
            os.ftruncate(descriptor, 0)
            os.lseek(descriptor, 0, os.SEEK_SET)  # not pwrite(), which Windows does not have
            os.write(descriptor, f"{os.getpid()}\n".encode())

    def release(self) -> None:
        """Let others own the file."""
        with _guard:
            if self._descriptor is not None:
                os.close(self._descriptor)
                self._descriptor = None
                _held.pop(self._key, None)


def _number(descriptor: int) -> int | None:
    try:
        os.lseek(descriptor, 0, os.SEEK_SET)  # on Windows, the lock has moved it
        return int(os.read(descriptor, 32))
    except (OSError, ValueError):
        return None
