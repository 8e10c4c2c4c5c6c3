"""``reliable-emit outbox``: look at a durable outbox, and steer it."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from reliable_emit import SQLiteOutbox
from reliable_emit.cli import options
from reliable_emit.cli.outbox_file import Entry, OutboxFile
from reliable_emit.cli.outbox_steer import Action, Steering
from reliable_emit.cli.outbox_view import print_entry, print_json, print_lines, print_table, printable
from reliable_emit.cli.output import STDERR, STDOUT, CommandError, console, plural
from reliable_emit.cli.running import Interrupt, run_loop
from reliable_emit.policy import count

_SHOWN = 50
_ALL = "all"

_Path = Annotated[str, typer.Argument(metavar="PATH", help="The file of the outbox.", show_default=False)]
_Offset = Annotated[str, typer.Argument(metavar="OFFSET", help="The message's offset.", show_default=False)]
_Offsets = Annotated[
    list[str] | None, typer.Argument(metavar="OFFSET...", help="The messages' offsets.", show_default=False)
]


def list_messages(
    path: _Path,
    dead: Annotated[bool, typer.Option("--dead", help="Only the dead letters.")] = False,
    pending: Annotated[bool, typer.Option("--pending", help="Only the pending messages.")] = False,
    limit: Annotated[
        str | None,
        typer.Option(
            metavar="N",
            help="How many are shown at the most, or 'all'.",
            show_default=f"{_SHOWN}, and with --json all",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> int:
    """List the dead letters, and the pending messages in their order, oldest first.

    A table on a terminal; elsewhere tab-separated lines: state, offset, event, data, accepted, age, attempts, and of
    dead letters died, reason and detail. Works while a client uses the file, which may be a moment ahead of it.

    Exit status: 0 listed; 1 it cannot be read; 2 wrong usage.
    """
    if dead and pending:
        raise CommandError("give --dead or --pending, or neither for both", 2)
    most = _limit(limit, as_json=as_json)
    file = OutboxFile(_path(path))
    file.check()
    shown = 0

    def counted(entries: Iterable[Entry], letters: bool) -> None:
        nonlocal shown

        def each() -> Iterable[Entry]:
            nonlocal shown
            for entry in itertools.islice(entries, None if most is None else most - shown):
                shown += 1
                yield entry

        if as_json:
            print_json(each())
        elif console(STDOUT).is_terminal:
            print_table(each(), dead=letters)
        else:
            print_lines(each())

    if not pending:
        counted(file.letters(), letters=True)
    if not dead:
        counted(file.pending(), letters=False)
    waiting, letters = file.count(), file.count_letters()
    total = (0 if dead else waiting) + (0 if pending else letters)
    more = f"; the first {shown} are shown" if shown < total else ""
    STDERR.line(f"{waiting} pending, {plural(letters, 'dead letter')}{more}")
    return 0


def show(
    path: _Path,
    offset: _Offset,
    as_json: Annotated[bool, typer.Option("--json", help="As a JSON object.")] = False,
) -> int:
    """Show everything about one message, with all of its data.

    Exit status: 0 shown; 1 there is no such message, or the file cannot be read; 2 wrong usage.
    """
    file = OutboxFile(_path(path))
    entry = file.find(offset)
    if entry is None:
        raise CommandError(f"no message in {path} has the offset {printable(offset)!r}", 1)
    if as_json:
        print_json([entry])
    else:
        print_entry(entry)
    return 0


def retry(
    path: _Path,
    offsets: _Offsets = None,
    everything: Annotated[bool, typer.Option("--all", help="All dead letters.")] = False,
) -> int:
    """Make dead letters pending again, under their offsets, at the end of the queue.

    The next client on the file sends them, or 'reliable-emit send' with --outbox. While a client uses the file, that
    one has to do it.

    Exit status: 0 done; 1 it cannot be done, and nothing was; 2 wrong usage.
    """
    return _steer("retry", path, offsets, everything=everything)


def discard(
    path: _Path,
    offsets: _Offsets = None,
    everything: Annotated[bool, typer.Option("--all", help="All dead letters.")] = False,
) -> int:
    """Throw dead letters away, or pending messages by their offsets; they are gone then.

    While a client uses the file, that one has to do it.

    Exit status: 0 done; 1 it cannot be done, and nothing was; 2 wrong usage.
    """
    return _steer("discard", path, offsets, everything=everything)


def _steer(action: Action, path: str, offsets: list[str] | None, *, everything: bool) -> int:
    if bool(offsets) == everything:
        raise CommandError("give the offsets of messages, or --all for all dead letters", 2)
    steering = Steering(_path(path), action)

    async def steer(_: Interrupt) -> int:
        # Not to be interrupted: it is over in a moment, or the outbox itself gives the disk up.
        for line in await steering.run(None if everything else offsets):
            STDOUT.line(line)
        return 0

    return run_loop(steer)


def _path(text: str) -> Path:
    try:
        SQLiteOutbox(text)
    except ValueError:
        raise CommandError(f"PATH is {text!r}; give the path of an outbox's file", 2) from None
    return Path(text).absolute()


def _limit(text: str | None, *, as_json: bool) -> int | None:
    if text is None:
        return None if as_json else _SHOWN
    if text == _ALL:
        return None
    try:
        number = int(text)
    except ValueError:
        raise CommandError(f"--limit is {text!r}; give a whole number, or {_ALL!r}", 2) from None
    return int(options.usage(count, "--limit", number, least=1))
