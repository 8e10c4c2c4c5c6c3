"""The file of the way back: killed or without power at any instant, it has a number that was true, or is refused."""

from __future__ import annotations

import itertools
import os
from typing import TYPE_CHECKING, Any

import pytest

from crash_support import Zygote, say
from reliable_emit import ServerOffset, ServerOffsetError
from reliable_emit.server_offset import file as file_module
from reliable_emit.server_offset.file import OffsetFile
from server_offset_support import kept

if TYPE_CHECKING:
    from pathlib import Path


async def test_the_offset_outlives_the_object_and_its_directory_may_move(tmp_path: Path) -> None:
    seen = ServerOffset(tmp_path / "seen.offset")
    handler = seen.track(lambda _number: None)
    for number in (1, 2, 7):
        await handler(number)
    seen.close()
    seen.close()
    await handler(8)  # not kept any more
    calls: list[int] = []
    again = ServerOffset(str(tmp_path / "seen.offset"))
    assert again.auth() == {"serverOffset": 7}
    assert "7" in repr(again)
    handler = again.track(calls.append)
    for number in (6, 7, 8):
        await handler(number)
    assert calls == [8]
    again.close()
    assert kept(tmp_path / "seen.offset") == 8
    assert "0000000000000000008" in (tmp_path / "seen.offset").read_text()  # people can read it


async def test_a_file_has_one_owner(tmp_path: Path) -> None:
    path = tmp_path / "seen.offset"
    first = ServerOffset(path)
    with pytest.raises(ServerOffsetError, match="another ServerOffset has it") as caught:
        ServerOffset(path)
    assert str(path) in str(caught.value)
    assert caught.value.path == str(path)
    async with Zygote(__name__) as zygote, zygote.life(try_to_open, path=str(path)) as life:
        assert await life.ended() == 0
        assert len(life.lines) == 1
        assert str(path) in life.lines[0]
        assert "process" in life.lines[0]
    first.close()
    ServerOffset(path).close()
    dropped = ServerOffset(path)
    del dropped  # nobody can close it any more, so it closes itself
    ServerOffset(path).close()


async def try_to_open(path: str) -> None:
    try:
        ServerOffset(path)
    except ServerOffsetError as error:
        say(str(error))


@pytest.mark.parametrize("last", range(10, 12))  # each slot once
def test_a_write_that_breaks_off_at_any_byte_costs_one_event_at_the_most(tmp_path: Path, last: int) -> None:
    path = tmp_path / "seen.offset"
    file = OffsetFile(path)
    for number in range(1, last):
        file.save(number)
    before = path.read_bytes()
    file.save(last)
    file.close()
    after = path.read_bytes()
    changed = [index for index in range(len(after)) if after[index] != before[index]]
    start = changed[0] // 4096 * 4096
    found = set()
    for end in range(start, start + 100):
        path.write_bytes(before[:start] + after[start:end] + before[end:])
        again = OffsetFile(path)
        assert again.number in {last - 1, last}
        found.add(again.number)
        again.save(last + 5)  # and it goes on
        again.close()
        assert kept(path) == last + 5
    assert found == {last - 1, last}


def test_a_loss_of_power_leaves_a_number_that_was_true(tmp_path: Path) -> None:
    path = tmp_path / "seen.offset"
    file = OffsetFile(path)
    blocks: list[set[bytes]] = [set(), set()]  # what the disk may have of each, whatever it has of the other
    for number in range(8):
        if number:
            file.save(number)
        content = path.read_bytes()
        for index in range(2):
            blocks[index].add(content[index * 4096 : (index + 1) * 4096])
    file.close()
    assert [len(versions) for versions in blocks] == [5, 4] or [len(versions) for versions in blocks] == [4, 5]
    for first, second in itertools.product(*blocks):
        path.write_bytes(first + second)
        again = OffsetFile(path)
        assert 0 <= again.number <= 7
        again.close()


@pytest.mark.parametrize("step", ["open", "write", "fsync", "replace", "close"])
def test_an_end_while_the_file_is_made_leaves_none_or_a_whole_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    class Killed(BaseException):
        pass

    path = tmp_path / "seen.offset"
    true = getattr(os, step)

    def die(*arguments: Any) -> Any:
        if step == "open" and "-lock" in str(arguments[0]):
            return true(*arguments)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(os, step, die)
        with pytest.raises(Killed):
            file_module._make(str(path))
    assert not path.exists()
    seen = ServerOffset(path)
    assert seen.offset == 0
    seen.close()


