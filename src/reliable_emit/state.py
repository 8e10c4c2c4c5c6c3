"""What a client is doing, for a person to read."""

from __future__ import annotations

import dataclasses
from typing import Literal

Phase = Literal["connected", "connecting", "disconnected", "gave_up", "closed"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ClientState:
    """What a client is doing at a moment. As a text it is a line such as ``connected as Xy12 for 3 s, 2 waiting``.

    Attributes:
        phase: ``connected``; ``connecting``, an attempt is being made or the next one waited for; ``disconnected``,
            and nobody here tries; ``gave_up``, because the server said something that the user calls final; ``closed``.
        pending: How many messages wait.
        seconds: For how long it has been connected, or has not.
        socket_id: The socket id while it is connected.
        attempt: The number of the last attempt to connect.
        next_in: Seconds to the next one.
        error: Why there is no connection, if that is known.
    """

    phase: Phase
    pending: int
    seconds: float = 0.0
    socket_id: str | None = None
    attempt: int = 0
    next_in: float | None = None
    error: str | None = None

    def __str__(self) -> str:
        match self.phase:
            case "connected":
                return f"connected as {self.socket_id} for {_span(self.seconds)}, {self.pending} waiting"
            case "connecting":
                words = "connecting"
                if self.attempt:
                    words += f", attempt {self.attempt}{'' if self.next_in is None else ' failed'}"
                if self.next_in is not None:
                    words += f", next in {self.next_in:.1f} s"
            case "disconnected":
                words = "not connected"
            case "gave_up":
                words = "gave up connecting"
            case "closed":
                return f"closed, {self.pending} remained"
        return f"{words}{f': {self.error}' if self.error else ''}; {self.pending} waiting"


def _span(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
