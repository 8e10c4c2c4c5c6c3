"""``reliable-emit send``: one message a line, in order, until the server has acknowledged it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from reliable_emit.cli import options
from reliable_emit.cli.durable import DurableSending
from reliable_emit.cli.options import Options, SummaryFormat, TransportName
from reliable_emit.cli.output import CommandError
from reliable_emit.cli.running import run_loop
from reliable_emit.cli.sending import Sending
from reliable_emit.cli.target import Target
from reliable_emit.delivery import CHAT_EVENT
from reliable_emit.policy import seconds


def send(
    url: Annotated[
        str | None, typer.Argument(metavar="URL", help="The server, such as http://localhost:3000.", show_default=False)
    ] = None,
    event: Annotated[str, typer.Argument(metavar="EVENT", help="The event's name.")] = CHAT_EVENT,
    file: Annotated[
        Path | None,
        typer.Option(
            "--file",
            "-f",
            help="Read the lines from this file instead of standard input, which is '-'.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json", help="Each line is a JSON value, which becomes one argument; a list, too, is one: a list."
        ),
    ] = False,
    outbox: Annotated[
        str | None,
        typer.Option(
            metavar="PATH",
            help="Keep what waits in this file, made if missing, where it survives the end of this process; what an "
            "earlier run left there is sent first.",
            show_default=False,
        ),
    ] = None,
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
    connect_timeout: Annotated[
        float,
        typer.Option(
            metavar="S",
            help="Seconds to try for a first connection; with --outbox, in which lines are kept without one, from the "
            "end of the input on.",
        ),
    ] = 10.0,
    summary: Annotated[SummaryFormat, typer.Option(help="How to print the closing summary.")] = SummaryFormat.TEXT,
    path: Annotated[str, typer.Option(metavar="PATH", help="Where on the server Socket.IO is.")] = "socket.io",
    transport: Annotated[
        TransportName, typer.Option(help="auto: websocket, and polling where that does not pass.")
    ] = TransportName.WEBSOCKET,
) -> int:
    """Send each line as a message, in order, and wait until the server has acknowledged all of them.

    A lost connection is made again, and what was in flight is sent again first. Empty lines are messages too. What
    waits is in memory only: it is lost if this process ends, and then says how to go on.

    With --outbox it waits in a file instead: lines are accepted without a connection too, and survive a crash, and what
    remains is sent by the next run with that file, which needs no input of its own (</dev/null).

    Exit status: 0 all was acknowledged; 1 something was given up or is still pending; 2 wrong usage or input, what came
    before that line was delivered; 130 interrupted.
    """
    if not url:
        raise CommandError(
            "give the URL of a server, such as http://localhost:3000 (see 'reliable-emit send --help')", 2
        )
    if any(character.isspace() for character in url):
        raise CommandError(f"{url!r} is not the URL of a server, there is a space in it", 2)
    given = Options(
        target=Target(url, options.namespace(namespace), options.auth(auth), path, transport.value),
        event=event,
        file=options.source(file, durable=outbox is not None),
        as_json=as_json,
        ack_timeout=options.usage(seconds, "--ack-timeout", ack_timeout),
        retries=options.retries(retries),
        client_offset=not no_client_offset,
        connect_timeout=options.usage(seconds, "--connect-timeout", connect_timeout),
        summary=summary,
        outbox=options.outbox(outbox),
    )
    if given.outbox is None:
        return run_loop(lambda interrupt: Sending(given).run(interrupt))
    path_of_outbox = given.outbox
    return run_loop(lambda interrupt: DurableSending(given, path_of_outbox).run(interrupt))
