"""How the commands print and fail."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from typing import TYPE_CHECKING, cast

from rich.console import Console

if TYPE_CHECKING:
    from typing import TextIO


class CommandError(Exception):
    """What ends a command with one line for the user.

    Attributes:
        status: The exit status.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Output(io.TextIOBase):
    """Standard output or standard error, whatever has become of it.

    Whoever reads them may have left (``| head``), the disk behind them may be full, they may be closed, or unable to
    show a character. None of this may cost a message, or end in a traceback: what cannot be written is left out.

    Args:
        name: ``"stdout"`` or ``"stderr"``.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._broken = False

    @property
    def _stream(self) -> TextIO | None:
        return None if self._broken else cast("TextIO | None", getattr(sys, self._name))

    @property
    def encoding(self) -> str:  # type: ignore[override]  # an attribute in typeshed
        """The encoding of what is behind it."""
        return (self._stream.encoding if self._stream is not None else None) or "utf-8"

    def writable(self) -> bool:
        """Whether it can be written to: always."""
        return True

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        try:
            return self._stream is not None and self._stream.isatty()
        except ValueError:  # closed
            return False

    def fileno(self) -> int:
        """The descriptor, by which the size of a terminal is found out."""
        if self._stream is None:
            raise OSError("closed")
        return self._stream.fileno()

    def write(self, text: str) -> int:
        """Write, if it can be written."""
        try:
            if self._stream is not None:
                try:
                    self._stream.write(text)
                except UnicodeEncodeError:
                    self._stream.write(text.encode(self.encoding, "backslashreplace").decode(self.encoding))
        except (OSError, ValueError):
            self._give_up()
        return len(text)

    def flush(self) -> None:
        """Write out what is buffered, if it can be."""
        try:
            if self._stream is not None:
                self._stream.flush()
        except (OSError, ValueError):
            self._give_up()

    def line(self, text: str) -> None:
        """Write a line, at once."""
        self.write(text + "\n")
        self.flush()

    def _give_up(self) -> None:
        stream = self._stream
        self._broken = True
        if stream is None:
            return
        # What is left in the buffer would be tried once more at exit, and complained about.
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)


STDOUT = Output("stdout")
STDERR = Output("stderr")


def console(output: Output) -> Console:
    """Return a rich console on an output; what it is given is shown as it is, without markup."""
    return Console(file=cast("TextIO", output), markup=False, highlight=False, emoji=False)


def plural(number: int, noun: str) -> str:
    """Return ``1 line``, ``2 lines``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
