"""What ``reliable-emit outbox retry`` and ``discard`` do to a durable outbox: they own it for that moment."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from reliable_emit import OutboxLocked, ReliableEmitError, SQLiteOutbox
from reliable_emit.cli.outbox_file import Entry, OutboxFile, decode, in_words
from reliable_emit.cli.outbox_view import printable
from reliable_emit.cli.output import CommandError, plural
from reliable_emit.delivery import Frames, Message

Action = Literal["retry", "discard"]

# So many changes after which the thread that writes gets its turn.
_BREATHER = 64


class _Owner:
    """Owns an outbox, and sends nothing."""

    def loaded(self, messages: Sequence[Message]) -> None:
        """Nothing is done with what is there."""

    def refused(self, message: Message) -> None:
        """Nothing is appended here."""

    def decode(self, frames: Frames) -> tuple[Any, ...]:
        """Return the arguments in a snapshot."""
        return decode(frames)


class Steering:
    """One run of either command.

    Args:
        path: The file.
        action: Which one.
    """

    def __init__(self, path: Path, action: Action) -> None:
        self._path = path
        self._action = action
        self._file = OutboxFile(path)
        self._outbox = SQLiteOutbox(path)
        self._sequence = 0

    async def run(self, offsets: Sequence[str] | None) -> list[str]:
        """Do it to those messages, or to all dead letters, and return what to tell the user.

        Raises:
            CommandError: It cannot be done; nothing was. Or the file could not be written to.
        """
        self._file.check()  # who opens an outbox that is not there makes one
        try:
            self._sequence = await self._outbox.open(_Owner())
        except OutboxLocked as error:
            raise CommandError(self._say_who(error.process), 1) from None
        except ReliableEmitError as error:
            raise CommandError(in_words(error), 1) from None
        try:
            if offsets is None:
                return await self._do_all()
            return await self._do(list(dict.fromkeys(offsets)))
        finally:
            await self._outbox.close()

    async def _do(self, offsets: list[str]) -> list[str]:
        entries = [self._checked(offset) for offset in offsets]
        letters = [entry.message.offset for entry in entries if entry.letter is not None]
        pending = [entry.message.offset for entry in entries if entry.letter is None]
        for offset in pending:
            if (message := self._outbox.get(offset)) is not None:
                self._outbox.remove(message)
        await self._change(letters)
        await self._outbox.close()
        left = [entry for offset in offsets if (entry := self._file.find(offset)) is not None]
        self._check_written(sum(self._is_left(entry) for entry in left))
        said = [self._say(len(letters))] if letters else []
        if pending:
            said.append(f"{plural(len(pending), 'pending message')} discarded; {_will(len(pending))} not be sent")
        return said

    async def _do_all(self) -> list[str]:
        total = self._file.count_letters()
        unsendable = 0

        def wanted() -> Iterable[str]:
            nonlocal unsendable
            for entry in self._file.letters():
                if self._action == "retry" and not entry.is_sendable:
                    unsendable += 1
                else:
                    yield entry.message.offset

        await self._change(wanted())
        await self._outbox.close()
        self._check_written(self._file.count_letters() - unsendable)
        if not total:
            return [f"there are no dead letters in {self._path}"]
        said = [self._say(total - unsendable)] if total > unsendable else []
        if unsendable:
            letters = plural(unsendable, "dead letter")
            raise CommandError("; ".join([*said, f"{letters} cannot be sent, what the outbox has is unreadable"]), 1)
        return said

    def _checked(self, offset: str) -> Entry:
        entry = self._file.find(offset)
        if entry is None:
            raise CommandError(f"no message in {self._path} has the offset {printable(offset)!r}; nothing was done", 1)
        if self._action == "retry" and entry.letter is None:
            raise CommandError(
                f"the message {printable(offset)!r} in {self._path} is pending, only dead letters are retried; "
                f"nothing was done",
                1,
            )
        if self._action == "retry" and not entry.is_sendable:
            raise CommandError(
                f"the dead letter {printable(offset)!r} in {self._path} cannot be sent: {printable(entry.problem)}; "
                f"nothing was done",
                1,
            )
        return entry

    async def _change(self, offsets: Iterable[str]) -> None:
        change: Callable[[str], object] = self._revive if self._action == "retry" else self._outbox.forget
        for number, offset in enumerate(offsets, 1):
            change(offset)
            if number % _BREATHER == 0:
                await asyncio.sleep(0)

    def _revive(self, offset: str) -> None:
        if self._outbox.revive(offset, self._sequence + 1) is not None:
            self._sequence += 1

    def _is_left(self, entry: Entry) -> bool:
        return self._action == "discard" or entry.letter is not None

    def _check_written(self, left: int) -> None:
        if left:
            raise CommandError(
                f"{self._path} could not be written to, is the disk full? {plural(left, 'message')} in it "
                f"{_verb(left)} as before",
                1,
            )

    def _say(self, number: int) -> str:
        letters = plural(number, "dead letter")
        if self._action == "discard":
            return f"{letters} discarded"
        return (
            f"{letters} pending again, at the end of the queue; sent by the next client on {self._path}, or by: "
            f"reliable-emit send URL --outbox {shlex.quote(str(self._path))}"
        )

    def _say_who(self, process: int | None) -> str:
        owner = "another process" if process is None else f"process {process}"
        method = "redeliver" if self._action == "retry" else "discard"
        return (
            f"{self._path} is in use by {owner}; that one has to do it, with client.{method}(offset), or end it first"
        )


def _will(number: int) -> str:
    return "it will" if number == 1 else "they will"


def _verb(number: int) -> str:
    return "is" if number == 1 else "are"
