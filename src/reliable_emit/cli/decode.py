"""What a line becomes: the argument of an event, checked before it is queued."""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

from reliable_emit.cli.source import Line, LineError

PACKET_LIMIT = 1_000_000
"""Bytes in a packet; more is refused by default by the servers of Python and JavaScript, which cut the connection."""

# What stands in a packet besides the event and the line: types, ids, brackets, the client offset.
_FRAME = 200
# Bytes of JSON that one byte of a line becomes at the most: a control character, spelt \u0000.
_ESCAPED = 6


def decode(line: Line, *, as_json: bool, event: str, limit: int = PACKET_LIMIT) -> Any:
    """Return the value that a line stands for.

    Raises:
        LineError: It is not UTF-8, not JSON, or too long to be sent.
    """
    try:
        text = line.content.decode()
    except UnicodeDecodeError as error:
        raise LineError(line.number, f"it is not UTF-8 (byte {error.start + 1}); convert the input") from None
    value = _parse(line.number, text) if as_json else text
    room = limit - _FRAME - len(json.dumps(event))
    if len(line.content) * _ESCAPED > room and (size := len(json.dumps(value, separators=(",", ":")))) > room:
        raise LineError(
            line.number,
            f"it takes {size} bytes as JSON, of {room} that fit into a packet of {limit}; servers refuse longer ones",
        )
    return value


def _parse(number: int, text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_refuse, parse_float=_finite)
    except json.JSONDecodeError as error:
        raise LineError(number, f"it is not JSON: {error.msg} (column {error.colno})") from None
    except RecursionError:
        raise LineError(number, "it is not usable JSON: it is nested too deeply") from None
    except ValueError as error:
        raise LineError(number, f"it is not JSON: {error}") from None


def _refuse(constant: str) -> NoReturn:
    # Python would send it as it is, and a server in another language would cut the connection.
    raise ValueError(f"{constant} is no JSON value")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"{digits[:40]} is too large a number")
    return number
