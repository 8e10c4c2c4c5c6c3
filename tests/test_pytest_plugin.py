"""The fixtures, as somebody has them who has installed the package: in a suite elsewhere, in a process of its own."""

from __future__ import annotations

import importlib.metadata
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import reliable_emit

PAGE = Path(__file__).parent.parent / "docs" / "testing.md"
PATIENCE = 120
"""Seconds that a suite may take."""

OURS = {"PYTHONPATH": str(Path(reliable_emit.__file__).parent.parent)}
"""Of all the packages that may be installed, the one that this suite tests."""

ASYNCIO = ("-p", "no:anyio", "-o", "asyncio_default_fixture_loop_scope=function", "--asyncio-mode")
NO_ASYNCIO = ("-p", "no:asyncio", "-p", "no:pytest_asyncio")


def run(folder: Path, module: str, *arguments: str) -> str:
    """Run a test module, and return what pytest says; nothing of ours is in the folder, nor in the configuration."""
    (folder / "test_theirs.py").write_text(module, encoding="utf-8")
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", *arguments],
        cwd=folder,
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")} | OURS,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    return result.stdout + result.stderr


def passed(output: str) -> int:
    match = re.search(r"^(\d+) passed in", output, re.MULTILINE)
    assert match, output
    return int(match[1])


def test_it_is_an_entry_point_outside_the_package() -> None:
    points = importlib.metadata.distribution("reliable-emit").entry_points.select(group="pytest11")
    assert [point.value for point in points] == ["pytest_reliable_emit"]


def test_a_suite_that_uses_nothing_imports_nothing(tmp_path: Path) -> None:
    module = """
import sys

def test_nothing_is_imported():
    assert "pytest_reliable_emit" in sys.modules
    assert not {"reliable_emit", "socketio", "engineio", "aiohttp"} & set(sys.modules)
"""
    assert passed(run(tmp_path, module, *NO_ASYNCIO, "-p", "no:anyio")) == 1


PLAIN = """
import asyncio, socket
import pytest

def test_server_and_proxy(reliable_emit_server, reliable_emit_proxy):
    assert reliable_emit_server.url != reliable_emit_proxy.url
    assert reliable_emit_proxy.target == ("127.0.0.1", reliable_emit_server.port)
    with socket.create_connection(("127.0.0.1", reliable_emit_proxy.port), timeout=10) as client:
        client.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
        assert client.recv(12) == b"HTTP/1.0 200"
    reliable_emit_proxy.refuse()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", reliable_emit_proxy.port), timeout=10)
    assert asyncio.run(reliable_emit_server.messages()) == []

def test_a_server_of_mine(reliable_emit_proxy_to):
    with socket.create_server(("127.0.0.1", 0)) as mine:
        one, two = [reliable_emit_proxy_to("127.0.0.1", mine.getsockname()[1]) for _ in range(2)]
        assert one.port != two.port
        with socket.create_connection(("127.0.0.1", one.port), timeout=10) as client:
            there, _ = mine.accept()
            with there:
                one.cut()
                assert client.recv(1) == there.recv(1) == b""

def test_the_options_of_the_proxy(reliable_emit_proxy_to):
    with socket.create_server(("127.0.0.1", 0)) as mine:
        first = reliable_emit_proxy_to("127.0.0.1", mine.getsockname()[1], host="localhost", seed=3)
        assert first.url == f"http://localhost:{first.port}"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert reliable_emit_proxy_to("127.0.0.1", first.port, port=port).port == port

def test_nothing_is_left_of_the_tests_before():
    import threading
    assert threading.enumerate() == [threading.current_thread()]
"""


def test_in_tests_that_are_no_coroutines(tmp_path: Path) -> None:
    # Nor is anything there that runs coroutines.
    assert passed(run(tmp_path, PLAIN, *NO_ASYNCIO, "-p", "no:anyio")) == 4


ASYNC = """
import pytest, socketio
from reliable_emit import ReliableClient

{mark}
async def test_a_restart(reliable_emit_server, reliable_emit_proxy):
    sio = socketio.AsyncClient(reconnection_delay=0.05, reconnection_delay_max=0.1)
    async with ReliableClient(sio, client_offset=True) as client:
        await client.connect(reliable_emit_proxy.url, transports=["websocket"])
        assert await client.call("chat message", "before", timeout=20) == 1
        port = reliable_emit_server.port
        await reliable_emit_server.restart(between=reliable_emit_proxy.refuse)
        assert reliable_emit_server.port == port
        await reliable_emit_proxy.disconnected()
        delivery = await client.emit("chat message", "after")
        reliable_emit_proxy.accept()
        assert await delivery == 2
        await reliable_emit_proxy.connected(2)
    assert [row.text for row in await reliable_emit_server.messages()] == ["before", "after"]
"""


