"""Where ``reliable-emit send`` connects to, and as whom."""

from __future__ import annotations

import dataclasses
import urllib.parse
from typing import Any, Literal

import yarl

from reliable_emit.cli.output import CommandError
from reliable_emit.policy import check_url

Transport = Literal["websocket", "polling", "auto"]


@dataclasses.dataclass(frozen=True, slots=True)
class Target:
    """Where to connect to, and as whom."""

    url: str
    namespace: str = "/"
    auth: dict[str, Any] | None = None
    path: str = "socket.io"
    transport: Transport = "websocket"

    @property
    def address(self) -> str:
        """Host and port, without the password that a URL may have in it."""
        parsed = urllib.parse.urlsplit(self.url)
        port = parsed.port or (443 if parsed.scheme in {"https", "wss"} else 80)
        return f"{parsed.hostname}:{port}"

    def check(self) -> None:
        """Look at the URL.

        Raises:
            CommandError: Nothing can be connected to by that URL.
        """
        try:
            check_url(self.url)
            yarl.URL(self.url)
            (urllib.parse.urlsplit(self.url).hostname or "").encode("idna")
        except ValueError as error:
            known = repr(self.url) in str(error)
            raise CommandError(str(error) if known else f"{self.url!r} cannot be connected to: {error}", 2) from None
        if (path := urllib.parse.urlsplit(self.url).path).strip("/"):
            # In JavaScript it would be the namespace, and python-socketio ignores it.
            raise CommandError(
                f"{self.url!r} has a path: use --namespace {path} if that is the namespace, and --path if the server "
                f"has Socket.IO somewhere else",
                2,
            )
