"""What the server logs of strangers' doings: one line each, of bounded length, and so many a second at the most."""

from __future__ import annotations

import logging
import time

_LENGTH = 300
# So many lines at once, then so many a second.
_BURST, _RATE = 50.0, 5.0


class _OneLine(logging.Filter):
    """Makes one short line of whatever is logged, also of an error with a traceback, and leaves out a flood.

    What a stranger sends must neither fill the log nor forge a line of it.
    """

    def __init__(self) -> None:
        super().__init__()
        self._may, self._since, self._left_out = _BURST, time.monotonic(), 0

    def filter(self, record: logging.LogRecord) -> bool:
        now = time.monotonic()
        self._may, self._since = min(_BURST, self._may + _RATE * (now - self._since)), now
        if self._may < 1:
            self._left_out += 1
            return False
        self._may -= 1
        text = record.getMessage()
        if record.exc_info:
            text = f"{text}: {record.exc_info[1]!r:.{_LENGTH}}"
        text = "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text[:_LENGTH])[:_LENGTH]
        if self._left_out:
            text += f" ({self._left_out} lines before this one are left out)"
            self._left_out = 0
        record.args, record.exc_info, record.exc_text = (), None, None
        record.msg = text
        return True


def inbox_logger(logger: logging.Logger) -> logging.Logger:
    """Return what the inbox logs to: with a database that is down, each message fails, and the same in all."""
    return _one_line(logger.getChild("inbox"))


def transport_logger(logger: logging.Logger) -> logging.Logger:
    """Return what python-socketio, python-engineio and aiohttp log to.

    Given a logger, they add no handler of their own to the process. Below errors they talk about every packet.
    """
    child = logger.getChild("transport")
    if child.level == logging.NOTSET:
        child.setLevel(logging.ERROR)
    return _one_line(child)


def _one_line(logger: logging.Logger) -> logging.Logger:
    for old in [one for one in logger.filters if isinstance(one, _OneLine)]:  # of a server before
        logger.removeFilter(old)
    logger.addFilter(_OneLine())
    return logger
