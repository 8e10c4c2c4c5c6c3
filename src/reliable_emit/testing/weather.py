"""What the proxy does to bytes, and what has become of them; one record a direction."""

from __future__ import annotations

import dataclasses
from typing import Literal, get_args

Direction = Literal["to_server", "to_client"]
"""Which way bytes go: from the client to the server, or back."""

Ending = Literal["fin", "rst", "blackhole"]
"""How a connection ends.

``fin``: both sides see the end of the stream, as when the other process has ended. ``rst``: both get
``ConnectionResetError``, as when the other machine has forgotten them. ``blackhole``: neither is told.
"""

Passing = Literal["nothing", "half", "all"]
"""How much of a frame, or of a byte, still passes before the cut there."""

DIRECTIONS: tuple[Direction, ...] = get_args(Direction)
ENDINGS: tuple[Ending, ...] = get_args(Ending)
PASSINGS: tuple[Passing, ...] = get_args(Passing)


@dataclasses.dataclass(slots=True)
class Traffic:
    """What has gone one way since the proxy started, over all connections.

    Attributes:
        bytes: How many bytes were passed on.
        frames: How many complete WebSocket frames were among them, those that control (ping, pong, close) too.
        swallowed: How many bytes were taken from the sender and thrown away.
        under_way: How many bytes were taken from the sender and wait in the proxy now.
    """

    bytes: int = 0
    frames: int = 0
    swallowed: int = 0
    under_way: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class CutPoint:
    """Where a connection is to be cut: at a byte or at a frame, counted from 1."""

    ending: Ending
    passing: Passing
    each: bool
    byte: int | None = None
    frame: int | None = None


@dataclasses.dataclass(slots=True)
class Weather:
    """The conditions in one direction; bytes of every connection see them.

    Attributes:
        latency: Seconds that a byte is under way.
        jitter: Seconds that are added at the most.
        bandwidth: Bytes a second of each connection, ``None`` for no limit.
        frozen: Whether nothing is read and nothing passed on.
        swallow_new: Whether connections made now swallow everything.
        cut_point: Where connections are cut.
    """

    latency: float = 0.0
    jitter: float = 0.0
    bandwidth: int | None = None
    frozen: bool = False
    swallow_new: bool = False
    cut_point: CutPoint | None = None

    def clear(self) -> None:
        """Go back to good weather."""
        for field in dataclasses.fields(self):
            setattr(self, field.name, field.default)
