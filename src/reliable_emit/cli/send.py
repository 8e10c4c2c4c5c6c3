"""``reliable-emit send``: one message a line, in order, until the server has acknowledged it."""

from __future__ import annotations

import asyncio
import dataclasses
import enum
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from reliable_emit import MemoryOutbox, ReliableClient
from reliable_emit.cli.connection import Connection, Target, quiet_client
from reliable_emit.cli.decode import PACKET_LIMIT, decode
from reliable_emit.cli.ledger import Ledger
from reliable_emit.cli.output import STDERR, CommandError
from reliable_emit.cli.report import Report, display
from reliable_emit.cli.running import Interrupt, cancelled, first_of, run_loop
from reliable_emit.cli.source import LineError, Source
from reliable_emit.cli.summary import dead_lettered, print_remains, print_summary
from reliable_emit.delivery import CHAT_EVENT
from reliable_emit.policy import count, seconds

_MAX_PENDING = 1000
_FOREVER = "forever"
# Seconds that a polite end of the connection may take.
_CLOSE = 0.5


class SummaryFormat(enum.StrEnum):
    """How the closing summary is printed."""

    TEXT = "text"
    JSON = "json"


class TransportName(enum.StrEnum):
    """How the server is reached."""

    WEBSOCKET = "websocket"
    POLLING = "polling"
    AUTO = "auto"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What is sent where, and how."""

    target: Target
    event: str
    file: Path | None
    as_json: bool
    ack_timeout: float
    retries: int | None
    client_offset: bool
    connect_timeout: float
    summary: SummaryFormat


def send(
    url: Annotated[
        str | None, typer.Argument(metavar="URL", help="The server, such as http://localhost:3000.", show_default=False)
    ] = None,
    event: Annotated[str, typer.Argument(metavar="EVENT", help="The event's name.")] = CHAT_EVENT,
    file: Annotated[
        Path | None,
        typer.Option(
            "--file", "-f", help="Read the lines from this file instead of standard input.", show_default=False
        ),
    ] = None,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json", help="Each line is a JSON value, which becomes one argument; a list, too, is one: a list."
        ),
    ] = False,
    ack_timeout: Annotated[
        float, typer.Option(metavar="S", help="Seconds to wait for the acknowledgement of one attempt.")
    ] = 10.0,
    retries: Annotated[
        str,
        typer.Option(
            metavar="N", help="Attempts after the first one before a line is given up, or 'forever': never give up."
        ),
    ] = "3",
    namespace: Annotated[str, typer.Option(metavar="NS", help="The namespace.")] = "/",
    auth: Annotated[
        str | None,
        typer.Option(
            metavar="JSON",
            envvar="RELIABLE_EMIT_AUTH",
            help="What to log in with, a JSON object. Better given in the environment, where others do not see it.",
            show_default=False,
        ),
    ] = None,
    no_client_offset: Annotated[
        bool,
        typer.Option(
            "--no-client-offset",
            help="Do not append the client offset, by which a server can tell repetitions, as the last argument.",
        ),
    ] = False,
    connect_timeout: Annotated[float, typer.Option(metavar="S", help="Seconds to try for a first connection.")] = 10.0,
    summary: Annotated[SummaryFormat, typer.Option(help="How to print the closing summary.")] = SummaryFormat.TEXT,
    path: Annotated[str, typer.Option(metavar="PATH", help="Where on the server Socket.IO is.")] = "socket.io",
    transport: Annotated[
        TransportName, typer.Option(help="auto: polling first, then websocket if the server offers it.")
    ] = TransportName.WEBSOCKET,
) -> int:
    """Send each line as a message, in order, and wait until the server has acknowledged all of them.

    A lost connection is made again, and what was in flight is sent again first. Empty lines are messages too. What
    waits is in memory only: it is lost if this process ends, and then says how to go on.

    Exit status: 0 all lines were acknowledged; 1 some were given up or are still pending; 2 wrong usage or input, what
    came before that line was delivered; 130 interrupted.
    """
    if not url:
        raise CommandError(
            "give the URL of a server, such as http://localhost:3000 (see 'reliable-emit send --help')", 2
        )
    if any(character.isspace() for character in url):
        raise CommandError(f"{url!r} is not the URL of a server, there is a space in it", 2)
    options = Options(
        target=Target(url, _namespace(namespace), _auth(auth), path, transport.value),
        event=event,
        file=file,
        as_json=as_json,
        ack_timeout=_usage(seconds, "--ack-timeout", ack_timeout),
        retries=_retries(retries),
        client_offset=not no_client_offset,
        connect_timeout=_usage(seconds, "--connect-timeout", connect_timeout),
        summary=summary,
    )
    return run_loop(lambda interrupt: _Sending(options).run(interrupt))


class _Sending:
    """One run of the command."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._source = Source(options.file, limit=PACKET_LIMIT)
        size = self._source.check()
        sio = quiet_client()
        self._client = ReliableClient(
            sio,
            namespace=options.target.namespace,
            # What is shown of dead letters is in the ledger.
            outbox=MemoryOutbox(max_dead_letters=0),
            ack_timeout=options.ack_timeout,
            retries=options.retries,
            client_offset=options.client_offset,
            max_pending=_MAX_PENDING,
            overflow="wait",
        )
        self._ledger = Ledger(self._client)
        self._report = Report(self._client, self._ledger, display(size=size, typing=self._source.is_terminal))
        self._connection = Connection(self._client, sio, options.target, self._report.say)
        self._all_read = False

    async def run(self, interrupt: Interrupt) -> int:
        """Do it and return the exit status."""
        try:
            # Offline, a volatile message is checked and dropped: a reserved name shows before anything is read.
            await self._client.emit_volatile(self._options.event)
        except ValueError as error:
            raise CommandError(str(error), 2) from None
        started = time.monotonic()
        problem: CommandError | LineError | None = None
        async with self._report.shown():
            try:
                await self._deliver(interrupt)
            except (CommandError, LineError) as error:
                problem = error
        # Closing gives up what is pending: then the numbers are final. A step later the hooks are through.
        closing = asyncio.ensure_future(self._client.close(timeout=0))
        while self._client.pending and not closing.done():  # noqa: ASYNC110 - a few steps of the event loop
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        self._say_the_end(interrupt, problem)
        stats = self._client.stats
        if interrupt.status is not None:
            status = interrupt.status
        elif problem is not None:
            status = problem.status
        else:
            status = 1 if dead_lettered(stats) or stats.dropped else 0
        took = time.monotonic() - started
        as_json = self._options.summary is SummaryFormat.JSON
        if stats.connected or as_json:
            print_summary(stats, self._ledger, stats.dropped, took, status, as_json=as_json)
        await asyncio.wait([closing], timeout=_CLOSE)
        return status

    def _say_the_end(self, interrupt: Interrupt, problem: Exception | None) -> None:
        stats = self._client.stats
        if problem is not None:
            STDERR.line(f"error: {problem}")
        elif interrupt.status is not None:
            STDERR.line(
                "interrupted"
                if stats.connected
                else "interrupted before there was a connection; nothing was read, nothing was sent"
            )
        if stats.connected:
            print_remains(stats, self._ledger, stats.dropped, self._options.file, all_read=self._all_read)

    async def _deliver(self, interrupt: Interrupt) -> None:
        patience = self._options.connect_timeout
        await interrupt.unless(self._connection.open(patience))
        if interrupt.status is not None:
            return
        if self._source.is_terminal:
            self._report.say("reading from the terminal, a message a line; Ctrl-D at the start of a line ends")
        sending = asyncio.ensure_future(self._send())
        keeping = asyncio.ensure_future(self._connection.keep(patience))
        try:
            await first_of(sending, keeping, interrupt.wait())
            for task in (sending, keeping):
                if task.done():
                    task.result()
        finally:
            await cancelled(sending, keeping)

    async def _send(self) -> None:
        """Send all lines and wait until they are settled; those before a line that cannot be sent, too."""
        options = self._options
        try:
            async for line in self._source.lines():
                value = decode(line, as_json=options.as_json, event=options.event)
                await self._ledger.room()
                self._ledger.accepted(line, await self._client.emit(options.event, (value,)))
            self._all_read = True
        except (CommandError, LineError) as error:
            if self._client.pending:  # which may take its time
                self._report.say(f"{error}; delivering what came before")
            await self._client.flush()
            raise
        await self._client.flush()


