"""What a disk can do: each fault is a clear error at the call that hit it, and what was accepted before is kept."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import logging
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from reliable_emit import OutboxCorrupt, OutboxUnavailable, ReliableClient, ReliableEmitError, SQLiteOutbox
from reliable_emit.delivery import DeadLetter
from reliable_emit.outbox.sqlite import schema as schema_module
from reliable_emit.outbox.sqlite import store as store_module
from sqlite_support import offline, query, rig, sio, store, written
from support import Server, within

if TYPE_CHECKING:
    from collections.abc import Iterator

BIG = "x" * 20_000


def data(client: ReliableClient) -> list[Any]:
    return [delivery.data[0] for delivery in client.queue()]


async def fill(client: ReliableClient, prefix: str, limit: int = 2000) -> tuple[list[str], Exception]:
    """Emit, several at a time, until that raises; return what was accepted, and the error."""
    accepted: list[str] = []
    for number in range(0, limit, 5):
        names = [f"{prefix}{n} {BIG}" for n in range(number, number + 5)]
        outcomes = await asyncio.gather(*(client.emit("echo", name) for name in names), return_exceptions=True)
        for name, outcome in zip(names, outcomes, strict=True):
            if not isinstance(outcome, BaseException):
                accepted.append(name)
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                return accepted, outcome
    raise AssertionError("the disk is never full")


# No space.


async def test_when_the_disk_is_full_emit_says_so_and_later_goes_on(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    async with rig(server, path, connect=False) as it:
        await store(it.client, lambda s: s._db.execute("PRAGMA max_page_count = 100").fetchall())
        accepted, error = await fill(it.client, "a")
        assert isinstance(error, OutboxUnavailable)
        assert error.path == str(path)
        assert "full" in error.detail
        assert str(error).endswith("Nothing was queued by this call")
        assert data(it.client) == accepted != []
        more, _ = await fill(it.client, "b", 5)  # which still does not fit
        accepted += more
        assert it.client.pending == it.client.stats.accepted == len(accepted)
        await store(it.client, lambda s: s._db.execute("PRAGMA max_page_count = 1000000").fetchall())
        await it.client.emit("echo", "at last")
        assert data(it.client) == [*accepted, "at last"]
        await it.connect()
        await within(it.client.flush())
    assert server.arguments() == [*accepted, "at last"]
    assert query(path, "SELECT count(*) FROM message") == [(0,)]


@pytest.fixture
def small_disk() -> Iterator[Path]:
    if os.geteuid() or shutil.which("mount") is None:
        pytest.skip("only root may mount a small disk")
    directory = tempfile.mkdtemp()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", directory]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        Path(directory).rmdir()
        pytest.skip("mounting a small disk is not allowed here")
    yield Path(directory)
    subprocess.run(["umount", "-l", directory], check=True)
    Path(directory).rmdir()


async def test_a_disk_that_is_really_full(server: Server, small_disk: Path) -> None:
    path, filler = small_disk / "outbox.db", small_disk / "filler"
    filler.write_bytes(b"x" * 1_300_000)
    async with rig(server, path, connect=False) as it:
        accepted, error = await fill(it.client, "a")
        assert isinstance(error, OutboxUnavailable)
        assert data(it.client) == accepted != []
        with open(small_disk / "rest", "wb", buffering=0) as rest, contextlib.suppress(OSError):  # noqa: ASYNC230
            while True:
                rest.write(b"x" * 512)
        await it.connect()  # and what is acknowledged cannot be written down
        await within(it.client.flush())
        assert server.arguments() == accepted
        for name in (filler, small_disk / "rest"):
            name.unlink()
        await it.client.emit("echo", "at last")
        await within(it.client.flush())
    assert server.arguments() == [*accepted, "at last"]
    assert query(path, "SELECT count(*) FROM message") == [(0,)]


_LIMITED = """
import asyncio, resource, sys, socketio
from reliable_emit import OutboxUnavailable, ReliableClient, SQLiteOutbox
async def main():
    client = ReliableClient(socketio.AsyncClient(handle_sigint=False), outbox=SQLiteOutbox(sys.argv[1]))
    await client.emit("e", "first")
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, resource.RLIM_INFINITY))
    accepted = 1
    try:
        for number in range(100):
            await client.emit("e", "x" * 20_000)
            accepted += 1
    except OutboxUnavailable as error:
        print(type(error).__name__, client.pending == accepted)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    await client.emit("e", "last")
    print(accepted + 1, await client.close(timeout=0))
