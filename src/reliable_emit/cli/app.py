"""The commands put together, and their errors as one line each."""

from __future__ import annotations

import importlib.metadata
import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer

from reliable_emit.cli import outbox
from reliable_emit.cli.demo import demo
from reliable_emit.cli.output import STDERR, STDOUT, CommandError
from reliable_emit.cli.send import send
from reliable_emit.cli.serve import serve

_NAME = "reliable-emit"

app = typer.Typer(
    name=_NAME,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        STDOUT.line(f"{_NAME} {importlib.metadata.version(_NAME)}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Socket.IO messages that arrive: at-least-once emit for python-socketio."""


_outbox = typer.Typer(
    add_completion=False, pretty_exceptions_enable=False, help="Look at a durable outbox, and steer it."
)

# Offsets may begin with a hyphen: what is no option is taken for one of them.
_OFFSETS = {"ignore_unknown_options": True, "help_option_names": ["--help"]}


def _add(
    command: Callable[..., int], to: typer.Typer = app, name: str | None = None, settings: dict[str, Any] | None = None
) -> None:
    # typer keeps the line breaks of a docstring, and breaks the lines once more at the width of the terminal.
    paragraphs = inspect.cleandoc(command.__doc__ or "").split("\n\n")
    text = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
    to.command(name, help=text, context_settings=settings)(command)


for _command in (send, serve, demo):
    _add(_command)
_add(outbox.list_messages, _outbox, "list")
_add(outbox.show, _outbox, settings=_OFFSETS)
_add(outbox.retry, _outbox, settings=_OFFSETS)
_add(outbox.discard, _outbox, settings=_OFFSETS)
app.add_typer(_outbox, name="outbox")


def run(arguments: list[str] | None = None) -> int:
    """Run a command and return its exit status; what the user did wrong is one line on standard error.

    Args:
        arguments: Instead of those of the process.
    """
    command = typer.main.get_command(app)
    try:
        status = command.main(arguments, prog_name=_NAME, standalone_mode=False)
    except CommandError as error:
        STDERR.line(f"error: {error}")
        return error.status
    except typer.Abort:  # the signal came before the command took over
        return 130
    except Exception as error:
        # The errors of typer's parser: their classes have moved between its versions, their methods have not.
        if not hasattr(error, "format_message") or not hasattr(error, "exit_code"):
            raise
        if text := _explain(error):
            STDERR.line(text)
        return int(error.exit_code)
    return status if isinstance(status, int) else 0


def _explain(error: Exception) -> str:
    message = str(error.format_message())  # type: ignore[attr-defined]  # just looked at
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else _NAME
    if type(error).__name__ == "NoArgsIsHelpError":
        return message
    return f"error: {' '.join(message.split())} (see '{path} --help')"
