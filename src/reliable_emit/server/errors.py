"""What can go wrong on the server, and what a handler raises to refuse a message."""

from __future__ import annotations

from reliable_emit.errors import ReliableEmitError


class StoreError(ReliableEmitError):
    """The server's database cannot be opened, or is no database of this server.

    Attributes:
        path: The database, as it was given.
        detail: What is wrong with it, in words.
    """

    def __init__(self, path: str, detail: str) -> None:
        super().__init__(f"the database {path} cannot be opened: {detail}")
        self.path = path
        self.detail = detail


class AddressError(ReliableEmitError):
    """The server cannot listen where it was told to.

    Attributes:
        host: The host it was given.
        port: The port it was given.
        detail: The operating system's own words.
    """

    def __init__(self, host: str, port: int, detail: str) -> None:
        super().__init__(
            f"cannot listen on {host} port {port}: {detail}. Stop what listens there, or choose another port (0: any)"
        )
        self.host = host
        self.port = port
        self.detail = detail


class Reject(ReliableEmitError):
    """Raised by a handler under :meth:`Inbox.receive`: this message will never be accepted.

    What the handler did in its transaction is undone. The rejection is recorded as the reply, so that a repetition is
    refused too, whatever has changed meanwhile. Our client then settles the message as ``rejected``; any other sees a
    plain acknowledgement, ``{"reliable-emit:rejected": reason}``.

    Attributes:
        reason: Why, in words for whoever sent it.

    Raises:
        ValueError: The reason is no text, or empty.
    """

    def __init__(self, reason: str) -> None:
        if not isinstance(reason, str) or not reason:
            raise ValueError(f"reason is {reason!r}; say in words why the message is refused")
        super().__init__(f"the message is refused: {reason}")
        self.reason = reason


class ScriptError(ReliableEmitError):
    """The client script for the chat page cannot be read.

    Attributes:
        path: The file, as it was given.
        detail: The operating system's own words.
    """

    def __init__(self, path: str, detail: str) -> None:
        super().__init__(
            f"the client script {path} cannot be read: {detail}. Give the file dist/socket.io.min.js of the npm "
            "package socket.io-client"
        )
        self.path = path
        self.detail = detail
