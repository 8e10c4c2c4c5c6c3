"""What is left of an outbox when the power fails.

A sender runs under ``strace``, which tells in which order it wrote, synced, and said that an ``emit`` had returned.
From that record the disk is rebuilt as it may be found after a loss of power at any point: with everything that was
synced before, and of the rest whatever chance leaves, torn writes included. A real outbox is then opened on it.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import dataclasses
import json
import random
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pytest

from cli_support import fast_dir
from crash_support import EVENT, connect, need, say, sender
from reliable_emit import SQLiteOutbox
from reliable_emit.outbox.sqlite import worker
from reliable_emit.server import ReferenceServer
from support import within

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from reliable_emit.delivery import Frames, Message

__all__ = ["fast_dir"]

POINTS = 200
SECTOR = 512
REJECTED = 100
CALLS = (
    "openat,open,creat,lseek,write,pwrite64,writev,pwritev,pwritev2,fsync,fdatasync,sync_file_range,ftruncate,truncate,"
    "fallocate,unlink,unlinkat,rename,renameat,renameat2,link,linkat"
)

Synchronous = Literal["full", "normal"]
Kind = Literal["create", "write", "truncate", "sync", "unlink", "say"]


def number(frames: Frames) -> int:
    assert isinstance(frames, str)
    return int(json.loads(frames[frames.index("[") :])[1].split()[0])


# The sender, which runs in a process of its own.


class MarkingOutbox(SQLiteOutbox):
    def remove(self, message: Message) -> None:
        if message.state == "acknowledged":
            say(f"settled {number(message.frames)}")  # before anything is done about it
        super().remove(message)


async def live(path: str, url: str, synchronous: Synchronous) -> None:
    """Emit alone and in groups, while offline, paused and online, and let the queue grow, shrink and be idle."""
    worker._IDLE = 60.0  # on a busy machine this process may look idle at any time
    chance = random.Random(1)
    client = sender(path, lambda path: MarkingOutbox(path, synchronous=synchronous), max_pending=None)
    count = 0

    async def emit() -> None:
        nonlocal count
        count += 1
        mine = count
        say(f"called {mine}")
        await client.emit(EVENT if mine != REJECTED else "unheard of", f"{mine} {'x' * chance.randrange(12_000)}")
        say(f"accepted {mine}")

    async def emit_some(alone: int, groups: int) -> None:
        for _ in range(alone):
            await emit()
        for _ in range(groups):
            await asyncio.gather(*(emit() for _ in range(chance.randrange(2, 8))))

    await emit_some(40, 5)
    await connect(client, url)
    for turn in range(4):
        client.pause()
        await emit_some(25, 4)
        client.resume()
        await emit_some(15, 4)
        if turn == 2:
            worker._IDLE = 0.05
            await client.flush()
            wal = Path(f"{path}-wal")
            while wal.stat().st_size:  # noqa: ASYNC110, ASYNC240 - given back when nothing happens for a while
                await asyncio.sleep(0.01)
    client.pause()
    await emit_some(10, 2)
    await client.close(timeout=0)


# What it did.


@dataclasses.dataclass(frozen=True, slots=True)
class Step:
    """What was done to a file (the directory itself has no name), or what the sender said."""

    kind: Kind
    file: str = ""
    data: bytes = b""
    at: int = 0


_KINDS: dict[str, Kind] = {  # of all other calls nothing is known here, and one is an error
    "pwrite64": "write",
    "ftruncate": "truncate",
    "fsync": "sync",
    "fdatasync": "sync",
    "unlink": "unlink",
    "unlinkat": "unlink",
}
_LINE = re.compile(rb"(\d+) +(?:<\.\.\. \w+ resumed>)?(.*)")
_CALL = re.compile(rb"(\w+)\((.*)\) += (\d+)")
_DESCRIPTOR = re.compile(rb"(\d+)<([^>]*)>")
_STRING = re.compile(rb'"([^"]*)"')
_NUMBER = re.compile(rb", (\d+)")


def _plain(escaped: bytes) -> bytes:
    return bytes.fromhex(escaped.replace(b"\\x", b"").decode())


def _calls(trace: Path) -> Iterator[tuple[str, bytes, int]]:
    """Iterate over the calls that succeeded, each where it ended: the name, the arguments, the result."""
    begun: dict[bytes, bytes] = {}
    for raw in trace.read_bytes().splitlines():
        line = _LINE.fullmatch(raw)
        assert line is not None, raw[:200]
        process, text = line.groups()
        if text.endswith(b" <unfinished ...>"):
            begun[process] = text.removesuffix(b" <unfinished ...>")
        elif (call := _CALL.match(begun.pop(process, b"") + text)) is not None:
            yield call[1].decode(), call[2], int(call[3])


def read_trace(trace: Path, directory: Path) -> Iterator[Step]:
    """Iterate over what was done in a directory and what was said, in order.

    One thread alone writes and syncs: no call overlaps another, and a sync is one of all that was written before.
    """
    positions: dict[int, int] = {}
    for name, arguments, result in _calls(trace):
        opened = _DESCRIPTOR.match(arguments)
        descriptor = int(opened[1]) if opened is not None else result
        strings = [_plain(string) for string in _STRING.findall(arguments)]
        path = Path((_plain(opened[2]) if opened is not None else strings[0]).decode(errors="replace"))
        file = "" if path == directory else path.name
        if name == "write" and descriptor == 1:
            yield Step("say", data=strings[0])
        elif directory not in {path, path.parent} or file.endswith(("-shm", "-lock")):
            continue  # of these, one is made anew by whoever opens the file, and the other tells nothing
        elif name in {"openat", "open"}:
            positions[descriptor] = 0
            assert b"O_TRUNC" not in arguments
            if b"O_CREAT" in arguments:
                yield Step("create", file)
        elif name == "lseek":
            positions[descriptor] = result
        elif name == "write":
            yield Step("write", file, strings[0][:result], positions[descriptor])
            positions[descriptor] += result
        else:
            at = int(_NUMBER.findall(arguments)[-1]) if name in {"pwrite64", "ftruncate"} else 0
            yield Step(_KINDS[name], file, strings[0][:result] if name == "pwrite64" else b"", at)


# What the disk makes of it.


class File:
    """A file: what is on the disk for sure, and what has been done to it since."""

    def __init__(self) -> None:
        self._synced = bytearray()
        self._since: list[Step] = []

    def do(self, step: Step) -> None:
        self._since.append(step)

    def sync(self) -> None:
        for step in self._since:
            self._apply(self._synced, step)
        self._since.clear()

    def after_power_loss(self, chance: random.Random, kept: float) -> bytes:
        """Return what may be found: everything that was synced, and of each later step all, nothing or some sectors."""
        content = bytearray(self._synced)
        for step in self._since:
            if chance.random() < kept:
                self._apply(content, step)
            elif kept and step.kind == "write" and chance.random() < 0.5:
                for sector in self._sectors(step):
                    if chance.random() < 0.5:
                        self._apply(content, sector)
        return bytes(content)

    @staticmethod
    def _sectors(step: Step) -> Iterator[Step]:
        at, end = step.at, step.at + len(step.data)
        while at < end:
            following = min(at // SECTOR * SECTOR + SECTOR, end)
            yield Step("write", step.file, step.data[at - step.at : following - step.at], at)
            at = following

    @staticmethod
    def _apply(content: bytearray, step: Step) -> None:
        end = step.at + len(step.data)
        if step.kind == "truncate":
            del content[step.at :]
        content.extend(bytes(max(end - len(content), 0)))
        content[step.at : end] = step.data


class Disk:
    """A directory: which names are in it for sure, and what has been done to them since it was synced itself."""

    def __init__(self) -> None:
        self._names: dict[str, File] = {}
        self._synced: dict[str, File] = {}
        self._since: list[tuple[str, File | None]] = []

    def do(self, step: Step) -> None:
        match step.kind:
            case "create" if step.file not in self._names:
                self._names[step.file] = File()
                self._since.append((step.file, self._names[step.file]))
            case "unlink":
                del self._names[step.file]
                self._since.append((step.file, None))
            case "sync" if not step.file:
                self._synced = dict(self._names)
                self._since.clear()
            case "sync":
                self._names[step.file].sync()
            case "write" | "truncate":
                self._names[step.file].do(step)

    def after_power_loss(self, chance: random.Random, kept: float) -> dict[str, bytes]:
        names = dict(self._synced)
        for name, file in self._since:
            if chance.random() < kept:
                if file is None:
                    names.pop(name, None)
                else:
                    names[name] = file
        return {name: file.after_power_loss(chance, kept) for name, file in names.items()}


# What is found.


class Nobody:
    """Owns an outbox to look into it."""

    def loaded(self, messages: Sequence[Message]) -> None:
        pass

    def refused(self, message: Message) -> None:
        pass

    def decode(self, frames: Frames) -> tuple[object, ...]:
        return (number(frames),)


@dataclasses.dataclass
class Said:
    called: set[int] = dataclasses.field(default_factory=set)
    accepted: set[int] = dataclasses.field(default_factory=set)
    settled: set[int] = dataclasses.field(default_factory=set)

    def hear(self, data: bytes) -> str:
        for line in data.decode().splitlines():
            word, which = line.split()
            getattr(self, word).add(int(which))
        return word


async def look_into(directory: Path) -> tuple[list[int], list[int]]:
    """Open the outbox in a directory; return what is pending, and the dead letters."""
    outbox = SQLiteOutbox(directory / "outbox.db")
    await within(outbox.open(Nobody()))
    pending = [number(message.frames) for message in outbox]
    dead = [letter.data[0] for letter in outbox.dead_letters()]
    assert len(outbox) == len(pending)
    await outbox.close()
    return pending, dead


@contextlib.contextmanager
def written(files: dict[str, bytes], directory: Path) -> Iterator[Path]:
    directory.mkdir()
    for name, content in files.items():
        (directory / name).write_bytes(content)
    yield directory
    shutil.rmtree(directory)


def can_trace() -> bool:
    with contextlib.suppress(OSError):
        return not subprocess.run(
            ["strace", "-f", "-o", "/dev/null", sys.executable, "-c", ""], check=False, timeout=20, capture_output=True
        ).returncode
    return False


async def record(directory: Path, trace: Path, synchronous: Synchronous) -> list[Step]:
    options = ["-f", "-y", "-xx", "-s", "100000000", "-o", str(trace), "-e", f"trace={CALLS}"]
    async with ReferenceServer() as server:
        process = await asyncio.create_subprocess_exec(
            "strace",
            *options,
            *(sys.executable, __file__, str(directory / "outbox.db"), server.url, synchronous),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            _, complaints = await within(process.communicate())
        finally:
            if process.returncode is None:
                process.terminate()  # and with it, unlike after a kill, what it traces
                await process.wait()
    assert process.returncode == 0, complaints.decode()
    return list(read_trace(trace, directory))


@pytest.mark.parametrize("synchronous", ["full", "normal"])
async def test_what_is_there_after_a_loss_of_power(fast_dir: Path, synchronous: Synchronous) -> None:
    need("strace", can_trace(), "strace is not installed, or may not trace here")
    seed = random.randrange(1_000_000)
    chance = random.Random(seed)
    print(f"seed {seed}")
    started = time.monotonic()
    (fast_dir / "run").mkdir()
    steps = await record(fast_dir / "run", fast_dir / "trace", synchronous)
    recorded = time.monotonic()
    points = set(chance.sample(range(len(steps)), POINTS))
    disk, said = Disk(), Said()
    looked = lost_some = lost_most = 0
    for index, step in enumerate(steps):
        disk.do(step)
        # At random points anything may have become of what was not synced; after each `emit`, nothing at all was kept.
        kept = [chance.choice([0, 0.5, 0.9, 1])] if index in points else []
        if step.kind == "say" and said.hear(step.data) == "accepted":
            kept.append(0)
        for share in kept:
            with written(disk.after_power_loss(chance, share), fast_dir / "found") as directory:
                pending, dead = await look_into(directory)
            where = (seed, index, share)
            assert pending == sorted(set(pending)), where
            assert dead in ([], [REJECTED]), where
            assert not set(dead) & set(pending), where
            found = {*pending, *dead}
            assert found <= said.called, where
            missing = said.accepted - said.settled - found
            if synchronous == "full":
                assert not missing, where
            elif missing:
                assert min(missing) > max(found, default=0), where
                lost_some += 1
                lost_most = max(lost_most, len(missing))
            looked += 1
    log = [step for step in steps if step.file == "outbox.db-wal"]
    emptied = sum(step.kind == "truncate" and step.at == 0 for step in log)
    begun = sum(step.kind == "write" and step.at == 0 for step in log)
    written_back = sum(step.kind == "write" and step.file == "outbox.db" for step in steps)
    kinds = collections.Counter(step.kind for step in steps)
    print(
        f"recorded in {recorded - started:.1f} s, looked {looked} times in {time.monotonic() - recorded:.1f} s; "
        f"{dict(kinds)}; the log was begun {begun} times and emptied {emptied} times, {written_back} pages written "
        f"back; {len(said.accepted)} accepted, {len(said.settled)} settled; lost {lost_some} times, at most {lost_most}"
    )
    # The test has tested something.
    assert said.accepted == said.called
    assert 0 < len(said.settled) < len(said.accepted)
    assert REJECTED in said.accepted
    assert dead == [REJECTED]
    assert emptied > 0
    assert begun > 1 + emptied  # once because it was long
    assert written_back > 100
    assert (lost_some > 0) == (synchronous == "normal")


if __name__ == "__main__":
    asyncio.run(live(*sys.argv[1:]))  # type: ignore[arg-type]
