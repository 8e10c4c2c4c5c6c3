"""``reliable-emit serve``: the reference server."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from reliable_emit.cli.output import STDERR, STDOUT, CommandError
from reliable_emit.cli.running import Interrupt, run_loop
from reliable_emit.server import AddressError, ReferenceServer, StoreError

_MAX_PORT = 65_535
_MEMORY = ":memory:"


class _Lines(logging.Handler):
    """Shows what the server logs, a line each."""

    def emit(self, record: logging.LogRecord) -> None:
        STDERR.line(f"{record.levelname.lower()}: {record.getMessage()}")


def serve(
    host: Annotated[str, typer.Option(metavar="HOST", help="The address to listen on; 0.0.0.0 for all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(metavar="PORT", help="The port to listen on; 0 for a free one.")] = 3000,
    db: Annotated[
        str, typer.Option(metavar="PATH", help="The SQLite file, made if missing; ':memory:' for none.")
    ] = "chat.db",
) -> int:
    """Run the reference server: the Socket.IO tutorial's chat, storing each message exactly once.

    Anybody who reaches it may read and write. Ctrl-C ends it; killed at any moment, it loses nothing that it has
    acknowledged, and goes on from the same file.

    Exit status: 0 ended by Ctrl-C or SIGTERM; 1 it cannot listen there or open the database; 2 wrong usage.
    """
    if not 0 <= port <= _MAX_PORT:
        raise CommandError(f"--port is {port}; give 0 (a free one) to {_MAX_PORT}", 2)
    if not host:
        raise CommandError("--host is empty; give an address to listen on, 0.0.0.0 for all", 2)
    if not db:
        raise CommandError(f"--db is empty; give the path of a file, or {_MEMORY!r}", 2)
    where = "in memory" if db == _MEMORY else str(Path(db).absolute())
    return run_loop(lambda interrupt: _serve(interrupt, host, port, db, where))


async def _serve(interrupt: Interrupt, host: str, port: int, db: str, where: str) -> int:
    log = logging.getLogger("reliable_emit.server")
    lines = _Lines(logging.WARNING)
    log.addHandler(lines)
    try:
        await _run(interrupt, host, port, db, where)
    finally:
        log.removeHandler(lines)
    STDERR.line("stopped")
    return 0


async def _run(interrupt: Interrupt, host: str, port: int, db: str, where: str) -> None:
    try:
        server = ReferenceServer(db, host=host, port=port)
        await interrupt.unless(server.start())
    except (StoreError, AddressError) as error:
        raise CommandError(str(error), 1) from None
    except (ValueError, UnicodeError) as error:
        raise CommandError(f"cannot listen on {host} port {port}: {error}", 2) from None
    try:
        if interrupt.status is None:
            STDOUT.line(f"database: {where}")
            STDOUT.line(f"listening on {server.url}")
            await interrupt.wait()
    finally:
        await server.stop()
