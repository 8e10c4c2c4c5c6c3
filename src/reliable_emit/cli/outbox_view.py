"""How messages in an outbox are shown: as a table, as lines, as JSON, and one of them at length."""

from __future__ import annotations

import base64
import dataclasses
import datetime as dt
import itertools
import json
import math
import time
from collections.abc import Callable, Iterable
from typing import Any

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from reliable_emit.cli.outbox_file import Entry
from reliable_emit.cli.output import STDOUT, console, plural

# Rows of a table: it is laid out as a whole.
_PAGE = 500
# Characters of a message's data in a list; and bytes of a binary argument that are shown at length.
_SHORT, _LONG, _BINARY = 60, 200, 48
# Of a table's columns but the last one, for the data, which gets the room that is left, and so much at least.
_COLUMNS = ("offset", "event", "accepted", "age", "tries")
_LEAST, _MOST = (6, 7, 12, 6, 5), (40, 12, 12, 8, 8)
_DATA, _NARROW, _GAP = 12, 24, 2
# Around a binary value in a text, where it is no string; a character that nobody uses.
_MARK = "\U0010fffd"
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))


@dataclasses.dataclass(frozen=True, slots=True)
class _Row:
    """What a table shows of a message; the message itself may be large."""

    columns: tuple[str, ...]
    data: str
    died: tuple[str, ...] | None
    why: str


def print_table(entries: Iterable[Entry], *, dead: bool) -> None:
    """Print messages, or dead letters, as tables on a terminal."""
    screen = console(STDOUT)
    rows = map(_row, entries)
    while page := list(itertools.islice(rows, _PAGE)):
        widths = [
            max(least, *(min(cell_len(row.columns[at]), most) for row in page))
            for at, (least, most) in enumerate(zip(_LEAST, _MOST, strict=True))
        ]
        shown = list(range(len(_COLUMNS)))
        if screen.width - sum(widths) - _GAP * (len(widths) + 1) < _NARROW:
            shown.remove(_COLUMNS.index("age"))
        room = max(_DATA, screen.width - sum(widths[at] + _GAP for at in shown) - _GAP)
        table = Table(
            box=None,
            pad_edge=False,
            padding=(0, _GAP, 0, 0),
            title="Dead letters" if dead else "Pending",
            title_style="bold",
            title_justify="left",
        )
        for at in shown:
            right = _COLUMNS[at] in {"age", "tries"}
            table.add_column(_COLUMNS[at], width=widths[at], overflow="fold", justify="right" if right else "left")
        table.add_column("data", width=room, overflow="fold")
        for row in page:
            data = Text(row.data)
            data.truncate(room, overflow="ellipsis")
            table.add_row(*(row.columns[at] for at in shown), data)
            if row.died is not None:
                table.add_row(*(row.died[at] for at in shown), Text(row.why, style="red"))
        screen.print(table)
    STDOUT.flush()


def _row(entry: Entry) -> _Row:
    message, letter = entry.message, entry.letter
    columns = (
        printable(message.offset),
        printable(message.event),
        _brief(message.accepted_at),
        _age(time.time() - message.accepted_at),
        str(message.attempts),
    )
    data = _short(entry, _LONG)
    if letter is None:
        return _Row(columns, data, None, "")
    died = ("", "gave up", _brief(letter.died_at), _age(time.time() - letter.died_at), "")
    return _Row(columns, data, died, printable(_cut(f"{letter.reason}: {letter.detail}", _LONG)))


def print_lines(entries: Iterable[Entry]) -> None:
    """Print messages as tab-separated lines."""
    now = time.time()
    for entry in entries:
        message, letter = entry.message, entry.letter
        columns = [
            _state(entry),
            message.offset,
            message.event,
            _short(entry),
            _local(message.accepted_at),
            _age(now - message.accepted_at),
            str(message.attempts),
        ]
        if letter is not None:
            columns += [_local(letter.died_at), letter.reason, letter.detail]
        STDOUT.write("\t".join(map(printable, columns)) + "\n")
    STDOUT.flush()


def print_json(entries: Iterable[Entry]) -> None:
    """Print messages as JSON, one object a line."""
    for entry in entries:
        STDOUT.write(json.dumps(_as_json(entry), allow_nan=False) + "\n")
    STDOUT.flush()


def print_entry(entry: Entry) -> None:
    """Print all that is known of a message."""
    message, letter = entry.message, entry.letter
    facts = [
        ("offset", message.offset),
        ("event", message.event),
        ("state", "dead letter" if letter is not None else "pending"),
        ("accepted", _when(message.accepted_at)),
        ("attempts", f"{message.attempts}, {_arrived(entry)}"),
        ("retries", "forever" if message.retries is None else str(message.retries)),
        ("ack timeout", f"{message.ack_timeout:g} s"),
    ]
    if message.expires_at is not None:
        facts.append(("expires", _local(message.expires_at)))
    if letter is not None:
        facts += [("died", _when(letter.died_at)), ("reason", letter.reason), ("detail", letter.detail)]
    else:
        facts += [("failures", str(message.failures)), ("losses", str(message.losses))]
    for name, value in facts:
        STDOUT.write(f"{name:<12} {printable(value)}\n")
    if entry.arguments is None:
        STDOUT.write(f"{'data':<12} it cannot be read: {printable(entry.problem)}\n")
    else:
        STDOUT.write(f"{'data':<12} {plural(len(entry.arguments), 'argument')}\n")
        for argument in entry.arguments:
            text = _text_of(argument, _long_binary, indent=2)
            STDOUT.write("".join(f"  {printable(line)}\n" for line in text.split("\n")))
    STDOUT.flush()