def _usage(check: Callable[..., Any], option: str, value: object, **limits: Any) -> Any:
    try:
        return check(option, value, **limits)
    except ValueError as error:
        raise CommandError(str(error).replace(", or None for no limit", ""), 2) from None


def _retries(text: str) -> int | None:
    if text == _FOREVER:
        return None
    try:
        number = int(text)
    except ValueError:
        raise CommandError(f"--retries is {text!r}; give a whole number, or {_FOREVER!r}", 2) from None
    return int(_usage(count, "--retries", number, least=0))


def _namespace(text: str) -> str:
    if not text.startswith("/") or "," in text:
        raise CommandError(f"--namespace is {text!r}; it starts with a slash and has no comma, such as '/sensors'", 2)
    return text


def _auth(text: str | None) -> dict[str, Any] | None:
    if text is None:
        return None
    try:
        auth = json.loads(text)
    except (ValueError, RecursionError) as error:
        # Without the text: it is a secret.
        where = f" (column {error.colno})" if isinstance(error, json.JSONDecodeError) else ""
        raise CommandError(f'--auth is not JSON{where}; give an object such as \'{{"token": "…"}}\'', 2) from None
    if not isinstance(auth, dict):
        raise CommandError('--auth is JSON but no object; give one such as \'{"token": "…"}\'', 2)
    return auth
