"""How a reply is recorded: as JSON, with the bytes that are anywhere in it, so that a repetition gets the same."""

from __future__ import annotations

import base64
from typing import Any, Protocol

# A dict with this key alone stands for bytes. A key of the user's that begins with it has one more in front.
_BINARY = "\0"


class Json(Protocol):
    """The json module that a server uses."""

    def dumps(self, value: Any, /, **options: Any) -> Any:
        """Encode."""

    def loads(self, text: Any, /) -> Any:
        """Decode."""


def encode(reply: object, json: Json) -> bytes:
    """Return what is recorded for what a handler has returned: a tuple is several arguments, ``None`` is none.

    Raises:
        Exception: It is not what Socket.IO can carry, in the words of the server's json module.
    """
    arguments = () if reply is None else reply if isinstance(reply, tuple) else (reply,)
    text = json.dumps([_hide(one) for one in arguments], separators=(",", ":"))
    return text if isinstance(text, bytes) else str(text).encode()


def decode(recorded: bytes, json: Json) -> Any:
    """Return what was recorded, as a handler returns it: ``None``, a value, or a tuple of several arguments."""
    arguments = tuple(_show(one) for one in json.loads(recorded.decode()))
    match arguments:
        case ():
            return None
        case (alone,) if alone is not None:
            return alone
    return arguments


def _hide(value: Any) -> Any:
    match value:
        case bytes() | bytearray():
            return {_BINARY: base64.b64encode(value).decode()}
        case dict():
            return {_BINARY + key if _is_marked(key) else key: _hide(item) for key, item in value.items()}
        case list() | tuple():
            return [_hide(one) for one in value]
    return value


def _show(value: Any) -> Any:
    match value:
        case {"\0": binary}:
            return base64.b64decode(binary)
        case dict():
            return {key[1:] if _is_marked(key) else key: _show(item) for key, item in value.items()}
        case list():
            return [_show(one) for one in value]
    return value


def _is_marked(key: object) -> bool:
    return isinstance(key, str) and key.startswith(_BINARY)
