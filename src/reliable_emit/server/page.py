"""The chat page at ``/``: static files, and the Socket.IO client that they run on."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from aiohttp import ETag, web

from reliable_emit.server.errors import ScriptError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_FOLDER = Path(__file__).parent / "web"
_CLIENT_SCRIPT = "socket.io.min.js"
_FILES = {
    "page.html": "text/html",
    "page.css": "text/css",
    "page.js": "text/javascript",
    "rows.js": "text/javascript",
    "waiting.js": "text/javascript",
    "icon.svg": "image/svg+xml",
}
_MISSING = f"""There is no {_CLIENT_SCRIPT} here. It is part of the npm package socket.io-client, in its folder dist.
Give its path to 'reliable-emit serve --client-script', or run 'make web' in a clone of the project.
"""

# For connections, 'self' means WebSockets too. Where the browser knows the last two, no text can be made HTML at all:
# the attempt is an error.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    # To be asked for each time, and answered in a few bytes if nothing has changed: a page and its scripts are of one
    # version, also after an upgrade of the server.
    "Cache-Control": "no-cache",
}


class Page:
    """The files of the chat page, read once. What users have written is in none of them.

    Args:
        client_script: The file ``socket.io.min.js``, from the npm package ``socket.io-client``. ``None``: the one that
            was put into this package when it was built; if there is none, the page says so, and how to get it.

    Raises:
        ScriptError: The file cannot be read.
    """

    def __init__(self, client_script: str | os.PathLike[str] | None = None) -> None:
        self._files = {name: ((_FOLDER / name).read_bytes(), kind) for name, kind in _FILES.items()}
        if (script := _read_script(client_script)) is not None:
            self._files[_CLIENT_SCRIPT] = script, "text/javascript"

    def attach(self, app: web.Application) -> None:
        """Add a route for each file; the page itself is at ``/``."""
        for name, (body, kind) in self._files.items():
            app.router.add_get("/" if name == "page.html" else f"/{name}", _serve(body, kind))
        if _CLIENT_SCRIPT not in self._files:
            app.router.add_get(f"/{_CLIENT_SCRIPT}", _say_missing)


def _read_script(path: str | os.PathLike[str] | None) -> bytes | None:
    try:
        return Path(_FOLDER / _CLIENT_SCRIPT if path is None else path).read_bytes()
    except OSError as error:
        if path is None and isinstance(error, FileNotFoundError):
            return None
        raise ScriptError(os.fsdecode(path or _FOLDER / _CLIENT_SCRIPT), error.strerror or str(error)) from None


def _serve(body: bytes, kind: str) -> Callable[[web.Request], Awaitable[web.Response]]:
    tag = ETag(hashlib.sha256(body).hexdigest()[:32])

    async def handle(request: web.Request) -> web.Response:
        known = request.if_none_match or ()
        if any(other.value in {tag.value, "*"} for other in known):
            response = web.Response(status=304, headers=_HEADERS)
        else:
            response = web.Response(body=body, content_type=kind, charset="utf-8", headers=_HEADERS)
        response.etag = tag
        return response

    return handle


async def _say_missing(_: web.Request) -> web.Response:
    return web.Response(status=404, text=_MISSING, headers=_HEADERS)
