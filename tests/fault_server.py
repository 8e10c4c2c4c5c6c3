"""A reference server in a process of its own, for tests that kill it or stop it; ends when its standard input does.

It disconnects whoever emits ``kick me``.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from typing import TYPE_CHECKING

from reliable_emit.server import ReferenceServer

if TYPE_CHECKING:
    from pathlib import Path

_STARTS = 30.0
"""Seconds that a new Python may take on a busy machine."""


class ServerProcess:
    """Such a process.

    Attributes:
        port: Where it listens; kept when it starts again.
    """

    def __init__(self, db: Path | str, ping: float) -> None:
        self._db = db
        self._ping = ping
        self._process: asyncio.subprocess.Process | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Start one; returns when it listens."""
        pipe = asyncio.subprocess.PIPE
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, __file__, str(self._db), str(self.port), str(self._ping), stdin=pipe, stdout=pipe
        )
        assert self._process.stdout is not None
        self.port = int(await asyncio.wait_for(self._process.stdout.readline(), _STARTS))

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    async def kill(self) -> int | None:
        """``kill -9``, and return the exit status; does nothing if there is none."""
        if self._process is None:
            return None
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.communicate()
        process, self._process = self._process, None
        return process.returncode


async def _serve(db: str, port: int, ping: float) -> None:
    async with ReferenceServer(db, port=port, ping_interval=ping, ping_timeout=ping, synchronous="normal") as server:
        server.sio.on("kick me", server.sio.disconnect)
        print(server.port, flush=True)
        await asyncio.to_thread(os.read, 0, 1)


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])))
