"""``reliable-emit demo``: a server that misbehaves, a sender, a reader and a verdict."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated

import typer

from reliable_emit.cli.output import STDERR, STDOUT, CommandError, console
from reliable_emit.cli.running import Interrupt, run_loop
from reliable_emit.cli.trial import Trial
from reliable_emit.cli.verdict import picture

_MAX_BYTES = 5_000_000


def demo(
    seed: Annotated[
        int | None,
        typer.Option(metavar="N", help="Draws the faults; the same one the same faults.", show_default="a random one"),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option("--file", "-f", help="Send this text file.", show_default="a weather station's log, 150 lines"),
    ] = None,
    db: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="Keep the server's database in this new file.", show_default="kept nowhere"),
    ] = None,
) -> int:
    """Watch messages survive a bad network.

    Starts the reference server and makes it cut connections, swallow acknowledgements, answer late and fail its
    database; sends a file to it, line by line; lets a second client read along, whose connection is cut as well; and
    then compares the file with the database, and with what the reader received.

    Exit status: 0 nothing lost, duplicated or out of order; 1 something was; 2 wrong usage; 130 interrupted.
    """
    lines = demo_lines() if file is None else _read(file)
    if db is not None and db.exists():
        raise CommandError(f"--db: {db} exists already; give the path of a new file, the verdict needs an empty one", 2)
    number = random.randrange(10_000) if seed is None else seed  # noqa: S311 - draws faults, guards nothing
    return run_loop(lambda interrupt: _demo(interrupt, number, lines, db))


def demo_lines() -> Sequence[str]:
    """Return the lines of the text that is shipped for the demo."""
    return split((resources.files("reliable_emit.cli") / "demo.txt").read_text(encoding="utf-8"))


def split(text: str) -> Sequence[str]:
    """Return the lines of a text as the sender would: only line feeds end them."""
    lines = text.split("\n")
    if not lines[-1]:
        lines.pop()
    return [line.removesuffix("\r") for line in lines]


async def _demo(interrupt: Interrupt, seed: int, lines: Sequence[str], db: Path | None) -> int:
    screen = console(STDOUT)
    with tempfile.TemporaryDirectory(prefix="reliable-emit-") as directory:
        trial = Trial(lines, seed=seed, db=db or Path(directory) / "chat.db", say=STDOUT.line)
        verdict = await interrupt.unless(trial.run())
    if verdict is None:
        STDERR.line("interrupted")
        return interrupt.status or 1
    STDOUT.line("")
    screen.print(picture(verdict))
    STDOUT.flush()
    return 0 if verdict.passed else 1


def _read(file: Path) -> Sequence[str]:
    try:
        if file.stat().st_size > _MAX_BYTES:
            raise CommandError(f"--file: {file} is larger than {_MAX_BYTES} bytes; the demo holds it in memory", 2)
        lines = split(file.read_bytes().decode())
    except OSError as error:
        raise CommandError(f"cannot read {file}: {error.strerror or error}; give a readable text file", 2) from None
    except ValueError as error:
        raise CommandError(f"cannot read {file}: {error}; give a text file in UTF-8", 2) from None
    if not lines:
        raise CommandError(f"{file} is empty; give a text file with a line at least", 2)
    return lines
