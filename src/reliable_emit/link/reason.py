"""Why there is no connection, in words.

python-socketio says "Connection error" of most; what really happened is what that came from.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator

import aiohttp
from socketio import exceptions as socketio_exceptions

from reliable_emit.errors import ConnectionRejected

_LONGEST = 200
_OK = range(200, 300)
_CLIENT_ERRORS = range(300, 500)
_BUSY = {408, 425, 429}
_STATUS = re.compile(r"status code (\d{3})")
_REFUSED = "connection refused, nobody listens there"


@dataclasses.dataclass(frozen=True, slots=True)
class Reason:
    """Why an attempt to connect has failed.

    Attributes:
        words: What a user is told, in a line.
        final: Whether the next attempt, too, is to be expected to fail, until somebody does something about it.
    """

    words: str
    final: bool = False


def why(error: BaseException) -> Reason:
    """Return why there is no connection."""
    causes = list(_causes(error))
    for cause in causes:
        match cause:
            case ConnectionRejected():
                return Reason(f"the server refuses the connection: {cause.words}", final=True)
            case aiohttp.ClientConnectorCertificateError():
                return Reason(f"its certificate is not accepted: {cause}", final=True)
            case aiohttp.WSServerHandshakeError():
                return _status(cause.status)
            case aiohttp.ClientResponseError():
                return Reason("what answers there does not speak HTTP", final=True)
            case socketio_exceptions.ConnectionError() if found := _STATUS.search(str(cause)):
                return _status(int(found[1]))
    system = [cause for cause in causes if isinstance(cause, OSError)]
    if isinstance(error, TimeoutError) and error.errno is None and str(error):  # an attempt's own, which says how long
        words = str(error)
    elif system:
        words = _system_error(system[-1])
    else:
        words = " ".join(str(error).split())[:_LONGEST] or type(error).__name__
        # Not final: "Client is not in a disconnected state" is among them, and passes.
        if not isinstance(error, socketio_exceptions.ConnectionError):
            words = f"it does not answer as a Socket.IO server does ({words})"
    return Reason(words)


def speaks_no_websocket(error: BaseException) -> bool:
    """Whether something is there: a proxy in between, say, or a server that polls only."""
    for cause in _causes(error):
        if isinstance(cause, aiohttp.ClientConnectorError | aiohttp.ServerTimeoutError):
            return False
        if isinstance(cause, aiohttp.WSServerHandshakeError | aiohttp.ClientConnectionError):
            return True
    return False


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    seen: list[BaseException] = []
    while cause is not None and cause not in seen:
        yield cause
        seen.append(cause)
        cause = cause.__cause__ or cause.__context__


def _status(status: int) -> Reason:
    return Reason(
        f"it answers with HTTP status {status}, there is no Socket.IO server at that address and path",
        final=(status in _CLIENT_ERRORS and status not in _BUSY) or status in _OK,
    )


def _system_error(error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return "no answer"
    inner = getattr(error, "os_error", None)  # aiohttp's wrapper
    if isinstance(inner, OSError):
        error = inner
    if isinstance(error, ConnectionRefusedError):
        return _REFUSED
    text = error.strerror or str(error)
    return _REFUSED if "Connect call failed" in text else " ".join(text.split())[:_LONGEST]
