"""`reliable-emit demo` and its verdict, which has to be able to fail; `serve`; the program's frame."""

from __future__ import annotations

import io
import re
import signal
import sqlite3
import sys
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from rich.console import Console

from cli_support import child, environment, program, serving, stored
from reliable_emit.cli import run
from reliable_emit.cli.demo import demo_lines, split
from reliable_emit.cli.picture import svg
from reliable_emit.cli.trial import schedule
from reliable_emit.cli.verdict import Row, Tally, Verdict, judge, judge_database, judge_reader, picture
from reliable_emit.server import FAULTS


@pytest.mark.parametrize(
    ("expected", "found", "tally"),
    [
        ("", "", Tally()),
        ("abc", "abc", Tally()),
        ("abc", "ac", Tally(lost=1)),
        ("abc", "", Tally(lost=3)),
        ("abc", "abbc", Tally(duplicated=1)),
        ("abc", "abcabc", Tally(duplicated=3)),
        ("abc", "abca", Tally(duplicated=1)),
        ("abc", "acb", Tally(out_of_order=1)),
        ("abc", "cba", Tally(out_of_order=2)),
        ("abcdef", "fabcde", Tally(out_of_order=1)),
        ("abcdef", "defabc", Tally(out_of_order=3)),
        ("abc", "abxc", Tally(foreign=1)),
        ("aba", "aba", Tally()),
        ("aba", "ab", Tally(lost=1)),
        ("aba", "aab", Tally(out_of_order=1)),
        ("aba", "abaa", Tally(duplicated=1)),
        ("aab", "aaab", Tally(duplicated=1)),
        ("abcd", "dbb", Tally(lost=2, duplicated=1, out_of_order=1)),
    ],
)
def test_the_verdict_counts_what_is_wrong(expected: str, found: str, tally: Tally) -> None:
    assert judge(expected, found) == tally
    assert tally.flawless == (expected == found)


def rows(lines: Sequence[str]) -> list[Row]:
    return [Row(number, line, f"id-{number}") for number, line in enumerate(lines, 1)]


LINES = ["fog", "fog", "", "sun"]
OFFSETS = [row.offset for row in rows(LINES)]
RECEIVED = [(row.text, row.id) for row in rows(LINES)]


def test_a_good_database_and_a_good_reader() -> None:
    assert judge_database(LINES, OFFSETS, rows(LINES)).flawless
    assert judge_reader(LINES, rows(LINES), RECEIVED).flawless


def test_a_message_stored_twice_under_another_offset_is_found() -> None:
    assert judge_database(LINES, OFFSETS, [*rows(LINES), Row(5, "sun", "other")]).duplicated == 1


def test_equal_lines_are_told_apart() -> None:
    first, second, *rest = rows(LINES)
    # One of two equal lines twice, the other not at all: the texts alone look right.
    swapped = [first, Row(2, "fog", first.offset), *rest]
    assert judge(LINES, [row.text for row in swapped]).flawless
    assert judge_database(LINES, OFFSETS, swapped) == Tally(lost=1, duplicated=1)
    assert judge_database(LINES, OFFSETS, [second, first, *rest]).out_of_order == 1
    received = [("fog", 1), ("fog", 1), *RECEIVED[2:]]
    assert judge_reader(LINES, rows(LINES), received) == Tally(lost=1, duplicated=1)
    assert judge_reader(LINES, rows(LINES), [RECEIVED[1], RECEIVED[0], *RECEIVED[2:]]).out_of_order == 1


def test_what_is_lost_in_both_places_is_lost_in_both() -> None:
    stored_rows = rows(LINES)[:-1]
    assert judge_database(LINES, OFFSETS, stored_rows).lost == 1
    assert judge_reader(LINES, stored_rows, RECEIVED[:-1]).lost == 1
    assert judge_database(LINES, [], []).lost == len(LINES)


def verdict(database: Tally = Tally(), reader: Tally = Tally()) -> Verdict:  # noqa: B008 - frozen
    faults = {"acknowledgement swallowed": 3}
    return Verdict(seed=7, messages=4, sent=9, retried=5, seconds=1.5, faults=faults, database=database, reader=reader)


def shown(outcome: Verdict) -> str:
    screen = Console(width=80, file=io.StringIO(), record=True)
    screen.print(picture(outcome))
    return screen.export_text()


def test_the_picture_of_a_verdict() -> None:
    good = verdict()
    assert good.passed
    assert "PASSED: all 4 messages are there, once each, in order (seed 7, 1.5 s)" in shown(good)
    assert re.search(r"lost +│ +0 │ +0 │", shown(good))
    assert "foreign" not in shown(good)
    bad = verdict(database=Tally(lost=2), reader=Tally(out_of_order=1, foreign=4))
    assert not bad.passed
    assert not verdict(reader=Tally(duplicated=1)).passed
    assert "FAILED" in shown(bad)
    assert re.search(r"lost +│ +2 │ +0 │", shown(bad))
    assert re.search(r"foreign +│ +0 │ +4 │", shown(bad))


