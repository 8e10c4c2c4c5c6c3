"""How to connect, and how to stay connected: what a user gives to ``connect``."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from reliable_emit.errors import ConnectionRejected
from reliable_emit.policy import Backoff, backoff_seconds

_logger = logging.getLogger("reliable_emit")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ConnectOptions:
    """What ``AsyncClient.connect`` takes, and how to keep the connection."""

    url: str | Callable[[], Any]
    headers: Mapping[str, str] | Callable[[], Any] | None
    auth: Any
    transports: str | Sequence[str] | None
    namespaces: str | Sequence[str] | None
    socketio_path: str
    wait: bool
    wait_timeout: float
    retry: bool
    reconnect_backoff: Backoff
    reconnect_after_kick: bool
    final: Callable[[Any], bool] | None

    def pause(self, number: int, error: Exception) -> float:
        """Return how long to wait before the next attempt, in seconds, after that many in a row."""
        try:
            return backoff_seconds(self.reconnect_backoff, number, error)
        except Exception:
            _logger.exception("the backoff strategy failed; waiting 1 s instead")
            return 1.0

    def is_final(self, error: Exception) -> bool:
        """Whether the user's policy says that no attempt helps."""
        if not isinstance(error, ConnectionRejected) or self.final is None:
            return False
        try:
            return bool(self.final(error.said))
        except Exception:
            _logger.exception("the function given as final failed; trying again")
            return False
