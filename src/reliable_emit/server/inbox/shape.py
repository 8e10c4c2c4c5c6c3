"""What a handler can be called with: how many arguments."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    import socketio

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class Shape:
    """The positional parameters of a handler: the object if it is a method, the socket id, the data, the transaction.

    Raises:
        ValueError: It could never be called with those.
    """

    def __init__(self, handler: Callable[..., object]) -> None:
        parameters = inspect.signature(handler).parameters.values()
        positional = [one for one in parameters if one.kind in _POSITIONAL]
        self._count = len(positional)
        self._open_ended = any(one.kind is one.VAR_POSITIONAL for one in parameters)
        missing = [one.name for one in parameters if one.kind is one.KEYWORD_ONLY and one.default is one.empty]
        if missing or (self._count < 2 and not self._open_ended):  # noqa: PLR2004 - the socket id and the transaction
            raise ValueError(
                f"{handler!r} cannot handle a message: it is called with the socket id, the arguments of the message "
                f"but the last one, which is the client offset, and the transaction in place of that"
            )
        # The last may have one: it is always given.
        optional = positional if self._open_ended else positional[:-1]
        if any(one.default is not one.empty for one in optional):
            raise ValueError(
                f"{handler!r} has an argument with a default, and would be given the transaction for that when it is "
                f"not sent; take optional arguments as *arguments, with the transaction as the last of them"
            )

    def problem(self, count: int, before: int) -> str | None:
        """Return why that many arguments can never be accepted, ``None`` if they can.

        With an argument missing each would be taken for its neighbour, and the last one for the client offset.

        Args:
            count: How many there are in all.
            before: How many of them are not the message's: the socket id, and the object of a method.
        """
        needed, got = max(self._count - before, 1), count - before
        if got == needed or (self._open_ended and got > needed):
            return None
        expected = f"{needed} or more" if self._open_ended else f"{needed}"
        noun = "argument" if expected == "1" else "arguments"
        return f"expected {expected} {noun}, the last one the client offset, got {got}"


def registered(sio: socketio.AsyncServer, handler: Callable[..., object]) -> bool:
    """Return whether a function is an event's handler as it is."""
    return any(one is handler for events in sio.handlers.values() for one in events.values())
