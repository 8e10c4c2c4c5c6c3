"""What makes client offsets: the name of a message, the same on every attempt, so that a server can store it once."""

from __future__ import annotations

import itertools
import secrets
import string

_ALPHABET = string.ascii_letters + string.digits + "_-"
_STAND_IN_LENGTH = 20

# One counter for the process, not one for each ClientOffsets: closing a client and wrapping the same connection again
# would otherwise start a second count under the same socket id, and the server would swallow the new messages as
# repetitions of the old ones.
_counter = itertools.count()


class ClientOffsets:
    """Makes ``<socket id>-<counter>``, the offset of the Socket.IO tutorial.

    While there is no socket id the last one serves, and if there never was one, a random stand-in of 20 characters (as
    long as a socket id), so that two clients that start offline can never make the same offset. The counter never
    restarts in a process; numbers may be skipped.
    """

    def __init__(self) -> None:
        self._prefix = "".join(secrets.choice(_ALPHABET) for _ in range(_STAND_IN_LENGTH))

    def __call__(self, socket_id: str | None) -> str:
        """Return a new offset.

        Args:
            socket_id: The id of the socket now, ``None`` while there is none.
        """
        if socket_id is not None:
            self._prefix = socket_id
        return f"{self._prefix}-{next(_counter)}"


def random_offset(socket_id: str | None = None) -> str:
    """Return a random offset of 20 characters (120 bits), for servers that should learn nothing from it."""
    return secrets.token_urlsafe(15)
