"""Makes a message out of what was passed to `emit`, or says at once what is wrong with it."""

from __future__ import annotations

import asyncio
import enum
import time
from collections.abc import Callable
from typing import Any, Final, Literal

from reliable_emit.delivery import Frames, Message
from reliable_emit.link import Link
from reliable_emit.policy import Policy, count, seconds

# The names that the JavaScript client reserves, and the one that python-socketio uses for itself.
_RESERVED = frozenset(
    {"connect", "connect_error", "disconnect", "disconnecting", "newListener", "removeListener", "__disconnect_final"}
)


class _Default(enum.Enum):
    DEFAULT = enum.auto()


DEFAULT: Final = _Default.DEFAULT
"""An argument that was not given: the client's own setting applies."""

AckTimeout = float | Literal[_Default.DEFAULT]
Retries = int | Literal[_Default.DEFAULT] | None


class Composer:
    """Composes the messages of one client.

    Args:
        link: Knows the socket id and how to encode.
        policy: What applies where a message says nothing itself.
        client_offset: ``True`` appends the offset, ``False`` does not, a function ``(data, offset) -> data`` places it.
        new_offset: Makes offsets.
    """

    def __init__(
        self,
        link: Link,
        policy: Policy,
        *,
        client_offset: bool | Callable[[Any, str], Any],
        new_offset: Callable[[str | None], str],
    ) -> None:
        if not isinstance(client_offset, bool) and not callable(client_offset):
            raise TypeError(
                f"client_offset is {client_offset!r}; give True, False or a function (data, offset) -> data"
            )
        if not callable(new_offset):
            raise TypeError(f"new_offset is {new_offset!r}; give a function (socket id or None) -> offset")
        self._link = link
        self._policy = policy
        self._client_offset = client_offset
        self._new_offset = new_offset

    def message(
        self, event: str, data: Any, *, ack_timeout: AckTimeout, retries: Retries, ttl: float | None
    ) -> Message:
        """Take the snapshot of a message.

        Raises:
            TypeError: An argument is of a wrong type, or the data cannot be encoded.
            ValueError: An argument has a wrong value.
        """
        _check_event(event)
        if ack_timeout is DEFAULT:
            ack_timeout = self._policy.ack_timeout
        else:
            ack_timeout = seconds("ack_timeout", ack_timeout, zero=True)
        if retries is DEFAULT:
            retries = self._policy.retries
        elif retries is not None:
            count("retries", retries, least=0)
        expires_at = None if ttl is None else asyncio.get_running_loop().time() + seconds("ttl", ttl)
        offset = self._offset()
        if callable(self._client_offset):
            arguments = _arguments(self._client_offset(data, offset))
        elif self._client_offset:
            arguments = (*_arguments(data), offset)
        else:
            arguments = _arguments(data)
        return Message(
            offset=offset,
            event=event,
            frames=self._link.codec.encode(event, arguments),
            ack_timeout=ack_timeout,
            retries=retries,
            accepted_at=time.time(),
            expires_at=expires_at,
        )

    def volatile(self, event: str, data: Any) -> Frames:
        """Take the snapshot of a volatile message, which has no offset; raises as :meth:`message` does."""
        _check_event(event)
        return self._link.codec.encode(event, _arguments(data))

    def _offset(self) -> str:
        # The socket id may be newer than what the link was told, while a connect handler of the user's still runs.
        self._link.look()
        offset = self._new_offset(self._link.socket_id)
        if not isinstance(offset, str) or not offset:
            raise TypeError(f"new_offset returned {offset!r}; it has to return a str that is not empty")
        return offset


def _check_event(event: object) -> None:
    if not isinstance(event, str):
        raise TypeError(f"the event is {event!r}; give its name, a str")
    if event in _RESERVED:
        raise ValueError(f"{event!r} is a reserved event name; choose another one")


def _arguments(data: Any) -> tuple[Any, ...]:
    if isinstance(data, tuple):
        return data
    return () if data is None else (data,)
