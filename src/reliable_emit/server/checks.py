"""What the server takes from strangers: every argument is looked at before anything is done with it."""

from __future__ import annotations

MAX_OFFSET = 256
"""The longest client offset, in characters."""

_MAX_ROW = 2**63 - 1  # SQLite's largest integer
_CHAT_ARGUMENTS = 2
# What the offset of a client becomes that puts its socket id in front without having one. Two users' first messages
# would get the same offset, and one of them would be taken for a repetition of the other.
_NO_SOCKET_ID = ("undefined-", "null-", "None-")


_JSON_NAMES: tuple[tuple[type | tuple[type, ...], str], ...] = (
    (type(None), "null"),
    (bool, "a boolean"),
    ((int, float), "a number"),
    (str, "a string"),
    ((bytes, bytearray), "binary"),
    ((list, tuple), "an array"),
)


def chat_problem(arguments: tuple[object, ...], max_text: int) -> str | None:
    """Return why the arguments of a chat message can never be accepted, ``None`` if they can.

    Counted first: with an argument missing, or one too many, each would be taken for its neighbour.
    """
    if len(arguments) != _CHAT_ARGUMENTS:
        return f"expected 2 arguments, the text and the client offset, got {len(arguments)}"
    text, offset = arguments
    return _text_problem(text, max_text) or offset_problem(offset)


def _text_problem(text: object, max_text: int) -> str | None:
    if not isinstance(text, str):
        return f"the text is not a string but {_json_name(text)}"
    if len(text) > max_text:
        return f"the text has {len(text)} characters, more than {max_text}"
    if not encodable(text):
        return "the text is not valid Unicode: it has half a surrogate pair"
    return None


def offset_problem(offset: object, max_offset: int = MAX_OFFSET) -> str | None:
    """Return why a message with this client offset can never be accepted, ``None`` if it can."""
    if not isinstance(offset, str):
        return f"the client offset is not a string but {_json_name(offset)}"
    if not offset:
        return "the client offset is empty"
    if len(offset) > max_offset:
        return f"the client offset has {len(offset)} characters, more than {max_offset}"
    if not encodable(offset) or "\0" in offset:  # PostgreSQL takes no NUL
        return "the client offset is not valid Unicode: it has half a surrogate pair, or a NUL"
    if offset.startswith(_NO_SOCKET_ID):
        return f"the client offset {offset!r} was made without a socket id, so that others make the same"
    return None


def server_offset(auth: object) -> int:
    """Return the last row that a connecting reader has, as its ``auth`` says; 0 if that says nothing about it.

    Raises:
        ValueError: It is no row number.
    """
    if auth is None:
        return 0
    if not isinstance(auth, dict):
        raise ValueError("auth must be an object, such as {serverOffset: 0}")  # noqa: TRY004 - what a stranger sent, not what a caller passed
    offset = auth.get("serverOffset")
    if offset is None:
        return 0
    if isinstance(offset, bool) or not isinstance(offset, int):
        raise ValueError(f"serverOffset must be a whole number, not {_json_name(offset)}")  # noqa: TRY004
    if not 0 <= offset <= _MAX_ROW:
        raise ValueError("serverOffset must be 0 or the id of a row")
    return offset


def encodable(text: str) -> bool:
    """Return whether it is valid Unicode: JSON can spell half a surrogate pair, and nothing can store that."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _json_name(value: object) -> str:
    # The kind alone: the value is the stranger's, and may be of any length.
    for kinds, name in _JSON_NAMES:
        if isinstance(value, kinds):
            return name
    return "an object"
