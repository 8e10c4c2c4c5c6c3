"""The examples, run as their users run them, on a network that cuts their connections."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import signal
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from reliable_emit.server import Faults, ReferenceServer
from server_support import PATIENCE, plain

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from reliable_emit.server import StoredMessage

EXAMPLES = Path(__file__).parent.parent / "examples"
ENOUGH = 30
"""Messages after which an example is ended."""


class Program:
    """An example at work."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def end(self, number: int) -> str:
        """Send it a signal, and return what it has printed; it has two seconds."""
        started = time.monotonic()
        self.process.send_signal(number)
        async with asyncio.timeout(PATIENCE):
            printed, problems = await self.process.communicate()
        assert time.monotonic() - started < 2
        assert b"Traceback" not in problems, problems.decode()
        assert b"never" not in problems, problems.decode()
        return printed.decode()


@contextlib.asynccontextmanager
async def running(name: str, url: str) -> AsyncIterator[Program]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-W",
        "error",
        EXAMPLES / name,
        url,
        "0.02",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield Program(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def on_a_bad_network(name: str, number: int) -> tuple[str, int | None, list[StoredMessage]]:
    """Run an example while its connection is cut twice; return what it printed, its exit status, and what arrived."""
    faults = Faults()
    faults.script(None, None, "drop_before_commit", None, None, "drop_after_commit")
    async with (
        ReferenceServer(faults=faults) as server,
        plain(server.url) as reader,
        running(name, server.url) as program,
    ):
        await reader.has(ENOUGH)
        printed = await program.end(number)
        assert faults.counts["drop_before_commit"] == faults.counts["drop_after_commit"] == 1
        rows = await server.messages()
        assert len({row.client_offset for row in rows}) == len(rows) >= ENOUGH
        return printed, program.process.returncode, rows


async def test_the_sensor_on_a_bad_network() -> None:
    printed, status, rows = await on_a_bad_network("sensor.py", signal.SIGINT)
    assert [json.loads(row.text)["number"] for row in rows] == list(range(len(rows)))
    found = re.match(r"(\d+) readings taken, (\d+) delivered, 0 given up, (\d+) remained\n", printed)
    assert found is not None, printed
    taken, delivered, remained = map(int, found.groups())
    assert taken == delivered + remained
    assert len(rows) - delivered in {0, 1 if remained else 0}  # the acknowledgement of one may have come too late
    assert status == (1 if remained else 0)


async def test_the_sensor_without_a_server() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # and does not listen
        async with running("sensor.py", f"http://127.0.0.1:{unused.getsockname()[1]}") as program:
            assert program.process.stderr is not None
            async with asyncio.timeout(PATIENCE):
                assert b"not connected" in await program.process.stderr.readline()
            printed = await program.end(signal.SIGTERM)
    summary, *remained = printed.splitlines()
    found = re.fullmatch(r"(\d+) readings taken, 0 delivered, 0 given up, (\d+) remained", summary)
    assert found is not None, printed
    assert found[1] == found[2] != "0"
    first = max(0, int(found[1]) - 3)
    assert [line.partition(",")[0] for line in remained] == [
        f'not delivered (dropped): {{"number": {reading}' for reading in range(first, int(found[1]))
    ]
    assert program.process.returncode == 1


async def test_the_sensor_with_a_wrong_address() -> None:
    async with running("sensor.py", "localhost:3000") as program:
        async with asyncio.timeout(PATIENCE):
            printed, _ = await program.process.communicate()
    assert printed.startswith(b"cannot connect: 'localhost:3000' is not the URL")
    assert program.process.returncode == 1


async def test_the_wrapped_program_on_a_bad_network() -> None:
    printed, status, rows = await on_a_bad_network("wrapped_program.py", signal.SIGINT)
    assert [row.text for row in rows] == [f"job {number} is done" for number in range(len(rows))]
    # Its own handlers went on as before: three connections, two of them lost, and the rows as broadcast.
    assert len(re.findall("^connected as ", printed, re.MULTILINE)) == 3
    assert len(re.findall("^disconnected: ", printed, re.MULTILINE)) >= 2
    assert "chat message: job 0 is done 1\n" in printed
    found = re.search(r"^interrupted; (\d+) jobs reported, (\d+) not\n\Z", printed, re.MULTILINE)
    assert found is not None, printed
    assert len(rows) - int(found[1]) in {0, 1 if int(found[2]) else 0}
    assert status == 0


@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLES.glob("*.py")))
async def test_an_example_is_short(name: str) -> None:
    assert len((EXAMPLES / name).read_text().splitlines()) < 80