@pytest.mark.parametrize("content", [b"", b"\0" * 8192, b"hello", b"x" * 100_000, "cut", "flipped"])
async def test_a_damaged_file_is_refused_by_name_and_left_alone(tmp_path: Path, content: bytes | str) -> None:
    path = tmp_path / "seen.offset"
    seen = ServerOffset(path)
    await seen.track(lambda _number: None)(123)
    seen.close()
    if content == "cut":
        content = path.read_bytes()[:30]
    elif content == "flipped":
        content = path.read_bytes().replace(b"version 1: 0", b"version 1: 9")
    assert isinstance(content, bytes)
    path.write_bytes(content)
    for _ in range(2):  # it lets go of the lock
        with pytest.raises(ServerOffsetError, match="it is damaged, or another program's") as caught:
            ServerOffset(path)
        assert str(path) in str(caught.value)
    assert path.read_bytes() == content


async def test_one_damaged_slot_is_made_good(tmp_path: Path) -> None:
    path = tmp_path / "seen.offset"
    seen = ServerOffset(path)
    handler = seen.track(lambda _number: None)
    for number in (5, 6):
        await handler(number)
    seen.close()
    content = path.read_bytes()
    newest = content.index(b"0000000000000000006") // 4096 * 4096
    path.write_bytes(content[:newest] + b"\xff" * 4096 + content[newest + 4096 :])
    again = ServerOffset(path)
    assert again.offset == 5
    handler = again.track(lambda _number: None)
    await handler(6)
    again.close()
    assert path.read_bytes().count(b"reliable-emit server offset, version 1") == 2
    assert kept(path) == 6


def test_the_only_sound_slot_is_never_written_over(tmp_path: Path) -> None:
    path = tmp_path / "seen.offset"
    for damaged in range(2):
        path.unlink(missing_ok=True)
        OffsetFile(path).close()
        content = path.read_bytes()
        path.write_bytes(content[: damaged * 4096] + b"\xff" * 4096 + content[(damaged + 1) * 4096 :])
        file = OffsetFile(path)
        sound = slice((1 - damaged) * 4096, (2 - damaged) * 4096)
        file.save(5)
        file.close()
        assert path.read_bytes()[sound] == content[sound]
        assert kept(path) == 5


def test_a_file_of_a_newer_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "seen.offset"
    with monkeypatch.context() as patch:
        patch.setattr(file_module, "_VERSION", 2)
        ServerOffset(path).close()
    with pytest.raises(ServerOffsetError, match="a newer version"):
        ServerOffset(path)


def test_a_file_that_cannot_be_used_is_an_error_at_the_constructor(tmp_path: Path) -> None:
    with pytest.raises(ServerOffsetError, match=r"the directory .*nowhere does not exist"):
        ServerOffset(tmp_path / "nowhere" / "seen.offset")
    with pytest.raises(ServerOffsetError, match="it is no file"):
        ServerOffset(tmp_path)
    with pytest.raises(ServerOffsetError, match="Not a directory"):
        ServerOffset("/dev/null/seen.offset")
    with pytest.raises(ServerOffsetError, match="make it readable and writable"):
        ServerOffset("/proc/self/seen.offset")  # nobody may write here, root neither
    assert list(tmp_path.iterdir()) == []


async def test_when_the_disk_fails_later_handlers_are_called_and_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[int] = []
    path = tmp_path / "seen.offset"
    seen = ServerOffset(path)
    handler = seen.track(calls.append)
    await handler(1)
    full = os.open("/dev/full", os.O_RDWR)
    assert seen._file is not None
    descriptor = seen._file._descriptor
    with monkeypatch.context() as patch:
        patch.setattr(seen._file, "_descriptor", full)
        for number in (2, 3):
            await handler(number)
    os.close(full)
    assert calls == [1, 2, 3]
    assert seen.offset == 3
    assert kept(path) == 1
    assert caplog.text.count("could not be saved") == 1
    assert "No space left on device" in caplog.text
    assert seen._file._descriptor == descriptor
    await handler(4)
    assert kept(path) == 4
    seen.close()
