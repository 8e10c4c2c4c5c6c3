"""The fixtures of reliable-emit. Installed with it, they are there in every test suite.

This module is not in the package, and imports it in the fixtures alone: pytest loads it at every start, also where
nobody uses it, and whoever measures coverage of the package would find it imported before the measuring began.
"""

from __future__ import annotations

import urllib.parse
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Callable, Iterator

    from reliable_emit.testing import FaultProxy
    from reliable_emit.testing.background import Background, RunningServer


@pytest.fixture
def _reliable_emit_background() -> Iterator[Background]:
    from reliable_emit.testing.background import Background  # noqa: PLC0415 - see above

    with Background() as background:
        yield background


@pytest.fixture
def reliable_emit_server_options() -> dict[str, Any]:
    """Arguments for the reference server of `reliable_emit_server`; override it in your ``conftest.py`` or module."""
    return {}


@pytest.fixture
def reliable_emit_server(
    _reliable_emit_background: Background, reliable_emit_server_options: dict[str, Any], tmp_path: pathlib.Path
) -> Iterator[RunningServer]:
    """A reference server in a thread of its own: `url`, `port`, `await messages()`, `await restart()`."""
    from reliable_emit.testing.background import RunningServer  # noqa: PLC0415

    defaults = {"db": tmp_path / "reliable_emit_server.db", "synchronous": "normal"}
    server = RunningServer(_reliable_emit_background, defaults | reliable_emit_server_options)
    yield server
    server.stop()


@pytest.fixture
def reliable_emit_proxy_to(_reliable_emit_background: Background) -> Iterator[Callable[..., FaultProxy]]:
    """Makes a `FaultProxy` before a server of yours: `reliable_emit_proxy_to("127.0.0.1", 8000)`."""
    from reliable_emit.testing import FaultProxy  # noqa: PLC0415

    made: list[FaultProxy] = []

    def make(target_host: str, target_port: int, /, **options: Any) -> FaultProxy:
        proxy = FaultProxy(target_host, target_port, **options)
        _reliable_emit_background.run(proxy.start())
        made.append(proxy)
        return proxy

    yield make
    for proxy in made:
        _reliable_emit_background.run(proxy.close())


@pytest.fixture
def reliable_emit_proxy(
    reliable_emit_server: RunningServer, reliable_emit_proxy_to: Callable[..., FaultProxy]
) -> FaultProxy:
    """A `FaultProxy` before `reliable_emit_server`."""
    return reliable_emit_proxy_to(urllib.parse.urlsplit(reliable_emit_server.url).hostname, reliable_emit_server.port)