@pytest.mark.parametrize("mode", ["auto", "strict"])
def test_with_pytest_asyncio(tmp_path: Path, mode: str) -> None:
    module = ASYNC.format(mark="@pytest.mark.asyncio" if mode == "strict" else "")
    assert passed(run(tmp_path, module, *ASYNCIO, mode)) == 1


def test_with_anyio(tmp_path: Path) -> None:
    fixture = "@pytest.fixture\ndef anyio_backend():\n    return 'asyncio'\n\n@pytest.mark.anyio"
    assert passed(run(tmp_path, ASYNC.format(mark=fixture), *NO_ASYNCIO)) == 1


def test_the_options_of_the_server_can_be_overridden(tmp_path: Path) -> None:
    module = """
import pytest, socketio
from reliable_emit import DeliveryFailed, ReliableClient
from reliable_emit.server import Faults

@pytest.fixture
def reliable_emit_server_options():
    return {"max_text": 3, "faults": Faults(seed=1)}

async def test_the_text_is_too_long(reliable_emit_server):
    assert reliable_emit_server.faults.counts["swallow_ack"] == 0
    async with ReliableClient(socketio.AsyncClient(), client_offset=True) as client:
        await client.connect(reliable_emit_server.url, transports=["websocket"])
        with pytest.raises(DeliveryFailed, match="rejected"):
            await client.call("chat message", "abcd")
        await client.call("chat message", "abc")
    assert [row.text for row in await reliable_emit_server.messages()] == ["abc"]
"""
    assert passed(run(tmp_path, module, *ASYNCIO, "auto")) == 1


def test_a_restart_that_would_not_be_one_is_refused(tmp_path: Path) -> None:
    module = """
import asyncio
import pytest

@pytest.fixture
def reliable_emit_server_options(request):
    return request.param

async def wait():
    pass

@pytest.mark.parametrize("reliable_emit_server_options", [{"db": ":memory:"}], indirect=True)
def test_in_memory(reliable_emit_server):
    with pytest.raises(ValueError, match="file"):
        asyncio.run(reliable_emit_server.restart())
    assert asyncio.run(reliable_emit_server.messages()) == []

@pytest.mark.parametrize("reliable_emit_server_options", [{}], indirect=True)
def test_between(reliable_emit_server):
    for between in (wait, 5):
        with pytest.raises(TypeError, match="between"):
            asyncio.run(reliable_emit_server.restart(between))
    assert asyncio.run(reliable_emit_server.messages()) == []
"""
    assert passed(run(tmp_path, module, *NO_ASYNCIO)) == 2


def test_the_proxy_follows_a_server_that_listens_elsewhere(tmp_path: Path) -> None:
    module = """
import socket
import pytest

@pytest.fixture
def reliable_emit_server_options():
    return {"host": "HOST"}

def test_it_answers(reliable_emit_server, reliable_emit_proxy):
    with socket.create_connection(("127.0.0.1", reliable_emit_proxy.port), timeout=10) as client:
        client.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
        assert client.recv(12) == b"HTTP/1.0 200"
"""
    for host in ["localhost", *(["127.0.0.2"] if sys.platform == "linux" else []), *(["::1"] if has_ipv6() else [])]:
        assert passed(run(tmp_path, module.replace("HOST", host), *NO_ASYNCIO)) == 1, host


def has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


def test_the_seed_is_in_the_report_of_a_test_that_fails(tmp_path: Path) -> None:
    module = """
from reliable_emit.testing import Schedule

def test_it_fails(reliable_emit_proxy):
    with Schedule(reliable_emit_proxy, 4711):
        assert not reliable_emit_proxy.url
"""
    output = run(tmp_path, module, *NO_ASYNCIO)
    assert "1 failed" in output
    assert "seed 4711; repeat it with Schedule(proxy, 4711)" in output


def examples() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("example", examples(), ids=lambda text: re.findall(r"def (test_\w+)", text)[0])
def test_the_examples_of_the_page(tmp_path: Path, example: str) -> None:
    assert passed(run(tmp_path, example, *ASYNCIO, "auto")) == 1


def test_the_page_names_everything() -> None:
    from reliable_emit.testing import FaultProxy, Traffic  # noqa: PLC0415

    text = PAGE.read_text(encoding="utf-8")
    names = {name for owner in (*FaultProxy.__mro__[:-1], Traffic) for name in vars(owner) if not name.startswith("_")}
    names -= {"start", "close", "port", "run"}
    assert {name for name in names if not re.search(rf"\b{name}\b", text)} == set()
