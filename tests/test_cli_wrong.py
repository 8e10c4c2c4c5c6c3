"""Wrong input: an exit status, one line that helps, never a traceback."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import queue
import socket
import sqlite3
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from cli_support import PATIENCE, PROGRAM, Result, program
from reliable_emit.cli import run
from reliable_emit.server import ReferenceServer

_OK = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n"
HTTP_OK = 200
_OTHER = b"HTTP/1.1 404 Not Found\r\ncontent-type: application/json\r\n"
NOWHERE = "http://127.0.0.1:1"


@pytest.fixture
def lines(tmp_path: Path) -> str:
    file = tmp_path / "lines.txt"
    file.write_text("one\ntwo\n")
    return str(file)


USAGE: list[tuple[list[str], str]] = [
    (["send"], "give the URL"),
    (["send", "localhost:3000", "--file", "LINES"], "is not the URL of a Socket.IO server"),
    (["send", "ftp://localhost", "--file", "LINES"], "is not the URL of a Socket.IO server"),
    (["send", "http://", "--file", "LINES"], "is not the URL of a Socket.IO server"),
    (["send", "http://localhost:99999", "--file", "LINES"], "is not the URL of a Socket.IO server"),
    (["send", "http://localhost:0", "--file", "LINES"], "is not the URL of a Socket.IO server"),
    (["send", "http://[::1", "--file", "LINES"], "is not the URL of a Socket.IO server"),
    (["send", "http://a b", "--file", "LINES"], "there is a space in it"),
    (["send", f"http://{'a' * 70}.org", "--file", "LINES"], "http://aaa"),
    (["send", NOWHERE, "--file", "/no/such/file"], "cannot read /no/such/file: No such file or directory"),
    (["send", NOWHERE, "--file", "/"], "cannot read /: it is a directory"),
    (["send", NOWHERE, "--file", "LINES", "--auth", "{"], "--auth is not JSON (column 2)"),
    (["send", NOWHERE, "--file", "LINES", "--auth", "[" * 100_000], "--auth is not JSON"),
    (["send", NOWHERE, "--file", "LINES", "--auth", "[]"], "--auth is JSON but no object"),
    (["send", NOWHERE, "connect", "--file", "LINES"], "'connect' is a reserved event name"),
    (["send", NOWHERE, "--file", "LINES", "--retries", "-1"], "--retries is -1; give 0 or more"),
    (["send", NOWHERE, "--file", "LINES", "--retries", "often"], "--retries is 'often'; give a whole number"),
    (["send", NOWHERE, "--file", "LINES", "--retries", "1.5"], "--retries is '1.5'"),
    (["send", NOWHERE, "--file", "LINES", "--ack-timeout", "-1"], "--ack-timeout is -1.0"),
    (["send", NOWHERE, "--file", "LINES", "--ack-timeout", "0"], "--ack-timeout is 0.0"),
    (["send", NOWHERE, "--file", "LINES", "--ack-timeout", "nan"], "--ack-timeout is nan"),
    (["send", NOWHERE, "--file", "LINES", "--ack-timeout", "soon"], "'--ack-timeout'"),
    (["send", NOWHERE, "--file", "LINES", "--connect-timeout", "inf"], "--connect-timeout is inf"),
    (["send", NOWHERE, "--file", "LINES", "--namespace", "news"], "--namespace is 'news'"),
    (["send", NOWHERE, "--file", "LINES", "--namespace", "/a,b"], "--namespace is '/a,b'"),
    (["send", NOWHERE, "--file", "LINES", "--summary", "xml"], "'--summary'"),
    (["send", NOWHERE, "--file", "LINES", "--transport", "pigeon"], "'--transport'"),
    (["send", NOWHERE, "event", "one too many", "--file", "LINES"], "one too many"),
    (["outbox"], "outbox"),
    (["serve", "--port", "65536"], "--port is 65536; give 0"),
    (["serve", "--port", "-1"], "--port is -1; give 0"),
    (["serve", "--port", "http"], "'--port'"),
    (["serve", "--host", ""], "--host is empty"),
    (["serve", "--db", ""], "--db is empty"),
    (["demo", "--file", "/no/such/file"], "cannot read /no/such/file"),
    (["demo", "--file", "/"], "cannot read /"),
    (["demo", "--file", "/dev/null"], "/dev/null is empty"),
    (["demo", "--db", "LINES"], "exists already"),
    (["demo", "--seed", "lucky"], "'--seed'"),
]


@pytest.mark.parametrize(("arguments", "expected"), USAGE, ids=lambda value: " ".join(value)[:60] if value else None)
def test_wrong_usage_is_one_line_and_status_2(
    arguments: list[str], expected: str, lines: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([lines if argument == "LINES" else argument for argument in arguments]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert expected in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_a_secret_is_not_repeated(lines: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["send", NOWHERE, "--file", lines, "--auth", '{"token": "swordfish"']) == 2
    assert "swordfish" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "url"),
    [
        ("--db", "postgresql://u:12/34tunafish@127.0.0.1:5432/x"),
        ("--db", "postgresql://u:tuna#fish@127.0.0.1/x"),
        ("--db", "postgresql://u:tuna?fish@127.0.0.1/x"),
        ("--db", "postgresql://u:tunafish/@127.0.0.1/x"),
        ("--db", "postgresql://u:12#tunafish@127.0.0.1/x"),
        ("--db", "postgresql://u:pass@host:tunafish/x"),
        ("--db", "postgresql://u:pass@host:tunafish,other:12/x"),
        ("--db", "postgresql://u:tunafish@127.0.0.1:99999/x"),
        ("--db", "postgresql://u:tunafish@[::1/x"),
        ("--db", "postgresql:u:tunafish@127.0.0.1"),
        ("--db", "postgresql+asyncpg://u:tunafish@127.0.0.1/x"),
        ("--db", "mysql://u:tunafish@127.0.0.1/x"),
        ("--message-queue", "redis://:tunafish@127.0.0.1:port"),
        ("--message-queue", "redis://:tunafish@127.0.0.1:99999"),
        ("--message-queue", "redis://:tuna/fish@127.0.0.1:6379"),
        ("--message-queue", "redis://:12/tunafish@127.0.0.1:6379"),
        ("--message-queue", "redis://:12?tunafish@127.0.0.1:6379"),
        ("--message-queue", "redis://:12#tunafish@127.0.0.1:6379"),
        ("--message-queue", "redis://127.0.0.1:6379/tunafish"),
        ("--message-queue", "redis://127.0.0.1:6379/0?db=tunafish"),
        ("--message-queue", "redis://:tunafish@[::1"),
        ("--message-queue", "amqp://u:tunafish@127.0.0.1"),
        ("--message-queue", "tunafish"),
    ],
)
def test_a_url_that_cannot_be_is_refused_by_name_and_not_repeated(
    option: str, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["serve", "--port", "0", option, url]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"error: {option}")
    assert captured.err.count("\n") == 1
    assert captured.out == ""
    for part in ("tuna", "fish", "12", "34"):
        assert part not in captured.err


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("postgresql://u:12%2F34%40@127.0.0.1:5432/x", "postgresql://127.0.0.1:5432/x"),
        ("postgres://u@[::1]:5432/x?sslmode=disable", "postgresql://[::1]:5432/x"),
        ("postgresql://one:1,two:2/x", "postgresql://one:1,two:2/x"),
        ("postgresql:///x?host=/run/postgresql", "postgresql:///x"),
        ("postgresql://", "postgresql://"),
    ],
)
def test_a_url_of_postgresql_is_named_without_its_user(url: str, name: str) -> None:
    assert ReferenceServer(url).database == name


@pytest.mark.parametrize("url", ["redis://", "rediss://u:p%2F@[::1]:1/3?protocol=3", "unix:///tmp/a.sock?db=1"])
def test_a_url_of_redis_is_taken(url: str) -> None:
    try:
        ReferenceServer(message_queue=url)
    except ValueError as error:
        if "Unsupported Redis URL schema" not in str(error) or url == "redis://":
            raise
        pytest.skip("this python-socketio knows redis:// alone")


def test_the_environment_can_hold_the_login(
    lines: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RELIABLE_EMIT_AUTH", "{")
    assert run(["send", NOWHERE, "--file", lines]) == 2
    assert "--auth is not JSON" in capsys.readouterr().err


def test_a_demo_file_that_is_no_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "picture"
    file.write_bytes(b"\x89PNG\xff")
    assert run(["demo", "--file", str(file)]) == 2
    assert "give a text file in UTF-8" in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "secret"
    file.touch(mode=0)
    assert run(["send", NOWHERE, "--file", str(file)]) == 2
    assert "Permission denied" in capsys.readouterr().err


def test_serve_says_what_is_wrong_with_the_database(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "other.db"
    with contextlib.closing(sqlite3.connect(other)) as db:
        db.execute("CREATE TABLE recipes (name)")
    text = tmp_path / "text"
    text.write_text("no database at all, just text that is long enough to be looked at " * 20)
    for path, expected in [
        (other, "another program's database"),
        (text, "not a database"),
        (tmp_path, "it is a directory"),
        (tmp_path / "none" / "chat.db", "does not exist"),
    ]:
        assert run(["serve", "--port", "0", "--db", str(path)]) == 1
        captured = capsys.readouterr()
        assert captured.err.startswith(f"error: the database {path} cannot be opened: ")
        assert expected in captured.err
        assert captured.err.count("\n") == 1
        assert captured.out == ""


def test_serve_says_that_it_cannot_listen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert run(["serve", "--port", port, "--db", ":memory:"]) == 1
        error = capsys.readouterr().err
        assert error.startswith(f"error: cannot listen on 127.0.0.1 port {port}: ")
        assert error.count("\n") == 1
    assert run(["serve", "--port", "0", "--host", "no-such-host.invalid", "--db", ":memory:"]) == 1
    assert capsys.readouterr().err.startswith("error: cannot listen on no-such-host.invalid port 0: ")


# Against servers, as child processes: all at once, because each takes its time to start.


@contextlib.asynccontextmanager
async def answering(data: bytes | None) -> AsyncIterator[str]:
    """What says that to everybody who connects; with ``None`` it says nothing."""
    gone = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            await reader.read(1)
            if data is None:
                await gone.wait()
            else:
                writer.write(data)
                await writer.drain()
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        gone.set()
        server.close()


@contextlib.asynccontextmanager
async def greeting() -> AsyncIterator[str]:
    """A WebSocket server that is no Socket.IO server."""

    async def greet(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.send_str("hello")
        await socket.receive()
        return socket

    async with site(greet) as url:
        yield url


@contextlib.asynccontextmanager
async def website(status: int) -> AsyncIterator[str]:
    """An HTTP server that is no Socket.IO server."""

    async def page(_: web.Request) -> web.Response:
        # An error has no body: engineio closes the session before it reads one, and may lose the status with it.
        return web.Response(text="hello" if status == HTTP_OK else None, status=status)

    async with site(page) as url:
        yield url


@contextlib.asynccontextmanager
async def site(handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def who(auth: Any, _: dict[str, Any]) -> str | None:
    return "ada" if auth == {"token": "right"} else None


async def collect() -> dict[str, Any]:
    found: dict[str, Any] = {}
    slots = asyncio.Semaphore(3)

    async def case(name: str, *arguments: str, stdin: bytes = b"one\ntwo\n") -> None:
        async with slots:
            found[name] = await program("send", *arguments, stdin=stdin)

    async def shell(name: str, script: str, *arguments: str) -> None:
        async with slots:
            found[name] = await program(script, "sh", *arguments, program=["sh", "-c"])

    async with contextlib.AsyncExitStack() as stack:
        there = await stack.enter_async_context(ReferenceServer(":memory:"))
        login = await stack.enter_async_context(ReferenceServer(":memory:", authenticate=who))
        missing = await stack.enter_async_context(website(404))
        await asyncio.gather(
            case("refused", NOWHERE, "--connect-timeout", "0.3"),
            case("no Socket.IO", missing),
            case("login", login.url, "--auth", '{"token": "wrong"}'),
            case("right login", login.url, "--auth", '{"token": "right"}'),
            case("JSON", there.url, "--json", stdin=b'"json 1"\n"json 2"\n{"a": \n"json 4"\n'),
            case("UTF-8", there.url, stdin=b"utf 1\nutf \xff\nutf 3\n"),
            case("long", there.url, stdin=b"long 1\n" + b"x" * 1_000_001 + b"\nlong 3\n"),
            case("escaped", there.url, stdin=b"escaped 1\n" + "é".encode() * 200_000 + b"\nescaped 3"),
            shell("closed", 'exec "$@" <&-', *PROGRAM, "send", NOWHERE),
            shell("head", '(printf "head 1\\nhead 2\\n" | "$@"; echo $? >&2) | true', *PROGRAM, "send", there.url),
            shell("full", 'printf "full 1\\n" | "$@" >/dev/full 2>/dev/full', *PROGRAM, "send", there.url),
        )
        found["stored"] = [message.text for message in await there.messages()]
        found["login stored"] = [message.text for message in await login.messages()]
    return found


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    return asyncio.run(collect())


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[str, str]]:
    """The URLs of servers in a thread; with them the command can run in this process, which is faster."""
    ready: queue.SimpleQueue[dict[str, str]] = queue.SimpleQueue()
    end = asyncio.Event()
    loop = asyncio.new_event_loop()

    async def serve() -> None:
        async with contextlib.AsyncExitStack() as stack:
            chat = await stack.enter_async_context(ReferenceServer(":memory:"))
            ready.put(
                {
                    "CHAT": chat.url,
                    "HTTPS": chat.url.replace("http", "https"),
                    "UNKNOWN": "http://no-such-host.invalid",
                    "404": await stack.enter_async_context(website(404)),
                    "503": await stack.enter_async_context(website(503)),
                    "200": await stack.enter_async_context(website(200)),
                    # Read no further than its head by the client, which then asks for the rest.
                    "JSON": await stack.enter_async_context(answering(_OTHER + b"content-length: 9\r\n\r\nhalf")),
                    "EMPTY": await stack.enter_async_context(answering(_OK + b"content-length: 0\r\n\r\n")),
                    "ECHO": await stack.enter_async_context(greeting()),
                    "GARBAGE": await stack.enter_async_context(answering(b"220 smtp.example.org ready\r\n")),
                    "SILENT": await stack.enter_async_context(answering(None)),
                }
            )
            await end.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    try:
        yield ready.get(timeout=PATIENCE)
    finally:
        loop.call_soon_threadsafe(end.set)
        thread.join()
        loop.close()


# python-engineio leaves connections open that it did not understand.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["UNKNOWN"], "error: cannot connect to no-such-host.invalid:80: "),
        (["404", "--transport", "polling"], "it answers with HTTP status 404, there is no Socket.IO server"),
        (["CHAT", "--path", "elsewhere"], "it answers with HTTP status 404, there is no Socket.IO server"),
        (["200"], "it answers with HTTP status 200, there is no Socket.IO server"),
        (["200", "--transport", "polling"], "error: cannot connect to 127.0.0.1:"),
        (["503"], "it answers with HTTP status 503, there is no Socket.IO server"),
        (["JSON", "--transport", "polling"], "it does not answer as a Socket.IO server does"),
        (["EMPTY", "--transport", "polling"], "error: cannot connect to 127.0.0.1:"),
        (["ECHO"], "it does not answer as a Socket.IO server does"),
        (["GARBAGE"], "what answers there does not speak HTTP"),
        (["GARBAGE", "--transport", "auto"], "error: cannot connect to 127.0.0.1:"),
        (["SILENT"], "no answer (gave up after 0.25 s)"),
        (["HTTPS"], "error: cannot connect to 127.0.0.1:"),
        (["CHAT", "--namespace", "/nowhere"], "the server refuses the connection: Unable to connect"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_cannot_connect_is_one_line_and_status_1(
    arguments: list[str], expected: str, lines: str, servers: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    url, *more = arguments
    assert run(["send", servers[url], "--file", lines, "--connect-timeout", "0.25", *more]) == 1
    gc.collect()
    captured = capsys.readouterr()
    assert expected in captured.err
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert captured.out == ""


@pytest.mark.parametrize(
    ("name", "status", "expected"),
    [
        (
            "refused",
            1,
            "error: cannot connect to 127.0.0.1:1: connection refused, nobody listens there (gave up after 0.3 s)",
        ),
        ("no Socket.IO", 1, "it answers with HTTP status 404, there is no Socket.IO server"),
        ("login", 1, "the server refuses the connection: authentication failed"),
        ("closed", 2, "error: standard input is closed; give a file with --file"),
    ],
)
def test_what_cannot_begin_is_one_line(found: dict[str, Any], name: str, status: int, expected: str) -> None:
    result: Result = found[name]
    assert expected in result.err
    assert result.status == status
    assert result.err.startswith("error: ")
    assert result.err.count("\n") == 1
    assert result.clean
    assert result.out == ""


def test_a_machine_gets_its_summary_even_without_a_connection(lines: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["send", "http://localhost:1", "--file", lines, "--connect-timeout", "0.3", "--summary", "json"]
    assert run(arguments) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("error: cannot connect to localhost:1: connection refused")
    assert json.loads(captured.out)["acknowledged"] == 0


def test_the_right_login(found: dict[str, Any]) -> None:
    assert found["right login"].status == 0
    assert found["login stored"] == ["one", "two"]


@pytest.mark.parametrize(
    ("name", "expected", "number"),
    [
        ("JSON", "error: line 3: it is not JSON: ", 3),
        ("UTF-8", "error: line 2: it is not UTF-8 (byte 5)", 2),
        ("long", "error: line 2: it is longer than 1000000 bytes", 2),
        ("escaped", "error: line 2: it takes 1200002 bytes as JSON", 2),
    ],
)
def test_a_bad_line_ends_it_and_those_before_are_delivered(
    found: dict[str, Any], name: str, expected: str, number: int
) -> None:
    result: Result = found[name]
    assert expected in result.err
    assert f"lines 1 to {number - 1} were acknowledged\nfor the rest: tail -n +{number}" in result.err
    assert result.status == 2
    assert result.clean
    prefix = {"JSON": "json", "UTF-8": "utf"}.get(name, name)
    texts = [text for text in found["stored"] if text.startswith(prefix)]
    assert texts == [f"{prefix} {line}" for line in range(1, number)]


def test_dead_letters_are_listed_with_line_offset_and_reason(
    servers: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "news.txt"
    file.write_text("x\n" * 30)
    assert run(["send", servers["CHAT"], "news", "--file", str(file)]) == 1
    captured = capsys.readouterr()
    assert "30 dead-lettered, 0 pending" in captured.out
    assert "30 lines given up" in captured.err
    assert "  and 10 more" in captured.err
    assert captured.err.endswith("no line was acknowledged\n")
    for number in range(1, 21):
        assert f"  line {number} (offset " in captured.err
    assert "rejected after 1 attempt: this server does not know the event 'news'" in captured.err
    assert captured.err.count("given up: ") == 5


def test_without_client_offset_nothing_is_appended(
    servers: dict[str, str], lines: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["send", servers["CHAT"], "--no-client-offset", "--file", lines]) == 1
    assert "expected 2 arguments, the text and the client offset, got 1" in capsys.readouterr().err


def test_no_lines_at_all(servers: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["send", servers["CHAT"], "--file", "/dev/null", "--summary", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["accepted"] == 0


def test_output_that_nobody_reads_costs_no_message(found: dict[str, Any]) -> None:
    assert found["head"].err.endswith("\n0\n")
    assert found["head"].clean
    assert found["full"].status == 0
    assert {"head 1", "head 2", "full 1"} <= set(found["stored"])
