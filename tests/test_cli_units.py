"""The command line's parts that the program as a whole reaches only with luck."""

from __future__ import annotations

import asyncio
import io
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import socketio
from socketio.exceptions import ConnectionError as NotConnected

from reliable_emit import ReliableClient
from reliable_emit.cli import options, picture
from reliable_emit.cli.connection import Connection, quiet_client
from reliable_emit.cli.decode import decode
from reliable_emit.cli.ledger import Ledger
from reliable_emit.cli.output import CommandError, Output, plural
from reliable_emit.cli.source import Line, LineError, Source
from reliable_emit.cli.target import Target
from reliable_emit.server import ReferenceServer


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "line 7: it is not JSON: Expecting value (column 1)"),
        (b"[1,", "line 7: it is not JSON: Expecting value (column 4)"),
        (b"NaN", "line 7: it is not JSON: NaN is no JSON value"),
        (b"[-Infinity]", "line 7: it is not JSON: -Infinity is no JSON value"),
        (b"1e999", "line 7: it is not JSON: 1e999 is too large a number"),
        (b"9" * 5000, "line 7: it is not JSON: "),
        (b"[" * 200_000, "line 7: it is not usable JSON: it is nested too deeply"),
        (b"\xe9", "line 7: it is not UTF-8 (byte 1)"),
    ],
)
def test_a_line_that_is_no_json_is_named(content: bytes, expected: str) -> None:
    with pytest.raises(LineError) as caught:
        decode(Line(7, content, 0), as_json=True, event="x")
    assert str(caught.value).startswith(expected)
    assert (caught.value.number, caught.value.status) == (7, 2)


def test_a_line_is_measured_as_it_is_sent() -> None:
    assert decode(Line(1, b"x" * 790, 0), as_json=False, event="x", limit=1000) == "x" * 790
    for content in (b"x" * 799, "é".encode() * 200, b'"' * 500, b"\0" * 150):
        with pytest.raises(
            LineError, match=r"line 1: it takes \d+ bytes as JSON, of 797 that fit into a packet of 1000"
        ):
            decode(Line(1, content, 0), as_json=False, event="x", limit=1000)


async def read(source: Source) -> list[tuple[int, bytes, int]]:
    return [(line.number, line.content, line.end) async for line in source.lines()]


async def test_lines_across_blocks(tmp_path: Path) -> None:
    file = tmp_path / "lines"
    lines = [b"x" * size for size in (65_535, 65_536, 65_537, 0, 200_000, 1)]
    file.write_bytes(b"\n".join(lines))
    found = await read(Source(file, limit=200_000))
    assert [content for _, content, _ in found] == lines
    assert found[-1][2] == file.stat().st_size
    given = Source(file, limit=199_999).lines()
    assert [(await anext(given)).number for _ in range(4)] == [1, 2, 3, 4]
    with pytest.raises(LineError, match="line 5: it is longer than 199999 bytes"):
        await anext(given)


async def test_a_file_that_is_gone_when_it_is_read(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=r"cannot read .*: No such file or directory"):
        await read(Source(tmp_path / "gone", limit=10))


async def test_a_named_pipe_that_nobody_writes_to_yet(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    source = Source(fifo, limit=100)
    assert source.check() is None
    reading = asyncio.create_task(read(source))
    writing = await asyncio.to_thread(os.open, fifo, os.O_WRONLY)
    os.write(writing, b"one\r\ntwo")
    os.close(writing)
    assert await reading == [(1, b"one", 5), (2, b"two", 8)]


async def test_standard_input_that_does_not_block(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    monkeypatch.setattr("reliable_emit.cli.source._STDIN", reading)
    task = asyncio.create_task(read(Source(None, limit=100)))
    await asyncio.sleep(0)
    os.write(writing, b"one\n")
    os.close(writing)
    assert await task == [(1, b"one", 4)]
    os.close(reading)


class Broken(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError

    def isatty(self) -> bool:
        raise ValueError("closed")


def test_output_that_cannot_be_written_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    latin = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
    monkeypatch.setattr(sys, "stdout", latin)
    output = Output("stdout")
    output.line("é 美")
    assert latin.buffer.getvalue() == b"\xe9 \\u7f8e\n"
    assert output.encoding == "latin-1"
    assert output.writable()

    monkeypatch.setattr(sys, "stdout", Broken())
    assert not output.isatty()
    output.line("nobody reads this")
    output.line("nor this")
    with pytest.raises(OSError, match="closed"):
        output.fileno()

    monkeypatch.setattr(sys, "stderr", None)
    nothing = Output("stderr")
    nothing.line("nowhere")
    assert not nothing.isatty()
    assert nothing.encoding == "utf-8"


def test_numbers_and_nouns() -> None:
    assert [plural(number, "line") for number in (0, 1, 2)] == ["0 lines", "1 line", "2 lines"]


def test_the_password_in_a_url_is_not_shown() -> None:
    assert Target("https://ada:secret@example.org/x").address == "example.org:443"


async def test_lines_that_wait_are_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reliable_emit.cli.ledger._BUDGET", 10)
    async with ReferenceServer() as server, ReliableClient(quiet_client(), client_offset=True) as client:
        ledger = Ledger(client)
        ledger.accepted(Line(1, b"x" * 11, 12), await client.emit("chat message", "x" * 11))
        waiting = asyncio.create_task(ledger.room())
        await asyncio.sleep(0)
        assert not waiting.done()
        await client.connect(server.url)
        await asyncio.wait_for(waiting, 10)
        assert (ledger.unbroken, ledger.position) == (1, 12)


async def test_a_connection_that_was_lost_while_it_was_made_is_made_again() -> None:
    """python-socketio believes in it for ever: ``connected`` on an engine that is gone."""
    async with ReferenceServer() as server:
        sio = quiet_client()
        async with ReliableClient(sio) as client:
            sio.connected = True
            said: list[str] = []
            await Connection(client, Target(server.url), said.append).open(5)
            assert client.connected
            assert said == [f"connected to 127.0.0.1:{server.port}"]


async def test_a_server_that_answers_oddly_for_a_moment_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[Any] = [RuntimeError("Connection closed."), NotConnected("Connection error"), None]
    connect = socketio.AsyncClient.connect

    async def oddly(self: Any, *arguments: Any, **options: Any) -> None:
        if (answer := answers.pop(0)) is not None:
            raise answer
        await connect(self, *arguments, **options)

    monkeypatch.setattr(socketio.AsyncClient, "connect", oddly)
    async with ReferenceServer() as server, ReliableClient(quiet_client()) as client:
        await Connection(client, Target(server.url), lambda _: None).open(10)
        assert client.connected
    assert answers == []


def test_the_picture_is_drawn_by_a_run_of_the_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picture, "demo_lines", lambda: ["one", "two", "one"])
    file = tmp_path / "verdict.svg"
    monkeypatch.setattr(sys, "argv", ["picture", str(file)])
    assert picture.main() == 0
    assert file.read_text(encoding="utf-8").startswith("<svg")
    monkeypatch.setattr(sys, "argv", ["picture"])
    assert picture.main() == 2


def test_a_path_in_the_url_is_not_ignored() -> None:
    with pytest.raises(CommandError, match="use --namespace /news if that is the namespace, and --path if"):
        Target("http://localhost:3000/news").check()
    Target("http://localhost:3000/").check()


def test_standard_input_can_be_named() -> None:
    assert options.source(Path("-"), durable=False) is None
    assert options.source(Path("-"), durable=True) is None
    assert options.source(Path("x"), durable=True) == Path("x")
    assert options.source(None, durable=False) is None
