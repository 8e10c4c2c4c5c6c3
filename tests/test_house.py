"""The house: arrows point one way, rooms stay small, and few of them touch what is not ours."""

from __future__ import annotations

import ast
import pathlib
import re
import subprocess
import sys

import pytest

import reliable_emit

ROOT = pathlib.Path(reliable_emit.__file__).parent
MODULES = {
    "reliable_emit"
    + "".join(f".{part}" for part in path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(ROOT.rglob("*.py"))
}

# Which rooms a room may use, besides itself; a room is a module or a package directly below reliable_emit.
LEAVES = {"errors", "policy", "delivery"}
MAY_USE = {
    "errors": {"delivery"},  # for its annotations alone; see below
    "policy": set(),
    "delivery": {"errors"},
    "state": set(),
    "offsets": set(),
    "locking": set(),
    "server_offset": {"errors", "policy", "locking"},
    "hooks": set(),
    "sender": LEAVES,
    "outbox": LEAVES | {"locking"},
    "link": LEAVES | {"state"},
    "admission": LEAVES,
    "expiry": LEAVES,
    "flushing": LEAVES | {"outbox"},
    "handles": LEAVES,
    "excess": LEAVES | {"outbox"},
    "settling": LEAVES | {"outbox", "hooks", "handles"},
    "composing": LEAVES | {"link"},
    "timing": LEAVES,
    "driver": LEAVES
    | {"sender", "outbox", "link", "hooks", "expiry", "flushing", "handles", "settling", "excess", "state", "timing"},
    "lifetime": LEAVES | {"driver", "outbox", "admission"},
    "client": LEAVES | {"lifetime", "outbox", "link", "hooks", "offsets", "admission", "composing", "state"},
    "server": LEAVES,
    "testing": LEAVES | {"server", "outbox"},
    "cli": LEAVES | {"", "client", "server", "testing", "offsets", "outbox", "hooks", "link"},
    "__main__": {"cli"},
}


def room(module: str) -> str:
    return module.removeprefix("reliable_emit").removeprefix(".").split(".")[0]


def imports(path: pathlib.Path, *, annotations: bool = False) -> set[str]:
    """The modules that a file imports; those under ``if TYPE_CHECKING`` only if asked for."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if not annotations and isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            return
        if isinstance(node, ast.Import):
            found.update(name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            found.update(
                f"{node.module}.{name.name}" if f"{node.module}.{name.name}" in MODULES else node.module
                for name in node.names
            )
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text(encoding="utf-8")))
    return found


@pytest.mark.parametrize("module", [module for module in MODULES if module != "reliable_emit"])
def test_arrows_point_one_way(module: str) -> None:
    used = {room(name) for name in imports(MODULES[module], annotations=True) if name.startswith("reliable_emit")}
    assert used - {room(module)} <= MAY_USE[room(module)]


def test_annotations_are_the_only_arrow_back() -> None:
    assert not any(name.startswith("reliable_emit") for name in imports(MODULES["reliable_emit.errors"]))


@pytest.mark.parametrize(
    ("foreign", "rooms"),
    [
        ("socketio", {"link", "server", "cli", "errors"}),  # errors: the base class of CallTimeout
        ("engineio", {"link", "server"}),
        ("sqlite3", {"server", "outbox"}),
        ("aiohttp", {"link", "server"}),
        ("tenacity", {"policy", "link", "cli"}),
        ("asyncpg", {"server"}),
        ("typer", {"cli"}),
        ("rich", {"cli"}),
    ],
)
def test_few_rooms_touch_what_is_not_ours(foreign: str, rooms: set[str]) -> None:
    touching = {room(m) for m, path in MODULES.items() if any(n.split(".")[0] == foreign for n in imports(path))}
    assert touching <= rooms


def test_the_sender_is_pure() -> None:
    assert {name.split(".")[0] for name in imports(MODULES["reliable_emit.sender"])} == {
        "__future__",
        "dataclasses",
        "enum",
        "typing",
        "reliable_emit",
    }


def test_rooms_are_small() -> None:
    large = {module: len(path.read_text(encoding="utf-8").splitlines()) for module, path in MODULES.items()}
    # The client is the page of the contract that users read: most of it is its docstrings.
    allowed = {"reliable_emit.client": 480}
    assert {m: lines for m, lines in large.items() if lines > allowed.get(m, 340)} == {}


def test_importing_the_package_needs_no_extra() -> None:
    code = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"asyncpg", "typer", "rich", "msgpack", "hypothesis", "pytest"}:
            raise ImportError(name)
sys.meta_path.insert(0, Block())
import reliable_emit, reliable_emit.server
print("fine")
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (run.stdout, run.stderr) == ("fine\n", "")


def test_all_public_names_are_documented() -> None:
    for name in reliable_emit.__all__:
        thing = getattr(reliable_emit, name)
        assert thing.__doc__, name
        assert re.match(r"[A-Z]", thing.__doc__), name
