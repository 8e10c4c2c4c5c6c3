"""The options of ``reliable-emit send``, checked."""

from __future__ import annotations

import dataclasses
import enum
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from reliable_emit import SQLiteOutbox
from reliable_emit.cli.output import CommandError
from reliable_emit.cli.source import NOTHING, stdin_has_no_lines
from reliable_emit.cli.target import Target
from reliable_emit.policy import count

FOREVER = "forever"


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
    outbox: Path | None


def usage(check: Callable[..., Any], option: str, value: object, **limits: Any) -> Any:
    """Return what a check of the policy makes of an option, or raise what that is to its user."""
    try:
        return check(option, value, **limits)
    except ValueError as error:
        raise CommandError(str(error).replace(", or None for no limit", ""), 2) from None


def retries(text: str) -> int | None:
    """Return the number of retries."""
    if text == FOREVER:
        return None
    try:
        number = int(text)
    except ValueError:
        raise CommandError(f"--retries is {text!r}; give a whole number, or {FOREVER!r}", 2) from None
    return int(usage(count, "--retries", number, least=0))


def namespace(text: str) -> str:
    """Return the namespace."""
    if not text.startswith("/") or "," in text:
        raise CommandError(f"--namespace is {text!r}; it starts with a slash and has no comma, such as '/sensors'", 2)
    return text


def auth(text: str | None) -> dict[str, Any] | None:
    """Return what to log in with."""
    if text is None:
        return None
    try:
        login = json.loads(text)
    except (ValueError, RecursionError) as error:
        # Without the text: it is a secret.
        where = f" (column {error.colno})" if isinstance(error, json.JSONDecodeError) else ""
        raise CommandError(f'--auth is not JSON{where}; give an object such as \'{{"token": "…"}}\'', 2) from None
    if not isinstance(login, dict):
        raise CommandError('--auth is JSON but no object; give one such as \'{"token": "…"}\'', 2)
    return login


def outbox(text: str | None) -> Path | None:
    """Return the absolute path of a durable outbox."""
    if text is None:
        return None
    try:
        SQLiteOutbox(text)
    except ValueError:
        raise CommandError(f"--outbox is {text!r}; give the path of a file, made if there is none", 2) from None
    return Path(text).absolute()


def source(file: Path | None, *, durable: bool) -> Path | None:
    """Return the file to read, ``None`` for standard input.

    With a durable outbox there may be nothing to read: who gives no input wants what is in it to be sent.
    """
    if file == Path("-"):
        return None
    if file is None and durable and stdin_has_no_lines():
        return NOTHING
    return file
