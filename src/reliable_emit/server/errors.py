"""What can go wrong when the reference server starts."""

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