def printable(text: str) -> str:
    """Return a text in which nothing is left that would steer a terminal, or end a line."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )


def _state(entry: Entry) -> str:
    return "pending" if entry.letter is None else "dead"


def _arrived(entry: Entry) -> str:
    return "it may have arrived" if entry.message.possibly_sent else "it was certainly never sent"


def _short(entry: Entry, length: int = _SHORT) -> str:
    if entry.arguments is None:
        return f"<{printable(entry.problem)}>"
    arguments = entry.arguments
    if arguments and arguments[-1] == entry.message.offset:
        arguments = arguments[:-1]  # it has a column of its own
    text = ", ".join(_text_of(argument, _short_binary) for argument in arguments)
    return printable(_cut(text, length))


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"


def _text_of(argument: Any, binary: Callable[[bytes], str], indent: int | None = None) -> str:
    text = json.dumps(
        _plain(argument, lambda content: f"{_MARK}<{binary(content)}>{_MARK}"), ensure_ascii=False, indent=indent
    )
    return text.replace(f'"{_MARK}<', "<").replace(f'>{_MARK}"', ">")


def _as_json(entry: Entry) -> dict[str, Any]:
    message, letter = entry.message, entry.letter
    found: dict[str, Any] = {
        "state": _state(entry),
        "offset": message.offset,
        "event": message.event,
        "data": None if entry.arguments is None else _plain(entry.arguments, _json_binary),
        "accepted_at": _number(message.accepted_at),
        "accepted_at_iso": _iso(message.accepted_at),
        "attempts": message.attempts,
        "possibly_delivered": message.possibly_sent,
        "retries": message.retries,
        "ack_timeout": message.ack_timeout,
    }
    if entry.arguments is None:
        found["unreadable"] = entry.problem
    if letter is not None:
        found |= {
            "reason": letter.reason,
            "detail": letter.detail,
            "died_at": _number(letter.died_at),
            "died_at_iso": _iso(letter.died_at),
        }
    else:
        found |= {"failures": message.failures, "losses": message.losses}
        if message.expires_at is not None:
            found |= {"expires_at": _number(message.expires_at), "expires_at_iso": _iso(message.expires_at)}
    return found


def _plain(value: Any, binary: Callable[[bytes], Any]) -> Any:
    """Return what JSON can say of a value; every serializer can say more."""
    match value:
        case bytes() | bytearray():
            return binary(bytes(value))
        case dict():
            return {key if isinstance(key, str) else str(key): _plain(of, binary) for key, of in value.items()}
        case list() | tuple():
            return [_plain(of, binary) for of in value]
        case float():
            return value if math.isfinite(value) else str(value)
        case str() | int() | None:
            return value
    return str(value)


def _json_binary(content: bytes) -> dict[str, str]:
    return {"$base64": base64.b64encode(content).decode()}


def _short_binary(content: bytes) -> str:
    return plural(len(content), "byte")


def _long_binary(content: bytes) -> str:
    start = base64.b64encode(content[:_BINARY]).decode()
    return f"{plural(len(content), 'byte')}: {start}{'…, complete with --json' if len(content) > _BINARY else ''}"


def _moment(seconds: float) -> dt.datetime | None:
    try:
        return dt.datetime.fromtimestamp(seconds, dt.UTC)
    except (ValueError, OverflowError, OSError):
        return None


def _local(seconds: float) -> str:
    moment = _moment(seconds)
    return str(seconds) if moment is None else moment.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _brief(seconds: float) -> str:
    """Return a time as ``ls`` does: with the year in place of the hour if it is not this one."""
    moment = _moment(seconds)
    if moment is None:
        return "?"
    local = moment.astimezone()
    this_year = local.year == dt.datetime.now(dt.UTC).astimezone().year
    return f"{_MONTHS[local.month - 1]} {local.day:2} {f'{local:%H:%M}' if this_year else f'{local.year:5}'}"


def _when(seconds: float) -> str:
    age = time.time() - seconds
    return f"{_local(seconds)}, {_age(age)} ago" if age >= 0 else _local(seconds)


def _iso(seconds: float) -> str | None:
    moment = _moment(seconds)
    return None if moment is None else moment.isoformat(timespec="milliseconds")


def _number(seconds: float) -> float | None:
    return seconds if math.isfinite(seconds) else None


def _age(seconds: float) -> str:
    if not math.isfinite(seconds):
        return "?"
    for length, unit in _UNITS:
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}" if unit == "s" else f"{int(seconds // length)} {unit}"
    return "0 s"
