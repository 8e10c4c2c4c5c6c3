"""`reliable-emit outbox`: what is in the file, shown and steered, also while somebody owns it."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import re
import sqlite3
import sys
from pathlib import Path
from typing import Any

import pytest
from socketio.msgpack_packet import MsgPackPacket

from cli_support import PROGRAM, Result, Stored, at_a_terminal, child, fast_dir, fill, program
from reliable_emit.cli import outbox_file, run
from reliable_emit.outbox.sqlite import rows

__all__ = ["fast_dir"]

NOWHERE = "http://127.0.0.1:1"
MESSAGES = (
    Stored("dead-0", reason="exhausted", attempts=4),
    Stored("wait-1"),
    Stored("dead-2", event="photo", data=({"n": 1}, b"\0\1\2"), reason="rejected", detail="no\nphotos", attempts=1),
    Stored("wait-3", event="reading", data=(21.5, None), attempts=2),
)


@pytest.fixture
def path(fast_dir: Path) -> str:
    file = fast_dir / "outbox.db"
    asyncio.run(fill(file, *MESSAGES))
    return str(file)


Output = pytest.CaptureFixture[str]


def listed(path: str, capsys: Output, *more: str) -> list[dict[str, Any]]:
    capsys.readouterr()
    assert run(["outbox", "list", path, "--json", *more]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def states(path: str, capsys: Output) -> list[tuple[str, str]]:
    return [(found["state"], found["offset"]) for found in listed(path, capsys)]


BEFORE = [("dead", "dead-0"), ("dead", "dead-2"), ("pending", "wait-1"), ("pending", "wait-3")]


# Looking.


def test_lines_for_programs(path: str, capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    assert run(["outbox", "list", path]) == 0
    captured = capsys.readouterr()
    first, second, third, fourth = (line.split("\t") for line in captured.out.splitlines())
    assert re.fullmatch(r"\d+ d", first.pop(5))
    assert re.fullmatch(r"2023-11-1[345] \d\d:\d\d:20", first.pop(4))
    assert re.fullmatch(r"2023-11-1[345] \d\d:\d\d:20", first.pop(5))
    assert first == ["dead", "dead-0", "chat message", '"hello"', "4", "exhausted", "no acknowledgement"]
    assert second[:4] == ["dead", "dead-2", "photo", '{"n": 1}, <3 bytes>']
    assert second[8:] == ["rejected", r"no\nphotos"]
    assert third[:4] == ["pending", "wait-1", "chat message", '"hello"']
    assert (fourth[3], fourth[6:]) == ("21.5, null", ["2"])
    assert captured.err == "2 pending, 2 dead letters\n"


def test_json_for_programs(path: str, capsys: Output) -> None:
    exhausted, rejected, waiting, sent = listed(path, capsys)
    assert exhausted == {
        "state": "dead",
        "offset": "dead-0",
        "event": "chat message",
        "data": ["hello", "dead-0"],
        "accepted_at": 1_700_000_000.0,
        "accepted_at_iso": "2023-11-14T22:13:20.000+00:00",
        "attempts": 4,
        "possibly_delivered": True,
        "retries": 3,
        "ack_timeout": 10,
        "reason": "exhausted",
        "detail": "no acknowledgement",
        "died_at": 1_700_000_060.0,
        "died_at_iso": "2023-11-14T22:14:20.000+00:00",
    }
    assert rejected["data"] == [{"n": 1}, {"$base64": base64.b64encode(b"\0\1\2").decode()}, "dead-2"]
    assert rejected["detail"] == "no\nphotos"
    assert (waiting["state"], waiting["attempts"], waiting["possibly_delivered"]) == ("pending", 0, False)
    assert (sent["data"], sent["possibly_delivered"]) == ([21.5, None, "wait-3"], True)


@pytest.mark.parametrize(
    ("options", "offsets", "said"),
    [
        ([], ["dead-0", "dead-2", "wait-1", "wait-3"], "2 pending, 2 dead letters\n"),
        (["--dead"], ["dead-0", "dead-2"], "2 pending, 2 dead letters\n"),
        (["--pending"], ["wait-1", "wait-3"], "2 pending, 2 dead letters\n"),
        (["--limit", "3"], ["dead-0", "dead-2", "wait-1"], "2 pending, 2 dead letters; the first 3 are shown\n"),
        (["--limit", "1", "--pending"], ["wait-1"], "2 pending, 2 dead letters; the first 1 are shown\n"),
        (["--limit", "1"], ["dead-0"], "2 pending, 2 dead letters; the first 1 are shown\n"),
        (["--limit", "all"], ["dead-0", "dead-2", "wait-1", "wait-3"], "2 pending, 2 dead letters\n"),
    ],
    ids=" ".join,
)
def test_what_is_listed(path: str, capsys: Output, options: list[str], offsets: list[str], said: str) -> None:
    for form in ([], ["--json"]):
        assert run(["outbox", "list", path, *form, *options]) == 0
        captured = capsys.readouterr()
        assert [re.findall(r"(?:dead|wait)-\d", line)[-1] for line in captured.out.splitlines()] == offsets
        assert captured.err == said


def test_the_first_ones_of_many_are_listed_at_once(
    fast_dir: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = fast_dir / "many.db"
    asyncio.run(fill(file, Stored("o-0")))
    with contextlib.closing(sqlite3.connect(file)) as db, db:
        ((sequence, *others),) = db.execute("SELECT * FROM message").fetchall()
        names = [column[1] for column in db.execute("PRAGMA table_info(message)")]
        place = names.index("client_offset")
        many = ([sequence + n, *others[: place - 1], f"o-{n}", *others[place:]] for n in range(1, 20_000))
        db.executemany(f"INSERT INTO message VALUES ({', '.join('?' for _ in names)})", many)
    read = 0
    message_of = rows.message_of

    def counted(*arguments: Any) -> Any:
        nonlocal read
        read += 1
        return message_of(*arguments)

    monkeypatch.setattr(rows, "message_of", counted)
    assert run(["outbox", "list", str(file)]) == 0
    captured = capsys.readouterr()
    assert captured.out.count("\n") == 50
    assert captured.err == "20000 pending, 0 dead letters; the first 50 are shown\n"
    assert read <= 51


def test_everything_about_one_message(path: str, capsys: Output) -> None:
    assert run(["outbox", "show", path, "dead-2"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    for expected in (
        "offset       dead-2\n",
        "event        photo\n",
        "state        dead letter\n",
        "attempts     1, it may have arrived\n",
        "reason       rejected\n",
        "detail       no\\nphotos\n",
        'data         3 arguments\n  {\n    "n": 1\n  }\n  <3 bytes: AAEC>\n  "dead-2"\n',
    ):
        assert expected in captured.out
    assert re.search(r"accepted     2023-11-1\d \d\d:13:22, \d+ d ago\n", captured.out)
    assert run(["outbox", "show", path, "wait-1"]) == 0
    shown = capsys.readouterr().out
    assert "state        pending\n" in shown
    assert "attempts     0, it was certainly never sent\n" in shown
    assert run(["outbox", "show", path, "wait-1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == listed(path, capsys)[2]


def test_a_time_to_live_is_shown(fast_dir: Path, capsys: Output) -> None:
    file = str(fast_dir / "o.db")
    asyncio.run(fill(Path(file), Stored("a", ttl=3600)))
    assert run(["outbox", "show", file, "a"]) == 0
    assert re.search(r"\nexpires      \d{4}-\d\d-\d\d \d\d:\d\d:\d\d\n", capsys.readouterr().out)
    (found,) = listed(file, capsys)
    assert found["accepted_at"] < found["expires_at"]
    assert found["expires_at_iso"].endswith("+00:00")


def test_the_data_is_shown_whole_in_show_and_short_in_a_list(fast_dir: Path, capsys: Output) -> None:
    file, text = str(fast_dir / "o.db"), "x" * 100_000
    asyncio.run(fill(Path(file), Stored("a", data=(text, b"\xff" * 100_000))))
    assert run(["outbox", "show", file, "a"]) == 0
    shown = capsys.readouterr().out
    assert f'  "{text}"\n' in shown
    assert re.search(r"<100000 bytes: /{64}…, complete with --json>", shown)
    assert run(["outbox", "list", file]) == 0
    assert f'\t"{"x" * 58}…\t' in capsys.readouterr().out
    assert listed(file, capsys)[0]["data"][1] == {"$base64": base64.b64encode(b"\xff" * 100_000).decode()}


def test_nothing_that_steers_a_terminal_is_printed(fast_dir: Path, capsys: Output) -> None:
    file, evil = str(fast_dir / "o.db"), "\x1b[2J\x9b31m\r\u202e\t\n"
    asyncio.run(
        fill(
            Path(file), Stored(f"a{evil}", event=evil, data=(evil, {evil: float("nan")}), reason="expired", detail=evil)
        )
    )
    for arguments in (["list", file], ["list", file, "--json"], ["show", file, f"a{evil}"]):
        assert run(["outbox", *arguments]) == 0
        shown = capsys.readouterr().out
        assert all(character.isprintable() or character in "\t\n" for character in shown)
        assert "\\u202e" in shown
    assert listed(file, capsys)[0]["data"] == [evil, {evil: "nan"}, f"a{evil}"]


def test_messages_of_the_msgpack_serializer(fast_dir: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    file = str(fast_dir / "o.db")
    asyncio.run(fill(Path(file), Stored("a", data=({1: b"\0"},)), packet=MsgPackPacket))
    assert listed(file, capsys)[0]["data"] == [{"1": {"$base64": "AA=="}}, "a"]
    assert run(["send", NOWHERE, "--outbox", file, "--file", os.devnull]) == 1
    assert "another serializer, msgpack" in capsys.readouterr().err
    assert states(file, capsys) == [("pending", "a")]
    monkeypatch.setitem(sys.modules, "socketio.msgpack_packet", None)
    outbox_file._msgpack.cache_clear()
    assert listed(file, capsys)[0]["data"] is None
    assert run(["outbox", "show", file, "a"]) == 0
    assert re.search(r"data +it cannot be read: \d+ bytes, encoded with msgpack, which is not", capsys.readouterr().out)
    outbox_file._msgpack.cache_clear()


def test_what_cannot_be_decoded_is_listed_all_the_same(fast_dir: Path, capsys: Output) -> None:
    file = str(fast_dir / "o.db")
    broken = [
        Stored(f"o-{n}", frames=frames) for n, frames in enumerate(("2[", "no packet", "2" + "[" * 100_000, b"\xc1"))
    ]
    asyncio.run(fill(Path(file), *broken))
    assert [(found["offset"], found["data"]) for found in listed(file, capsys)] == [(f"o-{n}", None) for n in range(4)]
    assert all(found["unreadable"] for found in listed(file, capsys))
    assert run(["outbox", "list", file]) == 0
    assert run(["outbox", "show", file, "o-2"]) == 0


# Steering.


def test_a_dead_letter_is_retried_at_the_end_of_the_queue(path: str, capsys: Output) -> None:
    assert run(["outbox", "retry", path, "dead-2", "dead-2"]) == 0
    captured = capsys.readouterr()
    assert captured.out == (
        f"1 dead letter pending again, at the end of the queue; sent by the next client on {path}, or by: "
        f"reliable-emit send URL --outbox {path}\n"
    )
    assert captured.err == ""
    assert states(path, capsys) == [
        ("dead", "dead-0"),
        ("pending", "wait-1"),
        ("pending", "wait-3"),
        ("pending", "dead-2"),
    ]


def test_all_dead_letters_are_retried(path: str, capsys: Output) -> None:
    assert run(["outbox", "retry", path, "--all"]) == 0
    assert capsys.readouterr().out.startswith("2 dead letters pending again")
    assert states(path, capsys) == [("pending", f"{name}") for name in ("wait-1", "wait-3", "dead-0", "dead-2")]
    assert run(["outbox", "retry", path, "--all"]) == 0
    assert capsys.readouterr().out == f"there are no dead letters in {path}\n"


def test_messages_are_discarded(path: str, capsys: Output) -> None:
    assert run(["outbox", "discard", path, "wait-1", "dead-0"]) == 0
    assert capsys.readouterr().out == "1 dead letter discarded\n1 pending message discarded; it will not be sent\n"
    assert states(path, capsys) == [("dead", "dead-2"), ("pending", "wait-3")]
    assert run(["outbox", "discard", path, "--all"]) == 0
    assert capsys.readouterr().out == "1 dead letter discarded\n"
    assert states(path, capsys) == [("pending", "wait-3")]


def test_hundreds_at_once(fast_dir: Path, capsys: Output) -> None:
    file = str(fast_dir / "o.db")
    asyncio.run(
        fill(
            Path(file),
            *(Stored(f"o-{n}", reason="expired") for n in range(300)),
            *(Stored(f"p-{n}") for n in range(300)),
        )
    )
    assert run(["outbox", "retry", file, "--all"]) == 0
    expected = [f"p-{n}" for n in range(300)] + [f"o-{n}" for n in range(300)]
    assert states(file, capsys) == [("pending", offset) for offset in expected]
    assert run(["outbox", "discard", file, *expected[1:]]) == 0
    assert "599 pending messages discarded; they will not be sent\n" in capsys.readouterr().out
    assert states(file, capsys) == [("pending", "p-0")]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["retry", "dead-0", "nobody"], "no message in PATH has the offset 'nobody'; nothing was done"),
        (["discard", "wait-1", "nobody"], "no message in PATH has the offset 'nobody'; nothing was done"),
        (["retry", "dead-0", "wait-1"], "the message 'wait-1' in PATH is pending, only dead letters are retried"),
        (["show", "nobody"], "no message in PATH has the offset 'nobody'"),
        (["show", "-nobody"], "no message in PATH has the offset '-nobody'"),
        (["retry", "--nobody"], "no message in PATH has the offset '--nobody'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_is_not_there_is_one_line_and_nothing_is_half_done(
    path: str, capsys: Output, arguments: list[str], expected: str
) -> None:
    command, *offsets = arguments
    assert run(["outbox", command, path, *offsets]) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith(f"error: {expected.replace('PATH', path)}")
    assert (captured.err.count("\n"), captured.out) == (1, "")
    assert states(path, capsys) == BEFORE


def test_offsets_may_look_like_options(fast_dir: Path, capsys: Output) -> None:
    file, offsets = str(fast_dir / "o.db"), ["-h-0", "--x-1", "-json", "--all"]
    asyncio.run(fill(Path(file), *(Stored(offset, reason="expired") for offset in offsets)))
    for offset in offsets[:3]:
        assert run(["outbox", "show", file, offset, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["offset"] == offset
    assert run(["outbox", "retry", file, *offsets[:3]]) == 0
    assert run(["outbox", "discard", file, "--", "--all"]) == 0
    assert states(file, capsys) == [("pending", offset) for offset in offsets[:3]]


def test_a_dead_letter_that_cannot_be_read_stays_one(path: str, capsys: Output) -> None:
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE dead_letter SET frames = x'00' WHERE client_offset = 'dead-0'")
    assert run(["outbox", "retry", path, "dead-2", "dead-0"]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: the dead letter 'dead-0' in {path} cannot be sent: ")
    assert error.endswith("; nothing was done\n")
    assert run(["outbox", "retry", path, "--all"]) == 1
    assert "1 dead letter cannot be sent" in capsys.readouterr().err
    assert states(path, capsys) == [
        ("dead", "dead-0"),
        ("pending", "wait-1"),
        ("pending", "wait-3"),
        ("pending", "dead-2"),
    ]
    assert run(["outbox", "discard", path, "dead-0"]) == 0


# Wrong files.


def not_there(path: Path) -> None:
    path.unlink()


def directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def text(path: Path) -> None:
    path.write_text("no database at all, just text that is long enough to be looked at " * 20)


def anothers(path: Path) -> None:
    path.unlink()
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE recipes (name)")


def newer(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 99")


def damaged(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:4096] + b"\xff" * (len(content) - 4096))


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (not_there, "cannot be used: there is no such file"),
        (directory, "cannot be used: it is a directory"),
        (pipe, "cannot be used: it is not a regular file"),
        (empty, "cannot be read: it is no outbox"),
        (text, "cannot be read: file is not a database"),
        (anothers, "cannot be read: it is no outbox"),
        (newer, "cannot be used: "),
        (damaged, "cannot be read: "),
    ],
)
def test_a_file_that_is_no_outbox_is_one_line(
    fast_dir: Path, path: str, capsys: Output, spoil: Any, expected: str
) -> None:
    for leftover in fast_dir.glob("outbox.db-*"):
        leftover.unlink()
    spoil(Path(path))
    before = sorted(fast_dir.iterdir())
    for arguments in (["list"], ["show", "wait-1"], ["retry", "--all"], ["discard", "wait-1"]):
        command, *others = arguments
        assert run(["outbox", command, path, *others]) == 1
        captured = capsys.readouterr()
        assert captured.err.startswith(f"error: the outbox {path} {expected}")
        assert (captured.err.count("\n"), captured.out) == (1, "")
    if spoil not in {damaged, newer}:  # which SQLite leaves its own files beside
        assert sorted(fast_dir.iterdir()) == before


def test_a_directory_that_is_not_there(fast_dir: Path, capsys: Output) -> None:
    for path in (fast_dir / "none" / "o.db", fast_dir / ("x" * 300)):
        assert run(["outbox", "list", str(path)]) == 1
        assert capsys.readouterr().err.startswith(f"error: the outbox {path} cannot be used: ")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission(fast_dir: Path, path: str, capsys: Output) -> None:
    for what in (Path(path), fast_dir):
        what.chmod(0)
        try:
            for command in (["list", path], ["retry", path, "--all"]):
                assert run(["outbox", *command]) == 1
                assert capsys.readouterr().err.startswith(f"error: the outbox {path} cannot be used: ")
        finally:
            what.chmod(0o700)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["list"], "Missing argument"),
        (["list", ""], "PATH is ''; give the path of an outbox's file"),
        (["list", ":memory:"], "PATH is ':memory:'"),
        (["list", "o.db", "--dead", "--pending"], "give --dead or --pending, or neither for both"),
        (["list", "o.db", "--limit", "0"], "--limit is 0; give 1 or more"),
        (["list", "o.db", "--limit", "few"], "--limit is 'few'; give a whole number, or 'all'"),
        (["list", "o.db", "--xml"], "--xml"),
        (["show", "o.db"], "Missing argument"),
        (["retry", "o.db"], "give the offsets of messages, or --all for all dead letters"),
        (["discard", "o.db", "a", "--all"], "give the offsets of messages, or --all"),
        (["empty", "o.db"], "No such command 'empty'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_wrong_usage_is_one_line_and_status_2(arguments: list[str], expected: str, capsys: Output) -> None:
    assert run(["outbox", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert expected in captured.err
    assert (captured.err.count("\n"), captured.out) == (1, "")


# As child processes: all at once, because each takes its time to start.


async def collect(directory: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    slots = asyncio.Semaphore(3)
    owned, file, large, many = (directory / name for name in ("owned.db", "file.db", "large.db", "many.db"))
    await fill(owned, *MESSAGES)
    await fill(file, *MESSAGES)
    await fill(large, Stored("dead-0", data=("x" * 4_000_000,), reason="exhausted"))
    await fill(many, *(Stored(f"o-{n}", data=("x" * 100,)) for n in range(2000)))

    async def one(name: str, *arguments: str) -> None:
        async with slots:
            found[name] = await program("outbox", *arguments)

    async def shell(name: str, script: str, *arguments: str) -> None:
        async with slots:
            found[name] = await program(script, "sh", *PROGRAM, *arguments, program=["sh", "-c"])

    async def terminal(name: str, columns: int) -> None:
        async with slots:
            found[name] = await at_a_terminal("outbox", "list", str(file), stdout_too=True, columns=columns)

    async def while_owned() -> None:
        async with child("send", NOWHERE, "--outbox", str(owned)) as owner:
            await owner.said("not connected: ")
            found["owner"] = owner.process.pid
            await asyncio.gather(
                one("owned list", "list", str(owned)),
                one("owned show", "show", str(owned), "dead-0", "--json"),
                one("owned retry", "retry", str(owned), "dead-0"),
                one("owned discard", "discard", str(owned), "--all"),
            )
            async with slots:
                found["second"] = await program("send", NOWHERE, "--outbox", str(owned), stdin=b"never read\n")

    # In blocks of 512 bytes: enough to open the file, and for what coverage writes, not to store the message once more.
    full = 'ulimit -f 4000; exec "$@"'
    await asyncio.gather(
        while_owned(),
        terminal("terminal", 120),
        terminal("narrow terminal", 60),
        shell("head", '("$@"; echo $? >&2) | head -1', "outbox", "list", str(many), "--json"),
        shell("full", full, "outbox", "retry", str(large), "dead-0"),
        shell("nothing to write to", '"$@" >/dev/full 2>/dev/full', "outbox", "list", str(many), "--limit", "all"),
    )
    found["large"] = str(large)
    return found


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return asyncio.run(collect(tmp_path_factory.mktemp("outbox")))


def test_it_can_be_looked_at_while_somebody_owns_it(found: dict[str, Any]) -> None:
    result: Result = found["owned list"]
    assert (result.status, result.clean) == (0, True)
    assert [line.split("\t")[1] for line in result.out.splitlines()] == ["dead-0", "dead-2", "wait-1", "wait-3"]
    assert json.loads(found["owned show"].out)["offset"] == "dead-0"


@pytest.mark.parametrize(("command", "method"), [("retry", "redeliver"), ("discard", "discard")])
def test_on_an_owned_file_it_is_said_who_has_to_do_it(found: dict[str, Any], command: str, method: str) -> None:
    result: Result = found[f"owned {command}"]
    assert re.fullmatch(
        rf"error: /\S+/owned\.db is in use by process {found['owner']}; that one has to do it, with "
        rf"client\.{method}\(offset\), or end it first\n",
        result.err,
    )
    assert (result.status, result.out) == (1, "")


def test_a_second_sender_on_the_same_file_reads_nothing(found: dict[str, Any]) -> None:
    result: Result = found["second"]
    assert re.fullmatch(rf"error: the outbox \S+ is in use by process {found['owner']}; .*\n", result.err)
    assert (result.status, result.out) == (1, "")


def test_a_table_on_a_terminal(found: dict[str, Any]) -> None:
    status, shown = found["terminal"]
    plain = re.sub(r"\x1b\[[\d;]*m", "", shown).replace("\r", "")
    assert status == 0
    assert "\x1b[1m" in shown
    for pattern in (
        r"Dead letters *\n *offset +event +accepted +age +tries +data",
        r"\ndead-0 +chat message +Nov 1[45]  2023 +\d+ d +4 +\"hello\"",
        r"\n +gave up +Nov 1[45]  2023 +\d+ d +rejected: no\\nphotos",
        r"\nPending *\n",
        r"\nwait-3 +reading +Nov 1[45]  2023 +\d+ d +2 +21\.5, null",
        r"2 pending, 2 dead letters\n",
    ):
        assert re.search(pattern, plain), pattern


def test_a_narrow_terminal(found: dict[str, Any]) -> None:
    status, shown = found["narrow terminal"]
    plain = re.sub(r"\x1b\[[\d;]*m", "", shown).replace("\r", "")
    assert status == 0
    assert all(len(line) <= 60 for line in plain.splitlines())
    assert re.search(r"\n *offset +event +accepted +tries +data", plain)
    assert '"hello"' in plain


def test_output_that_nobody_reads(found: dict[str, Any]) -> None:
    assert found["head"].err.endswith("\n0\n")
    assert found["head"].clean
    assert found["nothing to write to"].status == 0


def test_a_disk_that_is_full(found: dict[str, Any], capsys: Output) -> None:
    result: Result = found["full"]
    assert re.fullmatch(
        r"error: \S+ could not be written to, is the disk full\? 1 message in it is as before\n", result.err
    )
    assert (result.status, result.out) == (1, "")
    assert states(found["large"], capsys) == [("dead", "dead-0")]
