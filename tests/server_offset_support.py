"""What the tests of the way back share."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any

import socketio
import tenacity

from reliable_emit import ServerOffset
from server_support import store, until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from reliable_emit.server import ReferenceServer

SOON = tenacity.wait_fixed(0.001)


def new_client(**options: Any) -> socketio.AsyncClient:
    defaults = {"reconnection_delay": 0.01, "reconnection_delay_max": 0.02, "randomization_factor": 0}
    return socketio.AsyncClient(handle_sigint=False, **(defaults | options))


async def leave(sio: socketio.AsyncClient) -> None:
    """Disconnect one that python-socketio reconnects; in the middle of that, it could not be told."""
    await until(lambda: sio.connected)
    await sio.disconnect()


async def fill(server: ReferenceServer, rows: int) -> None:
    """Have the server store so many rows more, as fast as it can."""
    prefix = f"fill-{random.random()}"
    await asyncio.gather(*(store(server, "text", f"{prefix}-{row}") for row in range(rows)))


def tracked(seen: ServerOffset, handle: Callable[[int], Any]) -> Callable[[int], asyncio.Task[Any]]:
    """A way to have events come, one task each, as python-socketio does."""
    handler = seen.track(handle)
    return lambda number: asyncio.ensure_future(handler(number))


def kept(path: Path) -> int:
    """What a program that starts now would find in the file."""
    copy = path.with_name("copy.offset")
    copy.write_bytes(path.read_bytes())
    seen = ServerOffset(copy)
    seen.close()
    return seen.offset
