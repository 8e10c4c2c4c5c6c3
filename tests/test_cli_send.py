"""`reliable-emit send` at work: with servers that die, freeze and keep silent, and interrupted in every state."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from cli_support import PATIENCE, Result, at_a_terminal, child, fast_dir, how_many, program, serving, stored
from reliable_emit.server import Faults, ReferenceServer

__all__ = ["fast_dir"]


@contextlib.asynccontextmanager
async def chat(**odds: float) -> AsyncIterator[ReferenceServer]:
    faults = Faults(seed=1, **odds)
    async with ReferenceServer(":memory:", faults=faults) as server:
        yield server


async def texts(server: ReferenceServer) -> list[str]:
    return [message.text for message in await server.messages()]


async def arrived(server: ReferenceServer, count: int) -> None:
    async with asyncio.timeout(PATIENCE):
        while len(await server.messages()) < count:  # noqa: ASYNC110 - a database has no event
            await asyncio.sleep(0.01)


async def until(true: Callable[[], object], interval: float = 0.01) -> None:
    async with asyncio.timeout(PATIENCE):
        while not true():  # noqa: ASYNC110 - a database has no event
            await asyncio.sleep(interval)


async def test_5000_lines_while_the_server_is_killed_three_times(fast_dir: Path) -> None:
    db = fast_dir / "chat.db"
    lines = [str(number) for number in range(1, 5001)]
    async with contextlib.AsyncExitStack() as stack:
        server, url = await stack.enter_async_context(serving(db))
        port = int(url.rpartition(":")[2])
        sender = await stack.enter_async_context(child("send", url, "--summary", "json"))
        assert sender.process.stdin is not None
        sender.process.stdin.write("".join(f"{line}\n" for line in lines).encode())
        sender.process.stdin.close()
        for kill_at in (700, 2200, 3700):
            await until(lambda kill_at=kill_at: how_many(db) >= kill_at)  # type: ignore[misc]
            server.process.kill()
            await server.ended()
            assert len(stored(db)) < len(lines)
            server, _ = await stack.enter_async_context(serving(db, port))
        result = await sender.ended()
    assert stored(db) == lines
    assert result.status == 0
    assert result.clean
    assert result.summary["acknowledged"] == result.summary["accepted"] == len(lines)
    assert result.summary["acknowledged_to_line"] == len(lines)
    assert result.summary["connected"] == 4
    assert result.summary["pending"] == result.summary["dead_lettered"] == 0
    assert result.err.count("connected again") == result.err.count("disconnected: ") == 3


async def test_lines_are_sent_exactly_as_they_are(tmp_path: Path) -> None:
    given = ["", "plain", " spaces ", "tab\t", "cr\rin the middle", "é 美 🐧", "\ufeffbom", "\0", '"quoted"', "[1, 2]"]
    file = tmp_path / "lines.txt"
    file.write_bytes("\n".join([*given, "windows\r\n\nlast"]).encode())
    async with chat() as server:
        result = await program("send", server.url, "--file", str(file), "--transport", "auto")
        assert (result.status, result.clean) == (0, True)
        assert await texts(server) == [*given, "windows", "", "last"]
    assert re.fullmatch(
        r"13 accepted, 13 sent, 0 retried, 13 acknowledged, 0 dead-lettered, 0 pending in \d+\.\d s \(\d+/s\)\n",
        result.out,
    )
    assert re.fullmatch(r"connected to 127\.0\.0\.1:\d+\n", result.err)


async def test_json_lines_are_one_argument_each() -> None:
    got: list[Any] = []
    async with chat() as server:
        server.sio.on("reading", lambda _, *arguments: got.append(arguments))
        lines = b'{"t": 21.5}\n[1, [2]]\nnull\n"caf\xc3\xa9"\n 7 \r\n'
        result = await program("send", server.url, "reading", "--json", "--no-client-offset", stdin=lines)
    assert (result.status, result.clean) == (0, True)
    assert got == [({"t": 21.5},), ([1, [2]],), (None,), ("café",), (7,)]


async def test_faults_are_survived_and_told() -> None:
    lines = [f"line {number}" for number in range(1, 11)]
    async with chat() as server:
        assert server.faults is not None
        server.faults.script(None, "swallow_ack", None, "drop_before_commit", None, "drop_after_commit")
        result = await program(
            "send", server.url, "--ack-timeout", "0.2", "--summary", "json", stdin="\n".join(lines).encode()
        )
        assert await texts(server) == lines
    assert (result.status, result.clean) == (0, True)
    assert result.summary["sent"] == 13
    assert result.summary["retried"] == 3
    assert (result.summary["timed_out"], result.summary["lost"]) == (1, 2)
    assert "line 2 is sent again, attempt 2\n" in result.err
    assert len(re.findall(r"disconnected: .*; \d+ waiting\nconnected again\n", result.err)) == 2


async def test_a_refused_line_does_not_make_those_behind_it_come_again() -> None:
    """Sent again, they would have other offsets and be stored twice."""
    async with chat() as server:
        result = await program("send", server.url, "--json", "--summary", "json", stdin=b'"a"\n[1]\n"b"\n"c"\n')
        assert await texts(server) == ["a", "b", "c"]
    assert result.status == 1
    assert result.err.endswith("the other lines were acknowledged\n")
    assert "tail" not in result.err
    assert (result.summary["acknowledged_to_line"], result.summary["settled_to_line"]) == (1, 4)


async def test_lines_that_are_not_acknowledged_are_given_up() -> None:
    async with chat(swallow_ack=1.0) as server:
        result = await program("send", server.url, "--ack-timeout", "0.05", "--retries", "0", stdin=b"one\ntwo\n")
    assert result.status == 1
    assert "2 dead-lettered, 0 pending" in result.out
    assert re.search(r"  line 2 \(offset \S+\): exhausted after 1 attempt: .*; it may have arrived\n", result.err)
    assert result.err.endswith("no line was acknowledged\n")
    assert "tail" not in result.err
    assert result.clean


async def test_a_server_that_ends_the_connection_is_connected_again() -> None:
    async with chat() as server, child("send", server.url, "--summary", "json") as sender:
        await sender.write(b"one\n")
        await until(lambda: server.sio.eio.sockets)
        await sender.said("connected to")
        [(sid, _)] = server.sio.manager.get_participants("/", None)
        await server.sio.disconnect(sid)
        await sender.said("connected again")
        await sender.write(b"two\n")
        assert sender.process.stdin is not None
        sender.process.stdin.close()
        result = await sender.ended()
        assert await texts(server) == ["one", "two"]
    assert (result.status, result.clean) == (0, True)


async def test_one_that_is_not_let_in_again_gives_up() -> None:
    allowed = ["ada"]
    server = ReferenceServer(":memory:", authenticate=lambda *_: allowed[0] if allowed else None)
    async with server, child("send", server.url, "--connect-timeout", "0.6", "--summary", "json") as sender:
        await sender.said("connected to")
        allowed.clear()
        [(sid, _)] = server.sio.manager.get_participants("/", None)
        await server.sio.disconnect(sid)
        result = await sender.ended()
    assert result.status == result.summary["status"] == 1
    assert "does not let us in again: the server refuses the connection: authentication failed" in result.err
    assert result.clean


async def test_a_named_pipe_is_read() -> None:
    # /dev/fd is what a shell's <(…) gives.
    reading, writing = os.pipe()
    os.write(writing, b"through a pipe\n")
    os.close(writing)
    async with chat() as server:
        async with child("send", server.url, "--file", "/dev/stdin", stdin=reading) as sender:
            os.close(reading)
            result = await sender.ended()
        assert result.status == 0
        assert await texts(server) == ["through a pipe"]


# On a terminal.


async def test_a_terminal_gets_a_progress_bar(tmp_path: Path) -> None:
    file = tmp_path / "lines.txt"
    file.write_text("line\n" * 300)
    async with chat(drop_after_commit=0.01) as server:
        status, shown = await at_a_terminal("send", server.url, "--file", str(file))
    assert status == 0
    assert "\x1b[" in shown
    assert re.search(r"sent \d+ {2}acknowledged 300 {2}retried [1-9]\d* {2}\d+/s {2}waiting 0", shown)
    assert "━━━━" in shown
    assert "connected to" in shown
    assert "disconnected: " in shown
    assert "Traceback" not in shown


async def test_somebody_types() -> None:
    async with chat() as server:
        status, shown = await at_a_terminal("send", server.url, typed=b"typed\n\x04", stdin_too=True)
        assert await texts(server) == ["typed"]
    assert status == 0
    assert "reading from the terminal, a message a line; Ctrl-D at the start of a line ends" in shown


# Interrupted.


async def interrupt_connecting() -> Result:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        async with child("send", f"http://127.0.0.1:{silent.getsockname()[1]}") as sender:
            silent.settimeout(PATIENCE)
            connection, _ = await asyncio.to_thread(silent.accept)
            with connection:
                return await sender.interrupted()


async def interrupt_looking_up() -> Result:
    script = (
        "import socket, sys, time\n"
        "def hang(*arguments, **options): print('looking up', file=sys.stderr, flush=True); time.sleep(60)\n"
        "socket.getaddrinfo = hang\n"
        "from reliable_emit.__main__ import main\n"
        "sys.exit(main())\n"
    )
    async with child("send", "http://example.org", program=[sys.executable, "-c", script]) as sender:
        await sender.said("looking up")
        return await sender.interrupted()


async def interrupt_silent_pipe(number: int = signal.SIGINT) -> Result:
    async with chat() as server, child("send", server.url) as sender:
        await sender.write(b"one\ntwo\n")
        await arrived(server, 2)
        return await sender.interrupted(number)


async def interrupt_offline() -> Result:
    async with serving(":memory:") as (server, url), child("send", url, "--summary", "json") as sender:
        await sender.said("connected to")
        server.process.kill()
        await sender.said("not connected: connection refused")
        await sender.write(b"one\ntwo\n")
        return await sender.interrupted()


async def interrupt_frozen() -> Result:
    endless = ("--ack-timeout", "0.1", "--retries", "forever")
    async with serving(":memory:") as (server, url), child("send", url, *endless) as sender:
        await sender.said("connected to")
        server.send_signal(signal.SIGSTOP)
        try:
            await sender.write(b"one\ntwo\nthree\n")
            await sender.said("line 1 is sent again")
            return await sender.interrupted()
        finally:
            server.send_signal(signal.SIGCONT)


async def interrupt_full_backlog() -> tuple[Result, int, int]:
    """Nothing is acknowledged, and 30 MB are to be sent: how much of them is read, how large does it become?"""
    async with chat(swallow_ack=1.0) as server, child("send", server.url, "--summary", "json") as sender:
        await sender.said("connected to")
        sending = asyncio.create_task(sender.write(b"x" * 99 + b"\n" + (b"y" * 99 + b"\n") * 300_000))
        transport: Any = sender.process.stdin
        left: list[int] = []
        # Full when nothing has been taken off the pipe for a while, and the first thousand lines have been.
        async with asyncio.timeout(PATIENCE):
            while len(left) < 10 or left[-10] != left[-1] or left[-1] > 30_000_100 - 100_000:
                left.append(transport.transport.get_write_buffer_size())
                await asyncio.sleep(0.05)
        status = Path(f"/proc/{sender.process.pid}/status").read_text()  # noqa: ASYNC240
        peak = int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0])
        result = await sender.interrupted()
        sending.cancel()
        await asyncio.wait([sending])
        return result, 30_000_100 - left[-1], peak


INTERRUPTED: dict[str, Callable[[], Awaitable[Any]]] = {
    "connecting": interrupt_connecting,
    "looking up": interrupt_looking_up,
    "silent pipe": interrupt_silent_pipe,
    "SIGTERM": lambda: interrupt_silent_pipe(signal.SIGTERM),
    "offline": interrupt_offline,
    "frozen": interrupt_frozen,
    "full": interrupt_full_backlog,
}


@pytest.fixture(scope="module")
def interrupted() -> dict[str, Any]:
    async def collect() -> dict[str, Any]:
        slots = asyncio.Semaphore(2)

        async def one(case: Callable[[], Awaitable[Any]]) -> Any:
            async with slots:
                return await case()

        return dict(zip(INTERRUPTED, await asyncio.gather(*map(one, INTERRUPTED.values())), strict=True))

    return asyncio.run(collect())


@pytest.mark.parametrize(
    ("state", "status", "expected"),
    [
        ("connecting", 130, "interrupted before there was a connection; nothing was read, nothing was sent\n"),
        ("looking up", 130, "interrupted before there was a connection"),
        (
            "silent pipe",
            130,
            "the input was not read to its end\nlines 1 to 2 were acknowledged\nfor the rest: tail -n +3\n",
        ),
        ("SIGTERM", 143, "the input was not read to its end"),
        ("offline", 130, "\ninterrupted\n"),
        ("frozen", 130, "3 lines still pending, and lost with this process"),
        ("full", 130, "1000 lines still pending, and lost with this process, which had them in memory\n"),
    ],
)
def test_an_interrupt_ends_it_within_two_seconds_and_says_what_remains(
    interrupted: dict[str, Any], state: str, status: int, expected: str
) -> None:
    found = interrupted[state]
    result: Result = found[0] if isinstance(found, tuple) else found
    assert expected in result.err
    assert result.status == status
    assert result.seconds < 2.0
    assert result.clean


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_reader_stops_reading_when_nothing_goes_out(interrupted: dict[str, Any]) -> None:
    result, taken, kilobytes = interrupted["full"]
    assert result.summary["accepted"] == result.summary["pending"] == 1000
    assert taken < 500_000
    assert kilobytes < 150_000
