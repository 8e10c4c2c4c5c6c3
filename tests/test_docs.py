"""The documents say what is so: their code is run, what it prints is compared, their links and tests exist."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import dataclasses
import html
import inspect
import json
import os
import re
import signal
import sqlite3
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import reliable_emit
from reliable_emit import Delivery, ReliableClient
from reliable_emit.server import ReferenceServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

ROOT = Path(__file__).parent.parent
PAGES = [
    "README.md",
    "docs/getting-started.md",
    "docs/connection.md",
    "docs/durable-outbox.md",
    "docs/inbox.md",
    "docs/way-back.md",
]
ALL_PAGES = [*PAGES, "docs/delivery-guarantees.md", "docs/differences.md"]
PATIENCE = 30.0
"""Seconds that a block may take."""

EXECUTED = {"python", "console", "sql"}
OUTPUT = "text"
"""The language of what the block above it prints. A block without one prints nothing."""

# What is another each time, on both sides of the comparison.
VOLATILE = [
    (re.compile(r"\b(127\.0\.0\.1|localhost):\d+"), "SERVER"),
    (re.compile(r"\b\d+\.\d+ s\b"), "N s"),
    (re.compile(r"\(\d+/s\)"), "(N/s)"),
    (re.compile(r"/\S+/(\w+\.db)"), r"/…/\1"),
    (re.compile(r"\bprocess \d+"), "process N"),
]


@dataclasses.dataclass(frozen=True)
class Block:
    page: str
    line: int
    language: str
    text: str
    output: str = ""

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def read(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def blocks(page: str) -> list[Block]:
    """The fenced blocks of a page; an output is part of the block above it."""
    found: list[Block] = []
    language: str | None = None
    lines: list[str] = []
    for number, line in enumerate(read(page).splitlines(), 1):
        if language is None and line.startswith("```"):
            language, lines = line[3:], []
        elif language is not None and line == "```":
            text = "".join(f"{line}\n" for line in lines)
            if language == OUTPUT:
                assert found, f"{page}:{number}: the output of nothing"
                assert not found[-1].output, f"{page}:{number}: a second output"
                found[-1] = dataclasses.replace(found[-1], output=text)
            else:
                found.append(Block(page, number - len(lines), language, text))
            language = None
        elif language is not None:
            lines.append(line)
    assert language is None, f"{page}: the last block has no end"
    return found


def of(language: str) -> list[Block]:
    return [block for page in PAGES for block in blocks(page) if block.language == language]


PROGRESS = re.compile(r"\d+ sent, \d+ acknowledged, \d+ retried, \d+ waiting, \d+/s$", re.MULTILINE)


def same(printed: str) -> str:
    for pattern, replacement in VOLATILE:
        printed = pattern.sub(replacement, printed)
    return printed


@pytest.mark.parametrize("page", ALL_PAGES)
def test_every_block_is_executed(page: str) -> None:
    found = blocks(page)
    assert {block.language for block in found} <= (EXECUTED if page in PAGES else set()), "nobody would run these"
    assert found or page not in PAGES


# Python. The blocks of a page are one session, as in `python -m asyncio`, but that one that calls `asyncio.run` is a
# program. Both run in processes of their own, where what hangs can be killed.

_SESSION = """
import ast, asyncio, inspect, json, sys

