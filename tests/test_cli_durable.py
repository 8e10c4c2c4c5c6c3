"""`reliable-emit send --outbox`: what was accepted is delivered, once, whatever becomes of the sender."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from cli_support import (
    PATIENCE,
    PROGRAM,
    Stored,
    at_a_terminal,
    child,
    fast_dir,
    fill,
    how_many,
    program,
    serving,
    stored,
)
from reliable_emit.cli import run
from reliable_emit.cli.ledger import NumberedOffsets
from reliable_emit.cli.source import Line, LineError, Source
from reliable_emit.server import Faults, ReferenceServer

__all__ = ["fast_dir"]

NOWHERE = "http://127.0.0.1:1"
Output = pytest.CaptureFixture[str]


@contextlib.asynccontextmanager
async def chat(*script: Any) -> AsyncIterator[ReferenceServer]:
    faults = Faults(seed=1)
    faults.script(*script)
    async with ReferenceServer(":memory:", faults=faults) as server:
        yield server


async def texts(server: ReferenceServer) -> list[str]:
    return [message.text for message in await server.messages()]


def pending(path: Path) -> int:
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        return int(db.execute("SELECT count(*) FROM message").fetchone()[0])


def lines(first: int, last: int) -> bytes:
    return "".join(f"{number}\n" for number in range(first, last + 1)).encode()


# The sensor's offline hour.


async def test_lines_are_accepted_offline_and_sent_first_by_the_next_run(fast_dir: Path) -> None:
    outbox = fast_dir / "o.db"
    offline = await program("send", NOWHERE, "--outbox", str(outbox), "--connect-timeout", "0.1", stdin=lines(1, 300))
    assert offline.status == 1
    assert offline.clean
    assert "300 accepted, 0 sent, 0 retried, 0 acknowledged, 0 dead-lettered, 300 pending in " in offline.out
    assert offline.err == (
        "not connected: connection refused, nobody listens there; trying again\n"
        "error: cannot connect to 127.0.0.1:1: connection refused, nobody listens there (gave up after 0.1 s)\n"
        f"300 messages wait in {outbox}; to go on: reliable-emit send {NOWHERE} --outbox {outbox} </dev/null\n"
    )
    async with chat() as server:
        url = server.url
        resumed = await program("send", url, "--outbox", str(outbox), stdin=lines(301, 310))
        assert await texts(server) == [str(number) for number in range(1, 311)]
    assert (resumed.status, resumed.clean) == (0, True)
    assert re.match(
        r"300 left by an earlier run, 10 accepted, 310 sent, 0 retried, 310 acknowledged, 0 dead-lettered, 0 ",
        resumed.out,
    )
    assert resumed.err == (
        f"300 messages left by an earlier run in {outbox}, to be sent first\nconnected to {url.removeprefix('http://')}\n"
    )
    assert pending(outbox) == 0


async def test_a_killed_sender_loses_nothing_that_it_accepted(fast_dir: Path) -> None:
    outbox, db = fast_dir / "o.db", fast_dir / "chat.db"
    async with serving(db) as (_, url):
        async with child("send", url, "--outbox", str(outbox)) as sender:
            await sender.write(lines(1, 1200))
            async with asyncio.timeout(PATIENCE):
                while how_many(db) < 200:  # noqa: ASYNC110 - a database has no event
                    await asyncio.sleep(0.01)
            sender.process.kill()
            await sender.ended()
        left = pending(outbox)
        assert left
        drained = await program("send", url, "--outbox", str(outbox), "--summary", "json")
    assert (drained.status, drained.clean) == (0, True)
    assert drained.summary["resumed"] == drained.summary["acknowledged"] == left
    assert (drained.summary["accepted"], drained.summary["pending"], pending(outbox)) == (0, 0, 0)
    found = stored(db)
    assert found == [str(number) for number in range(1, len(found) + 1)]
    assert len(found) >= left


async def test_a_sender_that_is_interrupted_says_which_line_was_not_accepted(fast_dir: Path) -> None:
    outbox, file = fast_dir / "o.db", fast_dir / "in"
    os.mkfifo(file)
    async with child("send", NOWHERE, "--outbox", str(outbox), "--file", str(file), "--summary", "json") as sender:
        writing = await asyncio.to_thread(os.open, file, os.O_WRONLY)
        os.write(writing, lines(1, 100) + b"half a line")
        async with asyncio.timeout(PATIENCE):
            while not outbox.exists() or _pending_so_far(outbox) < 100:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        result = await sender.interrupted()
        os.close(writing)
    assert result.status == 130
    assert result.seconds < 2
    assert result.clean
    assert result.err.endswith(
        "\ninterrupted\n"
        f"100 messages wait in {outbox}; to go on: reliable-emit send {NOWHERE} --outbox {outbox} </dev/null\n"
        f"the input was not read to its end; lines 1 to 100 were accepted\nfor the rest: tail -n +101 {file}\n"
    )
    summary = result.summary
    assert (summary["accepted"], summary["accepted_to_line"], summary["pending"]) == (100, 100, 100)
    assert (summary["resumed"], summary["outbox"], summary["status"]) == (0, str(outbox), 130)
    assert pending(outbox) == 100


async def test_an_interrupt_ends_it_while_it_accepts_and_the_server_is_frozen(
    fast_dir: Path,
) -> None:
    outbox = fast_dir / "o.db"
    async with (
        serving(":memory:") as (server, url),
        child("send", url, "--outbox", str(outbox), "--summary", "json") as sender,
    ):
        await sender.said("connected to")
        server.send_signal(signal.SIGSTOP)
        try:
            writing = asyncio.create_task(sender.write(lines(1, 500_000)))
            async with asyncio.timeout(PATIENCE):
                while _pending_so_far(outbox) < 1000:  # noqa: ASYNC110 - a database has no event
                    await asyncio.sleep(0.01)
            result = await sender.interrupted()
            writing.cancel()
            await asyncio.wait([writing])
        finally:
            server.send_signal(signal.SIGCONT)
    assert (result.status, result.clean) == (130, True)
    # A second of it for a server that does not answer; the rest is work, for which a busy machine takes its time.
    assert result.seconds < PATIENCE / 5
    summary = result.summary
    assert summary["accepted"] == summary["accepted_to_line"] == summary["pending"] == pending(outbox) >= 1000
    assert result.err.endswith(f"\nfor the rest: tail -n +{summary['accepted'] + 1}\n")


def _pending_so_far(outbox: Path) -> int:
    try:
        return pending(outbox)
    except sqlite3.Error:  # not made to its end
        return 0


# No input.


def test_nothing_to_do_needs_no_server(fast_dir: Path, capsys: Output) -> None:
    outbox = str(fast_dir / "o.db")
    assert run(["send", NOWHERE, "--outbox", outbox, "--file", os.devnull, "--summary", "json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["accepted"], summary["resumed"], summary["pending"]) == (0, 0, 0)


async def test_standard_input_that_is_closed_only_drains(fast_dir: Path) -> None:
    outbox = fast_dir / "o.db"
    await fill(outbox, Stored("a-1", data=("left",)))
    async with chat() as server:
        arguments = ("send", server.url, "--outbox", str(outbox))
        result = await program('exec "$@" <&-', "sh", *PROGRAM, *arguments, program=["sh", "-c"])
        assert await texts(server) == ["left"]
    assert (result.status, result.clean) == (0, True)
    assert result.out.startswith("1 left by an earlier run, 0 accepted, 1 sent")


async def test_a_terminal_is_read_only_when_asked_for(fast_dir: Path) -> None:
    outbox = fast_dir / "o.db"
    await fill(outbox, Stored("a-1", data=("left",)))
    async with chat() as server:
        arguments = ("send", server.url, "--outbox", str(outbox))
        status, shown = await at_a_terminal(*arguments, stdin_too=True)
        assert await texts(server) == ["left"]
        assert status == 0
        assert "sending only what is there; --file - reads lines from the terminal" in shown
        status, shown = await at_a_terminal(*arguments, "--file", "-", typed=b"typed\n\x04", stdin_too=True)
        assert await texts(server) == ["left", "typed"]
    assert status == 0
    assert "reading from the terminal, a message a line; Ctrl-D at the start of a line ends" in shown


async def test_a_terminal_gets_a_progress_bar(fast_dir: Path) -> None:
    await fill(fast_dir / "o.db", *(Stored(f"a-{n}") for n in range(50)))
    async with chat() as server:
        status, shown = await at_a_terminal("send", server.url, "--outbox", str(fast_dir / "o.db"))
    assert status == 0
    assert re.search(r"sent 50 {2}acknowledged 50 {2}retried 0 {2}\d+/s {2}waiting 0", shown)
    assert "━━━━" in shown


# What goes wrong.


async def test_dead_letters_stay_in_the_file_and_are_retried(fast_dir: Path) -> None:
    outbox = fast_dir / "o.db"
    arguments = ("--outbox", str(outbox), "--summary", "json")
    look = f"reliable-emit outbox list {outbox} --dead\n"
    async with chat() as server:
        refused = await program("send", server.url, "--json", *arguments, stdin=b'"a"\n[1]\n"b"\n')
        assert (refused.status, refused.summary["dead_lettered"], refused.summary["pending"]) == (1, 1, 0)
        assert refused.summary["settled_to_line"] == 3
        assert f"1 message given up, now dead letters in {outbox}:\n  line 2 (offset " in refused.err
        assert refused.err.endswith(f"to look at them: {look}")

        later = await program("send", server.url, *arguments, stdin=b"c\n")
        assert (later.status, later.summary["dead_lettered"], later.summary["earlier_dead_letters"]) == (0, 0, 1)
        assert later.err.endswith(f"1 dead letter of earlier runs in {outbox}: {look}")

        assert (await program("outbox", "retry", str(outbox), "--all")).status == 0
        again = await program("send", server.url, *arguments)
        assert (again.status, again.summary["resumed"], again.summary["dead_lettered"]) == (1, 1, 1)
        assert re.search(r"\n  a message of an earlier run \(offset \S+\): rejected after 2 attempts: ", again.err)
        assert await texts(server) == ["a", "b", "c"]


async def test_the_lines_keep_their_numbers_over_a_lost_connection(fast_dir: Path) -> None:
    outbox = fast_dir / "o.db"
    await fill(outbox, Stored("a-1", data=("left",), ack_timeout=0.2))
    async with chat("swallow_ack", None, "drop_after_commit") as server:
        arguments = ("--json", "--outbox", str(outbox), "--ack-timeout", "0.2", "--summary", "json")
        async with child("send", server.url, *arguments) as sender:
            await sender.write(b'"one"\n"two"\n"three"\n')
            await sender.said("connected again")
            await sender.write(b'[4]\n"five"\n')
            assert sender.process.stdin is not None
            sender.process.stdin.close()
            result = await sender.ended()
        assert await texts(server) == ["left", "one", "two", "three", "five"]
    assert (result.status, result.clean) == (1, True)
    assert "a message of an earlier run is sent again, attempt 2\n" in result.err
    assert "\n  line 4 (offset " in result.err
    summary = result.summary
    assert (summary["acknowledged_to_line"], summary["settled_to_line"], summary["accepted_to_line"]) == (3, 5, 5)


async def test_a_bad_line_ends_it_and_those_before_are_delivered(fast_dir: Path) -> None:
    async with chat() as server:
        arguments = ("--json", "--outbox", str(fast_dir / "o.db"))
        result = await program("send", server.url, *arguments, stdin=b'"a"\n"b"\n{\n"d"\n')
        assert await texts(server) == ["a", "b"]
    assert (result.status, result.clean) == (2, True)
    assert "error: line 3: it is not JSON: " in result.err
    assert result.err.endswith(
        "the input was not read to its end; lines 1 to 2 were accepted\nfor the rest: tail -n +3\n"
    )


async def test_a_disk_that_is_full(fast_dir: Path) -> None:
    outbox = fast_dir / "o.db"
    given = b"".join(b"%d %s\n" % (number, b"x" * 1000) for number in range(1, 2001))
    async with chat() as server:
        script = 'ulimit -f 2000; exec "$@"'  # of 512 bytes; what coverage writes must fit in as well
        arguments = ("send", server.url, "--outbox", str(outbox), "--summary", "json")
        result = await program(script, "sh", *PROGRAM, *arguments, program=["sh", "-c"], stdin=given)
        found = [text.split()[0] for text in await texts(server)]
    number = result.summary["accepted_to_line"]
    assert 0 < number < 2000
    assert number == result.summary["accepted"]
    assert found == [str(line) for line in range(1, number + 1)]
    assert result.status == 1
    assert f"\nerror: the outbox {outbox} cannot be used: " in result.err
    assert result.err.endswith(f"lines 1 to {number} were accepted\nfor the rest: tail -n +{number + 1}\n")
    assert result.clean


async def test_a_server_that_is_none_ends_it_only_when_there_is_no_more_input(fast_dir: Path) -> None:
    async def missing(_: web.Request) -> web.Response:
        return web.Response(status=404)

    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", missing)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(runner.cleanup)
        sender = await stack.enter_async_context(child("send", url, "--outbox", str(fast_dir / "o.db")))
        await sender.said("not connected: it answers with HTTP status 404, .*; trying again\n")
        await sender.write(b"one\n")
        assert sender.process.stdin is not None
        sender.process.stdin.close()
        result = await sender.ended()
    assert result.status == 1
    assert "error: cannot connect to 127.0.0.1:" in result.err
    assert "gave up after" not in result.err
    assert "1 accepted, 0 sent" in result.out
    assert pending(fast_dir / "o.db") == 1


@pytest.mark.parametrize(
    ("outbox", "status", "expected"),
    [
        ("", 2, "--outbox is ''; give the path of a file"),
        (":memory:", 2, "--outbox is ':memory:'"),
        ("DIR", 1, "error: the outbox DIR cannot be used: "),
        ("DIR/none/o.db", 1, "error: the outbox DIR/none/o.db cannot be used: "),
        ("DIR/text", 1, "error: the outbox DIR/text cannot be read: "),
        ("/dev/null/x", 1, "error: the outbox /dev/null/x cannot be used: "),
    ],
)
def test_a_file_that_is_no_outbox_is_one_line_and_nothing_is_read(
    fast_dir: Path, capsys: Output, outbox: str, status: int, expected: str
) -> None:
    (fast_dir / "text").write_text("no database at all, just text that is long enough to be looked at " * 20)
    path, said = (text.replace("DIR", str(fast_dir)) for text in (outbox, expected))
    file = fast_dir / "in"
    file.write_text("never read\n")
    assert run(["send", NOWHERE, "--outbox", path, "--file", str(file)]) == status
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert said in captured.err
    assert (captured.err.count("\n"), captured.out) == (1, "")


def test_how_to_go_on_has_no_secret_in_it(fast_dir: Path, capsys: Output) -> None:
    outbox = fast_dir / "my o.db"
    file = fast_dir / "in"
    file.write_text("one\n")
    url = NOWHERE.replace("//", "//ada:swordfish@")
    options = ["--namespace", "/news", "--transport", "polling", "--path", "x y", "--connect-timeout", "0.1"]
    assert run(["send", url, "--outbox", str(outbox), "--file", str(file), *options]) == 1
    captured = capsys.readouterr()
    assert "swordfish" not in captured.err
    assert (
        f"1 message waits in {outbox}; to go on: reliable-emit send URL --outbox '{outbox}' --namespace /news "
        f"--path 'x y' --transport polling </dev/null\n"
    ) in captured.err


# The parts.


def test_the_line_of_an_offset() -> None:
    offsets = NumberedOffsets()
    made = [offsets(socket_id) for socket_id in (None, None, "x-y", "x-y", None, "-", "-")]
    assert [offsets.line(offset) for offset in made] == [1, 2, 3, 4, 5, 6, 7]
    assert [offsets.line(offset) for offset in ("", "abc", "abc-1", "x-y", "x-z-3", "x-y-one")] == [0] * 6


async def test_no_line_waits_for_those_behind_it(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    batches = Source(fifo, limit=5).batches(3)
    first = asyncio.ensure_future(anext(batches))
    writing = await asyncio.to_thread(os.open, fifo, os.O_WRONLY)
    os.write(writing, b"1\n2\n3\n4\nha")
    assert [line.number for line in await first] == [1, 2, 3]
    assert await anext(batches) == [Line(4, b"4", 8)]
    os.write(writing, b"lf\n6\ntoo long\n")
    assert [line.number for line in await anext(batches)] == [5, 6]
    with pytest.raises(LineError, match="line 7: it is longer than 5 bytes"):
        await anext(batches)
    os.close(writing)
