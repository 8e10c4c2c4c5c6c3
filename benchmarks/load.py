"""What the benchmarks of the server share: a program in Node that sends, and server processes. Needs ``make node``.

The senders are not in Python, so that it is not they who are measured.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import json
import os
import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

NODE = Path(__file__).parent.parent / "tests" / "node"
_runs = itertools.count()
_run = secrets.token_hex(4)


@dataclasses.dataclass(frozen=True)
class Load:
    """What became of some messages: seconds until all were acknowledged, and delivered, and that one took."""

    acknowledged: float
    delivered: float | None
    median: float


def new_run() -> str:
    """Return the beginning of offsets that nobody has used."""
    return f"{_run}-{next(_runs)}"


async def send(url: str, event: str, senders: int, messages: int, run: str, since: int = 0) -> Load:
    """Have so many senders send so many messages, each as fast as it is acknowledged."""
    arguments = [url, event, str(senders), str(messages), run, str(since)]
    program = await asyncio.create_subprocess_exec(
        "node", str(NODE / "load.mjs"), *arguments, stdout=asyncio.subprocess.PIPE
    )
    said, _ = await program.communicate()
    if program.returncode:
        sys.exit(f"the senders failed with status {program.returncode}; did you run: make node")
    return Load(**json.loads(said))


@contextlib.asynccontextmanager
async def serving(*command: str, env: dict[str, str] | None = None) -> AsyncIterator[str]:
    """Run a server that prints a line which ends in its URL, with some more in its environment."""
    program = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, env={**os.environ, **(env or {})}
    )
    assert program.stdout is not None
    try:
        while "http://" not in (line := (await program.stdout.readline()).decode()):
            if not line:
                sys.exit(f"{command[0]} has ended; did you run: make node")
        yield line.split()[-1]
    finally:
        with contextlib.suppress(ProcessLookupError):
            program.kill()
        await program.communicate()
