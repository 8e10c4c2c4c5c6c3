"""The files of the chat page, as they are served. What they do is tested in a browser, in ``interop``."""

from __future__ import annotations

import re
from pathlib import Path

import aiohttp
import pytest

import reliable_emit.server.page
from cli_support import Served, program
from reliable_emit.server import ReferenceServer, ScriptError

WEB = Path(reliable_emit.server.page.__file__).parent / "web"
FILES = {
    "/": "text/html",
    "/page.css": "text/css",
    "/page.js": "text/javascript",
    "/rows.js": "text/javascript",
    "/waiting.js": "text/javascript",
    "/icon.svg": "image/svg+xml",
    "/socket.io.min.js": "text/javascript",
}


SCRIPT = "globalThis.io = null; // ü\n"


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "client.js"
    path.write_text(SCRIPT, encoding="utf-8")
    return path


async def test_every_file_has_its_type_and_a_strict_policy_and_is_asked_for_again_each_time(script: Path) -> None:
    async with ReferenceServer(client_script=script) as server, aiohttp.ClientSession(server.url) as session:
        for path, kind in FILES.items():
            async with session.get(path) as response:
                assert (response.status, response.content_type, response.charset) == (200, kind, "utf-8"), path
                policy = response.headers["Content-Security-Policy"]
                assert response.headers["X-Content-Type-Options"] == "nosniff"
                assert response.headers["Cache-Control"] == "no-cache"
                tag, body = response.headers["ETag"], await response.text()
            assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
            assert "connect-src 'self'" in policy
            assert "unsafe" not in policy
            assert "*" not in policy
            async with session.get(path, headers={"If-None-Match": tag}) as response:
                assert (response.status, await response.read()) == (304, b"")
                assert response.headers["Content-Security-Policy"] == policy
            async with session.get(path, headers={"If-None-Match": '"another"'}) as response:
                assert (response.status, await response.text()) == (200, body)
            assert body == (script if path == "/socket.io.min.js" else WEB / (path[1:] or "page.html")).read_text(
                "utf-8"
            )


def test_the_page_names_files_of_its_own_alone_and_nothing_is_inline() -> None:
    page = (WEB / "page.html").read_text(encoding="utf-8")
    named = re.findall(r"<(?:script|link|img)\b[^>]*?\b(?:src|href)=\"([^\"]*)\"", page)
    assert {f"/{name}" for name in named} <= set(FILES)
    assert not re.search(r"<script>|<style|\son\w+=|\sstyle=", page)
    modules = [
        (WEB / name[1:]).read_text(encoding="utf-8")
        for name in FILES
        if name in {"/page.js", "/rows.js", "/waiting.js"}
    ]
    assert not any(re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b", text) for text in modules)


async def test_without_a_client_script_the_server_says_how_to_get_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for path in FILES:
        if path not in {"/", "/socket.io.min.js"}:
            (tmp_path / path[1:]).write_bytes((WEB / path[1:]).read_bytes())
    (tmp_path / "page.html").write_bytes((WEB / "page.html").read_bytes())
    monkeypatch.setattr(reliable_emit.server.page, "_FOLDER", tmp_path)
    async with ReferenceServer() as server, aiohttp.ClientSession(server.url) as session:
        async with session.get("/socket.io.min.js") as response:
            assert response.status == 404
            said = await response.text()
        assert "--client-script" in said
        async with session.get("/") as response:
            assert response.status == 200
    (tmp_path / "socket.io.min.js").write_text("// put there by the build\n")
    async with (
        ReferenceServer() as server,
        aiohttp.ClientSession(server.url) as session,
        session.get("/socket.io.min.js") as response,
    ):
        assert await response.text() == "// put there by the build\n"


def test_a_client_script_that_cannot_be_read_is_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(ScriptError, match=r"nowhere\.js cannot be read: No such file") as caught:
        ReferenceServer(client_script=tmp_path / "nowhere.js")
    assert caught.value.path == str(tmp_path / "nowhere.js")
    with pytest.raises(ScriptError, match="Is a directory"):
        ReferenceServer(client_script=str(tmp_path))


async def test_serve_takes_a_client_script(script: Path, tmp_path: Path) -> None:
    async with (
        Served(tmp_path / "chat.db", "--client-script", str(script)) as served,
        aiohttp.ClientSession(served.url) as session,
        session.get("/socket.io.min.js") as response,
    ):
        assert await response.text() == SCRIPT


async def test_serve_names_a_client_script_that_is_not_there(tmp_path: Path) -> None:
    db = tmp_path / "chat.db"
    result = await program("serve", "--port", "0", "--db", str(db), "--client-script", str(tmp_path / "no.js"))
    assert result.status == 2
    assert result.out == ""
    assert result.err == (
        f"error: --client-script: the client script {tmp_path / 'no.js'} cannot be read: No such file or directory. "
        "Give the file dist/socket.io.min.js of the npm package socket.io-client\n"
    )
    assert not db.exists()