def test_the_picture_for_the_readme() -> None:
    assert svg(verdict()) == svg(verdict())
    root = ET.fromstring(svg(verdict()))
    assert "PASSED:" in "".join(root.itertext()).replace("\xa0", " ")


def test_the_shipped_text_has_what_goes_wrong_easily() -> None:
    lines = demo_lines()
    assert len(lines) == 150
    assert "" in lines
    assert len(set(lines)) < len(lines)
    assert not all(line.isascii() for line in lines)
    assert split("a\r\n\nb\rc\u2028d") == ["a", "", "b\rc\u2028d"]


def test_the_same_seed_gives_the_same_faults_and_all_kinds() -> None:
    assert schedule(150, 7) == schedule(150, 7) != schedule(150, 8)
    assert set(schedule(1, 0)) == {None, *FAULTS}
    assert len([fault for fault in schedule(100_000, 7) if fault]) == 60


async def test_the_demo_passes(tmp_path: Path) -> None:
    file, db = tmp_path / "lines.txt", tmp_path / "demo.db"
    lines = [*demo_lines()[:20], "", "again", "again"]
    file.write_text("\n".join(lines))
    result = await program("demo", "--seed", "3", "--file", str(file), "--db", str(db))
    assert result.status == 0
    assert result.clean
    assert stored(db) == lines
    assert result.out.startswith("seed 3: sending 23 lines to http://127.0.0.1:")
    assert "PASSED: all 23 messages are there, once each, in order (seed 3" in result.out
    for fault in ("acknowledgement swallowed", "database failed", "cut before", "cut after", "reader's connection cut"):
        assert re.search(rf"\d s +\d+ read +.*{fault}", result.out)
        assert re.search(rf"│ .*{fault}.* │ +[1-9]\d* │", result.out)
    assert re.search(r"│ retried +│ +[1-9]", result.out)
    assert result.err == ""


async def test_the_demo_fails_if_a_message_is_duplicated(tmp_path: Path) -> None:
    """The verdict comes from the database: put a row in there that nobody has sent."""
    file, db = tmp_path / "lines.txt", tmp_path / "demo.db"
    file.write_text("one\ntwo\nthree\n" * 5)
    async with child("demo", "--seed", "3", "--file", str(file), "--db", str(db)) as demo:
        await demo.said(r"[1-9]\d* read", "out")
        with sqlite3.connect(db) as other:
            other.execute("INSERT INTO messages (principal, client_offset, content) VALUES ('', 'stray', 'one')")
        other.close()
        result = await demo.ended()
    assert result.status == 1
    assert "FAILED: not every message is there, once, in order" in result.out
    assert re.search(r"duplicated +│ +1 │", result.out)


async def test_the_demo_can_be_interrupted() -> None:
    async with child("demo") as demo:
        await demo.said(r"read  ", "out")
        result = await demo.interrupted()
    assert result.status == 130
    assert result.seconds < 2
    assert result.err == "interrupted\n"
    assert result.clean


# serve


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_serve_ends_when_it_is_told_to(tmp_path: Path, number: int) -> None:
    db = tmp_path / "chat.db"
    async with serving(db) as (server, url), child("send", url) as sender:
        assert server.out == f"database: {db}\nlistening on {url}\n"
        await sender.said("connected to")
        result = await server.interrupted(number)
        assert result.status == 0
        assert result.seconds < 2
        assert result.clean
        await sender.said("disconnected: ")
        assert (await sender.interrupted()).status == 130
    assert stored(db) == []


# The frame.


@pytest.mark.parametrize("missing", ["typer", "rich"])
async def test_without_the_extra_one_line_says_what_to_install(missing: str) -> None:
    script = f"import sys; sys.modules[{missing!r}] = None; from reliable_emit.__main__ import main; sys.exit(main())"
    result = await program("send", program=[sys.executable, "-c", script])
    assert result.status == 2
    assert result.err == f"error: the command line needs {missing}; install it with: pip install 'reliable-emit[cli]'\n"
    assert result.out == ""


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert re.fullmatch(r"reliable-emit \d+\.\d+\.\d+\S*\n", capsys.readouterr().out)
    for command in ([], ["send"], ["serve"], ["demo"]):
        assert run([*command, "--help"]) == 0
        assert "Usage: reliable-emit" in capsys.readouterr().out
    assert environment()["TERM"] == "xterm"
