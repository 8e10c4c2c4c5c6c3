"""What a message is, as a hash: how a repetition is told from another message with its offset.

How large a message is, is up to a stranger, and the event loop waits for its hash: so it is `json` that goes through
it. What `json` does not know is hashed behind it, in the order in which it comes, and stands in the text as a mark that
nobody can guess, and that is no JSON in the end. Only what `json` refuses altogether is gone through by hand, and not
without end.
"""

from __future__ import annotations

import hashlib
import json
import secrets

_SIZE = 16  # bytes
_BY_HAND = 50_000  # values at the most; a few hundredths of a second

# Nobody knows it, so no string of a stranger is taken for it. It is in no hash: those are the same in every process.
_MARK = secrets.token_hex(16)
_QUOTED, _PLAIN = f'"{_MARK}"', "?"


class Incomparable(Exception):
    """Nobody could tell a repetition of this message from another message; says why."""


def fingerprint(place: tuple[str, ...], arguments: tuple[object, ...]) -> bytes:
    """Return a hash of the event and its arguments, the same in every process, for whatever Socket.IO can carry.

    Lists and tuples are the same, as they are on the wire, and so are dicts in another order.

    Raises:
        Incomparable: There is something in it that is equal to nothing but itself, or it is nested too deep.
    """
    digest = hashlib.blake2b(digest_size=_SIZE)
    others: list[bytes] = []

    def hide(value: object) -> str:
        others.append(_other(value))
        return _MARK

    encoder = json.JSONEncoder(sort_keys=True, check_circular=False, separators=(",", ":"), default=hide)
    try:
        text = encoder.encode((place, arguments))
    except (TypeError, ValueError, RecursionError):  # keys of other kinds, a number that is too long, or too deep
        digest.update(b"by hand")
        _by_hand(digest, [place, arguments])
        return digest.digest()
    digest.update(text.replace(_QUOTED, _PLAIN).encode() if others else text.encode())
    for other in others:
        digest.update(b"\n%d:" % len(other))
        digest.update(other)
    return digest.digest()


def _by_hand(digest: hashlib.blake2b, whole: object) -> None:
    # Not recursive: it may be deep.
    left: list[object] = [whole]
    seen = 0
    while left:
        value = left.pop()
        seen += 1
        if isinstance(value, dict):
            seen += len(value)
            _enough(seen)
            digest.update(b"{%d:" % len(value))
            for key, item in sorted(((_scalar(key), item) for key, item in value.items()), key=_first, reverse=True):
                left += (item, _Encoded(key))
        elif isinstance(value, list | tuple):
            _enough(seen + len(value))
            digest.update(b"[%d:" % len(value))
            left += reversed(value)
        else:
            _enough(seen)
            encoded = value if isinstance(value, _Encoded) else _scalar(value)
            digest.update(b"%d:" % len(encoded))
            digest.update(encoded)


def _enough(seen: int) -> None:
    if seen > _BY_HAND:
        raise Incomparable("the data is nested too deep, or has too many keys that are no strings, to be compared")


class _Encoded(bytes):
    """A key, encoded already."""


def _first(pair: tuple[bytes, object]) -> bytes:
    return pair[0]


def _scalar(value: object) -> bytes:
    # The first letter keeps 1, "1", b"1" and true apart.
    match value:
        case None:
            return b"n"
        case int():
            return b"t%d" % value if isinstance(value, bool) else f"i{value:x}".encode()
        case float():
            return b"d" + value.hex().encode()
        case str():
            return b"s" + value.encode(errors="surrogatepass")
        case tuple():  # a key
            return b"(" + b"".join(b"%d:%b" % (len(one), one) for one in map(_scalar, value))
    return _other(value)


def _other(value: object) -> bytes:
    if isinstance(value, bytes | bytearray | memoryview):
        return b"b" + bytes(value)
    kind = type(value)
    if kind.__repr__ is object.__repr__ or isinstance(value, set | frozenset):  # an address, or any order
        raise Incomparable(f"the data has a {kind.__name__} in it, which cannot be compared")
    return f"?{kind.__qualname__} {value!r}".encode(errors="surrogatepass")