asyncio.run(main())
"""


async def test_a_file_that_may_not_grow(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    run = subprocess.run(  # noqa: ASYNC221
        [sys.executable, "-c", _LIMITED, path], capture_output=True, text=True, timeout=60, check=True
    )
    first, second = run.stdout.splitlines()
    assert first == "OutboxUnavailable True"
    accepted, pending = second.split()
    assert accepted == pending
    async with offline(path) as client:
        queue = data(client)
    assert (queue[0], queue[-1], len(queue)) == ("first", "last", int(pending))


# No permission.

_NOBODY = """
import asyncio, os, sys, socketio
from reliable_emit import ReliableClient, ReliableEmitError, SQLiteOutbox
if os.geteuid() == 0:
    os.setegid(65534)
    os.seteuid(65534)
async def main():
    client = ReliableClient(socketio.AsyncClient(handle_sigint=False), outbox=SQLiteOutbox(sys.argv[1]))
    try:
        await client.emit("e", 1)
    except ReliableEmitError as error:
        print(type(error).__name__, error.path == sys.argv[1], error.detail, client.pending)
    await client.close(timeout=0)
asyncio.run(main())
"""


@pytest.mark.parametrize("exists", ["nothing", "file", "file and lock"])
def test_a_directory_that_may_not_be_written_to(exists: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        path = directory / "outbox.db"
        if exists != "nothing":

            async def emit() -> None:
                async with offline(path) as client:
                    await client.emit("e", 1)

            asyncio.run(emit())
            if exists == "file":
                (directory / "outbox.db-lock").unlink()
            for file in directory.iterdir():
                file.chmod(0o666)
        directory.chmod(0o555)
        before = {file.name: file.read_bytes() for file in directory.iterdir() if file.name != "outbox.db-lock"}
        run = subprocess.run(
            [sys.executable, "-c", _NOBODY, path], capture_output=True, text=True, timeout=60, check=True
        )
        assert run.stdout.startswith("OutboxUnavailable True ")
        assert run.stdout.endswith(" 0\n")
        assert {f.name: f.read_bytes() for f in directory.iterdir() if f.name != "outbox.db-lock"} == before
        directory.chmod(0o755)


# What is no outbox.


async def refused(path: Path, kind: type[ReliableEmitError], words: str) -> None:
    """Twice the same, at once: the first try must not be what the second one fails of."""
    client = ReliableClient(sio(), outbox=SQLiteOutbox(path))
    for _ in range(3):
        with pytest.raises(kind, match=words) as caught:
            await within(client.emit("e", 1))
        assert caught.value.path == str(path)  # type: ignore[attr-defined]
        assert client.pending == 0
    await client.close()


async def test_what_cannot_be_an_outbox_is_refused_and_left_alone(tmp_path: Path) -> None:
    await refused(tmp_path, OutboxUnavailable, "it is a directory; give a file in it")
    await refused(tmp_path / "no" / "outbox.db", OutboxUnavailable, "no does not exist")
    (tmp_path / "text").write_text("no database at all\n" * 100, encoding="utf-8")
    await refused(tmp_path / "text", OutboxCorrupt, "not a database.*Move it aside")
    other = tmp_path / "other.db"
    query(other, "CREATE TABLE t (x)")
    before = other.read_bytes()
    await refused(other, OutboxCorrupt, "another program's database")
    assert other.read_bytes() == before
    assert not (tmp_path / "other.db-wal").exists()
    query(other, "PRAGMA user_version = 1")
    query(other, "DROP TABLE t")
    await refused(other, OutboxCorrupt, "another program's database")


async def test_an_empty_file_becomes_an_outbox(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    path.touch()
    async with offline(path) as client:
        await client.emit("e", 1)
    async with offline(path) as client:
        assert data(client) == [1]


async def test_a_newer_version_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    async with offline(path) as client:
        await client.emit("e", 1)
    newer = len(schema_module.SCHEMA) + 1
    query(path, f"PRAGMA user_version = {newer}")
    before = path.read_bytes()
    await refused(path, OutboxUnavailable, f"a newer reliable-emit has written it .schema {newer}, this one knows")
    assert path.read_bytes() == before


async def test_an_older_version_is_brought_up_to_date(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "outbox.db"
    async with offline(path) as client:
        await client.emit("e", 1)
    version = len(schema_module.SCHEMA)
    newer = [
        *schema_module.SCHEMA,
        "CREATE TABLE extra (x); INSERT INTO extra VALUES (7)",
        "UPDATE extra SET x = x + 1",
    ]
    broken = [*newer, "UPDATE extra SET x = 100; UPDATE missing SET x = 1"]
    for schema in (broken, newer, newer):
        monkeypatch.setattr(schema_module, "SCHEMA", schema)
        if schema is broken:
            await refused(path, OutboxCorrupt, "no such table: missing")
            assert query(path, "PRAGMA user_version") == [(version,)], "half of it was done"
            continue
        async with offline(path) as client:
            assert data(client) == [1]
        assert query(path, "SELECT x FROM extra") == [(8,)]
        assert query(path, "PRAGMA user_version") == [(version + 2,)]


@pytest.mark.parametrize("through_a_link", [False, True])
async def test_a_log_without_its_file_is_not_thrown_away(tmp_path: Path, through_a_link: bool) -> None:
    path = tmp_path / "outbox.db"
    async with offline(path) as client:
        await client.emit("e", 1)
        for name in ("outbox.db", "outbox.db-wal"):
            shutil.copy(tmp_path / name, tmp_path / f"copy of {name}")
    (tmp_path / "copy of outbox.db").unlink()
    wal = tmp_path / "copy of outbox.db-wal"
    before = wal.read_bytes()
    copy = tmp_path / "copy of outbox.db"
    if through_a_link:
        (tmp_path / "link").symlink_to(copy)
        copy = tmp_path / "link"
    await refused(copy, OutboxCorrupt, "its write-ahead log copy of outbox.db-wal is there")
    assert wal.read_bytes() == before


@pytest.mark.parametrize(
    "state", ["DELETE FROM state", "UPDATE state SET doubtful_to = 'x'", "INSERT INTO state VALUES (1, 0)"]
)
async def test_a_damaged_note_of_how_it_ended_is_an_end_without_a_word(tmp_path: Path, state: str) -> None:
    path = tmp_path / "outbox.db"
    async with offline(path) as client:
        await client.emit("e", 1)
    query(path, state)
    async with offline(path) as client:
        assert data(client) == [1]
        assert client.queue()[0].cancel() is False
        await client.emit("e", 2)


# Taken away while in use.


@pytest.mark.parametrize("what", ["file", "log", "both", "replaced"])
async def test_a_file_that_is_taken_away_while_in_use(server: Server, tmp_path: Path, what: str) -> None:
    path, wal = tmp_path / "outbox.db", tmp_path / "outbox.db-wal"
    async with rig(server, path, connect=False) as it:
        for number in range(3):
            await it.client.emit("echo", number)
        if what in {"file", "both", "replaced"}:
            path.unlink()
        if what in {"log", "both"}:
            wal.unlink()
        if what == "replaced":
            path.write_bytes(b"")
        for _ in range(2):
            with pytest.raises(OutboxUnavailable, match="deleted or replaced while it was in use"):
                await it.client.emit("echo", "refused")
        assert it.client.pending == 3
        await it.connect()
        await within(it.client.flush())
    assert server.arguments() == [0, 1, 2]


# Damage.


async def _damaged(path: Path) -> str:
    """Do everything to the outbox, and return how that went; what is still in it is what was put in."""
    before = path.read_bytes()  # noqa: ASYNC240
    client = ReliableClient(sio(), outbox=SQLiteOutbox(path, synchronous="normal"), max_pending=None)
    try:
        await within(client._lifetime.opened())
    except (OutboxCorrupt, OutboxUnavailable):
        with pytest.raises((OutboxCorrupt, OutboxUnavailable)):  # and nobody has it locked
            await within(client._lifetime.opened())
        await within(client.close(timeout=0))
        after = path.read_bytes()  # noqa: ASYNC240
        assert len(after) == len(before)
        # At the most a note that somebody was here: in the header, and on the page of that note.
        assert sum(after[at : at + 4096] != before[at : at + 4096] for at in range(0, len(after), 4096)) <= 2
        return "refused"
    outcome = "fine"
    for step in (client.queue, client.dead_letters, lambda: client.discard("unknown")):
        try:
            step()
        except (OutboxCorrupt, OutboxUnavailable):
            outcome = "in part"
        except KeyError:
            pass
    for message in list(client._outbox._window):  # type: ignore[attr-defined]
        assert message.frames == f'2["echo","{message.frames.split(chr(34))[3]}"]', "another message"
        number = int(message.frames.split('"')[3].split()[0])
        assert message.frames == f'2["echo","{number} {"y" * (number * 37 % 900)}"]', "another message"
    for number in range(3):
        try:
            await within(client.emit("echo", number))
        except (OutboxCorrupt, OutboxUnavailable, ValueError):
            outcome = "in part"
    for delivery in _some(client):
        delivery.cancel()
    await within(client.close(timeout=0))
    return outcome


def _some(client: ReliableClient) -> list[Any]:
    try:
        return client.queue()[:20]
    except (OutboxCorrupt, OutboxUnavailable):
        return []


async def _sound(path: Path) -> None:
    async with offline(path, max_pending=None) as client:
        await asyncio.gather(*(client.emit("echo", f"{number} {'y' * (number * 37 % 900)}") for number in range(700)))
        for delivery in client.queue()[600:]:
            client._driver.withdraw(delivery._message, "expired", "for the shelf")
    query(path, "PRAGMA wal_checkpoint(TRUNCATE)")


async def test_a_file_that_is_cut_short_is_refused_or_works_as_far_as_it_goes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, copy = tmp_path / "outbox.db", tmp_path / "copy.db"
    await _sound(path)
    whole = path.read_bytes()
    lengths = [1, 15, 16, 99, 100, 511, 512, 4095, 4096, 4097, 8192, len(whole) - 4096, len(whole) - 1]
    outcomes = {}
    for length in lengths + random.Random(1).sample(range(len(whole)), 30):
        _forget(copy)
        copy.write_bytes(whole[:length])
        outcomes[length] = await _damaged(copy)
        caplog.clear()
    assert outcomes[1] == outcomes[4095] == "refused"
    assert "fine" not in {outcome for length, outcome in outcomes.items() if length < len(whole) - 4096}


async def test_a_file_with_wrong_bytes_is_refused_or_works_as_far_as_it_goes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, copy = tmp_path / "outbox.db", tmp_path / "copy.db"
    await _sound(path)
    whole = path.read_bytes()
    outcomes = []
    for seed in range(80):
        chance = random.Random(seed)
        content = bytearray(whole)
        page = chance.randrange(len(content) // 4096) * 4096 if seed % 3 else 0
        for _ in range(chance.choice([1, 1, 4, 40])):
            # Where it hurts: in the header of a page, among its pointers; and anywhere.
            at = chance.choice(
                [page + chance.randrange(120), page + chance.randrange(4096), chance.randrange(len(content))]
            )
            content[at] = chance.randrange(256)
        _forget(copy)
        copy.write_bytes(content)
        outcomes.append(await _damaged(copy))
        caplog.clear()
    assert set(outcomes) == {"refused", "in part", "fine"}


def _forget(path: Path) -> None:
    for name in path.parent.glob(f"{path.name}*"):
        name.unlink()


async def test_what_is_damaged_while_in_use_stops_nobody(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "outbox.db"
    async with offline(path, max_pending=None) as client:
        await asyncio.gather(*(client.emit("echo", f"{number} {BIG}") for number in range(600)))
        await written(client)
        await store(client, lambda s: s._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall())
        await store(client, lambda s: s._db.execute("PRAGMA shrink_memory").fetchall())
        size = path.stat().st_size
        with open(path, "r+b") as file:  # noqa: ASYNC230
            file.seek(4096)
            file.write(os.urandom(size - 4096))
        with pytest.raises((OutboxCorrupt, OutboxUnavailable)):
            await within(client.emit("echo", "refused"))
        with pytest.raises((OutboxCorrupt, OutboxUnavailable)):
            client.queue()
        head = client._outbox.head()
        assert head is not None  # what is in memory can still be delivered
        client._driver.cancel(head)
        await written(client)
    assert "what has become of messages is written down when that is over" in caplog.text
    with pytest.raises((OutboxCorrupt, OutboxUnavailable)):
        async with offline(path):
            pass


# What else uses the file, or is in its place.


async def test_who_reads_the_file_holds_up_nobody(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    client = ReliableClient(sio(), outbox=SQLiteOutbox(path, synchronous="normal"))
    await client.emit("e", 0)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("BEGIN")
        db.execute("SELECT * FROM message").fetchall()
        for number in range(3):
            await asyncio.sleep(0.3)  # it is idle, and begins to tidy up
            async with asyncio.timeout(2):
                await client.emit("e", number)
        async with asyncio.timeout(1.5):
            await client.close(timeout=0)
        async with offline(path) as again:
            assert data(again) == [0, 0, 1, 2]


@pytest.mark.parametrize("how", ["remove", "bury"])
@pytest.mark.parametrize("where", ["window", "file", "appending"])
async def test_what_is_settled_twice_is_settled_once(tmp_path: Path, how: str, where: str) -> None:
    path = tmp_path / "outbox.db"
    async with offline(path, max_pending=None) as client:
        outbox = client._outbox
        number = 600 if where == "file" else 3
        await asyncio.gather(*(client.emit("e", n) for n in range(number)))
        if where == "appending":
            adding = asyncio.ensure_future(client.emit("e", number))
            while len(outbox) == number:  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0)
            number += 1
        message = list(outbox)[-1]
        again = copy.copy(message)
        for one in (message, message, again):
            if how == "remove":
                outbox.remove(one)
            else:
                outbox.bury(DeadLetter(one, "expired", "", 1.0, lambda _: ()))
            assert len(outbox) == number - 1 == len(list(outbox))
        if where == "appending":
            await adding
        await written(client)
        outbox.remove(message)
        outbox.bury(DeadLetter(again, "expired", "", 1.0, lambda _: ()))
        assert len(outbox) == number - 1
        assert len(outbox.dead_letters()) == (how == "bury")
    assert query(path, "SELECT count(*) FROM message") == [(number - 1,)]


async def test_what_expires_while_it_cannot_be_stored_is_no_dead_letter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "outbox.db"
    async with offline(path) as client:
        await client.emit("e", 0)
        write, failing = store_module.Store.write, threading.Event()

        def full(it: store_module.Store, batches: Any) -> Any:
            failing.wait(10)
            monkeypatch.setattr(store_module.Store, "write", write)
            raise OutboxUnavailable(str(path), "the disk is full")

        monkeypatch.setattr(store_module.Store, "write", full)
        emitting = asyncio.ensure_future(client.emit("e", "half"))
        while len(client._outbox) < 2:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0)
        message = list(client._outbox)[-1]
        client._outbox.bury(DeadLetter(message, "expired", "", 1.0, lambda _: ()))
        await asyncio.sleep(0.3)  # the letter is on its way, too
        failing.set()
        with pytest.raises(OutboxUnavailable):
            await within(emitting)
        assert client.dead_letters() == []
        await written(client)
        assert client.dead_letters() == []
        assert data(client) == [0]


async def test_without_pwrite_as_on_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "pwrite")
    path = tmp_path / "outbox.db"
    (tmp_path / "outbox.db-lock").write_text("a longer text of another program\n", encoding="utf-8")
    async with offline(path) as client:
        await client.emit("e", 1)
        assert (tmp_path / "outbox.db-lock").read_text(encoding="utf-8") == f"{os.getpid()}\n"


async def test_a_lock_that_fails_half_way_is_let_go_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "outbox.db"
    with monkeypatch.context() as patch:
        patch.setattr(os, "ftruncate", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            async with offline(path):
                pass
    async with offline(path) as client:
        await client.emit("e", 1)


@pytest.mark.skipif(sys.platform != "linux", reason="other file systems take no such names")
async def test_a_name_that_is_no_text(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR, "reliable_emit")  # the name cannot be in a report: workers send theirs as text
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff?#%.db"))
    async with offline(path) as client:
        await client.emit("e", 1)
        assert client.dead_letters() == []
    assert SQLiteOutbox(path).dead_letters() == []


async def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    await refused(path, OutboxUnavailable, "it is no regular file")
    with pytest.raises(OutboxUnavailable, match="it is no regular file"):
        SQLiteOutbox(path).dead_letters()
    assert not (tmp_path / "pipe-lock").exists()


def test_a_file_that_is_not_there_yet_has_no_dead_letters(tmp_path: Path) -> None:
    outbox = SQLiteOutbox(tmp_path / "outbox.db")
    assert (outbox.dead_letters(), len(outbox), list(outbox)) == ([], 0, [])
    assert list(tmp_path.iterdir()) == []


_READS = """
import os, sys
from reliable_emit import OutboxUnavailable, SQLiteOutbox
if os.geteuid() == 0:
    os.setegid(65534)
    os.seteuid(65534)
try:
    print(SQLiteOutbox(sys.argv[1]).dead_letters())
except OutboxUnavailable as error:
    print(error.detail)
"""


@pytest.mark.parametrize(("mode", "words"), [(0o555, "may not write to the directory"), (0o000, "Permission denied")])
def test_reading_in_a_directory_that_belongs_to_another(mode: int, words: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "outbox.db"

        async def emit() -> None:
            async with offline(path) as client:
                await client.emit("e", 1)

        asyncio.run(emit())
        path.chmod(0o644)
        path.parent.chmod(mode)
        command = [sys.executable, "-c", _READS, str(path)]
        run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        path.parent.chmod(0o755)
    assert words in run.stdout
