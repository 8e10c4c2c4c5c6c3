"""``reliable-emit serve``: the reference server."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reliable_emit.cli.output import STDERR, STDOUT, CommandError
from reliable_emit.cli.running import Interrupt, run_loop
from reliable_emit.server import AddressError, ReferenceServer, ScriptError, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable

_MAX_PORT = 65_535
_MEMORY = ":memory:"
# What an error about an argument begins with.
_ARGUMENT = re.compile(r"(db|message_queue)\b")


class _Lines(logging.Handler):
    """Shows what the server logs, a line each."""

    def emit(self, record: logging.LogRecord) -> None:
        STDERR.line(f"{record.levelname.lower()}: {record.getMessage()}")


def serve(
    host: Annotated[str, typer.Option(metavar="HOST", help="The address to listen on; 0.0.0.0 for all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(metavar="PORT", help="The port to listen on; 0 for a free one.")] = 3000,
    db: Annotated[
        str,
        typer.Option(
            metavar="PATH",
            help="The SQLite file, made if missing; ':memory:' for none that lasts. Or postgresql://user@host:port/name.",
        ),
    ] = "chat.db",
    message_queue: Annotated[
        str | None,
        typer.Option(metavar="URL", help="redis://host:port, by which several nodes tell each other what is new."),
    ] = None,
    client_script: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH", help="The chat page's Socket.IO client: dist/socket.io.min.js of npm's socket.io-client."
        ),
    ] = None,
) -> int:
    """Run the reference server: the Socket.IO tutorial's chat, storing each message exactly once.

    Anybody who reaches it may read and write. Ctrl-C ends it; killed at any moment, it loses nothing that it has
    acknowledged, and goes on from the same database. Several of them on one PostgreSQL are one chat.

    Exit status: 0 ended by Ctrl-C or SIGTERM; 1 it cannot listen there or open the database; 2 wrong usage.
    """
    if not 0 <= port <= _MAX_PORT:
        raise CommandError(f"--port is {port}; give 0 (a free one) to {_MAX_PORT}", 2)
    if not host:
        raise CommandError("--host is empty; give an address to listen on, 0.0.0.0 for all", 2)
    if not db:
        raise CommandError(f"--db is empty; give the path of a file, or {_MEMORY!r}", 2)

    def make() -> ReferenceServer:
        try:
            return ReferenceServer(db, host=host, port=port, message_queue=message_queue, client_script=client_script)
        except ScriptError as error:
            raise CommandError(f"--client-script: {error}", 2) from None
        except (ValueError, ImportError) as error:
            raise CommandError(_ARGUMENT.sub(lambda found: f"--{found[0].replace('_', '-')}", str(error)), 2) from None

    return run_loop(lambda interrupt: _serve(interrupt, make, f"{host} port {port}"))


async def _serve(interrupt: Interrupt, make: Callable[[], ReferenceServer], address: str) -> int:
    log = logging.getLogger("reliable_emit.server")
    lines = _Lines(logging.WARNING)
    log.addHandler(lines)
    try:
        await _run(interrupt, make(), address)
    finally:
        log.removeHandler(lines)
    STDERR.line("stopped")
    return 0


async def _run(interrupt: Interrupt, server: ReferenceServer, address: str) -> None:
    try:
        await interrupt.unless(server.start())
    except (StoreError, AddressError) as error:
        raise CommandError(str(error), 1) from None
    except (ValueError, UnicodeError) as error:
        raise CommandError(f"cannot listen on {address}: {error}", 2) from None
    try:
        if interrupt.status is None:
            STDOUT.line(f"database: {server.database}")
            STDOUT.line(f"listening on {server.url}")
            await interrupt.wait()
    finally:
        await server.stop()