async def session(blocks):
    names = {"__name__": "__main__", "asyncio": asyncio}
    for where, line, text in blocks:
        code = compile("\\n" * (line - 1) + text, where, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        result = eval(code, names)
        if inspect.iscoroutine(result):
            await result
        print(end="\\x1e", flush=True)
    for name, value in names.items():
        if type(value).__name__ == "ReliableClient":
            await value.close(timeout=0)

asyncio.run(session(json.load(sys.stdin)))
"""


async def run_python(*arguments: str, stdin: str = "", cwd: Path) -> str:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-W",
        "error",
        *arguments,
        cwd=cwd,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(PATIENCE):
            printed, problems = await process.communicate(stdin.encode())
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()
    assert process.returncode == 0, f"{printed.decode()}\n{problems.decode()}"
    assert b"Traceback" not in problems, problems.decode()
    return printed.decode()


def is_program(block: Block) -> bool:
    return "asyncio.run(" in block.text


@pytest.mark.parametrize("page", sorted({block.page for block in of("python") if not is_program(block)}))
async def test_the_session_of_a_page(page: str, tmp_path: Path) -> None:
    session = [block for block in of("python") if block.page == page and not is_program(block)]
    async with ReferenceServer() as server:
        steps = [(page, block.line, at(server.url, block.text)) for block in session]
        printed = await run_python("-c", _SESSION, stdin=json.dumps(steps), cwd=tmp_path)
    outputs = printed.split("\x1e")
    assert outputs.pop() == ""
    assert {str(block): same(output) for block, output in zip(session, outputs, strict=True)} == {
        str(block): same(block.output) for block in session
    }


@pytest.mark.parametrize("block", [block for block in of("python") if is_program(block)], ids=str)
async def test_a_program(block: Block, tmp_path: Path) -> None:
    async with ReferenceServer() as server:
        printed = await run_python("-c", at(server.url, block.text), cwd=tmp_path)
    assert same(printed) == same(block.output)


def at(url: str, text: str) -> str:
    return text.replace("http://localhost:3000", url)


@pytest.mark.parametrize("block", of("sql"), ids=str)
def test_sql(block: Block) -> None:
    with contextlib.closing(sqlite3.connect(":memory:")) as db:
        db.executescript(block.text)


# The shell. `$` is before what is typed, `^C` is typed too, everything else is printed.


@contextlib.asynccontextmanager
async def shell(command: str, cwd: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        "bash",
        "-c",
        f"set -o pipefail; {command}",
        cwd=cwd,
        env=os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.communicate()


def typed(block: Block) -> Iterator[tuple[str, list[str]]]:
    """The commands, and the lines below each."""
    command, below = "", list[str]()
    for line in block.text.splitlines():
        if line.startswith("$ "):
            if command:
                yield command, below
            command, below = line[2:], []
        else:
            assert command, f"{block}: output before a command"
            below.append(line)
    yield command, below


@pytest.mark.parametrize("block", of("console"), ids=str)
async def test_what_is_typed(block: Block, tmp_path: Path) -> None:
    (tmp_path / "readings.txt").write_text("20.1\n20.3\n19.8\n")
    async with ReferenceServer() as server:
        for command, expected in typed(block):
            typed_line = at(server.url, command)
            if typed_line.startswith("reliable-emit serve"):
                typed_line = typed_line.replace("serve", "serve --port 0", 1)
            async with shell(typed_line, tmp_path) as process:
                assert process.stdout is not None
                printed: list[str] = []
                async with asyncio.timeout(PATIENCE):
                    for text in expected:
                        if text == "^C":
                            os.killpg(process.pid, signal.SIGINT)
                            printed.append(text)
                        else:
                            # A busy machine takes longer than the five seconds after which it is told how far it is.
                            while PROGRESS.match(line := (await process.stdout.readline()).decode()):
                                pass
                            printed.append(line.removesuffix("\n"))
                    rest = await process.stdout.read()
                    status = await process.wait()
            assert list(map(same, printed)) == list(map(same, expected)), command
            assert rest == b"", command
            assert status == 0, command


# What is not code.


def test_the_readme_gives_the_two_commands_and_they_exist() -> None:
    makefile = read("Makefile")
    readme = read("README.md")
    for target in ("demo", "test"):
        assert f"`make {target}`" in readme
        assert f"\n{target}:" in makefile


def test_the_picture_shows_a_verdict() -> None:
    readme = read("README.md")
    assert re.search(r"!\[[^]]+\]\(docs/verdict\.svg\)", readme)
    picture = read("docs/verdict.svg")
    assert re.match(r"(<\?xml[^>]*>\s*)?<svg\b", picture)
    assert picture.rstrip().endswith("</svg>")
    picture = re.sub(r"<style.*?</style>", "", picture, flags=re.DOTALL)
    shown = " ".join(html.unescape(re.sub(r"<[^>]*>", " ", picture)).split())
    assert re.search(r"PASSED: all \d+ messages are there, once each, in order", shown)
    for row in ("lost", "duplicated", "out of order"):
        assert re.search(rf"{row} │ 0 │ 0 │", shown)


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


def links(page: str) -> list[tuple[str, str]]:
    return re.findall(r"\[([^]]*)\]\(([^)\s]+)\)", read(page))


@pytest.mark.parametrize("page", [*ALL_PAGES, "docs/testing.md", "docs/chat-page.md", "docs/reference-server.md"])
def test_links_lead_somewhere(page: str) -> None:
    for _, link in links(page):
        if link.startswith(("https://", "http://")):
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", [page for page in PAGES if page not in {"docs/connection.md", "docs/inbox.md"}])
def test_commands_in_the_text_exist(page: str) -> None:
    commands = re.findall(r"`reliable-emit (\w+)", read(page))
    assert commands
    for command in commands:
        assert (ROOT / f"src/reliable_emit/cli/{command}.py").exists(), command


def test_getting_started_names_everything() -> None:
    text = read("docs/getting-started.md")
    names = set(inspect.signature(ReliableClient).parameters) - {"sio"}
    for owner in (ReliableClient, Delivery):
        names |= {name for name in vars(owner) if not name.startswith("_")}
    names |= set(reliable_emit.__all__) - {
        "OutboxCorrupt",
        "OutboxLocked",
        "Outbox",
        "OutboxOwner",
        "DeadLetter",
        "Stats",
    }
    assert {name for name in names if not re.search(rf"\b{name}\b", text)} == set()


# The tables of the guarantees.

TABLES = ["docs/delivery-guarantees.md", "docs/inbox.md"]


def rows(page: str) -> list[list[str]]:
    _, heading, table = read(page).partition("\n## What if it fails here?\n")
    assert heading
    table = table.partition("\n## ")[0]
    cells = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("|")]
    return [row for row in cells if row[0] != "what fails" and set(row[0]) != {"-"}]


def names_in(path: str) -> set[str]:
    tree = ast.parse(read(path))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


@pytest.mark.parametrize(("page", "least"), [(TABLES[0], 31), (TABLES[1], 20)])
def test_the_table_is_a_table(page: str, least: int) -> None:
    assert len(rows(page)) >= least
    for row in rows(page):
        assert len(row) == 4, row
        assert all(row), row
    failures = [row[0] for row in rows(page)]
    assert len(set(failures)) == len(failures)


@pytest.mark.parametrize(
    "row", [row for page in TABLES for row in rows(page)], ids=lambda row: re.sub(r"\W+", " ", row[0])[:60]
)
def test_each_row_names_a_test_that_exists(row: list[str]) -> None:
    proofs = re.findall(r"\[(tests/[^\]]*)\]\(\.\./([^)]*)\)", row[3])
    assert proofs
    for proof, link in proofs:
        path, _, name = proof.partition("::")
        assert path == link
        assert name.startswith("test_")
        assert name in names_in(path), proof
